# SPDX-License-Identifier: BSD-3-Clause
"""
What bench.py has measured, as Markdown, JSON, and a page of its own with charts. Ratios are those
of medians: to the ceiling, and of Pollux to the best of the other servers. Where the rate is given,
all answer as many requests: there the ratios are those of p99.9, and the less the better.
"""

import html
import json
import os
import re
import statistics
import time

import bench_charts
from bench_state import replace

OURS, CEILING = "pollux", "ceiling"
LEAST_ROUNDS = 5  # fewer make no median that means anything
KEPT_UP = 0.95    # of the rate that was asked for


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def summarize(runs):
    """[{group, case, servers: {name: medians}, ratios}], in the order of the first run of each."""
    order, groups = [], {}
    for run in runs:
        key = run["group"], run["case"]
        if key not in groups:
            order.append(key)
            groups[key] = {}
        groups[key].setdefault(run["server"], []).append(run)
    return [summary(group, case, groups[group, case]) for group, case in order]


def of_server(runs):
    iops = [run["iops"] for run in runs]
    told = {key: median(runs, key) for key in ("iops", "p50_ns", "p99_ns", "p999_ns", "max_ns",
                                               "server_us", "client_cores", "unsent")}
    told.update(rounds=len(runs), iops_min=min(iops), iops_max=max(iops))
    if runs[0].get("rate"):
        told["rate"] = median(runs, "rate")
        told["kept_up"] = told["iops"] >= KEPT_UP * told["rate"]
    return told


def summary(group, case, servers):
    told = {name: of_server(runs) for name, runs in servers.items()}
    by_rate = ":rate=" in case
    metric = "p999_ns" if by_rate else "iops"
    peers = {name: values[metric] for name, values in told.items()
             if name not in (OURS, CEILING) and values.get("kept_up", True)}
    best = (min if by_rate else max)(peers, key=peers.get) if peers else None
    for values in told.values():
        if CEILING in told and told[CEILING][metric]:
            values["to_ceiling"] = values[metric] / told[CEILING][metric]
    ours = told.get(OURS, {}).get(metric)
    ratio = ours / peers[best] if ours and best and peers[best] else None
    return {"group": group, "case": case, "metric": metric, "servers": told, "best_peer": best,
            "to_best_peer": ratio}


