# SPDX-License-Identifier: BSD-3-Clause
"""
Conformance: what replies look like - cookies, order, chunks, holes, DF, errors with their offsets -
and what the commands have done when they are answered. rawreply.py checks each chunk.
"""

import random
import struct

import conformance
import rawnbd
import rawreply
from conformance import CHUNKED, SIZE, table, tearDownModule
from harness import GIB, KIB, MIB
from matrix import NULL
from rawnbd import (CMD_CACHE, CMD_FLAG_DF, CMD_FLAG_FAST_ZERO, CMD_FLAG_FUA, CMD_FLAG_NO_HOLE,
                    CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE,
                    CMD_WRITE_ZEROES, EINVAL, EIO, ENOTSUP, EOVERFLOW, EXTENDED, SIMPLE, STRUCTURED)

assert tearDownModule
TOP = (1 << 64) - 1


class Cookies(conformance.Rules):
    @table(zero=0, one=1, top=TOP, sign=1 << 63, bytes=0x0123456789ABCDEF,
           magic=rawnbd.MAGIC_REQUEST << 32 | rawnbd.MAGIC_SIMPLE_REPLY)
    def test_comes_back(self, cookie):
        client = self.client
        for command, offset, length in ((CMD_READ, 0, 512), (CMD_FLUSH, 0, 0),
                                        (CMD_READ, SIZE, 1), (CMD_TRIM, 0, 512), (77, 0, 0)):
            client.request(command, offset, length, cookie=cookie)
            self.assertEqual(client.reply()[0], cookie)

    def test_equal_ones(self):
        """The client's business: requests with one cookie are answered each."""
        client = self.client
        client.send(self.raw(client, CMD_FLUSH, cookie=5) * 20)
        size = {SIMPLE: 16, STRUCTURED: 20, EXTENDED: 32}[self.mode]
        for _ in range(20):
            head = client.receive(size)
            if head[:4] == struct.pack(">L", rawnbd.MAGIC_SIMPLE_REPLY) and size == 20:
                self.fail("a simple reply and a structured one differ in length here")
            self.assertEqual(head[8:16], struct.pack(">Q", 5))

    def test_reused(self):
        client = self.client
        for _ in range(20):
            client.request(CMD_READ, 0, 512, cookie=9)
            self.assertEqual(client.reply()[:2], (9, 0))

    def test_reply_to_extended_has_the_offset(self):
        """rawnbd.chunk() checks it in each reply; here with offsets that are refused."""
        for offset in (0, 512, SIZE, TOP, 1 << 63):
            self.answer(self.client, (0, EINVAL), CMD_READ, offset, 512)


class Pipelines(conformance.Rules):
    def mixed(self, client, rng, count, data):
        """{cookie: (error, data)} of requests that have been sent."""
        wanted = {}
        for _ in range(count):
            kind, offset = rng.randrange(6), rng.randrange(len(data) - 8192)
            length = rng.randrange(1, 8192)
            if kind < 3:
                cookie = client.request(CMD_READ, offset, length)
                wanted[cookie] = (0, data[offset:offset + length])
            elif kind == 3:
                wanted[client.request(CMD_FLUSH)] = (0, b"")
            elif kind == 4:
                wanted[client.request(CMD_READ, SIZE, length)] = (EINVAL, b"")
            else:
                cookie = client.request(CMD_WRITE, 4 * MIB + offset, length, 1 << 12, b"x" * length)
                wanted[cookie] = (EINVAL, b"")
        return wanted

    @table(few=10, many=200)
    def test_mixed(self, count):
        """Good and bad ones of all kinds in flight: each gets its own answer, in any order."""
        client, data = self.patterned(4, MIB)
        wanted = self.mixed(client, random.Random(count), count, data)
        for _ in range(count):
            cookie, error, found = client.reply()
            self.assertEqual((error, found), wanted.pop(cookie))

    def test_unread(self):
        """Replies that nobody takes for a while are kept, or not yet made."""
        client, data = self.patterned(5, MIB)
        asked = {client.request(CMD_READ, 0, MIB): None for _ in range(24)}
        for _ in range(24):
            cookie, error, found = client.reply()
            self.assertEqual(error, 0)
            self.assertTrue(found == data)
            del asked[cookie]

    def test_headers_in_pieces(self):
        client = self.client
        for _ in range(3):
            client.partial[7] = rawreply.Reply(7, CMD_READ, 512, 1024, 0, (), self.mode == EXTENDED)
            client.reads[7] = 1024
            if self.mode == SIMPLE:
                client.partial.clear()
            for byte in self.raw(client, CMD_READ, 512, 1024):
                client.send(bytes([byte]))
            self.assertEqual(client.reply()[:2], (7, 0))

    def test_writes_seen_by_later_reads(self):
        """A READ sent after a WRITE was answered brings it."""
        client = self.cleared()
        for number in range(50):
            data = bytes([number + 1]) * 5000
            client.write(number * 5000, data)
            found = client.read(number * 5000, 5000)
            self.assertEqual(found, data if self.keeps else bytes(5000))


