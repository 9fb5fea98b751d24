# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on the hosts of `make bench BENCH=speed`: the clients against a server, and the agent without one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Data

from bench.speed import agent, clients
from bench.speed.clients import Clients, ClientsError, Target

ROOT = Path(__file__).resolve().parents[3]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def shout(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(f"{message!r}!")


@asynccontextmanager
async def serving(handler: Any = echo, **options: Any) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


def run(coroutine: Any) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


# --- clients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [0, 12])
def test_clients_talk_and_knock(window: int) -> None:
    async def measure() -> None:
        async with serving(ping_interval=0.05) as url:
            some = Clients()
            assert await some.open(url, window, 25) == {"compressed": bool(window)}
            talk = await some.talk(10, 0.3)
            assert talk["messages"] > 10 and 0 < talk["p50_ms"] <= talk["p99_ms"]
            paced = await some.talk(10, 0.5, rate=40)
            assert 0 < paced["messages"] + paced["late"] <= 21
            await some.close()
            assert some.connections == []
            knock = await some.knock(url, window, 3, 0.3)
            assert knock["handshakes"] > 0 and knock["failed"] == 0

    run(measure())


def test_server_that_negotiates_no_compression_is_told() -> None:
    async def measure() -> None:
        async with serving(compression=None) as url:
            some = Clients()
            assert await some.open(url, 12, 2) == {"compressed": False}
            await some.close()

    run(measure())


def test_every_message_is_received_as_it_was_sent() -> None:
    received: list[Data] = []

    async def keep(connection: ServerConnection) -> None:
        async for message in connection:
            received.append(message)
            await connection.send(message)

    async def measure() -> None:
        async with serving(keep) as url:
            for window in (9, 0):
                some = Clients()
                await some.open(url, window, 1)
                await some.close()

    run(measure())
    assert received == [clients.MESSAGE.decode()] * 2 * clients.FIRST_MESSAGES


def test_what_is_no_echo_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "TIMEOUT", 0.3)

    async def measure() -> None:
        async with serving(shout) as url:
            with pytest.raises(TimeoutError):
                await Clients().open(url, 0, 1)

    run(measure())


def test_refused_handshake_is_a_failure_and_said() -> None:
    async def measure() -> None:
        async with serving(
            process_request=lambda connection, _request: connection.respond(503, "full")
        ) as url:
            knock = await Clients().knock(url, 0, 1, 0.1)
            assert knock["handshakes"] == 0
            assert list(knock["failures"]) == ["the server answered HTTP/1.1 503 Service Unavailable"]
            assert knock["p99_ms"] is None
            with pytest.raises(ClientsError, match="503"):
                await Target(url, 0).open()

    run(measure())


def test_orders_are_lines_and_an_error_is_an_answer() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{free.getsockname()[1]}/"  # nobody listens
        orders = [
            {"order": "open", "url": url, "window": 0, "count": 1},
            {"order": "talk", "count": 1, "seconds": 1},
            {"order": "close"},
        ]
        done = subprocess.run(
            [sys.executable, ROOT / "bench" / "speed" / "clients.py"],
            input="".join(f"{json.dumps(order)}\n" for order in orders),
            capture_output=True,
            text=True,
            check=True,
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert "Connect" in answers[0]["error"] or "connect" in answers[0]["error"]
    assert answers[1:] == [{"error": "no connection is open"}, {}]


# --- agent ------------------------------------------------------------------------------------------------


def test_all_slots_have_a_process_and_all_processes_as_many_slots() -> None:
    for processes in (1, 2, 4):
        links = agent.slots("plain", processes)
        assert list(links) == [f"plain_{slot:02d}.sock" for slot in range(4)]
        targets = list(links.values())
        assert {targets.count(target) for target in targets} == {4 // processes}


def test_directives_replace_those_of_the_role() -> None:
    text = "server {\n    ssl_certificate /a;\n    ssl_certificate_key /b;\n    proxy_pass http://x;\n}\n"
    assert agent.vary(text, {"ssl_certificate": "/rsa"}) == (
        "ssl_certificate /rsa;\nserver {\n    ssl_certificate_key /b;\n    proxy_pass http://x;\n}\n"
    )
    assert agent.vary(text, {}) == text


def test_family_is_processes_and_their_descendants() -> None:
    assert agent.family([2], {1: 0, 2: 1, 3: 2, 4: 3, 5: 1}) == {2, 3, 4}


def test_what_the_kernel_says_of_a_process() -> None:
    stat = Path("/proc/self/stat").read_text()
    assert agent.parent_and_ticks(stat)[0] == os.getppid()
    odd = "7 (a) b) S 3 " + " ".join(str(number) for number in range(5, 20))
    assert agent.parent_and_ticks(odd) == (3, 14 + 15)
    assert agent.memory(os.getpid()) > 2**20
    with socket.socket():
        assert agent.sockets(os.getpid()) >= 1


def test_start_runs_the_processes_behind_the_slots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a router, and as who runs the tests."""
    monkeypatch.setattr(agent, "SOCKETS", tmp_path)
    monkeypatch.setattr(agent, "FOLDER", tmp_path / "speed")
    monkeypatch.setattr(agent, "NGINX", tmp_path / "nginx" / "conf.d")
    monkeypatch.setattr(agent, "LOG", tmp_path / "log")
    monkeypatch.setattr(shutil, "chown", lambda *_: None)
    monkeypatch.setattr(agent, "IDENTITY", {})
    (tmp_path / "nginx").mkdir()
    (tmp_path / "nginx" / "nginx.conf").write_text("worker_processes auto;\n")
    script = "import os, socket, time; socket.socket(socket.AF_UNIX).bind('NAME.sock'); time.sleep(60)"
    deployed = [sys.executable, "-c", script.replace("NAME", "echo_00")], {"A": "b"}
    monkeypatch.setattr(agent, "deployed", lambda: deployed)
    some = agent.Agent()
    assert (tmp_path / "nginx" / "nginx.conf").read_text() == "worker_processes 1;\n"
    common: dict[str, Any] = {"site": "plain", "router": "", "environment": {}, "directives": {}}
    some.start([], 2, **common)
    assert (tmp_path / "plain_03.sock").resolve() == tmp_path / "speed" / "echo_01.sock"
    assert (tmp_path / "echo_00.sock").is_socket()
    looked = some.look()
    assert looked["memory"]["processes"] > 0 and looked["memory"]["router"] == 0
    assert len(looked["sockets"]) == 2
    some.stop()
    assert some.look()["sockets"] == {}
    with pytest.raises(agent.AgentError, match=r"echo_00\.sock isn't there; the process says:\n.*\n?.*wrong"):
        some.start([sys.executable, "-c", "raise SystemExit('wrong {name}')"], 1, **common)
    some.start([sys.executable, "-c", script.replace("NAME", "echo_00"), "{processes}"], 1, **common)
    assert len(some.started) == 1
    some.stop()
