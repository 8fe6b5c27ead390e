# SPDX-License-Identifier: BSD-3-Clause
"""What comes over the RPC socket that is no proper call, while I/O goes on beside it."""

import json
import os
import random
import socket
import stat
import threading

import harness
from harness import MIB, SANITIZED
from rpcclient import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, Rpc


class Input(harness.TargetTest):
    def setUp(self):
        super().setUp()
        self.target = self.start("malloc:4M")
        self.stop, self.errors, self.count = threading.Event(), [], 0
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        """A client whose I/O goes on during the whole test."""
        try:
            with self.target.connect() as client:
                while not self.stop.is_set() or self.count < 50:
                    data = bytes([self.count % 256]) * 4096
                    client.write(self.count % 500 * 4096, data)
                    if client.read(self.count % 500 * 4096, 4096) != data:
                        raise AssertionError("wrong data")
                    self.count += 1
        except BaseException as error:
            self.errors.append(error)

    def tearDown(self):
        self.stop.set()
        self.thread.join(30)
        self.assertEqual(self.errors, [])
        # and whoever comes next is served
        if self.target.alive():
            self.assertTrue(self.target.rpc("rpc_get_methods"))
        super().tearDown()

    def rpc(self):
        rpc = Rpc(self.target.rpc_path)
        self.addCleanup(rpc.close)
        return rpc

    def error_of(self, text):
        """The error that some text is answered by."""
        with Rpc(self.target.rpc_path) as rpc:
            try:
                rpc.send(text)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has seen enough; what it had to say is there to read
            answer = rpc.receive()
            self.assertIsNotNone(answer, f"no answer to {text[:100]!r}")
            self.assertEqual(answer.get("jsonrpc"), "2.0")
            self.assertNotIn("result", answer)
            return answer["error"]["code"], answer.get("id")

    def test_no_json(self):
        for text in ("garbage", "}", "]", "nul ", "{]", '{"a" 1}', '{"a":}', "{'a': 1}",
                     '"\\x"', "\x01\x02", '{"jsonrpc": "2.0", "method": tru}', "<html>",
                     "GET / HTTP/1.1\r\n\r\n"):
            with self.subTest(text=text):
                self.assertEqual(self.error_of(text + "\n")[0], PARSE_ERROR)

    def test_bad_utf8(self):
        for raw in (b'{"jsonrpc": "2.0", "id": 1, "method": "\xff\xfe"}', b"\xc3\x28\n",
                    b'{"jsonrpc": "2.0", "id": 1, "method": "rpc_get_methods\x80"}'):
            with Rpc(self.target.rpc_path) as rpc:
                rpc.send(raw)
                answer = rpc.receive()
                self.assertIn("error", answer)

    def test_no_request(self):
        for value in ({}, {"jsonrpc": "2.0"}, {"jsonrpc": "2.0", "id": 1}, {"id": 1, "method": 5},
                      {"jsonrpc": "1.0", "id": 1, "method": "rpc_get_methods"},
                      {"jsonrpc": "2.0", "id": [], "method": "rpc_get_methods"}, []):
            with self.subTest(value=value):
                self.assertEqual(self.error_of(json.dumps(value) + " ")[0], INVALID_REQUEST)
        for value in (5, "text", True, None):  # JSON, but nothing that a stream of calls may hold
            self.assertIn(self.error_of(json.dumps(value) + " ")[0], (PARSE_ERROR, INVALID_REQUEST))

    def test_unknown_method(self):
        for method in ("", "no_such", "x" * 100000, "rpc_get_methods ", "RPC_GET_METHODS"):
            code, ident = self.error_of(json.dumps({"jsonrpc": "2.0", "id": 77, "method": method}))
            self.assertEqual((code, ident), (METHOD_NOT_FOUND, 77))

    def test_bad_params(self):
        for params in (5, "text", [1, 2], True):
            code, _ = self.error_of(json.dumps({"jsonrpc": "2.0", "id": 1, "params": params,
                                                "method": "bdev_malloc_create"}))
            self.assertIn(code, (INVALID_PARAMS, INVALID_REQUEST))

    def test_ids_come_back(self):
        rpc = self.rpc()
        for ident in (0, -5, "text", "", 1 << 52, 1.5, "x" * 1000):
            rpc.request("spdk_get_version", ident=ident)
            self.assertEqual(rpc.receive()["id"], ident)

    def test_notifications_are_not_answered(self):
        rpc = self.rpc()
        for _ in range(10):
            rpc.send(json.dumps({"jsonrpc": "2.0", "method": "spdk_get_version"}))
        rpc.request("spdk_get_version", ident="the only one")
        self.assertEqual(rpc.receive()["id"], "the only one")

    def test_notifications_that_end_late(self):
        """More than may be under way at a time, and then the client has said all it has to."""
        rpc = self.rpc()
        late = {"jsonrpc": "2.0", "method": "bdev_file_create",
                "params": {"name": "n", "filename": "/nonexistent"}}
        rpc.send(json.dumps(late) * 500)
        rpc.request("spdk_get_version", ident="behind them")
        self.assertEqual(rpc.receive()["id"], "behind them")
        for stream in (json.dumps(late) * 100, json.dumps([late] * 100),
                       json.dumps(late) + json.dumps({**late, "id": 5}) + json.dumps(late)):
            rpc = self.rpc()
            rpc.send(stream)
            rpc.sock.shutdown(socket.SHUT_WR)
            if '"id"' in stream:
                self.assertEqual(rpc.receive()["id"], 5)
            self.assertIsNone(rpc.receive())

    def test_batch(self):
        rpc = self.rpc()
        rpc.send(json.dumps([{"jsonrpc": "2.0", "id": 1, "method": "spdk_get_version"},
                             {"jsonrpc": "2.0", "method": "spdk_get_version"},
                             {"jsonrpc": "2.0", "id": 2, "method": "nothing"}, 5]))
        answer = rpc.receive()
        self.assertEqual(len(answer), 3)
        self.assertEqual({item.get("id") for item in answer}, {1, 2, None})

    def test_stream_without_delimiters(self):
        rpc = self.rpc()
        one = {"jsonrpc": "2.0", "method": "spdk_get_version"}
        rpc.send("".join(json.dumps({**one, "id": number}) for number in range(200)))
        self.assertEqual(sorted(rpc.receive()["id"] for _ in range(200)), list(range(200)))

    def test_a_byte_at_a_time(self):
        rpc = self.rpc()
        for number in range(3):
            for byte in json.dumps({"jsonrpc": "2.0", "id": number, "params": {},
                                    "method": "spdk_get_version"}):
                rpc.send(byte)
            self.assertEqual(rpc.receive()["id"], number)

    def test_truncated(self):
        """Cut off at every byte; then the connection is closed, or stays open and silent."""
        text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "bdev_malloc_create",
                           "params": {"num_blocks": 8, "block_size": 512, "name": "\u00e9\\n"}})
        kept = []
        for cut in range(len(text)):
            rpc = Rpc(self.target.rpc_path)
            rpc.send(text[:cut])
            if cut % 10:
                rpc.close()
            else:
                kept.append(rpc)
        self.assertEqual([bdev for bdev in self.target.rpc("bdev_get_bdevs")
                          if bdev["num_blocks"] == 8], [])
        for rpc in kept:
            rpc.close()

    def endless(self, piece, total):
        """Sends up to so many bytes of something that has no end; the answer's code, or None."""
        before = self.target.rss()
        with Rpc(self.target.rpc_path) as rpc:
            rpc.send('{"jsonrpc": "2.0", "id": 1, "method": "x", "params": ')
            sent = 0
            try:
                while sent < total:
                    rpc.send(piece)
                    sent += len(piece)
            except (BrokenPipeError, ConnectionResetError):
                pass
            answer = rpc.receive()
        if not SANITIZED:
            self.assertLess(self.target.rss() - before, 64 * MIB)
        self.assertIsNotNone(answer, "no answer to what was too long")
        return answer["error"]["code"]

    def test_10_mib(self):
        before = self.target.rss()
        for text in (json.dumps({"jsonrpc": "2.0", "id": 1, "method": "x" * (10 * MIB)}),
                     json.dumps({"jsonrpc": "2.0", "id": 1, "method": "spdk_get_version",
                                 "params": {"list": list(range(1500000))}}),
                     " " * (10 * MIB) + "x "):
            with Rpc(self.target.rpc_path) as rpc:
                try:
                    rpc.send(text)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                answer = rpc.receive()
            self.assertIsNotNone(answer, "no answer to 10 MiB")
            self.assertIn(answer["error"]["code"], (PARSE_ERROR, INVALID_REQUEST))
        if not SANITIZED:
            self.assertLess(self.target.rss() - before, 64 * MIB)

    def test_1000_levels(self):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            for depth in (100, 1000, 100000):
                text = opening * depth + "1" + closing * depth
                code, _ = self.error_of('{"jsonrpc": "2.0", "id": 1, "method": "x", "params": '
                                        + text + "}")
                self.assertIn(code, (PARSE_ERROR, INVALID_REQUEST), depth)
                self.assertIn(self.error_of(text)[0], (PARSE_ERROR, INVALID_REQUEST))

    def test_levels_without_end(self):
        self.assertIn(self.endless("[" * 65536, 4 * MIB), (PARSE_ERROR, INVALID_REQUEST))

    def test_huge_numbers(self):
        for number in ("1" * 400, "-" + "9" * 30, "1e999", "1e-999", "18446744073709551616"):
            with Rpc(self.target.rpc_path) as rpc:
                rpc.send('{"jsonrpc": "2.0", "id": 1, "method": "bdev_malloc_create", "params": '
                         '{"num_blocks": ' + number + ', "block_size": 512}}')
                self.assertIn("error", rpc.receive())

    def test_duplicate_keys(self):
        with Rpc(self.target.rpc_path) as rpc:
            rpc.send('{"jsonrpc": "2.0", "id": 1, "method": "spdk_get_version", "method": '
                     '"rpc_get_methods"}')
            self.assertIsNotNone(rpc.receive())

    def test_random_bytes(self):
        rng = random.Random(11)
        good = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "bdev_get_bdevs",
                           "params": {"name": "nothing"}}).encode()
        for number in range(300):
            bad = bytearray(good)
            for _ in range(rng.randrange(1, 5)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            with Rpc(self.target.rpc_path) as rpc:
                try:
                    rpc.send(bytes(bad) if number % 3 else rng.randbytes(200))
                except BrokenPipeError:
                    pass

    def test_one_that_does_not_read(self):
        """Answers that nobody takes: the others' calls go through, memory stays bounded."""
        before = self.target.rss()
        lazy = self.rpc()
        lazy.sock.settimeout(0.5)
        call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rpc_get_schema"})
        try:
            for _ in range(20000):
                lazy.send(call)
        except TimeoutError:
            pass
        for _ in range(20):
            self.assertTrue(self.target.rpc("rpc_get_methods"))
        if not SANITIZED:
            self.assertLess(self.target.rss() - before, 64 * MIB)

    def test_gone_before_the_answer(self):
        for number in range(100):
            with Rpc(self.target.rpc_path) as rpc:
                rpc.request("bdev_malloc_create", {"num_blocks": 8, "block_size": 512,
                                                   "name": f"g{number}"})
        harness.wait_for(lambda: len(self.target.rpc("bdev_get_bdevs")) == 101, 10,
                         "the calls of clients that have left")

    def test_many_clients(self):
        clients = [self.rpc() for _ in range(100)]
        for client in clients:
            client.request("bdev_get_bdevs")
        for client in clients:
            self.assertEqual(len(client.receive()["result"]), 1)

    def test_socket_mode(self):
        mode = stat.S_IMODE(os.stat(self.target.rpc_path).st_mode)
        self.assertEqual(mode, 0o600)