class Chunks(conformance.Rules):
    """READ in structured and extended replies."""

    def mixed(self):
        """Data, a hole, data."""
        client = self.cleared()
        data = random.Random(6).randbytes(128 * KIB)
        client.write(MIB, data)
        client.write(MIB + 256 * KIB, data)
        whole = data + bytes(128 * KIB) + data
        return client, whole if self.keeps else bytes(len(whole))

    @table(byte=1, kib4=4 * KIB, odd=100001, all=384 * KIB)
    def test_read(self, length):
        client, data = self.mixed()
        for flags in (0, CMD_FLAG_FUA):
            found = self.answer(client, 0, CMD_READ, MIB, length, flags)
            self.assertEqual(found, data[:length])
            self.assertFalse(set(client.last.types)
                             - {rawreply.NONE, rawreply.OFFSET_DATA, rawreply.OFFSET_HOLE})

    @table(kib64=64 * KIB, kib256=256 * KIB, mib1=MIB)
    def test_df(self, length):
        """One chunk; zeroes are spelled out where there is data too."""
        client, data = self.mixed()
        data = data + bytes(MIB - len(data))
        found = self.answer(client, 0, CMD_READ, MIB, length, CMD_FLAG_DF)
        self.assertEqual(found, data[:length])
        self.assertEqual(len(client.last.covered), 1)
        if self.keeps:
            self.assertNotIn(rawreply.OFFSET_HOLE, client.last.types)

    def test_df_unaligned(self):
        client, data = self.mixed()
        for offset, length in ((1, 65536), (128 * KIB - 1, 2), (128 * KIB - 7, 65529), (77, 1)):
            found = self.answer(client, 0, CMD_READ, MIB + offset, length, CMD_FLAG_DF)
            self.assertEqual(found, data[offset:offset + length])
            self.assertEqual(len(client.last.covered), 1)

    def test_df_of_a_hole(self):
        client = self.cleared()
        self.assertEqual(self.answer(client, 0, CMD_READ, 0, 65536, CMD_FLAG_DF), bytes(65536))
        self.assertEqual(len(client.last.covered), 1)

    @table(mib2=2 * MIB, mib8=SIZE)
    def test_df_too_long(self, length):
        """In one piece, or refused without any content."""
        client = self.client
        error, data = client.call(CMD_READ, 0, length, CMD_FLAG_DF)
        self.assertIn(error, (0, EOVERFLOW))
        self.assertEqual(len(client.last.covered), 0 if error else 1)
        self.assertEqual(len(data), 0 if error else length)

    def test_hole_is_told(self):
        """A hole costs no bytes: in one piece, and as part of a long READ. A READ looks only at
        what is known of a file: here BLOCK_STATUS has asked for its map."""
        client = self.cleared()
        client.map()
        self.assertEqual(client.read(0, 65536), bytes(65536))
        self.assertEqual(client.last.holes, [(0, 65536)])
        client.write(0, b"d" * MIB)
        client.map()
        client.read(0, SIZE)
        self.assertGreaterEqual(sum(length for _, length in client.last.holes), 6 * MIB)

    def test_long_read(self):
        client, data = self.patterned(7, 5 * MIB + 123)
        self.assertTrue(client.read(0, len(data)) == data)
        self.assertTrue(client.read(1, len(data) - 1) == data[1:])
        starts = [begin for begin, _ in client.last.covered]
        self.assertEqual(starts, sorted(starts), "may come in any order, but come so")

    def test_error_is_one_chunk(self):
        client = self.client
        for flags in (0, CMD_FLAG_DF):
            self.answer(client, EINVAL, CMD_READ, SIZE - 512, 1024, flags)
            self.assertEqual(client.last.types, [rawreply.ERROR])
            self.assertEqual(client.last.errors[0][0], None)
        self.answer(client, EINVAL, CMD_READ, 0, 512, 1 << 14)
        self.assertEqual(client.last.types, [rawreply.ERROR])

    def test_success_without_data(self):
        """A lone NONE, or with structured replies a simple reply."""
        client = self.client
        for command, length in ((CMD_FLUSH, 0), (CMD_TRIM, 512), (CMD_WRITE_ZEROES, 512)):
            self.answer(client, 0, command, 0, length)
            self.assertIn(client.last.types, [[rawreply.NONE]] + [[]] * (self.mode == STRUCTURED))

    def test_interleaved_reads(self):
        """Chunks of several READs may be mixed; each is put together rightly."""
        client, data = self.patterned(8, 4 * MIB)
        asked = {client.request(CMD_READ, n * 100, 2 * MIB): n * 100 for n in range(8)}
        small = [client.request(CMD_READ, 7, 100) for _ in range(20)]
        for _ in range(28):
            cookie, error, found = client.reply()
            self.assertEqual(error, 0)
            if cookie in asked:
                self.assertTrue(found == data[asked[cookie]:asked[cookie] + 2 * MIB])
            else:
                self.assertEqual(found, data[7:107])
                small.remove(cookie)


