# SPDX-License-Identifier: BSD-3-Clause
"""
Listeners: who is let in, to which exports and how often; sockets that are handed over, vsock; and
what a handshake hears from a server that ends.
"""

import errno
import json
import os
import re
import signal
import socket
import sys
import threading
import time

import harness
import rawnbd
from harness import MIB, TargetTest
from rawnbd import (FLAG_NO_ZEROES, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST,
                    OPT_LIST_META_CONTEXT, OPT_STRUCTURED_REPLY, REP_ACK, REP_ERR_POLICY,
                    REP_ERR_SHUTDOWN, REP_ERR_UNKNOWN, Closed, Refused, go_data)
from rpcbase import RpcTest
from rpcclient import RpcError

HANDOVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "handover.py")


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


class ListenerTest(RpcTest):
    def setUp(self):
        super().setUp()
        for name in ("", "a", "b"):
            self.malloc(name=f"m{name}")
            self.rpc("export_create", name=name, bdev=f"m{name}")

    def listen(self, host="127.0.0.1", **params):
        """A TCP listener on a port of its own: (uri, address)."""
        uri = self.rpc("listener_create", uri=f"tcp://{host}:0", **params)
        return uri, ("tcp", host.strip("[]"), int(uri.rsplit(":", 1)[1]))

    def listen_unix(self, name, **params):
        path = self.path(name)
        uri = self.rpc("listener_create", uri=f"unix://{path}", **params)
        return uri, ("unix", path)

    def told(self, uri):
        found, = [one for one in self.rpc("listener_get_listeners") if one["uri"] == uri]
        return found

    def export(self, name):
        return self.rpc("export_get_exports", name=name)[0]

    def client(self, address):
        client = rawnbd.Client(address)
        self.addCleanup(client.close)
        return client

    def connect(self, address, name=""):
        client = rawnbd.connect(address, name)
        self.addCleanup(client.close)
        return client

    def assert_closed(self, address):
        """The connection is closed before a byte of the greeting."""
        with rawnbd.Client(address) as client:
            self.assertEqual(client.receive_until_closed(), b"")

    def connect_from(self, source, address):
        """A client whose own address is `source`."""
        sock = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
        self.addCleanup(sock.close)
        sock.bind((source, 0))
        sock.connect(address[1:])
        return rawnbd.Client(("open", sock))


