# SPDX-License-Identifier: BSD-3-Clause
"""
The request path neither allocates nor locks: a preloaded library counts the calls of the whole
process across a million requests, and strace the futexes across some more.
"""

import os
import re
import signal
import struct
import subprocess
import time

import harness
from harness import FULL, SANITIZED, MIB


class HotPath(harness.TargetTest):
    CONNECTIONS, DEPTH = 4, 32

    def setUp(self):
        super().setUp()
        if SANITIZED:
            self.skipTest("sanitizers allocate and lock on their own")

    def counted(self, *specs, cores=None):
        """A target whose calls are counted; the counters' file."""
        path = self.path("counters")
        with open(path, "wb") as file:
            file.write(bytes(40))
        env = {"LD_PRELOAD": harness.helper("count.so"), "POLLUX_COUNT": path}
        return self.start(*specs, cores=cores, env=env), path

    @staticmethod
    def counters(path):
        with open(path, "rb") as file:
            return dict(zip(("allocations", "frees", "locks", "waits", "copied"),
                            struct.unpack("=5Q", file.read())))

    def load(self, target, requests, mode, size=4096):
        each = requests // self.CONNECTIONS
        harness.run(harness.helper("load"), target.sock_path, "", self.CONNECTIONS, self.DEPTH,
                    each, size, mode, timeout=600)

    def check_counts(self, spec, arrangement, requests, modes="rw", size=4096):
        target, path = self.counted(spec, cores=harness.cores_of(arrangement))
        self.assertGreater(self.counters(path)["allocations"], 10, "the counting does not work")
        for mode in modes:
            self.load(target, 20000, mode, size)  # what is made once has been made
            self.wait_idle(target)
            few, before = self.counters(path), None
            self.load(target, self.CONNECTIONS * 16, mode, size)
            self.wait_idle(target)
            before = self.counters(path)
            self.load(target, requests, mode, size)
            self.wait_idle(target)
            after = self.counters(path)
            for name in ("allocations", "frees", "locks", "waits"):
                count = after[name]
                # opening, closing and looking at connections cost the same with few requests
                fixed = before[name] - few[name]
                more = count - before[name]
                print(f"# {spec} {arrangement} {mode}: {more} {name} in {requests} requests, "
                      f"{fixed} in few")
                # wait_idle() may have to look a few times more: about 80 allocations a look
                self.assertLess(more - fixed, max(requests / 2000, 4 * 80), f"{name}, {mode}")

    def test_malloc_together(self):
        self.check_counts("malloc:64M", harness.TOGETHER, 1000000)

    def test_malloc_apart(self):
        self.check_counts("malloc:64M", harness.APART, 1000000 if FULL else 400000)

    def test_large_requests(self):
        self.check_counts("malloc:64M", harness.TOGETHER, 20000, size=256 * 1024)

    def test_file(self):
        path = self.make_file(16 * MIB, directory=harness.tmpfs_directory())
        self.check_counts(f"file:{path}", harness.TOGETHER, 200000 if FULL else 60000)

    def test_futexes(self):
        """Counted by strace, because a lock may also be taken without the C library."""
        strace = harness.need_program("strace")
        for arrangement in (harness.TOGETHER, harness.APART):
            target = self.start("malloc:64M", cores=harness.cores_of(arrangement))
            self.load(target, 4000, "r")
            log = self.path("strace.log")
            with subprocess.Popen([strace, "-f", "-qq", "-e", "trace=futex", "-o", log,
                                   "-p", str(target.pid)], stderr=subprocess.PIPE) as tracer:
                try:
                    harness.wait_for(lambda: self.traced(target) or tracer.poll() is not None, 10,
                                     "strace to attach")
                    if tracer.poll() is not None:
                        self.skipTest("strace may not attach here: "
                                      + tracer.stderr.read().decode().strip())
                    self.load(target, 200000 if FULL else 40000, "r")
                    time.sleep(0.1)
                finally:
                    if tracer.poll() is None:
                        tracer.send_signal(signal.SIGINT)
            with open(log, encoding="utf-8", errors="replace") as file:
                calls = [line for line in file if re.search(r"\bfutex\(", line)]
            os.unlink(log)
            print(f"# {arrangement}: {len(calls)} futex calls")
            self.assertLess(len(calls), 200, "".join(calls[:20]))

    @staticmethod
    def traced(target):
        """All threads have a tracer."""
        for task in os.listdir(f"/proc/{target.pid}/task"):
            with open(f"/proc/{target.pid}/task/{task}/status", encoding="ascii") as file:
                if "TracerPid:\t0\n" in file.read():
                    return False
        return True
