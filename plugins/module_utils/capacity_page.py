# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page that shows what a server carries: one HTML file that needs nothing else, with plots as inline SVG."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.wsfleet.websockets.plugins.module_utils.proof_page import (
    COLOURS,
    IMPORT_ERROR,
    head,
    legend,
    milliseconds,
    render,
    table,
)

if not IMPORT_ERROR:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

__all__ = ["IMPORT_ERROR", "page"]

Stage = Mapping[str, Any]

BODY = """\
<body>
<h1>{title}</h1>
<p class="verdict">{headline}</p>
<ul>
{sentences}
</ul>
<h2>{plan_title}</h2>
{plan}
<h2>Stages</h2>
<div class="scroll">{figure}</div>
<div class="scroll">{stages}</div>
<h2>Figures of the server</h2>
<div class="scroll">{figures}</div>
<footer>{footer}</footer>
</body>
</html>
"""

MODES = {"play": "plays", "hold": "quiet", "knock": "handshakes"}
UNITS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "processes": ("Server processes", str),
    "processors": ("Processors", str),
    "connections": ("Connections", lambda value: f"{value:,}"),
    "messages_per_second": ("Messages a second", lambda value: f"{value:,.0f}"),
    "handshakes_per_second": ("Handshakes a second", lambda value: f"{value:,.0f}"),
    "memory_bytes": ("Memory for app and router", lambda value: f"{value / 2**20:,.0f} MiB"),
    "memory_bytes_per_process": (
        "Memory of a process without connections",
        lambda value: f"{value / 2**20:,.1f} MiB",
    ),
    "memory_bytes_per_connection": ("Memory of a connection", lambda value: f"{value / 2**10:,.1f} KiB"),
    "app_cpu_us_per_message": ("Processor time of a message in the app", lambda value: f"{value:g} µs"),
    "router_cpu_us_per_message": ("Processor time of a message in the router", lambda value: f"{value:g} µs"),
    "generator_cpu_us_per_message": (
        "Processor time of a message in the load generator",
        lambda value: f"{value:g} µs",
    ),
}


def page(title: str, report: Mapping[str, Any]) -> str:
    """Return the page."""
    figures, plan = report["figures"], report["plan"]
    stages = [*report["play"], *report["hold"]]
    headline = (
        f"{figures['messages_per_second']:,.0f} messages/s, {figures['connections']:,} connections, "
        f"{figures['processes']} processes"
    )
    limits = report["limits"]
    start: str = head(title)
    return start + BODY.format(
        title=html.escape(title),
        headline=html.escape(headline),
        sentences="\n".join(f'<li class="note">{html.escape(text)}</li>' for text in report["sentences"]),
        plan_title=html.escape(plan_title(report)),
        plan=f"<pre>{html.escape(report['plan_text'])}</pre>"
        if plan
        else f"<p>{html.escape(report['plan_text'])}</p>",
        figure=render(lambda: draw(report["play"], stages, limits), title, headline),
        stages=stages_table([*([report["knock"]] if report["knock"] else []), *stages]),
        figures=table(
            ("", ""),
            [
                (label, show(figures[name]))
                for name, (label, show) in UNITS.items()
                if figures[name] is not None
            ],
        ),
        footer=html.escape(
            f"A stage is good when 99 % of the answers take at most {limits['p99_ms']:g} ms, event loops are "
            f"at most {limits['lag_ms']:g} ms late, and at most 1 client in 1,000 fails. "
            "Made by wsfleet.websockets.ws_capacity."
        ),
    )


def plan_title(report: Mapping[str, Any]) -> str:
    wanted = report["wanted"]
    return (
        f"Plan for {wanted['connections']:,} connections and {wanted['messages_per_second']:,.0f} messages/s, "
        f"{wanted['headroom_percent']:g} % headroom, {wanted['spare_servers']} "
        f"server{'' if wanted['spare_servers'] == 1 else 's'} down"
    )


def stages_table(stages: Sequence[Stage]) -> str:
    rows = []
    for stage in stages:
        load, host = stage["load"], stage["host"]
        times = load["handshake_ms"] if load["mode"] == "knock" else load["answer_ms"]
        rows.append(
            (
                MODES[load["mode"]],
                f"{load['connections']:,}",
                f"{load['failed_clients']:,}",
                f"{load['handshakes_per_second'] or load['messages_per_second']:,.0f}",
                milliseconds((times or {}).get("p50")),
                milliseconds((times or {}).get("p99")),
                milliseconds(host["lag_ms"]) if host["lag_ms"] is not None else "not known",
                f"{host['app']['busiest_percent']:.0f} %",
                f"{host['router']['busiest_percent']:.0f} %",
                f"{load['generator']['cpu_percent']:.0f} %",
                "; ".join(stage["passed"]) or "good",
            )
        )
    shown: str = table(
        (
            "clients",
            "number",
            "failed",
            "a second",
            "median",
            "99 % within",
            "lag",
            "app",
            "router",
            "generator",
            "",
        ),
        rows,
    )
    return shown


def draw(play: Sequence[Stage], stages: Sequence[Stage], limits: Mapping[str, float]) -> Figure:
    """Draw latency, messages and processors over the connections that play, and memory over all."""
    play = sorted(play, key=connections)
    stages = sorted(stages, key=connections)
    figure = Figure(figsize=(10, 9), layout="constrained")
    latency, rate, cpu, memory = figure.subplots(4, 1)
    line(latency, play, ("load", "answer_ms", "p50"), "median", "good")
    line(latency, play, ("load", "answer_ms", "p99"), "99 % within", "slow")
    line(latency, play, ("host", "lag_ms"), "event loop", "other")
    latency.axhline(
        limits["p99_ms"], color=COLOURS["bad"], linewidth=1, linestyle="--", label="limit of 99 %"
    )
    latency.set_yscale("log")
    latency.yaxis.set_major_locator(LogLocator())
    latency.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    latency.minorticks_off()
    line(rate, play, ("load", "messages_per_second"), "sent", "good")
    line(rate, play, ("load", "answers_per_second"), "answered", "s2")
    for part, colour in (("app", "good"), ("router", "slow")):
        line(cpu, play, ("host", part, "busiest_percent"), part, colour)
        line(memory, stages, ("host", part, "memory_bytes"), part, colour, 2**20)
    line(cpu, play, ("load", "generator", "cpu_percent"), "generator", "soft")
    for axes, title in (
        (latency, "Milliseconds to answer, by connections"),
        (rate, "Messages a second"),
        (cpu, "Percent of a processor, of the busiest process"),
        (memory, "MiB of memory, quiet connections too"),
    ):
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=COLOURS["ink"])
        axes.grid(color=COLOURS["line"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.patch.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=COLOURS["soft"], length=0, labelsize=9, pad=6)
        axes.set_xlim(left=0)
        legend(axes)
    for axes in (rate, cpu, memory):
        axes.set_ylim(bottom=0)
    return figure


def connections(stage: Stage) -> int:
    return int(stage["load"]["connections"])


def line(
    axes: Axes, stages: Sequence[Stage], path: Sequence[str], label: str, colour: str, unit: float = 1
) -> None:
    """Draw what the stages have at `path`, over their connections."""
    points = []
    for stage in stages:
        value: Any = stage
        for name in path:
            value = value and value.get(name)
        if value is not None:
            points.append((connections(stage), value / unit))
    if points:
        axes.plot(
            *zip(*points, strict=True), "o-", color=COLOURS[colour], linewidth=1.5, markersize=4, label=label
        )