class Networks(ListenerTest):
    def test_listener(self):
        uri, address = self.listen(allow=["127.0.0.2/32", "127.1.0.0/16", "2001:db8::/32"])
        self.assertEqual(self.told(uri)["allow"], ["127.0.0.2/32", "127.1.0.0/16", "2001:db8::/32"])
        for source in ("127.0.0.2", "127.1.0.1", "127.1.255.254"):
            self.connect_from(source, address).greeting().go().disconnect()
        for source in ("127.0.0.1", "127.0.0.3", "127.2.0.1", "127.0.255.255"):
            self.assertEqual(self.connect_from(source, address).receive_until_closed(), b"", source)
        self.assertEqual(self.told(uri)["refused"], {"address": 4, "limit": 0})
        self.logged(self.target, "127.0.0.1")
        self.assert_serves(self.target)

    def test_forms(self):
        """Hosts without a prefix, bits behind it, mapped addresses; an empty list lets all in."""
        uri, _ = self.listen(allow=["127.0.0.1", "10.1.2.3/8", "::ffff:192.0.2.0/120", "::1"])
        self.assertEqual(self.told(uri)["allow"],
                         ["127.0.0.1/32", "10.0.0.0/8", "192.0.2.0/24", "::1/128"])
        for params in ({}, {"allow": []}, {"allow": ["0.0.0.0/0"]},
                       {"allow": ["::ffff:127.0.0.0/104"]}):
            with self.subTest(params=params):
                _, address = self.listen(**params)
                self.connect(address).disconnect()
        _, address = self.listen(allow=["::/0"])
        self.assert_closed(address)

    def test_ipv6(self):
        if not has_ipv6():
            self.skipTest("this machine has no IPv6")
        _, address = self.listen("[::1]", allow=["::1"])
        self.connect(address).disconnect()
        for allow in (["127.0.0.0/8", "::2"], ["0.0.0.0/0"]):
            _, address = self.listen("[::1]", allow=allow)
            self.assert_closed(address)

    def test_wrong_networks(self):
        for wrong in ("", "x", "localhost", "127.0.0.1/33", "127.0.0.1/", "127.0.0/8", "::/129",
                      "127.0.0.1/8 ", "tcp://127.0.0.1", "*"):
            with self.subTest(wrong=wrong):
                self.refused(-errno.EINVAL, "listener_create", "allow", uri="tcp://127.0.0.1:0",
                             allow=["127.0.0.1", wrong])
                self.refused(-errno.EINVAL, "export_create", "allow", name="e", bdev="ma",
                             allow=[wrong])
        for wrong in ("127.0.0.1", [1], {"a": 1}, ["1"] * 1025):
            with self.assertRaises(RpcError) as caught:
                self.rpc("listener_create", uri="tcp://127.0.0.1:0", allow=wrong)
            self.assertEqual(caught.exception.code, -32602)
        self.assertEqual(len(self.rpc("listener_get_listeners")), 1)
        self.assertEqual(self.export_names(), ["", "a", "b"])

    def test_not_for_unix(self):
        self.refused(-errno.EINVAL, "listener_create", "allow", uri=f"unix://{self.path('u')}",
                     allow=["127.0.0.1"])
        self.assertFalse(os.path.exists(self.path("u")))
        self.listen_unix("u", allow=[])

    def test_export(self):
        """An export that this client may not know of is unknown in every way."""
        self.rpc("export_delete", name="b")
        self.rpc("export_create", name="b", bdev="mb", allow=["127.0.0.2"])
        self.assertEqual(self.export("b")["allow"], ["127.0.0.2/32"])
        self.assertEqual(self.export("a")["allow"], [])
        _, address = self.listen()
        client = self.connect_from("127.0.0.2", address).greeting()
        self.assertEqual([name for name, _ in client.list()], ["", "a", "b"])
        client.go("b").disconnect()
        client = self.connect_from("127.0.0.3", address).greeting()
        self.assertEqual([name for name, _ in client.list()], ["", "a"])
        self.assertEqual(client.refused(OPT_INFO, go_data("b")), REP_ERR_UNKNOWN)
        self.assertEqual(client.refused(OPT_GO, go_data("b")), REP_ERR_UNKNOWN)
        client.ask(OPT_STRUCTURED_REPLY)
        self.assertEqual(client.refused(OPT_LIST_META_CONTEXT, b"\0\0\0\1b\0\0\0\0"),
                         REP_ERR_UNKNOWN)
        client.info("a")
        client = self.connect_from("127.0.0.3", address).greeting()
        client.option(OPT_EXPORT_NAME, b"b")
        self.assertEqual(client.receive_until_closed(), b"")
        # a peer without an IP address is in no network
        with self.assertRaises(Refused) as caught:
            self.target.connect("b")
        self.assertEqual(caught.exception.reply, REP_ERR_UNKNOWN)

    def test_log_is_bounded(self):
        """A peer that is refused again and again does not fill the log."""
        uri, address = self.listen(allow=["10.0.0.0/8"])
        began = time.monotonic()
        for _ in range(200):
            self.assert_closed(address)
        seconds = time.monotonic() - began
        self.assertEqual(self.told(uri)["refused"]["address"], 200)
        lines = len(re.findall("not allowed", self.target.log(whole=True)))
        self.assertTrue(1 <= lines <= seconds + 2, f"{lines} lines in {seconds} s")


