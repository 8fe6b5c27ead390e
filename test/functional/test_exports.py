# SPDX-License-Identifier: BSD-3-Clause
"""Exports, listeners and connections by RPC: they come and go at run time, under load too."""

import errno
import json
import os
import socket
import threading

import harness
import rawnbd
from harness import MIB
from rawnbd import CMD_READ, CMD_WRITE, Closed, EIO, ESHUTDOWN
from rpcbase import RpcTest
from rpcclient import RpcError


class Exports(RpcTest):
    def test_life(self):
        self.malloc(name="m")
        self.refused(-errno.ENODEV, "export_create", "bdev", name="e", bdev="nobody")
        self.rpc("export_create", name="e", bdev="m", description="an export")
        self.refused(-errno.EEXIST, "export_create", "name", name="e", bdev="m")
        export, = self.rpc("export_get_exports")
        self.assertEqual((export["name"], export["bdev"], export["description"],
                          export["read_only"]), ("e", "m", "an export", False))
        with self.target.connect("e") as client:
            client.write(0, b"1" * 512)
            client.disconnect()
        self.rpc("export_delete", name="e")
        self.assertEqual(self.rpc("export_get_exports"), [])
        self.refused(-errno.ENODEV, "export_delete", "name", name="e")
        with self.assertRaises(rawnbd.Refused):
            self.target.connect("e")
        # the same bdev under another name keeps its data
        self.rpc("export_create", name="f", bdev="m", read_only=True)
        with self.target.connect("f") as client:
            self.assertEqual(client.read(0, 512), b"1" * 512)
            self.assertTrue(client.flags & rawnbd.READ_ONLY)

    def test_names(self):
        self.malloc(name="m")
        for name in ("", "a b", "ü", "x" * 4096, "a/b:c?d=e", "'\"\\"):
            self.rpc("export_create", name=name, bdev="m")
            with self.target.connect(name) as client:
                client.read(0, 512)
            self.rpc("export_delete", name=name)
        with self.assertRaises(RpcError):
            self.rpc("export_create", name="x" * 4097, bdev="m")
        with self.assertRaises(RpcError):
            self.rpc("export_create", name="a", bdev="m", description="d" * 4097)

    def test_read_only_exports_share_a_bdev(self):
        self.malloc(name="m")
        self.rpc("export_create", name="a", bdev="m", read_only=True)
        self.rpc("export_create", name="b", bdev="m", read_only=True)
        with self.target.connect("a") as first, self.target.connect("b") as second:
            self.assertEqual(first.read(0, 512), second.read(0, 512))

    def test_create_and_delete_while_others_work(self):
        """Objects come and go at a high rate; a client beside them sees no error."""
        self.malloc(name="steady")
        self.rpc("export_create", name="steady", bdev="steady")
        errors, stop = [], threading.Event()

        def work():
            try:
                with self.target.connect("steady") as client:
                    count = 0
                    while not stop.is_set() or count < 100:
                        data = bytes([count % 256]) * 4096
                        client.write(count % 200 * 4096, data)
                        if client.read(count % 200 * 4096, 4096) != data:
                            raise AssertionError("wrong data")
                        count += 1
            except BaseException as error:
                errors.append(error)
        thread = threading.Thread(target=work)
        thread.start()
        for number in range(30):
            name = f"e{number}"
            self.malloc(name=name)
            self.rpc("export_create", name=name, bdev=name)
            with self.target.connect(name) as client:
                client.write(0, b"t" * 4096)
                if number % 2:
                    client.disconnect()
            self.rpc("export_delete", name=name, mode="kick" if number % 3 else "drain")
            self.rpc("bdev_malloc_delete", name=name)
        stop.set()
        thread.join()
        self.assertEqual(errors, [])
        self.assertEqual(self.export_names(), ["steady"])

    def load(self, name, errors, started):
        """Keeps requests in flight until the export goes away under it."""
        try:
            with self.target.connect(name, timeout=60) as client:
                payload, flying = b"l" * 16384, 0
                for number in range(1 << 30):
                    if number % 2:
                        client.request(CMD_WRITE, number % 32 * 16384, 16384, payload=payload)
                    else:
                        client.request(CMD_READ, number % 32 * 16384, 16384)
                    flying += 1
                    if number == 100:
                        started.release()
                    if flying >= 32:
                        _, error, _ = client.reply()
                        flying -= 1
                        if error not in (0, ESHUTDOWN, EIO):
                            raise AssertionError(f"error {error}")
                        if error:
                            return
        except Closed:
            pass
        except BaseException as error:
            errors.append(error)
            started.release()

    def delete_under_load(self, delete):
        for _ in range(3):
            self.malloc(name="m")
            self.rpc("export_create", name="e", bdev="m")
            errors, started = [], threading.Semaphore(0)
            threads = [threading.Thread(target=self.load, args=("e", errors, started))
                       for _ in range(4)]
            for thread in threads:
                thread.start()
            for _ in threads:
                started.acquire()
            delete()
            for thread in threads:
                thread.join(30)
                self.assertFalse(thread.is_alive(), "a client hangs")
            self.assertEqual(errors, [])
            self.assertEqual(self.rpc("export_get_exports"), [])
            if any(bdev["name"] == "m" for bdev in self.rpc("bdev_get_bdevs")):
                self.rpc("bdev_malloc_delete", name="m")
        self.wait_idle(self.target)

    def test_drain_under_load(self):
        self.delete_under_load(lambda: self.rpc("export_delete", name="e", mode="drain"))

    def test_kick_under_load(self):
        self.delete_under_load(lambda: self.rpc("export_delete", name="e", mode="kick"))

    def test_force_bdev_delete_under_load(self):
        self.delete_under_load(lambda: self.rpc("bdev_malloc_delete", name="m", force=True))

    def test_statistics(self):
        self.malloc(name="m")
        self.rpc("export_create", name="e", bdev="m")
        with self.target.connect("e") as client:
            for number in range(20):
                client.write(number * 512, b"w" * 512)
            client.read(0, 10240)
            self.assertNotEqual(client.call(CMD_READ, MIB, 1)[0], 0)
            export, = self.rpc("export_get_exports")
            self.assertEqual(export["connections"], 1)
            stat, = self.rpc("export_get_iostat", name="e")["exports"]
            self.assertEqual((stat["write"]["ops"], stat["write"]["bytes"]), (20, 10240))
            self.assertEqual((stat["read"]["ops"], stat["read"]["bytes"]), (1, 10240))
            self.assertEqual(stat["inflight"], 0)


