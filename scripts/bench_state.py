# SPDX-License-Identifier: BSD-3-Clause
"""
What bench.py keeps in its directory: each measurement at once (runs.jsonl), and with which settings
and programs they were made (settings.json), so that a run that was interrupted goes on, and only as
it was begun. One bench.py at a time works in a directory.
"""

import fcntl
import glob
import hashlib
import json
import os
import subprocess

import bench_servers
import bench_spdk

VERSION_SECONDS = 10
FILES = ["runs.jsonl", "settings.json", "results.md", "results.json", "results.html"]


class Refused(Exception):
    """These results can not be gone on with."""


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]


def version(path, option="--version"):
    """The first line of what a program says of itself."""
    try:
        done = subprocess.run([path, option], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=False, timeout=VERSION_SECONDS,
                              env={**os.environ, **bench_spdk.library_path(path)})
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]


def identity(path, name):
    """Version and content of a program. A ceiling is not asked: it might begin to serve."""
    told = "" if name == "ceiling" else version(path, "-V" if name == "nbd-server" else "--version")
    return f"{told or os.path.basename(path)} ({digest(path)})"


def scripts():
    """How it is measured: a change to that makes other figures."""
    here = os.path.dirname(os.path.abspath(__file__))
    names = ["bench.py", "bench_process.py", "bench_servers.py", "bench_spdk.py"]
    return hashlib.sha256("".join(digest(os.path.join(here, name)) for name in names)
                          .encode()).hexdigest()[:16]


def settings(options):
    """All that figures must have in common to be set side by side."""
    told = {
        "--seconds": options.seconds, "--warmup": options.warmup, "--size": options.size,
        "--server-core": options.server_core, "--client-core": options.client_core,
        "--tmpfs": os.path.realpath(options.tmpfs), "--disk": os.path.realpath(options.disk),
        "machine": f"{os.uname().nodename}, {os.uname().machine}, {os.cpu_count()} CPUs",
        "kernel": os.uname().release, "bench.py's scripts": scripts(),
        "the servers": ", ".join(bench_servers.chosen(options)),
        "pollux-perf": identity(options.perf, "pollux-perf"),
    }
    for name in bench_servers.chosen(options):
        told[f"server {name}"] = identity(bench_servers.program(options, name), name)
    if "spdk" in bench_servers.chosen(options):
        told["spdk_nvme_perf"] = digest(bench_spdk.find(options.spdk, "spdk_nvme_perf"))
        told["spdk's memory"] = ("huge pages" if bench_spdk.huge_pages(options.size)
                                 else "ordinary pages")
    return told


def replace(path, text):
    """The file as a whole, or as it was."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


class State:
    """The measurements so far."""

    def __init__(self, options):
        self.directory = options.out
        self.settings = settings(options)
        self.runs_path = os.path.join(options.out, "runs.jsonl")
        self.settings_path = os.path.join(options.out, "settings.json")
        self.lock = open(os.path.join(options.out, "lock"), "w", encoding="ascii")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another bench.py is at work in {options.out}") from None
        if options.anew:
            self.forget()
        self.runs = self.load() if os.path.exists(self.runs_path) else []
        if self.runs:
            self.compare()
        else:
            replace(self.settings_path, json.dumps(self.settings, indent=1) + "\n")
        self.done = {self.key(run) for run in self.runs}

    def forget(self):
        for path in [os.path.join(self.directory, name) for name in FILES]:
            if os.path.exists(path):
                os.unlink(path)
        for path in glob.glob(os.path.join(self.directory, "*.log")):
            os.unlink(path)

    def load(self):
        """What an earlier start has measured, but for a last line that was cut off."""
        with open(self.runs_path, encoding="utf-8") as file:
            lines = file.readlines()
        whole = [line for line in lines if line.endswith("\n")]
        try:
            runs = [json.loads(line) for line in whole]
        except ValueError as error:
            raise Refused(f"{self.runs_path}: {error}\n{self.remedy()}") from None
        if len(whole) < len(lines):
            replace(self.runs_path, "".join(whole))
        return runs

    def compare(self):
        """Refuses to go on with other settings or programs than those that were begun with."""
        try:
            with open(self.settings_path, encoding="utf-8") as file:
                old = json.load(file)
        except (OSError, ValueError):
            raise Refused(f"with which settings {self.runs_path} was measured is not known\n"
                          + self.remedy()) from None
        other = [f"  {name}: {old.get(name, 'not there')}, now "
                 f"{self.settings.get(name, 'not there')}"
                 for name in {**old, **self.settings} if old.get(name) != self.settings.get(name)]
        if other:
            raise Refused(f"what is in {self.directory} was measured differently:\n"
                          + "\n".join(other) + "\n" + self.remedy())

    def remedy(self):
        return (f"To begin anew, give --anew, which drops what is in {self.directory}, or another "
                "directory by --out.")

    @staticmethod
    def key(run):
        return run["group"], run["case"], run["server"], run["round"]

    def note(self, run):
        self.runs.append(run)
        self.done.add(self.key(run))
        with open(self.runs_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")
