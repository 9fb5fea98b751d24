# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Move the slots of an app to a generation, on the host where it runs.

All new processes are started and healthy before the first slot is switched: until then a failure undoes
itself by removing the new generation, and no client has noticed. While the new processes are watched, the old
ones are kept, so that the slots can go back. An app on TCP ports can't have its old and new process side by
side, so there each slot is stopped before it starts again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.wsfleet.websockets.plugins.module_utils import health
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member, Settings
from ansible_collections.wsfleet.websockets.plugins.module_utils.memory import PROCESS_BYTES
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel, orphans
from ansible_collections.wsfleet.websockets.plugins.module_utils.progress import Countdown, Every
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import Process, Supervisor

# supervisord restarts a process that dies young; after so many starts we call the release broken.
STARTS_UNTIL_BROKEN = 3
# One answer may come late on a busy host; after so many bad ones, a second apart, a process is unhealthy.
CHECKS_UNTIL_UNHEALTHY = 3
LOG_LINES = 20
LOG_BYTES = 64 * 1024
GLANCES = 5
# Until a busy process has noted what it took over.
NOTE_SECONDS = 5.0


class RolloutError(Exception):
    """The rollout didn't happen; the text says why in one sentence, with the app's last log lines below."""


@dataclass(frozen=True)
class Plan:
    """What has to happen on this host; all empty when the wanted generation serves already.

    `back` is the generation that each slot can go back to as long as the old processes are kept.
    """

    generation: int
    serving: dict[int, int]
    move: list[int]
    start: list[int]
    retire: list[int]
    leave: list[Member]
    back: dict[int, int]

    @property
    def changes(self) -> bool:
        return bool(self.move or self.start or self.retire)


