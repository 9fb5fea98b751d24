# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The XML-RPC client against a server that answers as supervisord does."""

from __future__ import annotations

import socketserver
import threading
import typing as t
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    Process,
    Supervisor,
    SupervisorError,
)


class Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/RPC2",)
    disable_nagle_algorithm = False

    def do_POST(self) -> None:  # noqa: N802 - named by http.server
        server = t.cast("Supervisord", self.server)
        server.logins.append(self.headers.get("Authorization"))
        if server.unauthorized:
            self.rfile.read(int(self.headers["Content-Length"]))  # who still sends wouldn't read the answer
            self.send_error(401)
        else:
            super().do_POST()

    def address_string(self) -> str:
        return "unix"


class Supervisord(socketserver.ThreadingMixIn, socketserver.UnixStreamServer, SimpleXMLRPCDispatcher):
    daemon_threads = True

    def __init__(self, path: str) -> None:
        SimpleXMLRPCDispatcher.__init__(self, allow_none=True)
        socketserver.UnixStreamServer.__init__(self, path, Handler)
        self.logRequests = False
        self.logins: list[str | None] = []
        self.calls: list[tuple[t.Any, ...]] = []
        self.fault = 0
        self.unauthorized = False

    def _dispatch(self, method: str, params: t.Any) -> t.Any:
        self.calls.append((method, *params))
        if self.fault:
            raise xmlrpc.client.Fault(self.fault, "SOME_FAULT: echo")
        if method == "supervisor.getAllProcessInfo":
            return [
                {
                    "group": "echo_00-g1",
                    "name": "echo_00",
                    "statename": "RUNNING",
                    "pid": 7,
                    "start": 1,
                    "stop": 0,
                    "spawnerr": "can't find command",
                    "description": "and more",
                }
            ]
        return 42 if method == "supervisor.getPID" else True


@pytest.fixture
def supervisord(tmp_path: Path) -> Iterator[Supervisord]:
    server = Supervisord(str(tmp_path / "supervisor.sock"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def configured(tmp_path: Path, more: str = "") -> Supervisor:
    file = tmp_path / "supervisord.conf"
    file.write_text(
        f"; comment\n[unix_http_server]\nfile={tmp_path}/supervisor.sock ; where\n{more}\n[supervisord]\nx=%(here)s\n"
    )
    return Supervisor.from_configuration(file)


def test_socket_is_found_as_supervisorctl_finds_it(supervisord: Supervisord, tmp_path: Path) -> None:
    [process] = configured(tmp_path).processes()
    assert process == Process("echo_00-g1", "echo_00", "RUNNING", 7, 1, 0, "can't find command")
    assert supervisord.logins == [None]


def test_supervisord_says_its_pid(supervisord: Supervisord, tmp_path: Path) -> None:
    assert configured(tmp_path).pid() == 42


@pytest.mark.parametrize(
    ("state", "stopped"),
    [
        ("STOPPED", True),
        ("EXITED", True),
        ("FATAL", True),
        ("UNKNOWN", True),
        ("STARTING", False),
        ("RUNNING", False),
        ("BACKOFF", False),
        ("STOPPING", False),
    ],
)
def test_states_that_no_longer_run(state: str, stopped: bool) -> None:
    assert Process("echo_00-g1", "echo_00", state, 7, 1, 0, "").is_stopped is stopped


def test_login_is_used(supervisord: Supervisord, tmp_path: Path) -> None:
    configured(tmp_path, "username=ops\npassword=secret").reread()
    assert supervisord.logins == ["Basic b3BzOnNlY3JldA=="]


def test_a_configuration_that_supervisord_takes_is_read(supervisord: Supervisord, tmp_path: Path) -> None:
    configured(tmp_path, "username=ops\nusername=me\npassword=100%").reread()
    assert supervisord.logins == ["Basic bWU6MTAwJQ=="]


def test_a_login_that_is_refused(supervisord: Supervisord, tmp_path: Path) -> None:
    supervisord.unauthorized = True
    with pytest.raises(SupervisorError, match=r"supervisord doesn't answer on .*/supervisor.sock: .*401"):
        configured(tmp_path).processes()


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("start", ("supervisor.startProcess", "x", False)),
        ("stop", ("supervisor.stopProcess", "x", False)),
        ("add", ("supervisor.addProcessGroup", "x")),
        ("remove", ("supervisor.removeProcessGroup", "x")),
    ],
)
def test_calls_that_do_not_wait(
    supervisord: Supervisord, tmp_path: Path, method: str, call: tuple[t.Any, ...]
) -> None:
    getattr(configured(tmp_path), method)("x")
    assert supervisord.calls == [call]


@pytest.mark.parametrize(
    ("method", "fault"), [("add", 90), ("start", 60), ("stop", 70), ("stop", 10), ("remove", 10)]
)
def test_already_so_is_fine(supervisord: Supervisord, tmp_path: Path, method: str, fault: int) -> None:
    supervisord.fault = fault
    getattr(configured(tmp_path), method)("echo_00-g1")


def test_refusal_names_the_call(supervisord: Supervisord, tmp_path: Path) -> None:
    supervisord.fault = 92
    with pytest.raises(SupervisorError, match=r"supervisord refused reloadConfig\(\): SOME_FAULT: echo"):
        configured(tmp_path).reread()
    with pytest.raises(SupervisorError, match=r"supervisord refused startProcess\(x, False\): SOME_FAULT"):
        configured(tmp_path).start("x")


def test_supervisord_that_is_down(tmp_path: Path) -> None:
    with pytest.raises(SupervisorError, match=r"supervisord doesn't answer on .*/supervisor.sock"):
        configured(tmp_path).processes()


def test_configuration_without_a_socket(tmp_path: Path) -> None:
    file = tmp_path / "supervisord.conf"
    file.write_text("[supervisord]\n")
    with pytest.raises(SupervisorError, match="doesn't name supervisord's unix socket"):
        Supervisor.from_configuration(file)
