# SPDX-License-Identifier: BSD-3-Clause
"""Conformance: the greeting and the options that any server has, rule by rule, on every row."""

import ctypes
import errno
import os
import socket
import stat
import struct

import conformance
import rawnbd
from conformance import SIZE, SMALL, closes, table, tearDownModule
from matrix import TCP
from rawnbd import (CMD_DISC, CMD_READ, CMD_WRITE, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES,
                    INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, OPT_ABORT,
                    OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST, OPT_PEEK, REP_ACK,
                    REP_ERR_INVALID, REP_ERR_TOO_BIG, REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_INFO,
                    REP_SERVER, go_data, option_bytes)

assert tearDownModule
PIDFD_GETFD = 438  # the number of the system call


class Greeting(conformance.Rules):
    OPENS = True

    def test_bytes(self):
        self.assertEqual(self.open().receive(18), struct.pack(
            ">QQH", rawnbd.MAGIC_INIT, rawnbd.MAGIC_OPTION, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES))

    def test_comes_unasked_and_alone(self):
        """The server speaks first, and then waits for the client's flags."""
        client = self.open()
        client.receive(18)
        self.assertTrue(client.quiet(0.05))

    @table(bit2=4, bit3=8, bit15=1 << 15, bit16=1 << 16, bit31=1 << 31, all=0xFFFFFFFF, with_known=7)
    def test_unknown_flag(self, flags):
        client = self.open().greeting(flags)
        self.ends(client)

    def test_flags_in_pieces(self):
        client = self.open()
        client.receive(18)
        for byte in struct.pack(">L", 3):
            client.send(bytes([byte]))
        self.goes_on(self.secured(client))

    def test_fixed_newstyle_alone(self):
        self.goes_on(self.greeted(FLAG_FIXED_NEWSTYLE))

    def test_flags_and_options_in_one_segment(self):
        client = self.open()
        client.receive(18)
        client.send(struct.pack(">L", 3) + option_bytes(4711) + option_bytes(OPT_LIST))
        self.assertEqual(client.option_reply(4711)[0], REP_ERR_UNSUP)
        while client.option_reply(OPT_LIST)[0] == REP_SERVER:
            pass
        self.goes_on(self.secured(client))

    def test_gone_after_greeting(self):
        for _ in range(3 if self.row.transport != conformance.STDIO else 1):
            client = self.open()
            client.receive(18)
            client.close()
        self.connect().disconnect()


