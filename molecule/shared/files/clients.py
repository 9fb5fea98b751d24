#!/usr/bin/env python3
# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The clients of the Molecule scenarios: each subcommand plays one kind and prints what it saw as a JSON object.

Needs Python >= 3.11 and websockets >= 15. Every run ends by itself: when there is nothing left to see, when the
file --stop-file appears, at SIGTERM, and after --seconds at the latest. --ready-file is created when all
connections were attempted. Times are in seconds, except where a name ends in _ms; times of closes count from then.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import math
import os
import random
import resource
import signal
import socket
import ssl
import sys
import time
import urllib.parse
from collections.abc import Callable, Collection, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import State

T = TypeVar("T")
Result = dict[str, Any]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SIZES = (0, 0, 10, 100, 100, 1000, 1000, 8000, 50_000)  # characters of mixed messages
CHANCE = random.Random()
OPEN_TIMEOUT = 20  # seconds; nginx may hold a handshake while all processes are down
CLOSE_TIMEOUT = 5


class RefusedError(Exception):
    """A bare handshake was not answered with 101."""


def failure(exc: Exception) -> str:
    """Return a short name for what went wrong: "HTTP 502", "closed 1001", "ConnectionRefusedErrorError"."""
    if isinstance(exc, InvalidStatus):
        return f"HTTP {exc.response.status_code}"
    if isinstance(exc, ConnectionClosed):
        return f"closed {exc.rcvd.code if exc.rcvd else 1006}"
    return str(exc) if isinstance(exc, RefusedError) else type(exc).__name__


def quantiles(values: Iterable[float], scale: float = 1) -> dict[str, float] | None:
    """Return p50, p99 and max of `values` times `scale`; None when there are none."""
    ranked = sorted(values)
    if not ranked:
        return None
    ranks = {"p50": math.ceil(0.5 * len(ranked)), "p99": math.ceil(0.99 * len(ranked)), "max": len(ranked)}
    return {name: round(ranked[rank - 1] * scale, 3) for name, rank in ranks.items()}


async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel what still runs and wait for its end; raise what a task raised."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def first_of(*waits: Coroutine[Any, Any, Any], timeout: float | None = None) -> None:
    """Wait until one of `waits` or the time is over; cancel the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(tasks)


async def finish(tasks: Collection[asyncio.Task[Any]], stop: asyncio.Event) -> None:
    """Wait until all tasks are done or `stop` is set."""
    if tasks:
        await first_of(stop.wait(), asyncio.wait(tasks))


async def start_all(
    client: Callable[[int], Coroutine[Any, Any, None]], count: int, rate: float, stop: asyncio.Event
) -> list[asyncio.Task[None]]:
    """Start `client(index)` for each index, `rate` a second (0: at once), until `stop`; return the tasks."""
    begin = time.monotonic()
    tasks: list[asyncio.Task[None]] = []
    for index in range(count):
        if rate and (delay := begin + index / rate - time.monotonic()) > 0:
            await first_of(stop.wait(), timeout=delay)
        if stop.is_set():
            break
        tasks.append(asyncio.create_task(client(index)))
    return tasks


def find(name: str, port: int) -> str:
    """The address, asked for once: a name server that is late is none of the servers' faults."""
    found = sorted(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))  # IPv4 first
    return str(found[0][4][0])


class Target:
    """Where the clients connect: to the URL, or to --address and --port in its name."""

    def __init__(self, args: argparse.Namespace) -> None:
        url = urllib.parse.urlsplit(args.url)
        secure = url.scheme == "wss"
        self.url: str = args.url
        self.headers: list[tuple[str, str]] = args.header
        self.request = f"GET {url.path or '/'} HTTP/1.1\r\nHost: {url.netloc}\r\n"
        port = args.port or url.port or (443 if secure else 80)
        self.connection: dict[str, Any] = {"host": find(args.address or url.hostname, port), "port": port}
        if secure:
            self.connection["ssl"] = ssl.create_default_context(cafile=args.ca)
            self.connection["server_hostname"] = url.hostname

    async def open(self, **options: Any) -> ClientConnection:
        """Return an open WebSocket connection, or raise what websockets does."""
        return await connect(
            self.url,
            additional_headers=self.headers,
            proxy=None,
            open_timeout=OPEN_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            **self.connection,
            **options,
        )

    async def open_stream(self) -> Stream:
        """Return a TCP or TLS connection, for clients that don't behave."""
        return await asyncio.wait_for(asyncio.open_connection(**self.connection), OPEN_TIMEOUT)

    async def open_deaf(self) -> Stream:
        """Return an open WebSocket connection on which nothing answers pings and closes."""
        reader, writer = await self.open_stream()
        upgrade = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        writer.write(f"{self.request}{upgrade}".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), OPEN_TIMEOUT)
        status = answer.split()[1].decode()
        if status != "101":
            writer.close()
            raise RefusedError(f"HTTP {status}")
        return reader, writer


