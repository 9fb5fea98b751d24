# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The clients of a proof: what ws_prove runs while servers are changed.

Some keep opening connections at a rate, others hold theirs and exchange numbered messages. Like probe.py they drive
the Sans-I/O client of websockets: it costs less than the library's asyncio client, and it tells a message whose
connection was closed from one whose connection was cut.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import collections
import contextlib
import json
import math
import os
import random
import resource
import socket
import ssl
import time
import traceback
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    from websockets.client import ClientProtocol
    from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
    from websockets.frames import Frame, Opcode
    from websockets.http11 import Response
    from websockets.protocol import State
    from websockets.uri import WebSocketURI, parse_uri

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

from ansible_collections.wsfleet.websockets.plugins.module_utils.probe import tls_context
from ansible_collections.wsfleet.websockets.plugins.module_utils.proof import quantiles

BOUNDS = {
    "rate": (0, 1000),
    "held": (0, 10_000),
    "interval": (0.01, 3600),
    "timeout": (0.1, 300),
    "seconds": (1, 86_400),
}
OPENING = 20  # held connections opened at a time at the beginning
RETRY = 0.1  # seconds by which a client waits longer after each failed attempt, up to MAX_RETRY
MAX_RETRY = 1.0
TICK = 0.1  # seconds between looks at the stop file
LATE = 100  # milliseconds by which this process may lag before its figures are in doubt
MAX_LAG = 1.0  # seconds after which handshakes that are due are skipped instead of made all at once
FIRST = 5  # problems of each kind that are kept with their time
SPARE_FILES = 64

# Else each TLS connection has a buffer of 256 KiB; a TLS record is 16 KiB at most.
asyncio.sslproto.SSLProtocol.max_size = 16 * 1024


class ProveError(Exception):
    """There can't be a proof; the text is one sentence."""


@dataclass
class Target:
    """A server or an edge: what to ask it for, and where it is."""

    name: str
    uri: WebSocketURI
    connection: dict[str, Any]  # arguments of loop.create_connection
    open: int = 0  # held connections


@dataclass
class Second:
    """What was seen in one second, times in milliseconds. A handshake belongs to the second in which it began."""

    attempts: int = 0
    failures: collections.Counter[str] = field(default_factory=collections.Counter)
    handshakes: list[float] = field(default_factory=list)
    echoes: list[float] = field(default_factory=list)
    closes: collections.Counter[tuple[int, str]] = field(default_factory=collections.Counter)
    reconnects: list[float] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    lag: float = 0

    def describe(self, moment: int) -> dict[str, Any]:
        codes: collections.Counter[str] = collections.Counter()
        for (code, _reason), count in self.closes.items():
            codes[str(code)] += count
        return {
            "time": moment,
            "attempts": self.attempts,
            "failures": dict(self.failures),
            "handshake_ms": quantiles(self.handshakes),
            "handshakes_ms": [round(value, 1) for value in self.handshakes],
            "echoes": len(self.echoes),
            "echo_ms": quantiles(self.echoes),
            "closes": dict(codes),
            "reconnects": len(self.reconnects),
            "open": self.open,
            "lag_ms": round(self.lag, 1),
        }


