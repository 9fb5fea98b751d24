# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many processes each server should have, and which spare servers should serve: a decision with its reasons.

A figure between its bounds changes nothing. One above brings as many processes as make it the middle of the bounds; all
below theirs take some away, if what is left stays below the upper ones. Nothing here looks at a clock or a host.
"""

from __future__ import annotations

import math
import typing as t
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Of all processes of a server, and of all servers, that may go at once, as one in so many.
PROCESSES_STEP = 4
SERVERS_STEP = 10


@dataclass(frozen=True)
class Band:
    """The bounds of a figure."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Rules:
    """What is wanted of a server; a maximum of 0 is one process per core, times are in seconds."""

    minimum: int = 1
    maximum: int = 0
    cpu: Band = Band(30, 70)  # percent of a core, the mean of the processes
    lag: Band = Band(25, 100)  # milliseconds, the worst process
    connections: Band | None = None  # per process, the mean
    up_seconds: float = 60
    down_seconds: float = 600
    spare: bool = False
    memory: bool = True  # whether what it has room for is a bound, too


@dataclass(frozen=True)
class Process:
    """The load of one process; a lag of None is unknown."""

    cpu: float
    connections: int
    lag: float | None = None


@dataclass(frozen=True)
class Load:
    """What was seen of a server.

    `calm` and `at_post` are the seconds since its slots last changed, and since it was taken into or out of service;
    `out` says who took it out, "autoscale" or anybody else.
    """

    cores: int
    processes: tuple[Process, ...]
    calm: float = math.inf
    at_post: float = math.inf
    out: str = ""
    room: int | None = None  # processes that its memory has room for; None where that is no bound


@dataclass(frozen=True)
class Server:
    """A server of the inventory; one without a load wasn't seen, and `problem` says why."""

    name: str
    rules: Rules
    load: Load | None
    problem: str = ""


@dataclass
class Decision:
    """What to do with a server, `change` being stay, scale, in or out. A server that wasn't seen has 0 processes."""

    name: str
    change: str
    now: int
    processes: int
    reasons: list[str]

    def __str__(self) -> str:
        what = {
            "stay": f"stays at {_count(self.now)}" if self.now else "isn't scaled",
            "scale": f"{self.now} -> {_count(self.processes)}",
            "in": "goes into service",
            "out": "goes out of service",
        }[self.change]
        return f"{self.name}: {what}: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class _Figure:
    """One figure of a server. `total` is what its processes share; None where more of them don't make it less."""

    name: str
    unit: str
    value: float
    band: Band
    total: float | None

    @property
    def is_high(self) -> bool:
        return self.value > self.band.high

    @property
    def is_low(self) -> bool:
        return self.value < self.band.low

    def __str__(self) -> str:
        return f"{self.name} {self.value:.0f}{self.unit}"

    def wanted(self, processes: int) -> int:
        """How many processes bring it from too high to the middle."""
        if self.total is None:
            return processes + _part(processes, PROCESSES_STEP)
        return max(processes + 1, math.ceil(self.total / self.band.middle))

    def fits(self, processes: int) -> bool:
        return self.total is None or self.total / processes <= self.band.high


class _Seen:
    """A server that serves, its figures, and how many processes it should have."""

    def __init__(self, server: Server, load: Load) -> None:
        self.server, self.rules, self.load = server, server.rules, load
        self.now = len(load.processes)
        # Where both are given and don't agree, the upper bound of the processes wins.
        self.maximum = self.rules.maximum or load.cores
        self.why_maximum = "it may have"
        # Those that run have found room.
        if self.rules.memory and load.room is not None and self.maximum > (room := max(load.room, self.now)):
            self.maximum, self.why_maximum = room, "its memory has room for"
        self.minimum = min(self.rules.minimum, self.maximum)
        self.figures = list(self._figures())
        self.lacks = 0  # processes that it would have if it could
        self.processes, self.reasons = self._judge()

    def _figures(self) -> t.Iterator[_Figure]:
        processes, rules = self.load.processes, self.rules
        cpu = sum(process.cpu for process in processes)
        yield _Figure("CPU", " %", cpu / self.now, rules.cpu, cpu)
        if lags := [process.lag for process in processes if process.lag is not None]:
            yield _Figure("event-loop lag", " ms", max(lags), rules.lag, None)
        if rules.connections:
            total = sum(process.connections for process in processes)
            yield _Figure("connections per process", "", total / self.now, rules.connections, total)

    def _judge(self) -> tuple[int, list[str]]:
        """The number of processes, and why."""
        if not self.minimum <= self.now <= self.maximum:
            bounds = f"allowed are {self.minimum} to {self.maximum}"
            return max(self.minimum, min(self.now, self.maximum)), [bounds]
        highs = [figure for figure in self.figures if figure.is_high]
        if highs:
            return self._grow(highs)
        if all(figure.is_low for figure in self.figures):
            return self._shrink()
        return self.now, [*map(str, self.figures), *self._unknown()]

    def _grow(self, highs: list[_Figure]) -> tuple[int, list[str]]:
        why = [f"{figure} is above {figure.band.high:g}{figure.unit}" for figure in highs]
        wanted = max(figure.wanted(self.now) for figure in highs)
        if self.now == self.maximum:
            self.lacks = wanted - self.now
            return self.now, [*why, f"{_count(self.now)} is the most {self.why_maximum}"]
        if waiting := _waiting(self.load.calm, self.rules.up_seconds):
            return self.now, [*why, waiting]
        return min(wanted, self.maximum), why

    def _shrink(self) -> tuple[int, list[str]]:
        why = [f"{figure} is below {figure.band.low:g}{figure.unit}" for figure in self.figures]
        why += self._unknown()
        if self.now == self.minimum:
            return self.now, [*why, f"{_count(self.now)} is the least it may have"]
        least = max(self.minimum, self.now - _part(self.now, PROCESSES_STEP))
        for fewer in range(least, self.now):
            if all(figure.fits(fewer) for figure in self.figures):
                if waiting := _waiting(self.load.calm, self.rules.down_seconds):
                    return self.now, [*why, waiting]
                return fewer, why
        return self.now, [*why, "one process fewer would bring it above its upper bound"]

    def _unknown(self) -> list[str]:
        return [] if any(figure.total is None for figure in self.figures) else ["event-loop lag unknown"]