class Limits(ListenerTest):
    def test_listener(self):
        uri, address = self.listen(max_connections=3)
        self.assertEqual(self.told(uri)["max_connections"], 3)
        clients = [self.client(address).greeting() for _ in range(2)] + [self.connect(address)]
        harness.wait_for(lambda: self.told(uri)["connections"] == 3, 5, "three connections")
        for _ in range(5):
            self.assert_closed(address)
        self.assertEqual(self.told(uri)["refused"], {"address": 0, "limit": 5})
        self.logged(self.target, "3 connections are open")
        # others are unharmed, those within and those at another listener
        clients[2].write(0, b"still there")
        clients[0].go()
        self.assert_serves(self.target)
        clients[1].close()
        harness.wait_for(lambda: self.told(uri)["connections"] == 2, 5, "room")
        self.connect(address).read(0, 512)

    def test_listener_counts_to_the_end(self):
        """Connections that outlive their listener; a new one of that address counts anew."""
        uri, address = self.listen(max_connections=1)
        client = self.connect(address, "a")
        self.rpc("listener_delete", uri=uri)
        client.write(0, b"on")
        self.rpc("listener_create", uri=uri, max_connections=1)
        other = self.connect(address, "b")
        self.assertEqual(self.told(uri)["connections"], 1)
        told = [one["listener"] for one in self.rpc("connection_get_connections")]
        self.assertEqual(told.count(uri), 2)
        self.assert_closed(address)
        client.disconnect()
        self.assert_closed(address)
        other.disconnect()
        harness.wait_for(lambda: self.told(uri)["connections"] == 0, 5, "room")

    def test_export(self):
        self.rpc("export_create", name="r", bdev="ma", read_only=True, max_connections=2)
        first, second = self.target.connect("r"), self.target.connect("r")
        client = self.target.client().greeting()
        self.assertEqual(client.refused(OPT_GO, go_data("r")), REP_ERR_POLICY)
        client.info("r")  # asking is no connection
        self.assertEqual([name for name, _ in client.list()], ["", "a", "b", "r"])
        blunt = self.target.client().greeting()
        blunt.option(OPT_EXPORT_NAME, b"r")
        self.assertEqual(blunt.receive_until_closed(), b"")
        told = self.export("r")
        self.assertEqual((told["max_connections"], told["connections"], told["refused"]), (2, 2, 2))
        first.read(0, 512)
        first.disconnect()
        harness.wait_for(lambda: self.export("r")["connections"] == 1, 5, "room")
        client.go("r").read(0, 512)
        second.read(0, 512)

    def test_export_under_a_storm(self):
        """Never more than it may have, however many come at once; and all room is given back."""
        self.rpc("export_create", name="r", bdev="ma", read_only=True, max_connections=5)
        granted, refused, failed, worst, lock = [], [], [], [], threading.Lock()

        def come_and_go():
            for _ in range(25):
                try:
                    client = rawnbd.connect(self.target.address, "r")
                    with lock:
                        granted.append(1)
                        worst.append(self.export("r")["connections"])
                    client.read(0, 512)
                    client.disconnect()
                except Refused as error:
                    with lock:
                        (refused if error.reply == REP_ERR_POLICY else failed).append(error)
                except (Closed, OSError) as error:
                    failed.append(error)

        threads = [threading.Thread(target=come_and_go) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])
        self.assertTrue(granted)
        self.assertLessEqual(max(worst), 5)
        harness.wait_for(lambda: self.export("r")["connections"] == 0, 10, "room")
        self.assertEqual(self.export("r")["refused"], len(refused))

    def test_bad_numbers(self):
        for wrong in (-1, "x", 1.5, 1 << 21):
            for method, params in (("listener_create", {"uri": "tcp://127.0.0.1:0"}),
                                   ("export_create", {"name": "e", "bdev": "ma"})):
                with self.assertRaises(RpcError) as caught:
                    self.rpc(method, max_connections=wrong, **params)
                self.assertEqual((caught.exception.code, caught.exception.parameter),
                                 (-32602, "max_connections"))


