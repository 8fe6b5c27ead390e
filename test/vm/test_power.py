# SPDX-License-Identifier: BSD-3-Clause
"""
Power cuts: what Pollux has answered to FLUSH and to writes with FUA is on the disk when all else is gone.

Pollux serves in the guest, from disks with a volatile cache (volatile.py); the client is here. The guest
goes with a cut, and so does the cache: nothing but the disk's stable contents at that moment is left. So
a copy of these, taken as the answer comes in, is as good as a cut, and a boot is good for several; at
the end QEMU is killed in earnest. A file system is read from the copy after its journal was replayed.
"""

import collections
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest

import harness
import machine
import rawnbd
import volatile

FOLDER = os.path.dirname(os.path.abspath(__file__))
FULL = os.environ.get("POLLUX_TEST_FULL") == "1"
BOOTS = 20 if FULL else 1
CUTS = 10  # a target and boot, the last one in earnest
MIB = 1 << 20
BLOCK = 512
DISK_BYTES, FILE_BYTES = 4 * MIB, 2 * MIB

# device: what the guest has; spec: what Pollux serves, {} is the disk's name in the guest; file: its name
# on the disk's file system, if there is one; fua: False for QEMU's NVMe, which (as of 7.2) answers a
# write with FUA without a flush, whoever has sent it; pci: where the device is put, for vfio-pci
Target = collections.namedtuple("Target", "name device spec file fua pci", defaults=(None, True, None))
TARGETS = (
    Target("direct", "--disk", "file:/dev/{}"),
    Target("cached", "--disk", "file:/dev/{}?direct=off"),
    Target("file", "--disk", "file:/mnt/{}/disk.img", "disk.img"),
    Target("cached-file", "--disk", "file:/mnt/{}/disk.img?direct=off", "disk.img"),
    Target("nvme", "--nvme", "file:/dev/{}", fua=False),
    Target("passthrough", "--nvme", "nvme:/dev/{}", fua=False),
    Target("vfio", "--nvme", "nvme:0000:00:10.0/n1", fua=False, pci="0000:00:10.0"),
)


