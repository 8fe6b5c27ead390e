# SPDX-License-Identifier: BSD-3-Clause
"""
Charts as SVG, each readable by itself in light and in dark surroundings: bars along an axis with
its unit, in groups, and lines. bench_report.py and gen_charts.py say what is in them.
"""

import html
import math

WIDTH, LEFT, RIGHT = 760, 210, 210  # the labels are left of the bars, the figures right of them
ROW, BAR, HEADING = 22, 15, 26
PLOT_HEIGHT = 260
KINDS = ["pollux", "ceiling", "other", "model"]

STYLE = """<style>
.back { fill: #ffffff; } .grid { stroke: #d0d7de; stroke-width: 1; }
text { font: 12px sans-serif; fill: #1f2328; } .title { font: bold 14px sans-serif; }
.axis { fill: #57606a; } .spread { stroke: #1f2328; stroke-width: 1.2; }
.pollux { fill: #2b7bba; } .ceiling { fill: #8c959f; } .other { fill: #d9781e; }
.model { fill: #6e4fb5; } .line { stroke-width: 2; fill: none; }
.line.pollux { stroke: #2b7bba; fill: none; } .line.ceiling { stroke: #8c959f; fill: none; }
.line.other { stroke: #d9781e; fill: none; }
.line.model { stroke: #6e4fb5; stroke-dasharray: 5 4; fill: none; }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117; } .grid { stroke: #30363d; } text { fill: #e6edf3; }
.axis { fill: #9da7b3; } .spread { stroke: #e6edf3; }
.pollux { fill: #4c9fe0; } .ceiling { fill: #6e7681; } .other { fill: #e8954a; }
.model { fill: #a58be0; } .line.pollux { stroke: #4c9fe0; } .line.ceiling { stroke: #8b949e; }
.line.other { stroke: #e8954a; } .line.model { stroke: #a58be0; }
}
</style>"""


def kind_of(server):
    return server if server in ("pollux", "ceiling") else "other"


def figure(value):
    """Three digits, of any size."""
    if value >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - int(math.floor(math.log10(value)))) if value > 0 else 0
    text = f"{value:.{min(digits, 3)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def steps(most):
    """Where an axis from 0 has its marks."""
    raw = (most or 1) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(unit * power for unit in (1, 2, 2.5, 5, 10) if unit * power >= raw)
    return [step * number for number in range(int(math.ceil((most or 1) / step - 1e-9)) + 1)]


class Axis:
    """From a value to a place; linear from 0, or by powers of ten."""

    def __init__(self, values, begin, end, log=False):
        self.begin, self.end, self.log = begin, end, log
        known = [value for value in values if value > 0] or [1]
        if log:
            first = math.floor(math.log10(min(known) / 1.5))
            last = max(first + 1, math.ceil(math.log10(max(known))))
            self.marks = [10.0 ** power for power in range(first, last + 1)]
        else:
            self.marks = steps(max(known))

    def place(self, value):
        if self.log:
            first, last = (math.log10(mark) for mark in (self.marks[0], self.marks[-1]))
            share = (math.log10(max(value, self.marks[0])) - first) / (last - first)
        else:
            share = value / self.marks[-1]
        return self.begin + (self.end - self.begin) * share


def text(x, y, words, anchor="start", kind=""):
    cls = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{cls}>{html.escape(words)}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def document(title, height, parts):
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img" aria-label="{html.escape(title)}">')
    return "\n".join([head, STYLE, f'<rect class="back" width="{WIDTH}" height="{height}"/>',
                      text(12, 22, title, kind="title"), *parts, "</svg>\n"])


def key(entries, y):
    """Which colour is what: [(kind, words)]."""
    parts, x = [], 12
    for kind, words in entries:
        parts += [f'<rect class="{kind}" x="{x}" y="{y - 10}" width="11" height="11"/>',
                  text(x + 16, y, words)]
        x += 40 + 7 * len(words)
    return parts


def bars(title, unit, groups, legend=(), log=False, mark=None):
    """
    groups: [(heading or "", [{label, kind, value, text, low?, high?}])]. low and high are the
    spread, drawn as a thin line; mark is a value with a line of its own, as 1.0 of a ratio.
    """
    rows = [row for _, members in groups for row in members]
    ends = [value for row in rows for value in (row["value"], row.get("high", 0))]
    axis = Axis(ends + [mark or 0], LEFT, WIDTH - RIGHT, log)
    top = 36 + (22 if legend else 0)
    height = top + sum(len(members) * ROW + (HEADING if heading else 8)
                       for heading, members in groups) + 46
    bottom = height - 40
    parts = key(legend, 46) if legend else []
    for value in axis.marks:
        x = axis.place(value)
        parts += [line(x, top, x, bottom, "grid"),
                  text(x, bottom + 16, figure(value), "middle", "axis")]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 33, unit, "middle", "axis"))
    y = top
    for heading, members in groups:
        if heading:
            parts.append(text(12, y + 18, heading, kind="axis"))
        y += HEADING if heading else 8
        for row in members:
            parts += bar(axis, row, y, mark)
            y += ROW
    if mark is not None:
        parts.append(line(axis.place(mark), top, axis.place(mark), bottom, "spread"))
    return document(title, height, parts)


def bar(axis, row, y, mark):
    end = max(axis.place(row["value"]), LEFT + 1)
    middle, right = y + BAR / 2 + 2, end
    parts = [text(LEFT - 8, middle + 4, row["label"], "end"),
             f'<rect class="{row["kind"]}" x="{LEFT}" y="{y + 2}" width="{end - LEFT:.1f}" '
             f'height="{BAR}"/>']
    if row.get("high"):
        low, high = axis.place(row["low"]), axis.place(row["high"])
        parts.append(line(low, middle, high, middle, "spread"))
        right = max(end, high)
    if mark is not None and right <= axis.place(mark):
        right = max(right, axis.place(mark))  # the figure does not stand on that line
    return parts + [text(right + 7, middle + 4, row["text"])]


def lines(title, across, up, series, log2=True):
    """series: [(name, kind, [(x, y)])]; across and up name the axes, with their units."""
    points = [point for _, _, some in series for point in some]
    left, right, top, bottom = 70, WIDTH - 30, 66, 66 + PLOT_HEIGHT
    axis = Axis([y for _, y in points], bottom, top)
    place = (lambda x: math.log2(x)) if log2 else (lambda x: x)
    first, last = place(min(x for x, _ in points)), place(max(x for x, _ in points))

    def at(x):
        return left + 20 + (right - left - 40) * (place(x) - first) / ((last - first) or 1)

    parts = key([(kind, name) for name, kind, _ in series], 46)
    for value in axis.marks:
        y = axis.place(value)
        parts += [line(left, y, right, y, "grid"), text(left - 8, y + 4, figure(value), "end",
                                                        "axis")]
    for x in sorted({x for x, _ in points}):
        parts.append(text(at(x), bottom + 18, figure(x), "middle", "axis"))
    parts.append(text((left + right) / 2, bottom + 38, across, "middle", "axis"))
    parts.append(f'<text class="axis" text-anchor="middle" transform="translate(18 '
                 f'{(top + bottom) / 2:.0f}) rotate(-90)">{html.escape(up)}</text>')
    for _, kind, some in series:
        path = " ".join(f"{at(x):.1f},{axis.place(y):.1f}" for x, y in sorted(some))
        parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        parts += [f'<circle class="{kind}" cx="{at(x):.1f}" cy="{axis.place(y):.1f}" r="4"/>'
                  for x, y in some]
    return document(title, bottom + 52, parts)
