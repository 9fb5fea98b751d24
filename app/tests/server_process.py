# SPDX-License-Identifier: Apache-2.0
"""Real server processes, and the clients that tests need beside the library's."""

from __future__ import annotations

import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, unix_connect

PATIENCE = 20  # seconds until a test fails instead of waiting on: never the time that is tested
SOURCES = Path(__file__).parents[1] / "src"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def command_environment(settings: dict[str, object]) -> dict[str, str]:
    """The environment for a process with these settings; handlers.py beside this file can be imported."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("WS_")},
        "PYTHONPATH": os.pathsep.join((str(SOURCES), str(Path(__file__).parent))),
        **{f"WS_{name.upper()}": str(value) for name, value in settings.items()},
    }


class ServerProcess:
    """A started process; it listens on `socket` in `folder` unless the settings say otherwise."""

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        self.socket = folder / str(settings.setdefault("unix_socket", "ws.sock"))
        self.lines: list[str] = []
        self._listening = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wsfleet"],
            cwd=folder,
            env=command_environment(settings),
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self.lines.append(line.rstrip("\n"))
            if "listening on" in line:
                self._listening.set()
        self._listening.set()  # it ended instead

    def __enter__(self) -> ServerProcess:
        assert self._listening.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has logged so far; complete after `wait`."""
        return "\n".join(self.lines)

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return int(self.lines[0].partition("listening on 127.0.0.1:")[2].partition(",")[0])

    def signal(self, *numbers: int) -> None:
        for number in numbers:
            self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        code = self._process.wait(PATIENCE)
        self._reader.join()
        return code

    def stop(self) -> int:
        """SIGTERM, then as `wait`."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def connect(self, **options: Any) -> ClientConnection:
        """A client of the library."""
        client: ClientConnection = unix_connect(str(self.socket), "ws://localhost/", legacy=True, **options)
        return client

    def raw(self, data: bytes = HANDSHAKE, until: bytes = b"\r\n\r\n") -> socket.socket:
        """A client that sends `data`, reads up to `until`, and then does nothing by itself."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(str(self.socket))
        client.sendall(data)
        answer = b""
        while until not in answer:
            answer += client.recv(1)
        return client

    def request(self, path: str, method: str = "GET") -> http.client.HTTPResponse:
        """The answer to a plain HTTP request, body unread."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(str(self.socket))
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        response = http.client.HTTPResponse(client, method=method)
        response.begin()
        return response


Start: TypeAlias = Callable[..., ServerProcess]


def close_of(client: ClientConnection) -> tuple[int, str]:
    """Read on until the server closes; the code and the reason it gave, 1006 if none."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            client.recv(PATIENCE)
    received = caught.value.rcvd
    return (received.code, received.reason) if received else (1006, "")


def closes_of(clients: list[socket.socket]) -> Iterator[tuple[int, float, int, str]]:
    """Wait until all raw `clients` are closed; which, when (time.monotonic), code and reason, as it happens."""
    with selectors.DefaultSelector() as selector:
        for number, client in enumerate(clients):
            selector.register(client, selectors.EVENT_READ, number)
        while selector.get_map():
            ready = selector.select(PATIENCE)
            assert ready, "nobody is closed any more"
            for key, _events in ready:
                client = clients[key.data]
                opcode, length = client.recv(2)
                assert opcode == 0x88
                payload = client.recv(length)
                yield key.data, time.monotonic(), int.from_bytes(payload[:2]), payload[2:].decode()
                selector.unregister(client)
                client.sendall(b"\x88\x80\0\0\0\0")
                client.close()


class Slot:
    """Processes one after the other, and the symlink by which clients reach the one that serves."""

    def __init__(self, folder: Path, start: Start) -> None:
        self.path = folder / "ws.sock"
        self._folder = folder
        self._start = start
        self._count = 0
        self._serving: ServerProcess | None = None

    def start(self, **settings: Any) -> ServerProcess:
        """Start the next process, and have new clients reach it."""
        self._count += 1
        (self._folder / f"g{self._count}").mkdir()
        settings = {"unix_socket": f"g{self._count}/ws.sock", "slot": "ws.sock", "handover": True, **settings}
        process = self._start(**settings)
        self.point(self._count)
        self._serving = process
        return process

    def point(self, number: int) -> None:
        """Have new clients reach the process that was started as the so manieth."""
        fresh = self._folder / "new"
        fresh.symlink_to(f"g{number}/ws.sock")
        fresh.replace(self.path)

    def roll(self, **settings: Any) -> tuple[ServerProcess, ServerProcess]:
        """Start the next process, and tell the one before to go."""
        old = self._serving
        assert old
        new = self.start(**settings)
        old.signal(signal.SIGTERM)
        return old, new

    def figures(self) -> dict[str, Any]:
        """What the process that serves has noted."""
        file = self._folder / f"g{self._count}/ws.sock.json"
        figures: dict[str, Any] = wait_for(lambda: json.loads(file.read_text()) if file.exists() else None)
        return figures

    def connect(self, **options: Any) -> ClientConnection:
        client: ClientConnection = unix_connect(
            str(self.path), "ws://localhost/a?b=c", legacy=True, **options
        )
        return client


def wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return result
