# SPDX-License-Identifier: BSD-3-Clause
"""scripts/bench.py: it measures what is there, goes on where it was, and its reports agree."""

import fcntl
import html.parser
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import unittest
import unittest.mock
import xml.etree.ElementTree as ET

import harness
import perftool

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get("POLLUX_SOURCE", os.path.join(HERE, "..", ".."))
SCRIPTS = os.path.join(SOURCE, "scripts")
sys.path.insert(0, SCRIPTS)

CASE = "2:8:4k:randread"


class Fixture(harness.TargetTest):
    def command(self, *args, pollux=harness.POLLUX, perf=perftool.PERF):
        return [sys.executable, os.path.join(SCRIPTS, "bench.py"), "--pollux", pollux, "--perf",
                perf, "--out", self.path("out"), "--size", "4M", "--seconds", "0.2", "--warmup",
                "0", "--tmpfs", harness.tmpfs_directory(), "--server-core", str(harness.CPUS[0]),
                "--client-core", str(harness.CPUS[-1]), *args]

    def bench(self, *args, status=0, env=None, **kw):
        done = subprocess.run(self.command(*args, **kw), capture_output=True, text=True,
                              timeout=200, check=False,
                              env={**harness.environment(), **(env or {})})
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr

    def read(self, name):
        with open(self.path("out/" + name), encoding="utf-8") as file:
            return file.read()

    def results(self):
        return json.loads(self.read("results.json"))

    def program(self, name, text):
        """A program of that name in a folder of its own."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)
        return path


class Bench(Fixture):
    def test_rounds_and_restart(self):
        args = ["--servers", "pollux", "--backings", "null,memory,tmpfs", "--cases",
                f"{CASE},{CASE}:rate=half"]
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
        rows = re.findall(r"^\| (\S+) \| pollux \| ([\d.]+)", self.read("results.md"), re.M)
        self.assertEqual(len(rows), len(told["cases"]))
        page = self.read("results.html")
        html.parser.HTMLParser().feed(page)
        charts = re.findall(r"<svg.*?</svg>", page, re.S)
        self.assertEqual(len(charts), 2 * len(told["cases"]))  # what it does, and its CPU
        for chart in charts:
            bars = [bar for bar in ET.fromstring(chart).iter("rect")
                    if bar.get("class") == "pollux"]
            self.assertIn(len(bars), (1, 3))  # of a latency: p50, p99, p99.9
        self.assertNotIn("http", page)

    def test_other_settings(self):
        """Figures of other settings, or of another program, are not mixed with those there are."""
        args = ["--servers", "pollux", "--backings", "null", "--cases", CASE, "--rounds", "1"]
        self.bench(*args)
        before = self.read("runs.jsonl")
        perf = shutil.copy(perftool.PERF, self.path("perf"))
        with open(perf, "ab") as file:
            file.write(b"another")
        for other, kw, words in ((["--seconds", "0.3"], {}, "--seconds: 0.2, now 0.3"),
                                 (["--size", "8M"], {}, "--size: 4194304, now 8388608"),
                                 ([], {"perf": perf}, "pollux-perf: "),
                                 ([], {"pollux": self.program("p", "exec false")},
                                  "server pollux: ")):
            told = self.bench(*args, *other, status=2, **kw)
            self.assertIn(words, told)
            self.assertIn("--anew", told)
            self.assertEqual(self.read("runs.jsonl"), before)
        os.unlink(self.path("out/settings.json"))
        self.assertIn("is not known", self.bench(*args, status=2))
        self.bench(*args, "--anew", "--seconds", "0.3")
        self.assertEqual(len(self.results()["runs"]), 1)
        self.assertNotEqual(self.read("runs.jsonl"), before)

    def test_one_at_a_time(self):
        os.makedirs(self.path("out"))
        with open(self.path("out/lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.assertIn("another bench.py", self.bench("--backings", "null", status=2))

    def test_pollux_fails(self):
        """Exit status 1, and it is said where. The others are measured nevertheless."""
        harness.need_program("nbdkit")
        told = self.bench("--servers", "pollux,nbdkit", "--backings", "null", "--rounds", "1",
                          "--cases", CASE, status=1, pollux=self.program("pollux", "exit 7"))
        self.assertIn(f"error: Pollux could not be measured: null {CASE}", told)
        self.assertEqual([run["server"] for run in self.results()["runs"]], ["nbdkit"])
        self.assertIn(f"| {CASE} | pollux | failed |", self.read("results.md"))

    def test_pollux_fails_midway(self):
        """The load fails in one case only: the second start of pollux-perf."""
        counter = self.path("starts")
        perf = self.program("perf", f'[ "$1" != --version ] && echo x >>{counter}\n'
                            f'[ "$(wc -l <{counter})" = 2 ] && {{ echo lost >&2; exit 2; }}\n'
                            f'exec {perftool.PERF} "$@"')
        open(counter, "w", encoding="ascii").close()
        cases = ["1:4:4k:randread", "1:8:4k:randread", "1:2:4k:randread"]
        args = ["--servers", "pollux", "--backings", "memory", "--rounds", "1", "--cases",
                ",".join(cases)]
        # the first fills the disk, the second fails
        told = self.bench(*args, status=1, perf=perf)
        self.assertIn(f"could not be measured: memory {cases[0]}", told)
        self.assertNotIn(f"could not be measured: memory {cases[1]}", told)
        self.assertEqual(len(self.results()["runs"]), 2)
        self.bench(*args, perf=perf)  # and the next start makes up for it
        self.assertEqual(len(self.results()["runs"]), 3)

    def test_peer_fails(self):
        """It is shown as failed, and stops nothing."""
        self.program("peers/nbdkit", "exit 3")
        told = self.bench("--servers", "pollux,nbdkit", "--backings", "null", "--rounds", "1",
                          "--cases", CASE, env={"PATH": self.path("peers") + ":"
                                                + os.environ["PATH"]})
        self.assertIn("failed: nbdkit ended with 3", told)
        table = self.read("results.md")
        self.assertIn(f"| {CASE} | nbdkit | failed |", table)
        self.assertIn("nbdkit ended with 3", table)
        self.assertIn("nbdkit ended with 3", self.read("results.html"))
        self.assertEqual([run["server"] for run in self.results()["runs"]], ["pollux"])

    def test_beside_a_peer(self):
        """Ratios to the ceiling and to the best of the others; here nbdkit is that."""
        harness.need_program("nbdkit")
        cases = ["1:4:4k:randread", "1:8:4k:randread"]
        self.bench("--servers", "pollux,nbdkit", "--backings", "null", "--rounds", "2", "--tls",
                   "--cases", ",".join(cases), "--svg", self.path("svg"))
        told = self.results()
        self.assertEqual([case["group"] for case in told["cases"]],
                         ["null", "null", "null+tls", "null+tls"])
        for case in told["cases"]:
            servers = case["servers"]
            self.assertEqual(case["best_peer"], "nbdkit")
            self.assertAlmostEqual(case["to_best_peer"],
                                   servers["pollux"]["iops"] / servers["nbdkit"]["iops"])
        # interleaved: every server in every case, and then the next round
        self.assertEqual([(run["group"], run["round"], run["case"], run["server"])
                          for run in told["runs"]],
                         [(group, number, case, server) for group in ("null", "null+tls")
                          for number in (0, 1) for case in cases
                          for server in ("pollux", "nbdkit")])
        charts = os.listdir(self.path("svg"))
        self.assertEqual(len(charts), 8)
        for name in charts:
            ET.parse(self.path("svg/" + name))

    def test_children(self):
        """nbd-server leaves its parent and has a child for each connection: their CPU counts."""
        harness.need_program("nbd-server")
        self.bench("--servers", "pollux,nbd-server", "--backings", "tmpfs", "--rounds", "1",
                   "--cases", "2:16:4k:randread")
        servers = self.results()["cases"][0]["servers"]
        self.assertGreater(servers["nbd-server"]["server_us"], 1)

    def processes_with(self, mark):
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if mark.encode() in file.read().split(b"\0"):
                        found.append(int(entry))
            except OSError:
                continue
        return found

    @staticmethod
    def read_log(path):
        with open(path, encoding="utf-8") as file:
            return file.read()

    def test_killed(self):
        """kill -9 in the middle: no server and no file is left, and the next start goes on."""
        harness.need_program("nbd-server")
        mark = "BENCH_TEST=" + str(os.getpid())
        args = ["--servers", "pollux,nbd-server", "--backings", "tmpfs", "--rounds", "2", "--cases",
                CASE, "--seconds", "0.6"]
        name, value = mark.split("=")
        with open(self.path("told"), "w+", encoding="utf-8") as log:
            process = subprocess.Popen(self.command(*args), stderr=log, stdout=log,
                                       env={**harness.environment(), name: value})
            # beside bench.py and its guard: the server, that has left its parent, and the load
            harness.wait_for(lambda: "round 2: nbd-server" in self.read_log(log.name)
                             and len(self.processes_with(mark)) > 3, 100, "the second round")
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        harness.wait_for(lambda: not self.processes_with(mark), 20, "the end of what it started")
        self.assertFalse(os.path.exists(os.path.join(harness.tmpfs_directory(),
                                                     f"pollux-bench-{process.pid}.img")))
        before = self.read("runs.jsonl").splitlines()
        self.assertEqual(len(before), 3)
        self.bench(*args)
        runs = self.results()["runs"]
        self.assertEqual(len(runs), 4)
        self.assertEqual(runs[:3], [json.loads(line) for line in before])

    def test_interrupted(self):
        """Ctrl-C: what there is is told, and servers that wait for their turn are ended, too."""
        harness.need_program("nbdkit")
        mark = f"BENCH_TEST=int-{os.getpid()}"
        name, value = mark.split("=")
        with open(self.path("told"), "w+", encoding="utf-8") as log:
            process = subprocess.Popen(
                self.command("--servers", "pollux,nbdkit", "--backings", "memory", "--cases", CASE),
                stderr=log, stdout=log, env={**harness.environment(), name: value})
            harness.wait_for(lambda: "round 2: nbdkit" in self.read_log(log.name), 100, "round 2")
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(30), 130)
        self.assertEqual(self.processes_with(mark), [])
        self.assertGreaterEqual(len(self.results()["runs"]), 3)
        self.assertIn("start it again", self.read_log(self.path("told")))

    def test_no_room(self):
        """A backing that can not be had is told as failed, and the others are measured."""
        told = self.bench("--servers", "pollux", "--backings", "tmpfs,null", "--rounds", "1",
                          "--cases", CASE, "--tmpfs", self.path("nowhere"), status=1)
        self.assertIn(f"Pollux could not be measured: tmpfs {CASE}", told)
        self.assertEqual([run["group"] for run in self.results()["runs"]], ["null"])
        self.assertIn("No such file", self.read("results.md"))

    def test_wrong_options(self):
        for args in (["--servers", "apache"], ["--backings", "tape"], ["--cases", "1:2:3"],
                     ["--size", "1k"], ["--size", "-1M"], ["--perf", "/nowhere"],
                     ["--rounds", "0"], ["--seconds", "0"], ["--cases", "1:1:4k:sideways"],
                     ["--cases", "0:1:4k:read"], ["--cases", "1:1:4k:read:rate=fast"],
                     ["--cases", "1:1:4k:read:rate=half"], ["--spdk", "/nowhere"],
                     ["--cases", "1:1:4k:read,1:1:4k:read:rate=half-apache"],
                     ["--servers", "spdk"], ["--cases", ","], ["--server-core", "9999"], ["--ceiling", "/nowhere"]):
            self.assertIn("error:", self.bench(*args, status=2))


class Listener(harness.TargetTest):
    """A port on which somebody else listens is not taken for the server's."""

    def test_foreign(self):
        import bench_process
        import bench_servers
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            plan = bench_servers.Plan("idle", port, ["sleep", "60"])
            with self.assertRaisesRegex(RuntimeError, "somebody else"):
                bench_process.Server(plan, self.path(""), harness.CPUS[0])
        # begun meanwhile
        plan = bench_servers.Plan("idle", bench_process.free_port(), ["sleep", "60"])
        with unittest.mock.patch.object(bench_process, "START_SECONDS", 1), \
                unittest.mock.patch.object(plan, "prepare", create=True) as prepare:
            others = []

            def listen():
                if not others:
                    others.append(socket.create_server(("127.0.0.1", plan.port)))
                return True

            prepare.side_effect = listen
            with self.assertRaisesRegex(RuntimeError, "somebody else"):
                bench_process.Server(plan, self.path(""), harness.CPUS[0])
            others[0].close()


