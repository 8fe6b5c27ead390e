# SPDX-License-Identifier: BSD-3-Clause
"""
The processes of bench.py: servers in groups of their own, load on them, and a guard that ends what
is left when bench.py itself is gone, even if it was killed.

Everything that is started carries a mark in its environment, which its children inherit: so a
process that has left its parent is still known, and so is whether the one that listens on a port is
ours.
"""

import os
import random
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
import typing

MARK_NAME = "POLLUX_BENCH_RUN"
MARK = f"{MARK_NAME}={secrets.token_hex(16)}"
START_SECONDS, STOP_SECONDS = 20, 10
PORTS = range(15000, 31000)  # below those that outgoing connections get


class Failure(RuntimeError):
    """A server, or the load on it, that did not do what it should."""


def environment(**more):
    name, _, value = MARK.partition("=")
    return {**os.environ, name: value, **more}


def marked(mark=MARK):
    """The pids of all processes that were started with that mark, this one excepted."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if mark.encode() in file.read().split(b"\0"):
                    yield int(entry)
        except OSError:
            continue


def listeners(port):
    """The inodes of the TCP sockets that listen on that port: seen without connecting."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}", encoding="ascii") as file:
                rows = [line.split() for line in file][1:]
        except FileNotFoundError:
            continue
        inodes |= {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    return inodes


def sockets_of(pid):
    """The inodes of that process' sockets."""
    inodes = set()
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    except OSError:
        pass  # it has ended meanwhile
    return inodes


def free_port():
    """One that nobody listens on, and that could be bound."""
    for port in random.SystemRandom().sample(PORTS, 200):
        if listeners(port):
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise Failure("no free port")


class Done(typing.NamedTuple):
    """What a program has told, and what it took."""

    out: str
    err: str
    cpu_seconds: float
    seconds: float


def run(command, core, seconds, **more_environment):
    """The load, on that core, until it has ended: a Done."""
    def used():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    command = [str(word) for word in command]
    cpu, begun = used(), time.monotonic()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False, timeout=seconds, env=environment(**more_environment),
                              preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    except subprocess.TimeoutExpired:
        raise Failure(f"{os.path.basename(command[0])} hangs") from None
    if done.returncode:
        text = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise Failure(f"{os.path.basename(command[0])} ended with {done.returncode}: {text}")
    return Done(done.stdout, done.stderr, used() - cpu, time.monotonic() - begun)


class Server:
    """One that is running, in a process group of its own."""

    def __init__(self, plan, directory, core):
        self.plan, self.name = plan, plan.name
        self.log = open(os.path.join(directory, f"{plan.name}.log"), "ab")
        if listeners(plan.port):
            raise Failure(f"{self.name}: somebody else listens on port {plan.port}")
        self.process = subprocess.Popen(
            plan.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            env=environment(**plan.environment))
        self.group = self.process.pid
        try:
            self.wait_ready()
        except BaseException:
            self.end()
            raise

    def check_alive(self):
        status = self.process.poll()
        if status is not None and not (self.plan.daemon and status == 0):
            raise Failure(f"{self.name} ended with {status}: see {self.log.name}")

    def wait_ready(self):
        end = time.monotonic() + START_SECONDS
        while not self.plan.prepare() or not (owner := self.owner()):
            self.check_alive()
            if time.monotonic() > end:
                raise Failure(f"{self.name} does not listen on port {self.plan.port}, "
                              f"or somebody else does: see {self.log.name}")
            time.sleep(0.02)
        self.group = os.getpgid(owner)

    def owner(self):
        """The process that listens, if it is this server; one that leaves its parent: has left."""
        if self.plan.daemon and self.process.poll() is None:
            return None
        inodes = listeners(self.plan.port)
        for pid in marked() if inodes else ():
            ours = pid == self.process.pid or self.plan.daemon or self.in_group(pid)
            if ours and inodes <= sockets_of(pid):
                return pid
        return None

    def in_group(self, pid):
        try:
            return os.getpgid(pid) == self.group
        except ProcessLookupError:
            return False

    def members(self):
        """The stat fields, from the state on, of each process of the group."""
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self.group:
                yield fields

    def processes(self):
        return sum(fields[0] != "Z" for fields in self.members())

    def settle(self, processes, seconds=STOP_SECONDS):
        """Waits until children that served connections have ended: their times are counted then."""
        end = time.monotonic() + seconds
        while self.processes() > processes and time.monotonic() < end:
            time.sleep(0.01)

    def cpu_seconds(self):
        """User and system time of the group, and of children that have ended."""
        ticks = sum(sum(int(field) for field in fields[11:15]) for fields in self.members())
        return ticks / os.sysconf("SC_CLK_TCK")

    def send(self, number):
        try:
            os.killpg(self.group, number)
        except ProcessLookupError:
            pass

    def end(self):
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end:
            self.process.poll()
            if not self.processes():
                break
            time.sleep(0.02)
        else:
            self.send(signal.SIGKILL)
        if self.process.poll() is None and self.group != self.process.pid:
            self.process.kill()
        self.process.wait()
        self.log.close()


class Guard:
    """A process that ends all that carry the mark, and removes files, once this one is gone."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), MARK], stdin=subprocess.PIPE,
            start_new_session=True, text=True)

    def remove(self, path):
        """That file will be removed."""
        self.process.stdin.write(os.path.abspath(path) + "\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def guard(mark):
    """The guard's whole life: its standard input ends when bench.py has."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    paths = sys.stdin.read().splitlines()
    for pid in marked(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


if __name__ == "__main__":
    guard(sys.argv[1])
