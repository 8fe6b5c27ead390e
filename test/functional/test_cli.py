# SPDX-License-Identifier: BSD-3-Clause
"""The command line: what it accepts, what it refuses and how clearly, and how the process ends."""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time

import harness
import rawnbd
import rpcclient
from harness import GIB, MIB, POLLUX, TargetTest

NOBODY = 65534


class CommandLine(TargetTest):
    """Ways to start the program."""

    def pollux(self, *args, preexec=None, env=None, timeout=60, wrap=(), binary=POLLUX):
        return subprocess.run([*wrap, binary, *args], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                              env={**harness.environment(), **(env or {})}, preexec_fn=preexec,
                              cwd=self.directory, check=False)

    def as_nobody(self):
        setpriv = harness.need_program("setpriv")
        os.chmod(self.directory, 0o777)
        return [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

    def reachable(self):
        """A copy of the program where an ordinary user may run it."""
        path = self.path("pollux")
        if not os.path.exists(path):
            shutil.copy(POLLUX, path)
            os.chmod(path, 0o755)
        return path


class Refusals(CommandLine):
    """Each bad start ends with a status that is not 0, a clear sentence, and soon."""

    def refused(self, *args, says=None, listen=True, **kw):
        base = ["-r", "none"]
        if listen:
            base += ["-l", f"unix://{self.path('nbd.sock')}"]
        done = self.pollux(*base, *args, **kw)
        text = done.stdout + done.stderr
        self.assertIsNone(harness.SANITIZER_REPORT.search(text), text)
        self.assertGreater(done.returncode, 0, f"status {done.returncode}: {text}")
        self.assertTrue(done.stderr.strip(), "no message")
        if says:
            self.assertRegex(text.lower(), says)
        return text

    def test_help_and_version(self):
        done = self.pollux("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for option in ("--listen", "--stdio", "--rpc-socket", "--cores", "--poll", "--read-only", "--memory",
                       "--eal", "--log-level", "--version", "--help", "malloc:", "null:", "file:", "nvme:"):
            self.assertIn(option, done.stdout)
        done = self.pollux("--version")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"pollux.*\d+\.\d+")

    def test_unknown_options(self):
        for args in (["--bogus"], ["-Z"], ["--listen"], ["--cores"], ["--memory", "x"],
                     ["--log-level", "shouting"], ["--handshake-timeout", "x"], ["--poll=3"],
                     ["--busy-poll"], ["--busy-poll", "-1"], ["--busy-poll", "1000001"],
                     ["--receive"], ["--receive", "twice"],
                     ["--zerocopy-threshold"], ["--zerocopy-threshold", "x"],
                     ["--zerocopy-threshold", "2G"]):
            with self.subTest(args=args):
                self.refused(*args, listen=False)

    def test_busy_poll(self):
        """In force, or a warning where the kernel does not know it; it serves either way."""
        target = self.start("malloc:8M", args=["--idle-poll", "0", "--busy-poll", "20"])
        told = target.rpc("framework_get_reactors")["reactors"][0]["busy_poll_us"]
        self.assertIn(told, (0, 20))
        if not told:
            self.logged(target, "does not poll network cards")
        elif tuple(int(n) for n in os.uname().release.split(".")[:2]) < (6, 9):
            self.fail("no kernel before 6.9 can")
        self.assert_serves(target)

    def test_bad_specs(self):
        for spec in ("malloc:", "malloc:x", "malloc:0", "malloc:-1", "malloc:1000", "malloc:1.5.2G",
                     "malloc:513", "malloc:99999999999T", "malloc:1Q", "malloc:1G1", "null:",
                     "null:0", "null:100", "null:x", "file:", "nosuch:1G", "nosuch", "", ":",
                     "malloc:1M?direct=off", "a=", "a=b"):
            with self.subTest(spec=spec):
                self.refused(spec)

    def test_bad_nvme(self):
        self.refused("nvme:", says="no address")
        self.refused("nvme:/n1", says="/n1")
        self.refused("nvme:bogus", says="neither a pci address .* nor a path")
        for namespace in ("0", "n", "n0", "x1", "n1x", "n 1", "n-1", "n+1", "n99999999999", ""):
            with self.subTest(namespace=namespace):
                self.refused(f"nvme:0000:01:00.0/{namespace}", says="is no namespace")
        self.refused("nvme:ffff:1f:1f.7/n1", says="no such pci device")
        self.refused("nvme:ffff:1f:1f.7/n1", "b=nvme:ffff:1f:1f.7/n2", says="no such pci device")

    def test_bad_names(self):
        self.refused("malloc:1M", "malloc:2M", says="default|name")
        self.refused("a=malloc:1M", "a=malloc:2M", says="a")
        self.refused("x" * 4097 + "=malloc:1M")

    def test_bad_files(self):
        image = self.make_file(MIB)
        empty = self.make_file(0, "empty")
        self.refused(f"file:{self.path('missing')}", says="no such file")
        self.refused(self.path("missing"), says="no such file")
        self.refused(f"file:{self.directory}", says="director")
        self.refused(f"file:{empty}", says="empty|size")
        self.refused("file:/dev/null")
        for options in ("?bogus=1", "?direct=maybe", "?read-only=perhaps", "?direct", "?=", "?&"):
            with self.subTest(options=options):
                self.refused(f"file:{image}{options}")

    def test_unreadable_file(self):
        image = self.make_file(MIB)
        os.chmod(image, 0)
        if os.geteuid() != 0:
            self.refused(f"file:{image}", says="permission")
            return
        self.refused(f"file:{image}", says="permission", wrap=self.as_nobody(),
                     binary=self.reachable())

    def test_read_only_file(self):
        """A file that may only be read is served read-only if that is asked for, else refused."""
        if os.geteuid() != 0:
            self.skipTest("needs root to become nobody")
        image = self.make_file(MIB)
        os.chmod(image, 0o444)
        self.refused(f"file:{image}", says="permission|read-only", wrap=self.as_nobody(),
                     binary=self.reachable())

    def test_bad_cores(self):
        for cores in ("9999", "x", "", "0-", "-1", "3-1", "0,0", "0:bogus", "0:", "0:net",
                      "0:storage", ",", "0,,0", "99999999999"):
            with self.subTest(cores=cores):
                self.refused("--cores", cores, "malloc:1M")

    def test_core_outside_of_the_mask(self):
        if len(harness.CPUS) < 2:
            self.skipTest("needs two CPUs")

        def one_cpu():
            os.sched_setaffinity(0, {harness.CPUS[0]})
        self.refused("--cores", str(harness.CPUS[1]), "malloc:1M", preexec=one_cpu)

    def test_bad_listen(self):
        for uri in ("", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "tcp://127.0.0.1:99999",
                    "unix://", "unix:///", "http://127.0.0.1:80", "127.0.0.1:80",
                    "unix:///nowhere/x.sock", "unix:///" + "x" * 200,
                    "tcp://no.such.host.invalid:1"):
            with self.subTest(uri=uri):
                self.refused("-l", uri, "malloc:1M", listen=False)

    def test_port_in_use(self):
        with socket.socket() as occupant:
            occupant.bind(("127.0.0.1", 0))
            occupant.listen()
            port = occupant.getsockname()[1]
            self.refused("-l", f"tcp://127.0.0.1:{port}", "malloc:1M", listen=False, says="in use")

    def test_rpc_socket_in_use(self):
        target = self.start("malloc:1M")
        self.refused("-r", target.rpc_path, "malloc:1M", says="in use|already|another")
        self.assertTrue(target.rpc("rpc_get_methods"), "the first one has lost its socket")

    def test_rpc_socket_in_a_bad_place(self):
        self.refused("-r", "/nowhere/rpc.sock", "malloc:1M")
        self.refused("-r", self.path("x" * 200), "malloc:1M")

    def test_unix_socket_in_use(self):
        target = self.start("malloc:1M")
        self.refused("-l", f"unix://{target.sock_path}", "malloc:1M", listen=False,
                     says="in use|already|another")
        self.assert_serves(target)

    def test_not_a_socket(self):
        path = self.make_file(100, "precious")
        self.refused("-l", f"unix://{path}", "malloc:1M", listen=False)
        self.assertEqual(os.stat(path).st_size, 100, "a file that is no socket was replaced")

    def test_bad_eal_arguments(self):
        self.refused("--eal", "--no-such-eal-option", "malloc:1M")

    def test_io_uring_forbidden(self):
        self.refused("malloc:1M", wrap=[harness.helper("nouring")], says="io_uring")

    def test_missing_default_directory(self):
        """With no place for the RPC socket the message names it."""
        done = self.refused("-r", self.path("no/such/dir/rpc.sock"), "malloc:1M")
        self.assertIn("no/such/dir", done)


