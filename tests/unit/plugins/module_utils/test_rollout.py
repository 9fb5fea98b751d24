# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollout on a real folder tree, with a supervisord that exists in memory only."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Member
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address
from ansible_collections.wsfleet.websockets.plugins.module_utils.rollout import Rollout, RolloutError
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import SupervisorError

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
        assert host.roll(restart=True).move == [0, 1]
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


def test_release_that_is_seen_only_while_it_starts_is_broken_too(host: Host) -> None:
    host.roll()
    rollout = host.rollout(release="/opt/echo/releases/b")

    def crash(address: Address, path: str) -> str:
        host.supervisor.crash("echo_00-g2")
        return "not ready"

    rollout.problem = crash
    with pytest.raises(RolloutError, match="wasn't healthy after 4 starts"):
        rollout.execute(rollout.plan())


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
    assert rollout.settle(plan, wait=False) == ["echo_00-g1:echo_00", "echo_01-g1:echo_01"]
    assert host.layout.all_generations() == {1, 2}, "its start script and sockets are still needed"
    host.supervisor.states.update({"echo_00-g1": "STOPPED", "echo_01-g1": "STOPPED"})
    assert not host.roll().changes
    assert host.layout.all_generations() == {2}
    assert sorted(host.supervisor.states) == ["echo_00-g2", "echo_01-g2"]


def test_old_processes_that_may_not_drain_yet_go_with_the_next_run(host: Host) -> None:
    host.roll()
    rollout = host.rollout(release="/opt/echo/releases/b")
    plan = rollout.plan()
    rollout.execute(plan)
    assert rollout.settle(plan, wait=False, drain=False) == []
    assert host.supervisor.states["echo_00-g1"] == "RUNNING"
    assert set(host.links().values()) == {"g2/echo_00.sock", "g2/echo_01.sock"}
    assert "g2/echo_00.sock" in host.layout.tmpfiles.read_text()
    assert not host.roll(release="/opt/echo/releases/b").changes
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
        "moving": 0,
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


def test_what_a_newer_version_wrote_beside_is_left_alone(host: Host) -> None:
    host.roll()
    file = host.layout.generations / "1/generation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"of_tomorrow": 1}))
    assert not host.roll().changes


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
    planned = host.rollout(release="/opt/echo/releases/b")
    assert str(planned.forecast(planned.plan())).endswith("60 MiB, available: 59 MiB, too little")
    with pytest.raises(RolloutError, match=r"need 60 MiB of memory .* and 59 MiB are available"):
        host.roll(release="/opt/echo/releases/b")
    assert (host.links(), host.programs(), host.layout.all_generations()) == before
    assert not host.roll(release="/opt/echo/releases/a").changes, "nothing to do needs no memory"
    assert host.roll(release="/opt/echo/releases/b", memory_check=False).move == [0, 1]


B = "/opt/echo/releases/b"
OLD = {"echo_00.sock": "g1/echo_00.sock", "echo_01.sock": "g1/echo_01.sock"}
NEW = {"echo_00.sock": "g2/echo_00.sock", "echo_01.sock": "g2/echo_01.sock"}
CANARY = NEW | {"echo_01.sock": OLD["echo_01.sock"]}


def test_canary_serves_alone_for_so_long_and_then_the_others(host: Host) -> None:
    host.roll()
    seen: list[dict[str, str]] = []
    host.later = [(moment, lambda: seen.append(host.links())) for moment in (1, 9)]
    rollout = host.rollout(release=B, canary_seconds=10)
    timelines = rollout.execute(rollout.plan())
    assert seen == [CANARY, CANARY]
    assert [timeline.switched for timeline in timelines] == [0, 10]
    assert host.links() == NEW


def test_old_processes_are_kept_while_the_new_ones_are_watched(host: Host) -> None:
    host.roll()
    host.supervisor.calls.clear()
    seen: list[tuple[dict[str, str], list[str]]] = []
    host.later = [
        (moment, lambda: seen.append((host.links(), host.supervisor.calls[2:]))) for moment in (1, 9)
    ]
    host.roll(release=B, watch_seconds=10)
    assert seen == [(NEW, []), (NEW, [])]
    assert "stop echo_00-g1" in host.supervisor.calls


