# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ws_daemon: when it does what. How it does it is tested with its module_utils."""

from __future__ import annotations

import json
import typing as t

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.module_utils.daemon import DaemonError
from ansible_collections.wsfleet.websockets.plugins.modules import ws_daemon


class FakeDaemon:
    """In the state that a test says; notes what is done to it."""

    def __init__(self) -> None:
        self.running = True
        self.reasons: list[str] = []
        self.half_replaced = False
        self.problem = ""
        self.done: list[str] = []

    def is_running(self) -> bool:
        return self.running

    def is_half_replaced(self) -> bool:
        return self.half_replaced

    def outdated(self) -> list[str]:
        return self.reasons

    def draining(self) -> list[str]:
        return ["an old one"] if "replace" in self.done else []

    def refuse(self) -> None:
        if self.problem:
            raise DaemonError(self.problem)

    def replace(self) -> None:
        self.done.append("replace")

    def finish(self) -> None:
        self.done.append("finish")


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    fake = FakeDaemon()
    monkeypatch.setattr(ws_daemon, "find", lambda _options: fake)
    return fake


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> t.Callable[..., dict[str, t.Any]]:
    def run(**options: t.Any) -> dict[str, t.Any]:
        with patch_module_args({"name": "nginx"} | options), pytest.raises(SystemExit):
            ws_daemon.main()
        result: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        return result

    return run


Run = t.Callable[..., dict[str, t.Any]]


def test_one_that_is_up_to_date_is_left_alone(daemon: FakeDaemon, run: Run) -> None:
    result = run()
    assert (result["changed"], result["reasons"], daemon.done) == (False, [], [])


def test_an_outdated_one_is_replaced(daemon: FakeDaemon, run: Run) -> None:
    daemon.reasons = ["it runs libssl, which was replaced"]
    result = run()
    assert (result["changed"], result["reasons"]) == (True, daemon.reasons)
    assert result["draining"] == ["an old one"]
    assert daemon.done == ["replace"]


@pytest.mark.parametrize("running", [True, False])
def test_force_replaces_what_runs(daemon: FakeDaemon, run: Run, running: bool) -> None:
    daemon.running = running
    assert run(force=True)["changed"] is running
    assert daemon.done == ["replace"] * running


def test_what_a_killed_run_has_left_is_finished_first(daemon: FakeDaemon, run: Run) -> None:
    daemon.half_replaced = True
    assert run()["changed"] is True
    assert daemon.done == ["finish"]
    daemon.reasons = ["it is old"]
    assert run()["reasons"] == ["its last replacement was cut off", "it is old"]
    assert daemon.done == ["finish", "finish", "replace"]


def test_check_mode_tells_and_does_nothing(daemon: FakeDaemon, run: Run) -> None:
    daemon.half_replaced, daemon.reasons = True, ["it is old"]
    result = run(_ansible_check_mode=True)
    assert (result["changed"], len(result["reasons"]), daemon.done) == (True, 2, [])


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_refusal_comes_before_anything_is_done(daemon: FakeDaemon, run: Run, check_mode: bool) -> None:
    daemon.reasons, daemon.problem = ["it is old"], "supervisord also runs worker"
    result = run(_ansible_check_mode=check_mode)
    assert (result["failed"], result["msg"], daemon.done) == (True, daemon.problem, [])


def test_what_stands_in_the_way_of_nothing_is_no_problem(daemon: FakeDaemon, run: Run) -> None:
    daemon.problem = "supervisord also runs worker"
    assert "failed" not in run()


def test_the_results_are_documented(daemon: FakeDaemon, run: Run) -> None:
    assert set(run()) == set(yaml.safe_load(ws_daemon.RETURN)) | {"changed", "invocation"}
