#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Runs one file of functional tests and prints TAP, a line a case, so that meson counts the cases.

usage: run.py MODULE [PATTERN]     PATTERN (or POLLUX_TEST_CASES): only cases whose name contains it
A failed case's traceback and its targets' logs follow as comments.

POLLUX_TEST_RETRIES=N: a case that fails is run again up to N times, unless a target crashed, hung or
was reported by a sanitizer. One that passes then has passed, with a comment "unsteady: CASE: error".
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
    """Prints each case as it ends; while `held` is a list, keeps what would be printed there."""

    def __init__(self):
        super().__init__()
        self.number = 0
        self.bad = False
        self.began = 0.0
        self.reported = None
        self.held = None
        self.why = None     # the last error of the case that runs
        self.final = False  # ... is one that no second try may hide

    def startTest(self, test):
        super().startTest(test)
        self.reported = self.why = None
        self.final = False
        self.began = time.monotonic()

    def print(self, text):
        """A line; "{number}" in it becomes the case's."""
        if self.held is not None:
            self.held.append(text)
            return
        if "{number}" in text:
            self.number += 1
            self.bad = self.bad or text.startswith("not ok")
            text = text.replace("{number}", str(self.number), 1)
        print(text, flush=True)

    def release(self):
        """Prints what was held."""
        held, self.held = self.held, None
        for text in held:
            self.print(text)

    @staticmethod
    def name(test):
        return ".".join(test.id().split(".")[1:])

    def line(self, ok, test, suffix=""):
        seconds = time.monotonic() - self.began
        self.print(("ok" if ok else "not ok") + " {number}"
                   + f" - {self.name(test)} ({seconds:.1f} s){suffix}")

    def comment(self, test, error):
        text = "".join(traceback.format_exception(*error))
        self.why = f"{error[0].__name__}: " + (str(error[1]).splitlines() or [""])[0]
        self.final = self.final or (hasattr(test, "is_final") and test.is_final(error[1]))
        if hasattr(test, "show_logs"):
            text += test.show_logs()
        for line in text.splitlines():
            self.print("# " + line.replace("{number}", "{ number }"))

    def addSuccess(self, test):
        super().addSuccess(test)
        self.line(True, test)

    def addFailure(self, test, err):
        self.addError(test, err)

    def addError(self, test, err):
        if not isinstance(test, unittest.TestCase):  # a class or module could not be set up
            self.began = self.began or time.monotonic()
        if self.reported is not test:
            self.reported = test
            self.line(False, test)
        self.comment(test, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line(True, test, " # SKIP " + reason.replace("\n", " "))

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.print(f"# {subtest.id().split('.', 1)[-1]}")
            self.addError(test, err)


def cases(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from cases(item)
        else:
            yield item


def patient(case, retries):
    """The case, but run again where it fails."""
    first_run = case.run

    def run(result):
        attempt = first_run
        for left in range(retries, -1, -1):
            result.held = []
            attempt(result)
            if not result.why or result.final or not left:
                break
            print(f"# unsteady: {result.name(case)}: {result.why}")
            print("\n".join("# it failed: " + text for text in result.held), flush=True)
            attempt = type(case)(case._testMethodName).run  # pylint: disable=protected-access
        result.release()
        return result

    case.run = run
    return case


def main():
    module = importlib.import_module(sys.argv[1])
    pattern = sys.argv[2] if len(sys.argv) > 2 else os.environ.get("POLLUX_TEST_CASES", "")
    retries = int(os.environ.get("POLLUX_TEST_RETRIES", "0"))
    suite = unittest.TestSuite(
        patient(case, retries) for case in cases(unittest.defaultTestLoader.loadTestsFromModule(module))
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
