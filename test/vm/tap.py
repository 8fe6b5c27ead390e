#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Runs a script in the virtual machine and prints its checks as TAP, for meson.

usage: tap.py [options of run] SCRIPT
The guest prints "ok NAME" and "not ok NAME"; all else becomes comments. The last case is the run itself:
that the guest came to the end of the script and has told so.
"""

import os
import re
import subprocess
import sys
import tempfile

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run")
SKIPPED = 77


def main():
    number = 0
    # a file for the errors: a pipe that nobody reads meanwhile could fill
    with tempfile.TemporaryFile("w+", errors="replace") as log, \
            subprocess.Popen([RUN, *sys.argv[1:]], stdout=subprocess.PIPE, stderr=log,
                             text=True, errors="replace") as process:
        for line in process.stdout:
            match = re.match(r"(not )?ok (.*)", line)
            if match:
                number += 1
                print(f"{match[1] or ''}ok {number} - {match[2].replace('#', '')}", flush=True)
            else:
                print("# " + line.rstrip(), flush=True)
        process.wait()
        log.seek(0)
        errors = log.read()
    if process.returncode == SKIPPED and not number:
        reason = errors.strip().splitlines()[-1].partition("skipped: ")[2]
        print(f"1..0 # SKIP {reason}")
        return 0
    for line in errors.splitlines():
        print("# " + line)
    print(f"{'not ' if process.returncode else ''}ok {number + 1} - "
          f"the run ends with status {process.returncode}")
    print(f"1..{number + 1}")
    return 1 if process.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
