# SPDX-License-Identifier: BSD-3-Clause
"""The runner of the virtual machine: each way in which a run can end is told apart."""

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
import machine  # noqa: E402

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run")
PANIC = "[ 2.1] Kernel panic - not syncing: VFS: no root"


class Verdict(unittest.TestCase):
    """Without a guest: what the two ways of telling the result make together."""

    def check(self, status, returncode, expected, console="", timed_out=None):
        code, message = machine.verdict(status, returncode, console, timed_out)
        self.assertEqual(code, expected, message)
        self.assertEqual(message is None, status[-1:] == [f"exit {code}"], message)

    def test_agreement(self):
        for result in (0, 1, 3, 76, 78, 119, 126, 127, 128, 139, 255):
            with self.subTest(result=result):
                self.check(["up", "script", f"exit {result}"], (result << 1 | 1) & 0xff, result)

    def test_never_passes(self):
        begun = ["up", "script"]
        good = begun + ["exit 0"]
        for name, expected, arguments in (
                ("panic after a good end", machine.PANIC, (good, 1, PANIC)),
                ("panic", machine.PANIC, (begun, 0, PANIC)),
                ("reset", machine.LOST, (begun, 0)),
                ("reset before anything", machine.LOST, ([], 0)),
                ("no status, yet a good device", machine.LOST, (begun, 1)),
                ("killed", machine.LOST, (begun, -9)),
                ("killed after a good end", machine.LOST, (good, -9)),
                ("QEMU fails", machine.HOST, ([], 1)),
                ("too slow", machine.TIMEOUT, (good, -9, "", "slow")),
                ("only the port tells", machine.DISAGREE, (good, 0)),
                ("they differ", machine.DISAGREE, (good, 7)),
                ("two ends", machine.DISAGREE, (good + ["exit 0"], 1)),
                ("not a number", machine.DISAGREE, (begun + ["exit x"], 1)),
                ("too large", machine.DISAGREE, (begun + ["exit 256"], 1)),
                ("no script", machine.DISAGREE, (["up", "exit 0"], 1)),
                ("set-up", machine.GUEST, (["up", "fail no disk", "exit 1"], 3)),
        ):
            with self.subTest(name):
                code, message = machine.verdict(*(arguments + ("",))[:3], *arguments[3:])
                self.assertEqual(code, expected, message)
                self.assertTrue(message)

    def test_reserved_statuses(self):
        for result in machine.VERDICTS:
            with self.subTest(result=result):
                code, message = machine.verdict(["up", "script", f"exit {result}"],
                                                (result << 1 | 1) & 0xff, "")
                self.assertEqual(code, 1)
                self.assertIn(str(result), message)


class RunnerTest(unittest.TestCase):
    def run_vm(self, script, *options, arguments=(), **more):
        """(exit status, standard output, standard error) of a run of the text `script`."""
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
            file.write(script)
            file.flush()
            done = subprocess.run([RUN, *options, file.name, *arguments], check=False, text=True,
                                  capture_output=True, timeout=400, **more)
        if done.returncode == machine.SKIPPED and not more:
            self.skipTest(done.stderr.strip().splitlines()[-1])
        return done.returncode, done.stdout, done.stderr


class Ends(RunnerTest):
    def test_status_and_output(self):
        """The script's status, its arguments, and all of its output come out as they are."""
        code, out, errors = self.run_vm('printf "%s|" "$@"; echo; seq 1 30000; echo last >&2; exit 3',
                                        arguments=["a", "b c", "$HOME", "'"])
        self.assertEqual(code, 3, errors)
        lines = out.split("\n")
        self.assertEqual(lines[0], "a|b c|$HOME|'|")
        self.assertEqual(lines[1:-2], [str(number) for number in range(1, 30001)])
        self.assertEqual(lines[-2:], ["last", ""])
        self.assertEqual(errors, "")

    def test_panic(self):
        code, _, errors = self.run_vm("echo c >/proc/sysrq-trigger; sleep 100")
        self.assertEqual(code, machine.PANIC, errors)
        self.assertIn("panicked: sysrq triggered crash", errors)

    def test_hang(self):
        code, out, errors = self.run_vm("echo begun; sleep 1000", "--timeout", "2")
        self.assertEqual(code, machine.TIMEOUT, errors)
        self.assertIn("the script did not end within 2 s", errors)
        self.assertEqual(out, "begun\n")

    def test_slow_start(self):
        code, _, errors = self.run_vm("true", "--boot-timeout", "0.1")
        self.assertEqual(code, machine.TIMEOUT, errors)
        self.assertIn("did not start within 0.1 s", errors)

    def test_power_off(self):
        """A guest that forges a good end on the status port and goes is no pass."""
        code, _, errors = self.run_vm("echo exit 0 >/dev/ttyS1; poweroff -f; sleep 100")
        self.assertEqual(code, machine.DISAGREE, errors)

    def test_killed(self):
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
            script.write("echo ready; sleep 1000")
            script.flush()
            with subprocess.Popen([RUN, script.name], stdout=subprocess.PIPE, text=True,
                                  stderr=subprocess.PIPE) as runner:
                line = runner.stdout.readline()
                if line:
                    with open(f"/proc/{runner.pid}/task/{runner.pid}/children",
                              encoding="ascii") as file:
                        children = file.read().split()
                    self.assertEqual(len(children), 1)
                    os.kill(int(children[0]), signal.SIGKILL)
                _, errors = runner.communicate(timeout=400)
        if runner.returncode == machine.SKIPPED:
            self.skipTest(errors.strip())
        self.assertEqual(line, "ready\n", errors)
        self.assertEqual(runner.returncode, machine.LOST, errors)
        self.assertIn("QEMU was killed by SIGKILL", errors)


