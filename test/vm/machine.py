# SPDX-License-Identifier: BSD-3-Clause
"""
The virtual machine: QEMU's command line, watching a run, and the verdict.

A run passes by two ways that must agree: what the guest wrote to its status port, and QEMU's own exit
status, set through a device that a panic, a reset or a kill does not touch. Everything else has a
status and a message of its own (VERDICTS).
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from kernel import SetupError, Unavailable

SKIPPED, HOST, GUEST, PANIC, LOST, TIMEOUT, DISAGREE = 77, 120, 121, 122, 123, 124, 125
VERDICTS = {
    SKIPPED: "skipped: no QEMU here, or neither a cached kernel nor a way to fetch one",
    HOST: "the run could not be prepared: a wrong option, a missing program or module",
    GUEST: "the guest could not be set up: a module or a device is missing",
    PANIC: "the guest's kernel panicked",
    LOST: "QEMU ended, or was killed, before the script did",
    TIMEOUT: "the guest did not start, or the script did not end, in time",
    DISAGREE: "the two ways by which the result comes do not agree",
}
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
NVME_OWN = ("size", "image", "lba", "namespaces", "hotplug")  # keys that QEMU does not know
NVME_METADATA = ("ms", "mset", "pi", "pil")
NVME_NAMESPACE = (*NVME_METADATA, "shared")  # keys of QEMU's nvme-ns; the rest are of its nvme


def size_of(text):
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if not match or int(match[1]) == 0:
        raise SetupError(f"not a size: '{text}' (a number with K, M, G or T)")
    return int(match[1]) * UNITS[match[2]]


def parse_keys(text, first):
    """'64M,lba=4096' as a dictionary; the value without a key is that of `first`."""
    keys = {}
    for position, part in enumerate(text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = first, part
            if position:
                raise SetupError(f"'{part}' in '{text}' has no value")
        keys[name] = value
    return keys


class Machine:
    """QEMU's arguments, the modules the devices need, and the paths the guest waits for."""

    def __init__(self, options, work):
        self.work = work
        self.modules = []
        self.devices = []
        self.append = ["console=ttyS0", "quiet", "panic=-1", "oops=panic", "nokaslr",
                       "mitigations=off", "tsc=reliable", "random.trust_cpu=on", "no_timer_check",
                       "nowatchdog"]
        self.arguments = ["-smp", str(options.cpus), "-m", str(options.memory)]
        machine = "q35"
        if options.iommu:
            machine += ",kernel-irqchip=split"
            self.arguments += ["-device", "intel-iommu,intremap=on,caching-mode=on"]
            self.append.append("intel_iommu=on")
        self.arguments += ["-machine", machine]
        for number, text in enumerate(options.nvme):
            self.add_nvme(number, parse_keys(text, "size"))
        for number, text in enumerate(options.disk):
            self.add_disk(number, text)
        if options.net or options.hostfwd or options.guestfwd:
            self.add_net(options)
        if options.numa:
            self.append.append(f"numa=fake={options.numa}")
        if options.hugepages:
            self.append.append(f"hugepages={options.hugepages}")
        self.append += options.append
        if options.monitor:
            self.add_monitor()
        if options.qmp:
            self.arguments += ["-qmp", f"unix:{options.qmp},server=on,wait=off"]
        self.arguments += options.qemu

    def image(self, name, text):
        """A path or URI as it is; a size as a new sparse file that goes when the run ends."""
        if "://" in text:
            return text
        if "/" in text:
            if not os.path.exists(text):
                raise SetupError(f"no such image: {text}")
            return text
        path = os.path.join(self.work, name)
        with open(path, "wb") as file:
            file.truncate(size_of(text))
        return path

    @staticmethod
    def drive(name, image):
        """What is behind a URI is told of flushes; for files that only the run needs they cost time."""
        cache = "writeback" if "://" in image else "unsafe"
        return f"if=none,id={name},format=raw,cache={cache},discard=unmap,file={image}"

    def add_nvme(self, number, keys):
        """A controller with its namespaces: /dev/nvmeNn1, n2, …"""
        lba, count = keys.get("lba", "512"), keys.get("namespaces", "1")
        if lba not in ("512", "4096") or not re.fullmatch(r"[1-9]\d?", count):
            raise SetupError("--nvme: lba is 512 or 4096, namespaces a number from 1 to 99")
        if ("size" in keys) == ("image" in keys) or ("image" in keys and count != "1"):
            raise SetupError("--nvme: give a size, or image=PATH of one namespace")
        self.modules.append("nvme")
        controller = [f"nvme,id=nvme{number},serial=pollux{number}"]
        if "hotplug" in keys:  # nothing can be unplugged from the root bus
            self.arguments += ["-device", f"pcie-root-port,id=port{number},chassis={number + 1}"]
            controller.append(f"bus=port{number}")
        if "subsys" in keys and f"nvme-subsys,id={keys['subsys']}" not in self.arguments:
            self.arguments += ["-device", f"nvme-subsys,id={keys['subsys']}"]
        controller += [f"{key}={value}" for key, value in keys.items()
                       if key not in NVME_OWN + NVME_NAMESPACE]
        self.arguments += ["-device", ",".join(controller)]
        extra = [f",{key}={value}" for key, value in keys.items() if key in NVME_NAMESPACE]
        for space in range(1, int(count) + 1):
            name = f"nvme{number}n{space}"
            image = self.image(name + ".img", keys.get("image") or keys["size"])
            self.arguments += [
                "-drive", self.drive(f"d{name}", image),
                "-device", f"nvme-ns,id={name},drive=d{name},bus=nvme{number},nsid={space},"
                f"logical_block_size={lba},physical_block_size={lba}" + "".join(extra)]
            # one with metadata has no block device without its integrity profile; buses are named in
            # their order, so which number one behind a port gets is not known here
            if not {*NVME_METADATA, "hotplug"} & set(keys):
                self.devices.append(f"/dev/{name}")

    def add_disk(self, number, text):
        self.modules += ["virtio_pci", "virtio_blk"]
        image = self.image(f"disk{number}.img", text)
        self.arguments += [
            "-drive", self.drive(f"disk{number}", image),
            "-device", f"virtio-blk-pci,drive=disk{number}"]
        self.devices.append(f"/dev/vd{chr(ord('a') + number)}")

    def add_net(self, options):
        self.modules += ["vmxnet3"] if options.nic == "vmxnet3" else ["virtio_pci", "virtio_net"]
        network = "user,id=net0,restrict=on"
        network += "".join(f",hostfwd={rule}" for rule in options.hostfwd)
        network += "".join(f",guestfwd={rule}" for rule in options.guestfwd)
        self.arguments += ["-netdev", network, "-device", f"{options.nic},netdev=net0,romfile="]
        self.devices.append("/sys/class/net/eth0")

    def add_monitor(self):
        """QEMU's monitor at the guest's last serial port: by a socket, to which QEMU itself connects."""
        path = os.path.join(self.work, "monitor")
        self.arguments += [
            "-chardev", f"socket,id=monitor,path={path},server=on,wait=off",
            "-mon", "chardev=monitor,mode=readline",
            "-chardev", f"socket,id=monitor-port,path={path}",
            "-device", "isa-serial,chardev=monitor-port,index=3"]
        self.devices.append("/dev/ttyS3")

    def command(self, vmlinux, initrd):
        emulator = shutil.which("qemu-system-x86_64")
        if not emulator:
            raise Unavailable("no qemu-system-x86_64 (package qemu-system-x86)")
        ports = []
        for name in ("console", "status", "output"):
            ports += ["-serial", f"file:{os.path.join(self.work, name)}"]
        return [emulator, "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-nodefaults",
                "-no-user-config", "-display", "none", "-no-reboot", *ports,
                "-device", "isa-debug-exit,iobase=0xf4,iosize=1", *self.arguments,
                "-kernel", vmlinux, "-initrd", initrd, "-append", " ".join(self.append)]


