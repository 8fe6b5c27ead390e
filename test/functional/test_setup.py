# SPDX-License-Identifier: BSD-3-Clause
"""
scripts/setup.sh on a sysfs and a procfs of the test's own: what it lists, binds, refuses and gives back.

A thread plays the kernel: what is written to drivers_probe and unbind moves the devices' driver links.
test/vm/nvme_setup.sh does the same with real devices.
"""

import os
import re
import select
import shutil
import subprocess
import tempfile
import threading
import unittest

SOURCE = os.environ.get("POLLUX_SOURCE", os.path.join(os.path.dirname(__file__), "..", ".."))
SETUP = os.path.join(SOURCE, "scripts", "setup.sh")
NVME, ETHERNET, BRIDGE = "0x010802", "0x020000", "0x060400"
A, B, C = "0000:01:00.0", "0000:02:00.0", "10000:e1:1f.7"
PAGES = "hugepages/hugepages-2048kB"


class Tree:
    """A machine: its devices, drivers, processes."""

    def __init__(self, root):
        self.root = root
        self.stubborn = set()  # drivers that take no device
        self.fifos = {}
        self.pci = os.path.join(root, "sys/bus/pci")
        for driver in ("nvme", "vfio-pci", "e1000e"):
            self.make_fifo(f"sys/bus/pci/drivers/{driver}/unbind", self.unbind)
        self.make_fifo("sys/bus/pci/drivers_probe", self.probe)
        for path in ("proc/self", "dev/vfio", "sys/kernel/iommu_groups"):
            os.makedirs(os.path.join(root, path))
        self.write("proc/self/mountinfo", "21 1 0:19 / /proc rw - proc proc rw\n")
        self.write("proc/swaps", "Filename Type Size Used Priority\n")
        self.write("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable: 4000000 kB\n")
        self.add_pages(0, 16)
        self.stop, self.stopped = os.pipe()
        self.kernel = threading.Thread(target=self.run)
        self.kernel.start()

    def close(self):
        os.write(self.stopped, b"x")
        self.kernel.join()
        for descriptor in (*self.fifos, self.stop, self.stopped):
            os.close(descriptor)

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def write(self, path, text):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "w", encoding="ascii") as file:
            file.write(text)

    def read(self, path):
        with open(self.path(path), encoding="ascii") as file:
            return file.read().strip()

    def link(self, path, target):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        os.symlink(target, self.path(path))

    def make_fifo(self, path, handler):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        os.mkfifo(self.path(path))
        self.fifos[os.open(self.path(path), os.O_RDWR)] = handler

    def run(self):
        while True:
            ready, _, _ = select.select([*self.fifos, self.stop], [], [])
            if self.stop in ready:
                return
            for descriptor in ready:
                for address in os.read(descriptor, 4096).decode().split():
                    self.fifos[descriptor](address)

    def driver(self, address):
        try:
            return os.path.basename(os.readlink(self.path(self.pci, "devices", address, "driver")))
        except FileNotFoundError:
            return None

    def unbind(self, address):
        os.unlink(self.path(self.pci, "devices", address, "driver"))

    def probe(self, address):
        driver = self.read(f"sys/bus/pci/devices/{address}/driver_override") or "nvme"
        if driver not in self.stubborn and self.driver(address) is None:
            self.link(f"sys/bus/pci/devices/{address}/driver", self.path(self.pci, "drivers", driver))

    def add_pages(self, node, number):
        for folder in (f"sys/devices/system/node/node{node}", "sys/kernel/mm"):
            for name in ("nr_hugepages", "free_hugepages"):
                self.write(f"{folder}/{PAGES}/{name}", f"{number}\n")

    def add_device(self, address, group="7", driver="nvme", kind=NVME):
        device = f"sys/bus/pci/devices/{address}"
        for name, text in (("class", kind), ("vendor", "0x144d"), ("device", "0xa80a"),
                           ("numa_node", "0"), ("driver_override", "(null)")):
            self.write(f"{device}/{name}", text + "\n")
        if driver:
            self.link(f"{device}/driver", self.path(self.pci, "drivers", driver))
        if group:
            self.link(f"{device}/iommu_group", self.path("sys/kernel/iommu_groups", group))
            self.link(f"sys/kernel/iommu_groups/{group}/devices/{address}", self.path(device))

    def add_disk(self, address, name="nvme0n1", number="259:0", path=None):
        """A namespace with one partition; `path` is its name under the controller if it differs."""
        own = f"sys/bus/pci/devices/{address}/nvme/{name.split('n1')[0]}/{path or name}"
        os.makedirs(self.path(own))
        disk = f"sys/devices/virtual/{name}"
        major, minor = number.split(":")
        self.write(f"{disk}/dev", number + "\n")
        self.write(f"{disk}/{name}p1/dev", f"{major}:{int(minor) + 1}\n")
        for part, target in ((name, disk), (f"{name}p1", f"{disk}/{name}p1")):
            os.makedirs(self.path(target, "holders"))
            self.link(f"sys/class/block/{part}", self.path(target))

    def add_process(self, pid, name, *opened):
        self.write(f"proc/{pid}/comm", name + "\n")
        for number, target in enumerate(opened):
            self.link(f"proc/{pid}/fd/{number}", target)