class Exports(ListenerTest):
    def names(self, address):
        return [name for name, _ in self.client(address).greeting().list()]

    def test_sets(self):
        first_uri, first = self.listen(exports=["b", "a", "later"])
        second_uri, second = self.listen_unix("second", exports=["b"], default_export="b")
        everything = self.target.address
        self.assertEqual(self.told(first_uri)["exports"], ["a", "b", "later"])
        self.assertEqual(self.told(second_uri)["default_export"], "b")
        self.assertNotIn("exports", self.rpc("listener_get_listeners")[0])
        self.assertEqual(self.names(first), ["a", "b"])
        self.assertEqual(self.names(second), ["b"])
        self.assertEqual(self.names(everything), ["", "a", "b"])
        for address, name in ((first, ""), (second, "a"), (first, "aa"), (first, "m"),
                              (second, "")):
            client = self.client(address).greeting()
            if (address, name) == (second, ""):
                self.assertEqual(client.info("", (rawnbd.INFO_NAME,))[rawnbd.INFO_NAME], "b")
                continue
            for option in (OPT_INFO, OPT_GO):
                self.assertEqual(client.refused(option, go_data(name)), REP_ERR_UNKNOWN)
            client.option(OPT_EXPORT_NAME, name.encode())
            self.assertEqual(client.receive_until_closed(), b"")
        # an export that comes later
        self.malloc(name="ml")
        self.rpc("export_create", name="later", bdev="ml")
        self.assertEqual(self.names(first), ["a", "b", "later"])
        self.connect(first, "later").write(0, b"x")
        self.assertEqual(self.names(second), ["b"])

    def test_default_exports(self):
        """The empty name means another export at each listener."""
        for name in ("a", "b"):
            self.connect(self.target.address, name).write(0, name.encode() * 512)
        for name, value in (("a", b"a"), ("b", b"b"), ("", b"\0")):
            _, address = self.listen(default_export=name)
            self.assertEqual(self.connect(address).read(0, 512), value * 512)
            with self.client(address) as client:
                client.greeting().export_name("")
                self.assertEqual(client.read(0, 1), value)
            # the export named "" can only be asked for where it is the default one
            self.assertEqual(self.names(address), ["a", "b"] if name else ["", "a", "b"])
        _, address = self.listen(default_export="nobody")
        self.assertEqual(self.client(address).greeting().refused(OPT_GO, go_data("")),
                         REP_ERR_UNKNOWN)
        self.connect(address, "a").disconnect()

    def test_wrong_sets(self):
        self.refused(-errno.EINVAL, "listener_create", "default_export", uri="tcp://127.0.0.1:0",
                     exports=["a"], default_export="b")
        for wrong in ([], "a", [1], [None]):
            with self.assertRaises(RpcError) as caught:
                self.rpc("listener_create", uri="tcp://127.0.0.1:0", exports=wrong)
            self.assertEqual((caught.exception.code, caught.exception.parameter),
                             (-32602, "exports"))

    def test_many(self):
        """A listing of many exports, of which a listener has some and a client may see some."""
        self.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
        for i in range(300):
            self.rpc("export_create", name=f"e{i:03}", bdev="n", read_only=True,
                     allow=["127.0.0.2"] if i % 3 else [])
        _, address = self.listen(exports=[f"e{i:03}" for i in range(0, 300, 2)])
        self.assertEqual(self.names(address), [f"e{i:03}" for i in range(0, 300, 6)])
        client = self.connect_from("127.0.0.2", address).greeting()
        self.assertEqual([name for name, _ in client.list()],
                         [f"e{i:03}" for i in range(0, 300, 2)])

    def test_no_zeroes(self):
        uri, address = self.listen(no_zeroes=False)
        self.assertFalse(self.told(uri)["no_zeroes"])
        client = self.client(address).greeting()
        self.assertFalse(client.server_flags & FLAG_NO_ZEROES)
        client.export_name("a", zeroes=True)
        client.write(0, b"after the zeroes")
        client.disconnect()
        # a client that takes what was not offered is told so by the end
        client = self.client(address).greeting(client_flags=3)
        self.assertEqual(client.receive_until_closed(), b"")
        client = self.client(self.target.address).greeting()
        self.assertTrue(client.server_flags & FLAG_NO_ZEROES)
        client.export_name("a").read(0, 512)