class Seen:
    """What all clients saw."""

    def __init__(self) -> None:
        self.seconds: collections.defaultdict[int, Second] = collections.defaultdict(Second)
        self.counts: collections.Counter[str] = collections.Counter()
        self.unanswered = {"closed": 0, "cut": 0, "open": 0}
        self.problems: collections.defaultdict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        # The clock is read once, so that setting it later doesn't make a wait longer or shorter.
        self.epoch = time.time() - time.monotonic()

    def now(self) -> float:
        """Return Unix time."""
        return self.epoch + time.monotonic()

    @property
    def second(self) -> Second:
        return self.seconds[int(self.now())]

    def problem(self, target: Target, kind: str, count: int = 1) -> None:
        self.counts[kind] += count
        if len(self.problems[kind]) < FIRST:
            self.problems[kind].append({"time": round(self.now(), 3), "server": target.name, "problem": kind})

    def totals(self) -> dict[str, Any]:
        """Return the sums of all seconds."""
        seconds = self.seconds.values()
        failures: collections.Counter[str] = collections.Counter()
        closes: collections.Counter[tuple[int, str]] = collections.Counter()
        for second in seconds:
            failures += second.failures
            closes += second.closes
        times = {
            "handshake_ms": [value for second in seconds for value in second.handshakes],
            "echo_ms": [value for second in seconds for value in second.echoes],
            "reconnect_ms": [value for second in seconds for value in second.reconnects],
        }
        return {
            "attempts": sum(second.attempts for second in seconds),
            "failed": failures.total(),
            "failures": dict(failures),
            "closes": [
                {"code": code, "reason": reason, "count": count}
                for (code, reason), count in sorted(closes.items())
            ],
            "messages": self.counts["message"],
            "echoes": len(times["echo_ms"]),
            "unanswered": self.unanswered,
            **{name: self.counts[f"{name} echo"] for name in ("wrong", "doubled", "reordered")},
            "reconnects": len(times["reconnect_ms"]),
            **{name: quantiles(values) for name, values in times.items()},
            "longest_wait_ms": round(max(map(max, filter(None, times.values())), default=0), 1),
            "first_problems": sorted(
                (problem for problems in self.problems.values() for problem in problems),
                key=lambda problem: problem["time"],
            ),
            "late": {
                "max_ms": round(max((second.lag for second in seconds), default=0), 1),
                "seconds": sum(second.lag > LATE for second in seconds),
                "skipped": self.counts["skipped"],
            },
        }


class Connection(asyncio.Protocol):
    """A client's connection to `target`, made by `open`.

    `closed` is done when the server's close frame has arrived or the connection is cut.
    """

    def __init__(self, seen: Seen, target: Target, number: int, options: Mapping[str, Any]) -> None:
        self.seen = seen
        self.target = target
        self.number = number  # in each message, so that an answer meant for another client is noticed
        self.options = options
        self.loop = asyncio.get_running_loop()
        # Compression is not offered: it would cost servers more memory than most clients do.
        self.protocol = ClientProtocol(
            target.uri, origin=options["origin"], subprotocols=options["subprotocols"], max_size=None
        )
        self.transport: Any = None  # an asyncio.Transport once connected
        self.opened: asyncio.Future[None] = self.loop.create_future()
        self.closed: asyncio.Future[None] = self.loop.create_future()
        self.answered = asyncio.Event()  # unless messages wait for it
        self.answered.set()
        self.sent = 0
        self.waiting: dict[str, float] = {}  # messages, and when they were sent
        self.overtaken: dict[str, float] = {}  # the same, after an answer to a later one
        self.fragments: list[bytes] = []
        self.limit: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Connect and complete the handshake, or raise what went wrong."""
        async with asyncio.timeout(self.options["timeout"]):
            await self.loop.create_connection(lambda: self, **self.target.connection)
            await self.opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        request = self.protocol.connect()
        headers = {"User-Agent": "wsfleet-ws_prove", **(self.options["headers"] or {})}
        for name, value in headers.items():
            request.headers.pop(name, None)
            request.headers[name] = str(value)
        self.protocol.send_request(request)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Response):
                if not self.opened.done() and self.protocol.handshake_exc is None:
                    self.opened.set_result(None)
            elif isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self.fragments.append(bytes(event.data))
                if event.fin:
                    self.receive(b"".join(self.fragments).decode(errors="replace"))
                    self.fragments.clear()
        if self.protocol.handshake_exc and not self.opened.done():
            self.opened.set_exception(self.protocol.handshake_exc)
        self.flush()
        if self.protocol.close_rcvd:
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or EOFError())
        self.end()
        if self.limit:
            self.limit.cancel()

    def end(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
            self.answered.set()  # nothing more will be
            # The server closes the TCP connection, so that TIME_WAIT isn't here; should it not:
            self.limit = self.loop.call_later(self.options["timeout"], self.abort)

    def abort(self) -> None:
        if self.transport:
            self.transport.abort()

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.transport.write(data)
            else:
                self.transport.close()

    def say(self) -> None:
        """Send a numbered message; a ping where the app doesn't echo."""
        if self.options["echo"]:
            message = f"{self.number} {self.sent}"
            self.protocol.send_text(message.encode())
            self.waiting[message] = self.loop.time()
            self.answered.clear()
            self.sent += 1
            self.seen.counts["message"] += 1
        else:
            self.protocol.send_ping(b"")
        self.flush()

    def receive(self, message: str) -> None:
        """Compare a message with those that wait for an answer."""
        if not self.options["echo"]:
            return
        if message in self.waiting:
            while (first := next(iter(self.waiting))) != message:
                self.overtaken[first] = self.waiting.pop(first)
            sent = self.waiting.pop(message)
        elif message in self.overtaken:
            sent = self.overtaken.pop(message)
            self.seen.problem(self.target, "reordered echo")
        else:
            number, _space, index = message.partition(" ")
            seen_before = number == str(self.number) and index.isdecimal() and int(index) < self.sent
            self.seen.problem(self.target, "doubled echo" if seen_before else "wrong echo")
            return
        self.seen.second.echoes.append(1000 * (self.loop.time() - sent))
        if not self.waiting and not self.overtaken:
            self.answered.set()

    def leave(self) -> None:
        """Begin to close, unless that has begun."""
        if self.protocol.state is State.OPEN and not self.closed.done():
            self.protocol.send_close(1000)
            self.flush()

    def account(self) -> None:
        """Record how it ended: whether the server closed it, and the messages that remain unanswered."""
        close = self.protocol.close_rcvd
        if close is None or self.protocol.close_rcvd_then_sent or close.code != 1000:  # else we closed it
            code, reason = (close.code, close.reason) if close else (1006, "")
            self.seen.second.closes[code, reason] += 1
            if close is None:
                self.seen.problem(self.target, "cut connection")
        if lost := len(self.waiting) + len(self.overtaken):
            how = "closed" if self.protocol.close_rcvd_then_sent else "open" if close else "cut"
            self.seen.unanswered[how] += lost
            if how != "closed":
                self.seen.problem(self.target, f"unanswered message, connection {how}", lost)