class Listeners(RpcTest):
    def specs(self):
        return ["malloc:1M"]

    def test_life(self):
        before = self.rpc("listener_get_listeners")
        self.assertEqual(len(before), 1)
        path, port = self.path("more.sock"), harness.free_port()
        uris = [f"unix://{path}", f"tcp://127.0.0.1:{port}"]
        for uri in uris:
            self.rpc("listener_create", uri=uri)
        listed = json.dumps(self.rpc("listener_get_listeners"))
        for uri in uris:
            self.assertIn(uri, listed)
            with self.assertRaises(RpcError):
                self.rpc("listener_create", uri=uri)
        clients = []
        for address in (("unix", path), ("tcp", "127.0.0.1", port)):
            client = rawnbd.connect(address)
            self.addCleanup(client.close)
            client.read(0, 512)
            clients.append(client)
        for uri in uris:
            self.rpc("listener_delete", uri=uri)
        self.refused(-errno.ENODEV, "listener_delete", "uri", uri=uris[0])
        self.assertEqual(len(self.rpc("listener_get_listeners")), 1)
        self.assertFalse(os.path.exists(path), "the socket's file was left behind")
        for client in clients:
            client.read(0, 512)  # connections outlive their listener
        with self.assertRaises(OSError):
            rawnbd.connect(("tcp", "127.0.0.1", port))
        for uri in uris:  # and the addresses are free again
            self.rpc("listener_create", uri=uri)
            self.rpc("listener_delete", uri=uri)

    def test_bad_uris(self):
        taken = harness.free_port()
        with socket.socket() as occupant:
            occupant.bind(("127.0.0.1", taken))
            occupant.listen()
            for uri in ("", "tcp:", "tcp://", "unix://", "unix:///", "http://127.0.0.1:80",
                        "nonsense", "tcp://127.0.0.1:99999", "tcp://127.0.0.1:-1",
                        "tcp://127.0.0.1:x", "tcp://300.1.1.1:10000", "unix:///nowhere/at/all.sock",
                        "unix://" + "/x" * 100, f"tcp://127.0.0.1:{taken}"):
                with self.subTest(uri=uri):
                    with self.assertRaises(RpcError) as caught:
                        self.rpc("listener_create", uri=uri)
                    self.assertTrue(caught.exception.message)
        self.assertEqual(len(self.rpc("listener_get_listeners")), 1)
        self.assert_serves(self.target)

    def test_ipv6(self):
        port = harness.free_port()
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", port))
        except OSError:
            self.skipTest("no IPv6 loopback here")
        self.rpc("listener_create", uri=f"tcp://[::1]:{port}")
        with rawnbd.connect(("tcp", "::1", port)) as client:
            client.read(0, 512)

    def test_names(self):
        port = harness.free_port()
        try:
            socket.getaddrinfo("localhost", port)
        except OSError:
            self.skipTest("localhost has no address here")
        self.rpc("listener_create", uri=f"tcp://localhost:{port}")
        with rawnbd.connect(("tcp", "127.0.0.1", port)) as client:
            client.read(0, 512)