def failures(host: Host, group: str) -> dict[str, tuple[t.Callable[[], object], str]]:
    """What may happen to a process, and what is said of it."""

    def restart() -> None:
        host.supervisor.crash(group)
        host.supervisor.states[group] = "STARTING"

    return {
        "restarts": (restart, "died and was started again"),
        "is down": (
            lambda: host.supervisor.states.update({group: "BACKOFF"}),
            "didn't stay up (Exited too quickly)",
        ),
        "unhealthy": (lambda: host.sick.add("g2"), "became unhealthy: not ready"),
    }


@pytest.mark.parametrize("failure", ["restarts", "is down", "unhealthy"])
@pytest.mark.parametrize(
    ("window", "group"),
    [
        ({"canary_seconds": 10}, "echo_00-g2"),
        ({"watch_seconds": 10}, "echo_01-g2"),
        ({"canary_seconds": 10, "watch_seconds": 10}, "echo_00-g2"),
    ],
)
def test_new_process_that_fails_while_it_is_watched_has_all_slots_go_back(
    host: Host, window: dict[str, int], group: str, failure: str
) -> None:
    releases = host.layout.path / "releases"
    for name in "ab":
        (releases / name).mkdir(parents=True)
    host.roll(release=str(releases / "a"))
    tmpfiles = host.layout.tmpfiles.read_text()
    host.supervisor.calls.clear()
    happen, words = failures(host, group)[failure]
    host.layout.log(0).write_text("an old line\n")

    def fail() -> None:
        happen()
        for slot in range(2):
            with host.layout.log(slot).open("a") as log:
                log.write("Traceback\n")

    host.later = [(5 + sum(window.values()) - 10, fail)]
    with pytest.raises(RolloutError) as error:
        host.roll(release=str(releases / "b"), **window)
    name = "echo_00" if failure == "unhealthy" else group.split("-")[0]
    assert str(error.value) == (
        f"{name} of generation 2 (release {releases}/b) {words}; the slots are back at generation 1.\n  Traceback"
    )
    assert host.links() == OLD
    assert host.programs() == ["echo_00-g1", "echo_01-g1"]
    assert host.supervisor.states == {"echo_00-g1": "RUNNING", "echo_01-g1": "RUNNING"}
    assert "stop echo_00-g1" not in host.supervisor.calls
    assert host.layout.all_generations() == {1}
    assert host.layout.tmpfiles.read_text() == tmpfiles
    assert host.layout.current.resolve() == releases / "a"
    host.sick.clear()
    assert host.roll(release=str(releases / "b")).move == [0, 1]
    assert host.layout.current.resolve() == releases / "b"


def test_a_bad_answer_or_two_are_no_failure(host: Host) -> None:
    host.roll()
    host.later = [(3, lambda: host.sick.add("g2")), (5, host.sick.clear), (10, lambda: host.sick.add("g2"))]
    host.later += [(12, host.sick.clear)]
    host.roll(release=B, watch_seconds=10)
    assert host.links() == NEW


def test_generation_that_failed_and_drains_is_not_taken_for_the_wanted_one(host: Host) -> None:
    host.roll()

    def fail() -> None:
        host.supervisor.drains_for_ever = True
        host.supervisor.crash("echo_00-g2")

    host.later = [(5, fail)]
    with pytest.raises(RolloutError):
        host.roll(release=B, watch_seconds=10)
    assert host.layout.all_generations() == {1, 2}
    assert host.roll().generation == 3
    host.supervisor.states.update({"echo_00-g2": "STOPPED", "echo_01-g2": "STOPPED"})
    host.roll()
    assert 2 not in host.layout.all_generations()


def test_slots_that_are_new_go_back_to_slot_00(host: Host) -> None:
    host.roll()
    host.later = [(5, lambda: host.supervisor.crash("echo_02-g2"))]
    with pytest.raises(RolloutError, match=r"echo_02 .* the slots are back at generation 1"):
        host.roll(processes=3, release=B, watch_seconds=10)
    assert host.links() == OLD | {"echo_02.sock": "echo_00.sock"}


