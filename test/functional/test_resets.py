# SPDX-License-Identifier: BSD-3-Clause
"""
Clients that break off with large READs and WRITEs in flight, by a reset of TCP or by closing. By
default 600, with POLLUX_TEST_FULL=1 20,000 in all.
"""

from harness import APART, FULL, TOGETHER
from matrix import DISK, MALLOC, TCP, TMPFS, UNIX, cross
from siege import SiegeTest

ROWS = [(MALLOC, TCP, TOGETHER), (MALLOC, TCP, APART), (DISK, TCP, TOGETHER), (DISK, TCP, APART),
        (TMPFS, TCP, APART), (DISK, UNIX, TOGETHER)]
RESETS = 20400 if FULL else 600


class Resets(SiegeTest):
    def test_resets_in_flight(self):
        self.besiege("resets", RESETS // len(ROWS))


cross(globals(), Resets, rows=ROWS)
globals().pop("SiegeTest", None)
