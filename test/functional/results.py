#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Sums up what meson's tests left in build directories; used by scripts/test.sh.

usage: results.py DIRECTORY...           cases passed, failed and skipped; the exit status tells
       results.py --list NAME [SUITE...] names of the tests whose name contains NAME, from
                                         `meson introspect --tests` on standard input
       results.py --programs DIRECTORY NAME [SUITE...] those tests' programs in a build directory
A test that speaks TAP counts by its cases, any other as one. A test that fails without a failed
case (a crash, a time-out, a wrong plan) counts as one failure more. A case that passed at a second
try is named as unsteady.
"""

import json
import os
import re
import sys

CASE = re.compile(r"^(not )?ok\b\s*\d*\s*-?\s*(?P<name>[^#]*?)\s*"
                  r"(?:#\s*(?P<directive>\w+)\s*(?P<why>.*))?$")
ERROR = re.compile(r"^# (?P<error>[\w.]*(?:Error|Exception|Expired|Exit)\b.*)")
PLAN = re.compile(r"^1\.\.(\d+)")


class Counts:
    """The sum, and what is worth a line of its own."""

    def __init__(self):
        self.passed = 0
        self.failures = []
        self.skips = []
        self.unsteady = []

    def add_case(self, test, match):
        name = f"{test}: {match['name']}"
        directive = (match["directive"] or "").upper()
        if match[0].startswith("not "):
            self.failures.append(name)
        elif directive == "SKIP":
            self.skips.append(f"{name}: {match['why']}")
        else:
            self.passed += 1

    def add_test(self, where, entry):
        test = f"{where}: {entry['name'].split(' / ')[-1]}"
        result = entry["result"]
        lines = (entry.get("stdout") or "").splitlines()
        before, told = len(self.failures), 0
        if any(PLAN.match(line) for line in lines):
            cases = 0
            for line in lines:
                match = CASE.match(line)
                if match:
                    self.add_case(test, match)
                    cases += 1
                elif line.startswith("# unsteady: "):
                    self.unsteady.append(f"{test}: {line[12:]}")
                elif ERROR.match(line) and len(self.failures) > before + told:
                    self.failures[-1] += ": " + ERROR.match(line)["error"]
                    told = len(self.failures) - before
                elif not cases and re.match(r"^1\.\.0\b.*#\s*skip", line, re.I):
                    self.skips.append(f"{test}: {line.partition('#')[2].strip()[5:]}")
            if result in ("OK", "SKIP"):
                return
        elif result in ("OK", "EXPECTEDFAIL"):
            self.passed += 1
            return
        elif result == "SKIP":
            why = [line.strip() for line in lines + (entry.get("stderr") or "").splitlines()]
            why = [line for line in why if line] or ["it does not say why"]
            self.skips.append(f"{test}: {why[-1]}")
            return
        if len(self.failures) == before:
            self.failures.append(f"{test}: {result.lower()}, exit status {entry.get('returncode')}")


def summarise(directories):
    counts = Counts()
    for directory in directories:
        where = os.path.basename(directory.rstrip("/"))
        try:
            path = os.path.join(directory, "meson-logs", "testlog.json")
            with open(path, encoding="utf-8") as log:
                for line in log:
                    counts.add_test(where, json.loads(line))
        except FileNotFoundError:
            counts.failures.append(f"{where}: the tests did not run")
    for why in counts.skips:
        print("skipped:", why)
    for why in counts.unsteady:
        print("unsteady:", why)
    for why in counts.failures:
        print("FAILED:", why)
    passed, failed = counts.passed, len(counts.failures)
    skipped = f", {len(counts.skips)} skipped" if counts.skips else ""
    print(f"{passed} passed, {failed} failed{skipped}")
    return 1 if failed or not passed else 0


def chosen_tests(part, suites):
    for test in json.load(sys.stdin):
        labels = {suite.rpartition(":")[2] for suite in test["suite"]}
        if part in test["name"] and (not suites or labels & set(suites)):
            yield test


def main(arguments):
    if not arguments:
        sys.exit(__doc__)
    if arguments[0] == "--list":
        for test in chosen_tests(arguments[1], arguments[2:]):
            print(test["name"])
    elif arguments[0] == "--programs":
        for test in chosen_tests(arguments[2], arguments[3:]):
            print(os.path.relpath(test["cmd"][0], arguments[1]))
    else:
        return summarise(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
