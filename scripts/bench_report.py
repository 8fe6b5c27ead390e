# SPDX-License-Identifier: BSD-3-Clause
"""
What bench.py has measured, as Markdown, JSON, and a page of its own with bars. Ratios are those of
medians: to the ceiling, and of Pollux to the best of the other servers.
"""

import html
import json
import os
import statistics
import time

COLOURS = {"ceiling": "#999", "pollux": "#2b7bba"}
OTHER = "#d9781e"
OURS, CEILING = "pollux", "ceiling"


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


def summary(group, case, servers):
    told = {}
    for name, runs in servers.items():
        iops = [run["iops"] for run in runs]
        told[name] = {key: median(runs, key) for key in
                      ("iops", "p50_ns", "p99_ns", "p999_ns", "max_ns", "server_us",
                       "client_cores", "unsent")}
        told[name].update(rounds=len(runs), iops_min=min(iops), iops_max=max(iops))
    peers = {name: values["iops"] for name, values in told.items() if name not in (OURS, CEILING)}
    best = max(peers, key=peers.get) if peers else None
    ours = told.get(OURS, {}).get("iops")
    for values in told.values():
        if CEILING in told and told[CEILING]["iops"]:
            values["to_ceiling"] = values["iops"] / told[CEILING]["iops"]
    ratio = ours / peers[best] if ours and best and peers[best] else None
    return {"group": group, "case": case, "servers": told, "best_peer": best,
            "to_best_peer": ratio}


def number(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def markdown(options, cases):
    lines = ["# Benchmark", "",
             f"{time.strftime('%Y-%m-%d')}, {os.uname().release}, {os.cpu_count()} CPUs; servers "
             f"on core {options.server_core}, load on core {options.client_core}; medians of "
             f"{options.rounds} rounds of {options.seconds:g} s, interleaved, TCP loopback.", "",
             "A case is CONNECTIONS:DEPTH:BLOCK:KIND. Spread: the lowest and highest round. CPU: "
             "user and system time of the server a request."]
    group = None
    for entry in cases:
        if entry["group"] != group:
            group = entry["group"]
            lines += ["", f"## {group}", "",
                      "| case | server | thousand IOPS | spread | to the ceiling | p50 us | p99 us "
                      "| p99.9 us | CPU us |", "|---|---|---|---|---|---|---|---|---|"]
        for name, values in entry["servers"].items():
            lines.append(
                f"| {entry['case']} | {name} | {values['iops'] / 1e3:.1f} "
                f"| {values['iops_min'] / 1e3:.1f}-{values['iops_max'] / 1e3:.1f} "
                f"| {number(values.get('to_ceiling'))} | {values['p50_ns'] / 1e3:.1f} "
                f"| {values['p99_ns'] / 1e3:.1f} | {values['p999_ns'] / 1e3:.1f} "
                f"| {values['server_us']:.2f} |")
    lines += ["", "## Pollux and the best of the others", "",
              "| backing | case | best other | Pollux to it |", "|---|---|---|---|"]
    lines += [f"| {entry['group']} | {entry['case']} | {entry['best_peer']} "
              f"| {number(entry['to_best_peer'])} |" for entry in cases if entry["best_peer"]]
    return "\n".join(lines) + "\n"


HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><title>Benchmark</title><style>
:root { color-scheme: light dark; }
body { font: 15px/1.4 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
svg { width: 100%; height: auto; } text { font: 12px sans-serif; fill: currentColor; }
</style></head><body>
"""


def bars(entry):
    """One case: a bar for each server, longest first."""
    servers = sorted(entry["servers"].items(), key=lambda item: -item[1]["iops"])
    most = max(values["iops"] for _, values in servers) or 1
    out = [f'<svg viewBox="0 0 900 {len(servers) * 24 + 4}" role="img">']
    for row, (name, values) in enumerate(servers):
        y, width = row * 24, 560 * values["iops"] / most
        ratio = f", {values['to_ceiling']:.2f} of the ceiling" if "to_ceiling" in values else ""
        low, high = 150 + 560 * values["iops_min"] / most, 150 + 560 * values["iops_max"] / most
        out.append(
            f'<text x="142" y="{y + 16}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="150" y="{y + 3}" width="{width:.1f}" height="18" '
            f'fill="{COLOURS.get(name, OTHER)}"/>'
            f'<line x1="{low:.1f}" x2="{min(high, 890):.1f}" y1="{y + 12}" y2="{y + 12}" '
            f'stroke="currentColor"/>'
            f'<text x="{158 + width:.1f}" y="{y + 16}">{values["iops"] / 1e3:.1f} k{ratio}</text>')
    return "\n".join(out + ["</svg>"])


def page(options, cases):
    out = [HEAD, "<h1>Benchmark</h1>",
           f"<p>Thousand IOPS, medians of {options.rounds} rounds; the thin line is the "
           f"spread.</p>"]
    for entry in cases:
        ratio = (f": Pollux {entry['to_best_peer']:.2f} times {html.escape(entry['best_peer'])}"
                 if entry["to_best_peer"] else "")
        out += [f"<h3>{html.escape(entry['group'])}, {html.escape(entry['case'])}{ratio}</h3>",
                bars(entry)]
    return "\n".join(out + ["</body></html>\n"])


def write(options, runs):
    """All three, each replaced as a whole."""
    cases = summarize(runs)
    texts = {"results.md": markdown(options, cases), "results.html": page(options, cases),
             "results.json": json.dumps({"cases": cases, "runs": runs}, indent=1) + "\n"}
    for name, text in texts.items():
        path = os.path.join(options.out, name)
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(path + ".new", path)
