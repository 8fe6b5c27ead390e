# SPDX-License-Identifier: BSD-3-Clause
"""
Mutated sessions: valid ones in all three modes, in the clear and in TLS, with bytes changed, put in,
taken out, repeated, cut off, and lengths that lie. By default 3,000, with POLLUX_TEST_FULL=1
100,000 in all. The target neither dies nor leaks, and a neighbour notices nothing but the load.
"""

from harness import FULL
from matrix import EVERYTHING, PAIRWISE, cross
from siege import SiegeTest

SESSIONS = 102000 if FULL else 3000


class Mutation(SiegeTest):
    def test_mutated_sessions(self):
        rows = EVERYTHING if FULL else PAIRWISE
        self.besiege("sessions", SESSIONS // len(rows))


cross(globals(), Mutation)
globals().pop("SiegeTest", None)