class Prover:
    """One run. `options` are the module's parameters."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        for name, (low, high) in BOUNDS.items():
            if not low <= options[name] <= high:
                raise ProveError(f"{name} is {options[name]:g}: allowed are {low:g} to {high:g}.")
        for name in ("result", "ready_file", "stop_file"):
            if options[name] and not Path(options[name]).parent.is_dir():
                raise ProveError(f"{name} is {options[name]!r}: its folder doesn't exist.")
        for name in ("ready_file", "stop_file"):
            if options[name] and Path(options[name]).exists():
                raise ProveError(f"{name} is {options[name]!r}: it exists already, from another run.")
        self.targets = self.find_targets()
        self.stopping = False
        self.seen = Seen()
        self.connections: set[Connection] = set()  # held ones that are open
        self.made: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.opening = asyncio.Semaphore(OPENING)
        self.number = 0

    def find_targets(self) -> list[Target]:
        urls = self.options["urls"]
        if not urls:
            raise ProveError("urls is empty: at least one URL is needed.")
        for name in ("addresses", "names"):
            if self.options[name] and len(self.options[name]) != len(urls):
                raise ProveError(
                    f"{name} has {len(self.options[name])} items: allowed is one for each of urls."
                )
        uris = [parse(url) for url in urls]
        hosts = [uri.host if uri.port in (80, 443) else f"{uri.host}:{uri.port}" for uri in uris]
        addresses = self.options["addresses"] or [uri.host for uri in uris]
        names = self.options["names"] or self.options["addresses"] or hosts
        if len(set(names)) < len(names):
            raise ProveError(f"names is {names}: allowed is each name once.")
        context = self.tls_context() if any(uri.secure for uri in uris) else None
        return [
            Target(
                name,
                uri,
                {
                    "host": address,
                    "port": uri.port,
                    "ssl": context if uri.secure else None,
                    "server_hostname": uri.host if uri.secure else None,
                },
            )
            for name, uri, address in zip(names, uris, addresses, strict=True)
        ]

    def tls_context(self) -> ssl.SSLContext:
        """Return a context that resumes no session: every handshake is a full one."""
        try:
            context: ssl.SSLContext = tls_context(self.options["ca_file"], self.options["validate_certs"])
        except ValueError as exc:
            raise ProveError(str(exc)) from exc
        return context

    def run(self) -> dict[str, Any]:
        """Play the clients until they are told to stop; return what they saw, without the series."""
        raise_file_limit(self.options["held"] + math.ceil(self.options["rate"] * self.options["timeout"]))
        began = time.process_time()
        for target in self.targets:
            target.connection["host"] = find_address(target, self.options["timeout"])
        begin, end = asyncio.run(self.play())
        summary = {
            "begin": round(begin, 3),
            "end": round(end, 3),
            "servers": [target.name for target in self.targets],
            **{name: self.options[name] for name in ("rate", "held", "interval", "echo")},
            "totals": {**self.seen.totals(), "cpu_seconds": round(time.process_time() - began, 1)},
        }
        series = [second.describe(moment) for moment, second in sorted(self.seen.seconds.items())]
        result = Path(self.options["result"])
        partial = result.with_name(f"{result.name}.part")
        partial.write_text(json.dumps({**summary, "series": series}, separators=(",", ":")) + "\n")
        partial.replace(result)
        return summary

    async def play(self) -> tuple[float, float]:
        """Play the clients; return the Unix times between which handshakes were attempted."""
        # What nobody waits for any more belongs to attempts that have timed out.
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        begin = self.seen.now()
        watcher = asyncio.create_task(self.watch(begin + self.options["seconds"]))
        holders = [asyncio.create_task(self.hold(index)) for index in range(self.options["held"])]
        await self.wait_until_held()
        if self.options["ready_file"]:
            Path(self.options["ready_file"]).touch()
        await self.knock()
        await watcher
        end = self.seen.now()
        await wait_all([asyncio.create_task(self.settle(connection)) for connection in self.connections])
        for connection in self.connections:
            connection.leave()
        await wait_all(holders, self.options["timeout"])
        for connection in list(self.made):
            connection.abort()
        await wait_all(holders)
        return begin, end

    async def watch(self, deadline: float) -> None:
        """Look at the clock and the stop file until it is time to stop; note how late this process is."""
        stop_file = Path(self.options["stop_file"]) if self.options["stop_file"] else None
        loop = asyncio.get_running_loop()
        while self.seen.now() < deadline and not (stop_file and stop_file.exists()):
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            second = self.seen.second
            second.lag = max(second.lag, 1000 * (loop.time() - due))
            second.open = [target.open for target in self.targets]
        self.stopping = True

    async def wait_until_held(self) -> None:
        """Wait until all held connections are open; fail when their number grows no more."""
        patience = 2 * self.options["timeout"]
        most, since = 0, self.seen.now()
        while (count := len(self.connections)) < self.options["held"] and not self.stopping:
            if count > most:
                most, since = count, self.seen.now()
            elif self.seen.now() - since > patience:
                first = self.seen.totals()["first_problems"][:1]
                raise ProveError(
                    f"{most} of {self.options['held']} connections could be opened, and no more in {patience:g} s"
                    + "".join(f"; {problem['server']} began with {problem['problem']!r}" for problem in first)
                    + "."
                )
            await asyncio.sleep(TICK)

    async def knock(self) -> None:
        """Begin handshakes at the rate until it is time to stop, and wait for the last of them."""
        loop = asyncio.get_running_loop()
        rate = self.options["rate"]
        visits: set[asyncio.Task[None]] = set()
        due = loop.time()
        while rate and not self.stopping:
            await asyncio.sleep(min(due - loop.time(), TICK))
            late = loop.time() - due
            if late > MAX_LAG:
                self.seen.counts["skipped"] += (skipped := int(late * rate))
                due += skipped / rate
            elif late >= 0:
                due += 1 / rate
                visit = asyncio.create_task(self.visit())
                visits.add(visit)
                visit.add_done_callback(visits.discard)
        await wait_all(visits)

    async def visit(self) -> None:
        """Open a connection, have a message back, and close it."""
        if connection := await self.attempt(self.targets[self.number % len(self.targets)]):
            if self.options["echo"]:
                connection.say()
                await self.settle(connection)
            connection.leave()
            if not (await asyncio.wait([connection.closed], timeout=self.options["timeout"]))[0]:
                connection.abort()
            connection.account()

    async def hold(self, index: int) -> None:
        """Hold a connection and have messages back, again after each close."""
        target = self.targets[index % len(self.targets)]
        async with self.opening:
            connection = await self.connect(target)
        lost = None
        while connection:
            if lost is not None:
                self.seen.second.reconnects.append(1000 * (time.monotonic() - lost))
            target.open += 1
            self.connections.add(connection)
            if self.stopping:
                connection.leave()
            delay = random.uniform(0, self.options["interval"])  # noqa: S311 - spreads messages
            while not (await asyncio.wait([connection.closed], timeout=delay))[0]:
                if not self.stopping:
                    connection.say()
                delay = self.options["interval"]
            lost = time.monotonic()
            target.open -= 1
            self.connections.discard(connection)
            connection.account()
            connection = await self.connect(target)

    async def connect(self, target: Target) -> Connection | None:
        """Attempt until it succeeds, at once and then at growing intervals; None when it is time to stop."""
        delay = 0.0
        while not self.stopping:
            if connection := await self.attempt(target):
                return connection
            delay = min(delay + RETRY, MAX_RETRY)
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - spreads attempts
        return None

    async def attempt(self, target: Target) -> Connection | None:
        """Open a connection and record the handshake; None when that failed."""
        second = self.seen.second
        second.attempts += 1
        self.number += 1
        begin = time.monotonic()
        connection = Connection(self.seen, target, self.number, self.options)
        self.made.add(connection)
        try:
            await connection.open()
        except Exception as exc:
            connection.abort()
            second.failures[failure(exc)] += 1
            self.seen.problem(target, failure(exc))
            return None
        second.handshakes.append(1000 * (time.monotonic() - begin))
        return connection

    async def settle(self, connection: Connection) -> None:
        """Wait until all messages are answered, the connection is closed, or it takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.options["timeout"]):
                await connection.answered.wait()


