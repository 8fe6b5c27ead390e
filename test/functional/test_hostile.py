# SPDX-License-Identifier: BSD-3-Clause
"""
Clients that vanish, stall, never read, come in thousands: others are served, and nothing leaks.
"""

import random
import socket
import struct
import time

import harness
import rpcclient
from harness import FULL, KIB, MIB, SANITIZED
from matrix import MatrixTest, cross
from rawnbd import (CMD_DISC, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, Closed,
                    OPT_GO, go_data, option_bytes, request_bytes)

SIZE = 96 * MIB
LARGE = 64 * MIB


def session(*requests):
    """The bytes of a whole session: flags, GO of the default export, requests."""
    return struct.pack(">L", 3) + option_bytes(OPT_GO, go_data("")) + b"".join(requests)


class Vanishing(MatrixTest):
    """Clients that go away in the middle of things."""

    def setUp(self):
        super().setUp()
        self.target = self.serve(SIZE)
        with self.target.connect() as client:
            client.write(0, b"A" * MIB)
        self.wait_idle(self.target)
        self.fds = self.target.fds()

    def gone(self, client, how):
        if how == "reset" and self.transport == "tcp":
            client.reset()
        elif how == "half":
            client.sock.shutdown(socket.SHUT_WR)
            client.close()
        else:
            client.close()

    def settled(self):
        self.wait_idle(self.target)
        harness.wait_for(lambda: self.target.fds() <= self.fds, 10, "descriptors to be given back")
        self.assert_serves(self.target)

    def test_in_the_middle_of_a_write(self):
        rng = random.Random(5)
        for number in range(60):
            client = self.target.connect()
            length = rng.choice((512, 64 * KIB, MIB, LARGE))
            part = rng.randrange(0, min(length, 2 * MIB))
            client.send(request_bytes(CMD_WRITE, 2 * MIB + rng.randrange(4096), length, cookie=1,
                                      payload=bytes(part)))
            self.gone(client, ("close", "reset", "half")[number % 3])
        self.settled()
        with self.target.connect() as client:
            self.assertEqual(client.read(0, MIB), b"A" * MIB)

    def test_with_replies_pending(self):
        """Requests in flight and replies that nobody reads, small and huge."""
        rng = random.Random(6)
        for number in range(60):
            client = self.target.connect()
            batch = []
            for cookie in range(rng.randrange(1, 100)):
                kind = rng.choice((CMD_READ, CMD_READ, CMD_WRITE, CMD_FLUSH, CMD_TRIM,
                                   CMD_WRITE_ZEROES))
                length = rng.choice((512, 4096, 100000))
                payload = bytes(length) if kind == CMD_WRITE else b""
                batch.append(request_bytes(kind, 0 if kind == CMD_FLUSH else 4 * MIB,
                                           0 if kind == CMD_FLUSH else length, cookie=cookie,
                                           payload=payload))
            if number % 4 == 0:
                batch.append(request_bytes(CMD_READ, 0, LARGE, cookie=1000))
            if number % 5 == 0:
                batch.append(request_bytes(CMD_DISC))
            client.sock.settimeout(2)
            try:
                client.send(b"".join(batch))
            except (Closed, TimeoutError):
                pass
            if number % 2:
                try:
                    client.receive(rng.randrange(1, 16))
                except Closed:
                    pass
            self.gone(client, ("close", "reset", "half")[number % 3])
        self.settled()

    def test_half_closed(self):
        """A client that has shut down its sending side still gets what it asked for."""
        client = self.target.connect()
        client.request(CMD_READ, 0, 4096)
        client.request(CMD_READ, 0, MIB)
        client.sock.shutdown(socket.SHUT_WR)
        got = 0
        try:
            for _ in range(2):
                _, error, data = client.reply()
                self.assertEqual((error, data), (0, b"A" * len(data)))
                got += 1
        except Closed:
            pass  # to leave at the end of the stream is allowed too
        client.close()
        self.settled()

    def test_garbage(self):
        """Random bytes at every stage."""
        rng = random.Random(7)
        for number in range(100):
            client = self.target.client()
            try:
                if number % 2:
                    client.send(session(request_bytes(CMD_READ, 0, 512))[:rng.randrange(200)])
                client.send(rng.randbytes(rng.randrange(1, 3000)))
            except Closed:
                pass
            client.close()
        self.settled()

    def test_mutated_sessions(self):
        """Sessions with a few bytes changed."""
        rng = random.Random(8)
        good = session(request_bytes(CMD_WRITE, 8 * MIB, 512, cookie=1, payload=bytes(512)),
                       request_bytes(CMD_READ, 8 * MIB, 4096, cookie=2),
                       request_bytes(CMD_WRITE_ZEROES, 8 * MIB, 65536, cookie=3),
                       request_bytes(CMD_TRIM, 9 * MIB, 65536, cookie=4),
                       request_bytes(CMD_FLUSH, cookie=5), request_bytes(CMD_DISC))
        for number in range(200 if not FULL else 20000):
            bad = bytearray(good)
            for _ in range(rng.randrange(1, 4)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            client = self.target.client(timeout=1)
            try:
                client.send(bytes(bad))
                if number % 4 == 0:
                    client.sock.shutdown(socket.SHUT_WR)
                    client.receive_until_closed()
            except (Closed, TimeoutError, OSError):
                pass
            client.close()
        self.settled()


class Stalling(MatrixTest):
    """Clients that stay but do not go on."""

    def setUp(self):
        super().setUp()
        # a client that holds memory which others wait for may be cut off, here after a second
        patience = "1000" if "many" in self.id() else "10000"
        self.target = self.serve(SIZE, args=["--stall-timeout", patience])

    def served(self, client, seconds=20):
        """A neighbour's round of requests, in reasonable time."""
        began = time.monotonic()
        for number in range(20):
            client.write(number * 4096, bytes([number + 1]) * 4096)
            self.assertEqual(client.read(number * 4096, 4096), bytes([number + 1]) * 4096)
        client.write(MIB + 3, b"L" * MIB)
        self.assertEqual(client.read(MIB + 3, MIB), b"L" * MIB)
        self.assertLess(time.monotonic() - began, seconds)

    def test_one_that_does_not_read(self):
        """Replies pile up for one client; it gets all of them when it reads again."""
        with self.target.connect() as working:
            working.write(0, bytes(range(256)) * (MIB // 256))
            lazy = self.target.connect(timeout=60)
            self.addCleanup(lazy.close)
            cookies = {lazy.request(CMD_READ, 0, MIB) for _ in range(64)}
            for _ in range(3):
                began = time.monotonic()
                self.served_beside(working)
                self.assertLess(time.monotonic() - began, 5, "one lazy client holds up another")
            for _ in range(64):
                cookie, error, data = lazy.reply()
                cookies.remove(cookie)
                self.assertEqual(error, 0)
                self.assertTrue(data == bytes(range(256)) * (MIB // 256))
            self.assertEqual(cookies, set())

    def served_beside(self, client):
        for number in range(20):
            at = 4 * MIB + number * 4096
            client.write(at, bytes([number + 1]) * 4096)
            self.assertEqual(client.read(at, 4096), bytes([number + 1]) * 4096)

    def test_many_that_do_not_read(self):
        """Each asks for more than all buffers hold, and none reads."""
        before = self.target.rss()
        lazy = []
        for _ in range(60):
            client = self.target.connect()
            self.addCleanup(client.close)
            client.send(b"".join(request_bytes(CMD_READ, 0, 32 * MIB, cookie=cookie)
                                 for cookie in range(16)))
            lazy.append(client)
        with self.target.connect(timeout=60) as working:
            self.served(working)
        if not SANITIZED:
            self.assertLess(self.target.rss() - before, 512 * MIB)
        for client in lazy:
            client.close()
        self.wait_idle(self.target)
        self.assert_serves(self.target)

    def test_500_stalled_in_a_write(self):
        """500 clients stand still inside a WRITE of 64 MiB; others are served."""
        rng, before = random.Random(9), self.target.rss()
        stalled = []
        for number in range(500):
            client = self.target.connect(timeout=60)
            self.addCleanup(client.close)
            part = rng.choice((0, 1, 100, 4096, 50000, 200000, 1100000))
            client.send(request_bytes(CMD_WRITE, 16 * MIB + number, LARGE, cookie=1,
                                      payload=bytes(part)))
            stalled.append(client)
        with self.target.connect(timeout=60) as working:
            for _ in range(3):
                self.served(working, 40)
        if not SANITIZED:
            self.assertLess(self.target.rss() - before, 512 * MIB)
        # and somebody who writes as much, but does not stall, gets his answer
        sent = 0
        with self.target.connect(timeout=60) as client:
            client.send(request_bytes(CMD_WRITE, 16 * MIB, 32 * MIB, cookie=77))
            while sent < 32 * MIB:
                client.send(b"g" * MIB)
                sent += MIB
            self.assertEqual(client.reply()[:2], (77, 0))
            self.assertEqual(client.read(40 * MIB, 4096), b"g" * 4096)
        for client in stalled:
            client.close()
        self.wait_idle(self.target)
        self.assert_serves(self.target)

    def test_stalled_write_goes_on(self):
        """A WRITE whose payload comes in many small pieces, while another connection works."""
        data = random.Random(10).randbytes(3 * MIB + 17)
        with self.target.connect(timeout=60) as slow, self.target.connect() as working:
            slow.send(request_bytes(CMD_WRITE, 20 * MIB + 5, len(data), cookie=3))
            at = 0
            for step in (1, 2, 4095, 1, 65537, 300000, 1048576, len(data)):
                slow.send(data[at:at + step])
                at = min(at + step, len(data))
                self.served_beside(working)
            self.assertEqual(slow.reply()[:2], (3, 0))
            self.assertTrue(working.read(20 * MIB + 5, len(data)) == data)

    def test_stop_with_stalled_clients(self):
        """SIGTERM ends the target in bounded time whatever the clients do."""
        for number in range(20):
            client = self.target.connect()
            self.addCleanup(client.close)
            if number % 3 == 0:
                client.send(request_bytes(CMD_WRITE, 0, LARGE, payload=bytes(100000)))
            elif number % 3 == 1:
                for cookie in range(8):
                    client.request(CMD_READ, 0, 32 * MIB, cookie=cookie)
        handshaking = self.target.client()
        self.addCleanup(handshaking.close)
        self.target.stop()


class Crowds(harness.TargetTest):
    def test_1000_connections_open_and_close(self):
        target = self.start("malloc:4M", tcp=True)
        self.assert_serves(target)
        self.wait_idle(target)
        fds = target.fds()
        for round_number in range(2):
            clients = [target.connect() for _ in range(500)]
            for client in clients[::7]:
                client.read(0, 4096)
            self.assertEqual(len(target.rpc("connection_get_connections")), 500)
            for number, client in enumerate(clients):
                if number % 3 == 0:
                    client.reset()
                elif number % 3 == 1:
                    client.disconnect()
                else:
                    client.close()
            self.wait_idle(target)
        harness.wait_for(lambda: target.fds() <= fds, 10, "descriptors to be given back")
        self.assert_serves(target)

    def test_connections_in_quick_succession(self):
        target = self.start("malloc:4M")
        fds = None
        for number in range(1000):
            client = target.client()
            if number % 4:
                client.send(session(request_bytes(CMD_READ, 0, 4096), request_bytes(CMD_DISC)))
            client.close()
            if number == 100:
                self.wait_idle(target)
                fds = target.fds()
        # some may not even have been accepted yet
        harness.wait_for(lambda: target.fds() <= fds, 20, "descriptors to be given back")
        self.wait_idle(target)
        self.assert_serves(target)

    def test_200_at_once(self):
        self.at_once(200)

    def test_1000_at_once(self):
        self.at_once(1000)

    def at_once(self, count):
        """The listen backlog holds a crowd: nobody is refused."""
        import resource
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        target = self.start("malloc:4M", tcp=True)
        socks = []
        for _ in range(count):
            sock = socket.socket()
            self.addCleanup(sock.close)
            sock.setblocking(False)
            sock.connect_ex(target.address[1:])
            socks.append(sock)
        for sock in socks:
            sock.setblocking(True)
            sock.settimeout(20)
            self.assertEqual(sock.recv(8, socket.MSG_WAITALL), b"NBDMAGIC")

    def descriptor_limit(self, limit):
        def set_limit():
            import resource  # in the child, before exec
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        return set_limit

    def test_descriptors_exhausted(self):
        """More clients than descriptors: those inside are served, nothing spins, it recovers."""
        target = self.start("malloc:4M", preexec=self.descriptor_limit(128))
        inside = target.connect()
        self.addCleanup(inside.close)
        waiting = []
        for _ in range(200):
            client = target.client(timeout=5)
            self.addCleanup(client.close)
            waiting.append(client)
        for number in range(20):
            inside.write(number * 4096, b"i" * 4096)
        self.assertEqual(inside.read(0, 4096), b"i" * 4096)
        operator = rpcclient.Rpc(target.rpc_path)
        self.addCleanup(operator.close)
        time.sleep(0.5)
        before = target.cpu_seconds()
        time.sleep(2)
        used = target.cpu_seconds() - before
        self.assertLess(used, 0.4, "a core spins while there are no descriptors")
        for client in waiting:
            client.close()
        self.assert_serves(target)
        self.assertTrue(operator.call("rpc_get_methods"))
        self.wait_idle(target, 1)
        inside.read(0, 4096)


cross(globals(), Vanishing, Stalling)
