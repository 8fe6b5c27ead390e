# SPDX-License-Identifier: BSD-3-Clause
"""
SPDK's NVMe/TCP target for bench.py: how nvmf_tgt is started and configured over its JSON-RPC
socket, and how spdk_nvme_perf, its own client, puts load on it and what that prints.

spdk_nvme_perf knows whole seconds only, and no open loop: cases with a rate are not for it. Both
poll.
"""

import json
import math
import os
import re
import socket

import bench_process
from bench_process import Failure

NQN = "nqn.2016-06.io.spdk:bench"
BLOCK_BYTES = 512
MIB = 1 << 20
TARGET_MIB, CLIENT_MIB = 1024, 512  # what they need beside the disk
QUEUE_DEPTH = 256  # one less can be in flight; the transport's default, 128, is short of 1:128
RPC_SECONDS = 30
PLACES = {"nvmf_tgt": ["", "build/bin", "bin", "app/nvmf_tgt"],
          "spdk_nvme_perf": ["", "build/bin", "bin", "build/examples", "examples"]}


def find(where, program):
    """A program of SPDK, told its build directory, or where one of its programs is; or None."""
    if os.path.isfile(where):
        if os.path.basename(where) == program:
            return where
        where = os.path.dirname(where)
    names = [program] + (["perf"] if program == "spdk_nvme_perf" else [])  # of older releases
    roots = [where, os.path.join(where, ".."), os.path.join(where, "../..")]
    for root in roots:
        for place in PLACES[program]:
            for name in names:
                path = os.path.join(root, place, name)
                if os.path.isfile(path) and os.access(path, os.X_OK):
                    return os.path.normpath(path)
    return None


def library_path(program):
    """Where a build with shared libraries has them."""
    home = os.path.dirname(os.path.abspath(program))
    known = [os.path.join(home, "..", "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return {"LD_LIBRARY_PATH": ":".join(filter(None, known))}


def huge_pages(size):
    """Whether the machine has set aside enough of them for target and client, and lets them be used."""
    with open("/proc/mounts", encoding="ascii", errors="replace") as file:
        if not any(line.split()[2] == "hugetlbfs" for line in file):
            return False
    with open("/proc/meminfo", encoding="ascii") as file:
        told = dict(re.findall(r"^(\w+): *(\d+)", file.read(), re.M))
    have = int(told.get("HugePages_Total", 0)) * int(told.get("Hugepagesize", 0)) // 1024
    return have >= TARGET_MIB + CLIENT_MIB + size // MIB


def memory(size, mib):
    return ["-s", mib] + ([] if huge_pages(size) else ["--no-huge"])


def plan(options, backing, size, port):
    target, client = (find(options.spdk, name) for name in PLACES)
    disk = size if backing == "memory" else 0
    path = min(os.path.relpath(options.out), os.path.abspath(options.out), key=len)
    rpc = os.path.join(path, "spdk.sock")
    command = [target, "-m", hex(1 << options.server_core), "-r", rpc, "--no-pci",
               *memory(disk, TARGET_MIB + disk // MIB)]
    return Plan(port, command, rpc, client, backing, size)


class Plan:
    """nvmf_tgt as it will be started: what bench_servers.Plan is for the servers of NBD."""

    name, polls, daemon = "spdk", True, False
    fill, kept = False, True  # the target has written all of its memory when it begins to serve

    def __init__(self, port, command, rpc, client, backing, size):
        self.port, self.command = port, [str(word) for word in command]
        self.rpc, self.client, self.backing, self.size = rpc, client, backing, size
        self.environment = library_path(command[0])
        self.prepared = False

    def methods(self):
        disk = {"name": "disk", "num_blocks": self.size // BLOCK_BYTES, "block_size": BLOCK_BYTES}
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1",
                   "trsvcid": str(self.port)}
        return [
            ("nvmf_create_transport", {"trtype": "TCP", "max_queue_depth": QUEUE_DEPTH}),
            ("bdev_null_create" if self.backing == "null" else "bdev_malloc_create", disk),
            ("nvmf_create_subsystem", {"nqn": NQN, "allow_any_host": True,
                                       "serial_number": "BENCH0001"}),
            ("nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": "disk"}}),
            ("nvmf_subsystem_add_listener", {"nqn": NQN, "listen_address": address}),
        ]

    def prepare(self):
        """Tells the target what to serve, as soon as it takes calls."""
        if self.prepared:
            return True
        with socket.socket(socket.AF_UNIX) as rpc:
            rpc.settimeout(RPC_SECONDS)
            try:
                rpc.connect(self.rpc)
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except OSError as error:
                raise Failure(f"spdk: {self.rpc}: {error.strerror or error}") from None
            for number, (method, params) in enumerate(self.methods()):
                self.call(rpc, {"jsonrpc": "2.0", "id": number, "method": method,
                                "params": params})
        self.prepared = True
        return True

    @staticmethod
    def call(rpc, request):
        text, answer = "", None
        try:
            rpc.sendall(json.dumps(request).encode())
            while answer is None:
                part = rpc.recv(65536)
                if not part:
                    raise Failure(f"spdk: no answer to {request['method']}")
                text += part.decode()
                try:
                    answer = json.loads(text)
                except ValueError:
                    continue  # the rest is still to come
        except OSError as error:
            raise Failure(f"spdk: {request['method']}: {error}") from None
        if "error" in answer:
            raise Failure(f"spdk: {request['method']}: {answer['error'].get('message')}")

    def load(self, options, case, rate):
        seconds, warmup = max(1, math.ceil(options.seconds)), math.ceil(options.warmup)
        if case.depth >= QUEUE_DEPTH:
            raise Failure(f"spdk: at most {QUEUE_DEPTH - 1} requests in flight a connection")
        disk = self.size if self.backing == "memory" else 0
        command = [self.client, "-q", case.depth * case.connections, "-P", case.connections, "-o",
                   case.block_bytes, "-w", case.rw, "-t", seconds,
                   "-c", hex(1 << options.client_core), "-L", "-r",
                   f"trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{self.port} subnqn:{NQN}",
                   *memory(disk, CLIENT_MIB)]
        if warmup:
            command += ["-a", warmup]
        if case.rw in ("rw", "randrw"):
            command += ["-M", 50]
        done = bench_process.run(command, options.client_core, (seconds + warmup) * 3 + 120,
                                 **self.environment)
        told = parse(done.out, done.err)
        return {**told, "requests": told["iops"] * seconds, "seconds": seconds, "warmup": warmup,
                "took": done.seconds, "unsent": 0,
                "client_cores": done.cpu_seconds / done.seconds}


def parse(text, errors=""):
    """
    What spdk_nvme_perf -L prints, times in us:
    Total                      :  IOPS  MiB/s  average  min  max
      99.00000% :   123.456us
    """
    total = re.search(r"^Total *: +([\d.]+) +[\d.]+ +[\d.]+ +[\d.]+ +([\d.]+)", text, re.M)
    shares = {float(share): float(value) * 1e3
              for share, value in re.findall(r"^ *([\d.]+)% : +([\d.]+)us", text, re.M)}
    if not total or any(share not in shares for share in (50, 99, 99.9)):
        raise Failure(f"spdk_nvme_perf has told no results: {(text + errors).strip()[-300:]!r}")
    return {"iops": float(total[1]), "p50_ns": shares[50], "p99_ns": shares[99],
            "p999_ns": shares[99.9], "max_ns": float(total[2]) * 1e3}
