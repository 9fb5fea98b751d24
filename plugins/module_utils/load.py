# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load on a WebSocket server: what ws_load runs, some processes of many clients that play a scenario.

A load generator has to be cheaper than what it drives. So each process is one epoll loop over non-blocking sockets: no
asyncio, no streams, no objects per message; frames are made once, with a mask of zero. What it costs per message,
beside the process that it drives, is in bench/RESULTS.md. It needs nothing but Python's standard library on the host
that makes the load.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import errno
import gc
import hashlib
import heapq
import json
import math
import os
import random
import re
import resource
import select
import socket
import ssl
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel, busy_percent
from ansible_collections.wsfleet.websockets.plugins.module_utils.scenario import (
    CLOSE,
    PONG,
    Expect,
    Say,
    Scenario,
    Think,
    frame,
)

MODES = ("play", "hold", "knock")
BOUNDS = {
    "connections": (1, 100_000),
    "seconds": (1, 600),
    "processes": (1, 64),
    "timeout": (1, 60),
}
OPENING = 20  # handshakes that a process has under way at a time
WARM = 1.0  # seconds that clients play before it is measured
BEAT = 0.05  # seconds between looks at how late the process is
TOGETHER = 0.002  # seconds by which a client may be woken too early
SCAN = 0.5  # seconds between looks at who waits for too long
GIVE_UP = 0.05  # part of the clients that may fail to connect before the others don't try any more
ANYWAY = 20  # clients that may fail anyway
SPARE_FILES = 64
SPARE_PORTS = 1000
EVENTS = 256  # at a time, so that timers aren't kept waiting
FINE = 50  # steps of a histogram per factor e: 2 %
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
WHOLE = frozenset((0x81, 0x82, 0xC1, 0xC2))  # first bytes of a frame that is a message
GOODBYE = frame(CLOSE, (1000).to_bytes(2, "big"))


class LoadError(Exception):
    """There can't be a load; the text is one sentence."""


