# SPDX-License-Identifier: BSD-3-Clause
"""
How bench.py starts each server for each backing. A server that is not installed, or that has no
such backing, is left out.

Backings: null (reads zeroes or whatever, drops writes), memory (of the server itself, filled),
tmpfs (one file in memory, the same for all), disk (one file on a disk, the same for all, past the page
cache where the server can). All are filled before they are measured.
"""

import json
import os
import secrets
import shutil

import bench_process
import bench_spdk
from bench_process import Failure

BACKINGS = ["null", "memory", "tmpfs", "disk"]
NULL_BYTES = 16 << 30
MIB = 1 << 20


class Plan:
    """A server as it will be started, and how it is put under load."""

    polls = False  # it uses its core whether there are requests or not

    def __init__(self, name, port, command, export="", fill=False, daemon=False):
        self.name, self.port, self.command = name, port, [str(word) for word in command]
        self.export, self.fill, self.daemon = export, fill, daemon
        self.kept = fill  # from turn to turn, stopped meanwhile
        self.environment, self.client_args = {}, []

    @property
    def uri(self):
        return f"nbd://127.0.0.1:{self.port}/{self.export}"

    def prepare(self):
        """Whether nothing more is to be done after the start. Called until it is so."""
        return True

    def perf(self, options, *args):
        """One run of pollux-perf: (its results, seconds it took)."""
        done = bench_process.run(
            [options.perf, self.uri, "--cores", options.client_core, "--size", options.size,
             "--json", *self.client_args, *args], options.client_core, options.seconds * 3 + 120)
        try:
            return json.loads(done.out), done.seconds
        except ValueError:
            raise Failure(f"{options.perf} has told no JSON: {done.out[:200]!r}") from None

    def fill_disk(self, options):
        self.perf(options, "--rw", "write", "--bs", "1M", "--iodepth", 8, "--requests",
                  options.size // MIB)

    def load(self, options, case, rate):
        """One measurement: what it has told, in the words of all plans."""
        told, took = self.perf(
            options, "--rw", case.rw, "--bs", case.block, "--iodepth", case.depth,
            "--connections", case.connections, "--time", options.seconds, "--warmup",
            options.warmup, *(("--rate", rate) if rate else ()))
        total, client = told["total"], told["client"]
        latency = total["latency_ns"]
        return {"iops": total["iops"], "requests": total["requests"], "seconds": told["seconds"],
                "warmup": options.warmup, "took": took, "p50_ns": latency["p50"],
                "p99_ns": latency["p99"], "p999_ns": latency["p99.9"], "max_ns": latency["max"],
                "unsent": told["unsent"],
                "client_cores": (client["user_seconds"] + client["system_seconds"])
                / told["seconds"]}


def backing_file(options, backing):
    """Where the servers' common file is; None for backings without."""
    if backing not in ("tmpfs", "disk"):
        return None
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
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
            file.write(f"bench:{secrets.token_hex(32)}\n")
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
                daemon=True)


def spdk(options, backing, tls, path, port):
    if tls or backing not in ("null", "memory"):
        return None
    size = NULL_BYTES if backing == "null" else options.size
    return bench_spdk.plan(options, backing, size, port)


MAKERS = {"ceiling": ceiling, "pollux": pollux, "nbdkit": nbdkit, "qemu-nbd": qemu_nbd,
          "qemu-storage-daemon": qemu_storage_daemon, "nbd-server": nbd_server, "spdk": spdk}
NAMES = list(MAKERS)


def program(options, name):
    """The path of a server's program; None if it is not there."""
    if name == "spdk":
        return bench_spdk.find(options.spdk, "nvmf_tgt") if options.spdk else None
    if name in ("pollux", "ceiling"):
        return getattr(options, name)
    return shutil.which(name)


def chosen(options):
    """The servers that are to be measured, as far as they are there."""
    return [name for name in NAMES
            if (not options.servers or name in options.servers) and program(options, name)]


def plan(options, name, backing, tls):
    """How to start that server, on a port that is free now; None if it has no such backing."""
    path = backing_file(options, backing)
    made = MAKERS[name](options, backing, tls, path, bench_process.free_port())
    if made and tls:
        made.client_args = ["--tls-psk", psk_file(options)]
    return made


def names(options, backing, tls):
    """Those that have such a backing."""
    return [name for name in chosen(options) if plan(options, name, backing, tls)]
