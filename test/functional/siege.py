# SPDX-License-Identifier: BSD-3-Clause
"""
A target under siege: many hostile clients (hostile/hostile.c) in rounds, and a well-behaved one
(hostile/calm.c) beside them. What the target holds is looked at between the rounds.
"""

import os
import re
import subprocess
import time

import harness
from harness import FULL, MIB, SANITIZED
from matrix import DISK, MALLOC, TCP, MatrixTest
from pki import psk_file

SIZE = 8 * MIB
KEY = "0123456789abcdef" * 4
ROUNDS = 3
ALONE_SECONDS = 3 if FULL else 0.5
# In the round that grows least: a huge page of a buffer or of an allocator's arena may be touched for the
# first time in any of them, but what each session leaks grows all.
GROWTH_BYTES = 4 * MIB
# What is asked for is twice, on a machine of its own; tests share theirs.
LATENCY_TIMES = 4


class SiegeTest(MatrixTest):
    """On each combination: the disk is filled before, so that its own memory does not grow."""

    def setUp(self):
        super().setUp()
        self.hostile, self.calm = harness.helper("hostile"), harness.helper("calm")
        self.keys = psk_file(self.path("keys.psk"), alice=KEY)

    def fortify(self, args=()):
        """The target: its default export is the enemy's, "calm" the neighbour's."""
        args = ["--tls-psk", self.keys, "--tls", "on", "--memory", "32M", *args]
        if self.backend == MALLOC:
            spec = f"malloc:{SIZE}"
        else:
            directory = (harness.disk_directory() if self.backend == DISK
                         else harness.tmpfs_directory())
            spec = f"file:{self.make_file(SIZE, directory=directory)}"
        target = self.start(spec, "calm=malloc:4M", args=args, cores=self.cores,
                            tcp=self.transport == TCP)
        with target.connect() as client:
            for at in range(0, SIZE, MIB):
                client.write(at, b"f" * MIB)
        return target

    def where(self, target):
        return str(target.port) if target.tcp else target.sock_path

    def start_calm(self, target):
        """A neighbour on another CPU than its reactor's, as one on another machine is: on the same
        CPU its time alone would be half of that, by luck."""
        calm = subprocess.Popen([self.calm, self.where(target), "calm"], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        its = harness.wait_for(
            lambda: [connection for connection in target.rpc("connection_get_connections")
                     if connection.get("export") == "calm"], 10, "the neighbour")
        others = os.sched_getaffinity(0) - {its[0]["lcore"]}
        os.sched_setaffinity(calm.pid, others or os.sched_getaffinity(0))
        return calm

    def calm_so_far(self, calm):
        """(requests, median, 99th percentile in µs) of a neighbour since the call before."""
        calm.stdin.write("\n")
        calm.stdin.flush()
        line = calm.stdout.readline()
        self.assertTrue(line, "the neighbour has seen: " + calm.stderr.read() if not line else "")
        count, median, most = line.split()
        return int(count), float(median), float(most)

    def end_calm(self, calm):
        """What calm_so_far tells, of a neighbour who has seen no error to the end."""
        told = self.calm_so_far(calm)
        _, error = calm.communicate("", timeout=60)
        self.assertEqual(calm.returncode, 0, "the neighbour has seen: " + error)
        return told

    def holdings(self, target):
        """What must be the same when the clients have gone: free slots and buffers of each core,
        descriptors."""
        self.wait_idle(target)
        cores = [(core.get("request_slots_free"), core["buffer_bytes_free"])
                 for core in target.rpc("framework_get_reactors")["reactors"]]
        return cores, target.fds()

    def attack(self, target, kind, count, seed):
        done = subprocess.run(
            ["nice", "-n", "5", self.hostile, self.where(target), kind, str(count), str(seed), "",
             str(SIZE), self.keys], capture_output=True, text=True, timeout=3000, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        through = re.search(r"(\d+) of them got through", done.stdout)
        self.assertTrue(count < 100 or int(through[1]), done.stdout)
        print(f"# {done.stdout.strip()}", flush=True)

    def besiege(self, kind, count):
        """`count` hostile clients in rounds; the first is to warm up."""
        target = self.fortify()
        before = self.holdings(target)
        calm = self.start_calm(target)
        time.sleep(ALONE_SECONDS)
        alone = self.calm_so_far(calm)
        resident = []
        for number in range(ROUNDS):
            self.attack(target, kind, count // ROUNDS, number + 1)
            self.assertTrue(target.alive(), "the target has died:\n" + target.log())
            if number < ROUNDS - 1:
                self.wait_idle(target, 1)
                resident.append(target.rss())
        beside = self.end_calm(calm)
        print(f"# {self.id().split('.')[1]}: a neighbour's median {alone[1]:.0f} µs alone, "
              f"{beside[1]:.0f} µs beside them ({beside[1] / alone[1]:.2f} times), 99 % "
              f"{alone[2]:.0f} and {beside[2]:.0f} µs, {beside[0]} requests", flush=True)
        self.assert_serves(target)
        harness.wait_for(lambda: self.holdings(target) == before, 20,
                         f"all to be given back ({before}, now {self.holdings(target)})")
        resident.append(target.rss())
        print("# RSS after each round: " + ", ".join(f"{r / MIB:.1f} MiB" for r in resident))
        if not SANITIZED:
            grown = [after - before for before, after in zip(resident, resident[1:])]
            self.assertLess(min(grown), GROWTH_BYTES)
            self.assertLess(sum(grown), 2 * GROWTH_BYTES * len(grown))
        if FULL and not SANITIZED:
            self.assertLess(beside[1], LATENCY_TIMES * alone[1])
