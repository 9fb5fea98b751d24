# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import socket
import threading
import typing as t
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address, get, problem
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.http11 import Request, Response


class App:
    """A websockets server in a thread; `closed` holds the close code of each connection."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.closed: list[int | None] = []
        self.answers = {"/readyz": HTTPStatus.OK, "/full": HTTPStatus.SERVICE_UNAVAILABLE}
        self.ready = threading.Event()

        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def finish(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stop.set)
            self.thread.join(5)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        async with unix_serve(self._handle, self.path, process_request=self._answer):
            self.ready.set()
            await self.stop.wait()

    async def _handle(self, connection: ServerConnection) -> None:
        await connection.wait_closed()
        self.closed.append(connection.close_code)

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        status = self.answers.get(request.path)
        return connection.respond(status, "\n") if status else None


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(str(tmp_path / "app.sock"))
    app.thread.start()
    assert app.ready.wait(5)
    yield app
    app.finish()


def test_path_that_answers_200_is_healthy(app: App) -> None:
    assert problem(Address(app.path), "/readyz") == ""


def test_path_that_answers_503_is_not(app: App) -> None:
    assert problem(Address(app.path), "/full") == f"{app.path} answers 503 to GET /full"


def test_path_that_the_app_does_not_know_is_not_healthy(app: App) -> None:
    assert problem(Address(app.path), "/none") == f"{app.path} answers 426 to GET /none"


@pytest.mark.parametrize(
    ("status", "healthy"), [(HTTPStatus.FORBIDDEN, True), (HTTPStatus.BAD_GATEWAY, False)]
)
def test_app_that_refuses_the_handshake_is_healthy_unless_it_fails(
    app: App, status: HTTPStatus, healthy: bool
) -> None:
    app.answers["/"] = status
    expected = "" if healthy else f"{app.path} answers the handshake with 502"
    assert problem(Address(app.path), "") == expected


def test_handshake_is_enough_without_a_path_and_closes_with_1000(app: App) -> None:
    assert problem(Address(app.path), "") == ""
    app.finish()
    assert app.closed == [1000]


@pytest.mark.parametrize("address", [Address("/nowhere/app.sock"), Address(port=1)])
def test_nobody_there(address: Address) -> None:
    assert problem(address, "/readyz").startswith(f"{address} doesn't answer: ")


def test_process_that_speaks_something_else(tmp_path: Path) -> None:
    path = str(tmp_path / "mail.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def answer() -> None:
            client, _address = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(b"220 mail ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found: t.Any = problem(Address(path), "/readyz")
        thread.join()
    assert found == f"{path} doesn't answer: 220 mail ESMTP\r\n"


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_process_that_accepts_and_says_nothing(tmp_path: Path, family: socket.AddressFamily) -> None:
    with socket.socket(family) as listener:
        path = str(tmp_path / "mute.sock")
        listener.bind(path if family == socket.AF_UNIX else ("127.0.0.1", 0))
        listener.listen()
        address = Address(path) if family == socket.AF_UNIX else Address(port=listener.getsockname()[1])
        found: t.Any = problem(address, "", timeout=0.2)
    assert found == f"{address} doesn't answer: timed out"


def test_get_is_what_is_answered_with_200(app: App, tmp_path: Path) -> None:
    assert get(Address(app.path), "/readyz") == "\n"
    assert get(Address(app.path), "/full") == ""
    assert get(Address(app.path), "/") == "", "a handshake is wanted there"
    assert get(Address(str(tmp_path / "none.sock")), "/readyz") == ""
