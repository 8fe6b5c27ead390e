#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Measures Pollux beside other NBD servers, and tells the ratios.

One server at a time runs, all of them on the same core and with the same backing; those that serve
memory of their own, which takes time to fill, are stopped (SIGSTOP) between their turns, the others
are ended. Rounds are interleaved: every server is measured in every case before the next round
begins, so that a machine that gets slower meanwhile is slower for all. Medians and spreads of the rounds go to results.md, results.json and results.html (one page,
which needs nothing but itself) in the directory of --out. Each measurement is noted in runs.jsonl
there at once: a run that was interrupted goes on where it was when it is started again.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import bench_report
import bench_servers

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = ["1:1:4k:randread", "1:32:4k:randread", "4:32:4k:randread", "4:32:4k:randwrite",
         "64:4:4k:randread", "4:8:128k:randread", "4:8:128k:randwrite",
         "4:32:4k:randread:rate=half"]
START_SECONDS, STOP_SECONDS = 20, 10
SETTLE_SECONDS = 0.1
MIB = 1 << 20


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def size_of(text):
    """1G, 4k: bytes."""
    unit = {"k": 10, "m": 20, "g": 30, "t": 40}.get(text[-1:].lower())
    return int(text[:-1]) << unit if unit else int(text)


def listens(port):
    """Whether somebody listens on that port: seen without a connection, which might disturb."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
                   for line in file if ":" in line.split()[0])


class Case:
    """CONNECTIONS:DEPTH:BLOCK:RW[:rate=N|half]"""

    def __init__(self, text):
        parts = text.split(":")
        if len(parts) not in (4, 5) or (len(parts) == 5 and not parts[4].startswith("rate=")):
            raise argparse.ArgumentTypeError(
                f"'{text}': CONNECTIONS:DEPTH:BLOCK:RW[:rate=N|half] is expected")
        self.text = text
        self.connections, self.depth = int(parts[0]), int(parts[1])
        self.block, self.rw = parts[2], parts[3]
        self.rate = parts[4][5:] if len(parts) == 5 else None
        self.base = ":".join(parts[:4])  # the case without a rate, whose half may be asked for

    def __str__(self):
        return self.text


class Server:
    """One that is running, in a process group of its own."""

    def __init__(self, plan, directory, core):
        self.plan, self.name = plan, plan.name
        self.log = open(os.path.join(directory, f"{plan.name}.log"), "ab")
        self.process = subprocess.Popen(
            plan.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
        self.group = self.process.pid
        try:
            self.wait_ready()
        except Exception:
            self.end()
            raise

    def wait_ready(self):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() not in (None, 0):
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}: see "
                                   f"{self.log.name}")
            if listens(self.plan.port):
                break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"{self.name} does not listen: see {self.log.name}")
        if self.plan.pid_file:  # it has left its parent
            with open(self.plan.pid_file, encoding="ascii") as file:
                self.group = os.getpgid(int(file.read()))

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
            if not any(fields[0] != "Z" for fields in self.members()):
                break
            time.sleep(0.02)
        else:
            self.send(signal.SIGKILL)
        self.process.wait()
        self.log.close()


class Bench:
    """The rounds, and what is known of them."""

    def __init__(self, options):
        self.options = options
        self.runs_path = os.path.join(options.out, "runs.jsonl")
        self.runs = []
        self.total = 0
        self.broken = set()  # (group, server) that could not be started
        if os.path.exists(self.runs_path):
            self.load()
        self.done = {self.key(run) for run in self.runs}

    def load(self):
        """Takes over what an earlier start has measured, but for a last line that was cut off."""
        with open(self.runs_path, encoding="utf-8") as file:
            lines = file.readlines()
        whole = [line for line in lines if line.endswith("\n")]
        self.runs = [json.loads(line) for line in whole]
        if len(whole) < len(lines):
            with open(self.runs_path, "w", encoding="utf-8") as file:
                file.writelines(whole)

    @staticmethod
    def key(run):
        return run["group"], run["case"], run["server"], run["round"]

    def note(self, run):
        self.runs.append(run)
        self.done.add(self.key(run))
        with open(self.runs_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")

    def perf(self, plan, *args):
        """One run of pollux-perf: its results."""
        command = [self.options.perf, plan.uri, "--cores", str(self.options.client_core),
                   "--size", str(self.options.size), "--json", *plan.client_args,
                   *(str(arg) for arg in args)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False, timeout=self.options.seconds * 10 + 300)
        if done.returncode:
            raise RuntimeError(f"{plan.name}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def rate_of(self, group, case, server):
        """What --rate is to be: half of what that server has reached in the same case."""
        if case.rate != "half":
            return size_of(case.rate)
        reached = [run["iops"] for run in self.runs
                   if (run["group"], run["case"], run["server"]) == (group, case.base, server)]
        if not reached:
            raise RuntimeError(f"{case}: needs the case {case.base} before it")
        return max(1, int(statistics.median(reached) / 2))

    def measure(self, group, case, server, number):
        args = ["--rw", case.rw, "--bs", case.block, "--iodepth", case.depth, "--connections",
                case.connections, "--time", self.options.seconds, "--warmup",
                self.options.warmup]
        if case.rate:
            args += ["--rate", self.rate_of(group, case, server.name)]
        server.send(signal.SIGCONT)
        try:
            time.sleep(SETTLE_SECONDS)
            before = server.cpu_seconds()
            told = self.perf(server.plan, *args)
            # nbd-server's children hand their times over when they have ended
            time.sleep(SETTLE_SECONDS)
            cpu = server.cpu_seconds() - before
        finally:
            server.send(signal.SIGSTOP)
        latency, requests = told["total"]["latency_ns"], told["total"]["requests"]
        client = told["client"]
        # the warm-up is in the server's time too
        share = self.options.seconds / (self.options.seconds + self.options.warmup)
        self.note({
            "group": group, "case": case.text, "server": server.name, "round": number,
            "iops": told["total"]["iops"], "p50_ns": latency["p50"], "p99_ns": latency["p99"],
            "p999_ns": latency["p99.9"], "max_ns": latency["max"],
            "server_us": cpu * share * 1e6 / requests if requests else 0,
            "client_cores": (client["user_seconds"] + client["system_seconds"]) / told["seconds"],
            "unsent": told["unsent"],
        })

    def missing(self, group, cases, names):
        return [(number, case, name) for number in range(self.options.rounds) for case in cases
                for name in names if (group, case.text, name, number) not in self.done]

    def run_group(self, backing, tls):
        """All rounds of a backing, with or without TLS."""
        options = self.options
        group = backing + ("+tls" if tls else "")
        plans = {plan.name: plan for plan in bench_servers.plans(options, backing, tls)}
        left = self.missing(group, options.cases, list(plans))
        kept = {}  # those whose disk took time to fill: they wait, stopped, for their next turn
        try:
            for number, case, name in left:
                say(f"[{len(self.runs) + 1}/{self.total}] {group} {case} round {number + 1}: "
                    f"{name}")
                server = None
                try:
                    server = kept.pop(name, None) or self.start(group, plans[name])
                    if server:
                        self.measure(group, case, server, number)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    say(f"  left out: {error}")
                finally:
                    if server and plans[name].fill:
                        kept[name] = server
                    elif server:
                        server.end()
        finally:
            for server in kept.values():
                server.end()

    def start(self, group, plan):
        """A running server with its disk filled; None if it can not be had, now or ever again."""
        if (group, plan.name) in self.broken:
            return None
        server = None
        try:
            server = Server(plan, self.options.out, self.options.server_core)
            if plan.fill:
                say(f"{group}: filling {plan.name}")
                self.perf(plan, "--rw", "write", "--bs", "1M", "--iodepth", 8, "--requests",
                          self.options.size // MIB)
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            say(f"{group}: {plan.name} is left out: {error}")
            self.broken.add((group, plan.name))
            if server:
                server.end()
            return None
        return server

    def run(self):
        options = self.options
        groups = [(backing, tls) for tls in ((False, True) if options.tls else (False,))
                  for backing in options.backings]
        for backing, tls in groups:
            count = len(bench_servers.plans(options, backing, tls))
            self.total += count * len(options.cases) * options.rounds
        try:
            for backing, tls in groups:
                self.run_group(backing, tls)
        finally:
            bench_report.write(options, self.runs)


def list_of(kind):
    return lambda text: [kind(part) for part in text.split(",") if part]


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="bench-results", help="directory for results")
    parser.add_argument("--pollux", default=os.path.join(HERE, "../build/app/pollux/pollux"))
    parser.add_argument("--perf", default=os.path.join(HERE, "../build/app/perf/pollux-perf"))
    parser.add_argument("--ceiling", help="a program, called with a port and for memory with 'm', "
                        "that serves as fast as can be: the ratios' 1.0")
    parser.add_argument("--servers", type=list_of(str), metavar="LIST",
                        help="of " + ",".join(bench_servers.NAMES) + " (default: all)")
    parser.add_argument("--backings", type=list_of(str), default=["null", "memory"], metavar="LIST",
                        help="of null, memory, tmpfs, disk (default: null,memory)")
    parser.add_argument("--cases", type=list_of(Case), default=[Case(text) for text in CASES],
                        metavar="LIST", help="CONNECTIONS:DEPTH:BLOCK:RW[:rate=N|half],...")
    parser.add_argument("--tls", action="store_true", help="again, inside TLS (pre-shared keys)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of one measurement")
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds")
    parser.add_argument("--size", type=size_of, default=1 << 30, help="of the disks")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--tmpfs", default="/dev/shm", help="directory of the backing tmpfs")
    parser.add_argument("--disk", default="/var/tmp", help="directory of the backing disk")
    options = parser.parse_args(argv)
    for name in options.servers or ():
        if name not in bench_servers.NAMES:
            parser.error(f"--servers: '{name}' is not one of {', '.join(bench_servers.NAMES)}")
    for name in options.backings:
        if name not in bench_servers.BACKINGS:
            parser.error(f"--backings: '{name}' is not one of "
                         f"{', '.join(bench_servers.BACKINGS)}")
    if options.size % MIB or not options.size:
        parser.error("--size must be a multiple of 1M")
    for path in (options.pollux, options.perf):
        if not os.access(path, os.X_OK):
            parser.error(f"{path} is not there: build first (see --pollux, --perf)")
    return options


def main(argv=None):
    options = parse(argv)
    os.makedirs(options.out, exist_ok=True)
    bench = Bench(options)
    try:
        bench.run()
    except KeyboardInterrupt:
        say("interrupted; start it again to go on")
        return 130
    finally:
        bench_servers.remove_files(options)
    say(f"results: {options.out}/results.md, results.json, results.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