def verdict(status, returncode, console, timed_out=None):
    """
    (exit status of the run, message or None), from the lines of the status port, QEMU's exit status
    (negative: a signal), the text of the console, and what took too long.
    """
    words = [line.split(" ", 1) for line in status]
    ended = [word[1] for word in words if word[0] == "exit" and len(word) == 2]
    failed = [word[1] for word in words if word[0] == "fail" and len(word) == 2]
    panic = re.search(r"Kernel panic - not syncing: (.*)", console)
    if timed_out:
        return TIMEOUT, timed_out
    if panic:
        return PANIC, f"the guest's kernel panicked: {panic[1].strip()}"
    if returncode < 0:
        return LOST, f"QEMU was killed by {signal.Signals(-returncode).name}"
    if not ended:
        if returncode == 0:
            return LOST, "the guest powered off or reset itself before the script ended"
        if returncode == 1 and not words:
            return HOST, "QEMU did not start"
        return LOST, f"the guest was lost: QEMU ended with status {returncode} before the script did"
    if len(ended) != 1 or not ended[0].isdigit() or int(ended[0]) > 255:
        return DISAGREE, f"the status port says '{', '.join(ended)}'"
    result = int(ended[0])
    if returncode != (result << 1 | 1) & 0xff:
        return DISAGREE, (f"the status port says {result}, but QEMU ended with status {returncode} "
                          f"instead of {(result << 1 | 1) & 0xff}")
    if failed:
        return GUEST, f"the guest could not be set up: {failed[0]}"
    if ["script"] not in words:
        return DISAGREE, "the status port tells a result, but not that the script began"
    if result in VERDICTS:
        return 1, f"the script ended with {result}, which has a meaning of its own here: 1 instead"
    return result, None