class Seen:
    """What happened to the --count connections of a run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.start = time.monotonic()
        self.opened = 0
        self.attempts = 0
        self.all_attempted = asyncio.Event()
        self.failures: collections.Counter[str] = collections.Counter()
        self.codes: collections.Counter[str] = collections.Counter()
        self.reasons: collections.Counter[str] = collections.Counter()
        self.close_times: list[float] = []

    def now(self) -> float:
        return round(time.monotonic() - self.start, 3)

    async def open(self, opening: Coroutine[Any, Any, T]) -> T | None:
        """Return what `opening` does; when it fails, count why and return None."""
        opened = None
        try:
            opened = await opening
            self.opened += 1
        except Exception as exc:
            self.failures[failure(exc)] += 1
        self.attempts += 1
        if self.attempts == self.args.count:
            self.all_attempted.set()
        return opened

    async def ready(self, stop: asyncio.Event) -> float:
        """Wait until all connections were attempted, say so, and return how long that took."""
        await first_of(stop.wait(), self.all_attempted.wait())
        seconds = self.now()
        self.start = time.monotonic()
        if self.args.ready_file:
            self.args.ready_file.touch()
        return seconds

    def closed(self, code: int, reason: str) -> None:
        """Count a close that the server began; 1006 is a cut."""
        self.codes[str(code)] += 1
        self.reasons[reason] += 1
        self.close_times.append(self.now())

    def closed_by(self, exc: ConnectionClosed) -> None:
        self.closed(*((exc.rcvd.code, exc.rcvd.reason) if exc.rcvd else (1006, "")))

    def summary(self) -> Result:
        times = sorted(self.close_times)
        per_second = collections.Counter(int(moment - times[0]) for moment in times)
        return {
            "opened": self.opened,
            "failed_handshakes": dict(self.failures),
            "closes": dict(self.codes),
            "close_reasons": dict(self.reasons),
            "first_close": times[0] if times else None,
            "last_close": times[-1] if times else None,
            "closes_per_second": [per_second[second] for second in range(max(per_second, default=-1) + 1)],
            "seconds": self.now(),
        }


class Hold:
    """Connections that send a numbered message at an interval and check that its echo is what comes next."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.target = Target(args)
        self.seen = Seen(args)
        self.open = self.sent = self.echoed = self.unanswered = self.wrong = 0
        self.echo_times: list[float] = []
        self.reconnect_times: list[float] = []

    async def run(self, stop: asyncio.Event) -> Result:
        tasks = await start_all(self.client, self.args.count, self.args.connect_rate, stop)
        await self.seen.ready(stop)
        await finish(tasks, stop)
        result = {
            **self.seen.summary(),
            "open_at_end": self.open,
            "echoed": self.echoed,
            "unanswered": self.unanswered,
            "wrong": self.wrong,
            "echo_ms": quantiles(self.echo_times, 1000),
            "reconnects": len(self.reconnect_times),
            "reconnect_seconds": quantiles(self.reconnect_times),
        }
        await cancel(tasks)
        return result

    def connect(self, _index: int) -> Coroutine[Any, Any, ClientConnection]:
        return self.target.open()

    async def client(self, index: int) -> None:
        """Play one client until its connection is closed; with --reconnect, until cancelled."""
        websocket = await self.seen.open(self.connect(index))
        while websocket:
            self.open += 1
            try:
                await self.talk(websocket, index)
            except ConnectionClosed as exc:
                self.seen.closed_by(exc)
            finally:
                self.open -= 1
                await websocket.close()
            if not self.args.reconnect:
                return
            lost = time.monotonic()
            while not (websocket := await self.seen.open(self.connect(index))):
                await asyncio.sleep(0.1)
            self.reconnect_times.append(time.monotonic() - lost)

    async def talk(self, websocket: ClientConnection, index: int) -> None:
        """Send messages and wait for their echoes until ConnectionClosed."""
        while True:
            if self.args.interval:
                await self.exchange(websocket, index)
            await first_of(websocket.wait_closed(), timeout=self.args.interval or None)
            while websocket.state is State.CLOSED:
                await websocket.recv()  # raises, unless there is a message that nobody asked for
                self.wrong += 1

    async def exchange(self, websocket: ClientConnection, _index: int) -> None:
        message = str(self.sent)
        self.sent += 1
        begin = time.monotonic()
        try:
            await websocket.send(message)
            answer = await websocket.recv()
        except ConnectionClosed:
            self.unanswered += 1
            raise
        if answer == message:
            self.echoed += 1
            self.echo_times.append(time.monotonic() - begin)
        else:
            self.wrong += 1


