# SPDX-License-Identifier: BSD-3-Clause
"""The handshake: what it must answer, and that nonsense, cuts and stalls hurt nobody else."""

import struct
import time

import harness
import rawnbd
from harness import MIB
from rawnbd import (CMD_DISC, CMD_READ, CMD_WRITE, Closed, INFO_BLOCK_SIZE, INFO_DESCRIPTION,
                    INFO_EXPORT, INFO_NAME, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST,
                    REP_ACK, REP_ERR_INVALID, REP_ERR_TOO_BIG, REP_ERR_UNKNOWN, REP_ERR_UNSUP,
                    REP_ERROR, Refused, go_data, option_bytes, request_bytes)


class HandshakeTest(harness.TargetTest):
    """A default export and a named, described one."""

    SIZE = 8 * MIB

    def setUp(self):
        super().setUp()
        self.target = self.start("malloc:8M", "disk=malloc:1M", args=self.arguments())

    def arguments(self):
        return []

    def open(self, **kw):
        client = self.target.client(**kw)
        self.addCleanup(client.close)
        return client

    def greeted(self, flags=None):
        return self.open().greeting(flags)

    def goes_on(self, client):
        """The option phase still works on this connection, and then transmission does."""
        self.assertEqual({name for name, _ in client.list()}, {"", "disk"})
        client.go("disk")
        self.assertEqual(client.size, MIB)
        client.read(0, 512)
        client.disconnect()


class Greeting(HandshakeTest):
    def test_greeting(self):
        client = self.open()
        self.assertEqual(client.receive(18), struct.pack(
            ">QQH", rawnbd.MAGIC_INIT, rawnbd.MAGIC_OPTION,
            rawnbd.FLAG_FIXED_NEWSTYLE | rawnbd.FLAG_NO_ZEROES))

    def test_unknown_client_flags_end_the_session(self):
        for flags in (4, 0x80000000, 0xFFFFFFFF):
            with self.subTest(flags=hex(flags)):
                client = self.greeted(flags)
                client.option(OPT_LIST)
                self.assertEqual(client.receive_until_closed(), b"")
        self.assert_serves(self.target)

    def test_client_without_fixed_newstyle(self):
        client = self.greeted(0).export_name("", zeroes=True)
        self.assertEqual(client.size, self.SIZE)
        client.read(0, 512)
        client.disconnect()

    def test_bytes_one_at_a_time(self):
        client = self.open()
        client.receive(18)
        for byte in struct.pack(">L", 3) + option_bytes(OPT_INFO, go_data("disk")):
            client.send(bytes([byte]))
        kind, data = client.option_reply(OPT_INFO)
        self.assertEqual(kind, rawnbd.REP_INFO)
        self.assertEqual(struct.unpack(">HQ", data[:10]), (INFO_EXPORT, MIB))
        self.assertEqual(client.option_reply(OPT_INFO), (REP_ACK, b""))
        self.goes_on(client)

    def test_everything_in_one_segment(self):
        """Flags, options and requests before the greeting has been read."""
        client = self.open()
        client.reads[7] = 512
        client.send(struct.pack(">L", 3) + option_bytes(OPT_LIST)
                    + option_bytes(OPT_GO, go_data(""))
                    + request_bytes(CMD_WRITE, 0, 512, cookie=6, payload=b"x" * 512)
                    + request_bytes(CMD_READ, 0, 512, cookie=7))
        client.receive(18)
        kinds = [client.option_reply(OPT_LIST)[0] for _ in range(3)]
        self.assertEqual(kinds, [rawnbd.REP_SERVER, rawnbd.REP_SERVER, REP_ACK])
        while client.option_reply(OPT_GO)[0] != REP_ACK:
            pass
        replies = {cookie: error for cookie, error, _ in (client.reply(), client.reply())}
        self.assertEqual(replies, {6: 0, 7: 0})


