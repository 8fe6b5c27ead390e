# SPDX-License-Identifier: BSD-3-Clause
"""
Conformance: which requests are carried out and which error refuses the others - every command with
every combination of flags, every kind of range, every kind of payload; and that the stream goes on.
"""

import os
import struct

import conformance
import rawnbd
from conformance import SIZE, closes, table, tearDownModule
from harness import KIB, MIB
from matrix import DISK
from rawnbd import (CMD_BLOCK_STATUS, CMD_CACHE, CMD_DISC, CMD_FLAG_DF, CMD_FLAG_FAST_ZERO,
                    CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_PAYLOAD_LEN, CMD_FLAG_REQ_ONE,
                    CMD_FLUSH, CMD_READ, CMD_RESIZE, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, EINVAL,
                    ENOSPC, ENOTSUP, EOVERFLOW, EPERM, EXTENDED, MAX_PAYLOAD_BYTES, SIMPLE)

assert tearDownModule

COMMANDS = {"read": CMD_READ, "write": CMD_WRITE, "flush": CMD_FLUSH, "trim": CMD_TRIM,
            "cache": CMD_CACHE, "write_zeroes": CMD_WRITE_ZEROES, "block_status": CMD_BLOCK_STATUS}
RANGED = {name: command for name, command in COMMANDS.items() if command != CMD_FLUSH}
TOP = (1 << 64) - 1


def offered(client, command):
    """Whether a client in that mode may send the command."""
    flag = {CMD_CACHE: rawnbd.SEND_CACHE, CMD_TRIM: rawnbd.SEND_TRIM}.get(command)
    if command == CMD_BLOCK_STATUS:
        return client.mode != SIMPLE
    return not flag or bool(client.flags & flag)


def allowed(client, command):
    """The flags that the command may carry there."""
    flags = CMD_FLAG_FUA
    if command == CMD_READ and client.mode != SIMPLE:
        flags |= CMD_FLAG_DF
    if command == CMD_WRITE_ZEROES:
        flags |= CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO
    if command == CMD_BLOCK_STATUS:
        flags |= CMD_FLAG_REQ_ONE
    return flags


def past_end(command):
    return ENOSPC if command in (CMD_WRITE, CMD_WRITE_ZEROES) else EINVAL


class Flags(conformance.Rules):
    """All 64 combinations of the flags that the document knows, and those that it does not."""

    def check(self, command, flags):
        client = self.client
        length = 0 if command == CMD_FLUSH else 4096
        payload = b"f" * 4096 if command == CMD_WRITE else b""
        bad = flags & ~allowed(client, command) or not offered(client, command)
        good = (0, ENOTSUP) if flags & CMD_FLAG_FAST_ZERO else 0
        offset = 0 if command == CMD_FLUSH else 8192
        self.answer(client, EINVAL if bad else good, command, offset, length, flags, payload)

    @table(**COMMANDS)
    def test_known(self, command):
        for flags in range(64):
            if flags & CMD_FLAG_PAYLOAD_LEN and self.mode == EXTENDED:
                continue  # a payload follows: see below
            self.check(command, flags)

    @table(**COMMANDS)
    def test_unknown(self, command):
        for bit in range(6, 16):
            for more in (0, CMD_FLAG_FUA, allowed(self.client, command)):
                self.check(command, 1 << bit | more)
        self.check(command, 0xFFDF)

    @table(**{name: command for name, command in COMMANDS.items() if command != CMD_WRITE})
    def test_payload_len(self, command):
        """With extended headers: consumed and refused, whatever the other flags are. Without them
        the flag is none of the protocol and there is no payload."""
        client = self.client
        for flags in range(32):
            flags |= CMD_FLAG_PAYLOAD_LEN
            if self.mode == EXTENDED and command == CMD_BLOCK_STATUS:
                payload = b"no list of contexts"
            else:
                payload = b"p" * 4096 if self.mode == EXTENDED else b""
            self.answer(client, EINVAL, command, 0, len(payload) or 4096, flags, payload)

    def test_refused_write_changes_nothing(self):
        client, data = self.patterned()
        for flags in (CMD_FLAG_NO_HOLE, CMD_FLAG_DF, CMD_FLAG_REQ_ONE, CMD_FLAG_FAST_ZERO, 1 << 15):
            self.answer(client, EINVAL, CMD_WRITE, 0, 8192, flags, b"w" * 8192)
            self.answer(client, EINVAL, CMD_TRIM, 0, 8192, flags)
        for flags in (CMD_FLAG_DF, CMD_FLAG_REQ_ONE, 1 << 6, 1 << 15):
            self.answer(client, EINVAL, CMD_WRITE_ZEROES, 0, 8192, flags)
        self.assertEqual(client.read(0, len(data)), data)

    @table(resize=CMD_RESIZE, nine=9, ten=10, top_byte=255, reply_like=0x6698, top=0xFFFF)
    def test_unknown_command(self, command):
        client = self.client
        for flags in (0, CMD_FLAG_FUA, CMD_FLAG_DF, 1 << 15):
            for offset, length in ((0, 0), (0, 4096), (SIZE, 1), (TOP, 0xFFFFFFFF)):
                self.answer(client, EINVAL, command, offset, length, flags)
        if self.mode == EXTENDED:
            self.answer(client, EINVAL, command, 0, 5000, CMD_FLAG_PAYLOAD_LEN, b"u" * 5000)
            self.answer(client, EINVAL, command, 0, 1 << 40)