def test_first_generation_that_fails_is_only_reported(host: Host) -> None:
    host.later = [(5, lambda: host.supervisor.crash("echo_01-g1"))]
    with pytest.raises(RolloutError, match=r"echo_01 .* there is nothing to go back to"):
        host.roll(canary_seconds=5, watch_seconds=10)
    assert host.links() == OLD
    assert "g1/echo_00.sock" in host.layout.tmpfiles.read_text()
    assert host.supervisor.states == {"echo_00-g1": "RUNNING", "echo_01-g1": "RUNNING"}
    assert not host.roll().changes


def killed() -> t.NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("window", "links"), [({"canary_seconds": 10}, CANARY), ({"watch_seconds": 10}, NEW)]
)
@pytest.mark.parametrize("release", [B, "/opt/echo/releases/a"])
def test_run_killed_while_it_watches_is_finished_or_undone(
    host: Host, window: dict[str, int], links: dict[str, str], release: str
) -> None:
    host.roll()
    host.later = [(5, killed)]
    with pytest.raises(KeyboardInterrupt):
        host.roll(release=B, **window)
    assert host.links() == links
    assert set(host.supervisor.states.values()) == {"RUNNING"}
    plan = host.roll(release=release, **window)
    serving = f"g{plan.generation}"
    assert {target.split("/")[0] for target in host.links().values()} == {serving}
    assert host.layout.read_generations()[plan.generation].release == release
    assert host.layout.all_generations() == {plan.generation}
    assert host.programs() == [f"echo_00-{serving}", f"echo_01-{serving}"]
    assert host.supervisor.states == dict.fromkeys(host.programs(), "RUNNING")
    assert not host.roll(release=release).changes


@pytest.mark.parametrize("window", [{"canary_seconds": 10}, {"watch_seconds": 10}])
def test_run_after_a_killed_one_still_can_go_back(host: Host, window: dict[str, int]) -> None:
    host.roll()
    host.later = [(5, killed)]
    with pytest.raises(KeyboardInterrupt):
        host.roll(release=B, **window)
    host.later = [(5, lambda: host.supervisor.crash("echo_00-g2"))]
    with pytest.raises(RolloutError, match="the slots are back at generation 1"):
        host.roll(**window)
    assert host.links() == OLD
    assert host.supervisor.states == {"echo_00-g1": "RUNNING", "echo_01-g1": "RUNNING"}