class Effects(conformance.Rules):
    """What the commands have done when they are answered."""

    @table(plain=0, fua=CMD_FLAG_FUA)
    def test_write(self, flags):
        client, rng = self.cleared(), random.Random(9)
        for offset, length in ((0, 1), (511, 2), (4096, 4096), (MIB + 1, MIB), (SIZE - 513, 513)):
            data = rng.randbytes(length)
            client.write(offset, data, flags)
            self.holds(client, offset, data)

    @table(plain=0, fua=CMD_FLAG_FUA, no_hole=CMD_FLAG_NO_HOLE,
           no_hole_fua=CMD_FLAG_NO_HOLE | CMD_FLAG_FUA)
    def test_write_zeroes(self, flags):
        for offset, length in ((0, 4096), (1, 1), (100, 70000), (MIB, 3 * MIB), (SIZE - 5, 5)):
            client = self.cleared()
            client.write(0, b"z" * SIZE)
            client.write_zeroes(offset, length, flags)
            wanted = b"z" * offset + bytes(length) + b"z" * (SIZE - offset - length)
            self.holds(client, 0, wanted)

    @table(plain=0, no_hole=CMD_FLAG_NO_HOLE, fua=CMD_FLAG_FUA)
    def test_fast_zero(self, more):
        """Done fast, or refused without a change."""
        client = self.cleared()
        for offset, length in ((0, 65536), (4096, 4096), (13, 5000), (0, SIZE)):
            client.write(0, b"z" * SIZE)
            error, _ = client.call(CMD_WRITE_ZEROES, offset, length, CMD_FLAG_FAST_ZERO | more)
            self.assertIn(error, (0, ENOTSUP))
            inside = b"z" * length if error else bytes(length)
            self.holds(client, 0, b"z" * offset + inside + b"z" * (SIZE - offset - length))

    def test_no_hole_keeps_its_space(self):
        """What was zeroed so is told to be there."""
        if self.mode == SIMPLE or self.row.backend == NULL:
            return
        client = self.cleared()
        client.write_zeroes(MIB, MIB, CMD_FLAG_NO_HOLE)
        for _, flags in client.block_status(MIB, MIB):
            self.assertFalse(flags & rawreply.STATE_HOLE)

    @table(plain=0, fua=CMD_FLAG_FUA)
    def test_trim(self, flags):
        """Nothing is said of the range itself; all around it stays."""
        for offset, length in ((MIB, MIB), (1, 4095), (5000, 1), (0, SIZE - 1)):
            client = self.cleared()
            client.write(0, b"t" * SIZE)
            client.trim(offset, length, flags)
            found = client.read(0, SIZE)
            around = found[:offset] + found[offset + length:]
            self.assertTrue(around == (b"t" if self.keeps else b"\0") * (SIZE - length))
            found = found[offset:offset + length]
            self.assertLessEqual(set(found), {0, ord("t")})
            client.write(offset, b"n" * length)
            self.holds(client, offset, b"n" * length)

    def test_trimmed_twice(self):
        client = self.cleared()
        for _ in range(3):
            client.trim(0, SIZE)
        self.assertEqual(client.read(0, 4096), bytes(4096))

    @table(none=0, fua=CMD_FLAG_FUA)
    def test_cache(self, flags):
        """No change of what is read, whether it is offered or not."""
        client, data = self.patterned(10)
        offered = client.flags & rawnbd.SEND_CACHE
        for offset, length in ((0, 4096), (1, 1), (0, SIZE), (SIZE - 1, 1)):
            self.answer(client, 0 if offered else EINVAL, CMD_CACHE, offset, length, flags)
        self.assertEqual(client.read(0, len(data)), data)

    @table(plain=0, fua=CMD_FLAG_FUA)
    def test_flush(self, flags):
        client = self.cleared()
        for number in range(16):
            client.request(CMD_WRITE, number * 4096, 4096, payload=b"f" * 4096)
            client.request(CMD_FLUSH, flags=flags)
        for _ in range(32):
            self.assertEqual(client.reply()[1], 0)
        self.holds(client, 0, b"f" * 65536)

    def test_flush_covers_other_connections(self):
        """What one has been told to be written, another's FLUSH covers, and a third reads."""
        client = self.cleared()
        writer, reader = (self.connect(client=self.beside(client)) for _ in range(2))
        for number in range(20):
            data = bytes([number + 1]) * 10000
            writer.write(number * 10000, data, CMD_FLAG_FUA if number % 3 == 0 else 0)
            if number % 3:
                self.answer(client, 0, CMD_FLUSH)
            self.holds(reader, number * 10000, data)
        writer.disconnect()
        reader.disconnect()

    def test_flush_reaches_the_file(self):
        """What is behind the export has it, when FLUSH or FUA is answered."""
        client = self.cleared()
        path = client.target.specs[0]
        if not path.startswith("file:"):
            return
        client.write(12345, b"to the file")
        self.answer(client, 0, CMD_FLUSH)
        client.write(54321, b"at once", CMD_FLAG_FUA)
        with open(path[5:], "rb") as file:
            file.seek(12345)
            self.assertEqual(file.read(11), b"to the file")
            file.seek(54321)
            self.assertEqual(file.read(7), b"at once")


