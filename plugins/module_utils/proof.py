# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict on a proof: which promises a change has kept, by what ws_prove recorded."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

Proof = Mapping[str, Any]
Marks = Sequence[Mapping[str, Any]]

CUT = 1006  # the close code that stands for no close frame
GAP = 5  # seconds without an attempt after which what happened in them isn't known


def judge(proof: Proof, marks: Marks, expected_codes: Sequence[int]) -> dict[str, Any]:
    """Return the promises, a sentence for each that was broken, notes, and the handshakes of each phase."""
    promises = [
        {"promise": promise, "kept": not broken, "detail": broken or detail}
        for promise, broken, detail in (
            coverage(proof, marks),
            handshakes(proof),
            cuts(proof),
            codes(proof, expected_codes),
            *((echoes(proof), answers(proof)) if proof["echo"] else ()),
        )
    ]
    return {
        "promises": promises,
        "broken": [promise["detail"] for promise in promises if not promise["kept"]],
        "notes": list(notes(proof)),
        "phases": phases(proof, marks),
    }


# Each promise: what it is, the sentence that says how it was broken or "", and the one that says how it was kept.
Promise = tuple[str, str, str]


def coverage(proof: Proof, marks: Marks) -> Promise:
    broken = ""
    begin, end = change(marks)
    if not proof["totals"]["attempts"]:
        broken = "No client attempted anything, so nothing is proved."
    elif begin is not None and begin < proof["begin"]:
        broken = f"The change began {duration(proof['begin'] - begin)} before the clients did."
    elif end is not None and end > proof["end"]:
        broken = f"The change went on for {duration(end - proof['end'])} after the clients had stopped."
    elif proof["rate"]:
        moments = [second["time"] for second in proof["series"] if second["attempts"]]
        gap, moment = max((after - before, before) for before, after in pairwise([*moments, proof["end"]]))
        if gap > max(GAP, 2 / proof["rate"]):
            broken = f"No client tried for {duration(gap)} from {clock(moment)} on."
    watched = duration(proof["end"] - proof["begin"])
    return "Clients tried all the time", broken, f"Clients tried for {watched}."


def handshakes(proof: Proof) -> Promise:
    totals = proof["totals"]
    broken = ""
    if totals["failed"]:
        broken = (
            f"{totals['failed']:,} of {counted(totals['attempts'], 'handshake')} failed: "
            f"{listed(totals['failures'])}{first(proof, totals['failures'])}."
        )
    return "No handshake fails", broken, f"{counted(totals['attempts'], 'handshake')}, none failed."


def cuts(proof: Proof) -> Promise:
    count = closes(proof).get(CUT, 0)
    cut = f"{counted(count, 'connection')} {was(count)} cut without a close frame ({CUT})"
    broken = f"{cut}{first(proof, ['cut connection'])}." if count else ""
    return "No connection is cut", broken, "No connection was cut."


def codes(proof: Proof, expected: Sequence[int]) -> Promise:
    others = {code: count for code, count in closes(proof).items() if code not in (*expected, CUT)}
    announced = {code: count for code, count in closes(proof).items() if code in expected}
    allowed = " or ".join(map(str, expected))
    broken = f"Connections were closed with another code than {allowed}: {listed(others)}." if others else ""
    detail = f"Closed connections: {listed(announced)}." if announced else "No connection was closed."
    return f"Connections are closed with {allowed} only", broken, detail


def echoes(proof: Proof) -> Promise:
    totals = proof["totals"]
    faults = {name: totals[name] for name in ("wrong", "doubled", "reordered") if totals[name]}
    where = first(proof, [f"{name} echo" for name in faults])
    broken = f"Messages came back not as they were sent: {listed(faults)}{where}." if faults else ""
    detail = f"{counted(totals['echoes'], 'message')} came back, each once and in order."
    return "Every message comes back right", broken, detail


def answers(proof: Proof) -> Promise:
    unanswered = proof["totals"]["unanswered"]
    lost = {how: unanswered[how] for how in ("cut", "open") if unanswered[how]}
    count = sum(lost.values())
    where = first(proof, [f"unanswered message, connection {how}" for how in lost])
    broken = (
        f"{counted(count, 'message')} {was(count)} never answered: connection {listed(lost)}{where}."
        if lost
        else ""
    )
    detail = f"{counted(proof['totals']['messages'], 'message')} sent, none lost with its connection."
    if unanswered["closed"]:
        detail += (
            f" {unanswered['closed']:,} {was(unanswered['closed'])} on the way "
            "when the server closed the connection, of which the client was told."
        )
    return "No message is lost with its connection", broken, detail


def notes(proof: Proof) -> Iterable[str]:
    late = proof["totals"]["late"]
    if late["seconds"] or late["skipped"]:
        skipped = f", and {counted(late['skipped'], 'handshake')} {was(late['skipped'])} skipped" * bool(
            late["skipped"]
        )
        yield (
            f"The clients' own machine was too busy: they were up to {milliseconds(late['max_ms'])} late in "
            f"{counted(late['seconds'], 'second')}{skipped}. What they measured includes that."
        )
    if not proof["echo"]:
        yield "The app doesn't echo, so whether messages were answered isn't known."


def phases(proof: Proof, marks: Marks) -> list[dict[str, Any]]:
    """Return the handshakes before, during and after the change, as far as marks say when that was."""
    begin, end = change(marks)
    seconds: dict[str, list[Mapping[str, Any]]] = {}
    for second in proof["series"]:
        if begin is None or end is None:
            name = "all the time"
        elif second["time"] + 1 <= begin:
            name = "before"
        else:
            name = "during" if second["time"] < end else "after"
        seconds.setdefault(name, []).append(second)
    return [
        {
            "phase": name,
            "attempts": sum(second["attempts"] for second in part),
            "failed": sum(sum(second["failures"].values()) for second in part),
            "handshake_ms": quantiles(value for second in part for value in second["handshakes_ms"]),
        }
        for name, part in seconds.items()
    ]


def change(marks: Marks) -> tuple[float | None, float | None]:
    """Return when the change began and ended, by the marks."""
    begins = [mark["time"] for mark in marks if mark["kind"] == "begin"]
    ends = [mark["time"] for mark in marks if mark["kind"] == "end"]
    return min(begins, default=None), max(ends, default=None)


def closes(proof: Proof) -> dict[int, int]:
    """Return the number of closes by code."""
    counts: dict[int, int] = {}
    for close in proof["totals"]["closes"]:
        counts[close["code"]] = counts.get(close["code"], 0) + close["count"]
    return counts


def first(proof: Proof, kinds: Iterable[str]) -> str:
    """Return the time and place of the first problem of these kinds, as the end of a sentence."""
    wanted = set(kinds)
    for problem in proof["totals"]["first_problems"]:
        if problem["problem"] in wanted:
            return f"; the first at {clock(problem['time'])}, {problem['server']}"
    return ""


def listed(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def was(count: int) -> str:
    return "was" if count == 1 else "were"


def clock(moment: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(moment))


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def milliseconds(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"


def quantiles(values: Iterable[float]) -> dict[str, float] | None:
    """Return p50, p99 and max of milliseconds; None when there are none."""
    ranked = sorted(values)
    if not ranked:
        return None
    ranks = {"p50": math.ceil(0.5 * len(ranked)), "p99": math.ceil(0.99 * len(ranked)), "max": len(ranked)}
    return {name: round(ranked[rank - 1], 1) for name, rank in ranks.items()}