class Options(HandshakeTest):
    def test_bad_magic_ends_the_session(self):
        for magic in (0, rawnbd.MAGIC_INIT, rawnbd.MAGIC_OPTION + 1, (1 << 64) - 1):
            with self.subTest(magic=hex(magic)):
                client = self.greeted()
                client.option(OPT_LIST, magic=magic)
                self.assertEqual(client.receive_until_closed(), b"")
        self.assert_serves(self.target)

    def test_unknown_options(self):
        client = self.greeted()
        for option in (0, 12, 99, 0x7FFFFFFF, 0xFFFFFFFF):
            for data in (b"", b"x", b"some data" * 100):
                self.assertEqual(client.refused(option, data), REP_ERR_UNSUP, option)
        self.goes_on(client)

    def test_unknown_option_that_looks_like_an_option(self):
        client = self.greeted()
        inner = option_bytes(OPT_ABORT)
        self.assertEqual(client.refused(4711, inner * 5), REP_ERR_UNSUP)
        self.goes_on(client)

    def test_list(self):
        self.assertEqual(sorted(self.greeted().list()), [("", ""), ("disk", "")])

    def test_list_with_data(self):
        client = self.greeted()
        self.assertEqual(client.refused(OPT_LIST, b"data"), REP_ERR_INVALID)
        self.goes_on(client)

    def test_abort(self):
        client = self.greeted()
        self.assertEqual(client.ask(OPT_ABORT), [])
        self.assertEqual(client.receive_until_closed(), b"")

    def test_abort_and_gone(self):
        for _ in range(20):
            client = self.greeted()
            client.option(OPT_ABORT)
            client.close()
        self.assert_serves(self.target)

    def test_export_name(self):
        client = self.greeted().export_name("disk")
        self.assertEqual(client.size, MIB)
        self.assertTrue(client.flags & rawnbd.HAS_FLAGS)
        client.write(0, b"y" * 512)
        self.assertEqual(client.read(0, 512), b"y" * 512)
        client.disconnect()

    def test_export_name_with_zeroes(self):
        client = self.greeted(rawnbd.FLAG_FIXED_NEWSTYLE).export_name("disk", zeroes=True)
        self.assertEqual(client.size, MIB)
        client.read(0, 512)
        client.disconnect()

    def test_export_name_unknown_ends_the_session(self):
        for name in (b"nobody", b"disk\0", b"DISK", b"\xff\xfe", b"x" * 4096):
            client = self.greeted()
            client.option(OPT_EXPORT_NAME, name)
            self.assertEqual(client.receive_until_closed(), b"")
        self.assert_serves(self.target)

    def test_export_name_and_gone(self):
        """Clients that hang up without reading the answer, some with a request behind it."""
        for round_number in range(50):
            client = self.greeted()
            client.option(OPT_EXPORT_NAME)
            if round_number % 2:
                client.send(request_bytes(CMD_READ, 0, 65536))
            client.close()
        self.wait_idle(self.target)
        self.assert_serves(self.target)

    def test_info_and_go(self):
        client = self.greeted()
        flags = client.info("disk")[INFO_EXPORT][1]
        for needed in (rawnbd.HAS_FLAGS, rawnbd.SEND_FLUSH, rawnbd.SEND_FUA, rawnbd.SEND_TRIM,
                       rawnbd.SEND_WRITE_ZEROES, rawnbd.CAN_MULTI_CONN):
            self.assertTrue(flags & needed, f"flag {needed:#x} in {flags:#x}")
        for unwanted in (rawnbd.READ_ONLY, rawnbd.SEND_DF, rawnbd.SEND_RESIZE):
            self.assertFalse(flags & unwanted, f"flag {unwanted:#x} in {flags:#x}")
        self.assertEqual(client.info("")[INFO_EXPORT][0], self.SIZE)
        self.assertEqual(client.info("", option=OPT_GO)[INFO_EXPORT][0], self.SIZE)
        client.read(0, 512)

    def test_infos(self):
        self.target.rpc("export_create", name="told", bdev=self.a_bdev(),
                        description="a disk to tell of")
        client = self.greeted()
        found = client.info("told", [INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE])
        self.assertEqual(found[INFO_NAME], "told")
        self.assertEqual(found[INFO_DESCRIPTION], "a disk to tell of")
        self.assertEqual(found[INFO_BLOCK_SIZE], (1, 4096, 64 * MIB))
        self.assertIn(("told", "a disk to tell of"), client.list())
        # what nobody knows is left out, what is asked twice comes once
        found = client.info("told", [4711, INFO_BLOCK_SIZE, INFO_BLOCK_SIZE, 0xFFFF, INFO_EXPORT])
        self.assertEqual(set(found), {INFO_EXPORT, INFO_BLOCK_SIZE})
        self.assertEqual(client.info("", [INFO_NAME])[INFO_NAME], "")
        client.go("told", [INFO_NAME])
        client.read(0, 512)

    def a_bdev(self):
        return self.target.rpc("bdev_malloc_create", num_blocks=2048, block_size=512)

    def test_unknown_export(self):
        client = self.greeted()
        for option in (OPT_INFO, OPT_GO):
            for name in ("nobody", "DISK", "x" * 4096, "é"):
                self.assertEqual(client.refused(option, go_data(name)), REP_ERR_UNKNOWN, name)
            for name in (b"disk\0", b"\xff\xfe"):  # no strings of the protocol
                self.assertIn(client.refused(option, go_data(name)),
                              (REP_ERR_INVALID, REP_ERR_UNKNOWN))
        self.goes_on(client)

    def test_malformed_info_and_go(self):
        good = go_data("disk", [INFO_NAME])
        bad = [b"", b"\0", b"\0\0\0", b"\0\0\0\0", b"\0\0\0\0\0",  # too short
               good[:-1], good + b"\0",  # an info too few, a byte too many
               struct.pack(">L", 5) + b"disk" + b"\0\0",  # the name reaches into the count
               struct.pack(">L", 0xFFFFFFFF) + b"disk\0\0",  # the name reaches nowhere
               struct.pack(">L", 4) + b"disk" + b"\xff\xff",  # 65,535 infos that are not there
               struct.pack(">L", 4) + b"disk" + b"\0\2" + b"\0\1"]
        client = self.greeted()
        for option in (OPT_INFO, OPT_GO):
            for data in bad:
                with self.subTest(option=option, data=data):
                    self.assertEqual(client.refused(option, data), REP_ERR_INVALID)
        self.goes_on(client)

    def test_long_names(self):
        client = self.greeted()
        for length in (4097, 5000, 60000):
            reply = client.refused(OPT_GO, go_data("x" * length))
            self.assertIn(reply, (REP_ERR_INVALID, REP_ERR_TOO_BIG, REP_ERR_UNKNOWN))
        self.goes_on(client)

    def test_oversized_options_are_skipped(self):
        """More data than an option may have: an error, and the next option is understood."""
        client = self.greeted()
        for option in (OPT_LIST, OPT_GO, OPT_INFO, 4711):
            for length in (65537, MIB):
                reply = client.refused(option, bytes(length))
                self.assertTrue(reply & REP_ERROR, hex(reply))
        self.goes_on(client)

    def test_endless_option(self):
        """4 GiB announced: refused or awaited, but nothing is allocated and others are served."""
        before = self.target.rss()
        for option in (OPT_GO, OPT_LIST, OPT_EXPORT_NAME, 4711):
            client = self.greeted()
            client.option(option, length=0xFFFFFFFF)
            try:
                for _ in range(8):
                    client.send(bytes(MIB))
            except Closed:
                pass
        self.assert_serves(self.target)
        self.assertLess(self.target.rss() - before, 64 * MIB)

    def test_options_without_end(self):
        """A client that asks forever is cut off in the end, or at least harms nobody."""
        client = self.greeted()
        answered = 0
        try:
            for _ in range(10000):
                client.refused(4711)
                answered += 1
        except Closed:
            pass
        self.assertGreater(answered, 100)
        self.assert_serves(self.target)

    def test_go_twice(self):
        """After a GO that failed, another one works; after one that worked, options are no more."""
        client = self.greeted()
        with self.assertRaises(Refused):
            client.go("nobody")
        client.go("disk")
        client.send(option_bytes(OPT_LIST) * 2)  # an option's magic is no request's
        self.assertEqual(client.receive_until_closed(), b"")
        self.assert_serves(self.target)

    def test_many_exports(self):
        bdev = self.a_bdev()
        for number in range(200):
            self.target.rpc("export_create", name=f"e{number}", bdev=bdev, read_only=True)
        client = self.greeted()
        self.assertEqual({name for name, _ in client.list()},
                         {"", "disk"} | {f"e{number}" for number in range(200)})
        self.assertEqual(client.go("e199").size, 2048 * 512)
        self.assertTrue(client.flags & rawnbd.READ_ONLY)


