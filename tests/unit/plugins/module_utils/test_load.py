# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The load against the app's real runner, and against servers that do something wrong."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils import load
from ansible_collections.wsfleet.websockets.plugins.module_utils.load import Load, LoadError, Target, Times
from ansible_collections.wsfleet.websockets.plugins.module_utils.scenario import ECHO, parse
from websockets.sync.server import ServerConnection

ROOT = Path(__file__).resolve().parents[4]


def make(port: int, steps: list[Any] | None = None, **options: Any) -> dict[str, Any]:
    options = {"connections": 10, "seconds": 1, "processes": 2, "timeout": 5, **options}
    target = Target("127.0.0.1", port, "localhost", None)
    found: dict[str, Any] = Load(target, parse(ECHO if steps is None else steps), **options).run()
    return found


@pytest.mark.parametrize("compression", ["off", "balanced"])
def test_clients_of_an_echo_are_all_answered(start: Any, compression: str) -> None:
    found = make(start(compression=compression).port)
    assert (found["opened"], found["failed_clients"], found["failures"]) == (10, 0, {})
    assert found["messages_per_second"] > 0
    assert abs(found["answers_per_second"] - found["messages_per_second"]) <= 10
    assert found["received_per_second"] == found["answers_per_second"]
    assert 0 < found["answer_ms"]["p50"] <= found["answer_ms"]["p99"] <= found["answer_ms"]["max"]
    assert found["generator"]["processes"] == 2
    assert found["generator"]["cpu_us_per_message"] > 0


def test_a_login_is_said_once_and_the_rest_repeated(serving: Any) -> None:
    heard: list[list[str]] = []

    def chat(connection: ServerConnection) -> None:
        said: list[str] = []
        heard.append(said)
        for message in connection:
            said.append(str(message))
            connection.send("something else")
            connection.send("x" * 70_000 + str(message).upper())

    steps = [
        {"say": "login {client}"},
        {"expect": "LOGIN"},
        "repeat",
        {"say": "b {count}"},
        {"expect": {"regex": "B [0-9]+$"}},
    ]
    found = make(serving(chat), [*steps, {"think": 0.05}], connections=3, processes=1)
    assert found["failures"] == {}
    assert sorted(said[0] for said in heard) == ["login 0", "login 1", "login 2"]
    assert all(said[1:4] == ["b 2", "b 3", "b 4"] for said in heard)


def test_the_handshake_says_what_the_scenario_has(serving: Any) -> None:
    requests = []

    def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        requests.append(
            (connection.request.path, connection.request.headers["X-Token"], connection.subprotocol)
        )
        for message in connection:
            connection.send(message)

    connect = {
        "connect": {
            "path": "/a?b=c",
            "headers": {"X-Token": "d"},
            "subprotocols": ["v1"],
            "compression": False,
        }
    }
    assert make(serving(handler, subprotocols=["v1"]), [connect, *ECHO], connections=1)["failed_clients"] == 0
    assert requests == [("/a?b=c", "d", "v1")]


def test_quiet_clients_say_it_once(start: Any) -> None:
    found = make(start().port, mode="hold")
    assert (found["opened"], found["failed_clients"], found["messages_per_second"]) == (10, 0, 0)


def test_it_goes_on_until_it_is_stopped(start: Any) -> None:
    asked = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 5

    target = Target("127.0.0.1", start().port, "localhost", None)
    found = Load(target, parse(ECHO), connections=4, seconds=600).run(stopped=stopped)
    assert (found["opened"], found["failed_clients"]) == (4, 0)
    assert 0 < found["seconds"] < 600
    assert 0 < found["messages_per_second"] < 400


def test_clients_that_knock_come_again(start: Any) -> None:
    found = make(start().port, mode="knock", connections=4, seconds=2)
    assert found["failed_clients"] == 0
    assert found["opened"] >= 2 * found["handshakes_per_second"] > 4
    assert found["handshake_ms"]["p50"] > 0


def test_refused_handshakes_are_counted_by_their_status(start: Any) -> None:
    found = make(start(max_connections=4).port)
    assert (found["opened"], found["failures"]) == (4, {"HTTP 503": 6})


def test_the_others_do_not_try_when_too_many_fail(start: Any) -> None:
    found = make(start(max_connections=1).port, connections=200, processes=1)
    assert found["opened"] == 1
    assert found["failures"]["not tried, as too many failed"] >= 100
    assert found["failed_clients"] == 199


@pytest.mark.parametrize(
    ("handler", "failure"),
    [
        (lambda connection: connection.recv() and None, "closed with 1000"),
        (lambda connection: connection.recv() and connection.close(1011), "closed with 1011"),
        (lambda connection: connection.recv() and connection.socket.shutdown(socket.SHUT_RDWR), "cut"),
        (lambda connection: [connection.send("no") for _message in connection], "no answer"),
    ],
)
def test_connections_that_fail_are_counted(serving: Any, handler: Any, failure: str) -> None:
    found = make(serving(handler), connections=2, timeout=1, seconds=2)
    assert found["failures"] == {failure: 2}


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert make(port)["failures"] == {"connection refused": 10}
    with pytest.raises(LoadError, match=f"a connection to 127.0.0.1 port {port}, got Connection refused"):
        load.find_address("127.0.0.1", port, 1)


def test_something_else_than_a_websocket_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def answer() -> None:
            connection, _address = sock.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 101 Hm\r\nSec-WebSocket-Accept: no\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found = make(sock.getsockname()[1], connections=1)
        thread.join()
    assert found["failures"] == {"not a WebSocket handshake": 1}


PROGRAM = """
import sys
from ansible_collections.wsfleet.websockets.plugins.module_utils.load import Load, Target
from ansible_collections.wsfleet.websockets.plugins.module_utils.scenario import ECHO, parse
target = Target("127.0.0.1", int(sys.argv[1]), "localhost", None)
Load(target, parse(ECHO), connections=4, seconds=600, processes=2).run(lambda: print("ready", flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_processes_end_when_it_is_killed(start: Any, number: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(start().port)]
    path = str(ROOT / ".ansible/collections")
    with Popen(command, stdout=PIPE, env={**os.environ, "PYTHONPATH": path}, process_group=0) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        group = program.pid
        program.send_signal(number)
        program.wait()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
        raise AssertionError("a process lives on")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"connections": 0}, "processes is 0|connections is 0: allowed is 1 to 100000"),
        ({"seconds": 601}, "seconds is 601: allowed is 1 to 600"),
        ({"processes": 65, "connections": 100}, "processes is 65: allowed is 1 to 64"),
        ({"connections": 90_000, "processes": 64}, "this host can have [0-9]+ to one address, by its "),
    ],
)
def test_bounds(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LoadError, match=sentence):
        make(1, **options)


def test_times_are_two_percent_fine() -> None:
    times = Times()
    for number in range(1, 1001):
        times.add(number / 1000)
    found = times.milliseconds()
    assert found is not None
    assert found["p50"] == pytest.approx(500, rel=0.03)
    assert found["p99"] == pytest.approx(990, rel=0.03)
    assert found["max"] == pytest.approx(1000, rel=0.03)
    assert Times().milliseconds() is None
