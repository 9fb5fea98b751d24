# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The replacement of supervisord under an app, on a real folder tree with a supervisord that exists in memory only."""

from __future__ import annotations

import os
import signal
import typing as t
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils import daemon
from ansible_collections.wsfleet.websockets.plugins.module_utils.daemon import DaemonError
from ansible_collections.wsfleet.websockets.plugins.module_utils.daemon_supervisord import (
    PACKAGE,
    Supervisord,
    apps,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    Supervisor,
    SupervisorError,
)

from tests.unit.plugins.module_utils.fake_host import FakeSupervisor, Host

TERM, KILL = int(signal.SIGTERM), int(signal.SIGKILL)


class MortalSupervisor(FakeSupervisor):
    """Can be killed; its programs live on as processes of nobody. One that is started starts what it finds."""

    number = 50

    def pid(self) -> int:
        if self.down:
            raise SupervisorError("supervisord doesn't answer")
        return self.number


class World:
    """A host with the app echo in two slots, which `worker` may share the supervisord with."""

    def __init__(self, root: Path) -> None:
        self.host = Host(root)
        self.supervisor = MortalSupervisor(self.host.layout.programs)
        self.host.supervisor = self.supervisor
        self.host.roll(processes=2)
        self.supervisor.calls.clear()
        self.host.asked.clear()
        self.now = 100_000.0
        self.kill_mode = "process"
        self.autostart = True
        self.deaf: set[str] = set()
        self.signals: list[tuple[int, int]] = []
        self.die_at = 0
        (root / "proc/uptime").write_text("1000.0 2000.0\n")
        (root / "proc/50").mkdir()
        (root / "proc/50/stat").write_text(f"50 (supervisord) S 1 {'0 ' * 17}5000 0\n")  # 950 s old
        (root / "proc/50/maps").write_text("")

    def add_worker(self) -> None:
        self.supervisor.start("worker:worker")
        self.supervisor.calls.clear()

    def run(self, _step: str, command: list[str]) -> str:
        if command[1] == "show":
            return f"{self.kill_mode}\n"
        assert command == ["systemctl", "start", "supervisor.service"]
        if self.supervisor.down:
            self.start()
        return ""

    def start(self) -> None:
        supervisor = self.supervisor
        supervisor.down = False
        supervisor.number += 1
        worker = "worker" in supervisor.states
        supervisor.states.clear()
        supervisor.reread()
        for group in sorted(supervisor.known):
            supervisor.add(group)
            if group not in self.deaf:
                self.host.proc.listen(supervisor.pids[group], f"{group.split('-')[0]}.sock")
        if worker:
            supervisor.start("worker:worker")
            supervisor.states["worker"] = "RUNNING" if self.autostart else "STOPPED"
        supervisor.calls.clear()

    def kill(self, pid: int, number: int) -> None:
        self.signals.append((pid, number))
        if number == KILL:
            assert pid == self.supervisor.number
            self.supervisor.down = True
            for group, state in self.supervisor.states.items():
                if state == "RUNNING" and group != "worker":
                    generation = group.split("-")[1]
                    self.host.proc.orphan(
                        self.supervisor.pids[group], self.host.layout.run / generation, group.split("-")[0]
                    )
        if len(self.signals) == self.die_at:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def daemon(self, restart_others: bool = False) -> Supervisord:
        host = daemon.Host(
            root=self.host.root,
            kernel=lambda: Kernel(self.host.proc.folder),
            kill=self.kill,
            run=self.run,
            now=lambda: self.now,
            sleep=self.sleep,
        )
        return Supervisord(host, t.cast(Supervisor, self.supervisor), restart_others, 60, self.host._problem)

    def pids(self) -> list[int]:
        return [self.supervisor.pids[f"echo_0{slot}-g1"] for slot in range(2)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_apps_are_found_by_their_programs(world: World) -> None:
    programs = world.host.layout.programs
    (programs / "my-game.conf").write_text("not ours, not even valid")
    (programs / "worker.conf").write_text("[program:worker]\ncommand=worker\n")
    found = apps(world.daemon().host)
    assert [(app.app, app.path, app.run) for app in found] == [
        ("echo", world.host.layout.path, world.host.layout.run)
    ]


def test_old_processes_drain_when_the_new_ones_are_healthy(world: World) -> None:
    old = world.pids()
    world.daemon().replace()
    assert world.signals == [(50, KILL), (old[0], TERM), (old[1], TERM)]
    assert world.supervisor.pid() != 50
    assert world.host.asked == [f"{world.host.layout.run}/g1/echo_0{slot}.sock" for slot in range(2)]
    assert [line.split()[0] for line in world.daemon().draining()] == [
        "echo_00-g1:echo_00",
        "echo_01-g1:echo_01",
    ]
    assert not world.daemon().is_half_replaced()


@pytest.mark.parametrize("flaw", ["deaf", "sick", "broken"])
def test_an_old_process_without_a_healthy_successor_is_left_alone(world: World, flaw: str) -> None:
    """The old one would answer in place of one that doesn't listen."""
    old = world.pids()
    if flaw == "deaf":
        world.deaf = {"echo_01-g1"}
    elif flaw == "sick":
        world.host.sick = {"echo_01"}
    else:
        world.supervisor.broken = True
    with pytest.raises(
        DaemonError, match=r"the new echo_0.-g1:echo_0. wasn't healthy within 60 s \(.+\), so its old"
    ):
        world.daemon().replace()
    assert (old[1], TERM) not in world.signals
    assert world.daemon().is_half_replaced()


def test_what_was_draining_before_is_not_told_again(world: World) -> None:
    """A second SIGTERM would cut its drain short."""
    world.supervisor.drains_for_ever = True
    world.host.roll(processes=2, release="/opt/echo/releases/b")
    draining, serving = world.pids(), [world.supervisor.pids[f"echo_0{slot}-g2"] for slot in range(2)]
    for slot, pid in enumerate(draining):
        world.host.proc.orphan(pid, world.host.layout.run / "g1", f"echo_0{slot}")
    world.daemon().replace()
    assert all(world.host.layout.told(pid, 5000) for pid in draining), "a rollout would tell them again"
    told = [pid for pid, number in world.signals if number == TERM]
    assert told == serving
    assert not set(told) & set(draining)


def test_port_apps_end_before_they_start(world: World) -> None:
    world.host.roll(processes=2, port=9000)
    old = [world.supervisor.pids[f"echo_0{slot}-g2"] for slot in range(2)]
    world.signals.clear()
    world.host.sick = {"9001"}
    with pytest.raises(DaemonError, match=r"echo_01-g2.*not ready"):
        world.daemon().replace()
    assert [pid for pid, number in world.signals if number == TERM] == old


def test_other_programs_are_a_reason_to_refuse(world: World) -> None:
    world.add_worker()
    with pytest.raises(DaemonError, match=r"supervisord also runs worker:worker, .* restart_others: true"):
        world.daemon().refuse()
    world.daemon(restart_others=True).refuse()
    world.supervisor.stop("worker:worker")
    world.daemon().refuse()


@pytest.mark.parametrize("autostart", [True, False])
def test_other_programs_never_run_twice_and_run_after(world: World, autostart: bool) -> None:
    world.add_worker()
    world.autostart = autostart
    killed: list[str] = []
    kill = world.kill

    def watch(pid: int, number: int) -> None:
        killed.append(world.supervisor.states["worker"])
        kill(pid, number)

    world.kill = watch  # type: ignore[method-assign]
    world.daemon(restart_others=True).replace()
    assert killed[0] == "STOPPED"
    assert world.supervisor.states["worker"] == "RUNNING"
    assert world.supervisor.calls == ([] if autostart else ["start worker"])


@pytest.mark.parametrize("mode", ["control-group", "mixed"])
def test_a_unit_that_would_take_the_programs_along_is_refused(world: World, mode: str) -> None:
    world.kill_mode = mode
    with pytest.raises(DaemonError, match=f"KillMode of supervisor.service is {mode}"):
        world.daemon().refuse()


@pytest.mark.parametrize("signals", [1, 2])
def test_a_run_that_was_killed_is_finished(world: World, signals: int) -> None:
    """After the end of supervisord, and after the first of the old processes was told."""
    old = world.pids()
    world.die_at = signals
    with pytest.raises(KeyboardInterrupt):
        world.daemon().replace()
    assert world.daemon().is_half_replaced()
    assert world.daemon().is_running() is (signals == 2)
    world.daemon().finish()
    assert world.signals == [(50, KILL), (old[0], TERM), (old[1], TERM)]
    assert world.daemon().is_running()
    assert not world.daemon().is_half_replaced()


def test_a_newer_package_is_a_reason(world: World) -> None:
    package = world.host.root / PACKAGE.lstrip("/")
    assert world.daemon().outdated() == []
    package.parent.mkdir(parents=True)
    package.touch()
    os.utime(package, (world.now - 951, world.now - 951))
    assert world.daemon().outdated() == []
    os.utime(package, (world.now - 949, world.now - 949))
    assert world.daemon().outdated() == ["its package was replaced"]


@pytest.mark.parametrize("whose", ["supervisord", "process"])
def test_a_replaced_library_is_a_reason(world: World, whose: str) -> None:
    pid = 50 if whose == "supervisord" else world.pids()[1]
    (world.host.root / f"proc/{pid}").mkdir(exist_ok=True)
    (world.host.root / f"proc/{pid}/maps").write_text("1-2 r-xp 0 08:01 9 /usr/lib/libssl.so.3 (deleted)\n")
    assert world.daemon().outdated() == ["it or its processes run /usr/lib/libssl.so.3, which was replaced"]


def test_the_library_of_a_process_that_drains_is_none(world: World) -> None:
    world.supervisor.states["echo_01-g1"] = "STOPPING"
    (world.host.root / f"proc/{world.pids()[1]}").mkdir()
    (world.host.root / f"proc/{world.pids()[1]}/maps").write_text(
        "1-2 r-xp 0 08:01 9 /usr/lib/a.so (deleted)\n"
    )
    assert world.daemon().outdated() == []


def test_a_supervisord_that_does_not_run_is_left_alone(world: World) -> None:
    world.supervisor.down = True
    assert not world.daemon().is_running()
    assert world.daemon().outdated() == []
    assert not world.daemon().is_half_replaced()


def test_one_that_does_not_start_is_told(world: World) -> None:
    world.start = lambda: None  # type: ignore[method-assign]
    with pytest.raises(DaemonError, match="didn't answer within 60 s; the programs of the old one run on"):
        world.daemon().replace()
    assert world.signals == [(50, KILL)]
