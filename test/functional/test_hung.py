# SPDX-License-Identifier: BSD-3-Clause
"""
A file on a hung file system: requests end by the export's time-out, and nothing else is held up. And
one that reports an error of fsync, which must not be forgotten.

The file lies on a FUSE mount (nbdfuse) of another target's disk, whose requests an error layer keeps
for as long as the test wants.
"""

import os
import shutil
import signal
import subprocess
import threading
import time

import harness
import rawnbd
from harness import KIB, MIB, need_program
from rawnbd import CMD_FLAG_FUA, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, EIO

IO_TIMEOUT_MS = 300
BOUNDED_SECONDS = 10
SIZE = 64 * MIB
FAR_APART = 256 * KIB  # beyond what the kernel reads ahead


class HungTest(harness.TargetTest):
    ARRANGEMENT = harness.TOGETHER
    DIRECT = "auto"
    ARGS = ()

    def setUp(self):
        super().setUp()
        program = need_program("nbdfuse")
        if not os.path.exists("/dev/fuse"):
            self.skipTest("there is no /dev/fuse")
        self.below = self.start(cores=str(harness.CPUS[0]), args=["--max-requests", "1024"])
        self.below.rpc("bdev_malloc_create", name="m", num_blocks=SIZE // 512, block_size=512)
        self.below.rpc("bdev_error_create", base_name="m")
        self.below.rpc("export_create", name="e", bdev="EE_m")
        self.mount(program)
        disk = self.make_file(MIB, directory=harness.disk_directory())
        self.target = self.start("memory=malloc:1M", f"disk=file:{disk}",
                                 cores=harness.cores_of(self.ARRANGEMENT),
                                 args=["--shutdown-timeout", "300", *self.ARGS])
        self.target.rpc("bdev_file_create", name="f", filename=os.path.join(self.point, "nbd"),
                        direct=self.DIRECT)
        self.target.rpc("export_create", name="f", bdev="f", io_timeout_ms=IO_TIMEOUT_MS)

    def mount(self, program):
        self.point = self.path("mnt")
        os.mkdir(self.point)
        log = self.path("fuse.log")
        with open(log, "w", encoding="utf-8") as out:
            fuse = subprocess.Popen([program, self.point + "/", self.below.uri("e")], stdout=out,
                                    stderr=out)
        self.addCleanup(self.unmount, fuse)
        harness.wait_for(lambda: os.path.exists(os.path.join(self.point, "nbd"))
                         or fuse.poll() is not None, harness.START_SECONDS, "the mount")
        if fuse.poll() is not None:
            with open(log, encoding="utf-8") as text:
                self.skipTest("nbdfuse can not mount here: " + text.read().strip())

    def unmount(self, fuse):
        fusermount = shutil.which("fusermount3") or shutil.which("fusermount")
        how = [fusermount, "-u"] if fusermount else ["umount"]
        harness.run(*how, self.point, check=False)
        if harness.wait_exit(fuse, 5) is None:
            fuse.kill()
            fuse.wait()
            harness.run(*how, "-z" if fusermount else "-l", self.point, check=False)

    def tearDown(self):
        self.release()
        super().tearDown()

    def kill_all(self):
        if self.targets and self.targets[0].alive():
            self.release()  # what is stuck could not even be killed
        super().kill_all()

    def stick(self, *kinds):
        for kind in kinds:
            self.below.rpc("bdev_error_inject_error", name="EE_m", io_type=kind,
                           error_type="pending", num=1000000)

    def release(self):
        self.below.rpc("bdev_error_inject_error", name="EE_m", io_type="clear",
                       error_type="failure", num=1)

    def others_go_on(self):
        """Other exports, of memory and of a file with its fdatasync; and the control thread."""
        began = time.monotonic()
        for name in ("memory", "disk"):
            with self.target.connect(name) as client:
                client.write(1000, b"o" * 5000)
                client.flush()
                self.assertEqual(client.read(1000, 5000), b"o" * 5000)
        self.target.rpc("bdev_get_iostat")
        self.assertLess(time.monotonic() - began, BOUNDED_SECONDS)

    def works_again(self):
        """On a new connection, and without a trace: what was stuck ends in its own time."""
        self.release()
        with self.target.connect("f") as client:
            data = os.urandom(100000)
            client.write(SIZE - 200000, data)
            client.flush()
            self.assertEqual(client.read(SIZE - 200000, 100000), data)
            self.assertEqual(len(client.read(20 * MIB, 8 * MIB)), 8 * MIB)
        self.wait_idle(self.target)
        self.target.rpc("export_delete", name="f")
        self.target.rpc("bdev_file_delete", name="f")
        self.target.stop()

    def all_fail(self, client, count):
        """That many answers, all of them EIO, in bounded time."""
        began = time.monotonic()
        self.assertEqual([client.reply()[1] for _ in range(count)], [EIO] * count)
        self.assertLess(time.monotonic() - began, BOUNDED_SECONDS)


class Hung(HungTest):
    def test_each_operation(self):
        with self.target.connect("f") as client:
            client.write(0, b"d" * 8192)
            client.flush()
            for kind, command, length in (("read", CMD_READ, 4096), ("write", CMD_WRITE, 4096),
                                          ("flush", CMD_FLUSH, 0), ("unmap", CMD_TRIM, 4096)):
                if kind == "write" and self.DIRECT == "off":
                    continue  # the page cache takes it
                with self.subTest(kind=kind):
                    self.stick(kind)
                    client.request(command, 0 if kind == "flush" else 16 * MIB, length,
                                   payload=bytes(length) if kind == "write" else b"")
                    self.all_fail(client, 1)
                    self.others_go_on()
        self.works_again()

    def test_many_reads(self):
        """More than the file system takes, and than there are threads to wait for it."""
        self.stick("read")
        with self.target.connect("f") as client:
            for number in range(200):
                client.request(CMD_READ, number * FAR_APART, 4096)
            self.others_go_on()
            self.all_fail(client, 200)
            self.others_go_on()
        self.works_again()

    def test_many_writes(self):
        self.stick("write", "flush")
        with self.target.connect("f") as client:
            for number in range(100):
                client.request(CMD_WRITE, number * FAR_APART, 4096, payload=bytes(4096))
            client.request(CMD_FLUSH)
            self.others_go_on()
            answers = [client.reply()[1] for _ in range(101)]
            self.assertIn(EIO, answers)
            self.assertEqual(set(answers) - {0, EIO}, set())
            self.others_go_on()
        self.works_again()

    def large_reads(self, mode):
        self.stick("read")
        with self.target.connect("f", mode=mode) as client:
            for number in range(6):
                client.request(CMD_READ, number * 8 * MIB, 4 * MIB)
            client.request(CMD_READ, 60 * MIB, 4096)
            self.all_fail(client, 7)
            self.others_go_on()
            # its buffers are with the device: what comes now is told so, or that it takes too long
            for _ in range(3):
                client.request(CMD_READ, 52 * MIB, 4 * MIB)
                client.request(CMD_READ, 48 * MIB, 65536)
                self.all_fail(client, 2)
        self.works_again()

    def test_large_reads(self):
        self.large_reads(rawnbd.SIMPLE)

    def test_large_reads_with_structured_replies(self):
        self.large_reads(rawnbd.STRUCTURED)

    def test_large_writes(self):
        """They stream in parts, whose buffers the device keeps."""
        if self.DIRECT == "off":
            self.skipTest("the page cache takes them")
        self.stick("write")
        with self.target.connect("f", timeout=60.0) as client:
            sender = threading.Thread(target=self.send_writes, args=(client,))
            sender.start()
            self.all_fail(client, 5)
            sender.join(BOUNDED_SECONDS)
            self.assertFalse(sender.is_alive())
            self.others_go_on()
        self.works_again()

    def send_writes(self, client):
        for number in range(5):
            client.request(CMD_WRITE, number * 12 * MIB, 12 * MIB, payload=bytes(12 * MIB))

    def test_stop(self):
        """
        SIGTERM while READs hang: the process says so and ends, with status 1. Few enough of them for
        nbdfuse to answer what the kernel asks when a process closes the file.
        """
        if not harness.FULL and type(self) is not Hung:
            self.skipTest("it takes 12 s: once is enough, but for POLLUX_TEST_FULL=1")
        self.stick("read")
        with self.target.connect("f") as client:
            for number in range(3):
                client.request(CMD_READ, number * FAR_APART, 4096)
            self.all_fail(client, 3)
            self.target.signal(signal.SIGTERM)
            self.assertEqual(self.target.wait(), 1)
            self.target.checked = True
            self.target.check_log()
            self.logged(self.target, "a device does not answer")


class HungQueue(HungTest):
    """
    The time of large READs that wait behind a stuck one counts from when they came: their number
    does not make it longer. Had each a time-out of its own after those before it, the last one would
    be told no sooner than after COUNT of them. There are buffers for all of them, or those without
    would fail for that.
    """
    COUNT = 20
    ARGS = ("--memory", "512M")

    def queued(self, mode):
        self.stick("read")
        with self.target.connect("f", mode=mode) as client:
            began = time.monotonic()
            for number in range(self.COUNT):
                client.request(CMD_READ, number * 2 * MIB, 2 * MIB)
            self.all_fail(client, self.COUNT)
            self.assertLess(time.monotonic() - began, self.COUNT * IO_TIMEOUT_MS / 1000)
            self.others_go_on()
        self.works_again()

    def test_simple(self):
        self.queued(rawnbd.SIMPLE)

    def test_structured(self):
        self.queued(rawnbd.STRUCTURED)


class Failing(HungTest):
    def test_sync_error_is_not_forgotten(self):
        """
        The file system says once that it could not make data durable. Each FLUSH and FUA fails from
        then on, of other clients and cores too, until the bdev is made anew.
        """
        with self.target.connect("f") as client, self.target.connect("f") as other:
            client.write(0, b"l" * 4096)
            client.flush()
            self.below.rpc("bdev_error_inject_error", name="EE_m", io_type="flush",
                           error_type="failure", num=1)
            client.write(0, b"m" * 4096)
            self.assertEqual(client.call(CMD_FLUSH)[0], EIO)
            for who in (client, other):
                self.assertEqual(who.call(CMD_FLUSH)[0], EIO)
                self.assertEqual(who.call(CMD_WRITE, 8192, 4096, flags=CMD_FLAG_FUA,
                                          payload=bytes(4096))[0], EIO)
                self.assertEqual(who.read(0, 4096), b"m" * 4096)
                who.write(0, b"m" * 4096)
        with self.target.connect("f") as late:
            self.assertEqual(late.call(CMD_FLUSH)[0], EIO)
        self.logged(self.target, "could not be made durable")
        told = self.target.rpc("bdev_get_bdevs", name="f")[0]["driver_specific"]["file"]
        self.assertTrue(told["sync_error"])
        self.assertEqual(self.target.rpc("bdev_get_iostat", name="f")["bdevs"][0]
                         ["durability"]["errors"], 1)
        self.wait_idle(self.target)
        self.target.rpc("export_delete", name="f")
        self.target.rpc("bdev_file_delete", name="f")
        self.target.rpc("bdev_file_create", name="f", filename=os.path.join(self.point, "nbd"))
        self.target.rpc("export_create", name="f", bdev="f")
        with self.target.connect("f") as client:
            client.write(0, b"n" * 4096, flags=CMD_FLAG_FUA)
            client.flush()


class FailingApart(Failing):
    ARRANGEMENT = harness.APART


class HungApart(Hung):
    ARRANGEMENT = harness.APART


class HungBuffered(Hung):
    DIRECT = "off"


del HungTest