class Times:
    """How often something took how long: a histogram, 2 % fine."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts = collections.Counter({int(key): count for key, count in (counts or {}).items()})

    def add(self, seconds: float) -> None:
        self.counts[math.floor(FINE * math.log(max(seconds, 1e-6)))] += 1

    def milliseconds(self) -> dict[str, float] | None:
        """Return p50, p99 and max; None when there are none."""
        total = self.counts.total()
        if not total:
            return None
        ranks = {"p50": math.ceil(0.5 * total), "p99": math.ceil(0.99 * total), "max": total}
        return {name: self._at(rank) for name, rank in ranks.items()}

    def _at(self, rank: int) -> float:
        seen = 0
        for key in sorted(self.counts):
            seen += self.counts[key]
            if seen >= rank:
                break
        return round(1000 * math.exp((key + 0.5) / FINE), 2)


@dataclass
class Target:
    """Where the server is, and what the handshake says."""

    host: str
    port: int
    name: str  # for SNI, certificate and Host header
    context: ssl.SSLContext | None

    def request(self, scenario: Scenario, key: bytes) -> bytes:
        port = "" if self.port == (443 if self.context else 80) else f":{self.port}"
        name = f"[{self.name}]" if ":" in self.name else self.name
        headers = {
            "Host": f"{name}{port}",
            "User-Agent": "wsfleet-ws_load",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key.decode(),
        }
        if scenario.compression:
            headers["Sec-WebSocket-Extensions"] = "permessage-deflate; client_max_window_bits"
        if scenario.subprotocols:
            headers["Sec-WebSocket-Protocol"] = ", ".join(scenario.subprotocols)
        headers |= scenario.headers
        lines = [f"GET {scenario.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


@dataclass
class Seen:
    """What the clients of a process saw; messages and times of the time that is measured only."""

    opened: int = 0
    failures: collections.Counter[str] = field(default_factory=collections.Counter)
    handshakes: Times = field(default_factory=Times)
    answers: Times = field(default_factory=Times)
    lags: Times = field(default_factory=Times)
    said: int = 0
    answered: int = 0
    received: int = 0
    knocked: int = 0  # handshakes in the time that is measured
    cpu: float = 0


class Client:
    """One connection, driven by its worker's loop."""

    __slots__ = (
        "began", "buffer", "compressed", "count", "deadline", "fragments", "index", "inflate", "key",
        "no_context", "number", "out", "said", "sock", "state", "waits", "worker",
    )  # fmt: skip

    def __init__(self, worker: Worker, number: int) -> None:
        self.worker = worker
        self.number = number
        self.sock: Any = None
        self.reset()

    def reset(self) -> None:
        self.state: Callable[[float], None] = self.connecting
        self.began = self.said = 0.0
        self.buffer = self.out = b""
        self.index = self.count = 0
        self.waits: Expect | None = None
        self.deadline = math.inf
        self.compressed = False
        self.inflate: Any = None
        self.no_context = False
        self.fragments: list[bytes] | None = None

    # The handshakes of TCP, TLS and WebSocket

    def open(self, now: float) -> None:
        target = self.worker.target
        self.reset()
        self.began = now
        self.deadline = now + self.worker.timeout
        self.sock = socket.socket(self.worker.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = self.sock.connect_ex((target.host, target.port))
        if error not in (0, errno.EINPROGRESS):
            self.fail(os.strerror(error).lower())
            return
        self.worker.watch(self, select.EPOLLOUT)

    def connecting(self, now: float) -> None:
        if error := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.fail(os.strerror(error).lower())
            return
        context = self.worker.target.context
        if context:
            self.worker.forget(self)
            self.sock = context.wrap_socket(
                self.sock, server_hostname=self.worker.target.name, do_handshake_on_connect=False
            )
            self.worker.watch(self, select.EPOLLIN | select.EPOLLOUT)
            self.state = self.securing
        else:
            self.state = self.asking
        self.state(now)

    def securing(self, now: float) -> None:
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self.worker.change(self, select.EPOLLIN)
            return
        except ssl.SSLWantWriteError:
            self.worker.change(self, select.EPOLLOUT)
            return
        self.asking(now)

    def asking(self, _now: float) -> None:
        self.key = base64.b64encode(os.urandom(16))
        self.worker.change(self, select.EPOLLIN)
        self.state = self.upgrading
        self.send(self.worker.target.request(self.worker.scenario, self.key))

    def upgrading(self, now: float) -> None:
        if not (data := self.read()):
            return
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        status, headers = _response(head)
        if status != 101:
            self.fail(f"HTTP {status}")
            return
        accept = base64.b64encode(hashlib.sha1(self.key + GUID).digest())  # noqa: S324 - as RFC 6455 has it
        if headers.get(b"sec-websocket-accept") != accept:
            self.fail("not a WebSocket handshake")
            return
        self._agree(headers.get(b"sec-websocket-extensions", b""))
        self.buffer = b""
        self.deadline = math.inf
        self.state = self.talking
        self.worker.opened(self, now)
        if rest and self.state == self.talking:
            self.feed(rest, now)

    def _agree(self, extensions: bytes) -> None:
        if b"permessage-deflate" in extensions:
            bits = re.search(rb"server_max_window_bits=(\d+)", extensions)
            self.compressed = True
            self.no_context = b"server_no_context_takeover" in extensions
            self.inflate = zlib.decompressobj(-int(bits[1]) if bits else -15)

    # Messages

    def talking(self, now: float) -> None:
        if not (data := self.read()):
            return
        # Nearly always one short message.
        if not self.buffer and data[0] in WHOLE and len(data) == data[1] + 2:
            self.message(data[0], data[2:], now)
        else:
            self.feed(data, now)

    def read(self) -> bytes:
        """Return what there is, empty when there is nothing; fail at the end."""
        try:
            data: bytes = self.sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        if not data:
            self.fail("cut")
        return data

    def send(self, data: bytes) -> None:
        if self.out:
            self.out += data
            return
        try:
            sent = self.sock.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent = 0
        if sent < len(data):
            self.out = data[sent:]
            self.worker.change(self, select.EPOLLIN | select.EPOLLOUT)

    def flush(self) -> None:
        data, self.out = self.out, b""
        self.worker.change(self, select.EPOLLIN)
        self.send(data)

    def feed(self, data: bytes, now: float) -> None:
        if self.buffer:
            data = self.buffer + data
        position, size = 0, len(data)
        while size - position >= 2:
            first, length = data[position], data[position + 1]
            start = position + 2
            if length >= 126:
                more = 2 if length == 126 else 8
                if size - start < more:
                    break
                length = int.from_bytes(data[start : start + more], "big")
                start += more
            if start + length > size:
                break
            position = start + length
            self.frame(first, data[start:position], now)
            if self.sock is None:
                return
        self.buffer = data[position:]

    def frame(self, first: int, payload: bytes, now: float) -> None:
        opcode = first & 0x0F
        if opcode >= 8:
            self.control(opcode, payload)
            return
        if opcode:
            if first & 0x80:
                self.message(first, payload, now)
            else:
                self.fragments = [bytes((first,)), payload]
        elif self.fragments is not None:
            self.fragments.append(payload)
            if first & 0x80:
                begin, *parts = self.fragments
                self.fragments = None
                self.message(begin[0], b"".join(parts), now)

    def control(self, opcode: int, payload: bytes) -> None:
        if opcode == 9:
            self.send(frame(PONG, payload))
        elif opcode == 8:
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            self.worker.closed(self, code)

    def message(self, first: int, payload: bytes, now: float) -> None:
        worker = self.worker
        if worker.measuring:
            worker.seen.received += 1
        if first & 0x40:
            payload = self.inflate.decompress(payload + b"\x00\x00\xff\xff")
            if self.no_context:
                self.inflate = zlib.decompressobj(-15)
        if self.waits and self.waits.found(payload):
            self.waits = None
            self.deadline = math.inf
            if worker.measuring:
                worker.seen.answered += 1
                worker.seen.answers.add(now - self.said)
            self.go_on(now)

    def go_on(self, now: float) -> None:
        """Do the steps up to one that waits."""
        worker = self.worker
        steps = worker.scenario.steps
        while True:
            if self.index == len(steps):
                if worker.mode == "hold":
                    return
                self.index = worker.scenario.again
            step = steps[self.index]
            self.index += 1
            if isinstance(step, Say):
                self.count += 1
                if worker.measuring:
                    worker.seen.said += 1
                self.said = now = time.monotonic()  # this may have waited for other clients
                self.send(step.frame(self.compressed, self.number, self.count))
            elif isinstance(step, Expect):
                self.waits = step
                self.deadline = now + worker.timeout
                return
            elif isinstance(step, Think):
                worker.later(now + step.delay(), self)
                return

    # The end

    def leave(self, now: float) -> None:
        """Begin the close."""
        self.state = self.leaving
        self.deadline = now + self.worker.timeout
        self.send(GOODBYE)

    def leaving(self, _now: float) -> None:
        """Wait until the server closes the TCP connection, so that its port is free here."""
        try:
            data = self.sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if not data:
            self.worker.left(self)

    def fail(self, why: str) -> None:
        self.worker.failed(self, why)

    def drop(self) -> None:
        if self.sock is not None:
            self.worker.forget(self)
            self.sock.close()
            self.sock = None


def _response(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})", first)
    pairs = (line.partition(b":") for line in lines)
    return int(status[1]) if status else 0, {
        name.strip().lower(): value.strip() for name, _colon, value in pairs
    }


