# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollout on a real folder tree, with a supervisord that exists in memory only."""

from __future__ import annotations

import json
import stat
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Member
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address
from ansible_collections.wsfleet.websockets.plugins.module_utils.rollout import RolloutError

from tests.unit.plugins.module_utils.fake_host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_first_deployment_runs_every_slot(host: Host) -> None:
    plan = host.roll(processes=3)
    assert plan.changes
    assert host.links() == {f"echo_0{n}.sock": f"g1/echo_0{n}.sock" for n in range(3)}
    assert host.programs() == ["echo_00-g1", "echo_01-g1", "echo_02-g1"]


def test_second_run_changes_nothing(host: Host) -> None:
    host.roll()
    host.supervisor.calls.clear()
    assert not host.roll().changes
    assert host.supervisor.calls == []


def test_upgrade_starts_all_new_before_the_first_switch_and_stops_old_last(host: Host) -> None:
    host.roll()
    host.supervisor.calls.clear()
    switched_while_asking: list[str] = []
    problem = host._problem

    def spy(address: Address, path: str) -> str:
        switched_while_asking.extend(target for target in host.links().values() if target.startswith("g2"))
        return problem(address, path)

    rollout = host.rollout(release="/opt/echo/releases/b")
    rollout.problem = spy
    plan = rollout.plan()
    rollout.execute(plan)
    rollout.settle(plan, wait=False)
    assert switched_while_asking == []
    assert host.supervisor.calls == [
        "start echo_00-g2",
        "start echo_01-g2",
        "stop echo_00-g1",
        "stop echo_01-g1",
        "remove echo_00-g1",
        "remove echo_01-g1",
    ]
    assert set(host.links().values()) == {"g2/echo_00.sock", "g2/echo_01.sock"}
    assert host.layout.all_generations() == {2}


@pytest.mark.parametrize(
    "change",
    [
        {"release": "/opt/echo/releases/b"},
        {"command": "python other.py"},
        {"environment": {"A": "1"}},
        {"secrets": {"A": "1"}},
        {"stop_seconds": 60},
    ],
)
def test_any_changed_setting_is_a_new_generation(host: Host, change: dict[str, t.Any]) -> None:
    host.roll()
    assert host.roll(**change).move == [0, 1]


def test_restart_is_a_new_generation_each_time_and_leaves_nothing_to_do(host: Host) -> None:
    host.roll()
    for number in (2, 3):
        restart = host.rollout()
        restart.restart = True
        assert host.carry_out(restart).move == [0, 1]
        assert set(host.links().values()) == {f"g{number}/echo_00.sock", f"g{number}/echo_01.sock"}
        assert not host.roll().changes


@pytest.mark.parametrize("broken", [True, False])
def test_unhealthy_release_leaves_all_as_it_was(host: Host, broken: bool) -> None:
    host.roll()
    before = (host.links(), host.programs(), host.layout.all_generations(), dict(host.supervisor.states))
    host.layout.log(0).write_text("old line\n")
    host.supervisor.broken = broken
    host.sick.add("g2")
    with pytest.raises(RolloutError, match=r"echo_00 of generation 2 .* wasn't healthy"):
        host.roll(release="/opt/echo/releases/b")
    assert (host.links(), host.programs(), host.layout.all_generations(), host.supervisor.states) == before


def test_failure_carries_the_new_log_lines_only(host: Host) -> None:
    host.layout.log(0).write_text("of an older process\n")
    rollout = host.rollout()

    def crash(address: Address, path: str) -> str:
        with host.layout.log(0).open("a") as log:
            log.write("ImportError: no module named chat\n")
        return "not ready"

    rollout.problem = crash
    with pytest.raises(RolloutError) as failure:
        rollout.execute(rollout.plan())
    assert "ImportError: no module named chat" in str(failure.value)
    assert "older" not in str(failure.value)


def test_draining_process_is_left_alone_and_pruned_later(host: Host) -> None:
    host.roll()
    host.supervisor.drains_for_ever = True
    rollout = host.rollout(release="/opt/echo/releases/b")
    plan = rollout.plan()
    rollout.execute(plan)
    assert rollout.settle(plan, wait=False) == [Member(0, 1), Member(1, 1)]
    assert host.layout.all_generations() == {1, 2}, "its start script and sockets are still needed"
    host.supervisor.states.update({"echo_00-g1": "STOPPED", "echo_01-g1": "STOPPED"})
    assert not host.roll().changes
    assert host.layout.all_generations() == {2}
    assert sorted(host.supervisor.states) == ["echo_00-g2", "echo_01-g2"]


