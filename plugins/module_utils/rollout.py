# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Move the slots of an app to a generation, on the host where it runs.

All new processes are started and healthy before the first slot is switched: until then a failure undoes
itself by removing the new generation, and no client has noticed. An app on TCP ports can't have its old and
new process side by side, so there each slot is stopped before it starts again.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.wsfleet.websockets.plugins.module_utils import health
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member, Settings
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel, orphans
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import Process, Supervisor

# What a new process takes before its first connection, 26 MiB for a small app, and a little more.
NEW_PROCESS_BYTES = 30 * 2**20
# supervisord restarts a process that dies young; after so many starts we call the release broken.
STARTS_UNTIL_BROKEN = 3
LOG_LINES = 20
GLANCES = 5


class RolloutError(Exception):
    """The rollout didn't happen; the text says why in one sentence, with the app's last log lines below."""


@dataclass(frozen=True)
class Plan:
    """What has to happen on this host; all empty when the wanted generation serves already."""

    generation: int
    serving: dict[int, int]
    move: list[int]
    start: list[int]
    retire: list[int]
    leave: list[Member]

    @property
    def changes(self) -> bool:
        return bool(self.move or self.start or self.retire)


@dataclass(frozen=True)
class Forecast:
    """What carrying out a plan costs: clients that must reconnect, time, memory while old and new overlap."""

    connections: int
    drain_seconds: float
    memory_needed_bytes: int
    memory_available_bytes: int
    fits: bool

    def __str__(self) -> str:
        needed, available = self.memory_needed_bytes // 2**20, self.memory_available_bytes // 2**20
        return (
            f"{self.connections} connections will be closed, within about {self.drain_seconds:.0f} s; "
            f"new processes beside the old ones need {needed} MiB of memory, {available} MiB are available"
        )


@dataclass
class Timeline:
    """When a slot's new process was started, healthy and switched to: seconds since the rollout began."""

    slot: int
    from_generation: int | None
    to_generation: int
    started: float = 0.0
    healthy: float = 0.0
    switched: float = 0.0


