#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Measures Pollux beside other servers, and tells the ratios.

One server at a time runs, all of them on the same core and with the same backing; those that serve
memory of their own, which takes time to fill, are stopped (SIGSTOP) between their turns, the others
are ended. Rounds are interleaved: every server is measured in every case before the next round
begins, so that a machine that gets slower meanwhile is slower for all. Medians and spreads of the
rounds go to results.md, results.json and results.html (one page, which needs nothing but itself) in
the directory of --out. Each measurement is noted there at once: a run that was interrupted goes on
where it was when it is started again with the same settings.

Exit status: 0; 1: Pollux could not be measured in some case (a peer that fails is only told as
failed); 2: wrong options, or results of other settings.
"""

import argparse
import os
import signal
import statistics
import sys
import time

import bench_process
import bench_report
import bench_servers
import bench_spdk
import bench_state
from bench_process import Failure

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = ["1:1:4k:randread", "1:32:4k:randread", "4:32:4k:randread", "4:32:4k:randwrite",
         "64:4:4k:randread", "4:8:128k:randread", "4:8:128k:randwrite",
         "4:32:4k:randread:rate=half"]
KINDS = ["read", "write", "rw", "randread", "randwrite", "randrw"]
SETTLE_SECONDS = 0.1
MIB = 1 << 20
OURS = "pollux"


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def size_of(text):
    """1G, 4k: bytes."""
    unit = {"k": 10, "m": 20, "g": 30, "t": 40}.get(text[-1:].lower())
    return int(text[:-1]) << unit if unit else int(text)


def count_of(text):
    """100k, 1.5M: of requests a second."""
    unit = {"k": 1e3, "m": 1e6}.get(text[-1:].lower())
    return int(float(text[:-1]) * unit if unit else float(text))


class Case:
    """CONNECTIONS:DEPTH:BLOCK:KIND[:rate=N|half|half-SERVER]"""

    def __init__(self, text):
        parts = text.split(":")
        if len(parts) not in (4, 5) or (len(parts) == 5 and not parts[4].startswith("rate=")):
            raise argparse.ArgumentTypeError(
                f"'{text}': CONNECTIONS:DEPTH:BLOCK:KIND[:rate=N|half|half-SERVER] is expected")
        self.text = text
        try:
            self.connections, self.depth = int(parts[0]), int(parts[1])
            self.block_bytes = size_of(parts[2])
            self.rate = parts[4][5:] if len(parts) == 5 else None
            if self.rate and not self.rate.startswith("half"):
                count_of(self.rate)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"'{text}': {error}") from None
        self.block, self.rw = parts[2], parts[3]
        if self.rw not in KINDS:
            raise argparse.ArgumentTypeError(f"'{text}': '{self.rw}' is not one of "
                                             + ", ".join(KINDS))
        if min(self.connections, self.depth, self.block_bytes) < 1:
            raise argparse.ArgumentTypeError(f"'{text}': numbers begin at 1")
        self.half_of = None  # the server whose rate counts; "" for each server's own
        if self.rate and self.rate.startswith("half"):
            self.half_of = self.rate[5:]
            if self.rate != "half" and self.half_of not in bench_servers.NAMES:
                raise argparse.ArgumentTypeError(f"'{text}': half of which server?")
        self.base = ":".join(parts[:4])  # the case without a rate, whose half may be asked for

    def __str__(self):
        return self.text


class Bench:
    """The rounds, and what is known of them."""

    def __init__(self, options, state, guard):
        self.options, self.state, self.guard = options, state, guard
        self.begun, self.steps, self.total = time.monotonic(), 0, 0
        self.failed = {}  # (group, case, server): why, of the last try
        self.broken = {}  # (group, server) that could not be started: why

    def rate_of(self, group, case, server):
        """What the rate is to be: as told, or half of what was reached in the case without."""
        if case.half_of is None:
            return count_of(case.rate)
        wanted = case.half_of or server
        reached = [run["iops"] for run in self.state.runs
                   if (run["group"], run["case"], run["server"]) == (group, case.base, wanted)]
        if not reached:
            raise Failure(f"{case.base} of {wanted}, half of which it was to be, is not known")
        return max(1, int(statistics.median(reached) / 2))

    def measure(self, group, case, server, number):
        plan = server.plan
        rate = self.rate_of(group, case, server.name) if case.rate else None
        server.send(signal.SIGCONT)
        try:
            time.sleep(SETTLE_SECONDS)
            processes, before = server.processes(), server.cpu_seconds()
            told = plan.load(self.options, case, rate)
            # children that served a connection hand their times over when they have ended
            server.settle(processes)
            cpu = server.cpu_seconds() - before
            server.check_alive()
        finally:
            server.send(signal.SIGSTOP)
        if not told["requests"]:
            raise Failure(f"{server.name} has answered nothing")
        # The warm-up is in the server's time too. One that polls uses its core before and after.
        share = (told["seconds"] / told["took"] if plan.polls
                 else told["seconds"] / (told["seconds"] + told["warmup"]))
        names = ("iops", "p50_ns", "p99_ns", "p999_ns", "max_ns", "client_cores", "unsent")
        self.state.note({
            "group": group, "case": case.text, "server": server.name, "round": number,
            "rate": rate, "server_us": cpu * share * 1e6 / told["requests"],
            **{name: told[name] for name in names}})

    def wanted(self, group, backing, tls):
        """(round, case, server), in the order in which they are measured."""
        names = bench_servers.names(self.options, backing, tls)
        return [(number, case, name) for number in range(self.options.rounds)
                for case in self.options.cases for name in names
                if not (case.rate and name == "spdk")]  # its client has no open loop

    def missing(self, group, backing, tls):
        return [(number, case, name) for number, case, name in self.wanted(group, backing, tls)
                if (group, case.text, name, number) not in self.state.done]

    def progress(self, group, case, name, number):
        left = ""
        if self.steps:
            seconds = (time.monotonic() - self.begun) / self.steps * (self.left - self.steps)
            left = f", {seconds / 60:.0f} min left" if seconds >= 60 else f", {seconds:.0f} s left"
        self.steps += 1
        say(f"[{self.total - self.left + self.steps}/{self.total}{left}] {group} {case} "
            f"round {number + 1}: {name}")

    def run_group(self, group, backing, tls):
        """All rounds of a backing, with or without TLS."""
        left = self.missing(group, backing, tls)
        path = bench_servers.backing_file(self.options, backing)
        if left and path:
            self.guard.remove(path)
            try:
                bench_servers.make_file(path, self.options.size)
            except OSError as error:
                say(f"{path}: {error.strerror}: {group} is left out")
                self.failed.update({(group, case.text, name): f"{path}: {error.strerror}"
                                    for _, case, name in left})
                self.left -= len(left)
                self.total -= len(left)
                return
        kept = {}  # those whose disk took time to fill: they wait, stopped, for their next turn
        try:
            for number, case, name in left:
                self.progress(group, case, name, number)
                server = None
                try:
                    server = kept.pop(name, None) or self.start(group, name, backing, tls)
                    self.measure(group, case, server, number)
                except Failure as error:
                    say(f"  failed: {error}")
                    self.failed[group, case.text, name] = str(error)
                    if server:  # whatever is wrong with it: the next turn has a new one
                        server.end()
                        server = None
                finally:
                    if server and server.plan.kept and sys.exc_info()[0] is None:
                        kept[name] = server
                    elif server:
                        server.end()
        finally:
            for server in kept.values():
                server.end()

    def start(self, group, name, backing, tls):
        """A running server with its disk filled. What can not be started is not tried again."""
        if (group, name) in self.broken:
            raise Failure(self.broken[group, name])
        server = None
        try:
            plan = bench_servers.plan(self.options, name, backing, tls)
            server = bench_process.Server(plan, self.options.out, self.options.server_core)
            if plan.fill:
                say(f"  filling {name}")
                plan.fill_disk(self.options)
        except (OSError, Failure) as error:
            self.broken[group, name] = str(error)
            if server:
                server.end()
            raise Failure(str(error)) from None
        return server

    def run(self):
        options = self.options
        groups = [(backing + ("+tls" if tls else ""), backing, tls)
                  for tls in ((False, True) if options.tls else (False,))
                  for backing in options.backings]
        self.total = sum(len(self.wanted(*group)) for group in groups)
        self.left = sum(len(self.missing(*group)) for group in groups)
        try:
            for group in groups:
                self.run_group(*group)
        finally:
            bench_report.write(options, self.state, self.failed)
        return sorted({(group[0], case.text) for group in groups
                       for _, case, name in self.missing(*group) if name == OURS})


def list_of(kind):
    def items(text):
        made = []
        for part in text.split(","):
            if part and kind(part) not in made:
                made.append(kind(part))
        if not made:
            raise argparse.ArgumentTypeError("nothing is named")
        return made
    return items


def cases_of(text):
    return [Case(part) for part in list_of(str)(text)]


def add_options(parser):
    parser.add_argument("--out", default="bench-results", help="directory for results")
    parser.add_argument("--anew", action="store_true", help="drop the results that are there")
    parser.add_argument("--svg", metavar="DIR", help="also write each chart as a file of its own")
    parser.add_argument("--pollux", default=os.path.join(HERE, "../build/app/pollux/pollux"))
    parser.add_argument("--perf", default=os.path.join(HERE, "../build/app/perf/pollux-perf"))
    parser.add_argument("--ceiling", help="a program, called with a port and for memory with 'm', "
                        "that serves as fast as can be: the ratios' 1.0")
    parser.add_argument("--spdk", metavar="DIR", help="SPDK's build directory, or its nvmf_tgt, "
                        "with spdk_nvme_perf beside it: NVMe/TCP as a further server")
    parser.add_argument("--servers", type=list_of(str), metavar="LIST",
                        help="of " + ",".join(bench_servers.NAMES) + " (default: all)")
    parser.add_argument("--backings", type=list_of(str), default=["null", "memory"], metavar="LIST",
                        help="of null, memory, tmpfs, disk (default: null,memory)")
    parser.add_argument("--cases", type=cases_of, default=[Case(text) for text in CASES],
                        metavar="LIST",
                        help="CONNECTIONS:DEPTH:BLOCK:KIND[:rate=N|half|half-SERVER],...")
    parser.add_argument("--tls", action="store_true", help="again, inside TLS (pre-shared keys)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of one measurement")
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds")
    parser.add_argument("--size", type=size_of, default=1 << 30, help="of the disks")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--tmpfs", default="/dev/shm", help="directory of the backing tmpfs")
    parser.add_argument("--disk", default="/var/tmp", help="directory of the backing disk")


def check_cases(parser, cases):
    """Half of a rate needs that rate: its case must come before."""
    for at, case in enumerate(cases):
        if case.half_of is not None and case.base not in [other.text for other in cases[:at]]:
            parser.error(f"--cases: {case} needs {case.base} before it")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args(argv)
    for option, given, known in (("--servers", options.servers or (), bench_servers.NAMES),
                                 ("--backings", options.backings, bench_servers.BACKINGS)):
        for name in given:
            if name not in known:
                parser.error(f"{option}: '{name}' is not one of {', '.join(known)}")
    if options.size % MIB or options.size <= 0:
        parser.error("--size must be a multiple of 1M")
    if options.seconds <= 0 or options.warmup < 0 or options.rounds < 1:
        parser.error("--seconds and --rounds must be above 0, --warmup not below")
    check_cases(parser, options.cases)
    for core in (options.server_core, options.client_core):
        if core not in os.sched_getaffinity(0):
            parser.error(f"core {core} is not one that this process may use")
    for path in filter(None, (options.pollux, options.perf, options.ceiling)):
        if not (os.path.isfile(path) and os.access(path, os.X_OK)):
            parser.error(f"{path} is not there: build first (see --pollux, --perf)")
    for name in bench_spdk.PLACES if options.spdk else ():
        if not bench_spdk.find(options.spdk, name):
            parser.error(f"--spdk: there is no {name} in {options.spdk}")
    if options.servers and "spdk" in options.servers and not options.spdk:
        parser.error("--servers: for spdk, --spdk must tell where it is")
    return options


def main(argv=None):
    options = parse(argv)
    os.makedirs(options.out, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        state = bench_state.State(options)
    except bench_state.Refused as error:
        say(f"error: {error}")
        return 2
    guard = bench_process.Guard()
    try:
        lost = Bench(options, state, guard).run()
    except KeyboardInterrupt:
        say("interrupted; start it again to go on")
        return 128 + signal.SIGINT
    finally:
        bench_servers.remove_files(options)
        guard.close()
    say(f"results: {options.out}/results.md, results.json, results.html")
    for group, case in lost:
        say(f"error: Pollux could not be measured: {group} {case}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
