# SPDX-License-Identifier: BSD-3-Clause
"""
Every alignment of every request against a model of the disk, on sizes that are no multiple of
anything, and neighbours in one sector that must not lose each other's bytes.
"""

import random
import threading

import harness
import rawnbd
from harness import FULL, KIB, MIB, SANITIZED
from matrix import DISK, MALLOC, MatrixTest, PAIRWISE, TCP, cross
from rawnbd import CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_READ, CMD_WRITE

EFFORT = 20 if FULL else 1


class Model(MatrixTest):
    def prepare(self, size):
        rng = random.Random(size)
        content = bytearray(rng.randbytes(size))
        return self.serve(size, content=bytes(content)), content, rng

    def random_range(self, rng, size, limit):
        lengths = (1, 2, 511, 512, 513, 4095, 4096, 4097, rng.randrange(1, limit + 1))
        length = min(rng.choice(lengths), size)
        offset = rng.randrange(0, size - length + 1)
        return rng.choice((offset, offset & ~511, offset & ~4095, size - length)), length

    def one_operation(self, client, model, rng, limit):
        size = len(model)
        offset, length = self.random_range(rng, size, limit)
        end = offset + length
        kind = rng.randrange(12)
        if kind < 4:
            self.assertEqual(client.read(offset, length), model[offset:end], f"{offset}+{length}")
        elif kind < 9:
            data = rng.randbytes(length)
            client.write(offset, data, CMD_FLAG_FUA if kind == 8 else 0)
            model[offset:end] = data
        elif kind < 11:
            client.write_zeroes(offset, length, CMD_FLAG_NO_HOLE if kind == 10 else 0)
            model[offset:end] = bytes(length)
        else:
            client.trim(offset, length)
            now = client.read(offset, length)
            for at in range(length):  # what was trimmed is what it was, or zero
                if now[at] not in (0, model[offset + at]):
                    self.fail(f"trim {offset}+{length}: byte {at} is {now[at]}")
            model[offset:end] = now

    def check_model(self, size, operations, limit=32 * KIB):
        target, model, rng = self.prepare(size)
        with target.connect(timeout=60) as client:
            self.assertEqual(client.size, size)
            for _ in range(operations):
                self.one_operation(client, model, rng, min(limit, size))
            self.assertEqual(client.read(0, size), model)
            if client.flags & rawnbd.SEND_FLUSH:
                client.flush()
            client.disconnect()
        target.stop()
        if self.image:
            with open(self.image, "rb") as file:
                self.assertEqual(file.read(), model)

    def test_round_size(self):
        self.check_model(512 * KIB, 600 * EFFORT)

    def test_odd_sizes(self):
        for size in (1, 511, 513, 4095, 4097, 12345, 300001):
            if self.backend == MALLOC:
                size = (size + 511) // 512 * 512
            with self.subTest(size=size):
                self.check_model(size, 120 * EFFORT)

    def test_every_small_range(self):
        """All offsets and lengths around the ends of blocks, not only random ones."""
        target, model, rng = self.prepare(12 * KIB)
        edges = [0, 1, 511, 512, 513, 4095, 4096, 4097, 8191, 8192, 8193, 12287]
        with target.connect() as client:
            for offset in edges:
                for end in edges:
                    if end <= offset:
                        continue
                    data = rng.randbytes(end - offset)
                    client.write(offset, data)
                    model[offset:end] = data
                    self.assertEqual(client.read(0, 12 * KIB), model, f"{offset}..{end}")
                    self.assertEqual(client.read(offset, end - offset), data)


