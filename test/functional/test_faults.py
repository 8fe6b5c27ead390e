# SPDX-License-Identifier: BSD-3-Clause
"""Faults below an export: errors, stuck requests, slow ones, and what clients are told."""

import errno
import os
import threading
import time

import harness
import rawnbd
from harness import KIB, MIB, SANITIZED
from rawnbd import (CMD_FLAG_FUA, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES,
                    Closed, EIO, ENOMEM, ESHUTDOWN)
from rpcbase import RpcTest
from rpcclient import RpcError


class FaultTest(RpcTest):
    ARRANGEMENT = harness.TOGETHER

    def setUp(self):
        harness.TargetTest.setUp(self)
        self.target = self.start(cores=harness.cores_of(self.ARRANGEMENT), args=self.arguments())
        self.rpc = self.target.rpc
        self.malloc(4 * MIB, name="m")

    def arguments(self):
        return []

    def inject(self, kind, how="failure", num=1, **more):
        self.rpc("bdev_error_inject_error", name="EE_m", io_type=kind, error_type=how, num=num,
                 **more)


class Errors(FaultTest):
    def setUp(self):
        super().setUp()
        self.rpc("bdev_error_create", base_name="m")
        self.rpc("export_create", name="e", bdev="EE_m")
        self.client = self.target.connect("e")
        self.addCleanup(self.client.close)

    def test_each_operation(self):
        """An injected error reaches the client as EIO, once, and the connection goes on."""
        client = self.client
        client.write(0, b"k" * 4096)
        for kind, command, length in (("read", CMD_READ, 4096), ("write", CMD_WRITE, 4096),
                                      ("flush", CMD_FLUSH, 0), ("unmap", CMD_TRIM, 4096),
                                      ("write_zeroes", CMD_WRITE_ZEROES, 4096)):
            payload = b"k" * length if command == CMD_WRITE else b""
            self.inject(kind)
            self.assertEqual(client.call(command, 0, length, payload=payload)[0], EIO, kind)
            self.assertEqual(client.call(command, 0, length, payload=payload)[0], 0, kind)
        stat, = self.rpc("bdev_get_iostat", name="EE_m")["bdevs"]
        self.assertEqual(stat["io_error"], {"read": 1, "write": 1, "flush": 1, "unmap": 1,
                                            "write_zeroes": 1})

    def test_nomem(self):
        self.inject("read", "nomem")
        self.assertIn(self.client.call(CMD_READ, 0, 512)[0], (ENOMEM, EIO))
        self.client.read(0, 512)

    def test_corrupt_data(self):
        self.client.write(0, b"c" * 4096)
        self.inject("read", "corrupt_data", corrupt_offset=100, corrupt_value=255)
        data = self.client.read(0, 4096)
        self.assertEqual([at for at in range(4096) if data[at] != ord("c")], [100])
        self.assertEqual(self.client.read(0, 4096), b"c" * 4096)

    def test_count(self):
        self.inject("all", num=5)
        errors = [self.client.call(CMD_READ, 0, 512)[0] for _ in range(8)]
        self.assertEqual(errors, [EIO] * 5 + [0] * 3)
        self.inject("read", num=1000)
        self.inject("clear")
        self.client.read(0, 512)

    def test_errors_among_many(self):
        """Of many requests in flight just as many fail as were told to."""
        self.inject("read", num=10)
        cookies = {self.client.request(CMD_READ, number * 4096, 4096) for number in range(100)}
        failed = 0
        for _ in range(100):
            cookie, error, data = self.client.reply()
            cookies.remove(cookie)
            self.assertIn(error, (0, EIO))
            failed += error == EIO
            if not error:
                self.assertEqual(data, bytes(4096))
        self.assertEqual((failed, cookies), (10, set()))

    def test_error_in_a_large_write(self):
        """One chunk of many fails: the whole WRITE does, its payload is consumed."""
        self.inject("write")
        error, _ = self.client.call(CMD_WRITE, 0, 4 * MIB, payload=b"w" * (4 * MIB))
        self.assertEqual(error, EIO)
        self.assertEqual(self.client.call(CMD_WRITE, 0, 4 * MIB, payload=b"v" * (4 * MIB))[0], 0)
        self.assertEqual(self.client.read(4 * MIB - 4096, 4096), b"v" * 4096)

    def test_error_in_a_large_read(self):
        """Told by an error, or by the end of the connection where the header is out already."""
        self.inject("read")
        try:
            error, _ = self.client.call(CMD_READ, 0, 4 * MIB)
            self.assertEqual(error, EIO)
            self.client.read(0, 512)
        except Closed:
            pass
        with self.target.connect("e") as client:
            client.read(0, 4 * MIB)
        # an error behind the first part: wait for it with a queue depth that only one chunk has
        for _ in range(20):
            self.inject("read", num=1)
            with self.target.connect("e") as client:
                try:
                    error, _ = client.call(CMD_READ, 0, 3 * MIB + 12345)
                    self.assertEqual(error, EIO)
                except Closed:
                    pass
        self.assert_serves(self.target, "e")

    def test_fua_error(self):
        self.inject("write")
        self.assertEqual(self.client.call(CMD_WRITE, 0, 512, CMD_FLAG_FUA, b"f" * 512)[0], EIO)
        self.inject("flush")
        self.assertEqual(self.client.call(CMD_FLUSH)[0], EIO)

    def test_stack_stays_whole(self):
        """What a bdev stands on cannot go; forced, everything above goes with it."""
        self.refused(-errno.EBUSY, "bdev_malloc_delete", "name", name="m")
        self.refused(-errno.EBUSY, "bdev_error_delete", "name", name="EE_m")
        self.refused(-errno.EEXIST, "bdev_error_create", base_name="m")
        self.refused(-errno.ENODEV, "bdev_error_create", base_name="nobody")
        self.rpc("export_delete", name="e", mode="kick")
        self.rpc("bdev_error_delete", name="EE_m")
        self.rpc("bdev_malloc_delete", name="m")

    def test_force_from_the_bottom(self):
        self.client.request(CMD_READ, 0, 4096)
        self.rpc("bdev_malloc_delete", name="m", force=True)
        harness.wait_for(lambda: self.rpc("bdev_get_bdevs") == [], 10, "the stack to go")
        self.assertEqual(self.rpc("export_get_exports"), [])


