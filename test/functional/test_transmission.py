# SPDX-License-Identifier: BSD-3-Clause
"""Transmission with simple replies: commands, refusals, pipelines, large requests, DISC."""

import random
import signal
import socket
import struct

import harness
import rawnbd
from harness import KIB, MIB, SANITIZED
from matrix import MALLOC, MatrixTest, PAIRWISE, cross
from rawnbd import (CMD_BLOCK_STATUS, CMD_CACHE, CMD_DISC, CMD_FLAG_DF, CMD_FLAG_FAST_ZERO,
                    CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_PAYLOAD_LEN, CMD_FLAG_REQ_ONE,
                    CMD_FLUSH, CMD_READ, CMD_RESIZE, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, Closed,
                    EINVAL, ENOSPC, ENOTSUP, EPERM, request_bytes)

MAX = rawnbd.MAX_PAYLOAD_BYTES


class Receiving(harness.TargetTest):
    """
    Each way to receive, and from one to the other: requests that fit a buffer, WRITEs that go straight
    to theirs, more requests than a connection may have in flight, and an end right behind them.
    """

    SIZE = 8 * MIB

    def exchange(self, client, model, rng):
        """READs in a pipeline, then a WRITE of any size."""
        offsets = [rng.randrange(0, self.SIZE - 4096, 512) for _ in range(rng.choice((1, 40, 200)))]
        client.reads.update({cookie: 4096 for cookie in range(len(offsets))})
        client.send(b"".join(request_bytes(CMD_READ, offset, 4096, cookie=cookie)
                             for cookie, offset in enumerate(offsets)))
        for _ in offsets:
            cookie, error, data = client.reply()
            self.assertEqual((error, data), (0, bytes(model[offsets[cookie]:][:4096])))
        length = rng.choice((512, 20 * KIB, 300 * KIB, 2 * MIB))
        offset = rng.randrange(0, self.SIZE - length, 512)
        data = rng.randbytes(length)
        client.write(offset, data)
        model[offset:offset + length] = data

    def check(self, way, backing):
        spec = self.make_file(self.SIZE, way) if backing == "file" else f"malloc:{self.SIZE}"
        target = self.start(spec, args=["--receive", way, "--max-requests", "16"])
        rng = random.Random(way + backing)
        model = bytearray(self.SIZE)
        for _ in range(6):
            with target.connect() as client:
                for _ in range(3):
                    self.exchange(client, model, rng)
        blocks = [rng.randbytes(4096) for _ in range(64)]
        with target.connect() as client:  # what was sent before the end is carried out
            client.send(b"".join(request_bytes(CMD_WRITE, number * 4096, 4096, cookie=number,
                                               payload=block)
                                 for number, block in enumerate(blocks)) + request_bytes(CMD_DISC))
            client.sock.shutdown(socket.SHUT_WR)
            self.assertEqual(len(client.receive_until_closed()), 64 * 16)
        with target.connect() as client:
            self.assertEqual(client.read(0, 64 * 4096), b"".join(blocks))

    def test_ends_together_with_the_last_bytes(self):
        """A request and the end while the target sleeps: the kernel may tell of both as of one."""
        target = self.start("malloc:1M", tcp=True)
        for ending in ("orderly", "reset", "half"):
            for payload in (0, 100, 4096):
                client = target.connect()
                client.read(0, 512)
                if ending == "reset":
                    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                           struct.pack("ii", 1, 0))
                target.signal(signal.SIGSTOP)
                harness.wait_for(target.is_stopped, 20, "that all threads have stopped")
                client.send(request_bytes(CMD_WRITE, 0, 4096, payload=bytes(payload)))
                if ending == "half":
                    client.sock.shutdown(socket.SHUT_WR)
                else:
                    client.sock.close()
                target.signal(signal.SIGCONT)
                self.wait_idle(target, 0)
                client.sock.close()

    def test_ways(self):
        for way in ("auto", "single"):
            for backing in ("malloc", "file"):
                with self.subTest(way=way, backing=backing):
                    self.check(way, backing)


