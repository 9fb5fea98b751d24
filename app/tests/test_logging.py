# SPDX-License-Identifier: Apache-2.0
"""What is logged, and what isn't."""

import json
import re
import socket
import struct

import pytest
from server_process import HANDSHAKE, PATIENCE, Start, close_of


def test_three_lines_in_the_life_of_a_process(start: Start) -> None:
    server = start(max_size=5, origins="none,https://a.example")
    assert server.stop() == 0
    begin, drain, end = server.lines
    assert f"INFO wsfleet.server[{server.pid}]: listening on unix:{server.socket}, settings: " in begin
    assert begin.endswith(" settings: unix_socket=ws.sock origins=none,https://a.example max_size=5")
    assert drain.endswith(" draining: 0 connections, at most 30 seconds")
    assert re.search(r" stopped after 0\.\d seconds$", end)


@pytest.mark.parametrize("handler", ["wsfleet.echo:handler", "handlers:tasks"])
def test_clients_that_vanish_leave_no_trace(start: Start, handler: str) -> None:
    server = start(handler=handler, open_timeout=0.2)
    for data in (b"", b"GET /", b"\x16\x03\x01\r\n\r\n", HANDSHAKE[:-2], HANDSHAKE, HANDSHAKE + b"\x81\xfe"):
        client = server.raw(data, until=b"\r\n\r\n" if data.startswith(HANDSHAKE) else b"")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    if handler == "wsfleet.echo:handler":
        with server.connect() as alive:
            alive.send("here")
            assert alive.recv(PATIENCE) == "here"
    assert server.stop() == 0
    assert len(server.lines) == 3


def test_wrong_requests_leave_no_trace(start: Start) -> None:
    server = start()
    assert server.request("/").status == 426
    assert server.request("/", "HEAD").status == 405
    assert server.stop() == 0
    assert len(server.lines) == 3


@pytest.mark.parametrize(
    ("handler", "error"), [("bug", "LookupError: a bug in the handler"), ("foreign", "ConnectionClosedError")]
)
def test_bug_in_the_handler_is_logged_with_its_traceback(start: Start, handler: str, error: str) -> None:
    server = start(handler=f"handlers:{handler}")
    with server.connect() as client:
        assert close_of(client)[0] == 1011
    assert server.stop() == 0
    assert "connection handler failed" in server.log
    assert "Traceback" in server.log
    assert 'handlers.py", line' in server.log
    assert error in server.log


def test_json_lines(start: Start) -> None:
    server = start(handler="handlers:bug", log_format="json")
    with server.connect() as client:
        assert close_of(client)[0] == 1011
    assert server.stop() == 0
    entries = [json.loads(line) for line in server.lines]
    assert sorted(entry["level"] for entry in entries) == ["error", "info", "info", "info"]
    assert all({"time", "level", "logger", "pid", "message"} <= entry.keys() for entry in entries)
    assert all(entry["pid"] == server.pid for entry in entries)
    [failure] = [entry for entry in entries if "exception" in entry]
    assert "LookupError: a bug in the handler" in failure["exception"]


def test_log_level(start: Start) -> None:
    quiet = start(log_level="warning", unix_socket="absent/ws.sock")
    assert quiet.wait() == 1
    assert len(quiet.lines) == 1
    assert "ERROR wsfleet.server" in quiet.log
    verbose = start(log_level="debug")
    assert verbose.request("/healthz").status == 200
    assert verbose.stop() == 0
    assert "GET /healthz" in verbose.log