class TimeOut(HandshakeTest):
    MILLISECONDS = 500

    def arguments(self):
        return ["--handshake-timeout", str(self.MILLISECONDS)]

    def closed_in_time(self, client):
        began = time.monotonic()
        client.receive_until_closed()
        return time.monotonic() - began

    def test_silent_clients(self):
        silent = self.open()
        halfway = self.greeted()
        halfway.option(OPT_GO, go_data("disk")[:6], length=len(go_data("disk")))
        chatting = self.greeted()
        working = self.target.connect()
        self.addCleanup(working.close)
        began = time.monotonic()
        for client in (silent, halfway):
            client.receive_until_closed()
        self.assertLess(time.monotonic() - began, 10)
        self.assertGreater(time.monotonic() - began, self.MILLISECONDS / 1000 * 0.5)
        # the time is for the whole handshake: talking does not prolong it
        end = time.monotonic() + 20
        with self.assertRaises(Closed):
            while time.monotonic() < end:
                chatting.refused(4711)
                time.sleep(0.02)
        working.read(0, 512)  # transmission has no such limit
        self.wait_idle(self.target, 1)

    def test_a_byte_now_and_then(self):
        client = self.greeted()
        data = option_bytes(OPT_GO, go_data("disk", [INFO_NAME] * 100))
        end = time.monotonic() + 20
        with self.assertRaises(Closed):
            for byte in data:
                client.send(bytes([byte]))
                time.sleep(0.05)
                self.assertLess(time.monotonic(), end)
            client.receive(1 << 20)


