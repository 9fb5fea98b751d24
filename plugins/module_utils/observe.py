# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an app and its router use of a server for some seconds, and what they have said about limits. Reads only."""

from __future__ import annotations

import collections
import contextlib
import http.client
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel

ROUTERS = ("nginx", "haproxy")
LAG = "ws_event_loop_lag_seconds"
ERROR_LOG = Path("/var/log/nginx/error.log")
TAIL = 4 << 20  # bytes of the error log that are read at most
# What nginx says when a limit is reached, and who sets the limit.
SAID = {
    b"worker_connections are not enough": "ws_nginx_connections",
    b"limiting connections by zone": "ws_nginx_connections_per_address",
    b"limiting requests": "ws_nginx_handshakes_per_second_per_address",
    b"Too many open files": "limit of open files",
}
_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE = re.compile(r"^(\w+)_bucket\{([^}]*)\} (\S+)", re.MULTILINE)
_LE = re.compile(r'\ble="([^"]+)"')


@dataclass(frozen=True)
class Slot:
    """A server process: its pid and where it listens."""

    pid: int
    address: Address


def buckets(text: str, name: str) -> dict[float, float]:
    """Return a histogram's buckets by upper bound, of metrics in Prometheus's text format."""
    found: collections.defaultdict[float, float] = collections.defaultdict(float)
    for sample, labels, value in _SAMPLE.findall(text):
        bound = _LE.search(labels)
        if sample == name and bound:
            found[float(bound[1])] += float(value)
    return dict(found)


def quantile(before: Mapping[float, float], after: Mapping[float, float], share: float) -> float | None:
    """Return the bound below which that share of the samples between two scrapes is; None without samples."""
    counts = {bound: after[bound] - before.get(bound, 0) for bound in sorted(after)}
    total = counts.get(math.inf, 0)
    if total <= 0:
        return None
    reached = [bound for bound, count in counts.items() if count >= share * total]
    finite = [bound for bound in counts if bound < math.inf]
    # Above the last bound, all that is known is that it is more.
    return min(reached[0], 2 * finite[-1]) if finite else None


def scrape(address: Address) -> str:
    """Return what a process says under /metrics; empty when it has no such thing."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("localhost", timeout=5)
        connection.sock = address.connect(5)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            if response.status == http.HTTPStatus.OK:
                return response.read().decode(errors="replace")
    return ""


class Observer:
    """Watches the server processes `slots`, and the routers of the host."""

    def __init__(
        self,
        slots: Iterable[Slot],
        proc: Path = Path("/proc"),
        error_log: Path = ERROR_LOG,
        sleep: Callable[[float], None] = time.sleep,
        scrape: Callable[[Address], str] = scrape,
    ) -> None:
        self.slots = list(slots)
        self.proc = proc
        self.error_log = error_log
        self.sleep = sleep
        self.scrape = scrape

    def watch(self, seconds: float, log_from: int | None) -> dict[str, Any]:
        """Watch for some seconds; `log_from` is where an earlier look at the error log ended."""
        routers = [pid for pid in Kernel(self.proc).pids() if self._name(pid) in ROUTERS]
        pids = [slot.pid for slot in self.slots]
        began, host = time.monotonic(), self._host()
        before = {pid: self._ticks(pid) for pid in (*pids, *routers)}
        lags = [buckets(self.scrape(slot.address), LAG) for slot in self.slots]
        self.sleep(seconds)
        found = [
            quantile(early, buckets(self.scrape(slot.address), LAG), 0.99)
            for slot, early in zip(self.slots, lags, strict=True)
        ]
        after = {pid: self._ticks(pid) for pid in before}
        busy = _busy(host, self._host())
        passed = time.monotonic() - began
        cpu = {pid: 100 * (after[pid] - before[pid]) / _TICKS / passed for pid in before}
        known = [lag for lag in found if lag is not None]
        said, log_size = self._said(log_from)
        kernel = Kernel(self.proc)
        connections = [kernel.connections(slot.pid, slot.address) for slot in self.slots]
        return {
            "seconds": round(passed, 1),
            "processors": len(re.findall(r"^cpu\d", self._read("stat"), re.MULTILINE)),
            "host_cpu_percent": round(busy, 1),
            "app": self._part(pids, cpu)
            | {
                "connections": sum(connections),
                "max_connections": self._max_connections(kernel, connections),
            },
            "router": self._part(routers, cpu),
            "memory_bytes": kernel.memory_total(),
            "memory_available_bytes": kernel.memory_available(),
            "lag_ms": round(1000 * max(known), 1) if known else None,
            "said": said,
            "log_size": log_size,
        }

    def _part(self, pids: list[int], cpu: Mapping[int, float]) -> dict[str, Any]:
        kernel = Kernel(self.proc)
        return {
            "pids": pids,
            "cpu_percent": round(sum(cpu[pid] for pid in pids), 1),
            "busiest_percent": round(max((cpu[pid] for pid in pids), default=0), 1),
            "memory_bytes": sum(kernel.memory(pid) for pid in pids),
            "files_percent": round(max((_files(kernel, pid) for pid in pids), default=0), 1),
        }

    def _max_connections(self, kernel: Kernel, connections: list[int]) -> bool:
        """Whether a process has as many connections as its WS_MAX_CONNECTIONS allows."""
        limits = [int(kernel.environment(slot.pid).get("WS_MAX_CONNECTIONS") or 0) for slot in self.slots]
        return any(limit and count >= limit for limit, count in zip(limits, connections, strict=True))

    def _name(self, pid: int) -> str:
        return self._read(f"{pid}/comm").strip()

    def _ticks(self, pid: int) -> int:
        fields = self._read(f"{pid}/stat").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12]) if fields else 0

    def _host(self) -> list[int]:
        return [int(value) for value in self._read("stat").partition("\n")[0].split()[1:9]]

    def _said(self, log_from: int | None) -> tuple[dict[str, int], int]:
        """Return how often nginx has named each limit since then, and where the log ends now."""
        try:
            size = self.error_log.stat().st_size
            if log_from is None:
                return {}, size
            with self.error_log.open("rb") as log:
                log.seek(max(log_from if log_from <= size else 0, size - TAIL))
                lines = log.read(TAIL)
        except OSError:
            return {}, 0
        return {name: count for text, name in SAID.items() if (count := lines.count(text))}, size

    def _read(self, name: str) -> str:
        try:
            return (self.proc / name).read_text(errors="replace")
        except OSError:
            return ""


def _files(kernel: Kernel, pid: int) -> float:
    """Return how many percent of its open files a process uses."""
    limit = int(kernel.nofile(pid)[0])
    return 100 * int(kernel.descriptors(pid)) / limit if limit else 0.0


def _busy(before: list[int], after: list[int]) -> float:
    """Return how many percent of the host's processors were busy."""
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return 100 * (1 - (spent[3] + spent[4]) / sum(spent)) if sum(spent) > 0 else 0.0