class Ending(TargetTest):
    def test_handshake_is_told(self):
        """SIGTERM in the middle of a handshake: ERR_SHUTDOWN to all but ABORT; then the end."""
        for option, data in ((OPT_GO, go_data("")), (OPT_INFO, go_data("")), (OPT_LIST, b""),
                             (OPT_STRUCTURED_REPLY, b"")):
            with self.subTest(option=option):
                target = self.start("malloc:1M")
                client = target.client().greeting()
                client.list()
                target.signal(signal.SIGTERM)
                harness.wait_for(lambda: not self.listens(target), 5, "the listener to close")
                time.sleep(0.05)  # the cores hear of it right after
                self.assertEqual(client.refused(option, data), REP_ERR_SHUTDOWN)
                client.option(OPT_ABORT)
                self.assertEqual(client.option_reply(OPT_ABORT), (REP_ACK, b""))
                self.assertEqual(client.receive_until_closed(), b"")
                client.close()
                self.ended(target)

    def test_export_name_ends(self):
        target = self.start("malloc:1M")
        client = target.client().greeting()
        client.list()
        target.signal(signal.SIGTERM)
        harness.wait_for(lambda: not self.listens(target), 5, "the listener to close")
        time.sleep(0.05)
        client.option(OPT_EXPORT_NAME)
        self.assertEqual(client.receive_until_closed(), b"")
        client.close()
        self.ended(target)

    def test_silent_handshakes_do_not_hold_it_up(self):
        target = self.start("malloc:1M")
        clients = [target.client() for _ in range(20)] + [target.client().greeting()
                                                          for _ in range(20)]
        began = time.monotonic()
        target.signal(signal.SIGTERM)
        for client in clients:
            client.receive_until_closed()
            client.close()
        self.ended(target)
        if not harness.SANITIZED:
            self.assertLess(time.monotonic() - began, 4)

    def ended(self, target):
        self.assertEqual(target.wait(), 0)
        target.check_log()
        target.checked = True

    @staticmethod
    def listens(target):
        try:
            rawnbd.Client(target.address).close()
            return True
        except OSError:
            return False


