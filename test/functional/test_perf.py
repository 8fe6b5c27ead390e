# SPDX-License-Identifier: BSD-3-Clause
"""pollux-perf against real targets: what it measures and tells, in the clear and by TLS."""

import html.parser
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET

import harness
import perftool
from harness import KIB, MIB, wait_for
from perftool import Perf, PerfTest, good_reply, perf
from pki import Pki, psk_file

BLOCK = 4 * KIB


# ---- What it measures ----

class Load(PerfTest):
    def setUp(self):
        super().setUp()
        self.target = self.start("m=malloc:16M", "n=null:1G", tcp=True)

    def counts(self, name="m"):
        stat, = self.target.rpc("export_get_iostat", name=name)["exports"]
        return {kind: stat[kind]["ops"] for kind in ("read", "write", "flush")}

    def test_each_kind(self):
        """Requests are counted as the target counts them, for every --rw and reply mode."""
        for kind, reads, writes in (("read", 3000, 0), ("write", 0, 3000), ("randread", 3000, 0),
                                    ("randwrite", 0, 3000), ("rw", None, None),
                                    ("randrw", None, None)):
            for mode in ([], ["--structured"], ["--extended"]):
                with self.subTest(kind=kind, mode=mode):
                    before = self.counts()
                    told = perf(self.target.uri("m"), "--rw", kind, "--requests", 3000,
                                "--connections", 3, "--json", *mode).json
                    after = self.counts()
                    done = {what: after[what] - before[what] for what in after}
                    self.assertEqual(told["reads"]["requests"], done["read"])
                    self.assertEqual(told["writes"]["requests"], done["write"])
                    self.assertEqual(done["read"] + done["write"], 3000)
                    self.assertEqual(told["errors"], 0)
                    if reads is not None:
                        self.assertEqual((done["read"], done["write"]), (reads, writes))
                    else:
                        self.assertGreater(min(done["read"], done["write"]), 1000)

    def test_mix(self):
        told = perf(self.target.uri("m"), "--rw", "randrw", "--mix", 90, "--requests", 10000,
                    "--json").json
        self.assertEqual(told["reads"]["requests"] + told["writes"]["requests"], 10000)
        self.assertLess(abs(told["reads"]["requests"] - 9000), 300)

    def test_fewer_requests_than_connections(self):
        """Some connections, and a whole core, have nothing to do."""
        cores = ",".join(str(cpu) for cpu in harness.CPUS[:2])
        told = perf(self.target.uri("m"), "--requests", 1, "--connections", 2, "--cores", cores,
                    "--json").json
        self.assertEqual((told["reads"]["requests"], told["errors"]), (1, 0))

    def test_seed(self):
        """The same blocks again with one seed, others with another."""
        written = []
        for seed in (5, 5, 6):
            with self.target.connect("m") as client:
                client.write_zeroes(0, 16 * MIB)
            perf(self.target.uri("m"), "--rw", "randwrite", "--requests", 200, "--connections", 2,
                 "--seed", seed)
            with self.target.connect("m") as client:
                data = client.read(0, 16 * MIB)
            written.append([at for at in range(0, 16 * MIB, BLOCK)
                            if any(data[at:at + BLOCK])])
        self.assertGreater(len(written[0]), 100)
        self.assertEqual(written[0], written[1])
        self.assertNotEqual(written[0], written[2])

    def test_sequence_covers_all(self):
        """A sequential pass of several connections writes each block exactly once."""
        perf(self.target.uri("m"), "--rw", "write", "--bs", "64k", "--requests", 256,
             "--connections", 4)
        with self.target.connect("m") as client:
            for offset in range(0, 16 * MIB, MIB):
                data = client.read(offset, MIB)
                self.assertNotIn(bytes(64 * KIB), [data[at:at + 64 * KIB]
                                                   for at in range(0, MIB, 64 * KIB)])

    def test_region(self):
        """--offset and --size are kept to, whatever the block size."""
        for size, block in (("64k", "4k"), ("100k", "12k")):
            target = self.start("malloc:1M")
            perf(target.uri(), "--rw", "randwrite", "--bs", block, "--offset", "256k", "--size",
                 size, "--requests", 2000)
            with target.connect() as client:
                data = client.read(0, MIB)
            end = 256 * KIB + (64 if size == "64k" else 96) * KIB
            self.assertEqual(data[:256 * KIB], bytes(256 * KIB))
            self.assertEqual(data[end:], bytes(MIB - end))
            self.assertNotIn(bytes(4 * KIB), [data[at:at + 4 * KIB]
                                              for at in range(256 * KIB, end, 4 * KIB)])

    def test_block_sizes(self):
        for block in ("512", "1", "3000", "1M", "16M"):
            with self.subTest(block=block):
                told = perf(self.target.uri("m"), "--rw", "randrw", "--bs", block, "--requests",
                            40, "--iodepth", 3, "--json").json
                self.assertEqual(told["total"]["requests"], 40)

    def test_deep_writes(self):
        """More pieces in a batch than one sendmsg takes."""
        told = perf(self.target.uri("m"), "--rw", "randwrite", "--bs", "512", "--iodepth", 3000,
                    "--requests", 20000, "--json").json
        self.assertEqual(told["writes"]["requests"], 20000)

    def test_flush_and_fua(self):
        told = perf(self.target.uri("m"), "--rw", "write", "--flush-every", 10, "--fua",
                    "--requests", 1100, "--json").json
        self.assertEqual(told["flushes"]["requests"], 100)
        self.assertEqual(told["writes"]["requests"], 1000)
        self.assertEqual(self.counts()["flush"], 100)

    def test_discard(self):
        before = self.counts("n")["read"]
        told = perf(self.target.uri("n"), "--discard", "--connections", 2, "--requests", 20000,
                    "--json").json
        self.assertEqual(told["reads"]["requests"], 20000)
        # and one on each connection to see that the stream is where it should be
        self.assertEqual(self.counts("n")["read"] - before, 20002)

    def test_two_targets(self):
        told = perf(self.target.uri("m"), self.target.uri("n"), "--requests", 2000, "--json").json
        self.assertEqual([target["size_bytes"] for target in told["targets"]],
                         [16 * MIB, 1 << 30])
        self.assertEqual((self.counts("m")["read"], self.counts("n")["read"]), (1000, 1000))

    def test_cores(self):
        """A thread on each core; connections and requests are shared out."""
        cores = ",".join(str(cpu) for cpu in harness.CPUS[:2])
        told = perf(self.target.uri("m"), "--cores", cores, "--connections", 5, "--requests", 1001,
                    "--rw", "randrw", "--verify", "--json").json
        self.assertEqual(told["client"]["threads"], min(2, len(harness.CPUS)))
        self.assertEqual(told["total"]["requests"], 1001)
        self.assertEqual(told["verify"]["wrong"], 0)

    def test_time_and_warmup(self):
        told = perf(self.target.uri("n"), "--time", "0.6", "--warmup", "0.3", "--json").json
        self.assertGreater(told["seconds"], 0.55)
        self.assertGreater(told["reads"]["requests"], 100)
        # what came in the warm-up is in no sum
        self.assertLess(told["reads"]["requests"], self.counts("n")["read"])
        self.assertEqual(sum(bucket[2] for bucket in told["latency_buckets_ns"]),
                         told["reads"]["requests"])

    def test_requests_after_warmup(self):
        """--requests are those that are measured, however many the warm-up takes."""
        for args in ([], ["--rate", 2000], ["--discard"],
                     ["--connections", 3, "--rw", "randrw", "--verify"]):
            with self.subTest(args=args):
                name = "m" if "--verify" in args else "n"
                before = sum(self.counts(name).values())
                told = perf(self.target.uri(name), "--requests", 500, "--warmup", "0.4", "--json",
                            *args).json
                self.assertEqual(told["total"]["requests"], 500)
                # the warm-up comes on top
                self.assertGreater(sum(self.counts(name).values()) - before, 700)
                self.assertEqual(told["unsent"], 0)

    def test_quantiles_fit_the_buckets(self):
        told = perf(self.target.uri("n"), "--requests", 5000, "--json").json
        latency, seen = told["reads"]["latency_ns"], 0
        names = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99")]
        for low, high, count in told["latency_buckets_ns"]:
            seen += count
            while names and seen >= names[0][0] * 5000:
                value = latency[names[0][1]]
                self.assertTrue(low <= value <= high, names[0])
                names.pop(0)
        self.assertEqual(names, [])
        self.assertLessEqual(latency["p99.99"], latency["max"])

    def test_unix_socket(self):
        target = self.start("malloc:1M")
        self.assertEqual(perf(target.uri(), "--requests", 1000, "--json").json["errors"], 0)

    def test_poll(self):
        told = perf(self.target.uri("n"), "--poll", "--requests", 1000, "--json").json
        self.assertEqual(told["reads"]["requests"], 1000)
        perf(self.target.uri("n"), "--idle-poll", 100, "--requests", 1000)

    def test_vsock(self):
        port = harness.free_port()
        try:
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
                probe.bind((1, port))  # VMADDR_CID_LOCAL
        except OSError as error:
            self.skipTest(f"no vsock here: {error}")
        self.start("malloc:1M", args=["-l", f"vsock://1:{port}"])
        perf(f"nbd+vsock://1:{port}/", "--rw", "randrw", "--verify", "--size", "1M", "--requests",
             1000)


