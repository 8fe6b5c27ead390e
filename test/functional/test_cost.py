# SPDX-License-Identifier: BSD-3-Clause
"""
What a request costs, in figures that do not depend on time: user instructions (callgrind), entries
into the kernel, bytes copied. They must not rise beyond those kept in cost.json. A change that makes
requests cheaper lowers the figures there; one that makes them dearer says why. What is called a limit
there is a promise: of instructions_limit not one more, nor of crossing_limit, by which a request may be
dearer with net and storage cores apart than it is to completion.

Instructions of the whole target are those of all functions but the loop's own, which look for work and run the more
often the less there is to do, and memcpy(), which depends on the processor and whose bytes are counted
instead.
"""

import json
import os
import re
import unittest

import harness
from harness import SANITIZED, KIB
from test_hotpath import HotPath as Counted

LOOP_FUNCTIONS = {"reactor_loop", "hop_drain", "uring_reap", "uring_submit", "timers_run"}
REQUESTS = 20000
NVME_OVER_NULL = 600  # instructions that a READ by NVMe from user space may add to null's
TOLERANCE = 1.05  # how requests fall into batches differs a little from run to run
TRIES = 3  # to stay below a limit, for the same reason: on a busy machine batches are smaller


def skip_unless_release(test):
    if SANITIZED or os.environ.get("POLLUX_BUILDTYPE") != "release":
        test.skipTest("figures are those of the release build")


def figures():
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "cost.json"),
              encoding="ascii") as file:
        return json.load(file)


def over_limit(figures_of, count, together):
    """What is wrong with a case's instructions by its limits; None if nothing."""
    limit, crossing = figures_of.get("instructions_limit"), figures_of.get("crossing_limit")
    if limit is not None and count > limit:
        return f"{count:.1f} instructions, and {limit} are the limit"
    if crossing is not None and count - together > crossing:
        return (f"{count - together:.1f} instructions more than the {together:.1f} to completion, "
                f"and {crossing} are the limit")
    return None


class Cost(harness.TargetTest):
    known = {}  # case: instructions, of those measured

    def setUp(self):
        super().setUp()
        skip_unless_release(self)
        self.figures = figures()

    def load(self, target, mode, requests=REQUESTS, size=4 * KIB):
        harness.run(harness.helper("load"), target.sock_path, "", 1, 32, requests, size, mode,
                    timeout=300)

    def check(self, case, what, value):
        allowed = self.figures[case][what]
        print(f"# {case}: {value:.2f} {what}, allowed {allowed}")
        self.assertLessEqual(value, allowed * TOLERANCE, f"{what} of {case}")

    def instructions(self, spec, cores, mode):
        """(instructions, enters) a request, of a target under callgrind that never sleeps."""
        valgrind = harness.need_program("valgrind")
        control = harness.need_program("callgrind_control")
        out = self.path("callgrind")
        target = self.start(spec, cores=cores, args=["--poll"], wrap=[
            valgrind, "-q", "--tool=callgrind", "--instr-atstart=no", "--fair-sched=yes",
            f"--callgrind-out-file={out}"])
        self.load(target, "w", 2000)
        before = self.enters(target)
        harness.run(control, "-i", "on", target.pid)
        self.load(target, mode)
        harness.run(control, "-i", "off", target.pid)
        enters = self.enters(target) - before
        target.rpc("framework_shutdown")
        harness.wait_exit(target.process, 60)
        return self.counted_in(out) / REQUESTS, enters / REQUESTS

    @staticmethod
    def counted_in(out):
        annotate = harness.need_program("callgrind_annotate")
        text = harness.run(annotate, "--threshold=100", "--auto=no", "--show-percs=no", out).stdout
        total = 0
        for count, function in re.findall(r"^ *([\d,]+)  \S*:([\w.']+)", text, re.MULTILINE):
            name = function.split(".")[0].split("'")[0]
            if name not in LOOP_FUNCTIONS and "mem" not in name[:5]:
                total += int(count.replace(",", ""))
        return total

    @staticmethod
    def enters(target):
        return sum(core["io_uring_enters"]
                   for core in target.rpc("framework_get_reactors")["reactors"])

    def check_case(self, case, spec, mode, arrangement=harness.TOGETHER):
        count, enters = self.measure(case, spec, mode, arrangement)
        self.check(case, "instructions", count)
        self.check(case, "enters", enters)
        for _ in range(TRIES - 1):
            if not self.wrong(case, spec, mode):
                break
            self.measure(case, spec, mode, arrangement)
        wrong = self.wrong(case, spec, mode)
        self.assertIsNone(wrong, f"{case}: {wrong}")

    def measure(self, case, spec, mode, arrangement):
        cores = (harness.cores_of(arrangement) if arrangement == harness.APART
                 else str(harness.CPUS[0]))
        count, enters = self.instructions(spec, cores, mode)
        self.known[case] = min(count, self.known.get(case, count))
        return count, enters

    def wrong(self, case, spec, mode):
        """The limits of a case, by the fewest instructions that were counted."""
        together = None
        if "crossing_limit" in self.figures[case]:
            plain = case.removesuffix(" apart")
            if plain not in self.known:
                self.measure(plain, spec, mode, harness.TOGETHER)
            together = self.known[plain]
            print(f"# {case}: {self.known[case] - together:.1f} more than to completion, "
                  f"allowed {self.figures[case]['crossing_limit']}")
        return over_limit(self.figures[case], self.known[case], together)

    def test_malloc_read(self):
        self.check_case("malloc read", "malloc:64M", "r")

    def test_malloc_write(self):
        self.check_case("malloc write", "malloc:64M", "w")

    def test_null_read(self):
        self.check_case("null read", "null:64M", "r")

    def test_malloc_read_apart(self):
        self.check_case("malloc read apart", "malloc:64M", "r", harness.APART)

    def test_malloc_write_apart(self):
        self.check_case("malloc write apart", "malloc:64M", "w", harness.APART)


