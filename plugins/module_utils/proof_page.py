# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page that shows a proof: one HTML file that needs nothing else, with a time line as inline SVG."""

from __future__ import annotations

import html
import io
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

from ansible_collections.wsfleet.websockets.plugins.module_utils.proof import (
    CUT,
    Marks,
    Proof,
    change,
    clock,
    counted,
    duration,
    milliseconds,
    quantiles,
)

POINTS = 600  # at most, on the time line; more can't be told apart
LANES = 12  # hosts with a lane of their own for marks
SERVERS = 8  # with a colour of their own; the rest share the last

# The figure is drawn in these colours, which stand for variables of the page's style: light, dark. They are of the
# palette of Okabe and Ito, told apart also by the colour-blind, lighter where the page is dark.
STYLE = {
    "ink": ("#1d2630", "#e4e9ee"),
    "soft": ("#5b6875", "#9aa7b4"),
    "line": ("#d9dfe5", "#35404b"),
    "ground": ("#ffffff", "#14191f"),
    "span": ("#e6edf3", "#1f272f"),
    "good": ("#0072b2", "#56a9e0"),
    "bad": ("#d55e00", "#ff8a3d"),
    "slow": ("#e69f00", "#f0b429"),
    "other": ("#a5467a", "#dd8fbd"),
    "s0": ("#0072b2", "#4a9fd8"),
    "s1": ("#e69f00", "#e8b13c"),
    "s2": ("#009e73", "#2fbf95"),
    "s3": ("#cc79a7", "#dd97bf"),
    "s4": ("#56b4e9", "#8fd0f5"),
    "s5": ("#8a6d00", "#c9a93a"),
    "s6": ("#6a51a3", "#a596d6"),
    "s7": ("#7f8b96", "#8a96a2"),
}
COLOURS = {name: f"#00{index:02x}ff" for index, name in enumerate(STYLE)}
MARKERS = {  # marker, label, colour and place in the lane of each kind of mark
    "note": ("s", "note", "soft", 0),
    "drain": ("v", "drain begins", "slow", 0.2),
    "switch": ("D", "slot switched", "good", -0.2),
}

HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
body {{ margin: 0 auto; max-width: 64rem; padding: 1.5rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.2rem; font-weight: 600; margin: 0; color: var(--soft); }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; }}
.verdict {{ font-size: 1.9rem; font-weight: 700; line-height: 1.25; margin: .25rem 0 .5rem; }}
.kept .verdict::before {{ content: "✓ "; color: var(--good); }}
.broken .verdict::before {{ content: "✗ "; color: var(--bad); }}
ul {{ list-style: none; padding: 0; }}
li {{ margin: .3rem 0; padding-left: 1.5rem; text-indent: -1.5rem; }}
li::before {{ display: inline-block; width: 1.5rem; text-indent: 0; font-weight: 700; }}
li.kept::before {{ content: "✓"; color: var(--good); }}
li.broken::before {{ content: "✗"; color: var(--bad); }}
li.note::before {{ content: "!"; color: var(--slow); }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem 1.5rem .25rem 0;
  border-bottom: 1px solid var(--line); }}
