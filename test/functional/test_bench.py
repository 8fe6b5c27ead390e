# SPDX-License-Identifier: BSD-3-Clause
"""scripts/bench.py: it measures what is there, goes on where it was, and its reports agree."""

import html.parser
import json
import os
import re
import statistics
import subprocess
import sys
import unittest
import xml.etree.ElementTree as ET

import harness
import perftool

SCRIPTS = os.path.join(os.environ.get("POLLUX_SOURCE",
                                      os.path.join(os.path.dirname(__file__), "..", "..")),
                       "scripts")
sys.path.insert(0, SCRIPTS)


class Bench(harness.TargetTest):
    def bench(self, *args, status=0):
        done = subprocess.run(
            [sys.executable, os.path.join(SCRIPTS, "bench.py"), "--pollux", harness.POLLUX,
             "--perf", perftool.PERF, "--out", self.path("out"), "--size", "4M", "--seconds",
             "0.2", "--warmup", "0", "--server-core", str(harness.CPUS[0]), "--client-core",
             str(harness.CPUS[-1]), *args],
            capture_output=True, text=True, timeout=200, check=False, env=harness.environment())
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr

    def results(self):
        with open(self.path("out/results.json"), encoding="utf-8") as file:
            return json.load(file)

    def test_rounds_and_restart(self):
        args = ["--servers", "pollux", "--backings", "null,memory,tmpfs", "--tmpfs",
                harness.tmpfs_directory(), "--cases", "2:8:4k:randread,2:8:4k:randread:rate=half"]
        self.bench(*args, "--rounds", "1")
        first = self.results()["runs"]
        self.assertEqual(len(first), 6)
        # the second round only; a line that was cut off counts as not measured
        with open(self.path("out/runs.jsonl"), "a", encoding="utf-8") as file:
            file.write('{"group": "nu')
        self.assertIn("round 2", self.bench(*args, "--rounds", "2"))
        told = self.results()
        self.assertEqual(told["runs"][:6], first)
        self.assertEqual(len(told["runs"]), 12)
        for case in told["cases"]:
            values = case["servers"]["pollux"]
            runs = [run["iops"] for run in told["runs"]
                    if (run["group"], run["case"]) == (case["group"], case["case"])]
            self.assertEqual(len(runs), 2)
            self.assertEqual(values["iops"], statistics.median(runs))
            self.assertGreater(values["iops"], 0)
        self.assertNotIn("round", self.bench(*args, "--rounds", "2"))
        self.assertEqual([name for name in os.listdir(harness.tmpfs_directory())
                          if name.startswith("pollux-bench-")], [])
        self.check_reports(told)

    def check_reports(self, told):
        with open(self.path("out/results.md"), encoding="utf-8") as file:
            text = file.read()
        rows = re.findall(r"^\| (\S+) \| pollux \| ([\d.]+) ", text, re.M)
        self.assertEqual(len(rows), len(told["cases"]))
        with open(self.path("out/results.html"), encoding="utf-8") as file:
            page = file.read()
        html.parser.HTMLParser().feed(page)
        charts = re.findall(r"<svg.*?</svg>", page, re.S)
        self.assertEqual(len(charts), len(told["cases"]))
        for chart in charts:
            self.assertEqual(len(list(ET.fromstring(chart).iter("rect"))), 1)
        self.assertNotIn("http", page)

    def test_beside_a_peer(self):
        """Ratios to the ceiling and to the best of the others; here nbdkit is that."""
        harness.need_program("nbdkit")
        self.bench("--servers", "pollux,nbdkit", "--backings", "null", "--rounds", "1", "--tls",
                   "--cases", "1:4:4k:randread")
        told = self.results()
        self.assertEqual([case["group"] for case in told["cases"]], ["null", "null+tls"])
        for case in told["cases"]:
            servers = case["servers"]
            self.assertEqual(case["best_peer"], "nbdkit")
            self.assertAlmostEqual(case["to_best_peer"],
                                   servers["pollux"]["iops"] / servers["nbdkit"]["iops"])

    def test_wrong_options(self):
        for args in (["--servers", "apache"], ["--backings", "tape"], ["--cases", "1:2:3"],
                     ["--size", "1k"], ["--perf", "/nowhere"]):
            self.assertIn("error:", self.bench(*args, status=2))


class Summary(unittest.TestCase):
    def test_ratios(self):
        import bench_report
        base = {"group": "g", "case": "c", "p50_ns": 1, "p99_ns": 1, "p999_ns": 1, "max_ns": 1,
                "server_us": 1, "client_cores": 1, "unsent": 0}
        runs = [{**base, "server": server, "round": number, "iops": iops}
                for server, values in (("ceiling", (100, 400, 200)), ("pollux", (150, 160, 500)),
                                       ("a", (10, 20, 30)), ("b", (80, 2, 40)))
                for number, iops in enumerate(values)]
        case, = bench_report.summarize(runs)
        self.assertEqual(case["servers"]["pollux"]["to_ceiling"], 160 / 200)
        self.assertEqual((case["best_peer"], case["to_best_peer"]), ("b", 160 / 40))
        self.assertEqual((case["servers"]["b"]["iops_min"], case["servers"]["b"]["iops_max"]),
                         (2, 80))