class Worker:
    """A process of clients: one loop over their sockets, told by its parent what comes when."""

    def __init__(
        self,
        target: Target,
        scenario: Scenario,
        mode: str,
        timeout: float,
        numbers: range,
        control: socket.socket,
    ) -> None:
        self.target = target
        self.scenario = scenario
        self.mode = mode
        self.timeout = timeout
        self.family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
        self.seen = Seen()
        self.control = control
        self.epoll = select.epoll()
        self.epoll.register(control.fileno(), select.EPOLLIN)
        self.clients: dict[int, Client] = {}
        self.waiting = collections.deque(Client(self, number) for number in numbers)
        self.total = len(self.waiting)
        self.under_way = 0
        self.timers: list[tuple[float, int, Client]] = []
        self.timer = 0
        self.measuring = self.playing = self.ending = self.done = False
        self.cpu = self.scan = 0.0
        self.begin = self.measure = self.end = math.inf
        self.reported = False

    def run(self) -> None:
        timers, clients, poll, monotonic = self.timers, self.clients, self.epoll.poll, time.monotonic
        control = self.control.fileno()
        beat = time.monotonic()
        while not self.done:
            now = monotonic()
            if now >= beat:
                beat = self.beat(now, now - beat)
            # Those that are due together wake it once. It doesn't show in what is measured.
            due = now + TOGETHER
            while timers and timers[0][0] <= due:
                client = heapq.heappop(timers)[2]
                if client.sock is not None and client.state == client.talking:
                    self.guard(client, client.go_on, now)
            following = min(beat, timers[0][0]) if timers else beat
            for descriptor, events in poll(max(0.0, following - now), EVENTS):
                if descriptor not in clients:
                    if descriptor == control:
                        self.hear()
                    continue
                client = clients[descriptor]
                if events & select.EPOLLOUT and client.out:
                    self.guard(client, client.flush)
                    if client.sock is None or not events & ~select.EPOLLOUT:
                        continue
                try:
                    client.state(monotonic())
                except (OSError, EOFError, zlib.error) as error:
                    self.trouble(client, error)

    def beat(self, now: float, late: float) -> float:
        """Do what isn't asked for by a socket or a timer; return when to do it again."""
        if self.measuring:
            self.seen.lags.add(late)
        self.check(now)
        if now >= self.begin and not self.playing:
            self.play(now)
        if now >= self.measure and not self.measuring and not self.ending:
            self.measuring = True
            self.cpu = time.process_time()
        if now >= self.end and not self.ending:
            self.seen.cpu = time.process_time() - self.cpu
            self.finish(now)
        if self.ending and (not self.clients or now >= self.end + self.timeout):
            self.tell(**_plain(self.seen))
            self.done = True
        return min(moment for moment in (now + BEAT, self.begin, self.measure, self.end) if moment > now)

    def guard(self, client: Client, action: Callable[..., None], *arguments: float) -> None:
        """Do something of one client, whose troubles are counted."""
        try:
            action(*arguments)
        except (OSError, EOFError, zlib.error) as error:
            self.trouble(client, error)

    def trouble(self, client: Client, error: Exception) -> None:
        if isinstance(error, ssl.SSLCertVerificationError):
            client.fail(f"certificate: {error.verify_message}")
        elif isinstance(error, ssl.SSLError):
            client.fail(f"TLS: {error.reason or error}")
        elif isinstance(error, (ConnectionError, EOFError)):
            client.fail("cut")
        elif isinstance(error, zlib.error):
            client.fail("wrong compression")
        else:
            client.fail((getattr(error, "strerror", None) or str(error)).lower())

    # What clients ask for

    def watch(self, client: Client, events: int) -> None:
        self.clients[client.sock.fileno()] = client
        self.epoll.register(client.sock.fileno(), events)

    def change(self, client: Client, events: int) -> None:
        self.epoll.modify(client.sock.fileno(), events)

    def forget(self, client: Client) -> None:
        if self.clients.pop(client.sock.fileno(), None):
            self.epoll.unregister(client.sock.fileno())

    def later(self, due: float, client: Client) -> None:
        self.timer += 1
        heapq.heappush(self.timers, (due, self.timer, client))

    def opened(self, client: Client, now: float) -> None:
        self.seen.handshakes.add(now - client.began)
        if self.mode == "knock":
            self.seen.knocked += self.measuring
            self.seen.opened += 1
            client.leave(now)
            return
        self.seen.opened += 1
        self.under_way -= 1
        self.fill(now)

    def closed(self, client: Client, code: int) -> None:
        """The server has sent a close frame."""
        if client.state == client.leaving:
            return
        self.failed(client, f"closed with {code}")

    def left(self, client: Client) -> None:
        client.drop()
        if self.mode == "knock" and not self.ending:
            self.guard(client, client.open, time.monotonic())

    def failed(self, client: Client, why: str) -> None:
        opening = client.state not in (client.talking, client.leaving)
        leaving = client.state == client.leaving
        client.drop()
        if leaving or self.ending:
            if self.mode == "knock" and not self.ending:
                self.left(client)
            return
        self.seen.failures[why] += 1
        if self.mode == "knock":
            self.waiting.append(client)  # until the next beat, where it fails
        elif opening:
            self.under_way -= 1
            if self.seen.failures.total() > ANYWAY + GIVE_UP * self.total:
                self.waiting.clear()

    def fill(self, now: float) -> None:
        """Have as many handshakes under way as may be."""
        while self.waiting and self.under_way < OPENING and not self.ending:
            self.under_way += self.mode != "knock"
            client = self.waiting.popleft()
            self.guard(client, client.open, now)

    # What comes when

    def check(self, now: float) -> None:
        """Open more, look who waits for too long, and say when all are there."""
        if now >= self.scan:
            self.scan = now + SCAN
            for client in [client for client in self.clients.values() if client.deadline <= now]:
                opening = client.state not in (client.talking, client.leaving)
                client.fail("handshake timed out" if opening else "no answer")
        self.fill(now)
        if not self.reported and (self.mode == "knock" or not (self.under_way or self.waiting)):
            self.reported = True
            self.tell(opened=self.seen.opened)

    def play(self, now: float) -> None:
        """Have all begin, spread over a round or a second."""
        self.playing = True
        if self.mode == "knock":
            return
        spread = min(WARM, self.scenario.pace or WARM)
        for client in self.clients.values():
            if client.state == client.talking:
                self.later(now + random.uniform(0, spread), client)  # noqa: S311 - spreads messages

    def finish(self, now: float) -> None:
        self.measuring, self.ending = False, True
        self.waiting.clear()
        self.timers.clear()
        for client in list(self.clients.values()):
            if client.state == client.talking:
                self.guard(client, client.leave, now)
            elif client.state != client.leaving:
                client.drop()

    def hear(self) -> None:
        """The parent says what comes when, or is gone."""
        text = self.control.recv(4096)
        if not text:
            os._exit(1)
        for name, moment in json.loads(text).items():
            setattr(self, name, moment)

    def tell(self, **facts: Any) -> None:
        self.control.setblocking(True)
        self.control.sendall(json.dumps(facts).encode() + b"\n")


