# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs of an app on this host. Reads only, also where nothing is installed."""

from __future__ import annotations

import time
import typing as t
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member
from ansible_collections.wsfleet.websockets.plugins.module_utils.memory import estimate, max_connections
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel, orphans
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    Process,
    Supervisor,
    SupervisorError,
)

NGINX_WORKER = "nginx: worker process"
NGINX_OLD_WORKER = f"{NGINX_WORKER} is shutting down"
# In place of supervisord's state: the process lives, and supervisord doesn't know it.
ORPHAN = "ORPHAN"
MISSING = "MISSING"


class Info:
    """One look at an app: its slots, what drains, nginx, and what is wrong."""

    def __init__(
        self,
        layout: Layout,
        supervisor: Supervisor | None,
        kernel: Kernel,
        clock: t.Callable[[], float] = time.time,
        router: str = "nginx",
        tls: bool = True,
    ) -> None:
        self.layout = layout
        self.router = router
        self.tls = tls
        self.kernel = kernel
        self.now = clock()
        self.problems: list[str] = []
        self.generations = layout.read_generations()
        self.serving = layout.serving()
        self.processes, supervisord = self._ask(supervisor)
        self.orphans = orphans(kernel, layout, supervisord)

    def result(self) -> dict[str, t.Any]:
        slots, others = [], dict(self.orphans)
        for slot, generation in sorted(self.serving.items()):
            member = Member(slot, generation)
            process = self.processes.get(member)
            pid = process.pid if process and not process.is_stopped else 0
            if not process:  # without a supervisord, an orphan serves
                pid = next((pid for pid, orphan in others.items() if orphan == member), 0)
                others.pop(pid, None)
            state = process.state if process else ORPHAN if pid else MISSING
            handover = self.layout.handover(member) if pid else {}
            slots.append({"slot": slot, **self._describe(member, pid, state), "handover": handover or None})
            self._judge(member, process, pid)
        self._compare()
        return {
            "app": self.layout.app,
            "release": self._release(self._generation),
            "generation": self._generation,
            "out_of_service": self.layout.out_of_service(),
            "slots": slots,
            "draining": self._draining(others),
            "nginx": self._nginx(),
            "memory": self._memory([slot["pid"] for slot in slots if slot["pid"]]),
            "problems": self.problems,
        }

    @property
    def _generation(self) -> int | None:
        return max(self.serving.values(), default=None)

    def _ask(self, supervisor: Supervisor | None) -> tuple[dict[Member, Process], int]:
        """The app's processes and the pid of supervisord, as it says itself."""
        if supervisor is None:
            return {}, 0
        try:
            members = ((self.layout.member(process.group), process) for process in supervisor.processes())
            return {member: process for member, process in members if member}, supervisor.pid()
        except SupervisorError as error:
            self.problems.append(str(error))
            return {}, 0

    def _release(self, generation: int | None) -> str:
        found = self.generations.get(generation or 0)
        return Path(found.release).name if found else ""

    def _describe(self, member: Member, pid: int, state: str) -> dict[str, t.Any]:
        address = self.layout.entrance(member, self.generations.get(member.generation))
        return {
            "process": self.layout.process(member),
            "generation": member.generation,
            "release": self._release(member.generation),
            "pid": pid or None,
            "state": state,
            "age_seconds": round(self.kernel.age(pid)) if pid else None,
            "connections": self.kernel.connections(pid, address) if pid else 0,
            "memory_bytes": self.kernel.memory(pid) if pid else 0,
        }

    def _draining(self, others: dict[int, Member]) -> list[dict[str, t.Any]]:
        """The processes that no longer serve, orphans and those that weren't told to stop yet included."""
        found = {
            process.pid: (member, process.state)
            for member, process in self.processes.items()
            if not process.is_stopped and self.serving.get(member.slot) != member.generation
        }
        found |= {pid: (member, ORPHAN) for pid, member in others.items()}
        for pid, member in others.items():
            if not self.layout.told(pid, self.kernel.start_ticks(pid)):
                self.problems.append(
                    f"pid {pid} of {self.layout.process(member)} lives on although its supervisord is gone; "
                    "the next rollout has it drain"
                )
        return [
            {
                "slot": member.slot,
                **self._describe(member, pid, state),
                "seconds_left": self._seconds_left(member, pid, state),
            }
            for pid, (member, state) in sorted(found.items(), key=lambda item: (item[1], item[0]))
        ]

    def _seconds_left(self, member: Member, pid: int, state: str) -> int | None:
        """Until supervisord kills it; None when nobody will."""
        told: float = self.layout.told(pid, self.kernel.start_ticks(pid))
        generation = self.generations.get(member.generation)
        if not told or not generation or state == ORPHAN:
            return None
        limit: int = generation.stop_seconds
        return max(0, round(told + limit - self.now))

    def _memory(self, pids: list[int]) -> dict[str, t.Any] | None:
        """What connections take, by the settings that the processes were started with."""
        for pid in pids:
            variables = self.kernel.environment(pid)
            handover = "--handover" in self.kernel.title(pid).split()
            if each := estimate(variables, self.router, self.tls, handover):
                available = self.kernel.memory_available()
                limit = max_connections(variables)
                return {
                    "connection_bytes": each.connection_bytes,
                    "process_bytes": each.process_bytes,
                    "proxy_bytes": each.proxy_bytes,
                    "kernel_bytes": each.kernel_bytes,
                    "worst_bytes": each.worst_bytes,
                    "available_bytes": available,
                    "more_connections": available // each.connection_bytes,
                    "total_bytes": self.kernel.memory_total(),
                    "max_connections": limit * len(pids) or None,
                    "max_bytes": limit * len(pids) * each.connection_bytes or None,
                }
        return None

    def _nginx(self) -> dict[str, t.Any]:
        titles = {pid: self.kernel.title(pid) for pid in self.kernel.pids()}
        workers = [pid for pid, title in titles.items() if title.startswith(NGINX_WORKER)]
        old = [pid for pid in workers if titles[pid] == NGINX_OLD_WORKER]
        return {
            "workers": len(workers) - len(old),
            "old_workers": [
                {
                    "pid": pid,
                    "age_seconds": round(self.kernel.age(pid)),
                    "connections": self.kernel.accepted(pid),
                }
                for pid in old
            ],
        }

    def _judge(self, member: Member, process: Process | None, pid: int) -> None:
        """Say what is wrong with the slot that the member serves."""
        name = self.layout.slot_name(member.slot)
        if not pid:
            why = f" ({process.problem or process.state})" if process else ""
            self.problems.append(f"{name} has no process of generation {member.generation}{why}")
        elif not process:
            self.problems.append(f"{name} is served by pid {pid}, which supervisord doesn't know")
        elif process.state != "RUNNING":
            self.problems.append(f"{name} is {process.state}, not RUNNING")
        address = self.layout.entrance(member, self.generations.get(member.generation))
        if address.socket_path and not Path(address.socket_path).exists():
            self.problems.append(f"{name} points at {address}, which doesn't exist")

    def _compare(self) -> None:
        """Say where slots and releases don't agree."""
        serving = sorted(set(self.serving.values()))
        if len(serving) > 1:
            numbers = " and ".join(map(str, serving))
            self.problems.append(
                f"The slots are served by generations {numbers}: a rollout goes on, or was interrupted "
                "and is finished by the next one"
            )
        current, release = self.layout.current, self._release(self._generation)
        if current.is_symlink() and release and current.readlink().name != release:
            self.problems.append(f"{current} points at {current.readlink().name}, but {release} serves")
