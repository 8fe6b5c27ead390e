# SPDX-License-Identifier: BSD-3-Clause
"""
Clients on the other side of a network card: what loopback can not show. Pollux serves in the guest, the
clients are here.
"""

import json
import os
import random
import socket
import subprocess
import time
import unittest

import harness
import machine
import rawnbd
from rawnbd import CMD_READ, request_bytes

FOLDER = os.path.dirname(os.path.abspath(__file__))
KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
SECONDS = 120  # an emulated machine is slow


class ZeroCopy(unittest.TestCase):
    """Replies that the card takes from where they lie: Linux says that it has copied none."""

    @classmethod
    def setUpClass(cls):
        cls.port, cls.rpc_port = harness.free_port(), harness.free_port()
        cls.runner = subprocess.Popen(  # pylint: disable=consider-using-with
            [os.path.join(FOLDER, "run"), "-p", f"pollux={os.environ['POLLUX']}", "-p", "socat",
             "--memory", "768", "-t", "500", "--boot-timeout", "200", "--nic", "vmxnet3",
             "--hostfwd", f"tcp:127.0.0.1:{cls.port}-:10809",
             "--hostfwd", f"tcp:127.0.0.1:{cls.rpc_port}-:10810", os.path.join(FOLDER, "network.sh"),
             "--zerocopy-threshold", "32K", f"malloc:{SIZE}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        cls.addClassCleanup(cls.end)
        text = ""
        while not text.endswith("ready\n"):
            line = cls.runner.stdout.readline()
            text += line
            if line:
                continue
            if cls.runner.wait() == machine.SKIPPED:
                raise unittest.SkipTest(text.strip().splitlines()[-1])
            raise AssertionError(text)

    @classmethod
    def end(cls):
        cls.runner.terminate()
        cls.runner.communicate()

    def connect(self):
        client = rawnbd.connect(("tcp", "127.0.0.1", self.port), timeout=SECONDS)
        self.addCleanup(client.close)
        return client

    def connections(self):
        with socket.create_connection(("127.0.0.1", self.rpc_port), timeout=SECONDS) as peer:
            peer.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "connection_get_connections"}')
            text = b""
            while True:
                text += peer.recv(1 << 16)
                try:
                    return json.loads(text)["result"]
                except json.JSONDecodeError:
                    pass

    def ask(self, client, offsets, length):
        client.reads.update({cookie: length for cookie in range(len(offsets))})
        client.send(b"".join(request_bytes(CMD_READ, offset, length, cookie=cookie)
                             for cookie, offset in enumerate(offsets)))

    def test_replies(self):
        rng = random.Random(3)
        data = rng.randbytes(SIZE)
        client = self.connect()
        for offset in range(0, SIZE, MIB):
            client.write(offset, data[offset:offset + MIB])
        for length in (4 * KIB, 32 * KIB, 100 * KIB, MIB):
            offsets = [rng.randrange(SIZE - length) for _ in range(8)]
            self.ask(client, offsets, length)
            for _ in offsets:
                cookie, error, got = client.reply()
                self.assertEqual(error, 0)
                self.assertTrue(got == data[offsets[cookie]:][:length], f"{length} bytes are wrong")
        zero_copy = self.connections()[0]["zerocopy"]
        self.assertGreater(zero_copy["sends"], 3)
        self.assertEqual(zero_copy["copied"], 0)

    def test_clients_that_go(self):
        """With replies under way, some of them read: the connections end, and others are served."""
        for taken in (0, 100 * KIB, 3 * MIB):
            client = self.connect()
            self.ask(client, [0] * 32, MIB)
            client.receive(taken)
            client.close()
        end = time.monotonic() + SECONDS
        while self.connections() and time.monotonic() < end:
            time.sleep(0.2)
        self.assertEqual(self.connections(), [])
        self.assertEqual(len(self.connect().read(0, MIB)), MIB)