FORKS = """
import os, socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if os.fork():
    time.sleep(0.4)  # it listens before its parent has gone
    os._exit(0)
os.setsid()
while True:
    connection, _ = server.accept()
    child = os.fork()
    if child == 0:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        os._exit(0)
    connection.close()
    os.waitpid(child, 0)
"""


class Forking(harness.TargetTest):
    """A server that leaves its parent: its group is that of the process that stays."""

    def test_cpu(self):
        """The CPU time of a child for a connection counts, when it has gone, too."""
        import bench_process
        import bench_servers
        port = bench_process.free_port()
        plan = bench_servers.Plan("forks", port, [sys.executable, "-c", FORKS, port], daemon=True)
        server = bench_process.Server(plan, self.path(""), harness.CPUS[0])
        try:
            self.assertNotEqual(server.group, server.process.pid)
            processes, before = server.processes(), server.cpu_seconds()
            self.assertEqual(processes, 1)
            with socket.create_connection(("127.0.0.1", port)) as connection:
                self.assertEqual(connection.recv(1), b"")
            server.settle(processes)
            harness.wait_for(lambda: len(list(server.members())) == 1, 20, "the child's end")
            self.assertGreater(server.cpu_seconds() - before, 0.25)
        finally:
            server.end()
        self.assertEqual(server.processes(), 0)


