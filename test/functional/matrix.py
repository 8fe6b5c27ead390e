# SPDX-License-Identifier: BSD-3-Clause
"""
The matrix of what a test runs on: backend x transport x core arrangement.

By default six combinations cover every pair of choices; POLLUX_TEST_FULL=1 takes all twelve. The
conformance suite has three dimensions more, the replies' mode, TLS, and whether the build has
sanitizers, so that each build runs a part of the cover: DIMENSIONS, BUILDS, cover().
"""

import collections
import itertools
import random

import harness
from harness import APART, FULL, TOGETHER

MALLOC, DISK, TMPFS, NULL = "malloc", "disk", "tmpfs", "null"
UNIX, TCP, STDIO = "unix", "tcp", "stdio"
PLAIN, TLS = "plain", "tls"
MODES = ("simple", "structured", "extended")  # in the order of rawnbd's numbers

Row = collections.namedtuple("Row", "mode security transport backend arrangement")
DIMENSIONS = Row(MODES, (PLAIN, TLS), (UNIX, TCP, STDIO), (MALLOC, DISK, TMPFS, NULL),
                 (TOGETHER, APART))

BUILDS = (False, True)  # sanitized

PAIRWISE = [(MALLOC, UNIX, TOGETHER), (MALLOC, TCP, APART),
            (DISK, TCP, TOGETHER), (DISK, UNIX, APART),
            (TMPFS, UNIX, TOGETHER), (TMPFS, TCP, APART)]
EVERYTHING = [(backend, transport, arrangement) for backend in (MALLOC, DISK, TMPFS)
              for transport in (UNIX, TCP) for arrangement in (TOGETHER, APART)]


def pairs(row):
    """The pairs of choices that a row brings together, each with the places of both."""
    return set(itertools.combinations(enumerate(row), 2))


def greedy(rows):
    """A cover of their pairs: each next row brings the most of what is still missing."""
    missing, chosen = set().union(*map(pairs, rows)), []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        chosen.append(best)
    return chosen


def cover(dimensions):
    """Few rows in which every choice of one dimension meets every choice of every other: the
    shortest of some tries, which are the same every time."""
    rows = list(itertools.product(*dimensions))
    return min((greedy(random.Random(seed).sample(rows, len(rows))) for seed in range(12)), key=len)


def rows_of(**only):
    """The rows to run on in this build, of those dimensions in which something is left out."""
    dimensions = DIMENSIONS._replace(**only)
    if FULL:
        return [Row(*row) for row in itertools.product(*dimensions)]
    return [Row(*row) for *row, sanitized in cover((*dimensions, BUILDS))
            if sanitized == harness.SANITIZED]


class MatrixTest(harness.TargetTest):
    """A test case that a combination has been chosen for."""

    combination = PAIRWISE[0]

    def setUp(self):
        super().setUp()
        self.backend, self.transport, self.arrangement = self.combination
        self.cores = harness.cores_of(self.arrangement)
        self.image = None

    def serve(self, size, content=None, args=(), name="", options="", **kw):
        """A target with one export of that size on this combination."""
        spec = f"{name}=" if name else ""
        if self.backend == MALLOC:
            spec += f"malloc:{size}"
        else:
            directory = (harness.disk_directory() if self.backend == DISK
                         else harness.tmpfs_directory())
            self.image = self.make_file(size, directory=directory, content=content)
            spec += f"file:{self.image}{options}"
        target = self.start(spec, args=list(args), cores=self.cores, tcp=self.transport == TCP,
                            **kw)
        if self.backend == MALLOC and content:
            with target.connect(name) as client:
                client.write(0, content)
                client.disconnect()
        return target


def cross(namespace, *bases, rows=None):
    """Puts a class for each combination into a module and takes the bases out."""
    for base in bases:
        for row in rows or (EVERYTHING if FULL else PAIRWISE):
            name = base.__name__ + "_" + "_".join(row)
            namespace[name] = type(name, (base,), {"combination": row,
                                                   "__module__": base.__module__,
                                                   "__qualname__": name})
        namespace.pop(base.__name__, None)
    namespace.pop("MatrixTest", None)
