# SPDX-License-Identifier: BSD-3-Clause
"""
The harness of the functional tests: real targets, each with its own directory, sockets and log.

A target is ready when it accepts a connection, and stopped by SIGTERM; that it then exits with 0 in
bounded time and that no sanitizer has reported anything is part of every test. Processes are ended
by their pid only. What a failed test leaves (its log) is shown in the test's output.

Environment, set by meson: POLLUX (the binary), POLLUX_HELPERS (directory of the C helpers),
POLLUX_SANITIZE (b_sanitize of the build), POLLUX_BUILDTYPE, POLLUX_TEST_FULL=1 (all crossings).
"""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import rawnbd
import rpcclient

POLLUX = os.environ.get("POLLUX", "")
HELPERS = os.environ.get("POLLUX_HELPERS", "")
SANITIZE = os.environ.get("POLLUX_SANITIZE", "none")
SANITIZED = SANITIZE not in ("", "none")
FULL = os.environ.get("POLLUX_TEST_FULL", "") == "1"
CPUS = sorted(os.sched_getaffinity(0))

START_SECONDS = 60 if SANITIZED else 20
STOP_SECONDS = 30 if SANITIZED else 15

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

SANITIZER_REPORT = re.compile(
    r"ERROR: (Address|Leak|Thread|Memory)Sanitizer|WARNING: ThreadSanitizer|runtime error:"
    r"|Assertion .* failed")

# The two core arrangements that everything must work in.
TOGETHER = "together"  # each core has both roles: a request runs to completion
APART = "apart"        # net and storage on different cores: every request crosses the rings


def cores_of(arrangement):
    """The --cores of an arrangement, or SkipTest where the machine is too small."""
    if len(CPUS) < 2:
        if arrangement == APART:
            raise unittest.SkipTest("needs two CPUs for net and storage cores")
        return str(CPUS[0])
    if arrangement == APART:
        return f"{CPUS[0]}:net,{CPUS[1]}:storage"
    return f"{CPUS[0]},{CPUS[1]}"


def need_program(name):
    """Its path, or SkipTest."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if not path:
        raise unittest.SkipTest(f"{name} is not installed")
    return path


def helper(name):
    """A C helper's path, or SkipTest where it was not built."""
    path = os.path.join(HELPERS, name)
    if not HELPERS or not os.path.exists(path):
        raise unittest.SkipTest(f"the helper {name} was not built")
    return path


def free_port():
    """A TCP port that nobody listens on now, outside of the range for outgoing connections."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def wait_for(condition, seconds, what):
    """Polls until condition() is true and returns its value; fails after that time."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


def wait_exit(process, seconds):
    """The exit status, or None if it still runs after that time."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def run(*args, timeout=120, check=True, **kw):
    """Runs a program to its end; its output is in the failure's message."""
    done = subprocess.run([str(arg) for arg in args], stdin=kw.pop("stdin", subprocess.DEVNULL),
                          capture_output=True, text=True, timeout=timeout, check=False, **kw)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(str(arg) for arg in args)}: exit status "
                             f"{done.returncode}\n{done.stdout}{done.stderr}")
    return done


def environment():
    """The environment for a target: sanitizers report and stop, nothing comes by accident."""
    env = dict(os.environ)
    env["ASAN_OPTIONS"] = "detect_leaks=1:exitcode=99:allocator_may_return_null=1"
    env["UBSAN_OPTIONS"] = "print_stacktrace=1:halt_on_error=1:exitcode=99"
    env["TSAN_OPTIONS"] = "exitcode=99"
    return env


