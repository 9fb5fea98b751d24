# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action ws_rollout, with a host and a module that exist in memory only."""

from __future__ import annotations

import typing as t
from types import SimpleNamespace

import pytest
from ansible_collections.wsfleet.websockets.plugins.action import ws_rollout as action


class Host:
    """Holds the progress file; the module is `work`, which may change it and then look() as time goes by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file: bytes | None = None
        self.fails = False
        self.shown: list[str] = []
        self.asked: list[tuple[str, bool]] = []
        self.closed = 0
        self.background: list[bool] = []
        monkeypatch.setattr(action, "Display", lambda: SimpleNamespace(display=self.shown.append))
        monkeypatch.setattr(action.ActionBase, "run", lambda *_arguments: {})
        monkeypatch.setattr(action, "INTERVAL", 0.005)

    def exec_command(self, command: str, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        self.asked.append((command, sudoable))
        if self.fails:
            raise OSError("connection lost")
        return (1, b"", b"no such file") if self.file is None else (0, self.file, b"")

    def close(self) -> None:
        self.closed += 1

    def run(self, work: t.Callable[[], None], check: bool = False, async_val: int = 0) -> dict[str, t.Any]:
        plugin = action.ActionModule.__new__(action.ActionModule)
        plugin._task = SimpleNamespace(args={"app": "chat"}, check_mode=check, async_val=async_val)
        plugin._connection = SimpleNamespace(has_native_async=False)
        plugin._second_connection = lambda: self

        def execute_module(task_vars: object, wrap_async: bool) -> dict[str, t.Any]:
            self.background.append(wrap_async)
            work()
            return {"changed": True}

        plugin._execute_module = execute_module
        result: dict[str, t.Any] = plugin.run(None, {"inventory_hostname": "ws1"})
        return result

    def wait_for_a_look(self) -> None:
        seen = len(self.asked)
        while len(self.asked) < seen + 2:  # the first may have begun before
            pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_each_line_is_shown_once_with_the_host(host: Host) -> None:
    def work() -> None:
        for file in (None, b"one\n", b"one\n", b"one\ntwo\nthree\n", None):
            host.file = file
            host.wait_for_a_look()
        host.file = b"one\ntwo\nthree\nlast\n"

    assert host.run(work) == {"changed": True}
    assert host.shown == ["  ws1: one", "  ws1: two", "  ws1: three", "  ws1: last"]
    assert set(host.asked) == {("cat /run/wsfleet-chat.progress", False)}
    assert host.closed == 1
    assert host.background == [False]


def test_file_of_another_run_is_shown_from_its_beginning(host: Host) -> None:
    def work() -> None:
        for file in (b"old one\nold two\n", b"one\n"):
            host.file = file
            host.wait_for_a_look()

    host.run(work)
    assert host.shown == ["  ws1: old one", "  ws1: old two", "  ws1: one"]


def test_trouble_in_following_is_none_of_the_rollout(host: Host) -> None:
    def work() -> None:
        host.fails = True
        while not host.asked:
            pass

    assert host.run(work) == {"changed": True}
    assert host.shown == []


def test_failure_of_the_module_ends_the_following(host: Host) -> None:
    def work() -> None:
        host.wait_for_a_look()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        host.run(work)
    assert host.closed == 1


@pytest.mark.parametrize(("check", "async_val"), [(True, 0), (False, 60), (True, 60)])
def test_check_mode_and_the_background_are_not_followed(host: Host, check: bool, async_val: int) -> None:
    assert action.ActionModule._supports_async
    assert action.ActionModule._supports_check_mode
    host.run(lambda: None, check, async_val)
    assert host.asked == []
    assert host.background == [async_val > 0]