class SetupTest(unittest.TestCase):
    def setUp(self):
        root = tempfile.mkdtemp(prefix="pollux-setup-")
        self.addCleanup(shutil.rmtree, root)
        self.tree = Tree(root)
        self.addCleanup(self.tree.close)
        self.out = ""

    def one_disk(self):
        self.tree.add_device(A)
        self.tree.add_disk(A)

    def setup(self, *arguments, status=0, **more):
        environment = {key: value for key, value in os.environ.items()
                       if not re.match("HUGE|NRHUGE|CLEAR_|SHRINK_|PCI_|DRIVER_|TARGET_", key)}
        environment.update({"SYSFS": self.tree.path("sys"), "PROCFS": self.tree.path("proc"),
                            "DEVFS": self.tree.path("dev"), "STATE": self.tree.path("state"),
                            "HUGEMEM": "0", "WAIT_S": "5", **more})
        done = subprocess.run([SETUP, *arguments], env=environment, check=False, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        self.out = done.stdout
        self.assertEqual(done.returncode, status, self.out)
        return self.out

    def check_refused(self, *words, name=A):
        """Named, it is an error; not named, it is left alone; either way it is said why."""
        for arguments, status in (((name,), 1), ((), 0)):
            out = self.setup("bind", *arguments, status=status)
            self.assertIn(f"{A}: left with nvme, it is in use: ", out)
            for word in words:
                self.assertIn(word, out)
            self.assertEqual(self.tree.driver(A), "nvme")
        self.assertIn(words[0], self.setup("status"))


class Binding(SetupTest):
    def test_bind_and_reset(self):
        self.one_disk()
        self.tree.add_device(C, group="8")
        for arguments in ([], ["config"], ["bind"], [A, C], ["bind", "01:00.0", C]):
            with self.subTest(arguments=arguments):
                self.setup(*arguments)
                self.assertIn(f"{A}: nvme -> vfio-pci", self.out)
                self.assertEqual([self.tree.driver(A), self.tree.driver(C)], ["vfio-pci"] * 2)
                self.assertIn("is with vfio-pci already", self.setup("bind", A))
                self.assertIn(f"{A}: vfio-pci -> nvme", self.setup("reset"))
                self.assertEqual([self.tree.driver(A), self.tree.driver(C)], ["nvme"] * 2)
                self.assertEqual(self.tree.read(f"sys/bus/pci/devices/{A}/driver_override"), "")
        self.assertNotIn("->", self.setup("reset"))

    def test_choice(self):
        for address, group in ((A, "1"), (B, "2"), (C, "3")):
            self.tree.add_device(address, group)
        self.tree.add_device("0000:00:1f.6", "4", "e1000e", ETHERNET)
        for more, bound in (({"PCI_ALLOWED": f"01:00.0 {C}"}, [A, C]), ({"PCI_BLOCKED": B}, [A, C]),
                            ({"PCI_ALLOWED": f"{A} {B}", "PCI_BLOCKED": "0000:02:00.0"}, [A]),
                            ({"PCI_ALLOWED": "none"}, []),
                            ({}, [A, B, C])):
            with self.subTest(more=more):
                self.setup("config", **more)
                self.assertEqual([address for address in (A, B, C)
                                  if self.tree.driver(address) == "vfio-pci"], bound)
                self.setup("reset")
        self.assertEqual(self.tree.driver("0000:00:1f.6"), "e1000e")
        self.setup("bind")
        self.setup("reset", B)
        self.assertEqual([self.tree.driver(A), self.tree.driver(B)], ["vfio-pci", "nvme"])

    def test_none(self):
        self.one_disk()
        self.setup("bind", DRIVER_OVERRIDE="none")
        self.assertIsNone(self.tree.driver(A))
        self.assertIn("is with no driver already", self.setup("bind", DRIVER_OVERRIDE="none"))
        self.assertIn(f"{A}: no driver -> nvme", self.setup("reset"))

    def test_no_driver_before(self):
        self.tree.add_device(A, driver=None)
        self.assertIn(f"{A}: no driver -> vfio-pci", self.setup("bind"))

    def test_not_taken(self):
        self.one_disk()
        self.tree.stubborn.add("vfio-pci")
        out = self.setup("bind", status=1, WAIT_S="1")
        self.assertIn("vfio-pci did not take it", out)
        self.assertIn("it is with nvme again", out)
        self.assertEqual(self.tree.driver(A), "nvme")

    def test_wrong_names(self):
        self.one_disk()
        self.tree.add_device("0000:00:1f.6", "4", "e1000e", ETHERNET)
        for arguments, more, message in (
                (["bind", B], {}, f"there is no PCI device {B}"),
                (["reset", B], {}, f"there is no PCI device {B}"),
                (["bind", "00:1f.6"], {}, "0000:00:1f.6 is not an NVMe device"),
                (["bind", "nvme0"], {}, "'nvme0' is not a PCI address"),
                (["bind", "0000:01:40.0"], {}, "is not a PCI address"),
                (["bind"], {"PCI_BLOCKED": "nvme0"}, "'nvme0' is not a PCI address"),
                (["bind", A], {"PCI_BLOCKED": A}, f"{A} is in PCI_BLOCKED"),
                (["bind", A], {"PCI_ALLOWED": B}, f"{A} is not in PCI_ALLOWED"),
                (["bind", A], {"PCI_ALLOWED": "none"}, f"{A} is not in PCI_ALLOWED"),
                (["bind"], {"DRIVER_OVERRIDE": "no-such"}, "the kernel has no driver no-such"),
                (["bind"], {"HUGEMEM": "2G"}, "HUGEMEM and NRHUGE are numbers, not '2G'"),
                (["bind"], {"HUGENODE": "0,node1"}, "HUGENODE: 'node1' is neither"),
                (["unbind"], {}, "unknown command 'unbind'")):
            with self.subTest(message):
                self.assertIn(message, self.setup(*arguments, status=1, **more))
                self.assertEqual(self.tree.driver(A), "nvme")

    def test_not_root(self):
        self.one_disk()
        os.unlink(self.tree.path("sys/bus/pci/drivers_probe"))
        for command in ("bind", "reset"):
            self.assertIn("run it as root", self.setup(command, status=1))

    def test_of_spdk_only(self):
        """What changes nothing is not ignored without a word."""
        self.assertIn("HUGEPGSZ, which SPDK's has, is not known here", self.setup("bind", HUGEPGSZ="1048576"))

    def test_nothing(self):
        self.assertIn("no NVMe device to bind", self.setup())


class InUse(SetupTest):
    def setUp(self):
        super().setUp()
        self.one_disk()

    def test_mounted_by_number(self):
        self.tree.write("proc/self/mountinfo", "30 1 259:1 / /srv/a\\040b rw shared:1 master:2 - ext4 "
                        "/dev/root rw\n")
        self.check_refused("nvme0n1p1 is mounted on /srv/a b")

    def test_mounted_by_name(self):
        """btrfs has numbers of its own."""
        self.tree.write("proc/self/mountinfo", "30 1 0:44 / /data rw - btrfs /dev/nvme0n1 rw\n")
        self.check_refused("nvme0n1 is mounted on /data", name="01:00.0")

    def test_others_mounts(self):
        self.tree.write("proc/self/mountinfo", "30 1 259:10 / /data rw - xfs /dev/nvme0n10 rw\n")
        self.setup("bind", A)

    def test_swap(self):
        self.tree.write("proc/swaps", "Filename\n/dev/nvme0n1p1 partition 1048572 0 -2\n")
        self.check_refused("nvme0n1p1 is swapped on")

    def test_holders(self):
        for holder, uuid, words in (
                ("dm-3", "LVM-xyz", "held by LVM's volume vg-home (dm-3)"),
                ("dm-3", "CRYPT-LUKS2-1", "held by the encrypted volume vg-home (dm-3)"),
                ("dm-3", "mpath-1", "held by the multipath device vg-home (dm-3)"),
                ("dm-3", "", "held by the device-mapper volume vg-home (dm-3)"),
                ("md127", None, "held by the array md127"), ("bcache0", None, "held by bcache0")):
            with self.subTest(words):
                if uuid is not None:
                    self.tree.write(f"sys/class/block/{holder}/dm/uuid", uuid + "\n")
                    self.tree.write(f"sys/class/block/{holder}/dm/name", "vg-home\n")
                path = self.tree.path(f"sys/class/block/nvme0n1p1/holders/{holder}")
                os.mkdir(path)
                self.check_refused("nvme0n1p1 is " + words)
                os.rmdir(path)

    def test_loop(self):
        self.tree.write("sys/class/block/loop3/loop/backing_file", "/dev/nvme0n1p1\n")
        self.check_refused("nvme0n1p1 is behind a loop device")

    def test_exported(self):
        space = "sys/kernel/config/nvmet/subsystems/nqn.test/namespaces/1"
        self.tree.write(f"{space}/device_path", "/dev/nvme0n1p1\n")
        self.tree.write(f"{space}/enable", "0\n")
        self.setup("bind")
        self.setup("reset")
        self.tree.write(f"{space}/enable", "1\n")
        self.check_refused("nvme0n1p1 is exported by the kernel's NVMe target (nqn.test)")

    def test_open(self):
        self.tree.add_process(41, "qemu-system-x86", "/dev/null", "/dev/nvme0n1", "/dev/nvme0n1")
        self.tree.add_process(42, "nvme-cli", "/dev/ng0n1")
        self.check_refused("/dev/nvme0n1 is open in qemu-system-x86 (pid 41), /dev/ng0n1 is open in "
                           "nvme-cli (pid 42)")
        self.assertEqual(self.out.count("pid 41"), 1)

    def test_udev(self):
        """It only looks."""
        self.tree.add_process(41, "(udev-worker)", "/dev/nvme0n1")
        self.tree.add_process(42, "cat", "/dev/nvme0n10", "/dev/nvme1n1")
        self.setup("bind", A)

    def test_multipath(self):
        """A path's block device is the subsystem's."""
        self.tree.add_device(B, group="8")
        self.tree.add_disk(B, "nvme1n1", "259:4", "nvme1c2n1")
        self.tree.write("proc/swaps", "Filename\n/dev/nvme1n1 partition 1048572 0 -2\n")
        self.assertIn("nvme1n1 is swapped on", self.setup("bind", B, status=1))

    def test_other_goes_on(self):
        self.tree.add_device(B, group="8")
        self.tree.write("proc/swaps", "Filename\n/dev/nvme0n1p1 partition 1048572 0 -2\n")
        self.setup("bind", A, B, status=1)
        self.assertEqual([self.tree.driver(A), self.tree.driver(B)], ["nvme", "vfio-pci"])

    def test_reset_while_served(self):
        self.setup("bind")
        for node in ("/dev/vfio/7", "/dev/vfio/devices/vfio0"):
            with self.subTest(node):
                os.makedirs(self.tree.path(self.tree.pci, "devices", A, "vfio-dev/vfio0"), exist_ok=True)
                self.tree.add_process(77, "pollux", node)
                out = self.setup("reset", status=1)
                self.assertIn(f"{A}: left with vfio-pci, it is in use: {node} is open in pollux (pid 77)",
                              out)
                self.assertEqual(self.tree.driver(A), "vfio-pci")
                shutil.rmtree(self.tree.path("proc/77"))
        self.setup("reset")


class Obstacles(SetupTest):
    def test_no_iommu(self):
        self.tree.add_device(A, group=None)
        self.assertIn("There is no IOMMU at work", self.setup("status"))
        out = self.setup("bind", status=1)
        self.assertIn(f"{A}: left with nvme, there is no IOMMU for it", out)
        self.assertIn("intel_iommu=on", out)
        self.assertEqual(self.tree.driver(A), "nvme")

    def test_shared_group(self):
        self.tree.add_device(A)
        self.tree.add_device("0000:00:1c.0", "7", None, BRIDGE)
        self.tree.add_device("0000:00:1f.6", "7", "e1000e", ETHERNET)
        self.assertIn("its IOMMU group 7 is shared with 0000:00:1f.6 (e1000e)",
                      self.setup("bind", A, status=1))
        self.assertEqual(self.tree.driver(A), "nvme")
        self.tree.unbind("0000:00:1f.6")
        self.setup("bind", A)

    def test_two_in_a_group(self):
        self.tree.add_device(A)
        self.tree.add_device(B)
        self.assertIn(f"shared with {B} (nvme)", self.setup("bind", A, status=1))
        self.setup("bind")
        self.assertEqual([self.tree.driver(A), self.tree.driver(B)], ["vfio-pci"] * 2)

    def test_another_driver(self):
        self.tree.add_device(A, driver="e1000e")
        out = self.setup("bind", status=1)
        self.assertIn(f"{A}: it is with the driver e1000e; give it back first: setup.sh reset {A}", out)
        self.setup("reset", A)
        self.setup("bind", A)


class HugePages(SetupTest):
    def nodes(self):
        return [self.tree.read(f"sys/devices/system/node/node{node}/{PAGES}/nr_hugepages")
                for node in (0, 1)]

    def setUp(self):
        super().setUp()
        self.tree.add_pages(1, 0)
        self.tree.add_pages(0, 16)

    def test_all(self):
        whole = f"sys/kernel/mm/{PAGES}/nr_hugepages"
        for more, pages in (({"HUGEMEM": "33"}, "17"), ({"HUGEMEM": "2048"}, "1024"),
                            ({"NRHUGE": "100"}, "100"), ({"HUGEMEM": "8"}, "16"), ({}, "16")):
            with self.subTest(more=more):
                self.setup("bind", **more)
                self.assertEqual(self.tree.read(whole), pages)
                self.setup("reset")
                self.assertEqual(self.tree.read(whole), "16")
        self.assertEqual(os.path.exists(self.tree.path("state")), False)

    def test_nodes(self):
        self.setup("bind", HUGEMEM="64", HUGENODE="0,1")
        self.assertEqual(self.nodes(), ["32", "32"])
        self.setup("bind", HUGEMEM="64", HUGENODE="nodes_hp[0]=99,1")  # reset goes back to the first
        self.assertEqual(self.nodes(), ["99", "32"])
        self.assertIn("there are no huge pages of 2048 KiB on node 5",
                      self.setup("bind", HUGENODE="5", NRHUGE="1", status=1))
        self.assertIn("0     2048kB", self.setup("status"))
        self.setup("reset")
        self.assertEqual(self.nodes(), ["16", "0"])

    def test_short(self):
        path = self.tree.path(f"sys/devices/system/node/node1/{PAGES}/nr_hugepages")
        os.unlink(path)
        os.symlink("/dev/null", path)
        self.assertIn("only 0 of 512", self.setup("bind", HUGENODE="1", HUGEMEM="1024", status=1))

    def test_too_many(self):
        """The kernel would take the last page of the machine for them."""
        self.assertIn("left at 16, 1775 would take more than the 3515 MiB that are available",
                      self.setup("bind", NRHUGE="1775", status=1))
        self.assertEqual(self.nodes(), ["16", "0"])
        self.setup("bind", NRHUGE="1773")

    def test_reset_of_one(self):
        """Other devices may still need them."""
        self.tree.add_device(A)
        self.setup("bind", HUGENODE="1", HUGEMEM="64")
        self.setup("reset", A)
        self.assertEqual(self.nodes(), ["16", "32"])
        self.setup("reset")
        self.assertEqual(self.nodes(), ["16", "0"])


class Status(SetupTest):
    def test_columns(self):
        self.one_disk()
        self.tree.add_disk(A, "nvme0n2", "259:8")
        self.tree.add_device(B, group=None, driver=None)
        self.tree.write("proc/swaps", "Filename\n/dev/nvme0n2 partition 1048572 0 -2\n")
        lines = [re.sub(" +", " ", line).strip() for line in self.setup("status").splitlines()]
        self.assertIn("0 2048kB 16 16", lines)
        self.assertIn(f"{A} 144d a80a 0 nvme 7 nvme0n1 nvme0n2 nvme0n2 is swapped on", lines)
        self.assertIn(f"{B} 144d a80a 0 - -", lines)
        self.assertNotIn(A, self.setup("status", B))

    def test_help(self):
        self.assertIn("PCI_BLOCKED", self.setup("help"))