class Spdk(Fixture):
    """SPDK's nvmf_tgt as a server, with stand-ins for its programs; real ones if POLLUX_SPDK is set."""

    def home(self):
        tool = os.path.join(HERE, "spdktool.py")
        for name in ("nvmf_tgt", "spdk_nvme_perf"):
            self.program(f"spdk/build/bin/{name}", f'exec {sys.executable} {tool} {name} "$@"')
        return self.path("spdk")

    def test_beside(self):
        args = ["--spdk", self.home(), "--servers", "pollux,spdk", "--rounds", "1", "--backings",
                "null,memory", "--cases", f"1:4:4k:randread,4:8:4k:randwrite,"
                "4:8:4k:randwrite:rate=100"]
        self.bench(*args)
        cases = self.results()["cases"]
        told = [case["servers"].get("spdk") for case in cases]
        # the stand-in tells 1000 for each request in flight; it has no open loop
        self.assertEqual([values and values["iops"] for values in told],
                         [4000, 32000, None] * 2)
        for values in filter(None, told):
            self.assertEqual([values[key] for key in ("p50_ns", "p99_ns", "p999_ns", "max_ns")],
                             [71500, 123250, 345750, 4321000])
        self.assertEqual(cases[0]["best_peer"], "spdk")
        self.assertIn("SPDK v24.09", self.read("results.md"))

    def test_refused_call(self):
        told = self.bench("--spdk", os.path.join(self.home(), "build/bin/nvmf_tgt"), "--servers",
                          "pollux,spdk", "--rounds", "1", "--backings", "null", "--cases", CASE,
                          env={"SPDK_FAILS": "nvmf_subsystem_add_ns"})
        self.assertIn("nvmf_subsystem_add_ns: Invalid parameters", told)
        self.assertIn(f"| {CASE} | spdk | failed |", self.read("results.md"))

    def test_no_results(self):
        import bench_spdk
        with self.assertRaisesRegex(RuntimeError, "no results"):
            bench_spdk.parse("Initializing NVMe Controllers\n")

    def test_real(self):
        """POLLUX_SPDK: where a build of SPDK is, if there is one."""
        if not os.environ.get("POLLUX_SPDK"):
            self.skipTest("POLLUX_SPDK names no build of SPDK")
        self.bench("--spdk", os.environ["POLLUX_SPDK"], "--servers", "pollux,spdk", "--rounds", "1",
                   "--backings", "null,memory", "--cases", CASE)
        for case in self.results()["cases"]:
            self.assertGreater(case["servers"]["spdk"]["iops"], 100)


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

    def test_rates(self):
        """Where the rate is given, the lowest p99.9 is the best, of those that kept up."""
        import bench_report
        base = {"group": "g", "case": "1:1:4k:read:rate=half-pollux", "round": 0, "p50_ns": 1,
                "p99_ns": 1, "max_ns": 1, "server_us": 1, "client_cores": 1, "unsent": 0,
                "rate": 100}
        runs = [{**base, "server": server, "iops": iops, "p999_ns": late}
                for server, iops, late in (("ceiling", 100, 40), ("pollux", 99, 50),
                                           ("a", 100, 200), ("b", 100, 100), ("c", 50, 5))]
        case, = bench_report.summarize(runs)
        self.assertEqual((case["best_peer"], case["to_best_peer"]), ("b", 0.5))
        self.assertEqual(case["servers"]["pollux"]["to_ceiling"], 50 / 40)
        self.assertFalse(case["servers"]["c"]["kept_up"])


