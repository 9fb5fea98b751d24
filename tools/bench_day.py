# SPDX-License-Identifier: GPL-3.0-or-later
"""A day of a server's process, recorded for the simulations of autoscale.

How many clients there are follows a curve that is drawn here. What the process does with them is recorded: real clients
through TLS and nginx, seen by module ws_observe, as autoscale sees it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.bench_pair import Pair
from tools.servers import ServersError

STEP = 30  # minutes
MOST = 1800  # clients in the evening, ten messages a second each
NOON, EVENING = 720, 1020  # minutes


def clients(minute: int) -> int:
    """Quiet at night, busy in the evening, with half an hour at noon that nobody foresaw, and an hour that lasts."""
    curve = 0.5 - 0.45 * math.cos((minute / (24 * 60) - 0.15) * 2 * math.pi)
    spike = 1.8 if NOON <= minute < NOON + STEP else 1.3 if EVENING <= minute < EVENING + 2 * STEP else 1.0
    return round(curve * spike * MOST)


def measure_day(pair: Pair) -> dict[str, Any]:
    """Return what was seen of a fresh server with one process, half an hour after half an hour."""
    minutes = range(0, 24 * 60, STEP)
    pair.deploy("day", ws_supervisor_processes=1)
    variables = {
        "ws_capacity_from": pair.client.name,
        "bench_day_clients": [clients(minute) for minute in minutes],
        "bench_day_file": str(pair.folder / "day.json"),
    }
    pair.play("day", "bench/day.yml", pair.hosts, variables)
    stages = json.loads((pair.folder / "day.json").read_text())
    return {"moments": [moment(minute, stage) for minute, stage in zip(minutes, stages, strict=True)]}


def moment(minute: int, stage: Mapping[str, Any]) -> dict[str, float]:
    """What a line of the record says."""
    [process] = stage["host"]["processes"]
    if stage["load"]["failed_clients"] or process["lag_ms"] is None:
        raise ServersError(
            f"Minute {minute} of the day wasn't recorded as it should: {stage['load']['failures']}."
        )
    return {
        "minute": minute,
        "connections": process["connections"],
        "messages_per_second": stage["load"]["messages_per_second"],
        "cpu_percent": process["cpu_percent"],
        "lag_ms": process["lag_ms"],
    }


def write_record(figures: Mapping[str, Any], path: Path) -> None:
    """Write the record, a line each."""
    lines = ",\n".join(f"  {json.dumps(one)}" for one in figures["moments"])
    path.write_text(f"[\n{lines}\n]\n")
