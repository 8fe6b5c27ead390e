# SPDX-License-Identifier: BSD-3-Clause
"""
Clients that stand still in the middle of something, in all three modes, in the clear and in TLS:
inside large WRITEs, between the bytes of a header, without reading, without an end of their
options, or gone without a word. Others are served, and nothing is left of them.
"""

import os
import shutil
import signal
import socket
import ssl
import struct
import tempfile
import threading
import time

import harness
import rawnbd
from harness import APART, CPUS, FULL, KIB, MIB, SANITIZED, TOGETHER
from matrix import DISK, MALLOC, TCP, UNIX, MatrixTest, cross
from pki import Pki
from rawnbd import (CMD_BLOCK_STATUS, CMD_READ, CMD_WRITE, EXTENDED, OPT_LIST, SIMPLE, STRUCTURED,
                    Closed, extended_bytes, option_bytes, request_bytes)

SIZE = 96 * MIB
LARGE = 64 * MIB
MODES = (SIMPLE, STRUCTURED, EXTENDED)
ROWS = [(MALLOC, UNIX, TOGETHER), (DISK, TCP, APART)]
if FULL:
    ROWS += [(DISK, UNIX, TOGETHER), (MALLOC, TCP, APART)]
TCP_REPAIR = 19
PKI = None
BASE = None


def setUpModule():
    global PKI, BASE
    BASE = tempfile.mkdtemp(prefix="pollux-")
    PKI = Pki(os.path.join(BASE, "pki"))


def tearDownModule():
    shutil.rmtree(BASE, ignore_errors=True)