class Mixed(Hold):
    """Connections of every kind: compressed or not, in fragments, with pings, and some that read late."""

    FRESH = ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
    OPTIONS: tuple[dict[str, Any], ...] = (
        {},
        {"compression": None},
        {"compression": None, "extensions": [FRESH]},
        {"max_queue": 1},
        {},
        {"compression": None},
    )

    def connect(self, index: int) -> Coroutine[Any, Any, ClientConnection]:
        return self.target.open(max_size=None, **self.OPTIONS[index % len(self.OPTIONS)])

    async def exchange(self, websocket: ClientConnection, index: int) -> None:
        """Send one message, or twenty before the first is read; wait for as many echoes."""
        kind = index % len(self.OPTIONS)
        messages = [self.message() for _n in range(20 if kind == 3 else 1)]
        begin = time.monotonic()
        try:
            for message in messages:
                await websocket.send([message[:9], message[9:11], message[11:]] if kind == 4 else message)
            pong = await websocket.ping() if kind == 5 else None
            if kind == 3:
                await asyncio.sleep(0.3)
            for message in messages:
                if await websocket.recv() == message:
                    self.echoed += 1
                else:
                    self.wrong += 1
            if pong:
                await pong
        except ConnectionClosed:
            self.unanswered += 1
            raise
        self.echo_times.append(time.monotonic() - begin)

    def message(self) -> str | bytes:
        self.sent += 1
        length = CHANCE.choice(SIZES)
        text = f"message number {self.sent} " + "".join(CHANCE.choices("abcdef \u00e4", k=length))
        return text if self.sent % 2 else text.encode()


async def hold(args: argparse.Namespace, stop: asyncio.Event) -> Result:
    """Open connections and hold them, with a numbered message on each at an interval."""
    return await (Mixed(args) if args.mixed else Hold(args)).run(stop)


async def handshakes(args: argparse.Namespace, stop: asyncio.Event) -> Result:
    """Keep opening connections at a rate: one echo on each, then close."""
    target = Target(args)
    failures: collections.Counter[str] = collections.Counter()
    times: list[float] = []

    async def client(index: int) -> None:
        begin = time.monotonic()
        try:
            websocket = await target.open()
            try:
                await websocket.send(str(index))
                answer = await asyncio.wait_for(websocket.recv(), OPEN_TIMEOUT)
                times.append(time.monotonic() - begin)
            finally:
                await websocket.close()
            if answer != str(index):
                failures["wrong echo"] += 1
        except Exception as exc:
            failures[failure(exc)] += 1
        if index == 0 and args.ready_file:
            args.ready_file.touch()

    tasks = await start_all(client, math.ceil(args.rate * args.seconds), args.rate, stop)
    await asyncio.gather(*tasks)
    return {
        "attempts": len(tasks),
        "ok": len(tasks) - failures.total(),
        "failures": dict(failures),
        "latency_ms": quantiles(times, 1000),
    }


async def open_at_once(args: argparse.Namespace, seen: Seen) -> list[ClientConnection]:
    target = Target(args)
    opened = await asyncio.gather(*(seen.open(target.open()) for _n in range(args.count)))
    return [websocket for websocket in opened if websocket]


async def burst(args: argparse.Namespace, stop: asyncio.Event) -> Result:
    """Begin all handshakes at once, hold the connections until all are open, then close them."""
    seen = Seen(args)
    websockets = await open_at_once(args, seen)
    seconds = await seen.ready(stop)
    await asyncio.gather(*(websocket.close() for websocket in websockets))
    return {"opened": seen.opened, "failed_handshakes": dict(seen.failures), "seconds": seconds}


async def last_word(args: argparse.Namespace, stop: asyncio.Event) -> Result:
    """Send one message on each of idle connections and SIGTERM to processes of this host right after."""
    seen = Seen(args)
    answered = 0

    async def listen(websocket: ClientConnection) -> None:
        nonlocal answered
        try:
            answer = await websocket.recv()
            answered += answer == "last word"
            await websocket.recv()
        except ConnectionClosed as exc:
            seen.closed_by(exc)
        finally:
            await websocket.close()

    websockets = await open_at_once(args, seen)
    await seen.ready(stop)
    for websocket in websockets:
        await websocket.send("last word")
    for pid in args.kill:
        os.kill(pid, signal.SIGTERM)
    tasks = [asyncio.create_task(listen(websocket)) for websocket in websockets]
    await finish(tasks, stop)
    result = {**seen.summary(), "answered": answered}
    await cancel(tasks)
    return result


