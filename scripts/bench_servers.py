# SPDX-License-Identifier: BSD-3-Clause
"""
How bench.py starts each server for each backing. A server that is not installed, or that has no such
backing, is left out.

Backings: null (reads zeroes or whatever, drops writes), memory (of the server itself, filled), tmpfs
(one file in memory, the same for all), disk (one file on a disk, the same for all, past the page
cache where the server can). All are filled before they are measured.
"""

import os
import random
import secrets
import shutil

BACKINGS = ["null", "memory", "tmpfs", "disk"]
NAMES = ["ceiling", "pollux", "nbdkit", "qemu-nbd", "qemu-storage-daemon", "nbd-server"]
NULL_BYTES = 16 << 30
MIB = 1 << 20


class Plan:
    """A server as it will be started."""

    def __init__(self, name, port, command, export="", fill=False, pid_file=None):
        self.name, self.port, self.command = name, port, [str(word) for word in command]
        self.export, self.fill, self.pid_file = export, fill, pid_file
        self.client_args = []

    @property
    def uri(self):
        return f"nbd://127.0.0.1:{self.port}/{self.export}"


def backing_file(options, backing):
    directory = options.tmpfs if backing == "tmpfs" else options.disk
    return os.path.join(directory, f"pollux-bench-{os.getpid()}.img")


def make_file(path, size):
    """Random bytes: what was never written is not read from the medium."""
    if os.path.exists(path) and os.path.getsize(path) == size:
        return
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())


def remove_files(options):
    for backing in ("tmpfs", "disk"):
        try:
            os.unlink(backing_file(options, backing))
        except FileNotFoundError:
            pass


def psk_file(options):
    """One key for all: keys.psk, as qemu wants it to be called."""
    path = os.path.join(options.out, "keys.psk")
    if not os.path.exists(path):
        with open(path, "w", encoding="ascii") as file:
            file.write(f"bench:{secrets.token_hex(32)}\n")
        os.chmod(path, 0o600)
    return path


# ---- One function a server: a Plan, or None where it does not have that backing ----

def ceiling(options, backing, tls, path, port):
    if not options.ceiling or tls or backing not in ("null", "memory"):
        return None
    mode = ["m"] if backing == "memory" else []
    return Plan("ceiling", port, [options.ceiling, port, *mode], fill=backing == "memory")


def pollux(options, backing, tls, path, port):
    spec = {"null": f"null:{NULL_BYTES}", "memory": f"malloc:{options.size}"}.get(
        backing, f"file:{path}")
    command = [options.pollux, "-l", f"tcp://127.0.0.1:{port}", "-r", "none", "--cores",
               options.server_core]
    if tls:
        command += ["--tls-psk", psk_file(options)]
    return Plan("pollux", port, [*command, spec], fill=backing == "memory")


def nbdkit(options, backing, tls, path, port):
    command = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", port]
    if tls:
        command += ["--tls=require", f"--tls-psk={psk_file(options)}"]
    plugin = {"null": ["null", NULL_BYTES], "memory": ["memory", options.size]}.get(
        backing, ["file", path])
    return Plan("nbdkit", port, command + plugin, fill=backing == "memory")


def qemu_nbd(options, backing, tls, path, port):
    if backing == "memory":
        return None
    command = ["qemu-nbd", "-t", "-b", "127.0.0.1", "-p", port, "-e", 128]
    if tls:
        command += ["--object", "tls-creds-psk,id=t,endpoint=server,dir="
                    + os.path.dirname(os.path.abspath(psk_file(options))), "--tls-creds", "t"]
    if backing == "null":
        return Plan("qemu-nbd", port, command + [
            "--image-opts", f"driver=null-co,size={NULL_BYTES},read-zeroes=on"])
    if backing == "disk":
        command += ["--cache=none", "--aio=io_uring"]
    return Plan("qemu-nbd", port, command + ["-f", "raw", path])


def qemu_storage_daemon(options, backing, tls, path, port):
    if backing == "memory":
        return None
    if backing == "null":
        node = f"driver=null-co,node-name=d,size={NULL_BYTES},read-zeroes=on"
    else:
        node = f"driver=file,node-name=d,filename={path}"
        if backing == "disk":
            node += ",cache.direct=on,aio=io_uring"
    command = ["qemu-storage-daemon", "--blockdev", node]
    server = f"addr.type=inet,addr.host=127.0.0.1,addr.port={port},max-connections=0"
    if tls:
        command += ["--object", "tls-creds-psk,id=t,endpoint=server,dir="
                    + os.path.dirname(os.path.abspath(psk_file(options)))]
        server += ",tls-creds=t"
    return Plan("qemu-storage-daemon", port,
                [*command, "--nbd-server", server, "--export",
                 "type=nbd,id=e,node-name=d,name=x,writable=on"], export="x")


def nbd_server(options, backing, tls, path, port):
    if tls or backing in ("null", "memory"):
        return None
    config = os.path.abspath(os.path.join(options.out, "nbd-server.conf"))
    pid = os.path.abspath(os.path.join(options.out, "nbd-server.pid"))
    with open(config, "w", encoding="ascii") as file:
        file.write(f"[generic]\nlistenaddr = 127.0.0.1\nport = {port}\n"
                   f"[x]\nexportname = {os.path.abspath(path)}\nsync = false\n")
    return Plan("nbd-server", port, ["nbd-server", "-C", config, "-p", pid], export="x",
                pid_file=pid)


MAKERS = {"ceiling": ceiling, "pollux": pollux, "nbdkit": nbdkit, "qemu-nbd": qemu_nbd,
          "qemu-storage-daemon": qemu_storage_daemon, "nbd-server": nbd_server}


def installed(name):
    return name in ("ceiling", "pollux") or shutil.which(name)


def plans(options, backing, tls):
    """The servers of a backing, each with a port of its own."""
    path = None
    if backing in ("tmpfs", "disk"):
        path = backing_file(options, backing)
        make_file(path, options.size)
    made = []
    first = random.Random(os.getpid()).randrange(15000, 31000)
    for number, name in enumerate(NAMES):
        if (options.servers and name not in options.servers) or not installed(name):
            continue
        plan = MAKERS[name](options, backing, tls, path, first + number)
        if not plan:
            continue
        if tls:
            plan.client_args = ["--tls-psk", psk_file(options)]
        made.append(plan)
    return made