def test_growing_touches_no_running_process(host: Host) -> None:
    host.roll(processes=2)
    host.supervisor.calls.clear()
    assert host.roll(processes=4).move == [2, 3]
    assert host.supervisor.calls == ["start echo_02-g1", "start echo_03-g1"]


def test_shrinking_lends_the_slot_until_the_next_run(host: Host) -> None:
    host.roll(processes=3)
    host.supervisor.calls.clear()
    host.roll(processes=2)
    assert host.supervisor.calls == ["stop echo_02-g1", "remove echo_02-g1"]
    assert host.links()["echo_02.sock"] == "echo_00.sock"
    assert not host.roll(processes=2).changes
    assert "echo_02.sock" not in host.links()


def test_stopped_process_is_started_again(host: Host) -> None:
    host.roll()
    host.supervisor.states["echo_01-g1"] = "STOPPED"
    assert host.roll().start == [1]
    assert host.supervisor.states["echo_01-g1"] == "RUNNING"


@pytest.mark.parametrize("step", ["add", "switch", "write_tmpfiles", "remove_program"])
def test_run_killed_in_the_middle_is_finished_by_the_next(
    host: Host, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.roll()
    target: t.Any = host.supervisor if step == "add" else host.layout
    real, calls = getattr(target, step), 0

    def killed(*arguments: t.Any) -> t.Any:
        nonlocal calls
        calls += 1
        if calls > 1 or step == "write_tmpfiles":
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(target, step, killed)
        with pytest.raises(KeyboardInterrupt):
            host.roll(release="/opt/echo/releases/b")
    assert all(host.supervisor.states[target] == "RUNNING" for target in _served_by(host)), (
        "a slot leads nowhere"
    )
    host.roll()
    assert set(host.links().values()) == {"g2/echo_00.sock", "g2/echo_01.sock"}
    assert host.programs() == ["echo_00-g2", "echo_01-g2"]
    assert host.supervisor.states == {"echo_00-g2": "RUNNING", "echo_01-g2": "RUNNING"}


def _served_by(host: Host) -> list[str]:
    return [f"{name.removesuffix('.sock')}-{target.split('/')[0]}" for name, target in host.links().items()]


def test_after_a_killed_run_the_old_settings_still_serve(host: Host) -> None:
    host.roll()
    rollout = host.rollout(release="/opt/echo/releases/b")
    plan = rollout.plan()
    host.layout.create(plan.generation, rollout.settings)
    assert not host.roll(release="/opt/echo/releases/a").changes
    assert host.layout.all_generations() == {1}


def test_tcp_app_is_stopped_before_it_starts_slot_by_slot_and_says_so(host: Host) -> None:
    host.roll(port=8100)
    assert host.asked[-1] == "127.0.0.1:8101"
    host.supervisor.calls.clear()
    rollout = host.rollout(release="/opt/echo/releases/b")
    rollout.execute(rollout.plan())
    assert host.supervisor.calls == [
        "stop echo_00-g1",
        "start echo_00-g2",
        "stop echo_01-g1",
        "start echo_01-g2",
    ]
    assert "is stopped before the new one starts" in rollout.warnings[0]


def test_process_that_had_to_be_killed_is_reported(host: Host) -> None:
    host.roll(stop_seconds=7)
    host.supervisor.drains_for_ever = True
    rollout = host.rollout(stop_seconds=3)
    plan = rollout.plan()
    rollout.execute(plan)
    sleep = rollout.sleep

    def killed_after_seven_seconds(seconds: float) -> None:
        sleep(seconds)
        if rollout.clock() >= 7:
            host.supervisor.states.update({"echo_00-g1": "STOPPED", "echo_01-g1": "STOPPED"})

    rollout.sleep = killed_after_seven_seconds
    assert rollout.settle(plan, wait=True) == []
    assert "didn't end within 7 s of SIGTERM and was killed" in rollout.warnings[0]


def test_boot_starts_the_serving_generation_only(host: Host) -> None:
    host.roll()
    host.roll(release="/opt/echo/releases/b")
    tmpfiles = host.layout.tmpfiles.read_text()
    assert "g2/echo_00.sock" in tmpfiles
    assert "g1" not in tmpfiles
    assert host.programs() == ["echo_00-g2", "echo_01-g2"]


def test_removal_leaves_releases_only(host: Host) -> None:
    host.roll()
    assert host.rollout().remove()
    assert host.supervisor.states == {}
    assert host.programs() == []
    assert not host.layout.run.exists()
    assert not host.layout.generations.exists()
    assert not host.rollout().remove()


def test_start_script_hands_over_environment_and_secrets(host: Host) -> None:
    value = 'it\'s $ecret\n`two` "lines"'
    host.roll(secrets={"TOKEN": value}, command='printf %s "$TOKEN"')
    folder = host.layout.generations / "1"
    printed = subprocess.run([folder / "start"], capture_output=True, text=True, check=True)
    assert printed.stdout == value
    assert stat.S_IMODE((folder / "environment").stat().st_mode) == 0o400
    assert value not in (folder / "start").read_text() + (folder / "generation.json").read_text()
    assert stat.S_IMODE((host.layout.run / "g1").stat().st_mode) == 0o2750


def test_other_programs_are_not_ours(host: Host) -> None:
    assert host.layout.member("cron") is None
    assert host.layout.member("echo_two_00-g1") is None
    assert host.layout.member("echo_07-g12") == Member(7, 12)


def forecast_of_an_upgrade(host: Host, **settings: t.Any) -> dict[str, t.Any]:
    """What an upgrade of two slots costs, whose processes hold 300 and 100 connections."""
    host.roll(**settings)
    host.proc.process(host.pid("echo_00-g1"), "echo_00.sock", connections=300, mebibytes=80)
    host.proc.process(host.pid("echo_01-g1"), f"{host.layout.run}/g1/echo_01.sock", 100, mebibytes=10)
    rollout = host.rollout(release="/opt/echo/releases/b")
    forecast: dict[str, t.Any] = vars(rollout.forecast(rollout.plan()))
    return forecast


def test_forecast_of_the_runner(host: Host) -> None:
    pace = {"WS_DRAIN_SECONDS": "30", "WS_DRAIN_RATE": "20"}
    assert forecast_of_an_upgrade(host, environment=pace) == {
        "connections": 400,
        "drain_seconds": 15.0,
        "memory_needed_bytes": (80 + 30) * 2**20,
        "memory_available_bytes": 1000 * 2**20,
        "fits": True,
    }


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WS_DRAIN_SECONDS": "30"}, 6.0),
        ({"WS_DRAIN_SECONDS": "4"}, 4.0),
        ({"WS_DRAIN_SECONDS": "soon"}, 50.0),
        ({}, 50.0),
    ],
)
def test_forecast_at_the_pace_of_what_leaves(host: Host, environment: dict[str, str], seconds: float) -> None:
    assert forecast_of_an_upgrade(host, environment=environment)["drain_seconds"] == seconds


