# SPDX-License-Identifier: Apache-2.0
"""What a process says of itself on its own socket."""

from __future__ import annotations

import http.client
import re
import signal
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_process import HANDSHAKE, PATIENCE, Slot, Start, close_of, wait_for
from websockets.exceptions import InvalidStatus
from wsfleet import __version__

APP = Path(__file__).parents[1]
Figures = dict[str, float]


def ask(path: Path, target: str = "/metrics") -> http.client.HTTPResponse:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(str(path))
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    response = http.client.HTTPResponse(client)
    response.begin()
    return response


def figures(path: Path) -> Figures:
    """By name and the values of the labels, such as `ws_connections_closed_total 1000`."""
    text = ask(path).read().decode()
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "own.metrics"


def balance(now: Figures) -> float:
    """What the counters say of the connections that are open."""
    closed = sum(value for name, value in now.items() if name.startswith("ws_connections_closed_total"))
    return (
        now["ws_connections_opened_total"]
        + now["ws_connections_taken_over_total"]
        - now["ws_connections_handed_over_total"]
        - closed
    )


def test_counts_connections_messages_and_closes(start: Start, metrics: Path) -> None:
    server = start(metrics_socket="own.metrics", release="/opt/echo/releases/1.4.0-0123456789ab")
    clients = [server.connect() for _n in range(5)]
    for message in ("text", b"bytes", "x" * 100_000):
        clients[0].send(message)
        assert clients[0].recv(PATIENCE) == message
    clients[0].send(["a message ", "in fragments"])
    clients[0].recv(PATIENCE)
    assert clients[0].ping().wait(PATIENCE)  # no message
    clients[1].close()
    clients[2].close(4001)
    clients[3].close(3999)
    wait_for(lambda: figures(metrics)["ws_connections"] == 2)
    now = figures(metrics)
    assert now["ws_connections_opened_total"] == 5
    assert now["ws_messages_received_total"] == now["ws_messages_sent_total"] == 4
    assert now["ws_handshake_seconds_count"] == 5
    assert now["ws_draining"] == 0
    closed = {name for name in now if name.startswith("ws_connections_closed_total")}
    assert closed == {f"ws_connections_closed_total {code}" for code in ("1000", "4xxx", "3xxx")}
    assert balance(now) == 2
    assert now[f"ws_build_info 1.4.0-0123456789ab {__version__}"] == 1
    assert now["process_resident_memory_bytes"] > 0
    assert not [name for name in now if name.endswith("_created")]
    assert wait_for(lambda: figures(metrics)["ws_event_loop_lag_seconds_count"])
    for client in (clients[0], clients[4]):
        client.close()


def test_says_why_handshakes_are_rejected(start: Start, metrics: Path) -> None:
    server = start(
        metrics_socket="own.metrics", max_connections=1, origins="none,https://example.org", open_timeout=0.5
    )
    with pytest.raises(InvalidStatus, match="403"):
        server.connect(origin="https://example.com")
    assert server.request("/").status == 426
    server.raw(b"no HTTP at all\r\n\r\n", until=b"").close()
    server.raw(b"GET / HTTP/1.1\r\n", until=b"").close()
    with server.raw(HANDSHAKE[:-2], until=b"") as slow:
        assert slow.recv(1) == b""  # cut
    client = server.connect()
    with pytest.raises(InvalidStatus, match="503"):
        server.connect()
    assert server.request("/readyz").status == 503  # is no handshake, neither this
    assert server.request("/healthz").status == 200
    expected = {"origin": 1, "invalid": 2, "gone": 1, "timeout": 1, "full": 1, "draining": 0}

    def rejected() -> dict[str, float]:
        now = figures(metrics)
        return {reason: now[f"ws_handshakes_rejected_total {reason}"] for reason in expected}

    wait_for(lambda: rejected() == expected)
    client.close()


