# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an app and its router use of a server for some seconds, and what they have said about limits. Reads only."""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.wsfleet.websockets.plugins.module_utils import health
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member
from ansible_collections.wsfleet.websockets.plugins.module_utils.haproxy import HaproxyError, Runtime
from ansible_collections.wsfleet.websockets.plugins.module_utils.info import Info
from ansible_collections.wsfleet.websockets.plugins.module_utils.memory import max_connections, most_processes
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel, busy_percent
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import Supervisor

ROUTERS = ("nginx", "haproxy")
ERROR_LOG = "var/log/nginx/error.log"
TAIL = 4 << 20  # bytes of the error log that are read at most
# What nginx says when a limit is reached, and who sets the limit.
SAID = {
    b"worker_connections are not enough": "ws_nginx_connections",
    b"limiting connections by zone": "ws_nginx_connections_per_address",
    b"limiting requests": "ws_nginx_handshakes_per_second_per_address",
    b"Too many open files": "limit of open files",
}
LAG = re.compile(r'^ws_event_loop_lag_seconds_bucket\{(?:[^}]*,)?le="([^"]+)"[^}]*\} (\S+)', re.MULTILINE)


@dataclass(frozen=True)
class Slot:
    """The process that serves a slot; its pid is 0 where none runs."""

    number: int
    pid: int
    entrance: health.Address
    metrics: health.Address


@dataclass
class Observer:
    """Looks at the app's processes and the host's routers twice. `root` moves the tree of the host, for tests."""

    layout: Layout
    supervisor: Supervisor | None
    router: str = "nginx"
    tls: bool = True
    root: Path = Path("/")
    kernel: Callable[[], Kernel] = Kernel
    haproxy: Runtime = field(default_factory=Runtime)
    get: Callable[[health.Address, str], str] = health.get
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def watch(self, seconds: float, log_from: int | None = None) -> dict[str, Any]:
        """Watch for some seconds; `log_from` is where an earlier look at the error log ended."""
        info = Info(self.layout, self.supervisor, self.kernel()).result()
        slots, problems = self._slots(info["slots"]), list(info["problems"])
        first = self.kernel()
        routers = [pid for pid in first.pids() if first.name(pid) in ROUTERS]
        pids = [slot.pid for slot in slots if slot.pid]

        metrics = [self._metrics(slot) for slot in slots]
        began, host = self.clock(), first.host_ticks()
        before = {pid: first.cpu_seconds(pid) for pid in (*pids, *routers)}
        self.sleep(seconds)
        last = self.kernel()
        after = {pid: last.cpu_seconds(pid) for pid in before}
        passed, busy = self.clock() - began, busy_percent(host, last.host_ticks())

        cpu = {pid: 100 * max(0.0, after[pid] - before[pid]) / passed for pid in before}
        processes = [
            {
                "slot": slot.number,
                "cpu_percent": round(cpu.get(slot.pid, 0.0), 1),
                "connections": last.connections(slot.pid, slot.entrance) if slot.pid else 0,
                "lag_ms": lag_p99(earlier, self._metrics(slot)),
            }
            for slot, earlier in zip(slots, metrics, strict=True)
        ]
        problems += [
            f"{self.layout.slot_name(slot.number)} ended while it was looked at"
            for slot in slots
            if slot.pid and after[slot.pid] < before[slot.pid]
        ]
        said, log_size = self._said(log_from)
        if self._is_haproxy_full():
            said["ws_haproxy_connections"] = 1
        return {
            "seconds": round(passed, 1),
            "processors": len(os.sched_getaffinity(0)),
            "host_cpu_percent": round(busy, 1),
            "processes": processes,
            "app": {
                **_part(last, pids, cpu),
                "connections": sum(process["connections"] for process in processes),
                "max_connections": any(
                    0 < max_connections(last.environment(slot.pid)) <= process["connections"]
                    for slot, process in zip(slots, processes, strict=True)
                ),
            },
            "router": _part(last, routers, cpu),
            "memory_bytes": last.memory_total(),
            "memory_available_bytes": last.memory_available(),
            "most_processes": self._most_processes(last, pids),
            "lag_ms": max(
                (process["lag_ms"] for process in processes if process["lag_ms"] is not None), default=None
            ),
            "said": said,
            "log_size": log_size,
            "slots_changed": _age(self.layout.tmpfiles),
            "service_changed": _age(self.layout.state),
            "out_of_service": info["out_of_service"],
            "problems": problems,
        }

    def _most_processes(self, kernel: Kernel, pids: Sequence[int]) -> int | None:
        """How many processes the memory has room for, with all connections that they may have."""
        found = (
            most_processes(
                kernel.environment(pid),
                self.router,
                self.tls,
                "--handover" in kernel.title(pid).split(),
                kernel.memory_total() >> 20 << 20,  # as Ansible's facts have it, and with them ws_supervisor
            )
            for pid in pids
        )
        return min((number for number in found if number is not None), default=None)

    def _slots(self, found: list[dict[str, Any]]) -> list[Slot]:
        generations = self.layout.read_generations()
        members = [Member(slot["slot"], slot["generation"]) for slot in found]
        return [
            Slot(
                member.slot,
                slot["pid"] or 0,
                self.layout.entrance(member, generations.get(member.generation)),
                self.layout.metrics(member),
            )
            for slot, member in zip(found, members, strict=True)
        ]

    def _metrics(self, slot: Slot) -> str:
        """What the process tells Prometheus; empty where it tells nothing."""
        return self.get(slot.metrics, "/metrics") if slot.pid else ""

    def _said(self, log_from: int | None) -> tuple[dict[str, int], int]:
        """Return how often nginx has named each limit since then, and where the log ends now."""
        error_log = self.root / ERROR_LOG
        try:
            size = error_log.stat().st_size
            if log_from is None:
                return {}, size
            with error_log.open("rb") as log:
                log.seek(max(log_from if log_from <= size else 0, size - TAIL))
                lines = log.read(TAIL)
        except OSError:
            return {}, 0
        return {name: count for text, name in SAID.items() if (count := lines.count(text))}, size

    def _is_haproxy_full(self) -> bool:
        """Whether HAProxy has all connections that it may have; others wait, and it says nothing of it."""
        try:
            info = self.haproxy.info()
        except HaproxyError:  # above all, there is none
            return False
        return int(info["CurrConns"]) >= int(info["Maxconn"])


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


def _part(kernel: Kernel, pids: Sequence[int], cpu: Mapping[int, float]) -> dict[str, Any]:
    """What processes use together."""
    return {
        "pids": pids,
        "cpu_percent": round(sum(cpu[pid] for pid in pids), 1),
        "busiest_percent": round(max((cpu[pid] for pid in pids), default=0), 1),
        "memory_bytes": sum(kernel.memory(pid) for pid in pids),
        "files_percent": round(max((_files(kernel, pid) for pid in pids), default=0), 1),
    }


def _files(kernel: Kernel, pid: int) -> float:
    """How many percent of the files that it may have open the process has."""
    limit, _highest = kernel.nofile(pid)
    return 100 * kernel.descriptors(pid) / limit if limit else 0.0


def _age(path: Path) -> float | None:
    """Seconds since it was last changed; None where it isn't."""
    try:
        return round(max(0.0, time.time() - path.stat().st_mtime), 1)
    except FileNotFoundError:
        return None