class Life(TargetTest):
    def test_default_is_to_wait_for_rpc(self):
        target = self.start()
        self.assertEqual(target.rpc("export_get_exports"), [])
        with self.assertRaises(rawnbd.Refused):
            target.connect()

    def test_specs(self):
        plain = self.make_file(MIB, "plain")
        query = self.make_file(2 * MIB, "a?b=c")
        self.make_file(2 * MIB, "d?e=f")
        percent = self.make_file(3 * MIB, "100%")
        target = self.start("malloc:1G", "sparse=null:4T", "small=malloc:512",
                            f"read=file:{plain}?read-only=on&direct=off", f"q={query}",
                            f"esc=file:{self.path('d%3Fe=f')}?read-only=on",
                            f"pc=file:{self.path('100%25')}", "k=malloc:64K", "m=malloc:3M")
        sizes = {"": GIB, "sparse": 4 << 40, "small": 512, "read": MIB, "q": 2 * MIB,
                 "esc": 2 * MIB, "pc": 3 * MIB, "k": 65536, "m": 3 * MIB}
        for name, size in sizes.items():
            with target.connect(name) as client:
                self.assertEqual(client.size, size, name)
                client.read(size - 512, 512)

    def test_bare_path(self):
        """A bare path is literal: `=`, `:` and `?` in it mean nothing."""
        path = self.make_file(MIB, "x=y:z?direct=off")
        target = self.start(path)
        with target.connect() as client:
            self.assertEqual(client.size, MIB)

    def test_relative_path(self):
        target = self.new_target("image")
        with open(os.path.join(target.directory, "image"), "wb") as file:
            file.truncate(MIB)
        target.start()
        with target.connect() as client:
            self.assertEqual(client.size, MIB)

    def test_several_listeners(self):
        more = self.path("more.sock")
        port = harness.free_port()
        target = self.start("malloc:1M", args=["-l", f"unix://{more}",
                                               f"--listen=tcp://127.0.0.1:{port}"])
        for address in (target.address, ("unix", more), ("tcp", "127.0.0.1", port)):
            with rawnbd.connect(address) as client:
                client.read(0, 512)
        target.stop()
        self.assertFalse(os.path.exists(more), "the socket's file was left behind")

    def test_stale_socket_is_replaced(self):
        first = self.start("malloc:1M")
        first.signal(signal.SIGKILL)
        first.process.wait()
        first.checked = True
        self.assertTrue(os.path.exists(first.sock_path))
        second = self.new_target("malloc:1M")
        second.sock_path, second.rpc_path = first.sock_path, first.rpc_path
        second.start()
        self.assert_serves(second)
        self.assertTrue(second.rpc("rpc_get_methods"))

    def test_restart_on_the_same_port(self):
        """A port that was just served with connections open can be taken at once."""
        target = self.start("malloc:1M", tcp=True)
        client = target.connect()
        self.addCleanup(client.close)
        port = target.port
        target.stop()
        self.assert_serves(self.start("malloc:1M", tcp=True, port=port))

    def test_killed_and_restarted_at_once(self):
        target = self.start("malloc:1M", tcp=True)
        target.checked = True
        target.kill()
        self.assert_serves(self.start("malloc:1M", tcp=True, port=target.port))

    def test_signals(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            target = self.start("malloc:1M")
            with target.connect() as client:
                client.write(0, b"s" * 4096)
                began = time.monotonic()
                target.signal(number)
                self.assertEqual(target.wait(), 0)
                if not harness.SANITIZED:
                    self.assertLess(time.monotonic() - began, 10)
            target.check_log()
            self.assertFalse(os.path.exists(target.sock_path), "the socket was left behind")
            self.assertFalse(os.path.exists(target.rpc_path), "the RPC socket was left behind")

    def test_sighup_and_sigpipe_do_not_kill(self):
        target = self.start("malloc:1M")
        target.signal(signal.SIGPIPE)
        time.sleep(0.1)
        self.assert_serves(target)

    def test_two_signals_at_once_are_one(self):
        """As timeout(1) sends it: to the process, and then to its group."""
        for _ in range(5):
            target = self.start("malloc:1M")
            for _ in range(20):
                target.signal(signal.SIGTERM)
                time.sleep(0.001)
                if not target.alive():
                    break
            self.assertEqual(target.wait(), 0)
            self.assertNotIn("second signal", target.log())

    def test_second_signal_ends_at_once(self):
        """While the first one waits for a request that is slow, the second does not."""
        target = self.start()
        target.rpc("bdev_malloc_create", num_blocks=2048, block_size=512, name="m")
        target.rpc("bdev_delay_create", base_bdev_name="m", name="d", avg_read_latency=8000000,
                   p99_read_latency=8000000, avg_write_latency=0, p99_write_latency=0)
        target.rpc("export_create", name="d", bdev="d")
        client = target.connect("d")
        self.addCleanup(client.close)
        client.request(rawnbd.CMD_READ, 0, 512)
        time.sleep(0.1)
        target.signal(signal.SIGTERM)
        time.sleep(0.3)
        self.assertTrue(target.alive(), "it did not wait for what is in flight")
        began = time.monotonic()
        target.signal(signal.SIGTERM)
        status = target.wait(5)
        self.assertLess(time.monotonic() - began, 3)
        self.assertIsNotNone(status)
        target.checked = True

    def test_signal_during_start(self):
        """SIGTERM at any moment of the start ends it, one way or the other."""
        for delay in (0, 0.01, 0.05, 0.1, 0.2, 0.4):
            target = self.new_target("malloc:1M")
            target.launch()
            time.sleep(delay)
            target.signal(signal.SIGTERM)
            status = target.wait()
            self.assertIn(status, (0, -signal.SIGTERM, 1))
            target.checked = True
            target.check_log()

    def test_no_new_clients_while_stopping(self):
        target = self.start("malloc:1M")
        target.stop()
        with self.assertRaises(OSError):
            target.client()

    def test_two_targets_beside_each_other(self):
        first, second = self.start("malloc:1M"), self.start("malloc:2M")
        for target, size in ((first, MIB), (second, 2 * MIB)):
            with target.connect() as client:
                self.assertEqual(client.size, size)

    def test_poll_and_log_level(self):
        target = self.start("malloc:1M", args=["--log-level", "debug", "--memory", "64M"])
        self.assert_serves(target)

    def test_default_rpc_socket(self):
        """Without -r: where the user's own sockets belong."""
        runtime = self.path("run")
        os.mkdir(runtime, 0o700)
        target = self.new_target("malloc:1M", rpc=False, env={"XDG_RUNTIME_DIR": runtime})
        command = target.command
        target.command = lambda: [word for word in command() if word not in ("-r", "none")]
        if os.geteuid() == 0:
            try:
                rpcclient.Rpc("/run/pollux.sock").close()
                self.skipTest("another pollux uses /run/pollux.sock on this machine")
            except OSError:
                pass
            expected = "/run/pollux.sock"
        else:
            expected = os.path.join(runtime, "pollux.sock")
        target.start()
        harness.wait_for(lambda: os.path.exists(expected), 10, expected)
        with rpcclient.Rpc(expected) as rpc:
            self.assertTrue(rpc.call("rpc_get_methods"))


class Ordinary(CommandLine):
    """As an ordinary user: no privileges, little locked memory, no hugepages."""

    def setUp(self):
        super().setUp()
        if os.geteuid() == 0:
            self.wrap, self.binary = self.as_nobody(), self.reachable()
        else:
            self.wrap, self.binary = [], POLLUX

    def start_ordinary(self, *specs, **kw):
        target = self.new_target(*specs, wrap=self.wrap, **kw)
        os.chmod(target.directory, 0o777)
        command = target.command
        target.command = lambda: [self.binary if word == POLLUX else word for word in command()]
        return target.start()

    def exercise(self, target):
        with target.connect() as client:
            client.write(5, b"u" * 100000)
            self.assertEqual(client.read(5, 100000), b"u" * 100000)
            client.flush()
            client.disconnect()
        self.assertTrue(target.rpc("framework_get_reactors"))

    def test_malloc(self):
        self.exercise(self.start_ordinary("malloc:1G"))

    def test_file(self):
        image = self.make_file(MIB)
        os.chmod(image, 0o666)
        self.exercise(self.start_ordinary(f"file:{image}"))

    def limit(self, size):
        return lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, size))

    def test_little_locked_memory(self):
        """What Debian gives to a user is too little for registered buffers: it works without."""
        image = self.make_file(MIB)
        os.chmod(image, 0o666)
        for spec in (f"file:{image}", "malloc:64M"):
            self.exercise(self.start_ordinary(spec, preexec=self.limit(8 * MIB)))

    def test_no_locked_memory(self):
        """Some kernels charge even a ring to the user: it works, or says what to raise."""
        target = self.new_target("malloc:64M", wrap=self.wrap, preexec=self.limit(0))
        os.chmod(target.directory, 0o777)
        command = target.command
        target.command = lambda: [self.binary if word == POLLUX else word for word in command()]
        target.launch()
        if target.wait_ready():
            self.exercise(target)
            return
        target.checked = True
        target.check_log()
        self.assertEqual(target.process.returncode, 1)
        self.logged(target, "RLIMIT_MEMLOCK")

    def test_default_rpc_directory(self):
        """/tmp/pollux-UID, 0700; one that belongs to somebody else is refused."""
        if os.geteuid() != 0:
            self.skipTest("needs root to become nobody")
        place = f"/tmp/pollux-{NOBODY}"
        if os.path.lexists(place):
            self.skipTest(f"{place} exists already")
        self.addCleanup(shutil.rmtree, place, ignore_errors=True)
        target = self.new_target("malloc:1M", wrap=self.wrap, rpc=False,
                                 env={"XDG_RUNTIME_DIR": ""})
        os.chmod(target.directory, 0o777)
        command = target.command
        target.command = lambda: [self.binary if word == POLLUX else word for word in command()
                                  if word not in ("-r", "none")]
        target.start()
        harness.wait_for(lambda: os.path.exists(place + "/pollux.sock"), 10, place)
        self.assertEqual(os.stat(place).st_mode & 0o777, 0o700)
        target.stop()
        shutil.rmtree(place, ignore_errors=True)
        os.mkdir(place, 0o777)  # root's, not nobody's
        done = self.pollux("-l", f"unix://{self.path('n.sock')}", "malloc:1M", wrap=self.wrap,
                           binary=self.binary, env={"XDG_RUNTIME_DIR": ""})
        self.assertGreater(done.returncode, 0)
        self.assertRegex(done.stderr, re.escape(place))