th {{ color: var(--soft); font-weight: 500; }}
td.number, th.number {{ text-align: right; }}
.scroll {{ overflow-x: auto; }}
svg {{ display: block; width: 100%; height: auto; min-width: 40rem; }}
svg text {{ font-family: system-ui, sans-serif !important; }}
summary {{ cursor: pointer; }}
footer, .soft {{ color: var(--soft); }}
footer {{ margin-top: 2rem; font-size: .9rem; }}
</style>
</head>
"""

BODY = """\
<body class="{state}">
<h1>{title}</h1>
<p class="verdict">{headline}</p>
<p>{summary}</p>
<ul>
{promises}
</ul>
<h2>What clients saw</h2>
<div class="scroll">{figure}</div>
<h2>Handshakes</h2>
<div class="scroll">{phases}</div>
<h2>Everything else</h2>
<div class="scroll">{totals}</div>
{marks}
{problems}
<footer>{footer}</footer>
</body>
</html>
"""


def page(title: str, proof: Proof, marks: Marks, verdict: Mapping[str, Any]) -> str:
    """Return the page."""
    broken = len(verdict["broken"])
    totals = proof["totals"]
    headline = (
        f"{counted(broken, 'promise')} {'was' if broken == 1 else 'were'} broken"
        if broken
        else ("Every promise was kept")
    )
    summary = (
        f"{duration(proof['end'] - proof['begin'])} from {clock(proof['begin'])} on: "
        f"{counted(totals['attempts'], 'handshake')} by clients of {counted(len(proof['servers']), 'server')}, "
        f"{totals['failed']:,} failed; {counted(proof['held'], 'connection')} held. "
        f"The longest wait of a client was {milliseconds(totals['longest_wait_ms'])}."
    )
    items = [("kept" if promise["kept"] else "broken", promise) for promise in verdict["promises"]]
    promises = [
        f'<li class="{state}"><strong>{html.escape(promise["promise"])}.</strong> {html.escape(promise["detail"])}</li>'
        for state, promise in sorted(items, key=lambda item: item[0])
    ]
    promises += [f'<li class="note">{html.escape(note)}</li>' for note in verdict["notes"]]
    return head(title) + BODY.format(
        title=html.escape(title),
        state="broken" if broken else "kept",
        headline=f"{headline}.",
        summary=html.escape(summary),
        promises="\n".join(promises),
        figure=svg(proof, marks, f"{title}: {headline}. {summary}"),
        phases=phases_table(verdict["phases"]),
        totals=totals_table(totals),
        marks=marks_table(marks, proof["begin"]),
        problems=problems_table(totals["first_problems"], proof["begin"]),
        footer=html.escape(
            f"{counted(round(proof['rate']), 'handshake')} a second and {counted(proof['held'], 'held connection')} "
            f"were asked for. The clients used {totals['cpu_seconds']:g} s of processor time. "
            "Made by wsfleet.websockets.ws_report."
        ),
    )


def head(title: str) -> str:
    """Return what a page begins with, up to its body."""
    return HEAD.format(title=html.escape(title), light=style(0), dark=style(1))


def style(scheme: int) -> str:
    return " ".join(f"--{name}: {values[scheme]};" for name, values in STYLE.items())


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    """Return a table; with `numbers`, all columns but the first are aligned right."""

    def row(tag: str, cells: Sequence[str]) -> str:
        right = ' class="number"' if numbers else ""
        return "".join(
            f"<{tag}{right if index else ''}>{html.escape(cell)}</{tag}>" for index, cell in enumerate(cells)
        )

    body = "\n".join(f"<tr>{row('td', cells)}</tr>" for cells in rows)
    header = f"<thead><tr>{row('th', head)}</tr></thead>\n" if head else ""
    return f"<table>\n{header}<tbody>\n{body}\n</tbody>\n</table>"


def times(quantiles: Mapping[str, float] | None) -> list[str]:
    return [milliseconds((quantiles or {}).get(name)) for name in ("p50", "p99", "max")]


def phases_table(phases: Iterable[Mapping[str, Any]]) -> str:
    return table(
        ("", "attempted", "failed", "median", "99 % within", "slowest"),
        (
            (phase["phase"], f"{phase['attempts']:,}", f"{phase['failed']:,}", *times(phase["handshake_ms"]))
            for phase in phases
        ),
    )


def totals_table(totals: Mapping[str, Any]) -> str:
    unanswered = totals["unanswered"]
    rows = [("Messages back", f"{totals['echoes']:,} of {totals['messages']:,}", *times(totals["echo_ms"]))]
    rows += [
        (f"Messages unanswered, connection {how}", f"{unanswered[how]:,}", "", "", "") for how in unanswered
    ]
    rows += [("Reconnects", f"{totals['reconnects']:,}", *times(totals["reconnect_ms"]))]
    rows += [
        (f"Closed with {close['code']} {close['reason']}".rstrip(), f"{close['count']:,}", "", "", "")
        for close in totals["closes"]
    ]
    return table(("", "number", "median", "99 % within", "slowest"), rows)


def marks_table(marks: Marks, begin: float) -> str:
    if not marks:
        return ""
    rows = [
        (elapsed(mark["time"] - begin), mark["host"] or "", mark["kind"], mark["text"])
        for mark in sorted(marks, key=lambda mark: mark["time"])
    ]
    return (
        f"<details><summary>{counted(len(rows), 'mark')} of what was done when</summary>"
        f"{table(('at', 'host', 'kind', 'what'), rows, numbers=False)}</details>"
    )


def problems_table(problems: Sequence[Mapping[str, Any]], begin: float) -> str:
    if not problems:
        return ""
    rows = [(elapsed(problem["time"] - begin), problem["server"], problem["problem"]) for problem in problems]
    return "<h2>First problems of each kind</h2>\n" + table(("at", "server", "problem"), rows, numbers=False)


def elapsed(seconds: float, _position: object = None) -> str:
    sign = "-" if seconds < 0 else ""
    minutes, seconds = divmod(round(abs(seconds)), 60)
    return f"{sign}{minutes}:{seconds:02d}"


def svg(proof: Proof, marks: Marks, description: str) -> str:
    """Return the time line as an SVG element."""
    return render(lambda: draw(proof, marks), "Time line of the proof", description)


def render(draw: Callable[[], Figure], title: str, description: str) -> str:
    """Return a figure as an SVG element whose colours are variables of the page's style."""
    settings: Any = {
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": "wsfleet",  # the same proof gives the same page
        "font.family": "sans-serif",
        "text.parse_math": False,
    }
    with mpl.rc_context(settings):
        figure = draw()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path.group()), text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    head, _end, rest = text.partition(">")
    return (
        f'{head} role="img" aria-labelledby="timeline-title timeline-text">'
        f'<title id="timeline-title">{html.escape(title)}</title>'
        f'<desc id="timeline-text">{html.escape(description)}</desc>{rest}'
    )


