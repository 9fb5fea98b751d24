# SPDX-License-Identifier: Apache-2.0
"""Health checks and the cap on connections."""

import signal
import socket

import pytest
from server_process import PATIENCE, ServerProcess, Start
from websockets.exceptions import InvalidStatus


def status(server: ServerProcess, path: str) -> int:
    return server.request(path).status


def test_answers_to_health_checks(start: Start) -> None:
    server = start()
    for path in ("/healthz", "/readyz", "/readyz?verbose"):
        response = server.request(path)
        assert (response.status, response.read()) == (200, b"ok\n")
        response = server.request(path, "HEAD")
        assert (response.status, response.headers["Content-Length"], response.read()) == (200, "3", b"")
        with server.raw(f"HEAD {path} HTTP/1.1\r\n\r\n".encode()) as client:
            assert client.recv(1) == b""  # no body
        response = server.request(path, "DELETE")
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    assert status(server, "/") == 426
    assert server.request("/", "HEAD").status == 405
    assert server.stop() == 0
    assert len(server.lines) == 3  # start, drain, end: health checks leave no trace


def test_cap_refuses_with_retry_after_and_counts_only_connections(start: Start) -> None:
    server = start(max_connections=2)
    first, second = server.connect(), server.connect()
    assert [status(server, path) for path in ("/healthz", "/readyz")] == [200, 503]
    with pytest.raises(InvalidStatus, match="503") as caught:
        server.connect()
    assert int(caught.value.response.headers["Retry-After"]) > 0
    first.close()
    for _n in range(100):  # the server may learn it a moment later
        if status(server, "/readyz") == 200:
            break
    with server.connect() as third:
        third.send("room")
        assert third.recv(PATIENCE) == "room"
    second.close()
    assert server.stop() == 0


def test_not_ready_but_alive_and_accepting_at_the_start_of_a_drain(start: Start) -> None:
    """What arrives while the process sleeps is served right after the signal, before it stops accepting."""
    server = start()
    server.signal(signal.SIGSTOP)
    clients = [socket.socket(socket.AF_UNIX) for _n in range(3)]
    for client, path in zip(clients, ("/readyz", "/healthz", "/"), strict=True):
        client.settimeout(PATIENCE)
        client.connect(str(server.socket))
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
    server.signal(signal.SIGTERM, signal.SIGCONT)
    assert [client.recv(12) for client in clients] == [b"HTTP/1.1 503", b"HTTP/1.1 200", b"HTTP/1.1 101"]
    for client in clients:
        client.close()
    assert server.wait() == 0
