# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ws_haproxy_server, run in this process against a HAProxy that answers as the real one."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.modules import ws_haproxy_server

from tests.unit.plugins.module_utils.fake_haproxy import RISE, FakeServer, Haproxy

Run = t.Callable[..., dict[str, t.Any]]


class Clock:
    """Passes while somebody sleeps."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(ws_haproxy_server, "time", Clock())
    warnings: list[str] = []  # Ansible keeps them for the life of the process, that is, for other tests too
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))

    def run(state: str, **options: t.Any) -> dict[str, t.Any]:
        arguments = {"backend": "chat", "server": "web1", "state": state, "socket": f"{tmp_path}/admin.sock"}
        with patch_module_args(arguments | options), pytest.raises(SystemExit):
            ws_haproxy_server.main()
        result: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        return result | {"warnings": warnings}

    return run


@pytest.fixture
def web1(haproxy: Haproxy) -> FakeServer:
    server = FakeServer(sessions=3)
    haproxy.backends = {"chat": {"web1": server, "web2": FakeServer()}}
    return server


def changes(haproxy: Haproxy) -> list[str]:
    return [command for command in haproxy.commands if command.startswith("set ")]


def test_drain_is_set_once(haproxy: Haproxy, web1: FakeServer, run: Run) -> None:
    result = run("drain")
    assert "failed" not in result
    shown = {name: result[name] for name in ("changed", "running", "before", "state", "sessions", "up")}
    assert shown == {
        "changed": True,
        "running": True,
        "before": "ready",
        "state": "drain",
        "sessions": 3,
        "up": True,
    }
    assert (result["diff"]["before"], result["diff"]["after"]) == ("ready\n", "drain\n")

    again = run("drain")
    assert (again["changed"], again["before"], again["state"]) == (False, "drain", "drain")
    assert changes(haproxy) == ["set server chat/web1 state drain"]
    assert haproxy.backends["chat"]["web2"].bits == 0


def test_check_mode_changes_nothing_and_does_not_wait(haproxy: Haproxy, web1: FakeServer, run: Run) -> None:
    result = run("maint", wait_seconds=60, _ansible_check_mode=True)
    assert (result["changed"], result["before"], result["state"]) == (True, "ready", "maint")
    assert (result["diff"]["before"], result["diff"]["after"]) == ("ready\n", "maint\n")
    assert changes(haproxy) == []
    assert run("ready", _ansible_check_mode=True)["changed"] is False


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_waits_until_the_sessions_have_ended(
    haproxy: Haproxy, web1: FakeServer, run: Run, state: str
) -> None:
    def one_less(command: str) -> None:
        if web1.bits and command.startswith("show stat"):
            web1.sessions -= 1

    haproxy.before_answer = one_less
    result = run(state, wait_seconds=60)
    assert (result["changed"], result["state"], result["sessions"]) == (True, state, 0)
    assert "failed" not in result


def test_sessions_that_do_not_end(web1: FakeServer, run: Run) -> None:
    result = run("drain", wait_seconds=60)
    assert result["msg"] == "chat/web1 stays in drain, but after 60 s it still has sessions: 3."
    assert (result["failed"], result["changed"], result["state"], web1.bits) == (True, True, "drain", 0x08)


def test_ready_waits_for_a_check_that_passes(haproxy: Haproxy, web1: FakeServer, run: Run) -> None:
    def pass_later(command: str) -> None:
        if haproxy.commands.count("show stat -1 4 -1") == 4:
            web1.health = 2 * RISE

    run("maint")
    haproxy.before_answer = pass_later
    result = run("ready", wait_seconds=60)
    assert (result["changed"], result["state"], result["up"]) == (True, "ready", True)
    assert "failed" not in result
    assert haproxy.commands.count("show stat -1 4 -1") > 4


@pytest.mark.parametrize(("operation", "health"), [(0, 0), (2, RISE)])
def test_a_server_that_does_not_come_up(web1: FakeServer, run: Run, operation: int, health: int) -> None:
    web1.operation, web1.health = operation, health
    result = run("ready", wait_seconds=60)
    assert result["msg"] == "HAProxy doesn't find chat/web1 up after 60 s."
    assert run("ready")["up"] is (operation == 2)


@pytest.mark.parametrize("seconds", [0, 60])
def test_maintenance_that_no_command_ends(web1: FakeServer, run: Run, seconds: int) -> None:
    web1.bits = web1.kept = 0x20
    web1.sessions = 0
    result = run("ready", wait_seconds=seconds)
    assert result["msg"] == (
        "HAProxy keeps chat/web1 in maint: a server that it tracks is, or its name has no address."
    )
    result = run("drain")  # which is to keep new sessions away, and they are
    assert (result["changed"], result["state"]) == (False, "maint")
    assert "failed" not in result


@pytest.mark.parametrize(
    ("other", "last"),
    [
        (FakeServer(), False),
        (FakeServer(bits=0x08), True),
        (FakeServer(operation=0, health=0), True),
        (FakeServer(backup=True), True),
    ],
)
def test_taking_out_the_last_server_that_is_up_is_a_warning(
    haproxy: Haproxy, web1: FakeServer, run: Run, other: FakeServer, last: bool
) -> None:
    haproxy.backends["chat"]["web2"] = other
    assert run("drain")["warnings"] == (
        ["No other server of chat is up: new clients get its backup servers, or are refused."] if last else []
    )
    assert len(run("drain")["warnings"]) == last  # said when it is taken out
    assert len(run("ready")["warnings"]) == last


def test_haproxy_that_does_not_run_is_a_warning(run: Run) -> None:
    result = run("drain", wait_seconds=60)
    assert (result["changed"], result["running"]) == (False, False)
    assert "HAProxy doesn't run here; when it does, its checks tell it about web1." in result["warnings"][0]


def test_haproxy_that_ends_meanwhile_has_forgotten_it(haproxy: Haproxy, web1: FakeServer, run: Run) -> None:
    def end(command: str) -> None:
        if command.startswith("set "):
            haproxy.path.unlink()

    haproxy.before_answer = end
    result = run("drain", wait_seconds=60)
    assert (result["changed"], result["running"]) == (False, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "chess"}, "HAProxy has no backend chess, only chat."),
        ({"server": "web3"}, "The backend chat has no server web3, only web1, web2."),
    ],
)
def test_what_there_is_not(
    haproxy: Haproxy, web1: FakeServer, run: Run, options: dict[str, str], message: str
) -> None:
    assert run("drain", **options)["msg"] == message
    result = run("drain", wait_seconds=60, missing_ok=True, **options)
    assert (result["changed"], result["running"], result["known"]) == (False, True, False)
    assert "failed" not in result
    assert changes(haproxy) == []


def test_a_refusal_is_reported_in_haproxys_words(haproxy: Haproxy, web1: FakeServer, run: Run) -> None:
    haproxy.refusal = "Permission denied\n"
    assert run("drain")["msg"] == "HAProxy refused `set server chat/web1 state drain`: Permission denied"