class Steps:
    """The seconds that were watched in full, several together when there are more than can be told apart."""

    def __init__(self, proof: Proof) -> None:
        series = [second for second in proof["series"] if second["time"] + 1 <= proof["end"]]
        self.width = -(-len(series) // POINTS) or 1
        self.parts = [series[index : index + self.width] for index in range(0, len(series), self.width)]
        self.begin = int(proof["begin"])
        self.moments = [part[0]["time"] - self.begin for part in self.parts]

    def sums(self, number: Callable[[Mapping[str, Any]], float]) -> list[float]:
        """Return a number of each second, as the average of each step."""
        return [sum(map(number, part)) / len(part) for part in self.parts]

    def area(self, axes: Axes, low: Sequence[float], high: Sequence[float], **style: Any) -> None:
        """Fill between two numbers of each step, to the end of the last one."""
        if self.parts:
            axes.fill_between(
                [*self.moments, self.moments[-1] + self.width],
                [*low, low[-1]],
                [*high, high[-1]],
                step="post",
                linewidth=0,
                **style,
            )

    def crosses(self, axes: Axes, heights: Sequence[float], **style: Any) -> None:
        """Mark the steps that have any, which must be seen however few they are."""
        some = [
            (moment + self.width / 2, height)
            for moment, height in zip(self.moments, heights, strict=True)
            if height
        ]
        if some:
            axes.plot(
                *zip(*some, strict=True),
                "X",
                color=COLOURS["bad"],
                markersize=6,
                markeredgewidth=0,
                clip_on=False,
                **style,
            )


def draw(proof: Proof, marks: Marks) -> Figure:
    """Draw the time line: marks, handshakes, their latency, held connections, closes, over one axis of time."""
    hosts = list(dict.fromkeys(mark["host"] for mark in marks if mark["host"]))[:LANES]
    ratios = [0.3 + 0.24 * len(hosts), 1.5, 1.5, 1.5, 1.2]
    figure = Figure(figsize=(10, sum(ratios) + 1.8), layout="constrained")
    panels = figure.subplots(len(ratios), 1, sharex=True, gridspec_kw={"height_ratios": ratios})
    events, rate, latency, held, closed = panels
    steps = Steps(proof)
    draw_rate(rate, steps)
    draw_latency(latency, steps)
    draw_held(held, steps, short(proof["servers"]))
    draw_closes(closed, steps)
    draw_marks(events, panels, hosts, marks, steps.begin)
    for axes, title in (
        (events, "Done on each host" if hosts else ""),
        (rate, "Handshakes a second"),
        (latency, "Milliseconds to connect"),
        (held, "Held connections open, by server"),
        (closed, "Closes a second, by code"),
    ):
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=COLOURS["ink"])
        axes.grid(axis="y", color=COLOURS["line"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.patch.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=COLOURS["soft"], length=0, labelsize=9, pad=6)
        legend(axes)
    closed.spines["bottom"].set(visible=True, color=COLOURS["soft"])
    closed.set_xlim(0, max(1, proof["end"] - steps.begin))
    closed.xaxis.set_major_formatter(FuncFormatter(elapsed))
    closed.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 3, 6, 10], integer=True))
    closed.set_xlabel(f"minutes:seconds since {clock(steps.begin)}", color=COLOURS["soft"], fontsize=9)
    return figure