class Cut(HandshakeTest):
    """A whole session, cut off at every byte in turn."""

    def session(self):
        return (struct.pack(">L", 3) + option_bytes(4711, b"what?") + option_bytes(OPT_LIST)
                + option_bytes(OPT_INFO, go_data("disk", [INFO_BLOCK_SIZE]))
                + option_bytes(OPT_GO, go_data("disk", [INFO_NAME, INFO_DESCRIPTION]))
                + request_bytes(CMD_WRITE, 4096, 64, cookie=1, payload=b"p" * 64)
                + request_bytes(CMD_READ, 1, 64, cookie=2)
                + request_bytes(CMD_DISC))

    def test_cut_at_every_byte(self):
        session = self.session()
        self.target.rpc("connection_get_connections")
        fds = self.target.fds()
        for cut in range(len(session) + 1):
            client = self.target.client()
            if cut % 3 == 1:
                client.receive(18)
            try:
                client.send(session[:cut])
            except Closed:
                pass
            client.close()
        self.wait_idle(self.target)
        self.assert_serves(self.target)
        self.wait_idle(self.target)
        harness.wait_for(lambda: self.target.fds() <= fds + 1, 10, "descriptors to be given back")

    def test_cut_export_name_session(self):
        session = (struct.pack(">L", 1) + option_bytes(OPT_EXPORT_NAME, b"disk")
                   + request_bytes(CMD_READ, 0, 4096, cookie=2))
        for cut in range(len(session) + 1):
            client = self.target.client()
            client.send(session[:cut])
            client.close()
        self.wait_idle(self.target)
        self.assert_serves(self.target)

    def test_stalled_while_others_work(self):
        """Clients stand still at every byte of the session; another one is served meanwhile."""
        session = self.session()
        stalled = []
        for cut in range(0, len(session), 3):
            client = self.open()
            client.send(session[:cut])
            stalled.append(client)
        with self.target.connect() as working:
            for number in range(50):
                working.write(number * 4096, bytes([number]) * 4096)
                self.assertEqual(working.read(number * 4096, 4096), bytes([number]) * 4096)
        for client in stalled:
            client.close()
        self.wait_idle(self.target)


class CutTcp(Cut):
    """The same over TCP, where what is unread turns a close into a reset."""

    def setUp(self):
        harness.TargetTest.setUp(self)
        self.target = self.start("malloc:8M", "disk=malloc:1M", tcp=True)

    def test_reset_at_every_byte(self):
        session = self.session()
        for cut in range(0, len(session) + 1):
            client = self.target.client()
            client.send(session[:cut])
            client.reset()
        self.wait_idle(self.target)
        self.assert_serves(self.target)
