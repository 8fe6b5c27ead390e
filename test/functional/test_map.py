# SPDX-License-Identifier: BSD-3-Clause
"""
The map of a file as command-line clients see it, what knowing it costs, and what it spares: only the
data of a sparse image moves. POLLUX_TEST_FULL=1 copies 64 GiB with 1 % data, else 1 GiB.
"""

import json
import os
import random
import re
import signal
import subprocess
import time

import harness
from harness import FULL, GIB, KIB, MIB, need_program, run
from matrix import DISK, MALLOC, TMPFS, MatrixTest, PAIRWISE, cross
from rawnbd import CMD_FLAG_DF, CMD_FLAG_NO_HOLE, CMD_READ, EXTENDED, STRUCTURED

# what base:allocation says: (is a hole, reads as zeroes)
DATA, HOLE, UNWRITTEN = (False, False), (True, True), (False, True)
SIZE = 48 * MIB
FILES = [row for row in PAIRWISE if row[0] != MALLOC]


def joined(runs):
    """(begin, end, kind), neighbours of one kind made one."""
    made = []
    for begin, end, kind in runs:
        if made and made[-1][2] == kind and made[-1][1] == begin:
            made[-1] = (made[-1][0], end, kind)
        else:
            made.append((begin, end, kind))
    return made


def qemu_map(uri):
    """What qemu-img map tells, [(begin, end, kind)]."""
    told = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", uri).stdout)
    return joined([(entry["start"], entry["start"] + entry["length"],
                    (not entry["data"], entry["zero"])) for entry in told])


def nbdinfo_map(uri):
    """What nbdinfo --map tells."""
    told = json.loads(run("nbdinfo", "--map", "--json", uri).stdout)
    return joined([(entry["offset"], entry["offset"] + entry["length"],
                    (bool(entry["type"] & 1), bool(entry["type"] & 2))) for entry in told])