class Interpreter(RunnerTest):
    """A script's first line counts as it does elsewhere: one that ends at a failed command ends there."""

    def test_words(self):
        loader = importlib.machinery.SourceFileLoader("run", RUN)
        run = importlib.util.module_from_spec(importlib.util.spec_from_loader("run", loader))
        loader.exec_module(run)
        for first, words in ((b"true\n", ["sh"]), (b"#!/bin/sh\n", ["/bin/sh"]),
                             (b"#!/bin/sh -e\n", ["/bin/sh", "-e"]),
                             (b"#! /bin/dash -eu \n", ["sh", "-eu"]),
                             (b"#!/bin/bash\n", ["/bin/bash"]),
                             (b"#!/usr/bin/bash -e -u\n", ["/usr/bin/bash", "-e -u"]),
                             (b"#!/usr/bin/env bash\n", ["bash"]),
                             (b"#!/usr/bin/env -S bash -e -u\n", ["bash", "-e", "-u"]),
                             (b"# !/bin/bash\n", ["sh"]), (b"", ["sh"])):
            with self.subTest(first=first):
                self.assertEqual(run.interpreter_of(first), words)

    def test_ends_at_the_first_failure(self):
        code, out, errors = self.run_vm("#!/bin/sh -e\necho begun\nfalse\necho not here\nexit 0\n")
        self.assertEqual((code, out), (1, "begun\n"), errors)


class Guest(RunnerTest):
    def test_devices(self):
        """What the options ask for is there; modules come with all that they need."""
        code, out, errors = self.run_vm("""set -e
for disk in nvme0n1:512 nvme1n1:4096 nvme1n2:4096 vda:512; do
	[ "$(cat /sys/block/${disk%:*}/queue/logical_block_size)" = ${disk#*:} ]
done
[ -c /dev/ng1n2 ]
[ "$(blockdev --getsize64 /dev/nvme0n1)" = 8388608 ]
[ -d /sys/devices/system/node/node1 ] && [ ! -d /sys/devices/system/node/node2 ]
grep -q 'HugePages_Total: *8$' /proc/meminfo
[ -n "$(ls /sys/kernel/iommu_groups)" ]
[ "$(nproc)" = 1 ]
ip addr show eth0 | grep -q 10.0.2.15
lsmod | grep -q '^tls '
[ "$(cat /sys/module/nvme/parameters/poll_queues)" = 1 ]
! lsmod | grep -q '^nbd '
modprobe nbd && lsmod | grep -q '^nbd '
mkfs.ext4 -q -O metadata_csum /dev/vda # needs crc32c, of which modules.dep tells nothing
mount -t ext4 /dev/vda /mnt
echo "all there"
""", "--nvme", "8M", "--nvme", "8M,lba=4096,namespaces=2,mdts=5", "--disk", "16M", "--net", "--iommu",
                                        "--numa", "2", "--hugepages", "8", "--cpus", "1", "-m", "tls",
                                        "-m", "nvme,poll_queues=1", "-m", "ext4",
                                        "--offer-module", "nbd", "-p", "mkfs.ext4")
        self.assertEqual((code, out), (0, "all there\n"), errors)


class Refusals(RunnerTest):
    """Nothing is started for these."""

    def test_no_emulator(self):
        with tempfile.TemporaryDirectory() as folder:
            code, _, errors = self.run_vm("true", env={"PATH": folder, "HOME": folder})
        self.assertEqual(code, machine.SKIPPED, errors)
        self.assertIn("skipped: no qemu-system-x86_64", errors)

    def test_no_kernel(self):
        """Nothing cached and no package source."""
        with tempfile.TemporaryDirectory() as folder:
            config = os.path.join(folder, "apt.conf")
            with open(config, "w", encoding="ascii") as file:
                file.write('Dir::Etc::SourceList "/dev/null"; Dir::Etc::SourceParts "/dev/null";\n'
                           f'Dir::State::Lists "{folder}"; Dir::State::Status "/dev/null";\n')
            code, _, errors = self.run_vm("true", env={
                **os.environ, "XDG_CACHE_HOME": folder, "APT_CONFIG": config})
        if "no qemu-system" in errors:
            self.skipTest(errors.strip())
        self.assertEqual(code, machine.SKIPPED, errors)
        self.assertIn("skipped: no kernel: linux-image-amd64 can not be fetched", errors)

    def test_wrong_options(self):
        for options, message in (
                (["--nvme", "12X"], "not a size: '12X'"),
                (["--nvme", "64M,lba=520"], "lba is 512 or 4096"),
                (["--nvme", "64M,512"], "'512' in '64M,512' has no value"),
                (["--disk", "/no/such.img"], "no such image: /no/such.img"),
                (["-p", "no-such-program"], "no such program: no-such-program"),
                (["-f", "/no/such/file"], "no such file: /no/such/file"),
                (["-m", "nosuchmodule"], "has no module nosuchmodule"),
                (["--kernel", "linux-image-no-such-kernel"], "linux-image-no-such-kernel can not be fetched"),
                (["--timeout", "nan"], "more than 0"),
                (["--timeout", "inf"], "more than 0"),
                (["--boot-timeout", "0"], "more than 0"),
                (["--memory", "lots"], "invalid count value: 'lots'"),
                (["--bogus"], "run --help")):
            with self.subTest(options=options):
                code, _, errors = self.run_vm("true", *options)
                self.assertEqual(code, machine.HOST, errors)
                self.assertIn(message, errors)