class ZeroCopy(harness.TargetTest):
    """Replies from where they lie. Loopback copies them, and says so: then it is left at that."""

    def zero_copy(self, target):
        connection, = target.rpc("connection_get_connections")
        return connection.get("zerocopy", {"sends": 0, "copied": 0})

    def check_replies(self, target, client, data):
        rng = random.Random(17)
        for _ in range(20):
            offsets = [rng.randrange(0, len(data) - 64 * KIB) for _ in range(16)]
            client.reads.update({cookie: 64 * KIB for cookie in range(16)})
            client.send(b"".join(request_bytes(CMD_READ, offset, 64 * KIB, cookie=cookie)
                                 for cookie, offset in enumerate(offsets)))
            for _ in offsets:
                cookie, error, got = client.reply()
                self.assertEqual((error, got), (0, data[offsets[cookie]:][:64 * KIB]))
        return self.zero_copy(target)

    def test_replies(self):
        data = random.Random(16).randbytes(4 * MIB)
        for spec in (f"malloc:{4 * MIB}", self.make_file(4 * MIB)):
            with self.subTest(spec=spec):
                target = self.start(spec, tcp=True, args=["--zerocopy-threshold", "32K"])
                with target.connect() as client:
                    client.write(0, data)
                    self.assertEqual(self.zero_copy(target)["sends"], 0)  # small replies
                    first = self.check_replies(target, client, data)
                    self.assertGreater(first["sends"], 0)
                    if not first["copied"]:
                        continue  # a kernel that does not tell
                    self.assertEqual(self.check_replies(target, client, data), first)

    def test_clients_that_go(self):
        """Gone with replies under way: nothing is kept of them."""
        target = self.start(f"malloc:{4 * MIB}", tcp=True, args=["--zerocopy-threshold", "32K"])
        for _ in range(20):
            client = target.connect()
            client.send(b"".join(request_bytes(CMD_READ, 0, MIB, cookie=cookie)
                                 for cookie in range(64)))
            client.sock.close()
        harness.wait_for(lambda: not target.rpc("connection_get_connections"),
                         harness.STOP_SECONDS, "the end of all connections")

    def test_elsewhere(self):
        """What has no card below it is sent as ever."""
        target = self.start(f"malloc:{4 * MIB}", args=["--zerocopy-threshold", "32K"])
        with target.connect() as client:
            self.assertEqual(client.read(0, MIB), bytes(MIB))
            self.assertEqual(self.zero_copy(target)["sends"], 0)