class ErrorsApart(Errors):
    ARRANGEMENT = harness.APART


class Stuck(FaultTest):
    """Requests that do not come back."""

    def setUp(self):
        super().setUp()
        self.rpc("bdev_error_create", base_name="m")

    def export(self, **more):
        self.rpc("export_create", name="e", bdev="EE_m", **more)

    def test_others_go_on(self):
        self.export()
        with self.target.connect("e") as client:
            self.inject("read", "pending")
            stuck = client.request(CMD_READ, 0, 4096)
            self.assertTrue(client.quiet(0.3))
            for _ in range(10):
                self.assertEqual(client.call(CMD_WRITE, 0, 512, payload=b"o" * 512)[0], 0)
                client.read(8192, 512)
            with self.target.connect("e") as other:
                other.read(0, 4096)
            self.inject("clear")
            cookie, error, _ = client.reply()
            self.assertEqual(cookie, stuck)
            self.assertIn(error, (0, EIO))

    def test_time_out(self):
        """A request that sticks longer than the export allows ends in EIO; the client goes on."""
        self.export(io_timeout_ms=500)
        with self.target.connect("e") as client:
            for kind, command, payload in (("read", CMD_READ, b""), ("write", CMD_WRITE,
                                                                     b"t" * 4096)):
                self.inject(kind, "pending")
                began = time.monotonic()
                error, _ = client.call(command, 0, 4096, payload=payload)
                self.assertEqual(error, EIO, kind)
                self.assertGreater(time.monotonic() - began, 0.3)
                self.assertLess(time.monotonic() - began, 15)
                client.read(4096, 4096)

    def test_client_leaves(self):
        """The client goes while its requests are stuck; everything is freed when they end."""
        self.export()
        for kind in ("read", "write"):
            self.inject(kind, "pending", num=4)
        client = self.target.connect("e")
        for number in range(8):
            client.request(CMD_READ if number % 2 else CMD_WRITE, 4096 * number, 4096,
                           payload=b"" if number % 2 else bytes(4096))
        self.assertTrue(client.quiet(0.2))
        client.close()
        self.assert_serves(self.target, "e")
        self.inject("clear")
        self.wait_idle(self.target)
        self.rpc("export_delete", name="e")
        self.rpc("bdev_error_delete", name="EE_m")
        self.rpc("bdev_malloc_delete", name="m")

    def test_stop_while_stuck(self):
        """SIGTERM with a request that never ends: the target still does, in bounded time."""
        self.export()
        self.inject("read", "pending", num=3)
        with self.target.connect("e") as client:
            for _ in range(3):
                client.request(CMD_READ, 0, 4096)
            self.assertTrue(client.quiet(0.2))
            self.target.stop()

    def test_export_deleted_while_stuck(self):
        self.export()
        self.inject("read", "pending")
        client = self.target.connect("e")
        self.addCleanup(client.close)
        client.request(CMD_READ, 0, 4096)
        self.assertTrue(client.quiet(0.2))
        results = []

        def delete():
            try:
                results.append(self.rpc("export_delete", name="e", mode="kick"))
            except (RpcError, OSError) as error:
                results.append(error)
        thread = threading.Thread(target=delete)
        thread.start()
        time.sleep(0.2)
        self.rpc("rpc_get_methods")  # the control thread is not held up
        self.inject("clear")
        thread.join(15)
        self.assertEqual(results, [True])


