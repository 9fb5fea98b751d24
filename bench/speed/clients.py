#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that measure a server, and cost less than it.

Each line of standard input is a JSON object with an `order` and its arguments, each line of standard output the answer:

    open   url, window, count         open connections, some messages on each; whether messages are compressed
    talk   count, seconds             so many of them send a message when the one before has come back
    talk   count, seconds, rate       so many messages per second over all of them
    close                             close them all
    knock  url, window, count, seconds    so many clients open and close connections

`window` is the largest window for compression that clients offer, in bits, for either direction; 0 offers none. Frames
are made once and written as they are: every message is the same. What comes back is inflated and compared. Certificates
aren't verified, which is work of the client only. Needs Python >= 3.11 and uvloop.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import ssl
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

import uvloop

MESSAGE = json.dumps({"id": 12345, "text": "a message of some length"}).encode()
MASK = b"\x1f\x2e\x3d\x4c"
OPENING = 20  # connections opened at a time
FIRST_MESSAGES = 3  # on each connection, before it is idle
TIMEOUT = 30.0  # seconds
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
COMPRESSED_TEXT = 0xC1


class ClientsError(Exception):
    """The server doesn't do what it should."""


def frame(first: int, payload: bytes) -> bytes:
    """A client's frame of at most 125 bytes."""
    masked = bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))
    return bytes([first, 0x80 | len(payload)]) + MASK + masked


def compress(payload: bytes) -> bytes:
    """Compress a message so that it can be sent at any time, with any window: it refers to none before."""
    compressor = zlib.compressobj(wbits=-9)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


MESSAGES = {False: frame(TEXT, MESSAGE), True: frame(COMPRESSED_TEXT, compress(MESSAGE))}
ECHO = bytes([TEXT, len(MESSAGE)]) + MESSAGE
BYE = frame(CLOSE, (1000).to_bytes(2, "big"))


class Target:
    """A server, and how it is asked."""

    def __init__(self, url: str, window: int) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "wss" else 80)
        self.tls = None
        if parts.scheme == "wss":
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.tls.check_hostname = False
            self.tls.verify_mode = ssl.CERT_NONE
        bits = f"client_max_window_bits={window}; server_max_window_bits={window}"
        offer = f"Sec-WebSocket-Extensions: permessage-deflate; {bits}\r\n" if window else ""
        self.request = (
            f"GET / HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
        ).encode()

    async def open(self) -> Connection:
        loop = asyncio.get_running_loop()
        _transport, connection = await asyncio.wait_for(
            loop.create_connection(
                lambda: Connection(self.request),
                self.host,
                self.port,
                ssl=self.tls,
                server_hostname=self.host if self.tls else None,
            ),
            TIMEOUT,
        )
        await asyncio.wait_for(connection.opened, TIMEOUT)
        return connection


class Connection(asyncio.Protocol):
    """One connection; `echoed` is called for each message that has come back."""

    transport: asyncio.Transport

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.echoed: Callable[[Connection], None] = lambda _connection: None
        self.sent = 0.0
        self._request = request
        self._data = b""
        self._inflate: Callable[[bytes], bytes] | None = None
        self._message = MESSAGES[False]

    @property
    def compressed(self) -> bool:
        return self._inflate is not None

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self._message)

    async def close(self) -> None:
        """Close as clients do: say so, and wait until the server has answered."""
        self.transport.write(BYE)
        try:
            await asyncio.wait_for(self.closed, TIMEOUT)
        finally:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's isn't a subclass
        self.transport.write(self._request)

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ClientsError("the server closed during the handshake"))
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        if data == ECHO and not self._data:  # the usual case
            self.echoed(self)
            return
        self._data += data
        if not self.opened.done() and not self._handshake():
            return
        while len(self._data) >= 2 and len(self._data) >= (end := 2 + (self._data[1] & 0x7F)):
            first, payload, self._data = self._data[0], self._data[2:end], self._data[end:]
            self._frame(first, payload)

    def _handshake(self) -> bool:
        head, found, self._data = self._data.partition(b"\r\n\r\n")
        if not found:
            self._data = head
            return False
        status = head.split(b"\r\n")[0].decode("latin-1")
        if " 101 " not in f"{status} ":
            self.opened.set_exception(ClientsError(f"the server answered {status}"))
            self.transport.abort()
            return False
        if b"permessage-deflate" in head:
            self._inflate = zlib.decompressobj(wbits=-15).decompress
            self._message = MESSAGES[True]
        self.opened.set_result(None)
        return True

    def _frame(self, first: int, payload: bytes) -> None:
        if first == PING:
            self.transport.write(frame(PONG, payload))
        elif first == CLOSE:
            if not self.closed.done():
                self.closed.set_result(None)
        else:
            if first == COMPRESSED_TEXT and self._inflate:
                payload = self._inflate(payload + b"\x00\x00\xff\xff")
            if payload != MESSAGE:
                raise ClientsError(f"this is no echo: {payload[:50]!r}")
            self.echoed(self)