class OpenLoop(PerfTest):
    def test_keeps_to_the_rate(self):
        target = self.start("null:1G", tcp=True)
        told = perf(target.uri(), "--rate", 2000, "--time", 1, "--connections", 3, "--json").json
        self.assertEqual(told["reads"]["requests"] + told["unsent"], 2000)

    def test_no_coordinated_omission(self):
        """While a server stands still requests become due: each of them is late, not four."""
        target = self.start("null:1G", tcp=True)
        run = Perf(target.uri(), "--rate", 1000, "--iodepth", 4, "--time", 3, "--json")
        wait_for(lambda: target.rpc("export_get_iostat")["exports"][0]["read"]["ops"] > 100, 20,
                 "requests")
        target.signal(signal.SIGSTOP)
        time.sleep(1)
        target.signal(signal.SIGCONT)
        told = run.wait().json
        late = sum(count for low, _, count in told["latency_buckets_ns"] if low > 200e6)
        self.assertGreater(late, 400)
        self.assertGreater(told["reads"]["latency_ns"]["max"], 800e6)
        self.assertEqual(told["reads"]["requests"] + told["unsent"], 3000)

    def test_too_fast(self):
        """A server that can not keep up: it is said, and how many were never sent."""
        def slowly(sock, _command, cookie, _offset, length, _payload):
            time.sleep(0.01)
            sock.sendall(good_reply(cookie, bytes(length)))

        server = self.fake(slowly)
        told = perf(server.uri(), "--rate", 5000, "--time", 1, "--iodepth", 2, "--json").json
        self.assertEqual(told["reads"]["requests"] + told["unsent"], 5000)
        self.assertGreater(told["unsent"], 4000)
        # no more than were asked for, and none that the warm-up owes
        for args, due in ((["--requests", 300], 300), (["--warmup", "0.2"], 2500)):
            told = perf(server.uri(), "--rate", 5000, "--time", "0.5", "--iodepth", 2, "--json",
                        *args).json
            self.assertEqual(told["reads"]["requests"] + told["unsent"], due)
        text = perf(server.uri(), "--rate", 5000, "--time", "0.3", "--iodepth", 2).out
        self.assertIn("can not keep up", text)