class Ranges(conformance.Rules):
    """Offsets and lengths: at the edges of the export, beyond them, overflowing."""

    def check(self, command, error, offset, length):
        client = self.client
        if not offered(client, command):
            error = EINVAL
        payload = b"r" * length if command == CMD_WRITE else b""
        self.answer(client, error, command, offset, length, 0, payload)

    @table(**RANGED)
    def test_inside(self, command):
        for offset, length in ((0, 1), (0, SIZE), (SIZE - 1, 1), (SIZE - 512, 512), (1, SIZE - 1),
                               (4095, 2), (511, 1), (513, 4097), (SIZE // 2, SIZE // 2)):
            self.check(command, 0, offset, length)

    @table(**RANGED)
    def test_beyond(self, command):
        for offset, length in ((SIZE, 1), (SIZE, 4096), (SIZE - 1, 2), (SIZE - 512, 1024),
                               (0, SIZE + 1), (SIZE + 1, 1), (1 << 32, 512), (1 << 62, 4096)):
            self.check(command, past_end(command), offset, length)

    @table(**RANGED)
    def test_overflow(self, command):
        for offset, length in ((1 << 63, 4096), ((1 << 63) - 1, 2), (TOP, 1), (TOP, 2),
                               (TOP - 511, 512), (TOP - 511, 513), (TOP - 4095, 8192)):
            self.check(command, past_end(command), offset, length)

    @table(**{name: command for name, command in RANGED.items() if command != CMD_WRITE})
    def test_longest(self, command):
        """The longest length that a request can tell, without a payload."""
        top = TOP if self.mode == EXTENDED else 0xFFFFFFFF
        for offset in (0, 1, SIZE, TOP):
            for length in (top, top - 1, top - 511, 1 << 31, 1 << 32 if top == TOP else 1 << 30):
                self.check(command, past_end(command), offset, length)

    @table(**COMMANDS)
    def test_length_zero(self, command):
        """Unspecified by the document, but that it must not end the session."""
        if command == CMD_FLUSH:
            self.answer(self.client, 0, command)
            return
        flags = (0, CMD_FLAG_PAYLOAD_LEN) if self.mode == EXTENDED else (0,)
        for offset in (0, 1, 4096, SIZE, SIZE + 1, TOP):
            for flag in flags:
                self.answer(self.client, (0, EINVAL, ENOSPC), command, offset, 0, flag)

    def test_flush_with_a_range(self):
        """Reserved: refused or ignored; the session goes on."""
        for offset, length in ((512, 0), (0, 512), (SIZE, SIZE), (TOP, 0xFFFFFFFF)):
            self.answer(self.client, (0, EINVAL), CMD_FLUSH, offset, length)

    @table(bytes1=1, bytes511=511, bytes513=513, bytes4095=4095, bytes4097=4097,
           bytes65535=65535, bytes65537=65537)
    def test_unaligned(self, length):
        """The least block is one byte: nothing next to the range changes."""
        for offset in (0, 1, 511, 512, 4095, 4096, 12345):
            client, _ = self.patterned(2, 256 * KIB)
            before = client.read(0, 256 * KIB)
            data = bytes(range(256)) * (length // 256 + 1)
            client.write(offset, data[:length])
            wanted = before[:offset] + data[:length] + before[offset + length:]
            found = client.read(0, 256 * KIB)
            self.assertEqual(found, wanted if self.keeps else bytes(256 * KIB))
            client.write_zeroes(offset, length)
            self.assertEqual(client.read(offset, length), bytes(length))
            if self.keeps:
                self.assertEqual(client.read(offset + length, 4096),
                                 before[offset + length:offset + length + 4096])

    def test_refused_ranges_change_nothing(self):
        client, data = self.patterned(3, 4096, SIZE - 4096)
        for command, payload in ((CMD_WRITE, b"w" * 8192), (CMD_WRITE_ZEROES, b""),
                                 (CMD_TRIM, b"")):
            self.answer(client, past_end(command), command, SIZE - 4096, 8192, 0, payload)
        self.assertEqual(client.read(SIZE - 4096, 4096), data)


class Payloads(conformance.Rules):
    """The payload of WRITE, up to the limit and beyond; PAYLOAD_LEN."""

    @table(bytes1=1, kib4=4 * KIB, kib32=32 * KIB, kib33=33 * KIB, mib1=MIB, more=MIB + 1, mib8=SIZE)
    def test_write(self, length):
        client = self.cleared()
        data = bytes(number % 251 for number in range(5000)) * (length // 5000 + 1)
        client.write(SIZE - length, data[:length])
        self.assertTrue(client.read(SIZE - length, length)
                        == (data[:length] if self.keeps else bytes(length)))

    @table(refused_early=(SIZE, ENOSPC, 0), bad_flag=(0, EINVAL, CMD_FLAG_DF),
           over_end=(SIZE - MIB, ENOSPC, 0))
    def test_refused_payload_is_consumed(self, offset, error, flags):
        for length in (1, 511, 4096, 100001, 2 * MIB):
            payload = self.raw(self.client, CMD_READ) * (length // 28 + 1)  # it is no request
            self.answer(self.client, error if length > MIB or offset != SIZE - MIB else 0,
                        CMD_WRITE, offset, length, flags, payload[:length])

    def test_in_pieces(self):
        client = self.cleared()
        flags = CMD_FLAG_PAYLOAD_LEN if self.mode == EXTENDED else 0
        if self.mode != SIMPLE:
            client.partial[7] = rawnbd.rawreply.Reply(7, CMD_WRITE, 100, 300, 0, (),
                                                      self.mode == EXTENDED)
        for byte in self.raw(client, CMD_WRITE, 100, 300, flags, b"q" * 300):
            client.send(bytes([byte]))
        self.assertEqual(client.reply()[:2], (7, 0))
        self.assertEqual(client.read(100, 300), b"q" * 300 if self.keeps else bytes(300))

    def test_largest(self):
        """64 MiB come in whole, though the export is smaller: refused, and the session goes on."""
        self.answer(self.client, ENOSPC, CMD_WRITE, 0, MAX_PAYLOAD_BYTES, 0,
                    bytes(MAX_PAYLOAD_BYTES))

    def test_beyond_the_largest(self):
        """With extended headers the server should hang up; else it may, or consume it."""
        client = self.spend()
        length = MAX_PAYLOAD_BYTES + 1
        flags = CMD_FLAG_PAYLOAD_LEN if self.mode == EXTENDED else 0
        if self.mode != SIMPLE:
            client.partial[7] = rawnbd.rawreply.Reply(7, CMD_WRITE, 0, length, 0, (),
                                                      self.mode == EXTENDED)

        def try_it():
            client.send(self.raw(client, CMD_WRITE, 0, length, flags))
            if self.mode == EXTENDED:
                self.assertIn(client.reply()[1], (EINVAL, ENOSPC))
                client.receive(1)
            else:
                for _ in range(64):
                    client.send(bytes(MIB))
                client.send(b"\0")
                self.assertIn(client.reply()[1], (EINVAL, ENOSPC))
                self.in_sync(client)
        self.assertEqual(closes(try_it), self.mode == EXTENDED)


class LongHeaders(conformance.Rules):
    """What only extended headers can say."""

    def test_write_without_payload_flag(self):
        """With extended headers a WRITE carries a payload, or it is refused; without the flag
        there is none."""
        client = self.client
        client.partial[9] = rawnbd.rawreply.Reply(9, CMD_WRITE, 0, 4096, 0, (), True)
        client.send(self.raw(client, CMD_WRITE, 0, 4096, cookie=9))
        self.assertEqual(client.reply()[:2], (9, EINVAL))

    @table(four_gib=1 << 32, five_gib=5 << 30, exa=1 << 60, top=TOP)
    def test_payload_of_more_than_32_bits(self, length):
        client = self.spend()
        client.partial[7] = rawnbd.rawreply.Reply(7, CMD_WRITE, 0, length, 0, (), True)
        client.send(self.raw(client, CMD_WRITE, 0, length, CMD_FLAG_PAYLOAD_LEN))
        self.assertIn(client.reply()[1], (EINVAL, ENOSPC))
        self.assertTrue(closes(client.receive, 1))


class LongReads(conformance.Rules):
    """A READ beyond the largest payload, of an export that is larger: refused."""

    @table(one_more=MAX_PAYLOAD_BYTES + 1, two=2 * MAX_PAYLOAD_BYTES, three_gib=3 << 30,
           top=0xFFFFFFFF)
    def test_read(self, length):
        client = self.client
        name = f"big{self.row.mode}"
        if not any(name == exported["name"] for exported in client.target.rpc("export_get_exports")):
            client.target.rpc("bdev_null_create", name=name, num_blocks=1 << 24, block_size=512)
            client.target.rpc("export_create", name=name, bdev=name)
        other = self.connect(name, client=self.beside(client))
        self.assertEqual(other.size, 8 << 30)
        flags = (0,) if self.mode == SIMPLE else (0, CMD_FLAG_DF)
        for flag in flags:
            error, data = other.call(CMD_READ, 4096, length, flag)
            self.assertIn(error, (EINVAL,) if self.mode == SIMPLE else (EOVERFLOW, EINVAL))
            self.assertEqual(data, b"")
        self.in_sync(other)
        other.disconnect()


class Cache(conformance.Rules):
    """CACHE where there is a cache: of a file that is served through the kernel's."""

    def cached(self):
        """A connection to such an export, which lives as long as the shared one."""
        client = self.client
        if not hasattr(client, "cached"):
            name = "c" + os.urandom(4).hex()
            path = conformance.make_image(self.row, self.BIG)
            client.target.rpc("bdev_file_create", name=name, filename=path, direct="off")
            self.add_export(client.target, name)
            client.cached = self.connect(name, client=self.beside(client, keep=True))
            client.cached.write(0, b"c" * SIZE)
        return client.cached

    BIG = 64 << 30

    def test_offered(self):
        self.assertTrue(self.cached().flags & rawnbd.SEND_CACHE)

    @table(byte=(0, 1), unaligned=(4097, 70001), written=(0, SIZE), hole=(SIZE, 64 * MIB),
           last=(BIG - 1, 1), most=(0, 0xFFFFFFFF))
    def test_range(self, offset, length):
        cached = self.cached()
        for flags in (0, CMD_FLAG_FUA):
            self.answer(cached, 0, CMD_CACHE, offset, length, flags)
        self.assertTrue(cached.read(0, SIZE) == b"c" * SIZE)

    def test_all(self):
        """The whole of it, in as many requests as the headers need."""
        step = self.BIG if self.mode == EXTENDED else 1 << 31
        for offset in range(0, self.BIG, step):
            self.answer(self.cached(), 0, CMD_CACHE, offset, step)

    @table(beyond=(BIG, 1), over=(BIG - 1, 2), overflow=(TOP, 1), top=(TOP - 4095, 8192))
    def test_refused(self, offset, length):
        self.answer(self.cached(), EINVAL, CMD_CACHE, offset, length)

    def test_flags(self):
        for flags in range(1, 64):
            wanted = 0 if flags == CMD_FLAG_FUA else EINVAL
            if not (flags & CMD_FLAG_PAYLOAD_LEN and self.mode == EXTENDED):
                self.answer(self.cached(), wanted, CMD_CACHE, 0, 4096, flags)


class ReadOnly(conformance.Rules):
    """Of an export that is read-only, what would write is refused before anything else."""

    def fixed(self):
        """A connection to it that lives as long as the shared one."""
        if not hasattr(self.client, "fixed"):
            self.client.fixed = self.connect("fixed", client=self.beside(self.client, keep=True))
        return self.client.fixed

    def tearDown(self):
        if self.used:
            self.in_sync(self.fixed())
        super().tearDown()

    @table(write=(CMD_WRITE, b"x" * 4096), trim=(CMD_TRIM, b""),
           write_zeroes=(CMD_WRITE_ZEROES, b""))
    def test_writing(self, command, payload):
        client = self.fixed()
        for offset in (0, 1, 4096, SIZE, TOP):
            for flags in (0, CMD_FLAG_FUA):
                self.answer(client, EPERM, command, offset, 4096, flags, payload)
        self.assertEqual(len(client.read(0, 4096)), 4096)

    def test_payload_of_refused_write_is_consumed(self):
        for length in (1, 100000, 3 * MIB):
            self.answer(self.fixed(), EPERM, CMD_WRITE, 0, length, 0, b"y" * length)

    def test_reading(self):
        client = self.fixed()
        self.assertEqual(len(client.read(0, SIZE)), SIZE)
        self.answer(client, 0, CMD_FLUSH)
        if self.mode != SIMPLE:
            self.assertTrue(client.block_status(0, SIZE))
        self.answer(client, EINVAL, CMD_READ, SIZE, 1)


class Magic(conformance.Rules):
    """What is no request ends the session: the stream can not be followed."""
    OPENS = True

    @table(zero=0, historic=0x12560953, log=0x25609514, simple_reply=rawnbd.MAGIC_SIMPLE_REPLY,
           structured_reply=0x668E33EF, extended_reply=0x6E8A278C, swapped=0x13956025)
    def test_magic(self, magic):
        client = self.connect("disk")
        client.send(self.raw(client, CMD_READ, 0, 512, magic=magic))
        self.ends(client)

    def test_header_of_another_mode(self):
        """With extended headers a compact one is too short: it is not waited for the rest of it."""
        client = self.connect("disk")
        other = rawnbd.request_bytes if self.mode == EXTENDED else rawnbd.extended_bytes
        client.send(other(CMD_READ, 0, 512))
        self.ends(client)

    def test_nothing_but_a_wrong_magic(self):
        client = self.connect("disk")
        client.send(struct.pack(">L", 0x12560953))
        self.ends(client)

    def test_good_requests_before_it(self):
        """Are answered or not; nothing comes that is no reply, and then the session ends."""
        client = self.connect("disk")
        client.request(CMD_FLUSH)
        client.send(struct.pack(">L", 0xDEADBEEF) * 10)
        closes(client.reply)
        closes(client.receive, 1)
        self.connect("disk", client=self.greeted()).disconnect()


class Disc(conformance.Rules):
    OPENS = True

    def test_disc(self):
        """No reply; the connection is closed."""
        client = self.connect("disk")
        client.send(self.raw(client, CMD_DISC))
        self.ends(client)

    @table(fua=CMD_FLAG_FUA, df=CMD_FLAG_DF, unknown=1 << 15)
    def test_with_flags(self, flags):
        client = self.connect("disk")
        client.send(self.raw(client, CMD_DISC, 0, 0, flags))
        self.ends(client)

    def test_with_a_range(self):
        client = self.connect("disk")
        client.send(self.raw(client, CMD_DISC, SIZE, 512))
        self.ends(client)

    def test_nothing_behind_it_counts(self):
        client = self.connect("disk")
        client.send(self.raw(client, CMD_DISC) + self.raw(client, CMD_READ, 0, 512) * 5)
        self.ends(client)

    def test_replies_before_it(self):
        """What came before is answered, all of it."""
        client = self.connect("disk")
        asked = [client.request(CMD_READ, number * 512, 512) for number in range(64)]
        client.send(self.raw(client, CMD_DISC))
        self.assertEqual(sorted(client.reply()[0] for _ in asked), asked)
        self.assertEqual(client.receive_until_closed(), b"")

    def test_writes_before_it(self):
        """Nothing of what was pipelined before it is lost."""
        if not self.keeps:
            return
        first = self.connect()
        first.write_zeroes(0, 64 * 4096)
        second = self.connect(client=self.beside(first))
        for number in range(64):
            second.request(CMD_WRITE, number * 4096, 4096, payload=bytes([number + 1]) * 4096)
        second.send(self.raw(second, CMD_DISC))
        for _ in range(64):
            self.assertEqual(second.reply()[1], 0)
        self.assertEqual(second.receive_until_closed(), b"")
        for number in range(64):
            self.assertEqual(first.read(number * 4096, 4096), bytes([number + 1]) * 4096)
        first.disconnect()


conformance.across(globals(), Flags, Ranges, Payloads, LongReads, ReadOnly, Magic, Disc)
conformance.across(globals(), LongHeaders, mode=conformance.MODES[2:])
conformance.across(globals(), Cache, backend=(DISK,))