def legend(axes: Axes) -> None:
    """Put the legend to the right, in the order in which areas lie on each other."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles[::-1],
            labels[::-1],
            loc="upper left",
            bbox_to_anchor=(1, 1),
            frameon=False,
            fontsize=9,
            labelcolor=COLOURS["ink"],
            borderpad=0,
            handlelength=1.2,
            labelspacing=0.3,
        )


def short(names: Sequence[str]) -> list[str]:
    """Return the names without the domain that all have in common."""
    domains = {name.partition(".")[2] for name in names}
    labels = [name.partition(".")[0] for name in names]
    common = len(domains) == 1 and not labels[0].isdecimal() and len(set(labels)) == len(labels) > 1
    return labels if common else list(names)


def draw_rate(axes: Axes, steps: Steps) -> None:
    bad = steps.sums(lambda second: sum(second["failures"].values()))
    good = steps.sums(lambda second: second["attempts"] - sum(second["failures"].values()))
    steps.area(axes, [0] * len(good), good, color=COLOURS["good"], alpha=0.45, label="succeeded")
    if any(bad):
        steps.area(axes, [0] * len(bad), bad, color=COLOURS["bad"])
        steps.crosses(axes, bad, label="failed")
    axes.set_ylim(0, 1.1 * max([1, *good, *bad]))


def draw_latency(axes: Axes, steps: Steps) -> None:
    ranked = [
        quantiles(value for second in part for value in second["handshakes_ms"]) for part in steps.parts
    ]
    middles = [moment + steps.width / 2 for moment in steps.moments]
    for name, label, colour, width in (("p50", "median", "good", 1.5), ("p99", "99 % within", "slow", 1.2)):
        values = [found[name] if found else float("nan") for found in ranked]
        axes.plot(middles, values, color=COLOURS[colour], linewidth=width, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.minorticks_off()


def draw_held(axes: Axes, steps: Steps, names: Sequence[str]) -> None:
    servers = [(name, [part[-1]["open"] for part in steps.parts], index) for index, name in enumerate(names)]
    columns = [
        (name, [float(numbers[index]) if numbers else 0.0 for numbers in opened])
        for name, opened, index in servers
    ]
    if len(columns) > SERVERS:
        rest = [column for _name, column in columns[SERVERS - 1 :]]
        total = [sum(numbers) for numbers in zip(*rest, strict=True)]
        columns = [*columns[: SERVERS - 1], (f"{len(rest)} others", total)]
    below = [0.0] * len(steps.parts)
    for index, (name, column) in enumerate(columns):
        above = [low + high for low, high in zip(below, column, strict=True)]
        steps.area(axes, below, above, color=COLOURS[f"s{index}"], alpha=0.75, label=name)
        below = above
    axes.set_ylim(0, 1.1 * max([1, *below]))


def closes(code: str, second: Mapping[str, Any]) -> float:
    """How many connections were closed with the code in a second."""
    return float(second["closes"].get(code, 0))


def draw_closes(axes: Axes, steps: Steps) -> None:
    codes = sorted({code for part in steps.parts for second in part for code in second["closes"]}, key=int)
    below = [0.0] * len(steps.parts)
    for code in codes:
        heights = steps.sums(partial(closes, code))
        above = [low + high for low, high in zip(below, heights, strict=True)]
        cut = code == str(CUT)
        colour = {"1001": "good", "1012": "s2", str(CUT): "bad"}.get(code, "other")
        steps.area(axes, below, above, color=COLOURS[colour], label=f"{code}, cut" if cut else code)
        if cut:
            tops = [top if height else 0 for top, height in zip(above, heights, strict=True)]
            steps.crosses(axes, tops)
        below = above
    if not codes:
        axes.text(0.5, 0.4, "none", transform=axes.transAxes, ha="center", fontsize=9, color=COLOURS["soft"])
    axes.set_ylim(0, 1.1 * max([1, *below]))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def draw_marks(events: Axes, panels: Sequence[Axes], hosts: Sequence[str], marks: Marks, origin: int) -> None:
    """Draw what was done when: a lane for each host; through all panels the change, and where slots were switched."""
    begin, end = change(marks)
    if begin is not None and end is not None:
        for axes in panels:
            axes.axvspan(
                begin - origin,
                end - origin,
                color=COLOURS["span"],
                linewidth=0,
                zorder=0,
                label="the change" if axes is events else None,
            )
    for kind, (marker, label, colour, shift) in MARKERS.items():
        points = [
            (mark["time"] - origin, hosts.index(mark["host"]) + shift)
            for mark in marks
            if mark["kind"] == kind and mark["host"] in hosts
        ]
        if points:
            events.plot(
                *zip(*points, strict=True),
                marker,
                label=label,
                markersize=5,
                markeredgewidth=0,
                color=COLOURS[colour],
                clip_on=False,
            )
    switches = [mark["time"] - origin for mark in marks if mark["kind"] == "switch"]
    for axes in panels[1:]:
        for moment in switches:
            axes.axvline(moment, color=COLOURS["soft"], linewidth=0.6, alpha=min(0.6, 10 / len(switches)))
    events.set_yticks(range(len(hosts)), short(hosts))
    events.set_ylim(max(1, len(hosts)) - 0.5, -0.5)
