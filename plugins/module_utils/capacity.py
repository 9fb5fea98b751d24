# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a server carries, by what was seen in the stages of a ramp. No input and output, only judgement.

A stage is what ws_load returned and what ws_observe returned meanwhile, as `load` and `host`. The ramp doubles the
connections until something passes its limit, then looks for the knee between the last stage that was good and the
first that was not. When the load generator itself was too slow, the ramp ends, and nothing is said about the server but
what it has carried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Stage = Mapping[str, Any]

STAGES = 12  # of a ramp, at most
FINE = 1.15  # the knee is found when a stage that failed had but so much more than one that didn't
FAILED = 0.001  # part of the clients that may fail
FULL = 90.0  # percent of a processor above which a process has no more of it
HOST_FULL = 95.0  # percent of all processors
GENERATOR_FULL = 80.0  # percent of a processor above which the generator's own work shows in what it measures
GENERATOR_LATE = 0.25  # part of the limit for answers by which the generator may be late itself
MEMORY_FULL = 0.05  # part of a server's memory that must be available
FILES_FULL = 95.0  # percent of the open files that a process may have
BUSY = 20.0  # percent of a processor below which what a message costs is mostly what a quiet app costs
GENERATOR = "the load generator"


def passed(stage: Stage, limits: Mapping[str, float]) -> list[str]:
    """Return what passed its limit in a stage, a sentence each; nothing when it was good."""
    load, host = stage["load"], stage["host"]
    found = []
    if load["failed_clients"] > FAILED * load["connections"]:
        causes = ", ".join(f"{name} ({count:,})" for name, count in load["failures"].items())
        found.append(f"{load['failed_clients']:,} of {load['connections']:,} clients failed: {causes}")
    p99 = (load["answer_ms"] or {}).get("p99")
    if p99 is not None and p99 > limits["p99_ms"]:
        found.append(f"1 % of the answers took more than {p99:,.0f} ms, allowed are {limits['p99_ms']:g} ms")
    if host["lag_ms"] is not None and host["lag_ms"] > limits["lag_ms"]:
        found.append(f"an event loop was {host['lag_ms']:,.0f} ms late, allowed are {limits['lag_ms']:g} ms")
    if host["memory_available_bytes"] < MEMORY_FULL * host["memory_bytes"]:
        found.append(f"{host['memory_available_bytes'] / 2**20:,.0f} MiB of memory were left")
    return found


def saturated(stage: Stage, limits: Mapping[str, float]) -> str:
    """Return what a stage has used up; empty when nothing shows."""
    load, host = stage["load"], stage["host"]
    if load["failed_clients"]:
        # What names itself needs no guessing.
        if host["app"]["max_connections"]:
            return "ws_app_max_connections"
        if host["said"]:
            return str(max(host["said"], key=host["said"].get))
    if max(host["app"]["files_percent"], host["router"]["files_percent"]) >= FILES_FULL:
        return "limit of open files"
    if generator_bound(stage, limits):
        return GENERATOR
    if host["memory_available_bytes"] < MEMORY_FULL * host["memory_bytes"]:
        return "memory"
    busiest = {part: host[part]["busiest_percent"] for part in ("app", "router")}
    most = max(busiest, key=lambda part: busiest[part])
    if busiest[most] >= FULL:
        return f"CPU of the {most}"
    if host["host_cpu_percent"] >= HOST_FULL:
        most = max(("app", "router"), key=lambda part: float(host[part]["cpu_percent"]))
        return f"CPU of the server, most of it by the {most}"
    return ""


def generator_bound(stage: Stage, limits: Mapping[str, float]) -> bool:
    """Whether the load generator was too slow for what it measured to be said of the server."""
    generator = stage["load"]["generator"]
    return (
        generator["cpu_percent"] >= GENERATOR_FULL
        or generator["host_cpu_percent"] >= HOST_FULL
        or (generator["lag_ms"] or 0) > GENERATOR_LATE * limits["p99_ms"]
    )


def following(stages: Sequence[Stage], start: int, most: int, limits: Mapping[str, float]) -> int:
    """Return the connections of a ramp's next stage; 0 when it has ended."""
    if not stages:
        return min(start, most)
    last = stages[-1]
    bad = passed(last, limits)
    if len(stages) >= STAGES or (saturated(last, limits) == GENERATOR):
        return 0
    good = max((count(stage) for stage in stages if not passed(stage, limits)), default=0)
    failed = [count(stage) for stage in stages if passed(stage, limits)]
    if not failed:
        return min(2 * good, most) if not bad and good < most else 0
    least = min(failed)
    if least <= good:  # noise: what failed once went well with more
        return 0
    if not good:
        return least // 4
    middle = round(math.sqrt(good * least))
    return middle if least > FINE * good and good < middle < least else 0