def quantiles(times: Sequence[float]) -> dict[str, float | None]:
    """The median and p99 of seconds, in milliseconds."""
    ordered = sorted(times)

    def at(share: float) -> float | None:
        return round(1000 * ordered[math.ceil(share * len(ordered)) - 1], 3) if ordered else None

    return {"p50_ms": at(0.5), "p99_ms": at(0.99)}


class Clients:
    """What the orders are for."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []

    async def open(self, url: str, window: int, count: int) -> dict[str, Any]:
        target = Target(url, window)
        while len(self.connections) < count:
            some = min(OPENING, count - len(self.connections))
            self.connections += await asyncio.gather(*(target.open() for _n in range(some)))
        for _n in range(FIRST_MESSAGES):
            for start in range(0, count, OPENING):
                await self._once(self.connections[start : start + OPENING])
        return {"compressed": all(connection.compressed for connection in self.connections)}

    async def _once(self, connections: Sequence[Connection]) -> None:
        """One message on each."""
        echoed = asyncio.Semaphore(0)
        for connection in connections:
            connection.echoed = lambda _connection: echoed.release()
            connection.send()
        for _connection in connections:
            await asyncio.wait_for(echoed.acquire(), TIMEOUT)

    async def talk(self, count: int, seconds: float, rate: float = 0) -> dict[str, Any]:
        talking = self.connections[:count]
        if not talking:
            raise ClientsError("no connection is open")
        times: list[float] = []
        waiting: set[Connection] = set()
        quiet = asyncio.Event()
        began = time.perf_counter()
        end = began + seconds

        def send(connection: Connection) -> None:
            waiting.add(connection)
            connection.send()

        def echoed(connection: Connection) -> None:
            now = time.perf_counter()
            times.append(now - connection.sent)
            if now < end and not rate:
                connection.send()
                return
            waiting.discard(connection)
            if not waiting and now >= end:
                quiet.set()

        for connection in talking:
            connection.echoed = echoed
        if rate:
            late = await self._pace(cycle(talking), send, waiting, rate, began, end)
        else:
            late = 0
            for connection in talking:
                send(connection)
            await asyncio.sleep(seconds)
        if waiting:
            quiet.clear()
            await asyncio.wait_for(quiet.wait(), TIMEOUT)
        took = time.perf_counter() - began
        return {
            "messages": len(times),
            "per_second": round(len(times) / took, 1),
            "late": late,
            **quantiles(times),
        }

    async def _pace(
        self,
        connections: cycle[Connection],
        send: Callable[[Connection], None],
        waiting: set[Connection],
        rate: float,
        began: float,
        end: float,
    ) -> int:
        """Send so many messages per second; return how many couldn't be, since the one before wasn't back."""
        late = sent = 0
        while (now := time.perf_counter()) < end:
            while sent < (now - began) * rate:
                connection = next(connections)
                sent += 1
                if connection in waiting:
                    late += 1
                else:
                    send(connection)
            await asyncio.sleep(0.001)
        return late

    async def close(self) -> dict[str, Any]:
        await asyncio.gather(*(connection.close() for connection in self.connections))
        self.connections.clear()
        return {}

    async def knock(self, url: str, window: int, count: int, seconds: float) -> dict[str, Any]:
        target = Target(url, window)
        times: list[float] = []
        failures: Counter[str] = Counter()
        began = time.perf_counter()

        async def go_on() -> None:
            while (start := time.perf_counter()) < began + seconds:
                try:
                    connection = await target.open()
                    times.append(time.perf_counter() - start)
                    await connection.close()
                except (OSError, ClientsError) as error:
                    failures[str(error) or type(error).__name__] += 1

        await asyncio.gather(*(go_on() for _n in range(count)))
        took = time.perf_counter() - began
        return {
            "handshakes": len(times),
            "per_second": round(len(times) / took, 1),
            "failed": sum(failures.values()),
            "failures": dict(failures.most_common(3)),
            **quantiles(times),
        }


def main() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the servers have the first core
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        clients = Clients()
        for line in sys.stdin:
            arguments = json.loads(line)
            order = getattr(clients, arguments.pop("order"))
            try:
                answer = runner.run(order(**arguments))
            except (OSError, ClientsError) as error:
                answer = {"error": str(error) or type(error).__name__}
                for connection in clients.connections:
                    connection.transport.abort()
                clients.connections.clear()
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
