# SPDX-License-Identifier: BSD-3-Clause
"""Pollux started by its client: one connection on standard input and output, as socket and pipes."""

import os
import random
import shutil
import signal
import socket
import subprocess
import time

import harness
import rawnbd
import rpcclient
from harness import GIB, KIB, MIB, POLLUX, TargetTest, need_program
from pipes import Pipes
from rawnbd import CMD_READ, CMD_WRITE

SOCKET, PIPES, NONBLOCK = "socket", "pipes", "nonblocking pipes"
KINDS = (SOCKET, PIPES, NONBLOCK)


class StdioTest(TargetTest):
    def setUp(self):
        super().setUp()
        self.processes = []
        self.addCleanup(self.end_all)

    def end_all(self):
        for process, client, log in self.processes:
            client.close()
            if process.poll() is None:
                process.kill()
            process.wait()
            log.close()

    def show_logs(self):
        texts = []
        for _, _, log in self.processes:
            log.seek(0)
            texts.append(f"--- {log.name}\n" + log.read())
        return "".join(texts)

    def serve(self, kind, *args, preexec=None):
        """Pollux with a raw client that has sent nothing: (process, client)."""
        # not closed here, but with the processes
        log = open(self.path(f"log{len(self.processes)}"), "w+", encoding="utf-8",
                   errors="replace")
        if kind == SOCKET:
            ours, theirs = socket.socketpair()
            given = (theirs.detach(),) * 2
        else:
            (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
            given, ours = (their_in, their_out), Pipes(our_in, our_out)
            if kind == NONBLOCK:
                os.set_blocking(their_in, False)
                os.set_blocking(their_out, False)
        process = subprocess.Popen([POLLUX, "--stdio", *args], stdin=given[0], stdout=given[1],
                                   stderr=log, env=harness.environment(), cwd=self.directory,
                                   preexec_fn=preexec)
        for fd in set(given):
            os.close(fd)
        client = rawnbd.Client(("open", ours), timeout=60)
        self.processes.append((process, client, log))
        return process, client

    def ended(self, process, status=0):
        """It has ended with that status, and no sanitizer has complained."""
        found = harness.wait_exit(process, harness.STOP_SECONDS)
        log = self.show_logs()
        self.assertIsNone(harness.SANITIZER_REPORT.search(log), log)
        self.assertEqual(found, status, log)


class Stdio(StdioTest):
    def each(self, *args):
        """A client in transmission on each kind of standard input and output."""
        for kind in KINDS:
            with self.subTest(kind=kind):
                process, client = self.serve(kind, *args)
                client.greeting().go()
                yield process, client

    def test_session(self):
        for process, client in self.each("malloc:8M"):
            client.write(3, b"data" * 1000)
            self.assertEqual(client.read(3, 4000), b"data" * 1000)
            client.write_zeroes(0, 1003)
            self.assertEqual(client.read(1002, 5), b"\0data")
            client.flush()
            client.disconnect()
            self.ended(process)

    def test_large_and_many(self):
        """Payload many times what a pipe holds, both ways, with requests in flight."""
        rng = random.Random(7)
        for process, client in self.each("malloc:32M"):
            data = rng.randbytes(16 * MIB)
            client.write(5, data)
            self.assertEqual(client.read(5, len(data)), data)
            pieces = {}
            for i in range(200):
                offset, length = rng.randrange(16 * MIB - 128 * KIB), rng.randrange(1, 128 * KIB)
                pieces[client.request(CMD_READ, 5 + offset, length)] = data[offset:offset + length]
            for _ in range(200):
                cookie, error, got = client.reply()
                self.assertEqual((error, got), (0, pieces.pop(cookie)))
            client.disconnect()
            self.ended(process)

    def test_slow_bytes(self):
        for process, client in self.each("malloc:1M"):
            request = rawnbd.request_bytes(CMD_WRITE, 0, 6, payload=b"abcdef")
            for byte in request:
                client.send(bytes([byte]))
                time.sleep(0.002)
            self.assertEqual(client.reply()[1], 0)
            self.assertEqual(client.read(0, 6), b"abcdef")
            client.disconnect()
            self.ended(process)

    def test_gone_without_disconnect(self):
        """In every phase: nothing said, in the handshake, in transmission, in a WRITE's payload."""
        for kind in KINDS:
            for phase in range(4):
                with self.subTest(kind=kind, phase=phase):
                    process, client = self.serve(kind, "malloc:1M")
                    if phase > 0:
                        client.greeting()
                    if phase > 1:
                        client.go()
                    if phase > 2:
                        client.send(rawnbd.request_bytes(CMD_WRITE, 0, MIB, payload=b"x" * 70000))
                    client.close()
                    self.ended(process)

    def test_idle_uses_no_cpu(self):
        """Waiting is waiting, for pipes that were made non-blocking too."""
        for process, client in self.each("malloc:1M"):
            client.read(0, 512)
            time.sleep(0.3)
            before = self.cpu(process)
            time.sleep(1)
            self.assertLess(self.cpu(process) - before, 0.2)
            client.disconnect()
            self.ended(process)

    @staticmethod
    def cpu(process):
        with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_reader_gone_but_writer_there(self):
        """A client that closes only the pipe it reads from: what it wrote counts."""
        image = self.make_file(MIB)
        process, client = self.serve(PIPES, f"file:{image}")
        client.greeting().go()
        client.sock.close_rx()
        for i in range(4):
            client.request(CMD_WRITE, i * 4096, 4096, payload=b"%d" % i * 4096)
        client.sock.close_tx()
        self.ended(process)
        with open(image, "rb") as file:
            self.assertEqual(file.read(4 * 4096), b"".join(b"%d" % i * 4096 for i in range(4)))

    def test_client_that_reads_nothing(self):
        """Replies that nobody takes do not keep a process alive that is told to end."""
        for process, client in self.each("malloc:32M", "--shutdown-timeout", "300"):
            for _ in range(4):
                client.request(CMD_READ, 0, 8 * MIB)
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            self.ended(process)

    def test_signal(self):
        """SIGTERM ends it in order, whatever the client is at."""
        for kind in KINDS:
            for phase in range(3):
                with self.subTest(kind=kind, phase=phase):
                    process, client = self.serve(kind, "malloc:1M")
                    client.greeting()
                    if phase > 0:
                        client.go()
                    if phase > 1:
                        client.write(0, b"1" * 512)
                    began = time.monotonic()
                    process.send_signal(signal.SIGTERM)
                    self.assertEqual(client.receive_until_closed(), b"")
                    client.close()
                    self.ended(process)
                    if not harness.SANITIZED:
                        self.assertLess(time.monotonic() - began, 4)

    def test_handshake_error_ends_it(self):
        for kind in KINDS:
            with self.subTest(kind=kind):
                process, client = self.serve(kind, "malloc:1M")
                client.greeting(client_flags=0xFF)
                self.assertEqual(client.receive_until_closed(), b"")
                client.close()
                self.ended(process)

    def test_handshake_timeout(self):
        for kind in KINDS:
            with self.subTest(kind=kind):
                process, client = self.serve(kind, "malloc:1M", "--handshake-timeout", "200")
                client.greeting()
                self.assertEqual(client.receive_until_closed(), b"")
                self.ended(process)

    def test_nothing_but_the_protocol(self):
        """However much is logged, standard output has the protocol alone, and the log its lines."""
        for kind in KINDS:
            with self.subTest(kind=kind):
                process, client = self.serve(kind, "malloc:1M", "--log-level", "debug",
                                             "--eal", "--log-level=lib.*:debug")
                client.greeting()
                self.assertEqual([name for name, _ in client.list()], [""])
                client.go()
                client.read(0, 4096)
                client.send(rawnbd.request_bytes(rawnbd.CMD_DISC))
                self.assertEqual(client.receive_until_closed(), b"")
                client.close()
                self.ended(process)
                self.assertIn("ends", self.show_logs())

    def test_files_are_flushed(self):
        """What was written is in the file when the process has ended, flushed or not."""
        for kind in KINDS:
            image = self.make_file(MIB, name=f"image-{kind}", directory=harness.disk_directory())
            process, client = self.serve(kind, f"file:{image}")
            client.greeting().go()
            client.write(1000, b"kept" * 256)
            client.disconnect()
            self.ended(process)
            with open(image, "rb") as file:
                file.seek(1000)
                self.assertEqual(file.read(1024), b"kept" * 256)

    def test_only_what_is_asked_for_listens(self):
        """No TCP port, no RPC socket, unless an option names them; then they work beside it."""
        runtime = self.path("run")
        os.mkdir(runtime, 0o700)
        process, client = self.serve(SOCKET, "malloc:1M")
        client.greeting().go()
        sockets = [os.readlink(f"/proc/{process.pid}/fd/{fd}")
                   for fd in os.listdir(f"/proc/{process.pid}/fd")]
        with open("/proc/net/tcp", encoding="ascii") as file:
            listening = {line.split()[9] for line in file if line.split()[3] == "0A"}
        self.assertFalse([name for name in sockets if name.strip("socket:[]") in listening])
        client.disconnect()
        self.ended(process)
        path, rpc = self.path("nbd.sock"), self.path("rpc.sock")
        process, client = self.serve(PIPES, "malloc:1M", "-l", f"unix://{path}", "-r", rpc)
        client.greeting().go()
        client.write(0, b"both")
        with rawnbd.connect(("unix", path)) as other:
            self.assertEqual(other.read(0, 4), b"both")
            with rpcclient.Rpc(rpc) as control:
                listeners = sorted(found["listener"] for found in
                                   control.call("connection_get_connections"))
            self.assertEqual(listeners, ["stdio", f"unix://{path}"])
            client.disconnect()
            self.ended(process)
        self.assertFalse(os.path.exists(path) or os.path.exists(rpc))

    def test_two_beside_each_other(self):
        first, second = (self.serve(PIPES, f"malloc:{size}M") for size in (1, 2))
        for (process, client), size in ((first, MIB), (second, 2 * MIB)):
            client.greeting().go()
            self.assertEqual(client.size, size)
        for process, client in (first, second):
            client.disconnect()
            self.ended(process)

    def refused(self, says, *args, **kw):
        done = subprocess.run([POLLUX, *args], capture_output=False, stderr=subprocess.PIPE,
                              text=True, timeout=60, check=False, env=harness.environment(),
                              cwd=self.directory, **kw)
        self.assertIsNone(harness.SANITIZER_REPORT.search(done.stderr), done.stderr)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr, says)

    def test_no_such_thing(self):
        with open(os.devnull, "r+b") as null, open(self.path("plain"), "w+b") as plain:
            for bad in (null, plain):
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    self.refused("standard input is neither", "-s", "malloc:1M", stdin=bad,
                                 stdout=theirs)
                    self.refused("standard output is neither", "-s", "malloc:1M", stdin=theirs,
                                 stdout=bad)
        self.refused("standard input is closed", "--stdio", "malloc:1M",
                     preexec_fn=lambda: os.close(0), stdout=subprocess.DEVNULL)

    def test_bad_spec(self):
        """The client's end of file, a message on standard error, status 1."""
        for kind in KINDS:
            with self.subTest(kind=kind):
                process, client = self.serve(kind, f"file:{self.path('missing')}")
                self.assertEqual(client.receive_until_closed(), b"")
                self.ended(process, 1)
                self.assertIn("no such file", self.show_logs())


