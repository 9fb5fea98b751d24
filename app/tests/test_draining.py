# SPDX-License-Identifier: Apache-2.0
"""What SIGTERM and old age do. Times are told apart by order and by what still works.

Where it must be the clock, a late test or server can't make it fail: nothing has happened too early.
"""

import itertools
import random
import re
import signal
import time

import pytest
from server_process import HANDSHAKE, PATIENCE, ServerProcess, Start, close_of, closes_of
from websockets.sync.client import ClientConnection
from wsfleet.drain import TICK, jittered, pace


def echoes(client: ClientConnection) -> bool:
    client.send("still here?")
    return client.recv(PATIENCE) == "still here?"


def drained(server: ServerProcess, count: int) -> list[float]:
    """Hold `count` connections and drain them; the seconds from the signal to each close."""
    clients = [server.raw() for _n in range(count)]
    begin = time.monotonic()
    server.signal(signal.SIGTERM)
    closes = list(closes_of(clients))
    assert {(code, reason) for _client, _time, code, reason in closes} == {(1001, "server is restarting")}
    assert server.wait() == 0
    return [when - begin for _client, when, _code, _reason in closes]


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


@pytest.mark.parametrize("reason", ["", "back in a minute; 再见", "x" * 123])
def test_reason_is_the_one_wanted(start: Start, reason: str) -> None:
    server = start(drain_reason=reason)
    client = server.connect()
    server.signal(signal.SIGTERM)
    assert close_of(client) == (1001, reason)


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


def test_many_are_closed_at_the_pace(start: Start) -> None:
    times = drained(start(drain_rate=100, drain_seconds=3600), 250)
    assert all(when >= 0.8 * n / 100 for n, when in enumerate(times))


def test_window_is_met_without_a_burst(start: Start) -> None:
    times = drained(start(drain_rate=1, drain_seconds=4), 250)
    assert all(when >= 0.8 * 4 * n / 250 for n, when in enumerate(times))
    assert sum(when < 3.6 for when in times) > 125  # not left to the deadline


def test_pace_is_kept_to_the_deadline_without_growth(start: Start) -> None:
    times = drained(start(drain_rate=5, drain_seconds=2, drain_growth="false"), 100)
    assert 2 <= sum(when < 2 for when in times) <= 12
    assert times[-1] >= 2


def test_pauses_vary_with_jitter(start: Start) -> None:
    times = drained(start(drain_rate=10, drain_seconds=3600, drain_jitter=1), 21)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert sum(abs(pause - 0.1) > 0.025 for pause in pauses) >= 7  # three quarters are expected


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


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_handshakes_that_come_in_time_are_served(start: Start, loop: str) -> None:
    server = start(loop=loop, close_timeout=0.5)
    with server.raw(HANDSHAKE[:20], until=b"") as late:
        server.signal(signal.SIGTERM)
        while server.socket.exists():  # from here on it no longer accepts
            time.sleep(0.01)
        late.sendall(HANDSHAKE[20:])
        assert late.recv(12) == b"HTTP/1.1 101"
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


@pytest.mark.parametrize("code", [1001, 1012])
def test_old_connections_are_closed_one_by_one(start: Start, code: int) -> None:
    server = start(max_age=3, max_age_jitter=0.5, drain_code=code)
    begin = time.monotonic()
    clients = [server.raw() for _n in range(100)]
    closes = list(closes_of(clients))
    assert {close[2:] for close in closes} == {(code, "connection reached its maximum age")}
    assert all(when - begin >= 1.5 for _client, when, *_close in closes)
    assert closes[-1][1] - closes[0][1] >= 0.75  # of the 1.5 over which they are spread
    assert [client for client, *_close in closes] != list(range(100))  # each has an age of its own
    with server.connect() as young:
        assert echoes(young)
    assert server.stop() == 0
    assert len(server.lines) == 3


def test_connections_have_no_age_limit_by_default(start: Start) -> None:
    with start().connect() as client:
        time.sleep(0.5)
        assert echoes(client)


def test_drain_takes_no_notice_of_age(start: Start) -> None:
    server = start(max_age=1.5, max_age_jitter=0, drain_rate=0.02, drain_seconds=3600)
    clients = [server.connect() for _n in range(3)]
    server.signal(signal.SIGTERM)
    assert close_of(clients[0]) == (1001, "server is restarting")
    time.sleep(2)
    assert all(map(echoes, clients[1:]))


def test_connection_that_is_closing_already_takes_no_notice_of_age(start: Start) -> None:
    server = start(handler="handlers:dismiss", max_age=0.3, max_age_jitter=0)
    with server.raw() as client:
        time.sleep(1)
        assert client.recv(1000) == b"\x88\x05\x0f\xa1bye"  # 4001, and nothing after it
        client.sendall(b"\x88\x80\0\0\0\0")
        assert client.recv(1000) == b""
    assert server.stop() == 0
    assert len(server.lines) == 3


@pytest.mark.parametrize("waiting", [1, 2, 50, 999, 20_000])
@pytest.mark.parametrize("rate", [0.1, 50.0, 80.0, 1000.0])
@pytest.mark.parametrize("seconds", [0.5, 30.0, 600.0])
@pytest.mark.parametrize("jitter", [0.0, 0.2, 1.0])
def test_pace_meets_the_window_without_bursts(
    waiting: int, rate: float, seconds: float, jitter: float
) -> None:
    random.seed(1)
    left, batches = seconds, []
    total = waiting
    while waiting and left > 0:
        count, pause = pace(waiting, left, rate, growth=True)
        batches.append(min(count, waiting))
        waiting -= batches[-1]
        left -= jittered(pause, 1 - jitter, 1 + jitter) * 1.1  # the loop is late
    assert waiting <= max(1, total * (0.02 + 0.06 * jitter))  # what the deadline closes at once
    assert max(batches) <= 1 + 10 * jitter + (3 + 5 * jitter) * TICK * max(rate, total / seconds)


@pytest.mark.parametrize("rate", [0.1, 50.0, 80.0, 999.9])
def test_pace_without_growth_is_the_rate_until_time_is_out(rate: float) -> None:
    left, waiting, closed = 30.0, 100_000, 0
    while left > 0:
        count, pause = pace(waiting - closed, left, rate, growth=False)
        closed += count
        left -= pause
        assert closed <= rate * (30 - left) + 0.001
    assert pace(waiting - closed, left, rate, growth=False) == (waiting - closed, 0.0)


@pytest.mark.parametrize("growth", [True, False])
def test_pace_keeps_the_rate_where_the_window_allows(growth: bool) -> None:
    assert pace(10, 30, 50, growth=growth) == (1, 0.02)
    assert pace(10, 30, 2, growth=growth) == (1, 0.5)
    assert pace(10, 30, 1000, growth=growth) == (20, 0.02)
    assert pace(7, 0, 50, growth=growth) == (7, 0.0)


def test_pace_is_that_of_the_connections_that_are_left() -> None:
    assert pace(3000, 30, 50, growth=True) == (2, 0.02)
    assert pace(1500, 29.98, 50, growth=True)[1] == pytest.approx(0.04, rel=0.01)  # for two: half have left
    assert pace(3000, 30, 50, growth=False) == (1, 0.02)


def test_jitter_keeps_the_average() -> None:
    random.seed(1)
    pauses = [jittered(10, 0.8, 1.2) for _n in range(1000)]
    assert 8 <= min(pauses) < 8.1
    assert 11.9 < max(pauses) <= 12
    assert sum(pauses) / 1000 == pytest.approx(10, rel=0.01)
    assert jittered(10, 1, 1) == 10