def test_readme_names_all(start: Start, metrics: Path) -> None:
    start(metrics_socket="own.metrics")
    types = re.findall(r"(?m)^# TYPE (ws_\S+) (\S+)$", ask(metrics).read().decode())
    table = re.search(r"(?s)<!-- metrics -->\n(.*?)<!-- end -->", (APP / "README.md").read_text())
    assert table
    named = re.findall(r"(?m)^\| `(ws_\w+)` \| (\w+)", table[1])
    assert sorted(named) == sorted(types)


def test_clients_get_no_metrics(start: Start, metrics: Path) -> None:
    server = start(metrics_socket="own.metrics")
    assert server.request("/metrics").status == 426  # a handshake as any
    assert ask(metrics, "/").status == 404
    response = ask(metrics)
    assert response.status == 200
    assert re.match(r"text/plain; version=[0-9.]+", response.headers["Content-Type"])
    tcp = start(unix_socket="", port=0, metrics_socket="tcp.metrics")
    assert figures(metrics.with_name("tcp.metrics"))["ws_connections"] == 0
    with socket.create_connection(("127.0.0.1", tcp.port)) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 426"


def test_answers_until_the_end_of_a_drain(start: Start, metrics: Path) -> None:
    server = start(metrics_socket="own.metrics", drain_rate=0.01, drain_growth=False, drain_jitter=0)
    clients = [server.connect() for _n in range(3)]
    server.signal(signal.SIGTERM)
    assert close_of(clients[0])[0] == 1001
    wait_for(lambda: figures(metrics)["ws_connections"] == 2)
    assert not server.socket.exists()
    now = figures(metrics)
    assert (now["ws_draining"], now["ws_connections_closed_total 1001"]) == (1, 1)
    assert server.stop() == 0
    assert not metrics.exists()


def test_cut_connections_are_closes_with_1006(start: Start, metrics: Path) -> None:
    server = start(metrics_socket="own.metrics", max_size=10)
    server.raw().close()
    with server.connect() as client:
        client.send("more than ten bytes")
        assert close_of(client)[0] == 1009
    wait_for(lambda: figures(metrics)["ws_connections"] == 0)
    now = figures(metrics)
    assert now["ws_connections_closed_total 1006"] == now["ws_connections_closed_total 1009"] == 1


def test_connections_that_move_are_neither_opened_nor_closed(tmp_path: Path, start: Start) -> None:
    slot = Slot(tmp_path, start)
    slot.start(metrics_socket="ws.metrics.1")
    client = slot.connect()
    client.send("hello")
    client.recv(PATIENCE)
    other = slot.connect()
    old, _new = slot.roll(metrics_socket="ws.metrics.2")
    assert old.wait() == 0
    third = slot.connect()
    client.send("again")
    assert client.recv(PATIENCE) == "again"
    now = figures(tmp_path / "ws.metrics.2")
    assert now["ws_connections"] == balance(now) == 3
    assert now["ws_connections_taken_over_total"] == 2
    assert now["ws_connections_opened_total"] == now["ws_handshake_seconds_count"] == 1
    assert now["ws_messages_received_total"] == now["ws_messages_sent_total"] == 1
    for one in (client, other, third):
        one.close()


def test_old_process_says_what_has_moved_and_what_has_not(tmp_path: Path, start: Start) -> None:
    slot = Slot(tmp_path, start)
    old = slot.start(metrics_socket="ws.metrics.1", handover_seconds=3600, drain_seconds=3600)
    quiet = slot.connect()
    with old.raw() as stuck:
        stuck.sendall(b"\x81")  # half of a frame can't move
        old, _new = slot.roll(metrics_socket="ws.metrics.2")
        wait_for(lambda: figures(tmp_path / "ws.metrics.1")["ws_connections"] == 1)
        now = figures(tmp_path / "ws.metrics.1")
        assert (now["ws_draining"], now["ws_connections_handed_over_total"], balance(now)) == (1, 1, 1)
        assert figures(tmp_path / "ws.metrics.2")["ws_connections"] == 1
    quiet.close()


def test_socket_that_cannot_be_bound(start: Start) -> None:
    server = start(metrics_socket="no/such.metrics")
    assert server.wait() == 1
    assert "cannot listen on ws.sock: [Errno 2] No such file or directory: 'no/such.metrics'" in server.log