def count(stage: Stage) -> int:
    return int(stage["load"]["connections"])


def judge(
    baseline: Mapping[str, Any],
    knock: Stage | None,
    play: Sequence[Stage],
    hold: Sequence[Stage],
    limits: Mapping[str, float],
) -> dict[str, Any]:
    """Return the figures of the server, what ended each ramp, and sentences."""
    knees = {"messages": _knee(play, limits), "connections": _knee(hold or play, limits)}
    talked = [stage for stage in play if not passed(stage, limits)]
    held = [stage for stage in (*play, *hold) if not passed(stage, limits)]
    most = max(held, key=count, default=None)
    quiet = max((stage for stage in held if stage["load"]["mode"] == "hold"), key=count, default=most)
    best = max(talked, key=lambda stage: float(stage["load"]["messages_per_second"]), default=None)
    base = baseline["app"]["memory_bytes"] + baseline["router"]["memory_bytes"]
    processes = len(baseline["app"]["pids"])
    figures: dict[str, Any] = {
        "processes": processes,
        "processors": baseline["processors"],
        "connections": count(most) if most else 0,
        "messages_per_second": best["load"]["messages_per_second"] if best else 0,
        "handshakes_per_second": knock["load"]["handshakes_per_second"] if knock else None,
        "memory_bytes": baseline["memory_available_bytes"] + base,
        "memory_bytes_per_process": round(baseline["app"]["memory_bytes"] / max(1, processes)),
        "memory_bytes_per_connection": _memory(quiet, base),
        "app_cpu_us_per_message": _cpu(best, "app"),
        "router_cpu_us_per_message": _cpu(best, "router"),
        "generator_cpu_us_per_message": (
            best["load"]["generator"]["cpu_us_per_message"] if best and _cpu(best, "app") else None
        ),
    }
    return {
        "figures": figures,
        "knees": knees,
        "sentences": list(_sentences(figures, knees, knock, limits)),
    }


def _knee(stages: Sequence[Stage], limits: Mapping[str, float]) -> dict[str, Any]:
    """Return the last good stage of a ramp, the first bad one, and why it was."""
    good = max((stage for stage in stages if not passed(stage, limits)), key=count, default=None)
    bad = min(
        (stage for stage in stages if passed(stage, limits) and (good is None or count(stage) > count(good))),
        key=count,
        default=None,
    )
    # The generator's word on itself counts in whatever stage ended the ramp.
    last = bad or (stages[-1] if stages else None)
    what = saturated(last, limits) if last else ""
    if bad is None and what != GENERATOR:
        what = ""
    return {
        "connections": count(good) if good else 0,
        "messages_per_second": good["load"]["messages_per_second"] if good else 0,
        "found": bad is not None and what != GENERATOR,
        "saturated": what,
        "why": passed(bad, limits) if bad else [],
    }


def _memory(stage: Stage | None, base: int) -> int | None:
    if stage is None or not stage["load"]["opened"]:
        return None
    used = int(stage["host"]["app"]["memory_bytes"]) + int(stage["host"]["router"]["memory_bytes"])
    return max(0, (used - base) // int(stage["load"]["opened"]))


def _cpu(stage: Stage | None, part: str) -> float | None:
    if (
        stage is None
        or not stage["load"]["messages_per_second"]
        or stage["host"]["app"]["cpu_percent"] < BUSY
    ):
        return None
    return round(
        1e4 * float(stage["host"][part]["cpu_percent"]) / float(stage["load"]["messages_per_second"]), 1
    )


def _sentences(
    figures: Mapping[str, Any],
    knees: Mapping[str, Mapping[str, Any]],
    knock: Stage | None,
    limits: Mapping[str, float],
) -> Any:
    for name, knee in knees.items():
        what = (
            f"{knee['messages_per_second']:,.0f} messages/s on {knee['connections']:,} connections"
            if name == "messages"
            else f"{knee['connections']:,} quiet connections"
        )
        if knee["saturated"] == GENERATOR:
            yield (
                f"The load generator was too slow to say where the server ends: it has carried {what}, "
                "and nothing is said beyond that. Make the load with more processors."
            )
        elif not knee["found"]:
            yield f"It has carried {what}, the most that was tried, within all limits."
        else:
            cause = knee["saturated"] or "nothing that shows"
            yield f"It carries {what}. Above, {cause} is used up: {'; '.join(knee['why'])}."
    if knock and generator_bound(knock, limits):
        yield "Handshakes per second are those that the load generator could make; the server may do more."
    app, router, own = (figures[f"{part}_cpu_us_per_message"] for part in ("app", "router", "generator"))
    if app and own:
        yield (
            f"A message costs {app:g} µs of processor time in the app and {router:g} µs in the router; "
            f"the load generator takes {own:g} µs, {(app + router) / own:.1f} times less."
        )
