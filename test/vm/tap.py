#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Runs a script in the virtual machine and prints its checks as TAP, for meson.

usage: tap.py [options of run] SCRIPT
The guest prints "ok NAME" and "not ok NAME"; all else becomes comments. The last case is the run itself:
that the guest came to the end of the script and has told so.

POLLUX_TEST_RETRIES=N: as for functional tests, a run with a failed check is repeated up to N times, and
one that passes then is named by a comment "unsteady: …".
"""

import os
import re
import subprocess
import sys
import tempfile

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run")
SKIPPED = 77
FAILED_CHECKS = 1  # of the scripts: the guest has told so itself


def run_once():
    """(lines of TAP without their numbers, names of failed checks, exit status, the run's own words)"""
    lines, failed = [], []
    # a file for the errors: a pipe that nobody reads meanwhile could fill
    with tempfile.TemporaryFile("w+", errors="replace") as log, \
            subprocess.Popen([RUN, *sys.argv[1:]], stdout=subprocess.PIPE, stderr=log,
                             text=True, errors="replace") as process:
        for line in process.stdout:
            match = re.match(r"(not )?ok (.*)", line)
            if match:
                name = match[2].replace("#", "")
                lines.append((match[1] or "", name))
                if match[1]:
                    failed.append(name)
            else:
                lines.append("# " + line.rstrip())
        process.wait()
        log.seek(0)
        return lines, failed, process.returncode, log.read()


def report(lines, status, errors):
    number = 0
    for line in lines:
        if isinstance(line, tuple):
            number += 1
            line = f"{line[0]}ok {number} - {line[1]}"
        print(line)
    for line in errors.splitlines():
        print("# " + line)
    print(f"{'not ' if status else ''}ok {number + 1} - the run ends with status {status}")
    print(f"1..{number + 1}")


def main():
    retries = int(os.environ.get("POLLUX_TEST_RETRIES", "0"))
    for left in range(retries, -1, -1):
        lines, failed, status, errors = run_once()
        if status == SKIPPED and not lines:
            reason = errors.strip().splitlines()[-1].partition("skipped: ")[2]
            print(f"1..0 # SKIP {reason}")
            return 0
        # a guest that was lost, or a sanitizer's report, is final
        if status != FAILED_CHECKS or not failed or "sanitizer" in " ".join(failed) or not left:
            break
        print(f"# unsteady: {failed[0]}")
        for line in lines:
            print("# before: " + (line if isinstance(line, str) else f"{line[0]}ok {line[1]}"))
    report(lines, status, errors)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