class StuckApart(Stuck):
    ARRANGEMENT = harness.APART


class Removed(FaultTest):
    """A bdev that is taken away from its export: every request is answered before the connection ends."""

    def remove(self, name):
        """By force; the answer comes when all has gone."""
        thread = threading.Thread(target=self.rpc, args=("bdev_malloc_delete",),
                                  kwargs={"name": name, "force": True})
        thread.start()
        self.addCleanup(thread.join)
        return thread

    @staticmethod
    def take(client, answers, count=1):
        for _ in range(count):
            cookie, error, _ = client.reply()
            if cookie in answers:
                raise AssertionError("a request is answered twice")
            answers[cookie] = error

    def test_in_flight(self):
        """What the bdev still ends is answered so, what comes meanwhile is refused."""
        self.rpc("bdev_delay_create", base_bdev_name="m", name="d", avg_read_latency=700000,
                 p99_read_latency=700000, avg_write_latency=700000, p99_write_latency=700000)
        self.rpc("export_create", name="d", bdev="d")
        client, answers = self.target.connect("d"), {}
        begun = [client.request(CMD_READ, 0, 4096),
                 client.request(CMD_WRITE, 8192, 4096, payload=b"w" * 4096)]
        self.until_busy("d", 2)
        removal = self.remove("m")
        while ESHUTDOWN not in answers.values():  # the client's core hears of it a moment later
            client.request(CMD_READ, 8 * MIB, 512)  # which is refused in any case, at once
            self.take(client, answers)
        later = [client.request(CMD_READ, 0, 512), client.request(CMD_TRIM, 0, 512),
                 client.request(CMD_WRITE, 0, 512, payload=b"x" * 512)]
        while set(begun + later) - set(answers):
            self.take(client, answers)
        self.assertEqual([answers[cookie] for cookie in begun], [0, 0])
        self.assertEqual({answers[cookie] for cookie in later}, {ESHUTDOWN})
        removal.join(15)
        with self.assertRaises(Closed):
            while True:
                self.take(client, answers)
        self.assertEqual(self.rpc("bdev_get_bdevs"), [])

    def stick(self, name, mode):
        """A client with requests of each kind at a bdev that ends none; READs in parts and behind others."""
        self.malloc(4 * MIB, name=name)
        self.rpc("bdev_error_create", base_name=name)
        self.rpc("export_create", name=name, bdev="EE_" + name)
        self.rpc("bdev_error_inject_error", name="EE_" + name, io_type="all", error_type="pending",
                 num=1000)
        client = self.target.connect(name, mode=mode)
        stuck = [client.request(command, 65536 * number, 4096,
                                payload=b"s" * 4096 if command == CMD_WRITE else b"")
                 for number, command in enumerate((CMD_READ, CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES))]
        stuck.append(client.request(CMD_FLUSH))
        stuck += [client.request(CMD_READ, 0, 3 * MIB) for _ in range(3)]
        stuck.append(client.request(CMD_WRITE, 0, 3 * MIB, payload=bytes(3 * MIB)))
        self.until_busy(name, len(stuck))
        return client, stuck

    def test_stuck(self):
        """What the bdev does not end is answered in its place, in each mode."""
        modes = {"simple": rawnbd.SIMPLE, "structured": rawnbd.STRUCTURED, "extended": rawnbd.EXTENDED}
        clients = {name: self.stick(name, mode) for name, mode in modes.items()}
        began = time.monotonic()
        removals = [self.remove(name) for name in modes]
        for name, (client, stuck) in clients.items():
            answers = {}
            self.take(client, answers, len(stuck))
            self.assertEqual({answers[cookie] for cookie in stuck}, {ESHUTDOWN}, name)
            self.assertEqual(client.receive_until_closed(), b"", name)
        self.assertGreater(time.monotonic() - began, 0.8)
        for name, removal in zip(modes, removals):
            self.rpc("bdev_error_inject_error", name="EE_" + name, io_type="clear",
                     error_type="failure")  # the last FLUSH
            removal.join(15)
        self.assertEqual(self.rpc("export_get_exports"), [])

    def test_idle_client_is_let_go(self):
        self.rpc("export_create", name="e", bdev="m")
        client = self.target.connect("e")
        self.remove("m").join(15)
        self.assertEqual(client.receive_until_closed(), b"")

    def test_client_that_does_not_read(self):
        """Who takes no replies does not hold the removal up."""
        self.rpc("export_create", name="e", bdev="m")
        client = self.target.connect("e")
        for _ in range(64):
            client.request(CMD_READ, 0, MIB)
        began = time.monotonic()
        self.remove("m").join(30)
        self.assertEqual(self.rpc("bdev_get_bdevs"), [])
        self.assertLess(time.monotonic() - began, 20)

    def until_busy(self, name, count):
        harness.wait_for(lambda: self.rpc("export_get_iostat", name=name)["exports"][0]["inflight"] >= count,
                         10, "the requests to be under way")


