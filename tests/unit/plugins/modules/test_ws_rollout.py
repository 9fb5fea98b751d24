# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ws_rollout, run in this process on a host that exists for the test only."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.modules import ws_rollout

from tests.unit.plugins.module_utils.fake_host import Host

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Module:
    """A host, and a way to run the module on it with a release that is there."""

    def __init__(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.host = Host(tmp_path)
        self.capsys = capsys
        monkeypatch.setattr(ws_rollout, "_rollout", self._rollout)

    def _rollout(self, module: Any) -> Any:
        options = module.params
        self.rollout = self.host.rollout(
            options["processes"], release=options["release"], restart=options["state"] == "restarted"
        )
        return self.rollout

    def run(self, release: str = "a", **options: Any) -> dict[str, Any]:
        folder = self.host.layout.path / "releases" / release
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {"app": "echo", "release": str(folder), "command": "python server.py", "processes": 2}
        with patch_module_args(arguments | options), pytest.raises(SystemExit):
            ws_rollout.main()
        result: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return result


@pytest.fixture
def module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Module]:
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield Module(tmp_path, monkeypatch, capsys)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("app", ["", ".", "..", "Echo", "a/b", "echo\n", "a" * 25])
def test_a_name_that_would_lead_to_other_folders_is_refused(module: Module, app: str) -> None:
    result = module.run(app=app, state="absent", _ansible_check_mode=True)
    assert result["failed"] is True
    assert result["msg"].startswith(f"app is {app!r}, allowed is 1 to 24 lower-case letters")


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_folder_of_somebody_else_is_left_alone(module: Module, state: str) -> None:
    foreign = module.host.layout.run / "foreign"
    foreign.mkdir(parents=True)
    assert "belongs to something else" in module.run(state=state)["msg"]
    assert foreign.exists()


def test_rollout_and_its_forecast(module: Module) -> None:
    assert module.run()["changed"] is True
    module.host.proc.process(module.host.pid("echo_00-g1"), "echo_00.sock", connections=3)
    for check_mode in (True, False):
        result = module.run("b", _ansible_check_mode=check_mode, _ansible_diff=True)
        assert (result["changed"], result["generation"]) == (True, 2)
        assert (result["forecast"]["connections"], result["forecast"]["fits"]) == (3, True)
        assert result["diff"]["after"].splitlines()[-1] == (
            "Connections that will be closed: 3, within about 50 s; "
            "memory that new processes need beside the old ones: 60 MiB, available: 1000 MiB"
        )
    again = module.run("b", _ansible_diff=True)
    assert again["changed"] is False
    assert again["diff"]["before"] == again["diff"]["after"]


def test_restart_in_check_mode_changes_nothing(module: Module) -> None:
    module.run()
    result = module.run(state="restarted", _ansible_check_mode=True)
    assert (result["changed"], [moved["to_generation"] for moved in result["moved"]]) == (True, [2, 2])
    assert module.host.programs() == ["echo_00-g1", "echo_01-g1"]
    assert module.run(state="restarted")["generation"] == 2


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_handed_to_the_rollout(module: Module, number: signal.Signals) -> None:
    module.run()
    module.host.sick.add("g2")
    module.host.later = [(5, lambda: os.kill(os.getpid(), number))]
    result = module.run("b")
    assert result["msg"].startswith(f"{number.name} ended the rollout of echo")
    assert module.host.programs() == ["echo_00-g1", "echo_01-g1"]


def test_full_disk_is_one_sentence(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    assert module.run()["msg"] == (
        "The rollout of echo failed: [Errno 28] No space left on device: "
        f"'{module.host.layout.generations}/1/start'; what served still serves, and the next run finishes the rest"
    )


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("processes", 0, 1), ("canary_seconds", -1, 0), ("watch_seconds", -1, 0), ("max_generations", 1, 2)],
)
def test_number_that_is_too_small_is_refused(module: Module, name: str, value: int, least: int) -> None:
    assert module.run("a", **{name: value})["msg"] == f"{name} is {value}, allowed is {least} or more"
    assert module.host.programs() == []


def test_two_rollouts_on_a_host_are_refused(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws_rollout, "PATIENCE", 0)
    module.run()
    with ws_rollout._alone(module.host.layout):
        assert "another rollout of echo is at work" in module.run("b")["msg"]
    assert module.run("b")["changed"]


def test_drain_may_be_left_to_a_later_run(module: Module) -> None:
    module.run()
    assert module.run("b", drain=False)["changed"]
    assert module.host.supervisor.states["echo_00-g1"] == "RUNNING"
    assert not module.run("b")["changed"]
    assert "echo_00-g1" not in module.host.supervisor.states


def test_a_run_names_itself_and_leaves_its_progress_until_the_app_is_removed(module: Module) -> None:
    layout = module.host.layout
    module.run()
    assert layout.lock.read_text() == f"{os.getpid()}\n"
    assert "echo_00: nothing -> generation 1" in layout.progress.read_text().splitlines()
    module.run("b", _ansible_check_mode=True)
    assert "nothing -> generation 1" in layout.progress.read_text()
    module.run()
    assert layout.progress.read_text() == ""
    assert module.run(state="absent")["changed"]
    assert list(layout.run.parent.iterdir()) == []
