# SPDX-License-Identifier: BSD-3-Clause
"""
A JSON-RPC client for tests: a raw socket that can send anything, and scripts/rpc.py as a program.

Answers are read off the stream one JSON value at a time, as they come without a delimiter.
"""

import json
import os
import socket
import subprocess
import sys

RPC_PY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "rpc.py")

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602


class RpcError(Exception):
    """An error answer: code, message and data as they came."""

    def __init__(self, method, error):
        super().__init__(f"{method}: {error}")
        self.code = error.get("code")
        self.message = error.get("message")
        self.data = error.get("data")

    @property
    def parameter(self):
        return self.data.get("parameter") if isinstance(self.data, dict) else None

    @property
    def errno(self):
        return self.data.get("errno") if isinstance(self.data, dict) else None


class Rpc:
    """A connection to the RPC socket."""

    def __init__(self, path, timeout=20.0):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise
        self.text = ""
        self.bytes = b""
        self.id = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def end(self):
        """Sends no more, and waits until the server has closed: its descriptor is given back."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            while self.sock.recv(65536):
                pass
        except OSError:
            pass

    def send(self, data):
        self.sock.sendall(data.encode() if isinstance(data, str) else data)

    def receive(self):
        """The next JSON value; None at the end of the stream."""
        decoder = json.JSONDecoder()
        while True:
            text = self.text.lstrip()
            if text:
                try:
                    value, end = decoder.raw_decode(text)
                    self.text = text[end:]
                    return value
                except json.JSONDecodeError:
                    pass
            try:
                data = self.sock.recv(1 << 20)
            except (ConnectionResetError, BrokenPipeError):
                data = b""
            if not data:
                if text.strip():
                    raise ValueError(f"the stream ended within an answer: {text[:200]!r}")
                return None
            self.bytes += data
            try:  # a character may be cut between two reads
                self.text, self.bytes = text + self.bytes.decode(), b""
            except UnicodeDecodeError:
                self.text = text

    def request(self, method, params=None, ident=None):
        """Sends a request and does not wait; returns its id."""
        if ident is None:
            self.id += 1
            ident = self.id
        message = {"jsonrpc": "2.0", "id": ident, "method": method}
        if params is not None:
            message["params"] = params
        self.send(json.dumps(message))
        return ident

    def call(self, method, **params):
        """The result, or RpcError."""
        ident = self.request(method, params or None)
        answer = self.receive()
        if answer is None:
            raise ConnectionError(f"{method}: the connection ended without an answer")
        if answer.get("id") != ident or answer.get("jsonrpc") != "2.0":
            raise ValueError(f"{method}: an answer to something else: {answer}")
        if ("error" in answer) == ("result" in answer):
            raise ValueError(f"{method}: neither or both of result and error: {answer}")
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer["result"]


def rpc_py(path, *args, stdin=None, timeout=30):
    """Runs scripts/rpc.py: a CompletedProcess with text."""
    return subprocess.run([sys.executable, RPC_PY, "-s", path, *args], input=stdin, text=True,
                          capture_output=True, timeout=timeout, check=False)