@dataclass
class Rollout:
    """The wanted state of one app on this host and the means to reach it. Times are in seconds."""

    layout: Layout
    settings: Settings
    processes: int
    supervisor: Supervisor | None
    health_path: str = ""
    health_timeout: float = 30.0
    restart: bool = False
    memory_check: bool = True
    clock: t.Callable[[], float] = time.monotonic
    sleep: t.Callable[[float], None] = time.sleep
    problem: t.Callable[[health.Address, str], str] = health.problem
    kernel: t.Callable[[], Kernel] = Kernel
    warnings: list[str] = field(default_factory=list)

    def plan(self) -> Plan:
        """Compare what serves with what is wanted. Reads only, also where nothing is installed."""
        generations = self.layout.read_generations()
        serving = self.layout.serving()
        running = self._running()
        newest = max([*self.layout.all_generations(), *(member.generation for member in running), 0])
        # What serves counts first; the newest may be what a killed rollout left half started.
        matches = [
            number
            for number in {*serving.values(), newest}
            if number in generations and generations[number].digest == self.settings.digest
        ]
        target = newest + 1 if self.restart else max(matches, default=newest + 1)
        wanted = range(self.processes)
        move = [slot for slot in wanted if serving.get(slot) != target]
        start = [
            slot
            for slot in wanted
            if slot not in move
            and ((process := running.get(Member(slot, target))) is None or process.is_stopped)
        ]
        keep = {Member(slot, target) for slot in wanted}
        present = set(running) | self.layout.programs_on_disk()
        retire = [slot for slot in serving if slot >= self.processes]
        return Plan(
            generation=target,
            serving=serving,
            move=move,
            start=start,
            retire=sorted(retire),
            leave=sorted(present - keep),
        )

    def forecast(self, plan: Plan) -> Forecast:
        """Say what the plan costs. Reads only."""
        kernel, running = self.kernel(), self._running()
        generations = self.layout.read_generations()
        leaving = {running[member].pid: member for member in plan.leave if _serves(running.get(member))}
        connections, seconds = 0, 0.0
        for pid, member in (leaving | self._orphans(kernel)).items():
            generation = generations.get(member.generation)
            port = generation.port if generation else self.settings.port
            held = kernel.connections(pid, self.layout.address(member, port))
            connections += held
            seconds = max(seconds, generation.seconds_to_drain(held) if generation else 0.0)
        needed = 0
        for slot in plan.move:
            if _serves(running.get(Member(slot, plan.generation))):
                continue
            old = running.get(Member(slot, plan.serving.get(slot, 0)))
            if old is None or not _serves(old):
                needed += NEW_PROCESS_BYTES
            elif not self.settings.port:  # there, the old one ends first
                needed += max(NEW_PROCESS_BYTES, kernel.memory(old.pid))
        available = kernel.memory_available()
        return Forecast(connections, round(seconds, 1), needed, available, needed <= available)

    def execute(self, plan: Plan) -> list[Timeline]:
        """Carry the plan out; returns a time line per moved slot."""
        began = self.clock()
        timelines = [Timeline(slot, plan.serving.get(slot), plan.generation) for slot in plan.move]
        self._refuse_lack_of_memory(plan)
        if plan.move:
            self.layout.create(plan.generation, self.settings)
        if self.settings.port:
            self._replace_each(plan, timelines, began)
        else:
            self._start_all(plan, timelines, began)
            for timeline in timelines:
                self.layout.switch(Member(timeline.slot, timeline.to_generation))
                timeline.switched = self.clock() - began
        self._start_stopped(plan)
        for slot in plan.retire:
            if self.settings.port:
                self.layout.drop_link(slot)
            else:
                self.layout.lend(slot)
        return timelines

    def settle(self, plan: Plan, wait: bool) -> list[Member]:
        """Make the new state survive a reboot, let go of what no longer serves; returns what still drains.

        Runs after every rollout and on every later run, so that it also finishes what a killed run left.
        """
        serving = dict.fromkeys(range(self.processes), plan.generation)
        self.layout.write_tmpfiles(serving, self.settings.user, self.settings.socket_group)
        for slot in self.layout.lent() - set(plan.retire):
            self.layout.drop_link(slot)
        self._let_go(plan.leave)
        if wait:
            self._wait_until_stopped(plan.leave)
        # One without connections exits at once: look a few times before calling it draining.
        for _n in range(GLANCES if plan.leave else 1):
            draining = self.prune(plan.generation)
            if not draining:
                break
            self.sleep(0.2)
        return draining

    def prune(self, target: int) -> list[Member]:
        """Forget what has stopped draining; returns what hasn't."""
        programs = self.layout.programs_on_disk()
        draining = []
        for member, process in self._running().items():
            if member in programs:
                continue
            if process.is_stopped:
                self._supervisor.remove(self.layout.group(member))
            else:
                draining.append(member)
        kernel = self.kernel()
        self.layout.forget_told(lambda pid: kernel.start_ticks(pid) > 0)
        in_use = {member.generation for member in [*draining, *programs]} | {target}
        for number in self.layout.all_generations() - in_use:
            self.layout.discard(number)
        return sorted(draining)

    def remove(self) -> bool:
        """Stop every process of the app, wait for it, and forget them all; True when there was something."""
        members = sorted(set(self._running()) | self.layout.programs_on_disk())
        was_there = bool(members) or self.layout.run.exists() or self.layout.generations.exists()
        if self.supervisor:
            for member in members:
                self.supervisor.stop(self.layout.process(member))
            self._wait_until_stopped(members)
        self.layout.erase()
        if self.supervisor:
            for member in members:
                self.supervisor.remove(self.layout.group(member))
            self.supervisor.reread()
        return was_there

    def describe(self, serving: dict[int, int]) -> str:
        """A slot per line, for diffs."""
        releases = {
            number: generation.release for number, generation in self.layout.read_generations().items()
        }
        return "".join(
            f"{self.layout.slot_name(slot)}: generation {number}, {releases.get(number, self.settings.release)}\n"
            for slot, number in sorted(serving.items())
        )

    # steps

    def _refuse_lack_of_memory(self, plan: Plan) -> None:
        forecast = self.forecast(plan)
        if self.memory_check and not forecast.fits:
            raise RolloutError(
                f"The new processes of {self.layout.app} need {forecast.memory_needed_bytes // 2**20} MiB of memory "
                f"beside the old ones and {forecast.memory_available_bytes // 2**20} MiB are available, "
                "so nothing was touched; with memory_check: false it would be tried"
            )

    def _start_all(self, plan: Plan, timelines: list[Timeline], began: float) -> None:
        members = [Member(slot, plan.generation) for slot in plan.move]
        offsets = self._add(members, timelines, began)
        try:
            for timeline, member in zip(timelines, members, strict=True):
                self._wait_until_healthy(member, began + self.health_timeout, offsets[member])
                timeline.healthy = self.clock() - began
        except RolloutError:
            self._take_back(members)
            if plan.generation not in plan.serving.values():
                self.layout.discard(plan.generation)
            raise

    def _replace_each(self, plan: Plan, timelines: list[Timeline], began: float) -> None:
        if any(timeline.from_generation for timeline in timelines):
            self.warnings.append(
                f"{self.layout.app} listens on TCP ports: each of its processes is stopped before the new one starts, "
                "so its slot answers nothing in between; a unix socket has no such gap"
            )
        for timeline in timelines:
            old = Member(timeline.slot, timeline.from_generation) if timeline.from_generation else None
            new = Member(timeline.slot, plan.generation)
            if old:
                self._supervisor.stop(self.layout.process(old))
                self._wait_until_stopped([old])
            offsets = self._add([new], [timeline], began)
            try:
                self._wait_until_healthy(new, self.clock() + self.health_timeout, offsets[new])
            except RolloutError:
                self._take_back([new])
                if old:
                    self._supervisor.start(self.layout.process(old))
                raise
            timeline.healthy = timeline.switched = self.clock() - began
            self.layout.switch(new)

    def _start_stopped(self, plan: Plan) -> None:
        members = [Member(slot, plan.generation) for slot in plan.start]
        offsets = self._add(members, [], 0.0)
        for member in members:
            self._wait_until_healthy(member, self.clock() + self.health_timeout, offsets[member])

    def _add(self, members: list[Member], timelines: list[Timeline], began: float) -> dict[Member, int]:
        """Have supervisord start the members; returns where each one's log ended before."""
        offsets = {member: self._log_size(member.slot) for member in members}
        if not members:
            return offsets
        for member in members:
            self.layout.write_program(member, self.settings)
        self._supervisor.reread()
        for member in members:
            self._supervisor.add(self.layout.group(member))
        running = self._running()
        for member in members:
            if member in running and running[member].is_stopped:
                self._supervisor.start(self.layout.process(member))
        for timeline in timelines:
            timeline.started = self.clock() - began
        return offsets

    def _let_go(self, members: list[Member]) -> None:
        """Tell the members to stop, and don't wait: they drain."""
        kernel, running = self.kernel(), self._running()
        for member in members:
            self.layout.remove_program(member)
            process = running.get(member)
            if _serves(process):
                self.layout.note_told(process.pid, kernel.start_ticks(process.pid))
            self._supervisor.stop(self.layout.process(member))

    def _take_back(self, members: list[Member]) -> None:
        """Undo _add()."""
        for member in members:
            self.layout.remove_program(member)
            self._supervisor.stop(self.layout.process(member))
        self._wait_until_stopped(members)
        for member in members:
            self._supervisor.remove(self.layout.group(member))
        self._supervisor.reread()

    def _wait_until_healthy(self, member: Member, deadline: float, log_offset: int) -> None:
        name = self.layout.slot_name(member.slot)
        starts: set[int] = set()
        while True:
            process = self._running().get(member)
            if process and process.state in ("STARTING", "RUNNING"):
                reason = self.problem(self.layout.address(member, self.settings.port), self.health_path)
                if not reason and process.state == "RUNNING":
                    return
            else:
                starts.add(process.started if process else 0)
                state = (process.problem or process.state) if process else "unknown to supervisord"
                reason = f"it doesn't stay up ({state})"
            out_of_time = self.clock() >= deadline
            if out_of_time or len(starts) >= STARTS_UNTIL_BROKEN or (process and process.state == "FATAL"):
                when = f"within {self.health_timeout:g} s" if out_of_time else f"after {len(starts)} starts"
                raise RolloutError(
                    f"{name} of generation {member.generation} (release {self.settings.release}) "
                    f"wasn't healthy {when}: {reason}; it takes no traffic.{self._log_tail(member.slot, log_offset)}"
                )
            self.sleep(0.1)

    def _wait_until_stopped(self, members: list[Member]) -> None:
        """Wait as long as supervisord can take to stop them: their stopwaitsecs, then SIGKILL."""
        generations = self.layout.read_generations()
        own = [
            generations[member.generation].stop_seconds
            for member in members
            if member.generation in generations
        ]
        limit = max([self.settings.stop_seconds, *own])
        killed_after = min(own, default=limit)
        began = self.clock()
        while self.clock() < began + limit + 5:
            running = self._running()
            if all(running[member].is_stopped for member in members if member in running):
                if members and self.clock() - began >= killed_after:
                    self.warnings.append(
                        f"A process of {self.layout.app} didn't end within {killed_after} s of SIGTERM and was killed: "
                        "its clients saw 1006, where one that closes its connections shows them 1001"
                    )
                return
            self.sleep(0.1)
        names = ", ".join(self.layout.process(member) for member in members)
        raise RolloutError(f"supervisord didn't stop {names} within {limit + 5} s")

    # what is there

    @property
    def _supervisor(self) -> Supervisor:
        if self.supervisor is None:
            raise RolloutError("supervisord isn't installed on this host")
        return self.supervisor

    def _running(self) -> dict[Member, Process]:
        if self.supervisor is None:
            return {}
        members = ((self.layout.member(process.group), process) for process in self.supervisor.processes())
        return {member: process for member, process in members if member}

    def _orphans(self, kernel: Kernel) -> dict[int, Member]:
        return orphans(kernel, self.layout, self.supervisor.pid()) if self.supervisor else {}

    def _log_size(self, slot: int) -> int:
        log = self.layout.log(slot)
        return log.stat().st_size if log.exists() else 0

    def _log_tail(self, slot: int, offset: int) -> str:
        log = self.layout.log(slot)
        if not log.exists():
            return ""
        with log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        return "".join(f"\n  {line}" for line in lines)


def _serves(process: Process | None) -> t.TypeGuard[Process]:
    """Whether it is up and wasn't told to stop."""
    return process is not None and process.state in ("STARTING", "RUNNING")
