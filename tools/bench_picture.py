# SPDX-License-Identifier: GPL-3.0-or-later
"""One picture of two proofs: what clients see of an upgrade here, and of the usual restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Proof = Mapping[str, Any]  # what ws_report writes, with its series

ROWS = (
    ("connections\nheld open", "#0b6e4f", "open"),
    ("closed\nper second", "#b3541e", "closes"),
    ("handshakes failed\nper second", "#c1121f", "failures"),
    ("reconnects\nper second", "#33658a", "reconnects"),
)


BEFORE = 5  # seconds to show


def total(value: Any) -> int:
    """The sum of a list's or a dict's numbers; a number is its own."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(value) if isinstance(value, list) else int(value)


def draw(file: Path, proofs: Sequence[tuple[str, Proof]]) -> None:
    """Draw the proofs side by side, second by second, on the same scales, as SVG."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "wsfleet", "font.size": 9}):
        figure = Figure(figsize=(10, 6.4), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        axes = figure.subplots(len(ROWS), len(proofs), sharex="col", sharey="row", squeeze=False)
        for column, (title, proof) in enumerate(proofs):
            marks = {mark["kind"]: mark["time"] for mark in proof["marks"]}
            begin, end = marks["begin"], marks.get("end", marks["begin"])
            limits = -BEFORE, max(second["time"] for second in proof["series"]) - begin
            times = [second["time"] - begin for second in proof["series"]]
            for (label, color, name), axis in zip(ROWS, axes[:, column], strict=True):
                values = [total(second[name]) for second in proof["series"]]
                axis.fill_between(times, values, step="post", color=color, alpha=0.35, linewidth=0)
                axis.step(times, values, where="post", color=color, linewidth=1.4)
                axis.axvspan(0, end - begin, color="#888888", alpha=0.12, linewidth=0)
                axis.set_xlim(*limits)
                axis.set_ylim(
                    0, 1.1 * max(1, *(total(s[name]) for _title, other in proofs for s in other["series"]))
                )
                axis.spines[["top", "right"]].set_visible(False)
                if column == 0:
                    axis.set_ylabel(label)
            axes[0, column].set_title(title)
            axes[-1, column].set_xlabel("seconds since the change began (shaded: while it lasts)")
        figure.savefig(file, metadata={"Date": None})