class Charts(unittest.TestCase):
    """doc/performance.md's charts, which scripts/gen_charts.py draws from its tables."""

    def setUp(self):
        import gen_charts
        self.module = gen_charts
        with open(os.path.join(SOURCE, "doc/performance.md"), encoding="utf-8") as file:
            self.text = file.read()
        self.drawn = gen_charts.charts(self.text)

    def test_shown(self):
        """Each is a file, is shown, and has its figures, its axis' unit and both modes' colours."""
        folder = os.path.join(SOURCE, "doc/charts")
        self.assertEqual(sorted(os.listdir(folder)), sorted(f"{name}.svg" for name in self.drawn))
        self.assertEqual(sorted(re.findall(r"\]\(charts/([\w-]+)\.svg\)", self.text)),
                         sorted(self.drawn))
        for name, svg in self.drawn.items():
            words = [element.text for element in ET.fromstring(svg).iter()
                     if element.tag.endswith("}text")]
            self.assertGreater(len(words), 10, name)
            self.assertTrue(any(re.search(r"\bus\b|a second|instructions", word or "")
                                for word in words), name)
            self.assertIn("prefers-color-scheme: dark", svg)
            self.assertNotIn("http", svg.replace('xmlns="http://www.w3.org/2000/svg"', ""))

    def test_as_in_the_tables(self):
        if not harness.FULL:
            self.skipTest("POLLUX_TEST_FULL=1 compares the charts with the tables")
        for name, svg in self.drawn.items():
            with open(os.path.join(SOURCE, f"doc/charts/{name}.svg"), encoding="utf-8") as file:
                self.assertTrue(file.read() == svg, f"{name}: call scripts/gen_charts.py")

    def test_figures(self):
        """A table's figures become bars of that length."""
        text = ("\n| server | thousand IOPS | p50, us | p99, us | p99.9, us |\n|---|---|---|---|---|\n"
                "| pollux | 475 | 10.0 | 100 | 1,000 |\n\n")
        bars = [float(bar.get("width")) for bar in ET.fromstring(self.module.latency(text)).iter()
                if bar.get("class") == "pollux"]
        # logarithmic: each a power of ten longer than the one before
        self.assertAlmostEqual(bars[1] - bars[0], bars[2] - bars[1], delta=0.2)
        with self.assertRaises(self.module.Missing):
            self.module.latency("no table")