class HandedOver(TargetTest):
    """Sockets from a service manager."""

    def start_with(self, sockets, *specs, variables=None, rpc=True, **kw):
        target = self.new_target(*specs, listen=False, rpc=rpc, **kw)
        target.wrap = [sys.executable, HANDOVER, sockets, json.dumps(variables or {})]
        target.start()
        # the RPC socket is there before the listeners are
        count = len(sockets.split(",")) + target.args.count("-l")
        harness.wait_for(lambda: len(target.rpc("listener_get_listeners")) >= count, 10,
                         "the listeners")
        return target

    def test_kinds(self):
        path, port = self.path("u.sock"), harness.free_port()
        target = self.start_with(f"unix:{path},tcp:{port},abstract:pollux-{port}", "malloc:1M",
                                 variables={"LISTEN_FDNAMES": "disk:net:"})
        listeners = target.rpc("listener_get_listeners")
        self.assertEqual([one["uri"] for one in listeners],
                         [f"unix://{path}", f"tcp://127.0.0.1:{port}",
                          f"unix://@pollux-{port}"])
        self.assertEqual([one.get("name") for one in listeners], ["disk", "net", ""])
        for address in (("unix", path), ("tcp", "127.0.0.1", port),
                        ("unix", f"\0pollux-{port}")):
            with rawnbd.connect(address) as client:
                client.write(0, b"handed")
                self.assertEqual(client.read(0, 6), b"handed")
                client.disconnect()
        # nothing else listens
        self.assertEqual(len(listeners), 3)
        for fd in (3, 4, 5):
            with open(f"/proc/{target.pid}/fdinfo/{fd}", encoding="ascii") as file:
                flags = int(re.search(r"flags:\s*(\d+)", file.read())[1], 8)
            self.assertTrue(flags & os.O_CLOEXEC)
        target.stop()
        self.assertTrue(os.path.exists(path), "the socket is the manager's, not ours")

    def test_listener_of_its_own_beside(self):
        path, own = self.path("u.sock"), self.path("own.sock")
        target = self.start_with(f"unix:{path}", "malloc:1M", args=["-l", f"unix://{own}"])
        for where in (path, own):
            with rawnbd.connect(("unix", where)) as client:
                client.read(0, 512)
        # deleting one that was handed over leaves its path
        target.rpc("listener_delete", uri=f"unix://{path}")
        self.assertTrue(os.path.exists(path))
        with self.assertRaises(OSError):
            rawnbd.Client(("unix", path))
        with rawnbd.connect(("unix", own)) as client:
            client.read(0, 512)

    def test_nonblocking(self):
        """NonBlocking=yes: it waits all the same, and uses no CPU."""
        path = self.path("u.sock")
        target = self.start_with(f"!unix:{path}", "malloc:1M")
        time.sleep(0.3)
        before = target.cpu_seconds()
        time.sleep(1)
        self.assertLess(target.cpu_seconds() - before, 0.2)
        with rawnbd.connect(("unix", path)) as client:
            client.read(0, 512)
        self.assertNotIn("can not be accepted", target.log())

    def test_dual_stack(self):
        """An IPv4 client of an IPv6 socket is an IPv4 client to allow-lists."""
        if not has_ipv6():
            self.skipTest("this machine has no IPv6")
        port = harness.free_port()
        target = self.start_with(f"tcp6:{port}", "malloc:1M")
        target.rpc("bdev_malloc_create", num_blocks=8, block_size=512, name="m")
        target.rpc("export_create", name="four", bdev="m", allow=["127.0.0.0/8"])
        with rawnbd.connect(("tcp", "127.0.0.1", port), "four") as client:
            client.read(0, 512)
        with self.assertRaises(Refused):
            rawnbd.connect(("tcp", "::1", port), "four")
        with rawnbd.connect(("tcp", "::1", port)) as client:
            client.read(0, 512)

    def test_early_clients_wait(self):
        """A client that connects before the program is there is served when it is."""
        path = self.path("u.sock")
        target = self.new_target("malloc:1M", listen=False, rpc=False)
        target.wrap = [sys.executable, HANDOVER, f"unix:{path}", "{}"]
        target.launch()
        harness.wait_for(lambda: os.path.exists(path), 10, "the socket")
        with harness.wait_for(lambda: self.try_connect(path), 10, "a connection") as client:
            client.greeting().go().read(0, 512)

    @staticmethod
    def try_connect(path):
        try:
            return rawnbd.Client(("unix", path), timeout=harness.START_SECONDS)
        except OSError:
            return None

    def test_no_default_rpc_socket(self):
        path, runtime = self.path("u.sock"), self.path("run")
        os.mkdir(runtime, 0o700)
        target = self.new_target("malloc:1M", listen=False, rpc=False,
                                 env={"XDG_RUNTIME_DIR": runtime})
        command = target.command
        target.command = lambda: [word for word in command() if word not in ("-r", "none")]
        target.wrap = [sys.executable, HANDOVER, f"unix:{path}", "{}"]
        target.launch()
        client = harness.wait_for(lambda: self.try_connect(path), 10, "a connection")
        with client:
            client.greeting().go().read(0, 512)
        self.assertNotIn("RPC at", target.log())
        self.assertFalse(os.path.exists(os.path.join(runtime, "pollux.sock")))

    def test_for_somebody_else(self):
        """Variables that were inherited by accident mean nothing."""
        for variables in ({"LISTEN_PID": "1"}, {"LISTEN_PID": None}, {"LISTEN_FDS": None},
                          {"LISTEN_FDS": "0"}, {"LISTEN_PID": None, "LISTEN_FDS": "x"}):
            with self.subTest(variables=variables):
                target = self.new_target("malloc:1M")
                target.wrap = [sys.executable, HANDOVER, "", json.dumps(variables)]
                target.start()
                self.assertEqual(len(target.rpc("listener_get_listeners")), 1)
                target.stop()

    def test_bad_environments(self):
        plain, deaf = self.make_file(MIB), self.path("deaf")
        path = self.path("u.sock")
        for sockets, variables, says in (
                ("", {"LISTEN_PID": "x"}, "LISTEN_PID='x' is no process id"),
                ("", {"LISTEN_PID": ""}, "LISTEN_PID='' is no process id"),
                ("", {"LISTEN_FDS": "-1"}, "LISTEN_FDS='-1' is no number"),
                ("", {"LISTEN_FDS": "1x"}, "LISTEN_FDS='1x' is no number"),
                ("", {"LISTEN_FDS": ""}, "LISTEN_FDS='' is no number"),
                ("", {"LISTEN_FDS": "9999"}, "at most 256"),
                ("", {"LISTEN_FDS": "1"}, "descriptor 3 is not open"),
                (f"unix:{path}", {"LISTEN_FDS": "2"}, "descriptor 4 is not open"),
                (f"unix:{path},closed", {}, "descriptor 4 is not open"),
                ("pipe", {}, "descriptor 3 is no socket"),
                (f"file:{plain}", {}, "descriptor 3 is no socket"),
                ("pair", {}, "descriptor 3 is no listening stream socket"),
                (f"udp:{harness.free_port()}", {}, "no listening stream socket"),
                (f"deaf:{deaf}", {}, "no listening stream socket"),
                (f"unix:{path}", {"LISTEN_FDNAMES": "a:b"}, "2 names for 1 socket")):
            with self.subTest(sockets=sockets, variables=variables):
                for left in (path, deaf):
                    if os.path.exists(left):
                        os.unlink(left)
                done = harness.run(sys.executable, HANDOVER, sockets, json.dumps(variables),
                                   harness.POLLUX, "-r", "none", "malloc:1M", check=False,
                                   env=harness.environment(), cwd=self.directory)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(says, done.stderr)
                self.assertIsNone(harness.SANITIZER_REPORT.search(done.stderr), done.stderr)

    def test_vsock(self):
        self.need_vsock()
        port = harness.free_port()
        target = self.start_with(f"vsock:{port}", "malloc:1M")
        listener, = target.rpc("listener_get_listeners")
        self.assertEqual(listener["uri"], f"vsock://*:{port}")

    def need_vsock(self):
        try:
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
                sock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        except OSError as error:
            self.skipTest(f"no vsock here: {error}")