# ---- What it tells ----

class PageParser(html.parser.HTMLParser):
    """Tags must nest; what would be fetched from elsewhere is noted."""

    VOID = {"meta", "br", "link", "img"}

    def __init__(self):
        super().__init__()
        self.stack, self.seen, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()


class Reports(PerfTest):
    def setUp(self):
        super().setUp()
        self.target = self.start("a<b&c=malloc:16M", tcp=True)
        self.uri = self.target.uri("a%3Cb&c")

    def test_text(self):
        out = perf(self.uri, "--rw", "randrw", "--requests", 1000).out
        for word in ("randrw (50 % reads), 4K blocks, 1 connection x 32 in flight", "IOPS", "MB/s",
                     "p99.99", "errors: 0"):
            self.assertIn(word, out)
        self.assertRegex(out, r"reads +\d+ +\d+\.\d +\d+\n")

    def test_json_file(self):
        path = self.path("out.json")
        out = perf(self.uri, "--requests", 100, f"--json={path}").out
        self.assertIn("errors: 0", out)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(json.load(file)["reads"]["requests"], 100)

    def test_series(self):
        told = perf(self.uri, "--time", "1.2", "--json").json
        self.assertGreaterEqual(len(told["series"]), 3)
        self.assertEqual(sum(sample["reads"] for sample in told["series"]),
                         told["reads"]["requests"])

    def test_html(self):
        path = self.path("out.html")
        perf(self.uri, "--rw", "randrw", "--time", "0.7", "--html", path, "--json")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        parser = PageParser()
        parser.feed(text)
        parser.close()
        self.assertEqual(parser.stack, [])
        self.assertEqual(parser.links, [])
        self.assertNotIn("script", parser.seen)
        self.assertIn("a%3Cb&amp;c", text)
        charts = re.findall(r"<svg.*?</svg>", text, re.S)
        self.assertEqual(len(charts), 3)
        for chart in charts:
            root = ET.fromstring(chart)
            for line in root.iter("polyline"):
                points = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
                self.assertGreater(len(points), 1)
                for x, y in points:
                    self.assertTrue(0 <= x <= 900 and 0 <= y <= 280, (x, y))
        self.assertIn("<rect", charts[2])
        self.assertNotIn(">-0", text)

    def test_progress_line(self):
        """On a terminal there is a line, renewed; elsewhere nothing."""
        self.assertEqual(perf(self.uri, "--time", "0.6").err, "")
        master, slave = pty.openpty()
        try:
            process = subprocess.Popen(
                [perftool.PERF, self.uri, "--time", "0.8"], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=slave, env=harness.environment())
            self.assertEqual(process.wait(60), 0)
            shown = os.read(master, 1 << 16).decode()
        finally:
            os.close(master)
            os.close(slave)
        self.assertRegex(shown, r"\r +\d+\.\d s +\d+ IOPS +\d+\.\d MB/s +p99 +\d+\.\d us +errors 0")

    def test_unwritable_files(self):
        for option in ("--html", "--json"):
            # before the load, not after it
            done = perf(self.uri, "--time", 0, f"{option}=/nowhere/x", status=1)
            self.assertIn("/nowhere/x", done.err)
            self.assertEqual(done.out, "")