class RemovedApart(Removed):
    ARRANGEMENT = harness.APART


class Delays(FaultTest):
    MICROSECONDS = 50000

    def setUp(self):
        super().setUp()
        self.rpc("bdev_delay_create", base_bdev_name="m", name="d",
                 avg_read_latency=self.MICROSECONDS, p99_read_latency=self.MICROSECONDS,
                 avg_write_latency=2 * self.MICROSECONDS, p99_write_latency=2 * self.MICROSECONDS)
        self.rpc("export_create", name="d", bdev="d")

    def test_latency(self):
        with self.target.connect("d") as client:
            for command, microseconds in ((CMD_WRITE, 2 * self.MICROSECONDS),
                                          (CMD_READ, self.MICROSECONDS)):
                began = time.monotonic()
                client.call(command, 0, 4096, payload=b"d" * 4096 if command == CMD_WRITE else b"")
                took = time.monotonic() - began
                self.assertGreater(took, microseconds / 1e6 * 0.9)
                self.assertLess(took, microseconds / 1e6 + 2)
            self.assertEqual(client.read(0, 4096), b"d" * 4096)

    def test_out_of_order(self):
        """A quick request overtakes a slow one: READ after WRITE."""
        with self.target.connect("d") as client:
            write = client.request(CMD_WRITE, 0, 512, payload=b"s" * 512)
            read = client.request(CMD_READ, 4096, 512)
            self.assertEqual([client.reply()[0], client.reply()[0]], [read, write])

    def test_many_in_flight(self):
        """They wait side by side, not one after the other."""
        with self.target.connect("d") as client:
            began = time.monotonic()
            for number in range(64):
                client.request(CMD_READ, number * 4096, 4096)
            for _ in range(64):
                self.assertEqual(client.reply()[1], 0)
            self.assertLess(time.monotonic() - began, 64 * self.MICROSECONDS / 1e6 / 2)

    def test_update_latency(self):
        self.rpc("bdev_delay_update_latency", delay_bdev_name="d", latency_type="avg_read",
                 latency_us=0)
        self.rpc("bdev_delay_update_latency", delay_bdev_name="d", latency_type="p99_read",
                 latency_us=0)
        with self.target.connect("d") as client:
            began = time.monotonic()
            for _ in range(10):
                client.read(0, 512)
            self.assertLess(time.monotonic() - began, 10 * self.MICROSECONDS / 1e6)

    def test_disconnect_waits_for_writes(self):
        """DISC behind slow writes: they are carried out, then the connection ends."""
        client = self.target.connect("d")
        for number in range(8):
            client.request(CMD_WRITE, number * 4096, 4096, payload=bytes([number + 1]) * 4096)
        client.send(rawnbd.request_bytes(rawnbd.CMD_DISC))
        for _ in range(8):
            self.assertEqual(client.reply()[1], 0)
        self.assertEqual(client.receive_until_closed(), b"")
        client.close()
        with self.target.connect("d") as other:
            for number in range(8):
                self.assertEqual(other.read(number * 4096, 1), bytes([number + 1]))

    def test_stop_waits_for_what_is_in_flight(self):
        """SIGTERM while writes are under way: they are finished and answered, then it ends."""
        path = self.make_file(MIB, directory=harness.disk_directory())
        self.rpc("bdev_file_create", filename=path, name="f")
        self.rpc("bdev_delay_create", base_bdev_name="f", name="df", avg_read_latency=0,
                 p99_read_latency=0, avg_write_latency=300000, p99_write_latency=300000)
        self.rpc("export_create", name="f", bdev="df")
        with self.target.connect("f") as client:
            for number in range(8):
                client.request(CMD_WRITE, number * 4096, 4096, payload=b"T" * 4096)
            time.sleep(0.1)
            self.target.signal(15)
            for _ in range(8):
                self.assertEqual(client.reply()[1], 0)
            client.receive_until_closed()
        self.assertEqual(self.target.wait(), 0)
        with open(path, "rb") as file:
            self.assertEqual(file.read(32768), b"T" * 32768)

    def test_stop_tells_what_it_waits_for(self):
        """A device that is slow to sync is not blamed on clients, of whom there are none."""
        target = self.start(args=["--shutdown-timeout", "100"])
        target.rpc("bdev_malloc_create", name="slow", num_blocks=8, block_size=512)
        target.rpc("bdev_delay_create", base_bdev_name="slow", name="ds", avg_read_latency=0,
                   p99_read_latency=0, avg_write_latency=500000, p99_write_latency=500000)
        target.rpc("export_create", name="ds", bdev="ds")
        with target.connect("ds") as client:
            client.call(CMD_WRITE, 0, 512, payload=b"s" * 512)
        self.wait_idle(target)
        target.stop()
        self.assertIn("a device takes long", target.log())
        self.assertNotIn("cut off", target.log())

    def test_drain_waits_for_what_is_in_flight(self):
        with self.target.connect("d") as client:
            for number in range(4):
                client.request(CMD_WRITE, number * 4096, 4096, payload=b"D" * 4096)
            time.sleep(0.03)
            self.rpc("export_delete", name="d", mode="drain")
            for _ in range(4):
                self.assertEqual(client.reply()[1], 0)
            client.receive_until_closed()
        self.rpc("export_create", name="again", bdev="m", read_only=True)
        with self.target.connect("again") as client:
            self.assertEqual(client.read(0, 16384), b"D" * 16384)