class Connections(RpcTest):
    def specs(self):
        return ["disk=malloc:4M"]

    def test_list_and_kick(self):
        clients = [self.target.connect("disk") for _ in range(3)]
        for client in clients:
            self.addCleanup(client.close)
            client.read(0, 4096)
        listed = self.rpc("connection_get_connections")
        self.assertEqual(len(listed), 3)
        self.assertEqual({connection["export"] for connection in listed}, {"disk"})
        ids = [connection["id"] for connection in listed]
        self.assertEqual(len(set(ids)), 3)
        self.rpc("connection_kick", id=ids[1])
        harness.wait_for(lambda: len(self.rpc("connection_get_connections")) == 2, 10, "the kick")
        self.assertNotIn(ids[1], [item["id"] for item in self.rpc("connection_get_connections")])
        alive = 0
        for client in clients:
            try:
                client.read(0, 4096)
                alive += 1
            except Closed:
                pass
        self.assertEqual(alive, 2)
        with self.assertRaises(RpcError):
            self.rpc("connection_kick", id=ids[1])
        with self.assertRaises(RpcError):
            self.rpc("connection_kick", id=1 << 60)

    def test_kick_any_state(self):
        """Kicking clients in the handshake, inside a WRITE, and with replies nobody reads."""
        handshaking = self.target.client()
        handshaking.greeting()
        writing = self.target.connect("disk")
        writing.send(rawnbd.request_bytes(CMD_WRITE, 0, 4 * MIB, payload=bytes(100000)))
        lazy = self.target.connect("disk")
        for _ in range(64):
            lazy.request(CMD_READ, 0, 4 * MIB)
        for client in (handshaking, writing, lazy):
            self.addCleanup(client.close)
        harness.wait_for(lambda: len(self.rpc("connection_get_connections")) == 3, 10, "3 clients")
        for connection in self.rpc("connection_get_connections"):
            self.rpc("connection_kick", id=connection["id"])
        self.wait_idle(self.target)
        self.assert_serves(self.target, "disk")