class Model:
    """What may stand in each block after a cut."""

    def __init__(self, size):
        self.now = bytearray(size)
        self.older = {}  # block: contents that it may have as well

    def block(self, number):
        return bytes(self.now[number * BLOCK:(number + 1) * BLOCK])

    def write(self, offset, data):
        for number in range(offset // BLOCK, (offset + len(data) - 1) // BLOCK + 1):
            self.older.setdefault(number, set()).add(self.block(number))
        self.now[offset:offset + len(data)] = data

    def flush(self):
        self.older.clear()

    def fua(self, offset, data):
        """Whole blocks only."""
        self.now[offset:offset + len(data)] = data
        for number in range(offset // BLOCK, (offset + len(data)) // BLOCK):
            self.older.pop(number, None)

    def wrong(self, image):
        """The blocks that no cut can leave like this."""
        if bytes(self.now) == image:
            return []
        return [number for number in range(len(self.now) // BLOCK)
                if (found := image[number * BLOCK:(number + 1) * BLOCK]) != self.block(number)
                and found not in self.older.get(number, ())]


def run(*command):
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})
    return done.returncode, done.stdout


class Served:
    """A target in one boot: its disk, three connections, what it should hold."""

    def __init__(self, target, work, guest_name):
        self.target = target
        self.work = work
        self.guest_name = guest_name
        self.model = Model(FILE_BYTES if target.file else DISK_BYTES)
        self.disk = volatile.Disk(os.path.join(work, target.name), self.first_contents())
        self.clients = []
        self.late = []  # writes on the third connection that wait for their answer
        self.lost = 0  # cuts that took what was not flushed

    def first_contents(self):
        """Zeroes; a file is a hole, so that what is written needs its block in the journal as well."""
        if not self.target.file:
            return bytes(DISK_BYTES)
        tree = tempfile.mkdtemp(dir=self.work)
        with open(os.path.join(tree, self.target.file), "wb") as file:
            file.truncate(FILE_BYTES)
        image = os.path.join(self.work, "new.img")
        code, text = run("mkfs.ext4", "-q", "-F", "-d", tree, "-E", "lazy_itable_init=0", image, "16M")
        if code:
            raise AssertionError(text)
        with open(image, "rb") as file:
            return file.read()

    def connect(self, port):
        for _ in range(3):
            client = rawnbd.Client(("tcp", "127.0.0.1", port), timeout=120)
            client.greeting().go(self.target.name)
            self.clients.append(client)

    def contents(self):
        """What a cut now would leave."""
        image = self.disk.stable()
        if not self.target.file:
            return image
        path, out = (os.path.join(self.work, name) for name in ("cut.img", "cut.out"))
        with open(path, "wb") as file:
            file.write(image)
        code, text = run("e2fsck", "-fy", path)
        if code > 1:
            raise AssertionError(f"{self.target.name}: e2fsck says {code}: {text}")
        code, text = run("debugfs", "-R", f"dump /{self.target.file} {out}", path)
        with open(out, "rb") as file:
            found = file.read()
        os.unlink(out)
        return found

    def counted(self):
        return self.disk.flushes + self.disk.fua_writes


class Power(unittest.TestCase):
    targets = TARGETS

    def setUp(self):
        self.work = tempfile.mkdtemp(prefix="pollux-power-")
        self.addCleanup(shutil.rmtree, self.work, ignore_errors=True)
        self.served = []
        self.runner = None

    def boot(self):
        """Starts the guest with a disk for each target."""
        numbers = collections.Counter()
        options, mounts, specs = [], [], []
        for target in self.targets:
            number = numbers[target.device]
            numbers[target.device] += 1
            name = f"vd{chr(ord('a') + number)}" if target.device == "--disk" else f"nvme{number}n1"
            served = Served(target, self.work, name)
            self.served.append(served)
            slot = f",addr={target.pci[8:-2]}" if target.pci else ""
            options += [target.device, ("" if target.device == "--disk" else "image=")
                        + served.disk.uri() + slot]
            node = name.replace("nvme", "ng") if target.spec.startswith("nvme:") else name
            specs.append(f"{target.name}={target.spec.format(node)}")
            if target.file:
                mounts.append(name)
        port, stat_port = harness.free_port(), harness.free_port()
        log = os.path.join(self.work, "errors")
        with open(log, "wb") as errors:
            self.runner = subprocess.Popen(  # pylint: disable=consider-using-with
                [os.path.join(FOLDER, "run"), "-p", f"pollux={os.environ['POLLUX']}", "-p", "socat",
                 "-m", "ext4", "--memory", "768", "-t", "1000", "--boot-timeout", "200",
                 "-m", "vfio-pci", "--iommu", "--hugepages", "32",
                 "--hostfwd", f"tcp:127.0.0.1:{port}-:10809",
                 "--hostfwd", f"tcp:127.0.0.1:{stat_port}-:10810", *options,
                 os.path.join(FOLDER, "power.sh"), " ".join(mounts),
                 " ".join(target.pci for target in self.targets if target.pci), *specs],
                stdout=subprocess.PIPE, stderr=errors, text=True)
        self.addCleanup(self.end)
        line = self.runner.stdout.readline()
        if line != "ready\n":
            rest = line + self.runner.stdout.read()
            self.runner.wait()
            with open(log, encoding="utf-8", errors="replace") as errors:
                rest += errors.read()
            if self.runner.returncode == machine.SKIPPED:
                self.skipTest(rest.strip().splitlines()[-1])
            self.fail(rest)
        threading.Thread(target=self.runner.stdout.read, daemon=True).start()
        with open(f"/proc/{self.runner.pid}/task/{self.runner.pid}/children", encoding="ascii") as file:
            self.qemu, = map(int, file.read().split())
        for served in self.served:
            served.connect(port)
        self.stat_port = stat_port

    def end(self):
        for served in self.served:
            for client in served.clients:
                client.close()
        self.runner.terminate()
        self.runner.wait()
        for served in self.served:
            served.disk.close()

    def kill(self):
        os.kill(self.qemu, signal.SIGKILL)
        self.runner.wait()
        self.assertEqual(self.runner.returncode, machine.LOST)

    def guest_flushes(self):
        """The guest's own count of flushes: {disk: number}."""
        with socket.create_connection(("127.0.0.1", self.stat_port), timeout=120) as peer:
            text = b"".join(iter(lambda: peer.recv(1 << 16), b"")).decode()
        return {line.split("/")[3]: int(line.split(":")[1].split()[15]) for line in text.splitlines()}

    # ---- rounds ----

    def some(self, size, align=1):
        length = random.choice((1, 2, 7, 8, 16, 128)) * BLOCK
        if align == 1 and random.random() < 0.4:
            length += random.randrange(1, BLOCK)
        return random.randrange((size - length) // align) * align, random.randbytes(length)

    def answered(self, client, *requests):
        """All are sent, then all answers taken."""
        cookies = [client.request(*request, **more) for request, more in requests]
        for _ in cookies:
            cookie, error, _ = client.reply()
            self.assertIn(cookie, cookies)
            self.assertEqual(error, 0)

    def plain_writes(self, served, client):
        for _ in range(random.randrange(1, 5)):
            offset, data = self.some(len(served.model.now))
            self.answered(client, ((rawnbd.CMD_WRITE, offset, len(data)), {"payload": data}))
            served.model.write(offset, data)

    def late_writes(self, served, *taken):
        """On their way while something else is made durable: a cut may take them or not. No two share
        a block, since nobody knows which comes first."""
        for _ in range(random.randrange(3)):
            offset, data = self.some(len(served.model.now))
            blocks = (offset // BLOCK * BLOCK, (offset + len(data) + BLOCK - 1) // BLOCK * BLOCK)
            if all(blocks[1] <= begin or blocks[0] >= end for begin, end in taken):
                served.clients[2].request(rawnbd.CMD_WRITE, offset, len(data), payload=data)
                served.late.append((offset, data))
                taken += (blocks,)

    def settle(self, served):
        """Takes the late answers."""
        for _ in served.late:
            self.assertEqual(served.clients[2].reply()[1], 0)
        served.late = []

    def durable(self, served):
        """Ends with the answer to what must last; returns what it was."""
        what = self.make_durable(served)
        for late in served.late:
            served.model.write(*late)
        return what

    def make_durable(self, served):
        one, other, _ = served.clients
        self.plain_writes(served, one)
        kinds = ("flush", "flush by another", "FUA", "zeroes with FUA")
        kind = random.choice(kinds if served.target.fua else kinds[:2])
        if kind.startswith("flush"):
            client = one if kind == "flush" else other
            before = served.disk.flushes
            self.late_writes(served)
            self.answered(client, ((rawnbd.CMD_FLUSH,), {}))
            served.model.flush()
            self.assertGreater(served.disk.flushes, before, f"{served.target.name}: no flush came")
            return kind
        offset, data = self.some(len(served.model.now), BLOCK)
        if kind == "FUA":
            request = ((rawnbd.CMD_WRITE, offset, len(data), rawnbd.CMD_FLAG_FUA), {"payload": data})
        else:
            data = bytes(len(data))
            request = ((rawnbd.CMD_WRITE_ZEROES, offset, len(data), rawnbd.CMD_FLAG_FUA), {})
        before = served.counted()
        self.late_writes(served, (offset, offset + len(data)))
        self.answered(one, request)
        served.model.fua(offset, data)
        self.assertGreater(served.counted(), before, f"{served.target.name}: {kind}, but no flush came")
        return kind

    def unflushed(self, served):
        """The test would see a loss: what nobody has flushed is not on the disk yet."""
        self.plain_writes(served, served.clients[0])
        if served.contents() != bytes(served.model.now):
            served.lost += 1

    def check(self, served, what):
        wrong = served.model.wrong(served.contents())
        self.assertEqual(wrong[:20], [], f"{served.target.name}: {len(wrong)} blocks are lost after {what}")

    def rounds(self, seed):
        random.seed(seed)
        self.boot()
        before = self.guest_flushes()
        last = random.choice(self.served)
        for number in range(CUTS):
            for served in self.served:
                if number == CUTS - 1 and served is last:
                    continue
                what = self.durable(served)
                self.check(served, what)
                self.settle(served)
                self.unflushed(served)
        after = self.guest_flushes()
        for served in self.served:
            if served.target.spec.startswith("file:"):
                self.assertGreater(after[served.guest_name], before[served.guest_name],
                                   f"{served.target.name}: the guest's flushes")
            self.assertGreater(served.lost, 0, f"{served.target.name}: no cut has an effect")
        what = self.durable(last)
        self.kill()
        for served in self.served:
            self.check(served, f"QEMU was killed after {what} of {last.target.name}")


def add_boots():
    for number in range(BOOTS):
        seed = random.randrange(1 << 32)
        setattr(Power, f"test_{number:02}_seed_{seed}", lambda self, seed=seed: self.rounds(seed))


add_boots()