async def ignore_close(args: argparse.Namespace, stop: asyncio.Event) -> Result:
    """Open connections that never answer the server's close, and see when it cuts them."""
    target, seen = Target(args), Seen(args)
    cuts: list[float] = []

    async def client(_index: int) -> None:
        if not (stream := await seen.open(target.open_deaf())):
            return
        reader, writer = stream
        try:
            while True:
                first, size = await reader.readexactly(2)
                payload = await reader.readexactly(size & 0x7F)  # pings and closes are shorter than 126
                if first & 0x0F == 0x8:
                    seen.closed(int.from_bytes(payload[:2]), payload[2:].decode())
        except (asyncio.IncompleteReadError, OSError):
            cuts.append(seen.now())
        finally:
            writer.close()

    tasks = await start_all(client, args.count, 0, stop)
    await seen.ready(stop)
    await finish(tasks, stop)
    result = {
        **seen.summary(),
        "cut": len(cuts),
        "first_cut": min(cuts, default=None),
        "last_cut": max(cuts, default=None),
    }
    await cancel(tasks)
    return result


async def slow_handshake(args: argparse.Namespace, stop: asyncio.Event) -> Result:
    """Send a request header line by line, and see when the server cuts that."""
    target = Target(args)
    reader, writer = await target.open_stream()
    begin = time.monotonic()
    writer.write(target.request.encode())
    answer = asyncio.create_task(reader.read(1024))  # done when the server answers or cuts
    while not (answer.done() or stop.is_set()):
        await first_of(stop.wait(), asyncio.wait([answer]), timeout=args.interval)
        writer.write(b"X-Slow: yes\r\n")
    seconds = round(time.monotonic() - begin, 3)
    cut = answer.done()
    lines: list[bytes] = []
    if cut and not answer.exception():
        lines = answer.result().splitlines()
    answer.cancel()
    writer.close()
    return {"cut": cut, "seconds": seconds, "answer": lines[0].decode() if lines else ""}


def number(low: float, high: float, kind: type[float] = float) -> Callable[[str], float]:
    """Return an argument type that refuses what isn't from `low` to `high`: every run is bounded."""

    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not from {low} to {high}")
        return value

    return parse


def header(text: str) -> tuple[str, str]:
    name, _equals, value = text.partition("=")
    return name, value


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        run: Callable[[argparse.Namespace, asyncio.Event], Coroutine[Any, Any, Result]],
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(run.__name__.replace("_", "-"), help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        sub.add_argument("url", metavar="URL", help="ws:// or wss://")
        sub.add_argument("--address", help="connect here instead of to the URL's host")
        sub.add_argument(
            "--port", type=number(1, 65535, int), help="connect here instead of to the URL's port"
        )
        sub.add_argument("--ca", metavar="FILE", help="trust these certificate authorities (PEM)")
        sub.add_argument("--header", type=header, metavar="K=V", action="append", default=[])
        sub.add_argument(
            "--seconds", type=number(0, 3600), default=60, help="the run's end after its start (default 60)"
        )
        sub.add_argument("--stop-file", type=Path, metavar="FILE", help="end the run when this appears")
        sub.add_argument("--ready-file", type=Path, metavar="FILE", help="create this when all are open")
        return sub

    for run in (hold, burst, last_word, ignore_close):
        sub = command(run)
        sub.add_argument("--count", type=number(1, 20000, int), default=1, help="connections (default 1)")
        if run is hold:
            sub.add_argument(
                "--interval", type=number(0, 3600), default=1, help="between messages; 0: none (default 1)"
            )
            sub.add_argument(
                "--connect-rate", type=number(0, 2000), default=100, help="a second; 0: at once (default 100)"
            )
            sub.add_argument("--mixed", action="store_true", help="connections and messages of every kind")
            sub.add_argument(
                "--reconnect", action="store_true", help="open a new connection for a closed one"
            )
        if run is last_word:
            sub.add_argument("--kill", type=number(2, 2**22, int), metavar="PID", nargs="+", default=[])
    command(handshakes).add_argument(
        "--rate", type=number(1, 2000), default=20, help="handshakes a second (default 20)"
    )
    command(slow_handshake).add_argument(
        "--interval", type=number(0.01, 60), default=1, help="between lines (default 1)"
    )
    return parser.parse_args(argv)


async def watch(path: Path, stop: asyncio.Event) -> None:
    while not path.exists():
        await asyncio.sleep(0.1)
    stop.set()


async def run(args: argparse.Namespace) -> Result:
    """Run the command; the event it gets says when it must come to an end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stop.set)
    loop.call_later(args.seconds, stop.set)
    watcher = asyncio.create_task(watch(args.stop_file, stop)) if args.stop_file else None
    result: Result = await args.run(args, stop)
    if watcher:
        watcher.cancel()
    return result


def main() -> None:
    args = parse_arguments()
    # Each connection is a descriptor; the soft limit is low only for programs that use select().
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    json.dump(asyncio.run(run(args)), sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
