#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Runs one file of functional tests and prints TAP, a line a case, so that meson counts the cases.

usage: run.py MODULE [PATTERN]     PATTERN (or POLLUX_TEST_CASES): only cases whose name contains it
A failed case's traceback and its targets' logs follow as comments.
"""

import importlib
import os
import sys
import time
import traceback
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


class TapResult(unittest.TestResult):
    """Prints each case as it ends."""

    def __init__(self):
        super().__init__()
        self.number = 0
        self.bad = False
        self.subtest_failed = False
        self.began = 0.0

    def startTest(self, test):
        super().startTest(test)
        self.subtest_failed = False
        self.began = time.monotonic()

    @staticmethod
    def name(test):
        return ".".join(test.id().split(".")[1:])

    def line(self, ok, test, suffix=""):
        self.number += 1
        seconds = time.monotonic() - self.began
        print(f"{'ok' if ok else 'not ok'} {self.number} - {self.name(test)} "
              f"({seconds:.1f} s){suffix}", flush=True)
        if not ok:
            self.bad = True

    def comment(self, test, error):
        text = "".join(traceback.format_exception(*error))
        if hasattr(test, "show_logs"):
            text += test.show_logs()
        for line in text.splitlines():
            print("# " + line)
        sys.stdout.flush()

    def addSuccess(self, test):
        super().addSuccess(test)
        self.line(True, test)

    def addFailure(self, test, err):
        self.addError(test, err)

    def addError(self, test, err):
        if not isinstance(test, unittest.TestCase):  # a class or module could not be set up
            self.began = self.began or time.monotonic()
        if getattr(self, "reported", None) is not test:
            self.reported = test
            self.line(False, test)
        self.comment(test, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line(True, test, " # SKIP " + reason.replace("\n", " "))

    def addSubTest(self, test, subtest, err):
        if err is not None:
            print(f"# {subtest.id().split('.', 1)[-1]}")
            self.addError(test, err)


def cases(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from cases(item)
        else:
            yield item


def main():
    module = importlib.import_module(sys.argv[1])
    pattern = sys.argv[2] if len(sys.argv) > 2 else os.environ.get("POLLUX_TEST_CASES", "")
    suite = unittest.TestSuite(
        case for case in cases(unittest.defaultTestLoader.loadTestsFromModule(module))
        if pattern in case.id())
    count = suite.countTestCases()
    if not count:
        print("1..0 # SKIP no case's name contains " + pattern)
        return 0
    print(f"1..{count}", flush=True)
    result = TapResult()
    suite.run(result)
    return 1 if result.bad else 0


if __name__ == "__main__":
    sys.exit(main())