class Target:
    """One running pollux."""

    def __init__(self, directory, specs=(), args=(), cores=None, tcp=False, port=None, rpc=True,
                 env=None, wrap=(), listen=True, preexec=None):
        self.directory = directory
        self.log_path = os.path.join(directory, "log")
        self.rpc_path = os.path.join(directory, "rpc.sock") if rpc else None
        self.sock_path = os.path.join(directory, "nbd.sock")
        self.tcp = tcp
        self.listen = listen
        self.port, self.fixed_port = port, port is not None
        self.address = None
        self.process = None
        self.pid = None
        self.specs, self.args, self.cores = list(specs), list(args), cores
        self.env, self.wrap, self.preexec = env or {}, list(wrap), preexec
        self.checked = False
        self.clients = []

    # ---- life ----

    def command(self):
        if self.tcp:
            if not self.fixed_port:
                self.port = free_port()
            self.address = ("tcp", "127.0.0.1", self.port)
            listen = ["-l", f"tcp://127.0.0.1:{self.port}"]
        else:
            self.address = ("unix", self.sock_path)
            listen = ["-l", f"unix://{self.sock_path}"]
        command = [*self.wrap, POLLUX, *(listen if self.listen else []),
                   "-r", self.rpc_path or "none"]
        if self.cores:
            command += ["--cores", self.cores]
        return command + self.args + self.specs

    def start(self):
        """Starts it and waits until it accepts; another port is tried where ours was snatched."""
        for attempt in range(5):
            self.launch()
            if self.wait_ready():
                return self
            if not (self.tcp and "in use" in self.log() and attempt < 4):
                break
        raise AssertionError(f"pollux did not start: exit status {self.process.returncode}\n"
                             f"{' '.join(self.command())}\n{self.log()}")

    def launch(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**environment(), **self.env}, cwd=self.directory, preexec_fn=self.preexec)
        self.pid = self.process.pid

    def wait_ready(self):
        """False if it ended instead."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                return False
            try:
                if self.listen:
                    rawnbd.Client(self.address).close()
                if self.rpc_path:
                    self.rpc("framework_wait_init")
                return True
            except (OSError, rpcclient.RpcError):
                time.sleep(0.002)
        self.kill()
        raise AssertionError(f"pollux did not listen within {START_SECONDS} s\n{self.log()}")

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        os.kill(self.pid, number)

    def is_stopped(self):
        """By SIGSTOP, every thread of it."""
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{thread}/stat", encoding="ascii") as file:
                if file.read().rsplit(")", 1)[1].split()[0] != "T":
                    return False
        return True

    def kill(self):
        if self.alive():
            self.process.kill()
            self.process.wait()

    def wait(self, seconds=STOP_SECONDS):
        """Waits for its end: the exit status. Fails (and kills) if it does not come."""
        status = wait_exit(self.process, seconds)
        if status is None:
            stacks = self.stacks()
            self.kill()
            raise AssertionError(f"pollux did not end within {seconds} s\n{stacks}")
        return status

    def stop(self):
        """SIGTERM; exit status 0 in time and a clean log are checked."""
        if self.process is None or self.checked:
            return
        self.checked = True
        if self.alive():
            self.signal(signal.SIGTERM)
        status = self.wait()
        self.check_log()
        if status != 0:
            raise AssertionError(f"pollux ended with status {status}")

    def broken(self):
        """Ended by a signal that is not ours, or by a sanitizer."""
        status = self.process.poll() if self.process else None
        ours = (None, 0, 1, -signal.SIGKILL, -signal.SIGTERM)
        return status not in ours or bool(SANITIZER_REPORT.search(self.log(whole=True)))

    def check_log(self):
        report = SANITIZER_REPORT.search(self.log(whole=True))
        if report:
            raise AssertionError("in the log: " + report[0])

    def log(self, whole=False):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except FileNotFoundError:
            return ""
        return text if whole or len(text) < 20000 else "…" + text[-20000:]

    # ---- what clients need ----

    def uri(self, name=""):
        if self.tcp:
            return f"nbd://127.0.0.1:{self.port}/{name}"
        return f"nbd+unix:///{name}?socket={self.sock_path}"

    def connect(self, name="", **kw):
        """A raw client in transmission."""
        client = rawnbd.connect(self.address, name, **kw)
        self.clients.append(client)
        return client

    def client(self, **kw):
        """A raw client that has sent nothing."""
        client = rawnbd.Client(self.address, **kw)
        self.clients.append(client)
        return client

    def close_clients(self):
        for client in self.clients:
            client.close()
        self.clients.clear()

    def rpc(self, method, **params):
        """One call on a connection of its own: the result, or RpcError."""
        with rpcclient.Rpc(self.rpc_path) as rpc:
            try:
                return rpc.call(method, **params)
            finally:
                rpc.end()

    # ---- what /proc tells ----

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss(self):
        """Resident bytes."""
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def cpu_seconds(self):
        """User and system time of all threads so far."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stacks(self):
        """What each thread waits in: for the log of a hang."""
        lines = []
        try:
            for task in os.listdir(f"/proc/{self.pid}/task"):
                parts = []
                for name in ("comm", "wchan", "syscall"):
                    try:
                        with open(f"/proc/{self.pid}/task/{task}/{name}", encoding="ascii") as file:
                            parts.append(file.read().strip())
                    except OSError:
                        parts.append("?")
                lines.append(f"thread {task}: " + " | ".join(parts))
        except OSError:
            pass
        return "\n".join(lines)


