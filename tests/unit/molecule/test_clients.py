# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the clients of the Molecule scenarios, run as those run them, against a server in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CLIENTS = Path(__file__).resolve().parents[3] / "molecule" / "shared" / "files" / "clients.py"

SERVER = """
import asyncio, signal, sys
from websockets.asyncio.server import serve

def respond(connection, request):
    if request.path == "/busy":
        return connection.respond(503, "")

async def echo(websocket):
    async for message in websocket:
        if websocket.request.path == "/cut":
            websocket.transport.abort()
        await websocket.send("?" if websocket.request.path == "/wrong" else message)

async def main():
    server = await serve(echo, "127.0.0.1", int(sys.argv[1]), process_request=respond, open_timeout=1, close_timeout=1)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: server.close(reason="bye"))
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.wait_closed()

asyncio.run(main())
"""


class Server:
    """An echo server that answers SIGTERM by closing all connections with 1001 and "bye"."""

    def __init__(self, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())
        self.url = f"ws://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.communicate(timeout=10)
        finally:
            self.process.kill()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


class Clients:
    """A running clients.py; `result()` waits for what it prints."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, str(CLIENTS), *map(str, arguments), "--seconds", "20"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def wait_for(self, path: Path) -> None:
        for _n in range(200):
            if path.exists():
                return
            time.sleep(0.05)
        pytest.fail(f"{path} did not appear")

    def result(self) -> dict[str, Any]:
        output, _errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        result: dict[str, Any] = json.loads(output)
        return result


def test_hold_until_the_server_closes(server: Server, tmp_path: Path) -> None:
    clients = Clients(
        "hold", f"{server.url}/", "--count", 20, "--interval", 0.05, "--ready-file", tmp_path / "ready"
    )
    clients.wait_for(tmp_path / "ready")
    time.sleep(0.3)
    server.stop()
    result = clients.result()
    assert result["opened"] == 20
    assert result["failed_handshakes"] == {}
    assert result["closes"] == {"1001": 20}
    assert result["close_reasons"] == {"bye": 20}
    assert result["echoed"] >= 40
    assert result["wrong"] == result["open_at_end"] == result["reconnects"] == 0
    assert result["unanswered"] <= 20
    assert 0.2 < result["first_close"] <= result["last_close"]
    assert sum(result["closes_per_second"]) == 20
    assert result["echo_ms"]["p50"] <= result["echo_ms"]["p99"] <= result["echo_ms"]["max"]


def test_hold_until_it_is_stopped(server: Server, tmp_path: Path) -> None:
    ready, stop = tmp_path / "ready", tmp_path / "stop"
    clients = Clients(
        "hold", f"{server.url}/", "--count", 3, "--interval", 0, "--ready-file", ready, "--stop-file", stop
    )
    clients.wait_for(ready)
    stop.touch()
    result = clients.result()
    assert (result["opened"], result["open_at_end"], result["closes"], result["echoed"]) == (3, 3, {}, 0)


def test_sigterm_ends_a_run_with_its_result(server: Server, tmp_path: Path) -> None:
    clients = Clients("hold", f"{server.url}/", "--ready-file", tmp_path / "ready")
    clients.wait_for(tmp_path / "ready")
    clients.process.send_signal(signal.SIGTERM)
    assert clients.result()["open_at_end"] == 1


def test_hold_reconnects(server: Server, tmp_path: Path) -> None:
    ready, stop = tmp_path / "ready", tmp_path / "stop"
    clients = Clients(
        "hold", f"{server.url}/", "--count", 5, "--interval", 0.1, "--reconnect",
        "--ready-file", ready, "--stop-file", stop,
    )  # fmt: skip
    clients.wait_for(ready)
    server.stop()
    time.sleep(0.3)
    successor = Server(server.port)
    try:
        time.sleep(1)
        stop.touch()
        result = clients.result()
    finally:
        successor.stop()
    assert result["closes"] == {"1001": 5}
    assert result["reconnects"] == result["open_at_end"] == 5
    assert result["opened"] == 10
    assert set(result["failed_handshakes"]) == {"ConnectionRefusedError"}
    assert result["reconnect_seconds"]["max"] >= 0.3


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("/wrong", "wrong", 1),
        ("/cut", "closes", {"1006": 1}),
        ("/busy", "failed_handshakes", {"HTTP 503": 1}),
    ],
)
def test_hold_counts_what_is_wrong(
    server: Server, tmp_path: Path, path: str, key: str, value: object
) -> None:
    ready, stop = tmp_path / "ready", tmp_path / "stop"
    clients = Clients("hold", f"{server.url}{path}", "--ready-file", ready, "--stop-file", stop)
    clients.wait_for(ready)
    time.sleep(0.3)
    stop.touch()
    result = clients.result()
    assert result[key] == value
    assert result["echoed"] == 0
    assert result["unanswered"] == (path == "/cut")


def test_handshakes(server: Server, tmp_path: Path) -> None:
    clients = Clients(
        "handshakes",
        f"{server.url}/",
        "--rate",
        50,
        "--stop-file",
        tmp_path / "stop",
        "--ready-file",
        tmp_path / "ready",
    )
    clients.wait_for(tmp_path / "ready")
    time.sleep(0.5)
    (tmp_path / "stop").touch()
    result = clients.result()
    assert result["attempts"] == result["ok"] >= 10
    assert result["failures"] == {}
    assert result["latency_ms"]["max"] > 0


@pytest.mark.parametrize(
    ("path", "failure"), [("/busy", "HTTP 503"), ("/cut", "closed 1006"), ("/wrong", "wrong echo")]
)
def test_failed_handshakes(server: Server, tmp_path: Path, path: str, failure: str) -> None:
    (tmp_path / "stop").touch()
    result = Clients(
        "handshakes", f"{server.url}{path}", "--rate", 50, "--stop-file", tmp_path / "stop"
    ).result()
    assert result["ok"] == 0
    assert result["failures"] == {failure: result["attempts"]}


def test_burst(server: Server) -> None:
    result = Clients("burst", f"{server.url}/", "--count", 50).result()
    assert (result["opened"], result["failed_handshakes"]) == (50, {})
    assert result["seconds"] > 0
    result = Clients("burst", f"{server.url}/busy", "--count", 5).result()
    assert (result["opened"], result["failed_handshakes"]) == (0, {"HTTP 503": 5})


def test_last_word(server: Server) -> None:
    result = Clients("last-word", f"{server.url}/", "--count", 10, "--kill", server.process.pid).result()
    assert (result["opened"], result["answered"], result["closes"]) == (10, 10, {"1001": 10})


def test_ignore_close(server: Server, tmp_path: Path) -> None:
    clients = Clients("ignore-close", f"{server.url}/", "--count", 4, "--ready-file", tmp_path / "ready")
    clients.wait_for(tmp_path / "ready")
    server.stop()
    result = clients.result()
    assert (result["opened"], result["cut"], result["closes"]) == (4, 4, {"1001": 4})
    assert result["close_reasons"] == {"bye": 4}
    assert result["last_cut"] - result["first_close"] == pytest.approx(1, abs=0.9)  # close_timeout
    refused = Clients("ignore-close", f"ws://127.0.0.1:{server.port}/").result()
    assert refused["failed_handshakes"] == {"ConnectionRefusedError": 1}


def test_slow_handshake(server: Server) -> None:
    result = Clients("slow-handshake", f"{server.url}/", "--interval", 0.1).result()
    assert result["cut"] is True
    assert result["seconds"] == pytest.approx(1, abs=0.9)  # open_timeout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hold", "ws://x/", "--count", "0"], "0 is not from 1 to 20000"),
        (["handshakes", "ws://x/", "--rate", "9999"], "9999.0 is not from 1 to 2000"),
        (["hold", "ws://x/", "--seconds", "3601"], "3601.0 is not from 0 to 3600"),
    ],
)
def test_runs_are_bounded(arguments: list[str], message: str) -> None:
    result = subprocess.run(
        [sys.executable, CLIENTS, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert message in result.stderr