class Known(MatrixTest):
    """Files of which every byte's state is known."""

    def setUp(self):
        super().setUp()
        for name in ("qemu-img", "nbdinfo"):
            need_program(name)
        self.state = [HOLE] * (SIZE // MIB)

    def check(self, target):
        wanted = joined([(number * MIB, (number + 1) * MIB, kind)
                         for number, kind in enumerate(self.state)])
        self.assertEqual(qemu_map(target.uri()), wanted)
        self.assertEqual(nbdinfo_map(target.uri()), wanted)
        with target.connect() as client:
            for number, kind in enumerate(self.state):
                found = client.read(number * MIB, MIB)
                self.assertEqual(any(found), kind == DATA, f"MiB {number}")
            client.disconnect()

    def test_by_the_client(self):
        """Written, zeroed and trimmed over NBD, in random order and without a FLUSH."""
        target = self.serve(SIZE)
        # a file in memory and a malloc disk have written what was to keep its space
        kept = UNWRITTEN if self.backend == DISK else None
        rng = random.Random(30)
        with target.connect() as client:
            for _ in range(60):
                number, count = rng.randrange(SIZE // MIB - 3), rng.randrange(1, 4)
                offset, length = number * MIB, count * MIB
                kind = rng.choice(("write", "write", "zero", "trim", "keep" if kept else "trim"))
                if kind == "write":
                    client.write(offset, rng.randbytes(length))
                elif kind == "zero":
                    client.write_zeroes(offset, length)
                elif kind == "trim":
                    client.trim(offset, length)
                else:
                    client.write_zeroes(offset, length, CMD_FLAG_NO_HOLE)
                made = {"write": DATA, "keep": kept}.get(kind, HOLE)
                self.state[number:number + count] = [made] * count
            client.disconnect()
        self.check(target)

    def test_by_others(self):
        """Made before it is served: written, preallocated, punched; on disk already or not yet."""
        if self.backend == MALLOC:
            return
        for synced in (False, True):
            self.state = [HOLE] * (SIZE // MIB)
            directory = (harness.disk_directory() if self.backend == DISK
                         else harness.tmpfs_directory())
            path, rng = self.make_file(SIZE, directory=directory), random.Random(31)
            descriptor = os.open(path, os.O_RDWR)
            try:
                for _ in range(60):
                    number = rng.randrange(SIZE // MIB)
                    kind = rng.choice((DATA, DATA, HOLE, UNWRITTEN))
                    if kind == DATA:
                        os.pwrite(descriptor, rng.randbytes(MIB), number * MIB)
                    else:
                        run("fallocate", "--punch-hole", "-o", number * MIB, "-l", MIB, path)
                    if kind == UNWRITTEN and self.backend == DISK:
                        os.posix_fallocate(descriptor, number * MIB, MIB)
                    elif kind == UNWRITTEN:
                        kind = HOLE
                    self.state[number] = kind
                if synced:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            target = self.start(f"file:{path}", cores=self.cores, tcp=self.transport == "tcp")
            self.check(target)
            target.stop()


class Cost(MatrixTest):
    """A READ looks at what is known of the map, and asks the kernel nothing."""

    def test_reads_ask_no_map(self):
        strace = need_program("strace")
        target = self.serve(SIZE)
        with target.connect() as client:
            for number in range(0, SIZE // MIB, 2):
                client.write(number * MIB, b"c" * MIB)
            client.disconnect()
        # a client that asks for the map, and one that does not
        clients = [target.connect(mode=mode, contexts=("base:allocation",))
                   for mode in (STRUCTURED, EXTENDED)] + [target.connect(mode=STRUCTURED)]
        log = self.path("strace.log")
        calls = "ioctl,lseek,fallocate,fstat,newfstatat,statx,fadvise64,mincore"
        with subprocess.Popen([strace, "-f", "-qq", "-e", "trace=" + calls, "-o", log,
                               "-p", str(target.pid)], stderr=subprocess.PIPE) as tracer:
            try:
                harness.wait_for(lambda: self.traced(target) or tracer.poll() is not None, 20,
                                 "strace to attach")
                if tracer.poll() is not None:
                    self.skipTest("strace may not attach here: "
                                  + tracer.stderr.read().decode().strip())
                self.read(clients)
                time.sleep(0.1)
                before = self.calls(log)
                clients[0].map()
                time.sleep(0.1)
                asked = self.calls(log)
                self.read(clients)
                time.sleep(0.1)
                after = self.calls(log)
            finally:
                if tracer.poll() is None:
                    tracer.send_signal(signal.SIGINT)
        self.assertEqual(before, [], "READs before the map was known")
        if self.backend != MALLOC:  # which knows its map without asking
            self.assertTrue(asked, "the tracing does not work")
        self.assertEqual(after, asked, "READs after the map was known")
        for client in clients:
            client.disconnect()

    @staticmethod
    def traced(target):
        """All threads have a tracer."""
        for task in os.listdir(f"/proc/{target.pid}/task"):
            with open(f"/proc/{target.pid}/task/{task}/status", encoding="ascii") as file:
                if "TracerPid:\t0\n" in file.read():
                    return False
        return True

    @staticmethod
    def calls(log):
        with open(log, encoding="utf-8", errors="replace") as file:
            return [line for line in file if re.search(r"\b[a-z0-9_]+\(", line)]

    @staticmethod
    def read(clients):
        rng = random.Random(32)
        for client in clients:
            for _ in range(150):
                offset = rng.randrange(SIZE - 128 * KIB)
                client.call(CMD_READ, offset, rng.randrange(1, 128 * KIB),
                            rng.randrange(2) * CMD_FLAG_DF)


class Sparse(harness.TargetTest):
    """nbdcopy of an image with 1 % data: only the data is read, sent and written."""

    IMAGE = 64 * GIB if FULL else GIB

    def setUp(self):
        super().setUp()
        need_program("nbdcopy")
        self.pieces = range(0, self.IMAGE - MIB, 100 * MIB)
        self.data = len(self.pieces) * MIB

    def image(self, name="image"):
        """Sparse, with 1 MiB of random bytes in every 100."""
        path, rng = self.make_file(self.IMAGE, name, harness.disk_directory()), random.Random(33)
        block = rng.randbytes(MIB)
        with open(path, "r+b") as file:
            for number, offset in enumerate(self.pieces):
                file.seek(offset)
                file.write(number.to_bytes(8, "big") + block[8:])
        return path

    def same(self, one, two):
        """The data is the same, and there is nothing else."""
        for offset in self.pieces:
            with open(one, "rb") as file, open(two, "rb") as other:
                file.seek(offset)
                other.seek(offset)
                self.assertTrue(file.read(MIB) == other.read(MIB), f"at {offset}")
        for path in (one, two):
            self.assertLess(os.stat(path).st_blocks * 512, self.data * 1.1 + MIB, path)

    def moved(self, target, name=""):
        for export in target.rpc("export_get_iostat")["exports"]:
            if export["name"] == name:
                return export["read"]["bytes"], export["write"]["bytes"]
        raise AssertionError(f"no export {name}")

    def test_download(self):
        path, back = self.image(), self.make_file(0, "back", harness.disk_directory())
        target = self.start(f"file:{path}")
        run("nbdcopy", target.uri(), back, timeout=600)
        read, written = self.moved(target)
        print(f"# {self.data} bytes of data, {read} read")
        self.assertEqual((read, written), (self.data, 0))
        target.stop()
        self.same(path, back)

    def test_upload(self):
        source, path = self.image(), self.make_file(self.IMAGE, "target", harness.disk_directory())
        target = self.start(f"file:{path}")
        run("nbdcopy", "--flush", source, target.uri(), timeout=600)
        read, written = self.moved(target)
        print(f"# {self.data} bytes of data, {written} written")
        self.assertEqual((read, written), (0, self.data))
        target.stop()
        self.same(source, path)

    def test_from_export_to_export(self):
        """With several connections and many requests, from one target to another."""
        source, path = self.image(), self.make_file(self.IMAGE, "target", harness.disk_directory())
        one, two = self.start(f"file:{source}"), self.start(f"file:{path}")
        run("nbdcopy", "--flush", "-C", "4", "-R", "32", one.uri(), two.uri(), timeout=600)
        self.assertEqual(self.moved(one), (self.data, 0))
        self.assertEqual(self.moved(two), (0, self.data))
        one.stop()
        two.stop()
        self.same(source, path)


cross(globals(), Known)
cross(globals(), Cost, rows=None if FULL else [row for row in FILES if row[0] in (DISK, TMPFS)][:3])
