# SPDX-License-Identifier: BSD-3-Clause
"""How pollux-perf fails: wrong options, servers that lack something or break the protocol."""

import signal
import struct
import time

import harness
import rawnbd
from harness import wait_for
from perftool import FakeServer, Perf, PerfTest, chunk, good_reply, perf, store


class Failures(PerfTest):
    def refused(self, *args, word):
        started = time.monotonic()
        done = perf(*args, status=1)
        self.assertIn(word, done.err)
        self.assertEqual(len(done.err.splitlines()), 1, done.err)
        self.assertTrue(done.err.startswith("pollux-perf: "), done.err)
        self.assertEqual(done.out, "")
        return time.monotonic() - started

    def test_bad_options(self):
        for args, word in (([], "URI"), (["nbd://h", "--rw", "x"], "--rw"), (["x"], "x"),
                           (["nbd://h", "--bs", "x"], "--bs"),
                           (["nbd://h", "--nonsense"], "--nonsense is no option"),
                           (["nbd+unix:///x"], "socket"), (["nbd://h", "--json="], "--json="),
                           (["nbd://h", "--rate", "0x10"], "--rate"),
                           (["nbd://h", "--time", "0.00000000001"], "--time")):
            self.refused(*args, word=word)

    def test_help_and_version(self):
        self.assertIn("--iodepth", perf("--help").out)
        self.assertRegex(perf("--version").out, r"^pollux-perf \d+\.\d+")

    def test_what_does_not_fit_the_export(self):
        target = self.start("malloc:1M", args=["--read-only"])
        uri = target.uri()
        self.refused(uri, "--rw", "write", word="read-only")
        self.refused(uri, "--offset", "1M", word="beyond the export's end (1M)")
        self.refused(uri, "--offset", "4k", "--size", "1M", word="beyond the export's end (1M)")
        self.refused(uri, "--bs", "2M", word="no room for a single block")
        self.refused(uri, "--verify", "--bs", "64k", word="blocks")
        self.refused(uri, "--discard", word="--discard is for TCP")
        self.refused("nbd+vsock://1:1/", "--discard", word="--discard is for TCP")
        self.refused("nbds://127.0.0.1", "--discard", word="--discard is not for TLS")
        self.refused("nbd://127.0.0.1", "--discard", "--tls-no-verify", word="not for TLS")

    def test_block_size_constraints(self):
        infos = struct.pack(">HLLL", 3, 4096, 4096, 65536)
        server = self.fake(lambda *_: False, infos=infos)
        self.refused(server.uri(), "--bs", "6k", word="minimum block size, 4K")
        self.refused(server.uri(), "--offset", "1k", word="minimum block size, 4K")
        self.refused(server.uri(), "--bs", "128k", word="the largest request that the server "
                     "takes, 64K")

    def test_what_the_server_lacks(self):
        server = self.fake(lambda *_: False, flags=rawnbd.HAS_FLAGS)
        self.refused(server.uri(), "--rw", "write", "--fua", word="FUA")
        self.refused(server.uri(), "--rw", "write", "--flush-every", 1, word="FLUSH")
        self.refused(server.uri(), "--structured", word="structured replies")
        self.refused(server.uri(), "--extended", word="extended headers")

    def test_unknown_export(self):
        target = self.start("a=malloc:1M", tcp=True)
        self.refused(target.uri("b"), word="no such export: there is no export of this name")

    def test_nobody_there(self):
        self.refused(f"nbd://127.0.0.1:{harness.free_port()}", word="Connection refused")
        self.refused(f"nbd+unix:///?socket={self.path('none')}", word="No such file")

    def test_silence_in_the_handshake(self):
        server = self.fake(None, accept=False)
        self.refused(server.uri(), "--timeout", "0.5", word="no answer in time (--timeout)")

    def test_no_nbd_server(self):
        server = self.fake(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
                           greet=False)
        self.refused(server.uri(), word="this is no NBD server")

    def test_cpu_that_is_not_there(self):
        target = self.start("malloc:1M")
        self.refused(target.uri(), "--cores", "1023", word="CPU 1023")

    def test_server_killed(self):
        """The summary so far, the connection that was lost, exit status 2."""
        target = self.start("malloc:16M", tcp=True)
        run = Perf(target.uri(), "--time", 60, "--connections", 3)
        wait_for(lambda: target.rpc("export_get_iostat")["exports"][0]["read"]["ops"] > 1000, 20,
                 "requests")
        target.checked = True
        target.kill()
        done = run.wait()
        self.assertEqual(done.status, 2, done)
        self.assertRegex(done.err,
                         r"connection \d to nbd://.*: (the server closed|receiving|sending)")
        self.assertRegex(done.out, r"reads +\d{2,}")

    def test_server_stalls(self):
        target = self.start("malloc:16M", tcp=True)
        run = Perf(target.uri(), "--time", 60, "--timeout", 1, "--iodepth", 5, "--json")
        wait_for(lambda: target.rpc("export_get_iostat")["exports"][0]["read"]["ops"] > 1000, 20,
                 "requests")
        target.signal(signal.SIGSTOP)
        try:
            done = run.wait()
        finally:
            target.signal(signal.SIGCONT)
        self.assertEqual(done.status, 2, done)
        self.assertIn("5 requests are waiting", done.json["failure"])

    def test_interrupted(self):
        """Ctrl-C: the summary so far; nothing is wrong with it."""
        target = self.start("malloc:16M", tcp=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            before = target.rpc("export_get_iostat")["exports"][0]["read"]["ops"]
            run = Perf(target.uri(), "--time", 0, "--json")
            wait_for(lambda before=before: target.rpc("export_get_iostat")["exports"][0]["read"]
                     ["ops"] > before + 1000, 20, "requests")
            run.interrupt(number)
            done = run.wait()
            self.assertEqual(done.status, 0, done)
            self.assertTrue(done.json["interrupted"])
            self.assertGreater(done.json["reads"]["requests"], 1000)

    def test_error_replies(self):
        """Errors are counted, the first one is told in full; the rest goes on."""
        target = self.start()
        target.rpc("bdev_malloc_create", name="d", num_blocks=2048, block_size=512)
        target.rpc("bdev_error_create", base_name="d")
        target.rpc("export_create", name="e", bdev="EE_d")
        for mode in ([], ["--structured"], ["--extended"]):
            target.rpc("bdev_error_inject_error", name="EE_d", io_type="read",
                       error_type="failure", num=7)
            done = perf(target.uri("e"), "--requests", 500, "--json", *mode, status=2)
            told = done.json
            self.assertEqual((told["errors"], told["reads"]["requests"]), (7, 493))
            self.assertIn("READ of 4096 bytes at", told["first_error"])
            self.assertIn("EIO", done.err)

    def broken(self, answer, word, *args, **kw):
        server = self.fake(answer, **kw)
        done = perf(server.uri(), "--time", 20, "--timeout", 10, *args, status=2)
        self.assertIn(word, done.err)

    def test_broken_protocol(self):
        def wrong_cookie(sock, _command, cookie, _offset, length, _payload):
            sock.sendall(good_reply(cookie ^ 1 << 40, bytes(length)))

        def wrong_magic(sock, *_):
            sock.sendall(b"?" * 16)

        def twice(sock, _command, cookie, _offset, length, _payload):
            sock.sendall(2 * good_reply(cookie, bytes(length)))

        def simple(sock, _command, cookie, _offset, length, _payload):
            sock.sendall(good_reply(cookie, bytes(length)))

        def gap(sock, _command, cookie, offset, _length, _payload):
            sock.sendall(chunk(cookie, offset, bytes(512), True))

        def twins(sock, _command, cookie, offset, _length, _payload):
            sock.sendall(chunk(cookie, offset, bytes(2048))
                         + chunk(cookie, offset, bytes(2048), True))

        def inside(sock, _command, cookie, offset, _length, _payload):
            sock.sendall(chunk(cookie, offset + 512, bytes(3072)) + chunk(cookie, offset, bytes(512))
                         + chunk(cookie, offset + 1024, bytes(512), True))

        def too_much(sock, _command, cookie, offset, length, _payload):
            sock.sendall(chunk(cookie, offset, bytes(length)) + chunk(cookie, offset, b"x", True))

        self.broken(wrong_cookie, "a reply to no request", "--iodepth", 1)
        self.broken(wrong_magic, "wrong magic")
        self.broken(twice, "a reply to no request", "--rate", 50)
        self.broken(simple, "a simple reply to a structured read", "--structured", structured=True)
        for answer, word in ((gap, "have 512"), (twins, "overlap and leave a gap"),
                             (inside, "overlap and leave a gap"), (too_much, "have 4097")):
            self.broken(answer, f"the chunks of a READ of 4096 bytes {word}", "--structured",
                        structured=True)

    def test_chunks_in_any_order(self):
        def pieces(sock, _command, cookie, offset, length, _payload):
            order = [3, 1, 0, 2] if offset % 8192 else [1, 0, 2, 3]
            quarter = length // 4
            for at in order[:3]:
                sock.sendall(chunk(cookie, offset + at * quarter, bytes(quarter)))
            sock.sendall(chunk(cookie, offset + order[3] * quarter, bytes(quarter), True))

        server = self.fake(pieces, structured=True)
        told = perf(server.uri(), "--structured", "--requests", 200, "--json").json
        self.assertEqual((told["reads"]["requests"], told["errors"]), (200, 0))

    def test_replies_before_requests(self):
        """
        A server that knows which cookies come next answers what still gathers for sending: it does
        not read, so that nothing more can be sent.
        """
        class Early(FakeServer):
            def request(self, sock):
                cookie, = struct.unpack("<8xQ12x", self.receive(sock, 28))
                depth, first = 32, cookie >> 16
                for row in range(4):
                    sock.sendall(b"".join(
                        struct.pack(">LL", rawnbd.MAGIC_SIMPLE_REPLY, 0)
                        + struct.pack("<Q", first + row * depth + slot << 16 | slot)
                        for slot in range(depth)))
                    time.sleep(0.1)  # until the next ones have gathered
                return self.wait_for_leave(sock)

        server = Early(None, size=1 << 26)
        self.addCleanup(server.close)
        done = perf(server.uri(), "--rw", "write", "--bs", "1M", "--timeout", 20, status=2)
        self.assertIn("a reply to no request", done.err)

    def test_replies_before_requests_with_discard(self):
        """The kernel can not take any more requests, and replies do not end."""
        class Flood(FakeServer):
            def request(self, sock):
                self.receive(sock, 28)
                while True:
                    sock.sendall(4000 * good_reply(0, b"x"))

        server = Flood(None)
        self.addCleanup(server.close)
        done = perf(server.uri(), "--discard", "--bs", 1, "--iodepth", 4000, "--timeout", 20,
                    "--time", 60, status=2)
        self.assertIn("out of turn", done.err)

    def test_words_of_the_server(self):
        """What a server says neither moves the cursor nor spoils the JSON."""
        text = b"\x1b[2J\xff\x9b no"

        def error(sock, _command, cookie, _offset, _length, _payload):
            sock.sendall(struct.pack(">LHHQLLH", 0x668E33EF, 1, 0x8001, cookie, 6 + len(text), 5,
                                     len(text)) + text)

        server = self.fake(error, structured=True)
        done = perf(server.uri(), "--structured", "--requests", 3, "--json", status=2)
        self.assertIn("EIO: ?[2J??", done.json["first_error"])
        self.assertIn("?[2J??", done.err)
        self.assertNotIn("\x1b", done.err)

    def test_uri_that_is_not_utf8(self):
        server = self.fake(store(bytearray(1 << 20)))
        told = perf(server.uri() + "a\udcff", "--requests", 3, "--json").json
        self.assertTrue(told["targets"][0]["uri"].endswith("a?"))

    def test_replies_out_of_order_and_in_pieces(self):
        """Any order and any cutting of replies is right."""
        waiting = []

        def shuffle(sock, _command, cookie, _offset, length, _payload):
            waiting.append(good_reply(cookie, bytes(length)))
            if len(waiting) == 8:
                data = b"".join(reversed(waiting))
                waiting.clear()
                for at in range(0, len(data), 777):
                    sock.sendall(data[at:at + 777])

        server = self.fake(shuffle)
        told = perf(server.uri(), "--iodepth", 8, "--requests", 400, "--json").json
        self.assertEqual((told["reads"]["requests"], told["errors"]), (400, 0))

    def test_hangs_up(self):
        served = []

        def leave(sock, _command, cookie, _offset, length, _payload):
            served.append(cookie)
            if len(served) == 100:
                return False
            sock.sendall(good_reply(cookie, bytes(length)))
            return True

        self.broken(leave, "connection 0 to", "--iodepth", 4)

    def test_errors_with_discard(self):
        def error(sock, _command, cookie, _offset, _length, _payload):
            sock.sendall(good_reply(cookie, error=5))

        server = self.fake(error)
        done = perf(server.uri(), "--discard", "--time", 20, "--timeout", 1, status=2)
        self.assertRegex(done.err, "error 5|--discard")


del PerfTest