def parse(url: str) -> WebSocketURI:
    try:
        uri = parse_uri(url)
        uri.host.encode("idna")
    except (InvalidURI, ValueError) as exc:
        raise ProveError(
            f"urls has {url!r}: allowed are ws:// and wss:// URLs with a host and no fragment."
        ) from exc
    return uri


def find_address(target: Target, timeout: float) -> str:
    """Return the IP address of a target that answers, so that later no name server is mistaken for it."""
    host, port = target.connection["host"], target.connection["port"]
    try:
        with socket.create_connection((host, port), timeout) as sock:
            address: str = sock.getpeername()[0]
            return address
    except OSError as exc:
        raise ProveError(
            f"{target.name}: expected a connection to {host} port {port}, got {exc.strerror or exc}."
        ) from exc


def raise_file_limit(connections: int) -> None:
    """Raise the number of files that may be open; the soft limit is low only for programs that use select()."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and connections + SPARE_FILES > hard:
        raise ProveError(
            f"held, and rate times timeout, need {connections} connections at once: "
            f"this process may open {hard - SPARE_FILES}."
        )


async def wait_all(tasks: Collection[asyncio.Task[None]], timeout: float | None = None) -> None:
    """Wait until all are done or the time is over; raise what one raised."""
    if tasks:
        done, _pending = await asyncio.wait(tasks, timeout=timeout)
        for task in done:
            task.result()


def failure(exc: Exception) -> str:
    """Return a short name for why a handshake failed."""
    if isinstance(exc, InvalidStatus):
        return f"HTTP {exc.response.status_code}"
    if isinstance(exc, TimeoutError) and exc.errno is None:
        return "timeout"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        return f"TLS: {getattr(exc, 'reason', None) or exc}"
    if isinstance(exc, (ConnectionResetError, BrokenPipeError, EOFError)):
        return "cut"
    if isinstance(exc, OSError) and exc.errno:
        return os.strerror(exc.errno).lower()
    if isinstance(exc, InvalidHandshake):
        return f"not a WebSocket handshake: {exc}"
    return f"{type(exc).__name__}: {exc}"