def test_forecast_where_an_older_version_wrote_the_generation(host: Host) -> None:
    host.roll()
    file = host.layout.generations / "1/generation.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({name: facts[name] for name in ("digest", "release", "stop_seconds")}))
    host.proc.process(host.pid("echo_00-g1"), "echo_00.sock", connections=1)
    rollout = host.rollout(release="/opt/echo/releases/b")
    assert rollout.forecast(rollout.plan()).drain_seconds == 50.0


def test_forecast_of_nothing_and_of_a_smaller_number(host: Host) -> None:
    host.roll(processes=3)
    for n in range(3):
        host.proc.process(host.pid(f"echo_0{n}-g1"), f"echo_0{n}.sock", connections=10)
    for processes, connections in ((3, 0), (2, 10)):
        rollout = host.rollout(processes)
        forecast = rollout.forecast(rollout.plan())
        assert (forecast.connections, forecast.memory_needed_bytes) == (connections, 0)


def test_forecast_leaves_out_what_drains_already(host: Host) -> None:
    host.roll()
    host.supervisor.drains_for_ever = True
    host.roll(release="/opt/echo/releases/b")
    host.proc.process(host.pid("echo_00-g1"), "echo_00.sock", connections=10)
    rollout = host.rollout()
    assert rollout.forecast(rollout.plan()).connections == 0


def test_rollout_that_does_not_fit_into_memory_touches_nothing(host: Host) -> None:
    host.roll()
    host.proc.available(59)
    before = (host.links(), host.programs(), host.layout.all_generations())
    with pytest.raises(RolloutError, match=r"need 60 MiB of memory .* and 59 MiB are available"):
        host.roll(release="/opt/echo/releases/b")
    assert (host.links(), host.programs(), host.layout.all_generations()) == before
    assert not host.roll(release="/opt/echo/releases/a").changes, "nothing to do needs no memory"
    rollout = host.rollout(release="/opt/echo/releases/b")
    rollout.memory_check = False
    assert host.carry_out(rollout).move == [0, 1]