class Socket(conformance.Rules):
    def test_nodelay(self):
        """Nagle's algorithm is off on the server's side: looked up by a copy of its descriptors."""
        self.in_sync(self.client)
        mine = self.client.sock.getsockname()
        libc, found = ctypes.CDLL(None, use_errno=True), []
        pidfd = os.pidfd_open(self.client.target.pid)
        try:
            for number in os.listdir(f"/proc/{self.client.target.pid}/fd"):
                copy = libc.syscall(PIDFD_GETFD, pidfd, int(number), 0)
                if copy < 0:
                    self.assertNotEqual(ctypes.get_errno(), errno.EPERM)
                    continue
                if not stat.S_ISSOCK(os.fstat(copy).st_mode):
                    os.close(copy)
                    continue
                with socket.socket(fileno=copy) as theirs:
                    if theirs.family == socket.AF_INET and self.peer(theirs) == mine:
                        found.append(theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        finally:
            os.close(pidfd)
        self.assertEqual([bool(value) for value in found], [True])

    @staticmethod
    def peer(sock):
        try:
            return sock.getpeername()
        except OSError:
            return None


class NotFixed(conformance.Rules):
    """Clients that know newstyle only: no TLS there, by the document."""
    OPENS = True

    @table(zeroes=(0, True), no_zeroes=(FLAG_NO_ZEROES, False))
    def test_export_name(self, flags, zeroes):
        client = self.open().greeting(flags).export_name("disk", zeroes=zeroes)
        self.assertEqual(client.size, SMALL)
        self.assertEqual(client.read(SMALL - 512, 512), bytes(512))
        client.disconnect()

    @table(list=OPT_LIST, info=OPT_INFO, go=OPT_GO, structured=rawnbd.OPT_STRUCTURED_REPLY,
           starttls=rawnbd.OPT_STARTTLS, unknown=4711)
    def test_other_option(self, option):
        """Only EXPORT_NAME is valid: the server may end the session or answer; others live on."""
        client = self.open().greeting(0)
        data = go_data("disk") if option in (OPT_INFO, OPT_GO) else b""
        closes(client.ask, option, data)
        self.connect("disk").disconnect()


class ExportName(conformance.Rules):
    """With EXPORT_NAME structured replies work as with GO; extended headers do not."""
    OPENS = True

    def ready(self, flags=None):
        return self.agreed(self.greeted(flags), min(self.mode, rawnbd.STRUCTURED))

    def works(self, client, size):
        self.assertEqual(client.size, size)
        self.assertTrue(client.flags & rawnbd.HAS_FLAGS)
        self.assertEqual(bool(client.flags & rawnbd.SEND_DF), client.mode != rawnbd.SIMPLE)
        self.assertEqual(client.read(size - 4096, 4096), bytes(4096))
        self.in_sync(client)
        client.disconnect()

    @table(default=("", SIZE), named=("disk", SMALL))
    def test_found(self, name, size):
        self.works(self.ready().export_name(name), size)

    def test_reserved_zeroes(self):
        """124 of them, unless both sides have agreed on none."""
        self.works(self.ready(FLAG_FIXED_NEWSTYLE).export_name("disk", zeroes=True), SMALL)

    def test_no_zeroes(self):
        self.works(self.ready(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).export_name("disk"), SMALL)

    @table(unknown=b"nobody", case=b"DISK", nul=b"disk\0", nul_within=b"di\0sk", prefix=b"dis",
           longer=b"disks", space=b"disk ", slash=b"/", not_utf8=b"\xff\xfe\xfd",
           bytes255=b"x" * 255, bytes256=b"x" * 256, bytes4096=b"x" * 4096, bytes4097=b"x" * 4097,
           bytes65536=b"x" * 65536)
    def test_not_found(self, name):
        """There is no way to tell an error: the session ends."""
        client = self.ready()
        closes(client.option, OPT_EXPORT_NAME, name)
        self.ends(client)

    def test_after_other_options(self):
        client = self.ready()
        client.refused(4711)
        client.list()
        client.info("disk")
        self.works(client.export_name("disk"), SMALL)

    def test_requests_in_the_same_segment(self):
        client = self.ready()
        client.reads[7] = 512
        client.partial[7] = rawnbd.rawreply.Reply(7, CMD_READ, 0, 512, 0, (), False)
        client.send(option_bytes(OPT_EXPORT_NAME, b"disk")
                    + rawnbd.request_bytes(CMD_READ, 0, 512, cookie=7))
        client.receive(10)
        self.assertEqual(client.reply(), (7, 0, bytes(512)))
        client.disconnect()

    def test_after_extended_headers(self):
        """A client that has extended headers must not use it, and gets nothing."""
        client = self.agreed(self.greeted(), rawnbd.EXTENDED)
        closes(client.option, OPT_EXPORT_NAME, b"disk")
        self.ends(client)

    def test_read_only(self):
        client = self.ready().export_name("fixed")
        self.assertTrue(client.flags & rawnbd.READ_ONLY)
        self.answer(client, rawnbd.EPERM, CMD_WRITE, 0, 512, payload=b"x" * 512)
        client.disconnect()


class Abort(conformance.Rules):
    OPENS = True

    @table(bare=b"", data=b"some data", looks_like_an_option=option_bytes(OPT_LIST),
           long=bytes(70000))
    def test_abort(self, data):
        """Acknowledged, whatever data came with it; then the session is over."""
        client = self.agreed()
        self.assertEqual(client.ask(OPT_ABORT, data), [])
        self.ends(client)

    def test_nothing_behind_it_counts(self):
        client = self.agreed()
        client.send(option_bytes(OPT_ABORT) + option_bytes(OPT_LIST) * 3)
        self.assertEqual(client.option_reply(OPT_ABORT), (REP_ACK, b""))
        self.ends(client)

    def test_gone_without_waiting(self):
        client = self.agreed()
        client.option(OPT_ABORT)
        client.close()
        self.connect().disconnect()

    def test_after_refused_options(self):
        client = self.agreed()
        client.refused(OPT_GO, go_data("nobody"))
        self.assertEqual(client.ask(OPT_ABORT), [])
        self.ends(client)


class Listing(conformance.Rules):
    OPENS = True

    def test_list(self):
        client = self.agreed()
        exports = client.list()
        self.assertEqual(sorted(exports), [("", ""), ("disk", ""), ("fixed", ""),
                                           ("told", "words for people")])
        self.assertEqual(client.list(), exports, "a second time")
        self.goes_on(client)

    @table(one_byte=b"x", name=b"disk", option=option_bytes(OPT_LIST), long=bytes(4096),
           longer_than_any=bytes(65537))
    def test_with_data(self, data):
        client = self.agreed()
        self.assertEqual(client.refused(OPT_LIST, data), REP_ERR_INVALID)
        self.goes_on(client)

    def test_each_name_opens(self):
        names = [name for name, _ in self.agreed().list()]
        client = self.agreed()
        for name in names:
            self.assertEqual(client.info(name, [INFO_NAME])[INFO_NAME], name)


class Unknown(conformance.Rules):
    OPENS = True

    @table(zero=0, peek_export=OPT_PEEK, twelve=12, big=0x10000, half=0x7FFFFFFF,
           reply_bit=0x80000003, top=0xFFFFFFFF)
    def test_option(self, option):
        client = self.agreed()
        for data in (b"", b"x", b"data" * 1000, bytes(65536), bytes(200000)):
            self.assertEqual(client.refused(option, data), REP_ERR_UNSUP, f"{len(data)} bytes")
        self.goes_on(client)

    def test_data_is_no_option(self):
        client = self.agreed()
        inner = option_bytes(OPT_ABORT)
        self.assertEqual(client.refused(99, inner * 9), REP_ERR_UNSUP)
        self.goes_on(client)

    @table(zero=0, init=rawnbd.MAGIC_INIT, one_off=rawnbd.MAGIC_OPTION + 1,
           reply=rawnbd.MAGIC_OPTION_REPLY, request=rawnbd.MAGIC_REQUEST << 32)
    def test_magic(self, magic):
        """The stream can not be followed any more."""
        client = self.agreed()
        client.option(OPT_LIST, magic=magic)
        self.ends(client)

    def test_many_in_one_segment(self):
        """Answered one by one, in order, though a client should wait."""
        client = self.agreed()
        options = [100 + number for number in range(50)]
        client.send(b"".join(option_bytes(option, b"d" * option) for option in options))
        for option in options:
            self.assertEqual(client.option_reply(option)[0], REP_ERR_UNSUP)
        self.goes_on(client)

    def test_hundreds(self):
        client = self.agreed()
        for _ in range(500):
            self.assertEqual(client.refused(4711), REP_ERR_UNSUP)
        self.goes_on(client)

    def test_error_has_words(self):
        client = self.agreed()
        for option, data in ((4711, b""), (OPT_LIST, b"x"), (OPT_GO, go_data("nobody")),
                             (OPT_INFO, b"")):
            with self.assertRaises(rawnbd.Refused) as caught:
                client.ask(option, data)
            self.assertRegex(str(caught.exception), "['\"].{5,}['\"]$")


BOTH = {"info": OPT_INFO, "go": OPT_GO}


def both(**rows):
    """A table with each row for INFO and for GO."""
    made = {}
    for key, values in rows.items():
        values = values if isinstance(values, tuple) else (values,)
        for name, option in BOTH.items():
            made[f"{name}_{key}"] = (option, *values)
    return table(**made)


def lying(length, name, tail):
    return struct.pack(">L", length) + name + tail


class Info(conformance.Rules):
    """INFO and GO: one format, one answer."""
    OPENS = True

    @both(default=("", SIZE), named=("disk", SMALL))
    def test_found(self, option, name, size):
        client = self.agreed()
        found = client.info(name, option=option)
        self.assertEqual(found[INFO_EXPORT][0], size)
        self.assertTrue(found[INFO_EXPORT][1] & rawnbd.HAS_FLAGS)
        if option == OPT_INFO:
            client.go(name)
        client.read(size - 512, 512)
        self.in_sync(client)
        client.disconnect()

    @both(unknown=b"nobody", case=b"DISK", prefix=b"dis", longer=b"disks", space=b" disk",
          utf8="é".encode(), bytes255=b"x" * 255, bytes4096=b"x" * 4096)
    def test_not_found(self, option, name):
        client = self.agreed()
        self.assertEqual(client.refused(option, go_data(name)), REP_ERR_UNKNOWN)
        self.goes_on(client)

    @both(nul=b"disk\0", nul_first=b"\0disk", not_utf8=b"\xff\xfe", bytes4097=b"x" * 4097,
          bytes60000=b"x" * 60000)
    def test_no_string(self, option, name):
        """What is no string of the protocol names no export."""
        client = self.agreed()
        self.assertIn(client.refused(option, go_data(name)),
                      (REP_ERR_INVALID, REP_ERR_UNKNOWN, REP_ERR_TOO_BIG))
        self.goes_on(client)

    @both(empty=b"", one_byte=b"\0", three_bytes=bytes(3), no_count=bytes(4),
          half_count=bytes(5), byte_more=go_data("disk") + b"\0",
          byte_less=go_data("disk", [INFO_NAME])[:-1], info_less=go_data("disk", [1, 2])[:-2],
          info_more=go_data("disk", [1]) + b"\0\1", name_into_count=lying(5, b"disk", b"\0\0"),
          name_to_the_end=lying(6, b"disk", b"\0\0"), name_beyond=lying(7, b"disk", b"\0\0"),
          name_of_4g=lying(0xFFFFFFFF, b"disk", b"\0\0"), name_of_2g=lying(1 << 31, b"disk", b"\0\0"),
          infos_65535=lying(4, b"disk", b"\xff\xff"), name_short=lying(3, b"disk", b"\0\0"))
    def test_malformed(self, option, data):
        client = self.agreed()
        self.assertEqual(client.refused(option, data), REP_ERR_INVALID)
        self.goes_on(client)

    @both(bytes65537=65537, bytes100000=100000, bytes1m=1 << 20)
    def test_too_long(self, option, length):
        """Refused, and its data is skipped."""
        client = self.agreed()
        self.assertIn(client.refused(option, bytes(length)), (REP_ERR_TOO_BIG, REP_ERR_INVALID))
        self.goes_on(client)

    @both(name=([INFO_NAME], {INFO_NAME: "told"}),
          description=([INFO_DESCRIPTION], {INFO_DESCRIPTION: "words for people"}),
          block_size=([INFO_BLOCK_SIZE], {INFO_BLOCK_SIZE: (1, 4096, 64 << 20)}),
          export=([INFO_EXPORT], {}), none=([], {}), unknown=([4, 4711, 0xFFFF], {}),
          twice=([INFO_NAME, INFO_NAME, INFO_NAME], {INFO_NAME: "told"}),
          many=([INFO_NAME] * 1000 + list(range(100, 1100)), {INFO_NAME: "told"}),
          backwards=([INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_NAME, INFO_EXPORT],
                     {INFO_NAME: "told", INFO_DESCRIPTION: "words for people",
                      INFO_BLOCK_SIZE: (1, 4096, 64 << 20)}))
    def test_infos(self, option, asked, wanted):
        """What was asked and is known comes once; EXPORT always."""
        client = self.agreed()
        found = client.info("told", asked, option)
        self.assertEqual(found.pop(INFO_EXPORT)[0], 2 << 20)
        self.assertEqual(found, wanted)
        if option == OPT_INFO:
            client.go("told", asked)
        client.read(0, 512)
        client.disconnect()

    def test_no_description(self):
        """An export without one: that info is left out."""
        client = self.agreed()
        self.assertNotIn(INFO_DESCRIPTION, client.info("disk", [INFO_DESCRIPTION]))

    def test_empty_name_is_canonical(self):
        self.assertEqual(self.agreed().info("", [INFO_NAME])[INFO_NAME], "")

    def test_lengths(self):
        """Each info is exactly as long as the document says."""
        client = self.agreed()
        client.option(OPT_INFO, go_data("told", [0, 1, 2, 3]))
        lengths = {}
        while True:
            kind, data = client.option_reply(OPT_INFO)
            if kind != REP_INFO:
                break
            lengths[struct.unpack(">H", data[:2])[0]] = len(data)
        self.assertEqual((kind, data), (REP_ACK, b""))
        self.assertEqual(lengths, {0: 12, 1: 2 + 4, 2: 2 + 16, 3: 14})

    def test_go_tells_what_info_told(self):
        client = self.agreed()
        for asked in ([], [INFO_NAME], [INFO_BLOCK_SIZE, INFO_NAME]):
            told = client.info("disk", asked)
        self.assertEqual(client.info("disk", asked, OPT_GO), told)

    def test_block_sizes_are_sound(self):
        least, preferred, most = self.agreed().info("", [INFO_BLOCK_SIZE])[INFO_BLOCK_SIZE]
        self.assertEqual((least & (least - 1), preferred & (preferred - 1)), (0, 0))
        self.assertTrue(1 <= least <= 65536 and max(least, 512) <= preferred <= most)
        self.assertGreaterEqual(most, 1 << 20)

    def test_info_commits_to_nothing(self):
        """INFO of one export, GO to another, without the block sizes asked for."""
        client = self.agreed()
        client.info("told", [INFO_BLOCK_SIZE])
        client.go("disk")
        self.assertEqual((client.size, client.read(1, 1)), (SMALL, b"\0"))
        client.disconnect()

    def test_go_again_after_error(self):
        client = self.agreed()
        for _ in range(3):
            self.assertEqual(client.refused(OPT_GO, go_data("nobody")), REP_ERR_UNKNOWN)
            self.assertEqual(client.refused(OPT_GO, b""), REP_ERR_INVALID)
        self.goes_on(client)

    def test_no_padding_after_go(self):
        """Whatever was agreed about zeroes, the ACK is the last byte of the handshake."""
        client = self.agreed(self.greeted(FLAG_FIXED_NEWSTYLE)).go("disk")
        self.assertEqual(client.read(0, 512), bytes(512))
        client.disconnect()

    def test_option_after_go(self):
        """Options are no more: an option's magic is no request's."""
        client = self.connect("disk")
        closes(client.send, option_bytes(OPT_LIST) * 3)
        self.ends(client)

    def test_requests_in_the_same_segment(self):
        client = self.agreed()
        client.reads[7] = 512
        client.partial = {cookie: rawnbd.rawreply.Reply(cookie, command, 0, 512, 0, (),
                                                        self.mode == rawnbd.EXTENDED)
                          for cookie, command in ((6, CMD_WRITE), (7, CMD_READ))}
        flags = rawnbd.CMD_FLAG_PAYLOAD_LEN if self.mode == rawnbd.EXTENDED else 0
        client.send(option_bytes(OPT_GO, go_data("told"))
                    + self.raw(client, CMD_WRITE, 0, 512, flags, b"x" * 512, cookie=6)
                    + self.raw(client, CMD_READ, 0, 512, cookie=7) + self.raw(client, CMD_DISC))
        while client.option_reply(OPT_GO)[0] == REP_INFO:
            pass
        if self.mode == rawnbd.SIMPLE:
            client.partial = {}
        self.assertEqual(sorted(client.reply()[:2] for _ in range(2)), [(6, 0), (7, 0)])
        self.assertEqual(client.receive_until_closed(), b"")

    def test_pieces(self):
        client = self.agreed()
        for byte in option_bytes(OPT_INFO, go_data("disk")):
            client.send(bytes([byte]))
        self.assertEqual(client.option_reply(OPT_INFO)[0], REP_INFO)
        self.assertEqual(client.option_reply(OPT_INFO), (REP_ACK, b""))
        self.goes_on(client)


class Flags(conformance.Rules):
    """The transmission flags tell what is there."""
    OPENS = True

    def flags(self, name=""):
        return self.agreed().info(name)[INFO_EXPORT][1]

    @table(has_flags=rawnbd.HAS_FLAGS, flush=rawnbd.SEND_FLUSH, fua=rawnbd.SEND_FUA,
           trim=rawnbd.SEND_TRIM, write_zeroes=rawnbd.SEND_WRITE_ZEROES,
           multi_conn=rawnbd.CAN_MULTI_CONN, fast_zero=rawnbd.SEND_FAST_ZERO)
    def test_offered(self, flag):
        self.assertTrue(self.flags() & flag)

    @table(resize=rawnbd.SEND_RESIZE, bit13=1 << 13, bit14=1 << 14, bit15=1 << 15,
           read_only=rawnbd.READ_ONLY)
    def test_not_offered(self, flag):
        self.assertFalse(self.flags() & flag)

    def test_df(self):
        """Exactly where replies come in chunks."""
        self.assertEqual(bool(self.flags() & rawnbd.SEND_DF), self.mode != rawnbd.SIMPLE)

    def test_read_only(self):
        flags = self.flags("fixed")
        self.assertTrue(flags & rawnbd.READ_ONLY)
        if not flags & rawnbd.SEND_WRITE_ZEROES:
            self.assertFalse(flags & rawnbd.SEND_FAST_ZERO)

    def test_block_status_payload(self):
        """With extended headers and contexts selected for this very export, and only then."""
        client = self.agreed()
        flag = rawnbd.BLOCK_STATUS_PAYLOAD
        self.assertFalse(client.info("disk")[INFO_EXPORT][1] & flag)
        if self.mode == rawnbd.SIMPLE:
            return
        client.set_contexts("disk")
        extended = self.mode == rawnbd.EXTENDED
        self.assertEqual(bool(client.info("disk")[INFO_EXPORT][1] & flag), extended)
        self.assertFalse(client.info("")[INFO_EXPORT][1] & flag)
        self.assertEqual(bool(client.go("disk").flags & flag), extended)


conformance.across(globals(), Greeting, Abort, Listing, Unknown, Info, Flags, ExportName)
conformance.across(globals(), NotFixed, security=(conformance.DIMENSIONS.security[0],))
conformance.across(globals(), Socket, transport=(TCP,))