def test_run_after_one_that_was_killed_when_it_had_succeeded_goes_forward_only(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.roll()
    with monkeypatch.context() as patch:
        patch.setattr(host.layout, "note_told", lambda _pid, _ticks: killed())
        with pytest.raises(KeyboardInterrupt):
            host.roll(release=B)
    assert host.programs() == ["echo_00-g2", "echo_01-g1", "echo_01-g2"]
    assert host.rollout().plan().back == {}


def test_leftovers_of_a_killed_run_are_never_gone_back_to(host: Host) -> None:
    host.roll()
    host.sick.add("g2")
    host.later = [(5, killed)]
    with pytest.raises(KeyboardInterrupt):
        host.roll(release=B)
    host.later = [(5, killed)]
    with pytest.raises(KeyboardInterrupt):
        host.roll(release="/opt/echo/releases/c", watch_seconds=10)
    assert host.rollout().plan().back == {0: 1, 1: 1}


def test_tcp_app_goes_back_by_starting_the_old_processes(host: Host) -> None:
    host.roll(port=8100)
    host.supervisor.calls.clear()
    host.later = [(5, lambda: host.supervisor.crash("echo_00-g2"))]
    with pytest.raises(RolloutError, match="the slots are back at generation 1"):
        host.roll(release=B, watch_seconds=10)
    assert host.links() == OLD
    assert host.supervisor.states == {"echo_00-g1": "RUNNING", "echo_01-g1": "RUNNING"}
    calls = host.supervisor.calls
    assert calls.index("stop echo_00-g2") < calls.index("start echo_00-g1"), "they can't share the port"


@pytest.mark.parametrize("slot", [0, 1])
def test_tcp_app_with_a_process_that_fails_goes_back_as_a_whole(host: Host, slot: int) -> None:
    host.roll(port=8100)
    rollout = host.rollout(release=B)
    rollout.problem = lambda address, _path: "not ready" if address.port == 8100 + slot else ""
    with pytest.raises(RolloutError, match=f"echo_0{slot} of generation 2"):
        rollout.execute(rollout.plan())
    assert host.links() == OLD
    assert host.supervisor.states == {"echo_00-g1": "RUNNING", "echo_01-g1": "RUNNING"}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_before_the_first_switch_puts_all_back(host: Host, name: str) -> None:
    host.roll()
    before = (host.links(), host.programs(), host.layout.all_generations(), dict(host.supervisor.states))
    host.sick.add("g2")
    rollout = host.rollout(release=B)
    host.later = [(5, lambda: setattr(rollout, "interrupted", name))]
    with pytest.raises(RolloutError, match=f"{name} ended the rollout of echo before a slot was switched"):
        host.carry_out(rollout)
    assert rollout.clock() < 7, "it waited for the health check's limit"
    assert (host.links(), host.programs(), host.layout.all_generations(), host.supervisor.states) == before


def test_signal_when_all_are_healthy_is_heeded_too(host: Host) -> None:
    host.roll()
    rollout = host.rollout(release=B)

    def problem(address: Address, _path: str) -> str:
        rollout.interrupted = "SIGINT" if "echo_01" in str(address) else ""
        return ""

    rollout.problem = problem
    with pytest.raises(RolloutError, match="SIGINT"):
        host.carry_out(rollout)
    assert host.links() == OLD


def test_signal_after_the_first_switch_is_too_late(host: Host) -> None:
    host.roll()
    rollout = host.rollout(release=B, canary_seconds=10)
    host.later = [(5, lambda: setattr(rollout, "interrupted", "SIGTERM"))]
    host.carry_out(rollout)
    assert host.links() == NEW
    assert host.programs() == ["echo_00-g2", "echo_01-g2"]


def test_signal_between_two_slots_of_a_tcp_app_is_too_late(host: Host) -> None:
    host.roll(port=8100)
    rollout = host.rollout(release=B)

    def problem(_address: Address, _path: str) -> str:
        rollout.interrupted = "SIGTERM"
        return ""

    rollout.problem = problem
    host.carry_out(rollout)
    assert host.links() == NEW


def stop_generation(host: Host, number: int) -> None:
    ended = [group for group in host.supervisor.states if group.endswith(f"-g{number}")]
    host.supervisor.states.update(dict.fromkeys(ended, "STOPPED"))
    host.supervisor.calls.append(f"generation {number} ended")


def test_rollout_waits_for_the_oldest_generation_when_there_are_too_many(host: Host) -> None:
    host.roll()
    host.supervisor.drains_for_ever = True
    host.roll(release=B)
    # The new processes, too, have their full time to become healthy.
    host.later = [(40, lambda: stop_generation(host, 1)), (60, host.sick.clear)]
    host.sick.add("g3")
    host.supervisor.calls.clear()
    host.roll(release="/opt/echo/releases/c", max_generations=2)
    assert host.supervisor.calls[:2] == ["generation 1 ended", "start echo_00-g3"]
    host.supervisor.calls.clear()
    host.roll(release="/opt/echo/releases/d", max_generations=3)
    assert host.supervisor.calls[0] == "start echo_00-g4", "only two are alive: no wait"


def test_generation_that_does_not_end_is_waited_for_as_long_as_it_may_take(host: Host) -> None:
    host.roll(stop_seconds=20)
    host.supervisor.drains_for_ever = True
    host.roll(release=B, stop_seconds=90)
    before = (host.links(), host.programs(), host.layout.all_generations())
    rollout = host.rollout(release="/opt/echo/releases/c", max_generations=2)
    with pytest.raises(RolloutError, match=r"Generation 1 of echo didn't end within 20 s, .* allows 2"):
        host.carry_out(rollout)
    assert 25 <= rollout.clock() < 27
    assert (host.links(), host.programs(), host.layout.all_generations()) == before


def test_signal_ends_the_wait_for_room(host: Host) -> None:
    host.roll()
    host.supervisor.drains_for_ever = True
    host.roll(release=B)
    rollout = host.rollout(release="/opt/echo/releases/c", max_generations=2)
    host.later = [(5, lambda: setattr(rollout, "interrupted", "SIGTERM"))]
    with pytest.raises(RolloutError, match="SIGTERM"):
        host.carry_out(rollout)
    assert host.links() == NEW


def orphaned(host: Host) -> int:
    """Have supervisord have been killed and started: slot 00's old process lives on. Returns its pid."""
    host.roll()
    host.proc.orphan(77, host.layout.run / "g1", "echo_00")
    return 77


def test_orphan_is_told_once_to_drain_when_its_successor_listens(host: Host) -> None:
    pid = orphaned(host)
    host.proc.listen(host.pid("echo_00-g1"), "echo_00.sock")
    for _n in range(2):
        rollout = host.rollout()
        plan = rollout.plan()
        rollout.execute(plan)
        assert rollout.settle(plan, wait=False) == ["echo_00-g1:echo_00 (orphan, pid 77)"]
    assert host.killed == [(pid, signal.SIGTERM)]
    host.proc.end(pid)
    host.roll()
    assert list(host.layout.run.glob("told.*")) == []


@pytest.mark.parametrize("listening", ["echo_01.sock", ""])
def test_orphan_that_still_serves_is_left_alone(host: Host, listening: str) -> None:
    orphaned(host)
    if listening:
        host.proc.listen(host.pid("echo_01-g1"), listening)
    host.roll()
    assert host.killed == []


def test_orphan_of_an_upgrade_keeps_its_folder_and_is_in_the_forecast(host: Host) -> None:
    pid = orphaned(host)
    host.proc.process(pid, "echo_00.sock", connections=5)
    rollout = host.rollout(release=B)
    assert rollout.forecast(rollout.plan()).connections == 5
    rollout.execute(rollout.plan())
    host.proc.listen(host.pid("echo_00-g2"), "echo_00.sock")
    rollout.settle(rollout.plan(), wait=False)
    assert host.killed == [(pid, signal.SIGTERM)]
    assert host.layout.all_generations() == {1, 2}


def test_orphan_of_a_slot_that_was_given_up_or_of_a_port_is_told(host: Host) -> None:
    orphaned(host)
    host.proc.orphan(78, host.layout.run / "g1", "echo_07")
    host.roll()
    assert host.killed == [(78, signal.SIGTERM)]
    host.roll(port=8100)
    assert host.killed == [(78, signal.SIGTERM), (77, signal.SIGTERM)]


def test_orphans_are_waited_for(host: Host) -> None:
    pid = orphaned(host)
    host.proc.listen(host.pid("echo_00-g1"), "echo_00.sock")
    host.later = [(30, lambda: host.proc.end(pid))]
    rollout = host.rollout()
    plan = rollout.plan()
    assert rollout.settle(plan, wait=True) == []
    assert 30 <= rollout.clock() < 31


def test_orphan_that_does_not_end_is_named(host: Host) -> None:
    orphaned(host)
    host.proc.listen(host.pid("echo_00-g1"), "echo_00.sock")
    rollout = host.rollout()
    with pytest.raises(RolloutError, match=r"echo_00 \(orphan, pid 77\) didn't end within 50 s of SIGTERM"):
        rollout.settle(rollout.plan(), wait=True)


def test_removal_ends_orphans_too(host: Host) -> None:
    pid = orphaned(host)
    host.later = [(30, lambda: host.proc.end(pid))]
    rollout = host.rollout()
    assert rollout.remove()
    assert host.killed == [(pid, signal.SIGTERM)]
    assert rollout.clock() >= 30
    assert not host.layout.run.exists()


def files(host: Host) -> dict[str, str]:
    """Every file and symlink of the host, with its content or target."""
    return {
        str(path): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in host.root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_nothing_is_touched_while_supervisord_is_down(host: Host) -> None:
    host.roll()
    before = files(host)
    host.supervisor.down = True
    for act in (host.roll, host.rollout(release=B).remove):
        with pytest.raises(SupervisorError, match="supervisord doesn't answer"):
            act()
    assert files(host) == before


@pytest.mark.parametrize("moment", ["starting", "canary", "watch"])
def test_supervisord_that_goes_away_in_the_middle_changes_nothing_that_serves(
    host: Host, moment: str
) -> None:
    host.roll()
    host.later = [(5, lambda: setattr(host.supervisor, "down", True))]
    if moment == "starting":
        host.sick.add("g2")
    windows = {"starting": {}, "canary": {"canary_seconds": 10}, "watch": {"watch_seconds": 10}}
    with pytest.raises(SupervisorError, match="supervisord doesn't answer"):
        host.roll(release=B, **windows[moment])
    assert host.links() == {"starting": OLD, "canary": CANARY, "watch": NEW}[moment]
    assert set(host.supervisor.states.values()) == {"RUNNING"}
    host.supervisor.down = False
    host.sick.clear()
    host.roll()
    assert host.links() == NEW
    assert host.supervisor.states == {"echo_00-g2": "RUNNING", "echo_01-g2": "RUNNING"}


@pytest.mark.parametrize(
    ("full", "links"),
    [("start", OLD), ("generation.json", OLD), ("echo_01-g2.conf", OLD), ("wsfleet-echo.conf", NEW)],
)
def test_full_disk_changes_nothing_that_serves_and_the_next_run_finishes(
    host: Host, full: str, links: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.roll()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if full in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left on device") as error:
            host.roll(release=B)
    assert Path(str(error.value.filename)).name == full
    assert host.links() == links
    assert all(host.supervisor.states[group] == "RUNNING" for group in _served_by(host))
    assert not [name for name in files(host) if name.endswith(".new")]
    if links == OLD:
        assert host.programs() == ["echo_00-g1", "echo_01-g1"]
        assert host.layout.all_generations() == {1}
    host.roll()
    assert host.links() == NEW
    assert host.supervisor.states == {"echo_00-g2": "RUNNING", "echo_01-g2": "RUNNING"}


# Progress


def test_progress_of_a_canary_and_a_drain(host: Host) -> None:
    host.roll()
    host.supervisor.drains_for_ever = True
    old = host.pid("echo_00-g1")
    host.proc.process(old, "echo_00.sock", connections=4)
    rollout = host.rollout(release=B, canary_seconds=10)
    said: list[str] = []
    rollout.say = said.append

    def drained() -> None:
        host.supervisor.states.update(dict.fromkeys(("echo_00-g1", "echo_01-g1"), "STOPPED"))

    def half() -> None:
        for descriptor in sorted((host.proc.folder / f"{old}/fd").iterdir())[:2]:
            descriptor.unlink()

    host.later = [(12, half), (17, drained)]
    plan = rollout.plan()
    rollout.execute(plan)
    rollout.settle(plan, wait=True)
    assert said == [
        "starting generation 2, release /opt/echo/releases/b, of echo_00, echo_01",
        "echo_00-g2:echo_00 is healthy",
        "echo_01-g2:echo_01 is healthy",
        "echo_00: generation 1 -> generation 2",
        "watching generation 2, 10 s left",
        "watching generation 2, 5 s left",
        "echo_01: generation 1 -> generation 2",
        "draining, 4 connections left",
        "draining, 2 connections left, about 5 s",
    ]


def test_progress_of_the_first_deployment_and_of_nothing_to_do(host: Host) -> None:
    for expected in (
        [
            "starting generation 1, release /opt/echo/releases/a, of echo_00",
            "echo_00-g1:echo_00 is healthy",
            "echo_00: nothing -> generation 1",
        ],
        [],
    ):
        rollout = host.rollout(processes=1)
        said: list[str] = []
        rollout.say = said.append
        host.carry_out(rollout)
        assert said == expected


# Handover

SOCKET = "$SUPERVISOR_PROCESS_NAME.sock"
RUNNER = f"python -m wsfleet --unix-socket {SOCKET} --slot ../{SOCKET} --handover"
FIGURES = {"moved": 3, "stayed": 1, "seconds": 0.5, "pause_p50_ms": 2, "pause_p99_ms": 8, "pause_max_ms": 9}


def receive(host: Host, generation: int, *slots: int, figures: object = FIGURES) -> t.Callable[[], None]:
    """What the runner does when it has taken over connections."""

    def note() -> None:
        for slot in slots:
            file = host.layout.run / f"g{generation}/echo_{slot:02d}.sock.json"
            file.write_text(json.dumps(figures))

    return note


def listen(host: Host, generation: int) -> None:
    """What the runner does at start when its handler is resumable."""
    for slot in (0, 1):
        (host.layout.run / f"g{generation}/echo_{slot:02d}.sock.handover").touch()


def roll_over(host: Host, listening: tuple[int, ...] = (1, 2), **changes: t.Any) -> tuple[Rollout, list[str]]:
    """An upgrade of resumable handlers; returns it and what it said."""
    host.roll(command=RUNNER)
    host.supervisor.drains_for_ever = True
    rollout = host.rollout(release=B, **changes)
    said: list[str] = []
    rollout.say = said.append
    plan = rollout.plan()
    rollout.execute(plan)
    for generation in listening:
        listen(host, generation)
    rollout.settle(plan, wait=False)
    return rollout, said


@pytest.mark.parametrize(
    ("resumable", "new", "close", "moving"),
    [
        (True, RUNNER, False, 7),
        (True, RUNNER, True, 0),
        (True, "python -m wsfleet", False, 0),
        (False, RUNNER, False, 0),
    ],
)
def test_forecast_of_what_moves(host: Host, resumable: bool, new: str, close: bool, moving: int) -> None:
    host.roll(command=RUNNER)
    if resumable:
        listen(host, 1)
    host.proc.process(host.pid("echo_00-g1"), "echo_00.sock", connections=7)
    rollout = host.rollout(command=new, release=B, close_connections=close)
    forecast = rollout.forecast(rollout.plan())
    assert (forecast.moving, forecast.connections) == (moving, 7 - moving)
    assert ("Connections that will move: 7; " in str(forecast)) == (moving > 0)


def test_rollout_is_over_when_the_connections_have_moved(host: Host) -> None:
    host.later = [(3, receive(host, 2, 0, 1))]
    rollout, said = roll_over(host)
    assert 3 <= rollout.clock() < 5
    assert rollout.handovers == {0: FIGURES, 1: FIGURES}
    assert said[-1] == "echo_01: 3 connections moved, each paused for 9 ms at most; 1 stay to be closed"


def test_handover_that_nobody_notes_is_waited_for_as_long_as_a_stop_may_take(host: Host) -> None:
    rollout, _said = roll_over(host)
    assert 50 <= rollout.clock() < 53
    assert rollout.handovers == {}


def test_note_of_a_process_that_has_ended_is_waited_for_a_moment(host: Host) -> None:
    host.later = [
        (2, lambda: host.supervisor.states.update(dict.fromkeys(("echo_00-g1", "echo_01-g1"), "STOPPED"))),
        (4, receive(host, 2, 0)),
    ]
    rollout, _said = roll_over(host)
    assert rollout.handovers == {0: FIGURES}
    assert 7 <= rollout.clock() < 8


@pytest.mark.parametrize("listening", [(), (1,), (2,)])
def test_nothing_is_waited_for_where_nothing_can_move(host: Host, listening: tuple[int, ...]) -> None:
    rollout, _said = roll_over(host, listening)
    assert rollout.clock() < 2


@pytest.mark.parametrize("figures", [None, [], {}, FIGURES | {"moved": None}, FIGURES | {"moved": "x"}])
def test_notes_that_are_none_are_ignored(host: Host, figures: object) -> None:
    host.later = [(0.1, receive(host, 2, 0, figures=figures))]
    rollout, _said = roll_over(host)
    assert rollout.handovers == {}


@pytest.mark.parametrize("close", [True, False])
def test_processes_that_shall_close_their_connections_find_no_successor(host: Host, close: bool) -> None:
    rollout, _said = roll_over(host, close_connections=close)
    kept = sorted(path.parent.name for path in host.layout.run.glob("g*/echo_00.sock.handover"))
    assert kept == (["g1"] if close else ["g1", "g2"])
    assert (rollout.clock() < 2) is close


def test_slots_that_are_given_up_are_lent_to_all_that_stay(host: Host) -> None:
    host.roll(processes=6)
    rollout = host.rollout(processes=2)
    rollout.execute(rollout.plan())
    lent = {name: target for name, target in host.links().items() if "/" not in target}
    assert lent == {
        "echo_02.sock": "echo_00.sock",
        "echo_03.sock": "echo_01.sock",
        "echo_04.sock": "echo_00.sock",
        "echo_05.sock": "echo_01.sock",
    }
