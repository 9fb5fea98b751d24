# SPDX-License-Identifier: Apache-2.0
"""What clients get: echo, negotiation, limits; and the sockets it comes from."""

import os
import re
import resource
import signal
import socket
import stat

import pytest
from server_process import PATIENCE, Start, close_of
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.sync.client import connect
from websockets.typing import Subprotocol
from wsfleet.config import Settings
from wsfleet.listener import make_extensions, make_options

OFFER = "permessage-deflate; client_max_window_bits"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_echo_of_text_and_binary_up_to_max_size(start: Start, loop: str) -> None:
    server = start(loop=loop)
    for compression in ("deflate", None):
        with server.connect(compression=compression) as client:
            for message in ("", "x", "é" * 2**19, b"", b"\0", bytes(2**20)):
                client.send(message)
                assert client.recv(PATIENCE) == message
            client.send(bytes(2**20 + 1))
            assert close_of(client)[0] == 1009
    assert server.stop() == 0


@pytest.mark.parametrize("loop", ["auto", "asyncio", "uvloop"])
def test_event_loop_is_the_one_wanted(start: Start, loop: str) -> None:
    with start(loop=loop, handler="handlers:describe").connect() as client:
        assert (loop != "asyncio") == (str(client.recv(PATIENCE)).split()[1] == "uvloop")


@pytest.mark.parametrize(
    ("settings", "offer", "answer"),
    [
        (Settings(), OFFER, "server_max_window_bits=12; client_max_window_bits=12"),
        (Settings(compression="memory"), OFFER, "server_max_window_bits=11; client_max_window_bits=11"),
        (Settings(compression="ratio"), OFFER, "server_max_window_bits=15; client_max_window_bits=15"),
        (Settings(compression="off"), OFFER, None),
        (Settings(), OFFER + "=10", "server_max_window_bits=12; client_max_window_bits=10"),
        (
            Settings(server_window_bits=9, client_window_bits=8),
            OFFER,
            "server_max_window_bits=9; client_max_window_bits=8",
        ),
        # A client that can't limit its window keeps none, unless 15 bits are wanted anyway.
        (Settings(), "permessage-deflate", "client_no_context_takeover; server_max_window_bits=12"),
        (Settings(compression="ratio"), "permessage-deflate", "server_max_window_bits=15"),
        (Settings(), "x-webkit-deflate-frame", None),
    ],
)
def test_compression_negotiated(settings: Settings, offer: str, answer: str | None) -> None:
    headers = Headers(
        {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Extensions": offer,
        }
    )
    response = ServerProtocol(extensions=make_extensions(settings)).accept(Request("/", headers))
    assert response.status_code == 101
    wanted = answer and f"permessage-deflate; {answer}"
    assert response.headers.get("Sec-WebSocket-Extensions") == wanted


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        (Settings(), 5),
        (Settings(compression="memory"), 4),
        (Settings(compression="ratio"), 8),
        (Settings(mem_level=1), 1),
    ],
)
def test_memory_level(settings: Settings, level: int) -> None:
    for factory in make_extensions(settings):
        assert vars(factory)["compress_settings"] == {"memLevel": level}


def test_compression_with_a_client_that_keeps_15_bits(start: Start) -> None:
    offer = ClientPerMessageDeflateFactory(client_max_window_bits=None)
    with start().connect(compression=None, extensions=[offer]) as client:
        assert client.response
        assert "client_no_context_takeover" in client.response.headers["Sec-WebSocket-Extensions"]
        for message in ("a" * 40_000, "a" * 40_000, "b"):
            client.send(message)
            assert client.recv(PATIENCE) == message


def test_settings_of_the_handshake(start: Start) -> None:
    server = start(
        origins="https://a.example,~https://[a-z]+[.]b[.]example,none",
        subprotocols="v2,v1",
        server_header="true",
        compression="off",
    )
    protocols = [Subprotocol("v1"), Subprotocol("v2")]
    for origin in ("https://a.example", "https://x.b.example", None):
        with server.connect(origin=origin, subprotocols=protocols) as client:
            assert client.subprotocol == "v2"
            assert client.response
            assert client.response.headers["Server"].startswith("Python/")
            assert "Sec-WebSocket-Extensions" not in client.response.headers
    with pytest.raises(InvalidStatus, match="403"):
        server.connect(origin="https://a.example.evil", subprotocols=protocols)
    with pytest.raises(InvalidStatus, match="400"):
        server.connect(subprotocols=[Subprotocol("v3")])


def test_default_handshake_shows_no_versions_and_takes_any_origin(start: Start) -> None:
    with start().connect(origin="https://any.example") as client:
        assert client.response
        assert "Server" not in client.response.headers


def test_options_reach_the_library() -> None:
    settings = Settings(
        open_timeout=1,
        ping_interval=2,
        ping_timeout=3,
        close_timeout=4,
        max_size=5,
        max_queue=6,
        write_limit=7,
        backlog=8,
    )
    options = make_options(settings)
    for name in settings.changed():
        assert options[name] == getattr(settings, name)
    for name in ("ping_interval", "ping_timeout"):
        assert make_options(Settings(ping_interval=0, ping_timeout=0))[name] is None


def test_backlog_is_as_set(start: Start) -> None:
    server = start(backlog=5)
    server.signal(signal.SIGSTOP)
    clients = []
    with pytest.raises(BlockingIOError):
        for _n in range(50):
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].setblocking(False)
            clients[-1].connect(str(server.socket))
    assert len(clients) == 5 + 2  # Linux lets one more in; the last was refused
    for client in clients:
        client.close()


def test_slow_handshakes_are_cut(start: Start) -> None:
    with start(open_timeout=0.2).raw(b"GET / HTTP/1.1\r\n", until=b"") as client:
        assert client.recv(1) == b""


def test_silent_clients_are_pinged_then_cut(start: Start) -> None:
    with start(ping_interval=0.1, ping_timeout=0.1).raw() as client:
        assert client.recv(2)[:1] == b"\x89"  # a ping
        received = b""
        while data := client.recv(4096):
            received += data
        assert b"\x03\xf3keepalive ping timeout" in received  # 1011


def test_tcp_ports_are_shared_only_with_reuse_port(start: Start) -> None:
    first = start(unix_socket="", port=0, reuse_port="true", handler="handlers:describe")
    second = start(unix_socket="", port=first.port, reuse_port="true", handler="handlers:describe")
    seen = set()
    for _n in range(60):
        with connect(f"ws://127.0.0.1:{first.port}/") as client:
            seen.add(int(str(client.recv(PATIENCE)).split()[0]))
    assert seen == {first.pid, second.pid}
    third = start(unix_socket="", port=first.port)
    assert third.wait() == 1
    assert re.search(rf"ERROR .* cannot listen on 127.0.0.1:{first.port}: ", third.log)
    assert "Traceback" not in third.log


def test_files_limit_is_raised_to_the_hard_limit(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_unix_socket_has_its_mode_from_the_umask(start: Start) -> None:
    before = os.umask(0o027)
    try:
        server = start()
    finally:
        os.umask(before)
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o750


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_unix_socket_is_removed_only_by_its_owner(start: Start, loop: str) -> None:
    old = start(loop=loop)
    with old.connect() as held:
        new = start(loop=loop)  # takes the path over
        held.send("still here")
        assert held.recv(PATIENCE) == "still here"
        old.signal(signal.SIGTERM)
        assert close_of(held)[0] == 1001
    assert old.wait() == 0
    with new.connect() as client:
        client.send("new")
        assert client.recv(PATIENCE) == "new"
    assert new.stop() == 0
    assert not new.socket.exists()
