# SPDX-License-Identifier: BSD-3-Clause
"""
Stands in for two programs of SPDK, by its first argument's name, for the tests of bench.py:
nvmf_tgt takes the JSON-RPC calls that configure a target, as strictly as SPDK does, and listens;
spdk_nvme_perf connects, uses CPU time, and prints a summary in the form of SPDK v24.09. There is no
NVMe in them.
"""

import argparse
import json
import os
import signal
import socket
import sys
import time

REQUIRED = {
    "nvmf_create_transport": {"trtype"},
    "bdev_malloc_create": {"num_blocks", "block_size"},
    "bdev_null_create": {"name", "num_blocks", "block_size"},
    "nvmf_create_subsystem": {"nqn"},
    "nvmf_subsystem_add_ns": {"nqn", "namespace"},
    "nvmf_subsystem_add_listener": {"nqn", "listen_address"},
}
OPTIONAL = {"nvmf_create_transport": {"max_queue_depth", "io_unit_size"},
            "bdev_malloc_create": {"name", "uuid"}, "bdev_null_create": {"uuid"},
            "nvmf_create_subsystem": {"allow_any_host", "serial_number", "model_number"}}


class Target:
    """What has been configured; a call that comes too early, or is not known, is an error."""

    def __init__(self):
        self.transports, self.bdevs, self.subsystems, self.listeners = set(), set(), {}, []

    def answer(self, request):
        method, params = request["method"], request.get("params", {})
        known = REQUIRED.get(method)
        if known is None:
            return {"error": {"code": -32601, "message": "Method not found"}}
        if not known <= set(params) or set(params) - known - OPTIONAL.get(method, set()):
            return {"error": {"code": -32602, "message": "Invalid parameters"}}
        result = getattr(self, method)(**params)
        if result is None or os.environ.get("SPDK_FAILS") == method:
            return {"error": {"code": -32602, "message": "Invalid parameters"}}
        return {"result": result}

    def nvmf_create_transport(self, trtype, **_):
        self.transports.add(trtype)
        return True

    def bdev_malloc_create(self, num_blocks, block_size, name="Malloc0"):
        self.bdevs.add(name)
        return name if num_blocks > 0 and block_size % 512 == 0 else None

    bdev_null_create = bdev_malloc_create

    def nvmf_create_subsystem(self, nqn, **_):
        self.subsystems[nqn] = []
        return True if nqn.startswith("nqn.") else None

    def nvmf_subsystem_add_ns(self, nqn, namespace):
        if namespace["bdev_name"] not in self.bdevs:
            return None
        self.subsystems[nqn].append(namespace["bdev_name"])
        return len(self.subsystems[nqn])

    def nvmf_subsystem_add_listener(self, nqn, listen_address):
        if listen_address["trtype"] not in self.transports or not self.subsystems.get(nqn):
            return None
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((listen_address["traddr"], int(listen_address["trsvcid"])))
        listener.listen()
        self.listeners.append(listener)
        return True


def target():
    parser = argparse.ArgumentParser(prog="nvmf_tgt", allow_abbrev=False)
    parser.add_argument("-m", "--cpumask", required=True, type=lambda text: int(text, 16))
    parser.add_argument("-r", "--rpc-socket", required=True)
    parser.add_argument("-u", "--no-pci", action="store_true")
    parser.add_argument("-s", "--mem-size", type=int)
    parser.add_argument("--no-huge", action="store_true")
    options = parser.parse_args()
    time.sleep(0.3)  # its memory
    rpc = socket.socket(socket.AF_UNIX)
    if os.path.exists(options.rpc_socket):
        os.unlink(options.rpc_socket)
    rpc.bind(options.rpc_socket)
    rpc.listen()
    state, decoder = Target(), json.JSONDecoder()
    while True:
        connection, _ = rpc.accept()
        text = ""
        while part := connection.recv(4096):
            text += part.decode()
            try:
                request, end = decoder.raw_decode(text)
            except ValueError:
                continue
            text = text[end:]
            reply = json.dumps({"jsonrpc": "2.0", "id": request["id"], **state.answer(request)})
            connection.sendall(reply[:20].encode())
            time.sleep(0.01)  # in two parts
            connection.sendall(reply[20:].encode())


def perf():
    parser = argparse.ArgumentParser(prog="spdk_nvme_perf", allow_abbrev=False)
    for option, kind in (("-q", int), ("-P", int), ("-o", int), ("-t", int), ("-a", int),
                         ("-M", int), ("-s", int), ("-c", lambda text: int(text, 16)), ("-r", str)):
        parser.add_argument(option, type=kind)
    parser.add_argument("-w", choices=["read", "write", "rw", "randread", "randwrite", "randrw"])
    parser.add_argument("-L", action="store_true")
    parser.add_argument("--no-huge", action="store_true")
    options = parser.parse_args()
    where = dict(part.split(":", 1) for part in options.r.split())
    with socket.create_connection((where["traddr"], int(where["trsvcid"]))):
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            pass
    name = f"TCP (addr:{where['traddr']} subnqn:{where['subnqn']}) NSID 1"
    iops = 1000.0 * options.q  # tells what was asked for
    figures = "%10.2f %10.2f %10.2f %10.2f %10.2f" % (iops, iops * options.o / (1 << 20),
                                                      80.5, 11.25, 4321.0)
    print("Initializing NVMe Controllers", "Initialization complete. Launching workers.",
          "=" * 56, "Latency(us)".rjust(len(name) + 60),
          "Device Information".ljust(len(name) + 13) + ":       IOPS      MiB/s    Average"
          "        min        max",
          f"{name} from core {options.c.bit_length() - 1:2}: {figures}", "=" * 56,
          f"{'Total'.ljust(len(name) + 13)}: {figures}", "", sep="\n")
    if options.L:
        print(f"Summary latency data for {name:<43.43} from core  1:", "=" * 81, sep="\n")
        for share, value in ((1, 12), (10, 20), (25, 30), (50, 71.5), (75, 80), (90, 90), (95, 95),
                             (98, 110), (99, 123.25), (99.5, 140), (99.9, 345.75), (99.99, 1000)):
            print(f"{share:9.5f}% : {value:9.3f}us")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ROLE = sys.argv.pop(1)
    if "--version" in sys.argv:
        print("SPDK v24.09 (stand-in)")
    else:
        {"nvmf_tgt": target, "spdk_nvme_perf": perf}[ROLE]()
