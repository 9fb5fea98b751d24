# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action ws_lock with its module, both in this process, on a folder instead of a host."""

from __future__ import annotations

import functools
import grp
import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.action import ws_lock as action
from ansible_collections.wsfleet.websockets.plugins.module_utils import fleet_lock
from ansible_collections.wsfleet.websockets.plugins.module_utils.fleet_lock import FleetLock, Run, this_run
from ansible_collections.wsfleet.websockets.plugins.modules import ws_lock

Lock = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FleetLock:
    """The lock of the app chat."""
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(fleet_lock, "LOG_GROUP", grp.getgrgid(os.getgid()).gr_name)
    monkeypatch.setattr(ws_lock, "FleetLock", functools.partial(FleetLock, root=str(tmp_path)))
    return FleetLock("chat", str(tmp_path))


@pytest.fixture
def lock(host: FleetLock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lock:
    """A task: its options, and `check`, to its result."""

    def task(check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        def execute_module(module_args: dict[str, t.Any], task_vars: object) -> t.Any:
            arguments = module_args | {"_ansible_check_mode": check}
            with patch_module_args(arguments), pytest.raises(SystemExit):
                ws_lock.main()
            return json.loads(capsys.readouterr().out)

        plugin = action.ActionModule.__new__(action.ActionModule)
        plugin._task = SimpleNamespace(
            args={"app": "chat"} | options, check_mode=check, diff=False, async_val=0, action="ws_lock"
        )
        plugin._execute_module = execute_module
        monkeypatch.setattr(action.ActionBase, "run", lambda *_arguments: {})
        result: dict[str, t.Any] = plugin.run(None, {})
        return result

    return task


def me() -> Run:
    return this_run(os.getpid(), "me@here", "here")


@pytest.fixture
def killed() -> Run:
    """A run that was killed."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run = this_run(process.pid, "me@here", "here")
    process.kill()
    process.wait()
    return run


ELSEWHERE = Run("desk-2-2", "bob@desk", "boot pid:[2]", 2, 2)


def test_a_run_takes_it_again_and_gives_it_up(lock: Lock, host: FleetLock) -> None:
    first = lock(what="deploy chat 1.4")
    assert (first["changed"], first["taken_over"]) == (False, None)
    assert first["holder"]["what"] == "deploy chat 1.4"
    assert first["holder"]["who"].endswith(f"@{action.socket.gethostname()}")
    assert lock(what="restart")["holder"] == first["holder"]
    last = lock(state="absent", outcome="failed")
    assert (last["changed"], last["holder"]) == (False, None)
    assert host.holder() is None


def test_a_refusal_says_who_when_what_and_the_way_out(lock: Lock, host: FleetLock) -> None:
    when = host.take(ELSEWHERE, "deploy chat 1.5").when
    result = lock(what="deploy chat 1.4")
    assert result["failed"] is True
    assert result["msg"] == (
        f'chat is locked on this host by bob@desk since {when} for "deploy chat 1.5"; if that run is no more, '
        "`ansible-playbook wsfleet.websockets.unlock -e ws_app_name=chat` removes the lock"
    )
    assert result["holder"]["id"] == ELSEWHERE.id


def test_check_mode_warns_and_changes_nothing(lock: Lock, host: FleetLock) -> None:
    assert lock(check=True, what="deploy")["holder"] is None
    assert host.holder() is None
    taken = host.take(ELSEWHERE, "deploy")
    result = lock(check=True, what="deploy")
    assert "failed" not in result
    assert "locked on this host by bob@desk" in result["warnings"][0]
    assert lock(check=True, state="absent", force=True)["changed"] is True
    assert host.holder() == taken


def test_the_lock_of_a_killed_run_is_taken_over(lock: Lock, host: FleetLock, killed: Run) -> None:
    host.take(killed, "deploy chat 1.4")
    result = lock(what="deploy chat 1.5")
    assert result["taken_over"]["id"] == killed.id
    assert result["holder"]["what"] == "deploy chat 1.5"
    assert "failed" not in result
    assert "killed: me@here since" in result["msg"]


def test_check_mode_only_says_that_it_would_be(lock: Lock, host: FleetLock, killed: Run) -> None:
    taken = host.take(killed, "deploy chat 1.4")
    result = lock(check=True, what="deploy chat 1.5")
    assert result["taken_over"]["id"] == killed.id
    assert "warnings" not in result
    assert host.holder() == taken


def test_who_was_faster_to_take_it_over_has_it(
    lock: Lock, host: FleetLock, killed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.take(killed, "deploy chat 1.4")

    def is_dead(_run: Run) -> bool:
        host.take(ELSEWHERE, "repair", instead_of=killed.id)
        return True

    monkeypatch.setattr(action, "is_dead", is_dead)
    result = lock(what="deploy chat 1.5")
    assert "by bob@desk" in result["msg"]
    assert result["failed"] is True
    assert result["taken_over"] is None


def test_the_lock_of_a_run_that_runs_stays(lock: Lock, host: FleetLock) -> None:
    """The same controller, another process."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        host.take(this_run(process.pid, "me@here", "here"), "deploy")
        assert lock(what="deploy")["failed"] is True
    finally:
        process.kill()
        process.wait()


def test_giving_up_leaves_the_lock_of_others(lock: Lock, host: FleetLock) -> None:
    taken = host.take(ELSEWHERE, "deploy")
    result = lock(state="absent")
    assert "failed" not in result
    assert host.holder() == taken


def test_force_removes_it_and_says_whose_it_was(lock: Lock, host: FleetLock) -> None:
    host.take(ELSEWHERE, "deploy")
    result = lock(state="absent", force=True)
    assert (result["changed"], result["holder"]["who"]) == (True, "bob@desk")
    assert host.holder() is None
    assert lock(state="absent", force=True)["changed"] is False


def test_what_is_required(lock: Lock) -> None:
    result = lock()
    assert result["failed"] is True
    assert "what" in result["msg"]


def test_the_results_are_documented(lock: Lock) -> None:
    documented = set(yaml.safe_load(ws_lock.RETURN)) | {"changed", "invocation"}
    assert set(lock(what="deploy")) == documented