class Limits(unittest.TestCase):
    """A limit is one: no tolerance is added."""

    def test_limits(self):
        self.assertIsNone(over_limit({"instructions_limit": 450}, 450.0, None))
        self.assertIn("450 are the limit", over_limit({"instructions_limit": 450}, 450.1, None))
        self.assertIsNone(over_limit({"crossing_limit": 200}, 647.0, 447.0))
        self.assertIn("200.5 instructions more",
                      over_limit({"crossing_limit": 200}, 647.5, 447.0))
        self.assertIsNone(over_limit({"instructions": 1}, 9999, None))

    def test_promised(self):
        """What was promised once stands in cost.json."""
        kept = figures()
        self.assertLessEqual(kept["malloc read"]["instructions_limit"], 450)
        self.assertLessEqual(kept["malloc read apart"]["crossing_limit"], 200)


class Ways(harness.TargetTest):
    """
    A READ of 4 KiB in the bdev alone, by the program read_cost (test/unit/cost), which plays the
    device: the same reactor, the same batches, one kind of bdev after another.
    """

    def instructions(self, way):
        out = self.path("callgrind." + way)
        requests = harness.run(
            harness.need_program("valgrind"), "-q", "--tool=callgrind",
            f"--callgrind-out-file={out}", "--toggle-collect=measured*",
            harness.helper("../unit/cost/read_cost"), way, timeout=120).stdout
        with open(out, encoding="utf-8") as file:
            total = re.search(r"^totals: (\d+)$", file.read(), re.MULTILINE)
        return int(total.group(1)) / int(requests)

    def test_ways(self):
        skip_unless_release(self)
        counts = {way: self.instructions(way) for way in ("null", "pcie", "pass", "file", "polled")}
        for way, count in counts.items():
            allowed = figures()[f"bdev {way} read"]["instructions"]
            print(f"# READ in a bdev, {way}: {count:.1f} instructions, allowed {allowed}, "
                  f"{count - counts['null']:.1f} more than null")
            self.assertLessEqual(count, allowed * TOLERANCE, way)
        self.assertLess(counts["pcie"] - counts["null"], NVME_OVER_NULL)


class Copies(Counted):
    """Bytes that go through memcpy() a request: none for a READ, the payload once for a WRITE."""

    def test_copied(self):
        for spec, case in (("malloc:64M", "malloc"), ("null:64M", "null")):
            target, path = self.counted(spec, cores=str(harness.CPUS[0]))
            for mode, name in (("w", "write"), ("r", "read")):
                self.load(target, 2000, mode)
                before = self.counters(path)["copied"]
                self.load(target, REQUESTS, mode)
                copied = (self.counters(path)["copied"] - before) / REQUESTS
                allowed = figures()[f"{case} {name}"]["copied"]
                print(f"# {case} {name}: {copied:.1f} bytes copied, allowed {allowed}")
                self.assertLessEqual(copied, allowed + 16, f"{case} {name}")


# the inherited cases run in their own module
for inherited in [name for name in dir(Counted) if name.startswith("test_")]:
    setattr(Copies, inherited, None)
del Counted
