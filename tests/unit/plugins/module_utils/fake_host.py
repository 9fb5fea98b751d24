# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with the app `echo`: a real folder tree, a supervisord and a /proc that exist for the test only."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import typing as t
from dataclasses import replace
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Settings
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.rollout import Plan, Rollout
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    Process,
    Supervisor,
    SupervisorError,
)

ME = pwd.getpwuid(os.getuid()).pw_name
OPTIONS = {
    "restart",
    "canary_seconds",
    "watch_seconds",
    "max_generations",
    "memory_check",
    "close_connections",
}
MY_GROUP = grp.getgrgid(os.getgid()).gr_name


class FakeSupervisor:
    """Reads the programs' files as supervisord does; what it does with processes is in `calls`."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.known: set[str] = set()
        self.states: dict[str, str] = {}
        self.starts: dict[str, int] = {}
        self.pids: dict[str, int] = {}
        self.calls: list[str] = []
        self.broken = False
        self.down = False
        self.drains_for_ever = False

    def pid(self) -> int:
        return 1

    def processes(self) -> list[Process]:
        if self.down:
            raise SupervisorError("supervisord doesn't answer")
        for group, state in self.states.items():
            if state == "BACKOFF":
                self.starts[group] += 1
        return [
            Process(
                group,
                group.split("-")[0],
                state,
                self.pids[group],
                self.starts[group],
                0,
                "Exited too quickly",
            )
            for group, state in self.states.items()
        ]

    def reread(self) -> None:
        self.known = {file.stem for file in self.programs.glob("*.conf")}

    def add(self, group: str) -> None:
        assert group in self.known, "added before it was reread"
        if group not in self.states:
            self.start(f"{group}:{group.split('-')[0]}")

    def remove(self, group: str) -> None:
        if group not in self.states:
            return
        assert self.states[group] == "STOPPED", "removed while it ran"
        del self.states[group]
        self.calls.append(f"remove {group}")

    def start(self, name: str) -> None:
        group = name.split(":")[0]
        self.starts[group] = self.starts.get(group, 0) + 1
        self.pids[group] = 100 + sum(self.starts.values())
        self.states[group] = "BACKOFF" if self.broken else "RUNNING"
        self.calls.append(f"start {group}")

    def crash(self, group: str) -> None:
        """The process dies, and is started again by supervisord."""
        self.start(f"{group}:")
        self.calls.pop()

    def stop(self, name: str) -> None:
        group = name.split(":")[0]
        if self.states.get(group) in ("STARTING", "RUNNING", "BACKOFF"):
            self.states[group] = "STOPPING" if self.drains_for_ever else "STOPPED"
            self.calls.append(f"stop {group}")


class Proc:
    """What /proc says of the processes: their connections at a slot's socket, and their memory in MiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inode = 0
        (folder / "net").mkdir(parents=True)
        (folder / "net/unix").write_text("Num RefCount Protocol Flags Type St Inode Path\n")
        self.available(1000)

    def available(self, mebibytes: int) -> None:
        (self.folder / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {mebibytes * 1024} kB\n")

    def listen(self, pid: int, socket: str) -> None:
        self._socket(pid, "00010000 0001 01", socket)

    def orphan(self, pid: int, folder: Path, name: str) -> None:
        (self.folder / f"{pid}").mkdir()
        (self.folder / f"{pid}/cwd").symlink_to(folder)
        (self.folder / f"{pid}/environ").write_text(f"A=1\0SUPERVISOR_PROCESS_NAME={name}\0")
        (self.folder / f"{pid}/stat").write_text(f"{pid} (python) S 2 {'0 ' * 17}5000 0\n")

    def end(self, pid: int) -> None:
        shutil.rmtree(self.folder / f"{pid}")

    def process(self, pid: int, socket: str, connections: int, mebibytes: int = 0) -> None:
        for _n in range(connections):
            self._socket(pid, "00000000 0001 03", socket)
        (self.folder / f"{pid}/smaps_rollup").write_text(f"Pss: {mebibytes * 1024} kB\n")

    def _socket(self, pid: int, flags_type_state: str, path: str) -> None:
        self.inode += 1
        descriptors = self.folder / f"{pid}/fd"
        descriptors.mkdir(parents=True, exist_ok=True)
        (descriptors / f"{self.inode}").symlink_to(f"socket:[{self.inode}]")
        with (self.folder / "net/unix").open("a") as table:
            table.write(f"0000: 00000003 00000000 {flags_type_state} {self.inode} {path}\n")


class Host:
    """One host with the app `echo`; `roll()` is what a run of ws_rollout does."""

    def __init__(self, root: Path) -> None:
        for folder in ("run", "etc/supervisor/conf.d", "etc/tmpfiles.d", "opt/echo", "var/log/echo"):
            (root / folder).mkdir(parents=True)
        self.root = root
        self.layout = Layout("echo", "/opt/echo", str(root))
        self.supervisor = FakeSupervisor(self.layout.programs)
        self.proc = Proc(root / "proc")
        self.asked: list[str] = []
        self.sick: set[str] = set()
        self.later: list[tuple[float, t.Callable[[], object]]] = []
        self.killed: list[tuple[int, int]] = []
        self.settings = Settings("/opt/echo/releases/a", "python server.py", ME, MY_GROUP, {}, {}, 0, 50)

    def rollout(self, processes: int = 2, **changes: t.Any) -> Rollout:
        """What is in `later` happens so many seconds after the rollout's begin."""
        options = {name: changes.pop(name) for name in OPTIONS & set(changes)}
        self.settings = replace(self.settings, **changes)
        now = 0.0

        def clock() -> float:
            return now

        def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds
            due = [event for event in self.later if event[0] <= now]
            self.later = [event for event in self.later if event[0] > now]
            for _moment, happen in due:
                happen()

        return Rollout(
            self.layout,
            self.settings,
            processes,
            t.cast(Supervisor, self.supervisor),
            clock=clock,
            sleep=sleep,
            problem=self._problem,
            kernel=lambda: Kernel(self.proc.folder),
            kill=lambda pid, number: self.killed.append((pid, number)),
            **options,
        )

    def roll(self, processes: int = 2, **changes: t.Any) -> Plan:
        return self.carry_out(self.rollout(processes, **changes))

    def carry_out(self, rollout: Rollout) -> Plan:
        plan = rollout.plan()
        rollout.execute(plan)
        rollout.settle(plan, wait=False)
        return plan

    def _problem(self, address: Address, path: str) -> str:
        self.asked.append(f"{address}{path}")
        return "not ready" if any(part in str(address) for part in self.sick) else ""

    def pid(self, group: str) -> int:
        return self.supervisor.pids[group]

    def links(self) -> dict[str, str]:
        return {path.name: str(path.readlink()) for path in self.layout.run.glob("*.sock")}

    def programs(self) -> list[str]:
        return sorted(file.stem for file in self.layout.programs.glob("*"))