class StalledTest(MatrixTest):
    def setUp(self):
        super().setUp()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(PKI.path("ca-cert.pem"))

    def begin(self, *args):
        target = self.serve(SIZE, args=["--tls-certificates", PKI.dir, "--tls", "on", *args])
        self.before = self.holdings(target)
        return target

    def holdings(self, target):
        self.wait_idle(target)
        cores = [(core.get("request_slots_free"), core["buffer_bytes_free"])
                 for core in target.rpc("framework_get_reactors")["reactors"]]
        return cores, target.fds()

    def enter(self, target, mode, tls, contexts=False):
        """A client in transmission."""
        client = target.client(timeout=60).greeting()
        if tls:
            client.starttls(self.context)
        if mode != SIMPLE:
            (client.structured if mode == STRUCTURED else client.extended)()
            if contexts:
                client.set_contexts()
        return client.go()

    def serves_beside(self, *clients):
        for client in clients:
            for number in range(10):
                client.write(number * 4096, bytes([number + 1]) * 4096)
                self.assertEqual(client.read(number * 4096, 4096), bytes([number + 1]) * 4096)
            client.write(MIB + 3, b"L" * MIB)
            self.assertEqual(client.read(MIB + 3, MIB), b"L" * MIB)

    def all_given_back(self, target):
        target.close_clients()
        harness.wait_for(lambda: self.holdings(target) == self.before, 30,
                         f"all to be given back ({self.before}, {self.holdings(target)})")

    def write_head(self, mode, offset, length):
        if mode == EXTENDED:
            return extended_bytes(CMD_WRITE, offset, length, rawnbd.CMD_FLAG_PAYLOAD_LEN, cookie=1)
        return request_bytes(CMD_WRITE, offset, length, cookie=1)

    def test_500_inside_writes(self):
        """500 clients stand still inside WRITEs of 64 MiB."""
        target, before = self.begin("--stall-timeout", "1000"), None
        parts = (0, 1, 100, 4096, 50000, 200000, 1100000)
        for number in range(500):
            mode, tls = MODES[number % 3], number % 2 == 1
            client = self.enter(target, mode, tls)
            client.send(self.write_head(mode, 16 * MIB + number, LARGE)
                        + bytes(parts[number % len(parts)]))
            if number == 20:
                before = target.rss()
        beside = [self.enter(target, mode, tls) for mode in MODES for tls in (False, True)]
        self.serves_beside(*beside)
        if not SANITIZED:
            self.assertLess(target.rss() - before, 512 * MIB)
        # who writes as much, but does not stall, gets his answer
        for client, mode in ((beside[0], SIMPLE), (beside[5], EXTENDED)):
            client.send(self.write_head(mode, 16 * MIB, LARGE))
            if mode == EXTENDED:
                client.partial[1] = rawnbd.rawreply.Reply(1, CMD_WRITE, 16 * MIB, LARGE, 0, (), True)
            for _ in range(LARGE // MIB):
                client.send(b"g" * MIB)
            self.assertEqual(client.reply()[:2], (1, 0))
            self.assertEqual(client.read(70 * MIB, 4096), b"g" * 4096)
        self.all_given_back(target)

    def test_a_byte_at_a_time(self):
        """Requests that come in single bytes, over seconds, from a client in each mode."""
        target = self.begin()
        slow = [self.enter(target, mode, tls) for mode in MODES for tls in (False, True)]
        working = self.enter(target, SIMPLE, False)
        for client in slow:
            client.stream = self.write_head(client.mode, 20 * MIB, 30) + b"p" * 30
        for at in range(len(slow[-1].stream)):
            for client in slow:
                if at < len(client.stream):
                    client.send(client.stream[at:at + 1])
            if at % 10 == 0:
                self.serves_beside(working)
            time.sleep(0.005)
        for client in slow:
            if client.mode != SIMPLE:
                client.partial[1] = rawnbd.rawreply.Reply(1, CMD_WRITE, 20 * MIB, 30, 0, (),
                                                          client.mode == EXTENDED)
            self.assertEqual(client.reply()[:2], (1, 0))
            self.assertEqual(client.read(20 * MIB, 30), b"p" * 30)
        working.close()
        self.all_given_back(target)

    def test_that_never_read(self):
        """READs and BLOCK_STATUS without end from clients that take no reply."""
        target = self.begin("--stall-timeout", "1000")
        for number in range(12):
            client = self.enter(target, MODES[number % 3], number % 2 == 1, contexts=True)
            make = extended_bytes if client.mode == EXTENDED else request_bytes
            batch = b"".join(make(CMD_READ, 0, length, cookie=length)
                             for length in (LARGE, 4096, MIB, 100, 32 * MIB) * 5)
            if client.contexts:
                batch += make(CMD_BLOCK_STATUS, 0, SIZE, cookie=9) * 2000
            client.sock.settimeout(0.3)
            try:
                client.send(batch)
            except (Closed, TimeoutError, ssl.SSLError):
                pass  # nobody reads it, either
        self.serves_beside(*[self.enter(target, mode, tls) for mode, tls
                             in zip(MODES, (True, False, True))])
        self.all_given_back(target)

    def test_options_without_end(self):
        """Options without end, with their replies read and not: memory and time are bounded."""
        target = self.begin("--handshake-timeout", "2000")
        batch = (option_bytes(OPT_LIST) + option_bytes(4711, b"x" * 500)) * 100
        endless = [target.client(timeout=0.05).greeting() for _ in range(6)]
        for client in endless[3:]:
            client.ask(rawnbd.OPT_STARTTLS)
            client.sock.settimeout(10)
            client.wrap(self.context)
            client.sock.settimeout(0.05)
        before, left, end = target.rss(), set(range(6)), time.monotonic() + 30
        while left:
            self.assertLess(time.monotonic(), end, "options go on for ever")
            for number in list(left):
                client = endless[number]
                try:
                    if number % 3:
                        client.sock.recv(1 << 20)
                    client.send(batch)
                except TimeoutError:
                    pass  # what was cut off in the middle is nonsense by now: also good
                except (Closed, OSError):
                    left.discard(number)
            with target.connect() as working:
                working.read(0, 4096)
        if not SANITIZED:
            self.assertLess(target.rss() - before, 32 * MIB)
        self.all_given_back(target)


class StandingDevice(harness.TargetTest):
    """The device stands still, and its clients send on: what came is bounded, not by them."""

    CLIENTS = 10 if SANITIZED else 60

    def pour(self, clients, stream, seconds):
        """Sends the stream to each, over and over, until none has taken any for half a second."""
        at, end = dict.fromkeys(clients, 0), time.monotonic() + seconds
        moved = time.monotonic()
        for client in clients:
            client.sock.setblocking(False)
        while moved + 0.5 > time.monotonic():
            self.assertLess(time.monotonic(), end, "they are read from for ever")
            for client in clients:
                try:
                    sent = client.sock.send(stream[at[client]:])
                except BlockingIOError:
                    continue
                at[client] = (at[client] + sent) % len(stream)
                moved = time.monotonic()

    def test_memory(self):
        """What was received and has no buffer is a little of each client."""
        target = self.start(tcp=True, args=["--memory", "16M"], cores=str(CPUS[0]))
        target.rpc("bdev_malloc_create", name="m", num_blocks=32768, block_size=512)
        target.rpc("bdev_error_create", base_name="m")
        target.rpc("export_create", name="e", bdev="EE_m")
        writes = request_bytes(CMD_WRITE, 0, 8192, payload=bytes(8192)) * 200
        clients = [target.connect("e") for _ in range(self.CLIENTS)]
        # none is held up, and the kernel gives their sockets more room
        for client in clients * 3:
            sender = threading.Thread(target=client.send, args=(writes,))
            sender.start()
            client.receive(16 * 200)
            sender.join()
        before = target.rss()
        target.rpc("bdev_error_inject_error", name="EE_m", io_type="all", error_type="pending",
                   num=1000000)
        # so much as their sockets hold is there at once
        target.signal(signal.SIGSTOP)
        self.pour(clients, memoryview(writes), 60)
        target.signal(signal.SIGCONT)
        self.pour(clients, memoryview(writes), 60)
        if not SANITIZED:
            self.assertLess(target.rss() - before, 64 * MIB)
        target.rpc("bdev_error_inject_error", name="EE_m", io_type="clear", error_type="pending")
        target.close_clients()
        self.wait_idle(target)
        with target.connect("e") as client:
            client.write(0, b"w" * MIB)
            self.assertEqual(client.read(0, MIB), b"w" * MIB)


class HalfOpen(harness.TargetTest):
    """Clients that are gone without FIN or reset, as after a power failure."""

    def vanish(self, client):
        try:
            client.sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError:
            self.skipTest("needs CAP_NET_ADMIN for TCP_REPAIR")
        client.close()

    def probes(self, target):
        """The kinds of the timers of the target's sockets, as /proc/net/tcp numbers them."""
        with open("/proc/net/tcp", encoding="ascii") as file:
            rows = [line.split() for line in file][1:]
        return [row[5][:2] for row in rows
                if row[1].endswith(f":{target.port:04X}") and row[3] == "01"]

    def test_with_replies_under_way(self):
        """The first reply finds nobody: the connection ends."""
        target = self.start("malloc:8M", tcp=True)
        gone = [target.connect() for _ in range(5)]
        working = target.connect()
        for client in gone:
            client.send(struct.pack(">LHHQQL", rawnbd.MAGIC_REQUEST, 0, CMD_WRITE, 1, 0, 4096)
                        + bytes(4000))
        working.read(0, 4096)
        # the rest of each WRITE comes from a socket that is then taken away at once
        for client in gone:
            client.request(CMD_READ, 0, 64 * KIB)
            client.send(bytes(96))
            self.vanish(client)
        for _ in range(20):
            working.write(0, b"w" * 4096)
        self.wait_idle(target, 1)

    def test_idle_ones_are_probed(self):
        """The kernel asks after a peer that has been silent for long."""
        target = self.start("malloc:8M", tcp=True)
        client = target.connect()
        client.read(0, 4096)
        harness.wait_for(lambda: self.probes(target) == ["02"], 5, "a timer to ask after the peer")


cross(globals(), StalledTest, rows=ROWS)
