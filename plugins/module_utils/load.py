# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much the processes of an app have to do. Reads only."""

from __future__ import annotations

import math
import os
import re
import time
import typing as t
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils import health
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member
from ansible_collections.wsfleet.websockets.plugins.module_utils.info import Info
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import Supervisor

LAG = re.compile(r'^ws_event_loop_lag_seconds_bucket\{(?:[^}]*,)?le="([^"]+)"[^}]*\} (\S+)', re.MULTILINE)


@dataclass
class Measurement:
    """Looks at the processes twice, so many seconds apart. `root` moves the tree of the host, for tests."""

    layout: Layout
    supervisor: Supervisor | None
    seconds: float
    root: Path = Path("/")
    kernel: Callable[[], Kernel] = Kernel
    get: Callable[[health.Address, str], str] = health.get
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def result(self) -> dict[str, t.Any]:
        info = Info(self.layout, self.supervisor, self.kernel()).result()
        slots, problems = info["slots"], info["problems"]
        metrics = [self._metrics(slot) for slot in slots]
        began, before = self.clock(), [self._cpu(slot) for slot in slots]
        self.sleep(self.seconds)
        ended, after = self.clock(), [self._cpu(slot) for slot in slots]
        for slot, first, last in zip(slots, before, after, strict=True):
            if last < first:
                problems.append(f"{self.layout.slot_name(slot['slot'])} ended while it was looked at")
        return {
            "cores": len(os.sched_getaffinity(0)),
            "processes": [
                {
                    "slot": slot["slot"],
                    "cpu_percent": round(max(0.0, last - first) / (ended - began) * 100, 1),
                    "connections": slot["connections"],
                    "lag_ms": lag_p99(earlier, self._metrics(slot)),
                }
                for slot, first, last, earlier in zip(slots, before, after, metrics, strict=True)
            ],
            "slots_changed": _age(self.layout.tmpfiles),
            "service_changed": _age(self._folder),
            "out_of_service": self._out_of_service(),
            "problems": problems,
        }

    @property
    def _folder(self) -> Path:
        return Path(self.root, "var/lib/wsfleet/apps", self.layout.app)

    def _out_of_service(self) -> str:
        """Who took the server out of service; empty when it serves."""
        try:
            return (self._folder / "drained").read_text().strip() or "operator"
        except FileNotFoundError:
            return ""

    def _cpu(self, slot: dict[str, t.Any]) -> float:
        return self.kernel().cpu_seconds(slot["pid"]) if slot["pid"] else 0.0

    def _metrics(self, slot: dict[str, t.Any]) -> str:
        """What the process tells Prometheus; empty where it tells nothing."""
        if not slot["pid"]:
            return ""
        return self.get(self.layout.metrics(Member(slot["slot"], slot["generation"])), "/metrics")


def lag_p99(before: str, after: str) -> float | None:
    """The 99th percentile, in milliseconds, of the event loop's lag between two answers of /metrics.

    None where it can't be known, as the process tells nothing, or nothing new.
    """
    if not before or not after:
        return None
    counts = _buckets(after)
    counts.subtract(_buckets(before))
    rank = 0.99 * counts[math.inf]
    lower, below = 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= rank > 0:
            # Within a bucket as if evenly spread; of the last one, only the lower bound is known.
            part = 0.0 if math.isinf(bound) else (bound - lower) * (rank - below) / (count - below)
            return round((lower + part) * 1000, 1)
        lower, below = bound, count
    return None


def _buckets(text: str) -> Counter[float]:
    """How many looks at the lag were at most so many seconds."""
    counts: Counter[float] = Counter()
    for bound, count in LAG.findall(text):
        counts[float(bound)] += int(float(count))
    return counts


def _age(path: Path) -> float | None:
    """Seconds since it was last changed; None where it isn't."""
    try:
        return round(max(0.0, time.time() - path.stat().st_mtime), 1)
    except FileNotFoundError:
        return None