def decide(servers: Sequence[Server]) -> list[Decision]:
    """Decide for each server, in their order."""
    serving: dict[str, _Seen] = {}
    decisions: dict[str, Decision] = {}
    for server in servers:
        load = server.load
        if load is None or not load.processes:
            problem = server.problem or "no process serves"
            decisions[server.name] = Decision(server.name, "stay", 0, 0, [problem])
        elif load.out:
            why = "it is a spare, and not needed" if _waits(server) else "it was taken out of service by hand"
            decisions[server.name] = Decision(
                server.name, "stay", len(load.processes), len(load.processes), [why]
            )
        else:
            seen = serving[server.name] = _Seen(server, load)
            change = "stay" if seen.processes == seen.now else "scale"
            decisions[server.name] = Decision(server.name, change, seen.now, seen.processes, seen.reasons)
    spares = [server for server in servers if _waits(server)]
    _move(list(serving.values()), spares, servers, decisions)
    return [decisions[server.name] for server in servers]


def _waits(server: Server) -> bool:
    """Whether it was taken out of service here, and may come back."""
    load = server.load
    return bool(load and load.processes and load.out == "autoscale")


def _move(
    serving: list[_Seen], spares: list[Server], servers: Sequence[Server], decisions: dict[str, Decision]
) -> None:
    """Take spare servers into service where the others can't grow, or out of it where they could do without."""
    if not serving:
        return
    at_post = min(server.load.at_post for server in servers if server.load)
    full = [seen for seen in serving if seen.lacks]
    share = _share(serving, _at_most, _middle)
    # One that has too much to do among idle ones is the balancer's affair.
    if full and (share > 1 or full == serving):
        lack = max(1.0, (share - 1) * sum(map(_at_most, serving)))
        for spare in spares:
            if lack <= 0:
                break
            decision, load = decisions[spare.name], spare.load
            names = ", ".join(seen.server.name for seen in full[:3]) + (" and others" if full[3:] else "")
            decision.reasons = [f"{names} can't grow, and the others have no room"]
            if waiting := _waiting(at_post, spare.rules.up_seconds):
                decision.reasons.append(waiting)
            else:
                decision.change = "in"
            lack -= spare.rules.maximum or (load.cores if load else 0)
    elif all(server.load is not None for server in servers):
        _send_away(serving, at_post, decisions)


def _send_away(serving: list[_Seen], at_post: float, decisions: dict[str, Decision]) -> None:
    """Take spares out of service, those with the fewest connections first, as long as the others keep up."""
    stay = list(serving)
    candidates = sorted((seen for seen in serving if seen.rules.spare), key=_connections)
    for seen in candidates[: _part(len(serving), SERVERS_STEP)]:
        rest = [other for other in stay if other is not seen]
        if not rest or any(other.lacks or other.processes > other.now for other in stay):
            return
        # With the processes that they have after this run, and, so that it needn't come back, with all they may have.
        if max(_share(serving, _after, _high, rest), _share(serving, _at_most, _middle, rest)) > 1:
            return
        decision = decisions[seen.server.name]
        why = "the other servers can do without it"
        if waiting := _waiting(at_post, seen.rules.down_seconds):
            decision.reasons = [*decision.reasons, why, waiting]
            return
        decision.change, decision.processes, decision.reasons = "out", decision.now, [why]
        stay = rest


def _share(
    serving: list[_Seen],
    processes: Callable[[_Seen], int],
    bound: Callable[[Band], float],
    those: list[_Seen] | None = None,
) -> float:
    """How full the processes of `those` servers are if they do the work of all; 1 is at the bound of a figure."""
    capacity = sum(map(processes, serving if those is None else those))
    names = {figure.name for seen in serving for figure in seen.figures if figure.total is not None}
    return max(
        sum(
            figure.total / bound(figure.band)
            for seen in serving
            for figure in seen.figures
            if figure.name == name and figure.total is not None
        )
        / capacity
        for name in names
    )


def _high(band: Band) -> float:
    return band.high


def _middle(band: Band) -> float:
    return band.middle


def _at_most(seen: _Seen) -> int:
    return seen.maximum


def _after(seen: _Seen) -> int:
    return seen.processes


def _connections(seen: _Seen) -> int:
    return sum(process.connections for process in seen.load.processes)


def _waiting(passed: float, seconds: float) -> str:
    return f"the last change was {passed:.0f} s ago, of {seconds:g} s to wait" if passed < seconds else ""


def _part(number: int, step: int) -> int:
    return max(1, number // step)


def _count(processes: int) -> str:
    return f"{processes} process{'' if processes == 1 else 'es'}"