class Errors(conformance.Rules):
    """What the backing refuses, told to the client; on an export of a bdev that fails on demand."""

    @property
    def bad(self):
        """A shared connection to it; its bdev is EE_ and the shared one's name."""
        client = self.client
        if not hasattr(client, "bad"):
            target = client.target
            client.slow = "d" + self.add_bdev(target, SIZE)
            target.rpc("bdev_delay_create", base_bdev_name=client.slow[1:], name=client.slow,
                       avg_read_latency=20000, p99_read_latency=20000, avg_write_latency=0,
                       p99_write_latency=0)
            target.rpc("bdev_error_create", base_name=client.slow)
            target.rpc("export_create", name=client.slow, bdev="EE_" + client.slow)
            client.bad = self.connect(client.slow, client=self.beside(client, keep=True))
        return client.bad

    def inject(self, io_type, **kw):
        self.client.target.rpc("bdev_error_inject_error", name="EE_" + self.client.slow,
                               io_type=io_type, error_type="failure", **kw)

    @table(read=("read", CMD_READ, 4096, b""), write=("write", CMD_WRITE, 4096, b"x" * 4096),
           flush=("flush", CMD_FLUSH, 0, b""), trim=("unmap", CMD_TRIM, 4096, b""),
           write_zeroes=("write_zeroes", CMD_WRITE_ZEROES, 4096, b""))
    def test_error(self, io_type, command, length, payload):
        bad = self.bad
        for count in (1, 3):
            self.inject(io_type, num=count)
            for _ in range(count):
                self.answer(bad, EIO, command, 0, length, 0, payload)
            self.answer(bad, 0, command, 0, length, 0, payload)

    def test_read_error_with_df(self):
        bad = self.bad
        if self.mode == SIMPLE:
            return
        self.inject("read")
        self.assertEqual(self.answer(bad, EIO, CMD_READ, 4096, 65536, CMD_FLAG_DF), b"")

    def test_error_in_the_middle_of_a_read(self):
        """Told at its offset, and the rest is there; a simple reply can not, and is cut off."""
        bad, data = self.bad, random.Random(11).randbytes(4 * MIB)
        bad.write(MIB, data)
        self.inject("read", queue_depth=1)  # not the first part, but one while that is under way
        try:
            error, _ = bad.call(CMD_READ, MIB, 4 * MIB)
        except rawnbd.Closed:
            self.assertEqual(self.mode, SIMPLE)
            error = EIO
        self.assertEqual(error, EIO)
        if self.mode == SIMPLE:
            bad.close()
            del self.client.bad
            return
        offset, error, message = bad.last.errors[0]
        self.assertGreaterEqual(offset, 2 * MIB)
        self.assertTrue(message)
        self.assertEqual(len(bad.last.errors), 1)
        self.assertTrue(bad.last.covered)
        for begin, end in bad.last.covered:
            wanted = data[begin - MIB:end - MIB] if self.keeps else bytes(end - begin)
            self.assertTrue(bad.last.data[begin - MIB:end - MIB] == wanted)
        self.assertTrue(bad.read(MIB, 4 * MIB) == (data if self.keeps else bytes(4 * MIB)))

    def test_errors_among_others(self):
        """The request that failed is the one that is told so."""
        bad = self.bad
        self.inject("write", num=5)
        asked = [bad.request(CMD_WRITE, n * 4096, 4096, payload=b"e" * 4096) for n in range(20)]
        errors = [cookie for cookie, error, _ in (bad.reply() for _ in asked) if error]
        self.assertEqual(len(errors), 5)
        self.assertLessEqual(set(errors), set(asked))

    def test_replies_overtake(self):
        """Requests are carried out beside each other: a slow READ holds up no FLUSH."""
        bad = self.bad
        slow = bad.request(CMD_READ, 0, 4096)
        fast = [bad.request(CMD_FLUSH), bad.request(CMD_READ, SIZE, 1)]
        found = [bad.reply()[0] for _ in range(3)]
        self.assertEqual(sorted(found[:2]), fast)
        self.assertEqual(found[2], slow)


