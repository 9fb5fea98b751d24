# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The deploy lock on a real folder tree, and what it knows of real processes."""

from __future__ import annotations

import grp
import json
import os
import subprocess
import sys
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils import fleet_lock
from ansible_collections.wsfleet.websockets.plugins.module_utils.fleet_lock import (
    FleetLock,
    Run,
    is_dead,
    this_run,
)

ALICE = Run("laptop-1-1", "alice@laptop", "boot-a pid:[1]", 1, 1)
BOB = Run("desk-2-2", "bob@desk", "boot-b pid:[2]", 2, 2)
CAROL = Run("ci-3-3", "carol@ci", "boot-c pid:[3]", 3, 3)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host."""
    monkeypatch.setattr(fleet_lock, "LOG_GROUP", grp.getgrgid(os.getgid()).gr_name)
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / "var/log").mkdir()
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def lock(root: Path) -> FleetLock:
    return FleetLock("chat", str(root))


def audit(root: Path) -> list[dict[str, t.Any]]:
    return [json.loads(line) for line in (root / "var/log/wsfleet/audit.log").read_text().splitlines()]


def test_the_first_one_gets_it_and_the_second_learns_who(lock: FleetLock) -> None:
    assert lock.take(ALICE, "deploy 1.4").run == ALICE
    holder = lock.take(BOB, "deploy 1.5")
    assert (holder.run, holder.what) == (ALICE, "deploy 1.4")
    assert str(holder) == f'alice@laptop since {holder.when} for "deploy 1.4"'
    assert lock.holder() == holder


def test_taking_it_again_changes_nothing(lock: FleetLock, root: Path) -> None:
    first = lock.take(ALICE, "deploy 1.4")
    assert lock.take(ALICE, "something else") == first
    assert len(audit(root)) == 1


def test_each_app_has_its_own(lock: FleetLock, root: Path) -> None:
    lock.take(ALICE, "deploy")
    assert FleetLock("feed", str(root)).take(BOB, "deploy").run == BOB


def test_only_who_has_it_gives_it_up(lock: FleetLock) -> None:
    lock.take(ALICE, "deploy")
    holder = lock.release(BOB, "ok")
    assert holder is not None
    assert holder.run == ALICE
    assert lock.release(ALICE, "ok") is None
    assert lock.holder() is None
    assert lock.release(ALICE, "ok") is None


def test_force_takes_it_from_anyone(lock: FleetLock) -> None:
    taken = lock.take(ALICE, "deploy")
    assert lock.force(BOB) == taken
    assert lock.force(BOB) is None
    assert lock.holder() is None


def test_one_that_is_dead_is_replaced_by_one_run_only(lock: FleetLock) -> None:
    lock.take(ALICE, "deploy")
    assert lock.take(BOB, "repair", instead_of=ALICE.id).run == BOB
    assert lock.take(CAROL, "repair", instead_of=ALICE.id).run == BOB


def test_every_change_is_audited(lock: FleetLock, root: Path) -> None:
    lock.take(ALICE, "deploy")
    lock.take(BOB, "repair", instead_of=ALICE.id)
    lock.release(BOB, "failed")
    lock.take(ALICE, "deploy")
    lock.force(CAROL)
    lines = audit(root)
    assert [(line["event"], line["who"], line["what"], line.get("outcome")) for line in lines] == [
        ("locked", "alice@laptop", "deploy", None),
        ("taken over", "bob@desk", "repair", None),
        ("unlocked", "bob@desk", "repair", "failed"),
        ("locked", "alice@laptop", "deploy", None),
        ("unlocked by force", "carol@ci", "deploy", None),
    ]
    assert {line["app"] for line in lines} == {"chat"}
    assert [line.get("former", {}).get("id") for line in lines] == [None, ALICE.id, None, None, ALICE.id]
    assert lines[2]["id"] == BOB.id
    time.strptime(lines[0]["time"], "%Y-%m-%dT%H:%M:%SZ")


def test_what_is_said_stays_on_one_line(lock: FleetLock, root: Path) -> None:
    holder = lock.take(ALICE, "deploy\nall")
    assert "\n" not in str(holder)
    assert audit(root)[0]["what"] == "deploy\nall"


def test_others_can_neither_read_the_lock_nor_write_the_log(lock: FleetLock, root: Path) -> None:
    before = os.umask(0)
    try:
        lock.take(ALICE, "deploy")
    finally:
        os.umask(before)
    assert (root / "var/lib/wsfleet/locks").stat().st_mode & 0o777 == 0o700
    assert (root / "var/log/wsfleet/audit.log").stat().st_mode & 0o777 == 0o640


def test_nothing_but_the_log_is_left(lock: FleetLock, root: Path) -> None:
    lock.take(ALICE, "deploy")
    lock.release(ALICE, "ok")
    assert list((root / "var/lib").iterdir()) == []


def test_what_others_keep_there_stays(lock: FleetLock, root: Path) -> None:
    (root / "var/lib/wsfleet/packages").mkdir(parents=True)
    lock.take(ALICE, "deploy")
    lock.release(ALICE, "ok")
    assert [path.name for path in (root / "var/lib/wsfleet").iterdir()] == ["packages"]


def test_of_many_at_once_one_gets_it(root: Path) -> None:
    """Folders come and go meanwhile, as everyone who gets it gives it up again."""
    inside: list[Run] = []
    most = 0
    deadline = time.monotonic() + 20

    def compete(number: int) -> int:
        nonlocal most
        lock, run, won = FleetLock("chat", str(root)), replace(ALICE, id=f"run-{number}"), 0
        while won < 20 and time.monotonic() < deadline:
            if lock.take(run, "deploy").run == run:
                inside.append(run)
                most = max(most, len(inside))
                time.sleep(0)
                inside.remove(run)
                lock.release(run, "ok")
                won += 1
        return won

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(compete, range(6))) == [20] * 6
    assert most == 1
    assert len(audit(root)) == 2 * 6 * 20


@pytest.fixture
def process() -> t.Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield child
    child.kill()
    child.wait()


def test_a_process_that_runs_is_not_dead(process: subprocess.Popen[bytes]) -> None:
    run = this_run(process.pid, "alice@laptop", "laptop")
    assert not is_dead(run)
    assert this_run(process.pid, "alice@laptop", "laptop") == run


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_process_is_dead(process: subprocess.Popen[bytes], reaped: bool) -> None:
    run = this_run(process.pid, "alice@laptop", "laptop")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    assert is_dead(run)


def test_another_process_under_its_number_is_not_it(process: subprocess.Popen[bytes]) -> None:
    run = this_run(process.pid, "alice@laptop", "laptop")
    assert is_dead(replace(run, started=run.started - 1))


@pytest.mark.parametrize("controller", ["", "another-boot pid:[1]"])
def test_a_process_of_another_controller_may_be_alive(controller: str) -> None:
    run = this_run(os.getpid(), "alice@laptop", "laptop")
    assert not is_dead(replace(run, controller=controller, pid=2**22 + 1))


def test_a_process_that_is_hidden_may_be_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    run = this_run(os.getpid(), "alice@laptop", "laptop")

    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(fleet_lock, "_process", lambda _pid: ("", 0))
    assert not is_dead(run)