class Commands(MatrixTest):
    SIZE = 4 * MIB

    def setUp(self):
        super().setUp()
        self.target = self.serve(self.SIZE)
        self.client = self.target.connect()
        self.addCleanup(self.client.close)

    def test_each_command(self):
        client = self.client
        pattern = random.Random(1).randbytes(64 * KIB)
        self.assertEqual(client.read(0, 4096), bytes(4096))
        client.write(0, pattern)
        client.write(128 * KIB, pattern, CMD_FLAG_FUA)
        client.flush()
        self.assertEqual(client.read(0, 64 * KIB), pattern)
        self.assertEqual(client.read(128 * KIB, 64 * KIB), pattern)
        client.write_zeroes(0, 16 * KIB)
        self.assertEqual(client.read(0, 64 * KIB), bytes(16 * KIB) + pattern[16 * KIB:])
        client.write_zeroes(16 * KIB, 16 * KIB, CMD_FLAG_NO_HOLE | CMD_FLAG_FUA)
        self.assertEqual(client.read(0, 64 * KIB), bytes(32 * KIB) + pattern[32 * KIB:])
        client.trim(128 * KIB, 64 * KIB, CMD_FLAG_FUA)
        self.assertIn(client.read(128 * KIB, 64 * KIB), (bytes(64 * KIB), pattern))
        self.assertEqual(client.read(0, 64 * KIB), bytes(32 * KIB) + pattern[32 * KIB:])
        client.disconnect()

    def test_fast_zero(self):
        client = self.client
        if not client.flags & rawnbd.SEND_FAST_ZERO:
            self.assertEqual(client.call(CMD_WRITE_ZEROES, 0, 4096, CMD_FLAG_FAST_ZERO)[0], EINVAL)
            return
        client.write(0, b"z" * 8192)
        error, _ = client.call(CMD_WRITE_ZEROES, 0, 4096, CMD_FLAG_FAST_ZERO)
        self.assertIn(error, (0, ENOTSUP))
        self.assertEqual(client.read(0, 8192), (b"z" if error else b"\0") * 4096 + b"z" * 4096)

    def test_fua_with_any_command(self):
        client = self.client
        client.write(0, b"f" * 512, CMD_FLAG_FUA)
        self.assertEqual(client.read(0, 512, CMD_FLAG_FUA), b"f" * 512)
        self.assertEqual(client.call(CMD_FLUSH, flags=CMD_FLAG_FUA)[0], 0)

    def test_unknown_commands(self):
        client = self.client
        for command in (CMD_RESIZE, CMD_BLOCK_STATUS, 9, 255, 4711, 0xFFFF):
            for offset, length in ((0, 0), (0, 512), (1 << 63, 0xFFFFFFFF)):
                self.assertEqual(client.call(command, offset, length)[0], EINVAL, command)
        if not client.flags & rawnbd.SEND_CACHE:
            self.assertEqual(client.call(CMD_CACHE, 0, 4096)[0], EINVAL)
        else:
            self.assertEqual(client.call(CMD_CACHE, 0, 4096)[0], 0)
        client.read(0, 512)

    def test_unknown_flags(self):
        client = self.client
        client.write(0, b"a" * 512)
        bad = {CMD_READ: (CMD_FLAG_DF, CMD_FLAG_NO_HOLE, CMD_FLAG_FAST_ZERO),
               CMD_WRITE: (CMD_FLAG_NO_HOLE, CMD_FLAG_DF, CMD_FLAG_PAYLOAD_LEN),
               CMD_TRIM: (CMD_FLAG_NO_HOLE, CMD_FLAG_FAST_ZERO),
               CMD_WRITE_ZEROES: (CMD_FLAG_DF, CMD_FLAG_REQ_ONE),
               CMD_FLUSH: (CMD_FLAG_REQ_ONE,)}
        for command, flags in bad.items():
            length = 0 if command == CMD_FLUSH else 512
            payload = b"b" * 512 if command == CMD_WRITE else b""
            for flag in flags + (1 << 6, 1 << 15, 0xFFFF):
                error, _ = client.call(command, 0, length, flag, payload)
                self.assertEqual(error, EINVAL, f"command {command} flag {flag:#x}")
        self.assertEqual(client.read(0, 512), b"a" * 512, "a refused request was carried out")

    def test_out_of_range(self):
        client, size = self.client, self.SIZE
        top = (1 << 64) - 1
        ranges = [(size, 1), (size - 1, 2), (size - 512, 1024), (size + 1, 1), (0, size + 1),
                  (1 << 63, 4096), (top, 1), (top, 2), (top - 511, 512), (top - 511, 1024),
                  (1 << 62, 0xFFFFFFFF)]
        for offset, length in ranges:
            with self.subTest(offset=offset, length=length):
                self.assertEqual(client.call(CMD_READ, offset, length)[0], EINVAL)
                self.assertEqual(client.call(CMD_TRIM, offset, length)[0], EINVAL)
                self.assertEqual(client.call(CMD_WRITE_ZEROES, offset, length)[0], ENOSPC)
                if length <= 2 * size:  # the payload must come and is consumed
                    error, _ = client.call(CMD_WRITE, offset, length, payload=b"w" * length)
                    self.assertEqual(error, ENOSPC)
        self.assertEqual(client.read(size - 512, 512), bytes(512))

    def test_length_zero(self):
        """Unspecified by the document: an answer, whatever it is, and the session goes on."""
        client = self.client
        for command in (CMD_READ, CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES):
            for offset in (0, 1, self.SIZE, self.SIZE + 1, (1 << 64) - 1):
                self.assertIn(client.call(command, offset, 0)[0], (0, EINVAL, ENOSPC))
        client.read(0, 512)

    def test_flush_with_a_range(self):
        for offset, length in ((512, 0), (0, 512), ((1 << 64) - 1, 0xFFFFFFFF)):
            self.assertIn(self.client.call(CMD_FLUSH, offset, length)[0], (0, EINVAL))
        self.client.flush()

    def test_bad_magic_ends_the_session(self):
        for magic in (0, rawnbd.MAGIC_SIMPLE_REPLY, 0x21E41C71, rawnbd.MAGIC_REQUEST + 1):
            with self.target.connect() as client:
                client.send(request_bytes(CMD_READ, 0, 512, magic=magic))
                self.assertEqual(client.receive_until_closed(), b"")
        self.client.read(0, 512)

    def test_cookies_come_back(self):
        client = self.client
        cookies = [0, 1, (1 << 64) - 1, 1 << 63, 0x0123456789ABCDEF]
        for cookie in cookies:
            client.request(CMD_READ, 0, 512, cookie=cookie)
        self.assertEqual(sorted(client.reply()[0] for _ in cookies), sorted(cookies))

    def test_one_cookie_for_all(self):
        """Cookies are the client's business: equal ones in flight are answered each."""
        client = self.client
        for _ in range(20):
            client.send(request_bytes(CMD_FLUSH, cookie=5))
        for _ in range(20):
            self.assertEqual(client.reply(), (5, 0, b""))

    def test_pipelined_requests(self):
        """Many in flight, of all kinds, good and bad, answered in any order."""
        client, rng = self.client, random.Random(2)
        block = 8 * KIB
        blocks = self.SIZE // block
        stamp = [rng.randbytes(block) for _ in range(blocks)]
        for number in range(blocks):
            client.request(CMD_WRITE, number * block, block, payload=stamp[number])
        for number in range(blocks):
            self.assertEqual(client.reply()[1], 0)
        wanted = {}
        for _ in range(1000 if not SANITIZED else 300):
            kind = rng.randrange(10)
            if kind < 7:
                number = rng.randrange(blocks)
                wanted[client.request(CMD_READ, number * block, block)] = (0, stamp[number])
            elif kind == 7:
                wanted[client.request(CMD_READ, self.SIZE, 512)] = (EINVAL, b"")
            elif kind == 8:
                cookie = client.request(CMD_WRITE, self.SIZE, 700, payload=b"q" * 700)
                wanted[cookie] = (ENOSPC, b"")
            else:
                wanted[client.request(CMD_FLUSH)] = (0, b"")
            while len(wanted) > 100:
                cookie, error, data = client.reply()
                self.assertEqual((error, data), wanted.pop(cookie))
        while wanted:
            cookie, error, data = client.reply()
            self.assertEqual((error, data), wanted.pop(cookie))

    def test_writes_before_disc_are_not_lost(self):
        rounds, count, length = 100, 16, 4 * KIB
        for number in range(rounds):
            client = self.target.connect()
            data = bytes([number + 1]) * length
            batch = b"".join(request_bytes(CMD_WRITE, slot * length, length, cookie=slot,
                                           payload=data) for slot in range(count))
            client.send(batch + request_bytes(CMD_DISC))
            if number % 2:
                client.receive_until_closed()
            client.close()
            # a client that does not wait may come back before the last write has been carried out
            self.wait_idle(self.target, 1)
            self.assertEqual(self.client.read(0, count * length), data * count, f"round {number}")

    def test_large_requests(self):
        """In one piece: larger than any buffer on the way."""
        client, rng = self.client, random.Random(3)
        data = rng.randbytes(self.SIZE)
        client.write(0, data)
        self.assertEqual(client.read(0, self.SIZE), data)
        client.write(1, data[:-1])
        self.assertEqual(client.read(0, self.SIZE), data[:1] + data[:-1])


