#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Draws the charts of doc/performance.md from the figures in its tables: nothing is written twice.

    scripts/gen_charts.py [DOCUMENT [DIRECTORY]]

By default doc/performance.md and doc/charts. To be called again whenever a table has changed.
"""

import os
import re
import sys

import bench_charts
from bench_charts import bars, figure, kind_of, lines

OURS, CEILING = "Pollux, thousand IOPS", "ceiling, thousand IOPS"
OTHERS = "the others' best"
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


class Missing(Exception):
    """The document has no such table."""


def table(text, *heads):
    """The rows, as dictionaries, of the first table whose first columns are called so."""
    begin = "| " + " | ".join(heads) + " |"
    rows = []
    for line in text[text.find("\n" + begin):].lstrip().splitlines() if begin in text else []:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    if len(rows) < 3:
        raise Missing(f"no table '{begin}'")
    return [dict(zip(rows[0], row)) for row in rows[2:]]


def number(cell):
    """The first one in a cell; None where there is none."""
    found = re.search(r"\d[\d,]*(?:\.\d+)?", cell)
    return float(found[0].replace(",", "")) if found else None


def block(case):
    """4:32:4096:r as one reads it."""
    connections, depth, size, kind = case.split(":")[:4]
    size = f"{int(size) // 1024} KiB"
    return f"{connections} x {depth}, {size} {'write' if 'w' in kind else 'read'}"


def ratios(text):
    """Pollux to the ceiling, by case."""
    groups = {}
    above = ""
    for row in table(text, "case", "server", "ceiling", "Pollux, thousand IOPS"):
        above = row["server"] if row["server"] != "the same" else above
        polling = ", polling" if "polling" in row["ceiling"] else ""
        groups.setdefault(above.replace("`", ""), []).append({
            "label": block(row["case"]), "kind": "pollux", "value": number(row["ratio"]),
            "text": f"{row['ratio']} ({figure(number(row[OURS]))} k, ceiling "
                    f"{figure(number(row[CEILING]))} k{polling})"})
    return bars("Pollux to the ceiling, one core", "times the requests a second of the ceiling "
                "(case: connections x requests in flight)", list(groups.items()), mark=1)


def peers(text):
    """Pollux and the best of the other servers, by case."""
    rows = []
    for row in table(text, "backing, case", "Pollux", "spread"):
        backing, case = row["backing, case"].split(", ")
        ratio = row["to it"]  # the last column of that name
        rows.append({"label": f"{backing}, {block(case.replace(':rand', ':'))}", "kind": "pollux",
                     "value": number(ratio),
                     "text": f"{ratio} ({row['Pollux']} k, {row[OTHERS]})"})
    return bars("Pollux to the best of the other NBD servers", "times the requests a second of the "
                "best other (in brackets: thousands of both)", [("", rows)], mark=1)


def cpu(text, title, *heads):
    """The server's CPU a request: a group a case, or a column."""
    rows = table(text, *heads)
    first, *columns = list(rows[0])
    groups = [(column, [{"label": row[first].split(",")[0], "value": number(row[column]),
                         "kind": kind_of(row[first].split(",")[0]), "text": row[column]}
                        for row in rows if number(row[column]) is not None])
              for column in columns]
    return bars(title, "us of the server's user and system time a request", groups)


def latency(text):
    """At a fixed rate."""
    groups = []
    for row in table(text, "server", "thousand IOPS", "p50, us"):
        groups.append((f"{row['server']}, at {row['thousand IOPS']} thousand a second", [
            {"label": column.split(",")[0], "kind": kind_of(row["server"]),
             "value": number(row[column]), "text": row[column]}
            for column in ("p50, us", "p99, us", "p99.9, us")]))
    return bars("Latency at half of each server's maximum, memory, 4 KiB reads", "us, on a "
                "logarithmic axis", groups, log=True)


def instructions(text):
    rows = [{"label": row["case, 4 KiB, 1 connection, depth 32"].replace(
                "net and storage cores ", "").split(", without")[0],
             "kind": "pollux", "value": number(row["user instructions"]),
             "text": row["user instructions"]}
            for row in table(text, "case, 4 KiB, 1 connection, depth 32", "user instructions")]
    return bars("What a request of 4 KiB costs in user space", "instructions a request",
                [("", rows)])


def batches(text):
    """What a core carries, by how many requests come at once."""
    rows = table(text, "connections:depth", "n", "measured, us")
    measured = {number(row["n"]): 1e3 / number(row["measured, us"]) for row in rows
                if row["connections:depth"].startswith(("4:", "64:", "8:", "16:"))}
    model = {number(row["n"]): 1e3 / number(row["a + b/n"]) for row in rows}
    return lines("Requests that a core carries, by how many of a connection come at once",
                 "n, requests in flight on each connection (64 to 256 in all)",
                 "thousand requests a second", [("measured", "pollux", sorted(measured.items())),
                                                ("1 / (a + b/n)", "model", sorted(model.items()))])


def charts(text):
    """{name: svg}"""
    return {
        "ratios": ratios(text),
        "peers": peers(text),
        "cpu-memory": cpu(text, "Memory: CPU a request, by connections x depth", "server's CPU, us",
                          "4 x 32 read"),
        "cpu-disk": cpu(text, "A file on a disk, 1 x 128, 4 KiB: CPU a request",
                        "server's CPU a request, us", "randread"),
        "latency": latency(text),
        "instructions": instructions(text),
        "batches": batches(text),
    }


def main(argv):
    document = argv[1] if len(argv) > 1 else os.path.join(ROOT, "doc/performance.md")
    directory = argv[2] if len(argv) > 2 else os.path.join(os.path.dirname(document), "charts")
    with open(document, encoding="utf-8") as file:
        text = file.read()
    try:
        made = charts(text)
    except Missing as error:
        print(f"{document}: {error}", file=sys.stderr)
        return 1
    os.makedirs(directory, exist_ok=True)
    for name, svg in made.items():
        with open(os.path.join(directory, f"{name}.svg"), "w", encoding="utf-8") as file:
            file.write(svg)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