class TargetTest(unittest.TestCase):
    """A test with targets; all of them are stopped and checked at its end."""

    def setUp(self):
        if not POLLUX:
            self.skipTest("POLLUX is not set")
        self.targets = []
        # short, because a unix socket's path has room for 107 characters
        self.directory = tempfile.mkdtemp(prefix="pollux-")
        os.chmod(self.directory, 0o755)
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.addCleanup(self.kill_all)

    def tearDown(self):
        for target in self.targets:
            target.close_clients()  # stopping with clients connected has tests of its own
        for target in self.targets:
            target.stop()

    def kill_all(self):
        for target in self.targets:
            target.close_clients()
            target.kill()

    def new_target(self, *specs, **kw):
        """A target in a directory of its own, not started."""
        directory = os.path.join(self.directory, str(len(self.targets)))
        os.mkdir(directory)
        target = Target(directory, specs, **kw)
        self.targets.append(target)
        return target

    def start(self, *specs, **kw):
        return self.new_target(*specs, **kw).start()

    def path(self, name):
        return os.path.join(self.directory, name)

    def make_file(self, size, name="image", directory=None, content=None):
        """A file of that size (or of that content); goes away with the test."""
        if directory:
            base = tempfile.mkdtemp(prefix="pollux-", dir=directory)
            os.chmod(base, 0o755)
            self.addCleanup(shutil.rmtree, base, ignore_errors=True)
        else:
            base = self.directory
        path = os.path.join(base, name)
        with open(path, "wb") as file:
            if content is not None:
                file.write(content)
            else:
                file.truncate(size)
        return path

    def is_final(self, error):
        """Whether the failure is one that a second try must not hide."""
        return "did not end within" in str(error) or any(target.broken() for target in self.targets)

    def show_logs(self):
        """The targets' logs, for a failed test's report."""
        return "".join(f"--- {target.log_path}\n{target.log()}" for target in self.targets
                       if target.process)

    def assert_serves(self, target, name=""):
        """Another client gets through: handshake, READ."""
        self.assertTrue(target.alive(), "the target has died:\n" + target.log())
        with target.connect(name) as client:
            client.read(0, min(4096, client.size))

    def logged(self, target, text, seconds=10):
        """Waits for it: a line may come after what it tells of was seen."""
        return wait_for(lambda: text in target.log(whole=True), seconds, f"'{text}' in the log")

    def wait_idle(self, target, connections=0, seconds=20):
        """Until no more than that many connections are left."""
        left = []

        def few():
            left[:] = target.rpc("connection_get_connections")
            return len(left) <= connections

        try:
            wait_for(few, seconds, f"connections to fall to {connections}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {left}") from error


def disk_directory():
    """A directory on a real file system (not tmpfs) for images."""
    return os.environ.get("POLLUX_TEST_DISK", "/var/tmp")


def tmpfs_directory():
    """A directory on tmpfs, or SkipTest."""
    with open("/proc/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[1] == "/dev/shm" and fields[2] == "tmpfs" and os.access("/dev/shm", os.W_OK):
                return "/dev/shm"
    raise unittest.SkipTest("/dev/shm is no tmpfs")