class ReadOnly(MatrixTest):
    def test_read_only(self):
        for how in (["--read-only"], []):
            if self.backend == MALLOC and not how:
                continue
            with self.subTest(how=how):
                options = "" if how else "?read-only=on"
                target = self.serve(MIB, args=how, options=options)
                with target.connect() as client:
                    self.assertTrue(client.flags & rawnbd.READ_ONLY)
                    self.assertEqual(client.read(0, 4096), bytes(4096))
                    for command, length, payload in ((CMD_WRITE, 4096, b"x" * 4096),
                                                     (CMD_TRIM, 4096, b""),
                                                     (CMD_WRITE_ZEROES, 4096, b"")):
                        for offset in (0, 1, MIB):
                            error, _ = client.call(command, offset, length, payload=payload)
                            self.assertEqual(error, EPERM, command)
                    if client.flags & rawnbd.SEND_FLUSH:
                        client.flush()
                    self.assertEqual(client.read(0, 4096), bytes(4096))
                    client.disconnect()


class Huge(MatrixTest):
    """At and beyond the largest payload."""

    def setUp(self):
        super().setUp()
        self.target = self.serve(160 * MIB)

    def test_largest_requests(self):
        data = random.Random(4).randbytes(MIB)
        with self.target.connect(timeout=120) as client:
            for size in (32 * MIB, 50000000, MAX):
                client.write(3 * 4096, data * (size // MIB) + data[:size % MIB])
                self.assertEqual(client.read(3 * 4096 + size - MIB, MIB),
                                 (data * 2)[size % MIB:size % MIB + MIB])
                whole = client.read(3 * 4096, size)
                self.assertTrue(whole == data * (size // MIB) + data[:size % MIB], f"{size} bytes")
            client.disconnect()

    def test_beyond_the_largest(self):
        with self.target.connect(timeout=120) as client:
            self.assertEqual(client.call(CMD_READ, 0, MAX + 1)[0], EINVAL)
            client.read(0, 512)
            # a WRITE may be drained and refused, or end the session: the document allows both
            try:
                error, _ = client.call(CMD_WRITE, 0, MAX + 1, payload=bytes(MAX + 1))
                self.assertEqual(error, EINVAL)
                client.read(0, 512)
            except Closed:
                pass
        with self.target.connect() as client:
            client.send(request_bytes(CMD_WRITE, 0, 0xFFFFFFFF, cookie=9))
            try:
                for _ in range(8):
                    client.send(bytes(MIB))
            except Closed:
                pass
        self.assert_serves(self.target)

    def test_effects_have_no_limit(self):
        """TRIM and WRITE_ZEROES carry no data: they may cover everything at once."""
        with self.target.connect(timeout=120) as client:
            client.write(0, b"1" * MIB)
            client.write(159 * MIB, b"2" * MIB)
            client.write_zeroes(1, 160 * MIB - 2)
            self.assertEqual(client.read(0, MIB), b"1" + bytes(MIB - 1))
            self.assertEqual(client.read(159 * MIB, MIB), bytes(MIB - 1) + b"2")
            client.trim(0, 160 * MIB)
            client.disconnect()


cross(globals(), Commands)
cross(globals(), ReadOnly, Huge, rows=None if harness.FULL else PAIRWISE[1:4])