# ---- TLS ----

class Tls(PerfTest):
    @classmethod
    def setUpClass(cls):
        cls.base = tempfile.mkdtemp(prefix="pollux-")
        cls.pki = Pki(os.path.join(cls.base, "pki"))
        cls.other = Pki(os.path.join(cls.base, "other"), "somebody else")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.base, ignore_errors=True)

    def load(self, uri, *args, status=0):
        return perf(uri, "--rw", "randrw", "--verify", "--size", "4M", "--connections", 2,
                    "--requests", 3000, "--json", *args, status=status)

    def test_certificates(self):
        target = self.start("malloc:8M", args=["--tls-certificates", self.pki.dir,
                                               "--tls-verify-peer"], tcp=True)
        tls_uri = target.uri().replace("nbd:", "nbds:")
        for args in ([], ["--bs", "64k"], ["--structured"], ["--extended"]):
            self.assertEqual(self.load(tls_uri, "--tls-certificates", self.pki.dir,
                                       "--tls-hostname", "localhost", *args).json["errors"], 0)
        self.load(f"{tls_uri}?tls-certificates={self.pki.dir}")
        self.load(target.uri(), "--tls-certificates", self.pki.dir)

    def test_refused(self):
        target = self.start("malloc:8M", args=["--tls-certificates", self.pki.dir], tcp=True)
        tls_uri = target.uri().replace("nbd:", "nbds:")
        self.assertIn("requires TLS", self.load(target.uri(), status=1).err)
        self.assertIn("--tls-certificates", self.load(tls_uri, status=1).err)
        self.assertIn("TLS: ", self.load(tls_uri, "--tls-certificates", self.other.dir,
                                         status=1).err)
        done = self.load(tls_uri, "--tls-certificates", self.pki.dir, "--tls-hostname", "else",
                         status=1)
        self.assertIn("TLS: ", done.err)
        self.load(tls_uri, "--tls-certificates", self.pki.dir, "--tls-hostname", "else",
                  "--tls-no-verify")
        for uri, args in ((tls_uri, ["--tls-no-verify"]), (target.uri(), ["--tls-no-verify"]),
                          (f"{target.uri()}?tls-verify-peer=0", [])):
            self.assertTrue(self.load(uri, *args).json["targets"][0]["tls"])
        done = self.load(tls_uri, "--tls-certificates", "/nowhere", status=1)
        self.assertIn("/nowhere", done.err)
        plain = self.start("malloc:8M", tcp=True)
        done = self.load(plain.uri(), "--tls-certificates", self.pki.dir, status=1)
        self.assertIn("the server", done.err)
        # whatever speaks of TLS means it
        self.assertIn("the server", self.load(plain.uri(), "--tls-no-verify", status=1).err)
        self.assertIn("the server", self.load(f"{plain.uri()}?tls-certificates={self.pki.dir}",
                                              status=1).err)
        for args in (["--tls-hostname", "x"], ["--tls-username", "x"]):
            self.assertIn("TLS needs", self.load(plain.uri(), *args, status=1).err)

    def test_psk(self):
        path = psk_file(self.path("keys.psk"), alice="0123456789abcdef" * 4, bob="ab" * 32)
        target = self.start("malloc:8M", args=["--tls-psk", path], tcp=True)
        uri = target.uri().replace("nbd://", "nbds://alice@")
        self.load(uri, "--tls-psk", path)
        self.load(f"{uri}?tls-psk-file={path}")
        self.load(target.uri(), "--tls-psk", path, "--tls-username", "bob")
        wrong = psk_file(self.path("wrong.psk"), alice="ff" * 32)
        self.assertIn("TLS: ", self.load(uri, "--tls-psk", wrong, status=1).err)

    def test_killed(self):
        target = self.start("malloc:8M", args=["--tls-certificates", self.pki.dir], tcp=True)
        run = Perf(target.uri(), "--tls-certificates", self.pki.dir, "--time", 30)
        wait_for(lambda: target.rpc("connection_get_connections"), 20, "the connection")
        time.sleep(0.3)
        target.checked = True
        target.kill()
        done = run.wait()
        self.assertEqual(done.status, 2, done)


class Start(PerfTest):
    def test_as_nobody(self):
        """An ordinary user needs nothing special."""
        if os.geteuid():
            self.skipTest("needs root to become somebody else")
        target = self.start("malloc:1M", tcp=True)
        copy = self.path("pollux-perf")
        shutil.copy(perftool.PERF, copy)
        done = subprocess.run([copy, target.uri(), "--requests", "1000"], user=65534, group=65534,
                              extra_groups=[], cwd="/", capture_output=True, text=True, timeout=60,
                              env=harness.environment(), check=False)
        self.assertEqual(done.returncode, 0, done.stderr)


del PerfTest