class Libnbd(TargetTest):
    """libnbd starts it, and its tools do."""

    def setUp(self):
        super().setUp()
        try:
            import nbd
        except ImportError:
            self.skipTest("python3-libnbd is not installed")
        self.nbd = nbd
        self.env = dict(os.environ)
        self.addCleanup(self.restore)
        os.environ.update(harness.environment())

    def restore(self):
        os.environ.clear()
        os.environ.update(self.env)

    def check(self, handle):
        self.assertEqual(handle.get_size(), MIB)
        handle.pwrite(b"abc" * 1000, 17)
        handle.flush()
        self.assertEqual(bytes(handle.pread(3000, 17)), b"abc" * 1000)
        handle.shutdown()

    def test_connect_command(self):
        handle = self.nbd.NBD()
        handle.connect_command([POLLUX, "--stdio", "malloc:1M"])
        self.check(handle)

    def test_socket_activation(self):
        handle = self.nbd.NBD()
        handle.connect_systemd_socket_activation([POLLUX, "malloc:1M"])
        self.check(handle)

    def test_several_connections_by_activation(self):
        handle = self.nbd.NBD()
        handle.connect_systemd_socket_activation([POLLUX, "malloc:1M"])
        uri = handle.get_uri()
        second = self.nbd.NBD()
        second.connect_uri(uri)
        second.pwrite(b"x" * 512, 0)
        self.assertEqual(bytes(handle.pread(512, 0)), b"x" * 512)
        second.shutdown()
        handle.shutdown()

    def test_nbdsh(self):
        need_program("nbdsh")
        done = harness.run("/usr/bin/nbdsh", "-c",
                           f"h.connect_command(['{POLLUX}', '-s', 'malloc:1G'])",
                           "-c", "print(h.get_size()); h.shutdown()",
                           env={**os.environ, "PATH": "/usr/bin:/bin"})
        self.assertEqual(done.stdout.strip(), str(GIB))

    def test_tools(self):
        """[ COMMAND ]: whether it says --stdio or not."""
        for words in (["malloc:1G"], ["--stdio", "malloc:1G"]):
            with self.subTest(words=words):
                done = harness.run(need_program("nbdinfo"), "--size", "--", "[", POLLUX, *words,
                                   "]")
                self.assertEqual(done.stdout.strip(), str(GIB))
        source, back = self.path("in"), self.path("out")
        with open(source, "wb") as file:
            file.write(os.urandom(3 * MIB))
        harness.run(need_program("nbdcopy"), "--", source, "[", POLLUX, self.copy_spec(3 * MIB), "]")
        harness.run("nbdcopy", "--", "[", POLLUX, "file:" + self.path("target"), "]", back)
        harness.run("cmp", source, back)
        # two targets of one tool at the same time
        harness.run("nbdcopy", "--", "[", POLLUX, "malloc:1M", "]", "[", POLLUX, "malloc:1M", "]")

    def copy_spec(self, size):
        with open(self.path("target"), "wb") as file:
            file.truncate(size)
        return "file:" + self.path("target")

    def test_nbdfuse(self):
        program = need_program("nbdfuse")
        if not os.path.exists("/dev/fuse"):
            self.skipTest("there is no /dev/fuse")
        for words in (["[", POLLUX, "--stdio", "malloc:1M", "]"],
                      ["--command", POLLUX, "--stdio", "malloc:1M"],
                      ["--socket-activation", POLLUX, "malloc:1M"]):
            with self.subTest(words=words):
                self.mount(program, words)

    def mount(self, program, words):
        point = self.path("mnt")
        with open(point, "w", encoding="ascii"):
            pass
        with open(self.path("fuse.log"), "w+", encoding="utf-8") as log:
            fuse = subprocess.Popen([program, point, *words], stdout=log, stderr=log)
            try:
                harness.wait_for(lambda: os.path.getsize(point) == MIB or fuse.poll() is not None,
                                 harness.START_SECONDS, "the mount")
                if fuse.poll() is not None:
                    log.seek(0)
                    text = log.read()
                    if "fuse" in text.lower():
                        self.skipTest("nbdfuse can not mount here: " + text.strip())
                    self.fail(text)
                with open(point, "r+b", buffering=0) as file:
                    file.seek(4096)
                    file.write(b"f" * 4096)
                    os.fsync(file.fileno())
                    file.seek(4096)
                    self.assertEqual(file.read(4096), b"f" * 4096)
            finally:
                unmount = shutil.which("fusermount3") or shutil.which("fusermount")
                harness.run(*([unmount, "-u"] if unmount else ["umount"]), point, check=False)
                if harness.wait_exit(fuse, 20) is None:
                    fuse.kill()
                    fuse.wait()
