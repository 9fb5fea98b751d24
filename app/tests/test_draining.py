# SPDX-License-Identifier: Apache-2.0
"""What SIGTERM does. Times are told apart by order and by what still works, not by the clock."""

import re
import signal
import time

import pytest
from server_process import HANDSHAKE, PATIENCE, Start, close_of
from websockets.sync.client import ClientConnection
from wsfleet.drain import TICK, pace


def echoes(client: ClientConnection) -> bool:
    client.send("still here?")
    return client.recv(PATIENCE) == "still here?"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_without_connections_exits_at_once(start: Start, number: signal.Signals) -> None:
    server = start(drain_seconds=3600, close_timeout=3600)
    server.signal(number)
    assert server.wait() == 0
    assert "draining: 0 connections, at most 3600 seconds" in server.lines[1]
    assert "stopped after 0." in server.lines[2]
    assert not server.socket.exists()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("code", [1001, 1012])
def test_close_code_and_reason(start: Start, loop: str, code: int) -> None:
    server = start(drain_code=code, loop=loop)
    clients = [server.connect() for _n in range(3)]
    server.signal(signal.SIGTERM)
    assert [close_of(client) for client in clients] == [(code, "server is restarting")] * 3
    assert server.wait() == 0
    assert len(server.lines) == 3  # no traceback, whatever the code


def test_messages_received_before_are_answered(start: Start) -> None:
    server = start(drain_rate=100_000)
    clients = [server.connect() for _n in range(20)]
    for client in clients:
        client.send("before")
    server.signal(signal.SIGTERM)
    assert [client.recv(PATIENCE) for client in clients] == ["before"] * 20
    assert {close_of(client)[0] for client in clients} == {1001}
    assert server.wait() == 0


def test_connections_are_closed_one_by_one_until_a_second_signal(start: Start) -> None:
    server = start(drain_rate=0.02, drain_seconds=3600)
    clients = [server.connect() for _n in range(4)]
    server.signal(signal.SIGTERM)
    assert close_of(clients[0])[0] == 1001  # the oldest first, the next fifty seconds later
    assert all(map(echoes, clients[1:]))
    server.signal(signal.SIGTERM)
    assert {close_of(client)[0] for client in clients[1:]} == {1001}
    assert server.wait() == 0


def test_closing_is_faster_when_the_window_demands_it(start: Start) -> None:
    server = start(drain_rate=0.1, drain_seconds=3)
    clients = [server.connect() for _n in range(20)]
    server.signal(signal.SIGTERM)
    assert close_of(clients[0])[0] == 1001
    assert echoes(clients[-1])
    assert {close_of(client)[0] for client in clients[1:]} == {1001}
    assert server.wait() == 0


def test_clients_that_leave_by_themselves_end_the_drain(start: Start) -> None:
    server = start(drain_rate=0.02, drain_seconds=3600, close_timeout=3600)
    clients = [server.connect() for _n in range(3)]
    server.signal(signal.SIGTERM)
    assert close_of(clients[0])[0] == 1001
    for client in clients[1:]:
        client.close()
    assert server.wait() == 0  # not only at the next close, 50 seconds after the first


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_handshakes_under_way_are_refused_and_hold_nothing_up(start: Start, loop: str) -> None:
    server = start(drain_rate=0.02, drain_seconds=3600, open_timeout=3600, close_timeout=3600, loop=loop)
    clients = [server.connect() for _n in range(2)]
    with server.raw(HANDSHAKE[:20], until=b"") as slow, server.raw(b"GET", until=b""):
        server.signal(signal.SIGTERM)
        assert close_of(clients[0])[0] == 1001  # from here on it no longer accepts
        slow.sendall(HANDSHAKE[20:])
        assert slow.recv(12) == b"HTTP/1.1 503"
        clients[1].close()
        assert server.wait() == 0


def test_drain_seconds_0_closes_all_at_once(start: Start) -> None:
    server = start(drain_seconds=0, drain_rate=0.1)
    clients = [server.connect() for _n in range(3)]
    server.signal(signal.SIGTERM)
    assert {close_of(client)[0] for client in clients} == {1001}
    assert server.wait() == 0


def test_last_words_of_a_handler_arrive(start: Start) -> None:
    server = start(handler="handlers:farewell", write_limit=10_000_000)
    with server.raw() as client:
        server.signal(signal.SIGTERM)
        time.sleep(1)  # more than the process takes if nothing holds it
        received = 0
        while received < 4_000_000 and (data := client.recv(1_000_000)):
            received += len(data)
    assert received >= 4_000_000
    assert server.wait() == 0


@pytest.mark.parametrize("handler", ["wsfleet.echo:handler", "handlers:forever"])
def test_client_that_ignores_the_close_is_cut(start: Start, handler: str) -> None:
    """The one that reads nothing as well: then even the close frame can't be written."""
    server = start(close_timeout=0.3, drain_seconds=3600, handler=handler)
    with server.raw():
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("loop", "handler", "says"),
    [
        ("asyncio", "handlers:hang", "ERROR .* handlers of 1 connections cancelled, exit code 70"),
        ("asyncio", "handlers:resist", "CRITICAL .* a handler blocks the exit, ended by force, exit code 70"),
        ("asyncio", "handlers:block", "CRITICAL .* a handler blocks the exit, ended by force, exit code 70"),
        ("uvloop", "handlers:block", "CRITICAL .* a handler blocks the exit, ended by force, exit code 70"),
    ],
)
def test_handler_that_never_returns_holds_the_exit_no_longer_than_the_deadline(
    start: Start, loop: str, handler: str, says: str
) -> None:
    server = start(handler=handler, drain_seconds=0.3, close_timeout=0.2, loop=loop)
    with server.connect(close_timeout=0) as client:
        assert client.recv(PATIENCE) == "hello"
        assert server.stop() == 70
    assert re.search(says, server.lines[-1])


def test_second_signal_brings_the_deadline_forward(start: Start) -> None:
    server = start(handler="handlers:block", drain_seconds=3600, close_timeout=0.1)
    with server.connect(close_timeout=0) as client:
        assert client.recv(PATIENCE) == "hello"
        server.signal(signal.SIGTERM)
        time.sleep(0.1)  # else the kernel makes one of the two
        assert server.stop() == 70


@pytest.mark.parametrize("waiting", [1, 2, 50, 999, 20_000])
@pytest.mark.parametrize("rate", [0.1, 50.0, 1000.0])
@pytest.mark.parametrize("seconds", [0.5, 30.0, 600.0])
def test_pace_meets_the_window_without_bursts(waiting: int, rate: float, seconds: float) -> None:
    left, batches = seconds, []
    total = waiting
    while waiting and left > 0:
        count, pause = pace(waiting, left, rate)
        batches.append(count)
        waiting -= min(count, waiting)
        left -= pause * 1.1  # the loop is late
    assert waiting <= max(1, total * 0.02)  # what the deadline closes at once
    assert max(batches) <= 1 + 3 * TICK * max(rate, total / seconds)


def test_pace_keeps_the_rate_where_the_window_allows() -> None:
    assert pace(10, 30, 50) == (1, 0.02)
    assert pace(10, 30, 2) == (1, 0.5)
    assert pace(10, 30, 1000) == (20, 0.02)
    assert pace(3000, 30, 50) == (2, 0.02)
    assert pace(7, 0, 50) == (7, 0.0)
