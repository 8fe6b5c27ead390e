#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Starts a program as a service manager does that hands sockets over: descriptors from 3 on, and
LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES.

usage: handover.py SOCKETS VARIABLES COMMAND...
SOCKETS: what stands at 3, 4, ...; joined by ',': unix:PATH, abstract:NAME, tcp:PORT, tcp6:PORT
(IPv4 too), vsock:PORT, udp:PORT, deaf:PATH (bound, not listening), pair (connected), pipe,
file:PATH, closed.
A '!' in front: non-blocking. VARIABLES: a JSON object; null unsets, "PID" is the process's own id.
"""

import json
import os
import socket
import sys


def open_one(text):
    """A descriptor, or None."""
    kind, _, rest = text.partition(":")
    if kind == "closed":
        return None
    if kind == "pipe":
        return os.pipe()[0]
    if kind == "file":
        return os.open(rest, os.O_RDWR)
    if kind == "pair":
        return socket.socketpair()[0].detach()
    if kind in ("unix", "abstract", "deaf"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("\0" + rest if kind == "abstract" else rest)
    elif kind == "vsock":
        sock = socket.socket(socket.AF_VSOCK)
        sock.bind((socket.VMADDR_CID_ANY, int(rest)))
    elif kind == "udp":
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", int(rest)))
    else:
        sock = socket.socket(socket.AF_INET6 if kind == "tcp6" else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == "tcp6":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::" if kind == "tcp6" else "127.0.0.1", int(rest)))
    if kind not in ("udp", "deaf"):
        sock.listen(64)
    return sock.detach()


def main():
    sockets, variables, command = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
    texts = sockets.split(",") if sockets else []
    aside = []
    for text in texts:
        fd = open_one(text.lstrip("!"))
        if fd is not None:
            high = 100 + len(aside)
            os.dup2(fd, high)
            os.set_blocking(high, not text.startswith("!"))
            fd = high
        aside.append(fd)
    for number, fd in enumerate(aside, 3):
        if fd is None:
            try:
                os.close(number)
            except OSError:
                pass
        else:
            os.dup2(fd, number, inheritable=True)
    os.closerange(100, 100 + len(aside) + 1)
    os.closerange(3 + len(aside), 20)
    values = {"LISTEN_PID": "PID", "LISTEN_FDS": str(len(aside)), **variables}
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(os.getpid()) if value == "PID" else value
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