class Tail:
    """What is new in a growing file."""

    def __init__(self, path):
        with open(path, "wb"):
            pass
        self.file = open(path, "rb")  # pylint: disable=consider-using-with

    def read(self):
        return self.file.read()


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Run:
    """One run of the machine."""

    def __init__(self, command, work, timeouts, verbose):
        self.command = command
        self.boot_timeout, self.timeout = timeouts
        self.verbose = verbose
        self.console, self.status, self.output = (Tail(os.path.join(work, name))
                                                  for name in ("console", "status", "output"))
        self.console_text, self.status_text = b"", b""

    def pump(self):
        """Passes on what the guest has written."""
        new = self.output.read()
        if new:
            sys.stdout.buffer.write(new)
            sys.stdout.flush()
        new = self.console.read()
        self.console_text += new
        if self.verbose and new:
            sys.stderr.buffer.write(new)
            sys.stderr.flush()
        self.status_text += self.status.read()

    def status_lines(self):
        return self.status_text.decode("ascii", "replace").replace("\r", "").splitlines()

    def wait(self):
        """Runs QEMU to its end; returns (exit status, message or None)."""
        timed_out, script_began = None, None
        began = time.monotonic()
        # pylint: disable-next=consider-using-with,subprocess-popen-preexec-fn
        qemu = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=sys.stderr,
                                preexec_fn=die_with_parent)
        try:
            while qemu.poll() is None:
                self.pump()
                now = time.monotonic()
                if script_began is None:
                    if "script" in self.status_lines():
                        script_began = now
                    elif now - began > self.boot_timeout:
                        timed_out = f"the guest did not start within {self.boot_timeout:g} s"
                elif now - script_began > self.timeout:
                    timed_out = f"the script did not end within {self.timeout:g} s"
                if timed_out:
                    break
                time.sleep(0.05)
        finally:
            if qemu.poll() is None:
                qemu.kill()
            qemu.wait()
        self.pump()
        console = self.console_text.decode("utf-8", "replace").replace("\r", "")
        code, message = verdict(self.status_lines(), qemu.returncode, console, timed_out)
        if message and not self.verbose:
            tail = console.splitlines()[-40:]
            if tail:
                print("vm: the end of the guest's console:", *tail, sep="\n    ", file=sys.stderr)
        return code, message