def number(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def rounds_told(options, cases):
    counts = sorted({values["rounds"] for entry in cases for values in entry["servers"].values()})
    told = "-".join(str(count) for count in sorted({counts[0], counts[-1]})) if counts else "0"
    few = (f" (fewer than {LEAST_ROUNDS}: a first look, no result)"
           if not counts or counts[0] < LEAST_ROUNDS else "")
    return f"medians of {told} rounds of {options.seconds:g} s, interleaved{few}"


def table_row(options, case, name, values):
    rounds = values["rounds"]
    late = "" if values.get("kept_up", True) else f", of {values['rate'] / 1e3:.1f} asked for"
    return (f"| {case} | {name} | {values['iops'] / 1e3:.1f}{late} "
            f"| {values['iops_min'] / 1e3:.1f}-{values['iops_max'] / 1e3:.1f} "
            f"| {number(values.get('to_ceiling'))} | {values['p50_ns'] / 1e3:.1f} "
            f"| {values['p99_ns'] / 1e3:.1f} | {values['p999_ns'] / 1e3:.1f} "
            f"| {values['server_us']:.2f} | {rounds}"
            f"{f' of {options.rounds}' if rounds < options.rounds else ''} |")


def with_failed(cases, failed):
    """The cases, those of which nothing was measured too, each with its servers that failed."""
    entries = {(entry["group"], entry["case"]): entry for entry in cases}
    for group, case, _ in failed:
        entries.setdefault((group, case), {"group": group, "case": case, "servers": {},
                                           "best_peer": None, "to_best_peer": None})
    order = list(dict.fromkeys(group for group, _ in entries))
    return [dict(entry, failed={name: why for (group, case, name), why in failed.items()
                                if (group, case) == (entry["group"], entry["case"])})
            for entry in sorted(entries.values(), key=lambda entry: order.index(entry["group"]))]


def markdown(options, state, cases):
    lines = ["# Benchmark", "",
             f"{time.strftime('%Y-%m-%d')}, {os.uname().release}, {os.cpu_count()} CPUs; servers "
             f"on core {options.server_core}, load on core {options.client_core}; "
             f"{rounds_told(options, cases)}, TCP loopback.", "",
             "A case is CONNECTIONS:DEPTH:BLOCK:KIND. Spread: the lowest and highest round. CPU: "
             "user and system time of the server a request. To the ceiling: the ratio of IOPS, "
             "and where the rate is given, of p99.9."]
    group = None
    for entry in cases:
        if entry["group"] != group:
            group = entry["group"]
            lines += ["", f"## {group}", "",
                      "| case | server | thousand IOPS | spread | to the ceiling | p50 us | p99 us "
                      "| p99.9 us | CPU us | rounds |", "|---|---|---|---|---|---|---|---|---|---|"]
        lines += [table_row(options, entry["case"], name, values)
                  for name, values in entry["servers"].items()]
        lines += [f"| {entry['case']} | {name} | failed | | | | | | | 0 |"
                  for name in entry["failed"] if name not in entry["servers"]]
    lines += ["", "## Pollux and the best of the others", "",
              "| backing | case | best other | Pollux to it |", "|---|---|---|---|"]
    lines += [f"| {entry['group']} | {entry['case']} | {entry['best_peer']} "
              f"| {number(entry['to_best_peer'])} |" for entry in cases if entry["best_peer"]]
    if any(entry["failed"] for entry in cases):
        lines += ["", "## What failed", "", "| backing | case | server | why |",
                  "|---|---|---|---|"]
        lines += [f"| {entry['group']} | {entry['case']} | {name} | {one_line(why)} |"
                  for entry in cases for name, why in entry["failed"].items()]
    lines += ["", "## Measured with", ""]
    lines += [f"- {name}: {value}" for name, value in state.settings.items()]
    return "\n".join(lines) + "\n"


def one_line(words):
    return " ".join(words.split()).replace("|", "/")


# ---- Charts ----

def iops_chart(entry):
    rows = []
    for name, values in sorted(entry["servers"].items(), key=lambda item: -item[1]["iops"]):
        ratio = f", {values['to_ceiling']:.2f} of it" if "to_ceiling" in values else ""
        rows.append({"label": name, "kind": bench_charts.kind_of(name),
                     "value": values["iops"] / 1e3, "low": values["iops_min"] / 1e3,
                     "high": values["iops_max"] / 1e3,
                     "text": bench_charts.figure(values["iops"] / 1e3) + ratio})
    best = (f"; Pollux {entry['to_best_peer']:.2f} times {entry['best_peer']}"
            if entry["to_best_peer"] else "")
    return bench_charts.bars(f"{entry['group']}, {entry['case']}{best}",
                             "thousand requests a second (the thin line: lowest and highest round; "
                             "“of it”: the ceiling)", [("", rows)])


def cpu_chart(entry):
    rows = [{"label": name, "kind": bench_charts.kind_of(name), "value": values["server_us"],
             "text": bench_charts.figure(values["server_us"])}
            for name, values in sorted(entry["servers"].items(),
                                       key=lambda item: item[1]["server_us"])]
    return bench_charts.bars(f"{entry['group']}, {entry['case']}: CPU", "us of the server's user "
                             "and system time a request", [("", rows)])


def latency_chart(entry):
    groups = []
    for name, values in entry["servers"].items():
        late = "" if values.get("kept_up", True) else " (could not keep up)"
        groups.append((f"{name}, {values['iops'] / 1e3:.0f} thousand a second{late}", [
            {"label": label, "kind": bench_charts.kind_of(name), "value": values[key] / 1e3,
             "text": bench_charts.figure(values[key] / 1e3)}
            for label, key in (("p50", "p50_ns"), ("p99", "p99_ns"), ("p99.9", "p999_ns"))]))
    return bench_charts.bars(f"{entry['group']}, {entry['case']}", "latency, us", groups, log=True)


def charts(cases):
    """[(name, svg)]"""
    made = []
    for entry in cases:
        if not entry["servers"]:
            continue
        name = re.sub(r"[^\w.+-]+", "-", f"{entry['group']}-{entry['case']}")
        made.append((f"{name}-latency", latency_chart(entry)) if ":rate=" in entry["case"]
                    else (f"{name}-iops", iops_chart(entry)))
        made.append((f"{name}-cpu", cpu_chart(entry)))
    return made


HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><title>Benchmark</title><style>
:root { color-scheme: light dark; }
body { font: 15px/1.4 sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em; }
svg { width: 100%; height: auto; }
</style></head><body>
"""


def page(options, cases):
    out = [HEAD, "<h1>Benchmark</h1>", f"<p>{html.escape(rounds_told(options, cases))}.</p>"]
    # inside a page of HTML an svg needs no namespace
    out += [svg.replace(' xmlns="http://www.w3.org/2000/svg"', "") for _, svg in charts(cases)]
    failed = ["<li>" + html.escape(f"{entry['group']} {entry['case']} {name}: {why}") + "</li>"
              for entry in cases for name, why in entry["failed"].items()]
    if failed:
        out += ["<h2>What failed</h2><ul>", *failed, "</ul>"]
    return "\n".join(out + ["</body></html>\n"])


def write(options, state, failed):
    """All of them, each replaced as a whole."""
    cases = with_failed(summarize(state.runs), failed)
    texts = {"results.md": markdown(options, state, cases), "results.html": page(options, cases),
             "results.json": json.dumps({"settings": state.settings, "cases": cases,
                                         "runs": state.runs}, indent=1) + "\n"}
    for name, text in texts.items():
        replace(os.path.join(options.out, name), text)
    if options.svg:
        os.makedirs(options.svg, exist_ok=True)
        for name, svg in charts(cases):
            replace(os.path.join(options.svg, f"{name}.svg"), svg)