class DelaysApart(Delays):
    ARRANGEMENT = harness.APART


class Files(FaultTest):
    def test_file_shrinks_underneath(self):
        """Somebody truncates the image: requests beyond its end fail, the target lives."""
        path = self.make_file(4 * MIB, directory=harness.disk_directory())
        for direct in ("auto", "off"):
            with open(path, "r+b") as file:
                file.truncate(4 * MIB)
            self.rpc("bdev_file_create", filename=path, name="f", direct=direct)
            self.rpc("export_create", name="f", bdev="f")
            with self.target.connect("f") as client:
                client.write(3 * MIB, b"s" * 4096)
                with open(path, "r+b") as file:
                    file.truncate(MIB + 100)
                error, data = client.call(CMD_READ, 3 * MIB, 4096)
                self.assertTrue(error == EIO or data == bytes(4096), error)
                client.read(0, 4096)
            self.rpc("export_delete", name="f")
            self.rpc("bdev_file_delete", name="f")

    def test_file_system_full(self):
        """A file on a tmpfs of its own that runs full: ENOSPC reaches the client."""

        if os.geteuid() != 0:
            self.skipTest("mounting a small tmpfs needs root")
        mount = self.path("mnt")
        os.mkdir(mount)
        if harness.run("mount", "-t", "tmpfs", "-o", "size=1M", "none", mount,
                       check=False).returncode:
            self.skipTest("no tmpfs can be mounted here")
        self.addCleanup(harness.run, "umount", "-l", mount)
        path = os.path.join(mount, "image")
        with open(path, "wb") as file:
            file.truncate(8 * MIB)
        self.rpc("bdev_file_create", filename=path, name="f")
        self.rpc("export_create", name="f", bdev="f")
        with self.target.connect("f") as client:
            errors = [client.call(CMD_WRITE, at * 64 * KIB, 64 * KIB, payload=b"x" * 64 * KIB)[0]
                      for at in range(32)]
            self.assertEqual(errors[0], 0)
            self.assertEqual(set(errors), {0, rawnbd.ENOSPC})
            self.assertEqual(client.read(0, 16), b"x" * 16)
            client.trim(0, 512 * KIB)
            if not SANITIZED:
                client.read(0, 4096)
        self.rpc("export_delete", name="f")
        self.rpc("bdev_file_delete", name="f")