class Vsock(RpcTest):
    def specs(self):
        return ["malloc:1M"]

    @staticmethod
    def missing():
        """Why there is no vsock, or None."""
        try:
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
                sock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            return None
        except OSError as error:
            return error

    def test_forms(self):
        for wrong in ("vsock://", "vsock://*", "vsock://1", "vsock://:1", "vsock://x:1",
                      "vsock://1:", "vsock://1:x", "vsock://-1:1", "vsock://1:-1",
                      "vsock://4294967295:1", "vsock://1:4294967295", "vsock://1:99999999999",
                      "vsock://**:1", "vsock://1:1/x", "vsock://1 :1"):
            with self.subTest(wrong=wrong):
                self.refused(-errno.EINVAL, "listener_create", "uri", uri=wrong)

    def test_where_there_is_none(self):
        missing = self.missing()
        if not missing:
            self.skipTest("there is vsock here")
        error = self.refused(-missing.errno, "listener_create", "uri", uri="vsock://*:10809")
        self.assertIn("vsock", error.message)

    def test_life(self):
        missing = self.missing()
        if missing:
            self.skipTest(f"no vsock here: {missing}")
        self.refused(-errno.EADDRNOTAVAIL, "listener_create", "uri", uri="vsock://3000000000:1024")
        self.refused(-errno.EINVAL, "listener_create", "allow", uri="vsock://*:0",
                     allow=["127.0.0.1"])
        port = harness.free_port()
        self.assertEqual(self.rpc("listener_create", uri=f"vsock://*:{port}"), f"vsock://*:{port}")
        self.refused(-errno.EEXIST, "listener_create", "uri", uri=f"vsock://*:{port}")
        chosen = self.rpc("listener_create", uri="vsock://*:0", max_connections=1)
        self.assertRegex(chosen, r"^vsock://\*:[1-9]\d*$")
        told = {one["uri"]: one["nbd_uri"] for one in self.rpc("listener_get_listeners")}
        self.assertEqual(told[f"vsock://*:{port}"], f"nbd+vsock://2:{port}")
        for uri in (f"vsock://*:{port}", chosen):
            self.rpc("listener_delete", uri=uri)
        self.assertEqual(len(self.rpc("listener_get_listeners")), 1)

    def test_loopback(self):
        try:
            uri = self.rpc("listener_create", uri="vsock://1:0")
        except RpcError as error:
            self.assertIn("vsock", error.message)
            self.skipTest(f"no vsock loopback here: {error.message}")
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        self.addCleanup(sock.close)
        sock.connect((1, int(uri.rsplit(":", 1)[1])))
        client = rawnbd.Client(("open", sock)).greeting().go()
        client.write(0, b"through vsock" * 10000)
        self.assertEqual(client.read(0, 130000), b"through vsock" * 10000)
        peer = self.rpc("connection_get_connections")[0]["peer"]
        self.assertTrue(peer.startswith("vsock 1:"), peer)
        client.disconnect()