class Neighbours(MatrixTest):
    """Two connections that write different bytes of the same blocks at the same time."""

    WINDOW = 64

    def writer(self, client, turns, errors):
        """Keeps a window of writes in flight. Within a turn ranges do not overlap."""
        def settle(flying, left):
            while flying > left:
                if client.reply()[1]:
                    raise AssertionError("a write failed")
                flying -= 1
            return flying
        try:
            for ranges in turns:
                flying = 0
                for offset, length, byte in ranges:
                    client.request(CMD_WRITE, offset, length, payload=bytes([byte]) * length)
                    flying = settle(flying + 1, self.WINDOW - 1)
                settle(flying, 0)
        except BaseException as error:  # for the thread that waits
            errors.append(error)

    def check_interleaved(self, block, piece, writers, rounds, blocks=64):
        """Writer w owns the piece-sized parts whose number is w modulo the count of writers."""
        size = block * blocks
        target = self.serve(size)
        clients = [target.connect(timeout=60) for _ in range(writers)]
        for client in clients:
            self.addCleanup(client.close)
        if writers > 1 and len(harness.CPUS) > 1 and self.arrangement == harness.TOGETHER:
            used = {connection["lcore"]
                    for connection in target.rpc("connection_get_connections")}
            self.assertGreater(len(used), 1, "all connections lie on one reactor")
        errors, threads = [], []
        for number, client in enumerate(clients):
            turns = []
            for turn in range(rounds):
                order = list(range(number, size // piece, writers))
                random.Random(turn).shuffle(order)
                turns.append([(at * piece, piece, (turn * writers + number + at) % 255 + 1)
                              for at in order])
            thread = threading.Thread(target=self.writer, args=(client, turns, errors))
            threads.append(thread)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        wanted = b"".join(
            bytes([((rounds - 1) * writers + at % writers + at) % 255 + 1]) * piece
            for at in range(size // piece))
        data = clients[0].read(0, size)
        wrong = [at for at in range(size) if data[at] != wanted[at]]
        self.assertEqual(len(wrong), 0, f"{len(wrong)} bytes lost, the first at {wrong[:1]}")

    def test_halves_of_sectors(self):
        self.check_interleaved(512, 256, 2, 10 if SANITIZED else 30)

    def test_pieces_of_blocks(self):
        self.check_interleaved(4096, 128, 4, 3 if SANITIZED else 8, blocks=32)

    def test_one_writer(self):
        """The same on one connection: its own requests overlap in blocks, too."""
        self.check_interleaved(4096, 512, 1, 5 if SANITIZED else 10, blocks=32)

    def test_readers_see_whole_writes(self):
        """A misaligned write in a sector never disturbs the bytes beside it while it happens."""
        target = self.serve(64 * KIB, content=b"\xee" * 64 * KIB)
        stop, errors = threading.Event(), []
        with target.connect(timeout=60) as writing, target.connect(timeout=60) as reading:
            def write():
                turns = [[(64 * at + 16, 32, turn + 1) for at in range(KIB)]
                         for turn in range(8)]
                self.writer(writing, turns, errors)
                stop.set()
            thread = threading.Thread(target=write)
            thread.start()
            kept = b"\xee" * 16
            while not stop.is_set():
                cookie = reading.request(CMD_READ, 0, 64 * KIB)
                _, error, data = reading.reply()
                self.assertEqual(error, 0, cookie)
                for at in range(0, 64 * KIB, 64):
                    self.assertEqual((data[at:at + 16], data[at + 48:at + 64]), (kept, kept), at)
            thread.join()
            self.assertEqual(errors, [])
            data = reading.read(0, 64 * KIB)
        for at in range(0, 64 * KIB, 64):
            self.assertEqual(data[at:at + 64], b"\xee" * 16 + b"\x08" * 32 + b"\xee" * 16, at)


class Edges(harness.TargetTest):
    def test_last_bytes_of_a_large_sparse_file(self):
        size = (1 << 40) + 12345
        path = self.make_file(size, directory=harness.disk_directory())
        target = self.start(f"file:{path}")
        with target.connect() as client:
            self.assertEqual(client.size, size)
            client.write(size - 100, b"e" * 100)
            client.write((1 << 40) - 50, b"m" * 100)
            self.assertEqual(client.read(size - 200, 200), bytes(100) + b"e" * 100)
            self.assertEqual(client.read((1 << 40) - 100, 200), bytes(50) + b"m" * 100 + bytes(50))
            client.write_zeroes(size - 50, 50)
            self.assertEqual(client.read(size - 100, 100), b"e" * 50 + bytes(50))
            client.disconnect()
        target.stop()
        with open(path, "rb") as file:
            self.assertEqual(file.seek(0, 2), size)
            file.seek(size - 100)
            self.assertEqual(file.read(), b"e" * 50 + bytes(50))

    def test_direct_off(self):
        path = self.make_file(12345, directory=harness.disk_directory())
        target = self.start(f"file:{path}?direct=off")
        with target.connect() as client:
            client.write(12300, b"t" * 45)
            self.assertEqual(client.read(12290, 55), bytes(10) + b"t" * 45)
            if client.flags & rawnbd.SEND_CACHE:
                self.assertEqual(client.call(rawnbd.CMD_CACHE, 0, 12345)[0], 0)
        target.stop()
        with open(path, "rb") as file:
            self.assertEqual(file.read(), bytes(12300) + b"t" * 45)

    def test_malloc_gives_memory_back(self):
        """TRIM and WRITE_ZEROES of a malloc bdev return its pages."""
        target = self.start("malloc:512M")
        with target.connect(timeout=60) as client:
            before = target.rss()
            for at in range(0, 256, 32):
                client.write(at * MIB, b"full" * (8 * MIB))
            filled = target.rss()
            if not SANITIZED:
                self.assertGreater(filled - before, 200 * MIB)
            client.trim(0, 128 * MIB)
            client.write_zeroes(128 * MIB, 128 * MIB)
            self.assertEqual(client.read(100 * MIB, 4096), bytes(4096))
            self.assertEqual(client.read(200 * MIB, 4096), bytes(4096))
            harness.wait_for(lambda: target.rss() - before < 64 * MIB, 10, "memory to come back")


cross(globals(), Model)
cross(globals(), Neighbours, rows=None if FULL else PAIRWISE + [(DISK, TCP, harness.APART)])