def _plain(seen: Seen) -> dict[str, Any]:
    facts = dict(vars(seen))
    return {name: getattr(value, "counts", value) for name, value in facts.items()}


class Load:
    """One load: so many clients, in so many processes, for so many seconds."""

    def __init__(
        self,
        target: Target,
        scenario: Scenario,
        *,
        mode: str = "play",
        connections: int,
        seconds: float,
        processes: int = 0,
        timeout: float = 10,
    ) -> None:
        # More than the clients, or than the processors but one, which the kernel's network needs, are of no use.
        processes = min(processes or max(1, len(os.sched_getaffinity(0)) - 1), connections)
        values = {"connections": connections, "seconds": seconds, "processes": processes, "timeout": timeout}
        for name, (low, high) in BOUNDS.items():
            if not low <= values[name] <= high:
                raise LoadError(f"{name} is {values[name]:g}: allowed is {low} to {high}.")
        _check_limits(connections, processes)
        self.target = target
        self.scenario = scenario
        self.mode = mode
        self.connections = connections
        self.seconds = seconds
        self.processes = processes
        self.timeout = timeout
        # All handshakes one after the other, and then some.
        self.patience = timeout + 30 + connections / 20

    def run(
        self, ready: Callable[[], None] = lambda: None, stopped: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Make the load, call `ready` when all clients play, go on until `stopped`, and return what they saw."""
        with contextlib.ExitStack() as stack:
            controls: list[socket.socket] = []
            for index in range(self.processes):
                controls.append(stack.enter_context(self._fork(index, controls)))
            opening = time.monotonic()
            for control in controls:
                _hear(control, self.patience)
            begin = time.monotonic() + 0.1
            moments = {"begin": begin, "measure": begin + WARM, "end": begin + WARM + self.seconds}
            for control in controls:
                control.sendall(json.dumps(moments).encode())
            time.sleep(max(0.0, moments["measure"] - time.monotonic()))
            ready()
            before = Kernel().host_ticks()
            while (end := time.monotonic()) < moments["end"] and not stopped():
                time.sleep(min(BEAT, moments["end"] - end))
            for control in controls:
                control.sendall(json.dumps({"end": end}).encode())
            host = busy_percent(before, Kernel().host_ticks())
            found = [_hear(control, self.timeout + 10) for control in controls]
            return self._sum(found, host, begin - opening, end - moments["measure"])

    @contextlib.contextmanager
    def _fork(self, index: int, others: list[socket.socket]) -> Any:
        """Run a worker in a process of its own, which ends when this one is gone."""
        ours, its = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                for other in (ours, *others):
                    other.close()
                gc.disable()  # nothing here goes round in circles that end
                numbers = range(index, self.connections, self.processes)
                Worker(self.target, self.scenario, self.mode, self.timeout, numbers, its).run()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        its.close()
        try:
            yield ours
        finally:
            ours.close()
            os.waitpid(pid, 0)

    def _sum(
        self, found: list[dict[str, Any]], host: float, opening: float, seconds: float
    ) -> dict[str, Any]:
        counts = {
            name: sum(part[name] for part in found)
            for name in ("opened", "said", "answered", "received", "knocked")
        }
        failures: collections.Counter[str] = collections.Counter()
        times = {name: Times() for name in ("handshakes", "answers", "lags")}
        for part in found:
            failures.update(part["failures"])
            for name, all_of in times.items():
                all_of.counts.update(Times(part[name]).counts)
        if self.mode != "knock" and (untried := self.connections - counts["opened"] - failures.total()) > 0:
            failures["not tried, as too many failed"] = untried
        cpu = [part["cpu"] for part in found]
        lags = times["lags"].milliseconds()
        return {
            "mode": self.mode,
            "connections": self.connections,
            "opened": counts["opened"],
            "opening_seconds": round(opening, 1),
            "failed_clients": failures.total(),
            "failures": dict(failures),
            "seconds": round(seconds, 1),
            "handshakes_per_second": round(counts["knocked"] / seconds, 1),
            "handshake_ms": times["handshakes"].milliseconds(),
            "messages_per_second": round(counts["said"] / seconds, 1),
            "answers_per_second": round(counts["answered"] / seconds, 1),
            "received_per_second": round(counts["received"] / seconds, 1),
            "answer_ms": times["answers"].milliseconds(),
            "generator": {
                "processes": self.processes,
                "cpu_percent": round(100 * max(cpu) / seconds, 1),
                "host_cpu_percent": round(host, 1),
                "cpu_us_per_message": round(1e6 * sum(cpu) / counts["said"], 1) if counts["said"] else None,
                "lag_ms": lags["p99"] if lags else None,
            },
        }


def _hear(control: socket.socket, patience: float) -> dict[str, Any]:
    """Return what a worker tells."""
    control.settimeout(patience)
    text = b""
    try:
        while not text.endswith(b"\n"):
            data = control.recv(1 << 20)
            if not data:
                raise LoadError("A process of the load has died.")
            text += data
    except TimeoutError as error:
        raise LoadError(f"The load's processes had no answer in {patience:.0f} s.") from error
    facts: dict[str, Any] = json.loads(text)
    return facts


def _check_limits(connections: int, processes: int) -> None:
    """Raise this host's limits, and refuse what is above them."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and connections / processes + SPARE_FILES > hard:
        _too_many(connections, processes * (hard - SPARE_FILES), "limit of open files")
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if connections > high - low - SPARE_PORTS:
        _too_many(connections, high - low - SPARE_PORTS, "net.ipv4.ip_local_port_range")


def _too_many(connections: int, most: int, why: str) -> NoReturn:
    raise LoadError(f"connections is {connections}: this host can have {most} to one address, by its {why}.")


def find_address(host: str, port: int, timeout: float) -> str:
    """Return the IP address that answers, so that no name server is asked for each connection."""
    try:
        with socket.create_connection((host, port), timeout) as sock:
            address: str = sock.getpeername()[0]
            return address
    except OSError as error:
        raise LoadError(
            f"Expected a connection to {host} port {port}, got {error.strerror or error}."
        ) from error