class Huge(conformance.Rules):
    """Effects beyond 4 GiB, on sparse exports of 64 GiB."""
    BIG = 64 * GIB

    @property
    def big(self):
        client = self.client
        if not hasattr(client, "big"):
            name = self.add_export(client.target, self.add_bdev(client.target, self.BIG))
            client.big = self.connect(name, client=self.beside(client, keep=True, timeout=60))
        return client.big

    def marked(self):
        """With some bytes at the ends and across 4 GiB."""
        for at in (0, 4 * GIB - 2, 60 * GIB, self.BIG - 4):
            self.big.write(at, b"mark")
        return self.big

    def longest(self):
        return self.BIG if self.mode == EXTENDED else 0xFFFFF000

    def test_size(self):
        self.assertEqual(self.big.size, self.BIG)
        self.assertEqual(self.big.read(self.BIG - 4096, 4000), bytes(4000))
        self.answer(self.big, EINVAL, CMD_READ, self.BIG - 1, 2)

    @table(trim=CMD_TRIM, write_zeroes=CMD_WRITE_ZEROES)
    def test_effect(self, command):
        """The whole length is acted on, and not its lower 32 bits."""
        big, length = self.marked(), self.longest()
        self.answer(big, 0, command, 1, length - 2 if length == self.BIG else length)
        if self.keeps:
            self.assertEqual(big.read(0, 1), b"m")
            self.assertEqual(big.read(self.BIG - 1, 1), b"k")
            if length == self.BIG:
                self.assertEqual(big.read(60 * GIB, 4), bytes(4))
        self.assertEqual(big.read(2 * GIB, 4096), bytes(4096))
        self.answer(big, 0, CMD_TRIM, self.BIG - 4096, 4096)

    @table(fua=CMD_FLAG_FUA, fast=CMD_FLAG_FAST_ZERO)
    def test_zeroes_with_flags(self, flags):
        big, length = self.marked(), self.longest()
        error, _ = big.call(CMD_WRITE_ZEROES, 0, length, flags)
        self.assertIn(error, (0, ENOTSUP) if flags == CMD_FLAG_FAST_ZERO else (0,))
        if not error:
            self.assertEqual(big.read(length - 4096, 4096), bytes(4096))

    def test_cache(self):
        big = self.big
        error = 0 if big.flags & rawnbd.SEND_CACHE else EINVAL
        self.answer(big, error, CMD_CACHE, 0, self.longest())

    def test_status(self):
        """Extents of more than 4 GiB, where the reply has room for them; else cut, never wrong."""
        if self.mode == SIMPLE:
            return
        big = self.big
        big.trim(0, self.longest())
        if self.mode == STRUCTURED:
            for at in range(0, self.BIG, 4 * GIB - MIB):
                big.trim(at, min(4 * GIB - MIB, self.BIG - at))
        big.write(33 * GIB, b"s" * 65536)
        hole = rawreply.STATE_HOLE | rawreply.STATE_ZERO
        wanted = [(0, 33 * GIB, hole), (33 * GIB, 33 * GIB + 65536, 0),
                  (33 * GIB + 65536, self.BIG, hole)]
        self.assertEqual(big.map(), wanted if self.keeps else [(0, self.BIG, hole)])
        first = big.block_status(0, self.longest())[0][0]
        if self.mode == EXTENDED:
            self.assertGreater(first, 4 * GIB)
        else:
            self.assertGreater(first, GIB)
        for length in (1, 4096, 5 * GIB if self.mode == EXTENDED else GIB):
            told = big.block_status(4096, length, rawnbd.CMD_FLAG_REQ_ONE)
            self.assertEqual(told, [(length, hole)])

    def test_beyond(self):
        big = self.big
        top = self.BIG + 4096 if self.mode == EXTENDED else 0xFFFFFFFF
        offset = 0 if self.mode == EXTENDED else self.BIG - GIB
        for command in (CMD_TRIM, CMD_WRITE_ZEROES):
            error = EINVAL if command == CMD_TRIM else rawnbd.ENOSPC
            self.answer(big, error, command, offset, top)


conformance.across(globals(), Cookies, Pipelines, Effects, Errors, Huge)
conformance.across(globals(), Chunks, mode=CHUNKED)