@dataclass(frozen=True)
class Forecast:
    """What carrying out a plan costs: clients that must reconnect, time, memory while old and new overlap.

    `moving` are the connections that go on in the new processes, as far as they become quiet in time.
    """

    connections: int
    moving: int
    drain_seconds: float
    memory_needed_bytes: int
    memory_available_bytes: int
    fits: bool

    def __str__(self) -> str:
        needed, available = self.memory_needed_bytes // 2**20, self.memory_available_bytes // 2**20
        return (
            f"{f'Connections that will move: {self.moving}; ' if self.moving else ''}"
            f"Connections that will be closed: {self.connections}, within about {self.drain_seconds:.0f} s; "
            f"memory that new processes need beside the old ones: {needed} MiB, available: {available} MiB"
            f"{'' if self.fits else ', too little'}"
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
    canary_seconds: float = 0.0
    watch_seconds: float = 0.0
    max_generations: int = 3
    memory_check: bool = True
    close_connections: bool = False
    clock: t.Callable[[], float] = time.monotonic
    sleep: t.Callable[[float], None] = time.sleep
    problem: t.Callable[[health.Address, str], str] = health.problem
    kernel: t.Callable[[], Kernel] = Kernel
    kill: t.Callable[[int, int], None] = os.kill
    say: t.Callable[[str], None] = lambda _text: None  # how far it is, a line at a time
    warnings: list[str] = field(default_factory=list)
    handovers: dict[int, dict[str, float]] = field(
        default_factory=dict
    )  # by slot, what moved to its new process
    interrupted: str = ""  # the signal that asked for an end; may be set at any time
    _switching: bool = False
    _log_ends: dict[int, int] = field(default_factory=dict)
    _incarnations: dict[Member, tuple[int, int]] = field(default_factory=dict)

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
            back=self._back(target, serving, running),
        )

    def _back(self, target: int, serving: dict[int, int], running: dict[Member, Process]) -> dict[int, int]:
        """What each slot can go back to: what serves it, or what served it before a rollout that was killed."""
        kept = [member for member in self.layout.programs_on_disk() if _serves(running.get(member))]
        back = {}
        for slot in range(self.processes):
            older = [
                member.generation for member in kept if member.slot == slot and member.generation < target
            ]
            if slot in serving and serving[slot] != target:
                back[slot] = serving[slot]
            elif slot in serving and older:
                back[slot] = max(older)
            elif slot in serving:
                return {}  # its old process was let go: that rollout had succeeded
        return back

    def forecast(self, plan: Plan) -> Forecast:
        """Say what the plan costs. Reads only."""
        kernel, running = self.kernel(), self._running()
        generations = self.layout.read_generations()
        leaving = {running[member].pid: member for member in plan.leave if _serves(running.get(member))}
        connections, moving, seconds = 0, 0, 0.0
        for pid, member in (leaving | self._orphans(kernel)).items():
            generation = generations.get(member.generation)
            held = self._connections(kernel, {pid: member})
            if self.layout.hands_over(member) and not self.close_connections and self.settings.hands_over:
                moving += held
                continue
            connections += held
            seconds = max(seconds, generation.seconds_to_drain(held) if generation else 0.0)
        needed = 0
        for slot in plan.move:
            if _serves(running.get(Member(slot, plan.generation))):
                continue
            old = running.get(Member(slot, plan.serving.get(slot, 0)))
            if old is None or not _serves(old):
                needed += PROCESS_BYTES
            elif not self.settings.port:  # there, the old one ends first
                needed += max(PROCESS_BYTES, kernel.memory(old.pid))
        available = kernel.memory_available()
        return Forecast(connections, moving, round(seconds, 1), needed, available, needed <= available)

    def execute(self, plan: Plan) -> list[Timeline]:
        """Carry the plan out, or put all back as it was; returns a time line per moved slot."""
        began = self.clock()
        timelines = [Timeline(slot, plan.serving.get(slot), plan.generation) for slot in plan.move]
        self._refuse_lack_of_memory(plan)
        serving = {*plan.serving.items(), *plan.back.items()}
        self._let_go([member for member in plan.leave if (member.slot, member.generation) not in serving])
        self._make_room(plan)
        try:
            if plan.move:
                self.layout.create(plan.generation, self.settings)
            if not self.settings.port:
                self._start_all(plan, timelines, began)
            self._start_stopped(plan)
            self._heed_interruption()
            self._switching = True
            if self.settings.port and any(timeline.from_generation for timeline in timelines):
                self._warn_of_gaps()
            for stage, watch_seconds in self._stages(plan, timelines):
                for timeline in stage:
                    self._switch(timeline, began)
                self._watch(plan, watch_seconds)
        except (RolloutError, OSError):
            self._undo(plan)
            raise
        for slot in plan.retire:
            self._give_up(slot, range(self.processes))
        return timelines

    def settle(self, plan: Plan, wait: bool, drain: bool = True) -> list[str]:
        """Make the new state survive a reboot, let go of what no longer serves; returns what still drains.

        Runs after every rollout and on every later run, so that it also finishes what a killed run left. Without
        `drain`, what no longer serves is left for a later run.
        """
        self._record()
        if not drain:
            return []
        for slot in self.layout.lent() - set(plan.retire):
            self.layout.drop_link(slot)
        if self.close_connections and plan.leave:
            self.layout.refuse_handover(plan.generation)
        movers = [member for member in plan.leave if self._can_move(member, plan)]
        self._let_go(plan.leave)
        self._wait_for_handover(movers, plan.generation)
        orphans_told = self._let_go_of_orphans(plan)
        if wait:
            self._wait_until_stopped(plan.leave)
            self._wait_for_orphans()
        return self._prune_patiently(plan.generation, bool(plan.leave or orphans_told))

    def _can_move(self, member: Member, plan: Plan) -> bool:
        """Whether the member's connections can go to the process that serves its slot now."""
        successor = Member(member.slot, plan.generation)
        return successor != member and all(map(self.layout.hands_over, (member, successor)))

    def _wait_for_handover(self, movers: list[Member], generation: int) -> None:
        """Wait until the connections have moved, which they do at once or not at all."""
        end = self.clock() + max((self._stop_seconds(member.generation) for member in movers), default=0)
        waiting = movers
        while waiting and self.clock() < end:
            running = self._running()
            waiting = [
                member for member in waiting if not self.layout.handover(Member(member.slot, generation))
            ]
            if all(running[member].is_stopped for member in waiting if member in running):
                end = min(end, self.clock() + NOTE_SECONDS)
            self.sleep(0.1)
        for slot in sorted(member.slot for member in movers):
            if noted := self.layout.handover(Member(slot, generation)):
                self.handovers[slot] = noted
                self.say(
                    f"{self.layout.slot_name(slot)}: {noted['moved']:.0f} connections moved, each paused for "
                    f"{noted['pause_max_ms']:.0f} ms at most; {noted['stayed']:.0f} stay to be closed"
                )

    def _prune_patiently(self, target: int, told: bool) -> list[str]:
        """Prune; one without connections exits at once, so look a few times before calling it draining."""
        draining = self.prune(target)
        for _n in range(GLANCES if told else 0):
            if not draining:
                break
            self.sleep(0.2)
            draining = self.prune(target)
        return draining

    def prune(self, target: int) -> list[str]:
        """Forget what has stopped draining; returns the names of what hasn't."""
        programs = self.layout.programs_on_disk()
        draining: list[Member] = []
        for member, process in self._running().items():
            if member in programs:
                continue
            if process.is_stopped:
                self._supervisor.remove(self.layout.group(member))
            else:
                draining.append(member)
        kernel = self.kernel()
        self.layout.forget_told(lambda pid: kernel.start_ticks(pid) > 0)
        orphans_left = self._orphans(kernel)
        in_use = {member.generation for member in [*draining, *programs, *orphans_left.values()]} | {target}
        for number in self.layout.all_generations() - in_use:
            self.layout.discard(number)
        return [self.layout.process(member) for member in sorted(draining)] + [
            f"{self.layout.process(member)} (orphan, pid {pid})" for pid, member in orphans_left.items()
        ]

    def remove(self) -> bool:
        """Stop every process of the app, wait for it, and forget them all; True when there was something."""
        members = sorted(set(self._running()) | self.layout.programs_on_disk())
        was_there = bool(members) or self.layout.run.exists() or self.layout.generations.exists()
        if self.supervisor:
            for member in members:
                self.supervisor.stop(self.layout.process(member))
            self._tell(self._orphans(self.kernel()))
            self._wait_until_stopped(members)
            self._wait_for_orphans()
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
        if self.memory_check and plan.move and not (forecast := self.forecast(plan)).fits:
            raise RolloutError(
                f"The new processes of {self.layout.app} need {forecast.memory_needed_bytes // 2**20} MiB of memory "
                f"beside the old ones and {forecast.memory_available_bytes // 2**20} MiB are available, "
                "so nothing was touched; with memory_check: false it would be tried"
            )

    def _make_room(self, plan: Plan) -> None:
        """Wait for the oldest generations to end when one more would be too many."""
        patience, oldest = 0.0, 0
        while plan.move and len(alive := self._alive() - {plan.generation}) >= self.max_generations:
            if not (draining := alive - set(plan.serving.values())):
                return
            if min(draining) != oldest:
                oldest = min(draining)
                stop_seconds = self._stop_seconds(oldest)
                patience = self.clock() + stop_seconds + 5
                self.say(f"waiting for generation {oldest} to end, at most {stop_seconds} s")
            elif self.clock() >= patience:
                raise RolloutError(
                    f"Generation {oldest} of {self.layout.app} didn't end within {stop_seconds} s, "
                    f"and max_generations allows {self.max_generations}, the new one included"
                )
            self._heed_interruption()
            self.sleep(0.2)

    def _alive(self) -> set[int]:
        """The generations that have processes."""
        supervised = {member for member, process in self._running().items() if not process.is_stopped}
        return {member.generation for member in [*supervised, *self._orphans(self.kernel()).values()]}

    def _start_all(self, plan: Plan, timelines: list[Timeline], began: float) -> None:
        members = [Member(slot, plan.generation) for slot in plan.move]
        if members:
            names = ", ".join(self.layout.slot_name(member.slot) for member in members)
            self.say(f"starting generation {plan.generation}, release {self.settings.release}, of {names}")
        self._add(members)
        deadline = self.clock() + self.health_timeout
        for timeline in timelines:
            timeline.started = self.clock() - began
        for timeline, member in zip(timelines, members, strict=True):
            self._wait_until_healthy(member, deadline)
            timeline.healthy = self.clock() - began
            self.say(f"{self.layout.process(member)} is healthy")

    def _stages(self, plan: Plan, timelines: list[Timeline]) -> list[tuple[list[Timeline], float]]:
        """The slots that are switched together, and for how long the new processes are watched then."""
        if not (self.canary_seconds and plan.move and plan.back):
            return [(timelines, self.watch_seconds)]
        canary = [timeline for timeline in timelines if timeline.slot == 0]
        others = [timeline for timeline in timelines if timeline.slot != 0]
        return [(canary, self.canary_seconds), (others, self.watch_seconds)]

    def _switch(self, timeline: Timeline, began: float) -> None:
        new = Member(timeline.slot, timeline.to_generation)
        if self.settings.port:
            self._replace(timeline, new, began)
        self.layout.switch(new)
        timeline.switched = self.clock() - began
        before = f"generation {timeline.from_generation}" if timeline.from_generation else "nothing"
        self.say(f"{self.layout.slot_name(new.slot)}: {before} -> generation {new.generation}")

    def _replace(self, timeline: Timeline, new: Member, began: float) -> None:
        if timeline.from_generation:
            old = Member(timeline.slot, timeline.from_generation)
            self._supervisor.stop(self.layout.process(old))
            self._wait_until_stopped([old])
        self._add([new])
        timeline.started = self.clock() - began
        self._wait_until_healthy(new, self.clock() + self.health_timeout)
        timeline.healthy = self.clock() - began

    def _warn_of_gaps(self) -> None:
        self.warnings.append(
            f"{self.layout.app} listens on TCP ports: each of its processes is stopped before the new one starts, "
            "so its slot answers nothing in between; a unix socket has no such gap"
        )

    def _watch(self, plan: Plan, seconds: float) -> None:
        """Let the new processes serve for so long; fail when one dies, restarts or becomes unhealthy."""
        serving = self.layout.serving()
        slots = sorted({*plan.move, *plan.back} if seconds else ())
        members = [Member(slot, plan.generation) for slot in slots if serving.get(slot) == plan.generation]
        bad_checks = dict.fromkeys(members, 0)
        end = self.clock() + seconds
        every = Every(self.clock)
        while members:
            if (left := end - self.clock()) > 0 and every.due():
                self.say(f"watching generation {plan.generation}, {left:.0f} s left")
            running = self._running()
            for member in members:
                flaw, unhealthy = self._flaw(member, running.get(member))
                bad_checks[member] = bad_checks[member] + 1 if unhealthy else 0
                if flaw or bad_checks[member] >= CHECKS_UNTIL_UNHEALTHY:
                    self._fail_watched(plan, member, flaw or f"became unhealthy: {unhealthy}")
            if self.clock() >= end and not any(bad_checks.values()):
                return
            self.sleep(min(1.0, seconds))

    def _flaw(self, member: Member, process: Process | None) -> tuple[str, str]:
        """Why a process that was healthy is done for, or what its health check says now."""
        if not _serves(process):
            state = (process.problem or process.state) if process else "unknown to supervisord"
            return f"didn't stay up ({state})", ""
        incarnation = process.pid, process.started
        if self._incarnations.setdefault(member, incarnation) != incarnation:
            return "died and was started again", ""
        return "", self.problem(self.layout.address(member, self.settings.port), self.health_path)

    def _fail_watched(self, plan: Plan, member: Member, flaw: str) -> t.NoReturn:
        older = " and ".join(str(number) for number in sorted(set(plan.back.values())))
        outcome = f"the slots are back at generation {older}" if older else "there is nothing to go back to"
        raise RolloutError(
            f"{self.layout.slot_name(member.slot)} of generation {member.generation} (release "
            f"{self.settings.release}) {flaw}; {outcome}.{self._log_tail(member.slot)}"
        )

    def _undo(self, plan: Plan) -> None:
        """After a failure, have the slots served as before."""
        if plan.back and (self.settings.port or plan.generation in self.layout.serving().values()):
            self._go_back(plan)
        else:
            serving = self.layout.serving()
            self._take_back(
                [Member(slot, plan.generation) for slot in plan.move if serving.get(slot) != plan.generation]
            )
            if plan.generation not in serving.values():
                self.layout.discard(plan.generation)
            self._record()

    def _go_back(self, plan: Plan) -> None:
        """Give the slots back to the generation that served; the new one drains, and is pruned when it has ended."""
        for slot in sorted({*plan.move, *plan.back}):
            if self.settings.port:
                self._take_back([Member(slot, plan.generation)])
            if slot not in plan.back:
                self._give_up(slot, sorted(plan.back))
                continue
            old = Member(slot, plan.back[slot])
            if self.settings.port:
                self._supervisor.start(self.layout.process(old))
            self.layout.switch(old)
        self.layout.abandon(plan.generation)
        self._record()
        present = set(self._running()) | self.layout.programs_on_disk()
        self._let_go([member for member in present if member.generation == plan.generation])
        self._prune_patiently(max(plan.back.values()), told=True)

    def _give_up(self, slot: int, others: t.Sequence[int]) -> None:
        if self.settings.port:
            self.layout.drop_link(slot)
        else:
            self.layout.lend(slot, others[slot % len(others)])

    def _record(self) -> None:
        """Have the next boot and `current` agree with what serves."""
        if serving := self.layout.serving():
            self.layout.write_tmpfiles()
            if generation := self.layout.read_generations().get(max(serving.values())):
                self.layout.activate(generation.release)

    def _heed_interruption(self) -> None:
        """Give up, as long as no slot was switched."""
        if self.interrupted and not self._switching:
            raise RolloutError(
                f"{self.interrupted} ended the rollout of {self.layout.app} before a slot was switched; "
                "what served still serves"
            )

    def _start_stopped(self, plan: Plan) -> None:
        members = [Member(slot, plan.generation) for slot in plan.start]
        self._add(members)
        for member in members:
            self._wait_until_healthy(member, self.clock() + self.health_timeout)

    def _add(self, members: list[Member]) -> None:
        """Have supervisord start the members."""
        if not members:
            return
        for member in members:
            self._log_ends[member.slot] = self._log_size(member.slot)
            self.layout.write_program(member, self.settings)
        self._supervisor.reread()
        for member in members:
            self._supervisor.add(self.layout.group(member))
        running = self._running()
        for member in members:
            if member in running and running[member].is_stopped:
                self._supervisor.start(self.layout.process(member))

    def _let_go(self, members: list[Member]) -> None:
        """Tell the members to stop, and don't wait: they drain."""
        kernel, running = self.kernel(), self._running()
        for member in members:
            self.layout.remove_program(member)
            process = running.get(member)
            if _serves(process):
                self.layout.note_told(process.pid, kernel.start_ticks(process.pid))
            self._supervisor.stop(self.layout.process(member))

    def _let_go_of_orphans(self, plan: Plan) -> bool:
        """Tell those orphans to stop whose slot is served without them; True when there were any."""
        kernel, running = self.kernel(), self._running()
        dispensable = {}
        for pid, member in self._orphans(kernel).items():
            successor = Member(member.slot, plan.generation)
            process, address = running.get(successor), self.layout.address(successor, 0)
            # Of two processes on one port, the younger can't start before the older ends.
            if (
                self.settings.port
                or member.slot >= self.processes
                or (_serves(process) and kernel.listens(process.pid, address))
            ):
                dispensable[pid] = member
        self._tell(dispensable)
        return bool(dispensable)

    def _tell(self, orphans: t.Iterable[int]) -> None:
        """Send each orphan one SIGTERM: a second one would cut its drain short."""
        kernel = self.kernel()
        for pid in orphans:
            if not self.layout.told(pid, kernel.start_ticks(pid)):
                self.layout.note_told(pid, kernel.start_ticks(pid))
                with contextlib.suppress(ProcessLookupError):
                    self.kill(pid, signal.SIGTERM)

    def _wait_for_orphans(self) -> None:
        """Wait for the orphans that were told to stop; supervisord kills none of them, so neither do we."""
        began = self.clock()
        countdown = Countdown(self.clock, self.say)
        while waiting := self._orphans_told():
            countdown.tell(functools.partial(self._connections, self.kernel(), dict(waiting)))
            pid, member = waiting[0]
            limit = self._stop_seconds(member.generation)
            if self.clock() >= began + limit + 5:
                raise RolloutError(
                    f"{self.layout.process(member)} (orphan, pid {pid}) didn't end within {limit} s of SIGTERM"
                )
            self.sleep(0.2)

    def _orphans_told(self) -> list[tuple[int, Member]]:
        kernel = self.kernel()
        return [
            (pid, member)
            for pid, member in self._orphans(kernel).items()
            if self.layout.told(pid, kernel.start_ticks(pid))
        ]

    def _stop_seconds(self, number: int) -> int:
        generation = self.layout.read_generations().get(number)
        return int((generation or self.settings).stop_seconds)

    def _take_back(self, members: list[Member]) -> None:
        """Undo _add()."""
        for member in members:
            self.layout.remove_program(member)
            self._supervisor.stop(self.layout.process(member))
        self._wait_until_stopped(members)
        for member in members:
            self._supervisor.remove(self.layout.group(member))
        self._supervisor.reread()

    def _wait_until_healthy(self, member: Member, deadline: float) -> None:
        name = self.layout.slot_name(member.slot)
        starts: set[int] = set()
        while True:
            self._heed_interruption()
            process = self._running().get(member)
            starts.add(process.started if process else 0)
            limit = STARTS_UNTIL_BROKEN
            if process and process.state in ("STARTING", "RUNNING"):
                limit += 1  # the last one hasn't ended yet
                reason = self.problem(self.layout.address(member, self.settings.port), self.health_path)
                if not reason and process.state == "RUNNING":
                    self._incarnations[member] = process.pid, process.started
                    return
            else:
                state = (process.problem or process.state) if process else "unknown to supervisord"
                reason = f"it doesn't stay up ({state})"
            out_of_time = self.clock() >= deadline
            if out_of_time or len(starts) >= limit or (process and process.state == "FATAL"):
                when = f"within {self.health_timeout:g} s" if out_of_time else f"after {len(starts)} starts"
                raise RolloutError(
                    f"{name} of generation {member.generation} (release {self.settings.release}) "
                    f"wasn't healthy {when}: {reason}; it takes no traffic.{self._log_tail(member.slot)}"
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
        countdown = Countdown(self.clock, self.say)
        while self.clock() < began + limit + 5:
            running = self._running()
            left = {
                running[member].pid: member
                for member in members
                if member in running and not running[member].is_stopped
            }
            if not left:
                if members and self.clock() - began >= killed_after:
                    self.warnings.append(
                        f"A process of {self.layout.app} didn't end within {killed_after} s of SIGTERM and was killed: "
                        "its clients saw 1006, where one that closes its connections shows them 1001"
                    )
                return
            countdown.tell(functools.partial(self._connections, self.kernel(), left))
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

    def _connections(self, kernel: Kernel, processes: t.Mapping[int, Member]) -> int:
        """How many connections the processes hold, by pid."""
        generations = self.layout.read_generations()
        held = 0
        for pid, member in processes.items():
            generation = generations.get(member.generation)
            held += kernel.connections(pid, self.layout.entrance(member, generation))
        return held

    def _log_size(self, slot: int) -> int:
        log = self.layout.log(slot)
        return log.stat().st_size if log.exists() else 0

    def _log_tail(self, slot: int) -> str:
        """The slot's last log lines since the rollout began."""
        log = self.layout.log(slot)
        if not log.exists():
            return ""
        with log.open("rb") as file:
            file.seek(max(self._log_ends.get(slot, 0), self._log_size(slot) - LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        return "".join(f"\n  {line}" for line in lines)


def _serves(process: Process | None) -> t.TypeGuard[Process]:
    """Whether it is up and wasn't told to stop."""
    return process is not None and process.state in ("STARTING", "RUNNING")
