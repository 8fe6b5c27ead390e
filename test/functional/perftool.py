# SPDX-License-Identifier: BSD-3-Clause
"""
pollux-perf for tests: running it, and servers that misbehave as a test tells them to.

Environment: POLLUX_PERF (the program; default: beside POLLUX's folder).
"""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading

import harness
import rawnbd

PERF = os.environ.get("POLLUX_PERF") or os.path.join(
    os.path.dirname(harness.POLLUX), "..", "perf", "pollux-perf")
RUN_SECONDS = 120


class Done:
    """A run that has ended."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def json(self):
        return json.loads(self.out)

    def __str__(self):
        return f"exit status {self.status}\n{self.out}\n{self.err}"


class Perf:
    """A run under way; ended by its pid if the test fails."""

    def __init__(self, *args, env=None):
        self.process = subprocess.Popen(
            [PERF, *(str(arg) for arg in args)], stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**harness.environment(), **(env or {})})

    def interrupt(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def wait(self, seconds=RUN_SECONDS):
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"pollux-perf hangs\n{out}\n{err}") from None
        report = harness.SANITIZER_REPORT.search(err)
        if report:
            raise AssertionError(f"{report[0]}\n{err}")
        return Done(self.process.returncode, out, err)


def perf(*args, status=0, **kw):
    """Runs it to its end and checks its exit status."""
    done = Perf(*args, **kw).wait()
    if done.status != status:
        raise AssertionError(f"expected exit status {status}: {' '.join(map(str, args))}\n{done}")
    return done


class FakeServer:
    """
    A server of one size without options but GO and STRUCTURED_REPLY, whose answers in transmission
    are a function: answer(sock, command, cookie, offset, length, payload); it returns False to hang
    up. `accept` False: it listens, and never accepts.
    """

    def __init__(self, answer, size=1 << 20, flags=rawnbd.HAS_FLAGS | rawnbd.SEND_FLUSH,
                 infos=b"", structured=False, accept=True, greet=True):
        self.answer, self.size, self.flags = answer, size, flags
        self.infos, self.structured, self.greet = infos, structured, greet
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        self.socks = []
        if accept:
            threading.Thread(target=self.accept_all, daemon=True).start()

    def uri(self, name=""):
        return f"nbd://127.0.0.1:{self.listener.getsockname()[1]}/{name}"

    def close(self):
        self.listener.close()
        for sock in self.socks:
            sock.close()

    def accept_all(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.socks.append(sock)
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    @staticmethod
    def receive(sock, count):
        data = b""
        while len(data) < count:
            part = sock.recv(count - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def serve(self, sock):
        try:
            if not self.greet:
                self.answer(sock)
                return
            self.handshake(sock)
            while self.request(sock):
                pass
        except OSError:
            pass
        finally:
            sock.close()

    def handshake(self, sock):
        sock.sendall(struct.pack(">QQH", rawnbd.MAGIC_INIT, rawnbd.MAGIC_OPTION, 3))
        self.receive(sock, 4)
        while True:
            _, option, length = struct.unpack(">QLL", self.receive(sock, 16))
            self.receive(sock, length)

            def reply(kind, data=b"", option=option):
                sock.sendall(struct.pack(">QLLL", rawnbd.MAGIC_OPTION_REPLY, option, kind,
                                         len(data)) + data)

            if option == rawnbd.OPT_STRUCTURED_REPLY and self.structured:
                reply(rawnbd.REP_ACK)
            elif option == rawnbd.OPT_GO:
                if self.infos:
                    reply(rawnbd.REP_INFO, self.infos)
                reply(rawnbd.REP_INFO, struct.pack(">HQH", 0, self.size, self.flags))
                reply(rawnbd.REP_ACK)
                return
            else:
                reply(rawnbd.REP_ERR_UNSUP)

    @staticmethod
    def wait_for_leave(sock, seconds=30):
        """Until the client has hung up; what it has sent stays unread."""
        poll = select.poll()
        poll.register(sock, select.POLLRDHUP)
        poll.poll(seconds * 1000)
        return False

    def request(self, sock):
        _, _, command, cookie, offset, length = struct.unpack(">LHHQQL", self.receive(sock, 28))
        payload = self.receive(sock, length) if command == rawnbd.CMD_WRITE else b""
        if command == rawnbd.CMD_DISC:
            return False
        return self.answer(sock, command, cookie, offset, length, payload) is not False


def good_reply(cookie, data=b"", error=0):
    return struct.pack(">LLQ", rawnbd.MAGIC_SIMPLE_REPLY, error, cookie) + data


def chunk(cookie, offset, data, done=False):
    return struct.pack(">LHHQLQ", 0x668E33EF, done, 1, cookie, 8 + len(data), offset) + data


def store(data, writes=True):
    """An answer for FakeServer: it keeps what is written; `writes` may tell which it loses."""
    def answer(sock, command, cookie, offset, length, payload):
        if command == rawnbd.CMD_WRITE and (writes is True or writes(offset)):
            data[offset:offset + length] = payload
        sock.sendall(good_reply(cookie, bytes(data[offset:offset + length])
                                if command == rawnbd.CMD_READ else b""))
    return answer


class PerfTest(harness.TargetTest):
    """Targets, servers that misbehave, and the program there to be run."""

    def setUp(self):
        super().setUp()
        if not os.path.exists(PERF):
            self.skipTest("pollux-perf was not built")

    def fake(self, answer, **kw):
        server = FakeServer(answer, **kw)
        self.addCleanup(server.close)
        return server
