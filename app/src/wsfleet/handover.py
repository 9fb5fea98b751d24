# SPDX-License-Identifier: Apache-2.0
"""Open connections move to another process: one sends them, the other receives them, clients notice nothing.

A connection moves when it is quiet. It is frozen and offered with its descriptor, and when the other process is ready
for it, the sender lets go. Where a process dies in between, there is no doubt: until the word to go, the connection
is the sender's while that lives, and the receiver's afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
import uuid
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.typing import Origin, Subprotocol

from . import internals
from .config import Settings
from .connection import Connection, Resumption
from .connections import Connections
from .packets import FORMAT, BadPacketError, Bye, Go, Hello, Late, Offer, Peer, Ready, Refused

logger = logging.getLogger(__name__)

WINDOW = 2, 64  # connections offered and not answered yet: each waits for those before it
COST = (
    0.004  # seconds, more than a connection takes by itself: so many are offered as the answer takes anyway
)
LOOK = 0.002  # seconds until looking again for connections that have become quiet, at first
LOOK_MOST = 0.02  # and later
LATE_BYTES = 64 * 1024  # of a message in one packet
GRACE = 1.0  # seconds that a cancelled handler has
SUFFIX = ".handover"


def followed(link: Path) -> Path:
    """Where a symlink leads to, as a path that isn't longer than it must be: those of sockets have 107 bytes."""
    while link.is_symlink():
        link = link.parent / link.readlink()
    return link


def address(socket_path: str) -> str:
    """Where the process that listens at `socket_path` receives connections."""
    return f"{socket_path}{SUFFIX}"


@dataclass
class Frozen:
    """A connection that was offered, and what was to be sent to its client since."""

    connection: Connection
    held: list[Frame]
    since: float  # of the monotonic clock


@dataclass
class Outcome:
    """What became of the connections of a process that had to go."""

    moved: int = 0
    refusals: dict[str, int] = field(default_factory=dict)

    def refuse(self, why: str) -> None:
        self.refusals[why] = self.refusals.get(why, 0) + 1

    def __str__(self) -> str:
        reasons = "".join(f", {count} refused ({why})" for why, count in self.refusals.items())
        return f"{self.moved} connections moved{reasons}"


class Sender:
    """Moves the connections of this process to another one."""

    def __init__(self, peer: Peer, connections: Connections, version: int, patience: float) -> None:
        self.outcome = Outcome()
        self._peer = peer
        self._connections = connections
        self._version = version
        self._patience = patience
        self._last_move = 0.0
        self._window = WINDOW[0]
        self._offered: dict[str, Frozen] = {}
        self._refused: set[Connection] = set()
        self._progress = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self, deadline: float) -> None:
        """Move what becomes quiet before `deadline`, of the loop's clock, until nothing moves for too long."""
        reader = asyncio.create_task(self._read())
        try:
            await self._peer.send(Hello(format=FORMAT, pid=os.getpid()))
            await self._offer_all(reader, deadline)
            await self._have_offered_less_than(1, reader)
        except OSError as error:
            logger.warning("the process that takes over is gone: %s", error)
            await reader  # it may have said something before
        finally:
            reader.cancel()
            self._take_back_all("there is no time left")
            with contextlib.suppress(OSError):
                await self._peer.send(Bye(stayed=len(self._connections.open())))
            self._peer.close()
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _offer_all(self, reader: asyncio.Task[None], deadline: float) -> None:
        loop, look = asyncio.get_running_loop(), LOOK
        self._last_move = loop.time()
        while not reader.done() and (candidates := self._candidates()):
            look = min(2 * look, LOOK_MOST)
            for connection in candidates:
                if loop.time() >= min(deadline, self._last_move + self._patience) or reader.done():
                    return
                if internals.is_quiet(connection):
                    look = LOOK
                    await self._offer(connection)
                    await self._have_offered_less_than(self._window, reader)
            await asyncio.sleep(look)

    async def _have_offered_less_than(self, limit: int, reader: asyncio.Task[None]) -> None:
        """Wait for answers, or until the other process is gone."""
        while len(self._offered) >= limit and not reader.done():
            self._progress.clear()
            progress = asyncio.create_task(self._progress.wait())
            await asyncio.wait({reader, progress}, return_when=FIRST_COMPLETED)
            progress.cancel()

    def _candidates(self) -> list[Connection]:
        return [
            connection
            for connection in self._connections.open()
            if connection not in self._refused and str(connection.id) not in self._offered
        ]

    async def _offer(self, connection: Connection) -> None:
        name = str(connection.id)
        descriptor = connection.transport.get_extra_info("socket").fileno()
        self._offered[name] = Frozen(connection, internals.freeze(connection), time.monotonic())
        try:
            await self._peer.send(describe(connection, self._version), descriptor)
        except (TypeError, ValueError) as error:  # its session is no JSON, or too long
            self._take_back(name, f"can't be described: {error}")

    async def _read(self) -> None:
        """Hear what the other process says; when it is gone, what it wasn't told to take is ours."""
        try:
            while (packet := (await self._peer.receive())[0]) is not None:
                if isinstance(packet, Ready) and packet.id in self._offered:
                    seconds = time.monotonic() - self._offered[packet.id].since
                    self._window = min(max(int(seconds / COST), WINDOW[0]), WINDOW[1])
                    self._do(self._let_go(packet.id))
                elif isinstance(packet, Refused) and packet.id in self._offered:
                    self._take_back(packet.id, packet.why)
        except BadPacketError as error:
            logger.error("the process that takes over says what it can't: %s", error)
        self._take_back_all("the process that takes over is gone")

    def _take_back_all(self, why: str) -> None:
        for name in list(self._offered):
            self._take_back(name, why)

    def _take_back(self, name: str, why: str) -> None:
        frozen = self._offered.pop(name)
        self._refused.add(frozen.connection)
        self.outcome.refuse(why)
        internals.thaw(frozen.connection, frozen.held)
        self._progress.set()

    async def _let_go(self, name: str) -> None:
        """Tell the other process to go on; end the handler, then the connection, which is open elsewhere."""
        if not await self._tell_to_go(name):
            return
        connection = self._offered.pop(name).connection
        self.outcome.moved += 1
        self._last_move = connection.loop.time()
        self._progress.set()
        connection.moved = True
        internals.let_go(connection)
        await self._connections.stop(connection, GRACE)
        connection.transport.abort()

    async def _tell_to_go(self, name: str) -> bool:
        """Nothing is awaited between the last look at the connection and the word; False if it was taken back."""
        sent = 0
        while frozen := self._offered.get(name):
            with contextlib.suppress(OSError, TypeError, ValueError):  # then it will be taken back
                for packet in late(name, frozen.held)[sent:]:
                    if not self._peer.send_now(packet):
                        break
                    sent += 1
                else:
                    if self._peer.send_now(Go(id=name, session=frozen.connection.session)):
                        return True
                await self._peer.have_room()
                continue
            return False
        return False

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


class Handover:
    """Both halves, for a process that listens on a unix socket which clients reach by a symlink."""

    def __init__(
        self, settings: Settings, connections: Connections, resumption: Resumption, builder: Builder
    ) -> None:
        self._link = Path(settings.handover)
        self._patience = settings.handover_seconds
        self._connections = connections
        self._resumption = resumption
        self._receiver = Receiver(
            address(settings.unix_socket), builder, resumption, lambda: connections.full
        )

    def close(self) -> None:
        """Take no more connections."""
        self._receiver.close()

    async def run(self, deadline: float) -> None:
        """Move the connections to the process that clients reach by now, if there is one: ours can't be reached."""
        try:
            successor = address(str(followed(self._link)))
            peer = await Peer.connect(successor)
        except OSError as error:
            logger.info("connections are closed, not moved: no process receives them (%s)", error)
            return
        if not peer.is_of_this_user:
            logger.warning("connections are closed, not moved: %s is another user's", successor)
            peer.close()
            return
        sender = Sender(peer, self._connections, self._resumption.version, self._patience)
        await sender.run(deadline)
        logger.info("%s, %d are closed", sender.outcome, len(self._connections.open()))


def late(name: str, frames: list[Frame]) -> list[Late]:
    """The whole messages, and the close, among the frames, as packets."""
    return [
        Late(
            id=name,
            opcode=int(frame.opcode),
            last=start + LATE_BYTES >= len(frame.data),
            data=bytes(frame.data[start : start + LATE_BYTES]),
        )
        for frame in frames
        if frame.fin and frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE)
        for start in range(0, max(len(frame.data), 1), LATE_BYTES)
    ]


def whole(packets: list[Late]) -> list[Frame]:
    """The opposite."""
    frames, data = [], b""
    for packet in packets:
        data += packet.data
        if packet.last:
            frames.append(Frame(Opcode(packet.opcode), data))
            data = b""
    return frames


def describe(connection: Connection, version: int) -> Offer:
    """All of a frozen connection but its descriptor."""
    request, response = connection.request, connection.response
    if request is None or response is None:
        raise ValueError("there was no handshake")
    deflate = next(
        (ext for ext in connection.protocol.extensions if isinstance(ext, internals.Deflate)), None
    )
    return Offer(
        id=str(connection.id),
        version=version,
        session=connection.session,
        opened_at=connection.opened_at,
        frozen_at=time.monotonic(),
        path=request.path,
        request=[[name, value] for name, value in request.headers.raw_items()],
        response=[[name, value] for name, value in response.headers.raw_items()],
        subprotocol=connection.subprotocol or "",
        username=getattr(connection, "username", ""),
        deflate=[
            int(deflate.remote_no_context_takeover),
            int(deflate.local_no_context_takeover),
            deflate.remote_max_window_bits,
            deflate.local_max_window_bits,
        ]
        if deflate
        else [],
        data=deflate.window if deflate else b"",
    )


@dataclass(frozen=True)
class Builder:
    """Makes connections of offers, with the settings of this process."""

    server: Server
    connection_options: dict[str, Any]
    protocol_options: dict[str, Any]
    compress_settings: dict[str, Any]

    def build(self, offer: Offer) -> Connection:
        """The connection, without its socket; ValueError for what can't be one."""
        extensions = []
        if offer.deflate:
            remote_fresh, local_fresh, remote_bits, local_bits = offer.deflate
            if not (8 <= remote_bits <= 15 and 9 <= local_bits <= 15 and len(offer.data) <= 1 << remote_bits):
                raise ValueError("no such compression")
            deflate = internals.Deflate(
                bool(remote_fresh), bool(local_fresh), remote_bits, local_bits, self.compress_settings
            )
            deflate.prime(offer.data)
            extensions.append(deflate)
        protocol = internals.open_protocol(list(extensions), **self.protocol_options)
        protocol.id = uuid.UUID(offer.id)
        request = Request(offer.path, Headers(map(tuple, offer.request)))  # type: ignore[arg-type]
        protocol.origin = Origin(request.headers["Origin"]) if "Origin" in request.headers else None
        protocol.subprotocol = Subprotocol(offer.subprotocol) if offer.subprotocol else None
        connection = Connection(protocol, self.server, **self.connection_options)
        connection.request = request
        connection.response = Response(101, "Switching Protocols", Headers(map(tuple, offer.response)))  # type: ignore[arg-type]
        connection.resumed = True
        connection.session = offer.session
        connection.opened_at = offer.opened_at
        if offer.username:
            connection.username = offer.username
        return connection


class Receiver:
    """Takes connections of other processes of the same user, until it is closed."""

    def __init__(
        self, path: str, builder: Builder, resumption: Resumption, is_full: Callable[[], bool]
    ) -> None:
        self._path = Path(path).absolute()
        self._builder = builder
        self._resumption = resumption
        self._is_full = is_full
        self._open = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        umask = os.umask(0o177)
        try:
            self._listening.bind(path)  # may be relative, as paths are limited to 107 bytes
        finally:
            os.umask(umask)
        self._listening.listen(8)
        self._inode = self._path.stat()
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """Take no more connections; those that are offered stay where they are."""
        if self._open:
            self._open = False
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
            self._listening.close()
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(
                    self._path.stat(), self._inode
                ):  # another process may listen there by now
                    self._path.unlink()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _address = self._listening.accept()
            task = asyncio.create_task(self._serve(Peer(sock)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: Peer) -> None:
        intake = Intake(peer, self._builder, self._refusal)
        try:
            if not peer.is_of_this_user:
                logger.warning("a process of another user wanted to hand over connections")
                return
            await intake.run()
        except BadPacketError as error:
            logger.error("a process that hands over connections says what it can't: %s", error)
        finally:
            peer.close()
            intake.report(self._path.with_suffix(".json"))

    def _refusal(self, offer: Offer) -> str:
        """Why the connection can't come; empty if it can."""
        if not self._open:
            return "it is about to go itself"
        if offer.version not in self._resumption.accepts:
            return f"the handler doesn't know version {offer.version} of the session"
        return "it is full" if self._is_full() else ""


@dataclass
class Pending:
    """A connection that may come: all but its socket is made, and the messages that its client has yet to get."""

    offer: Offer
    connection: Connection
    sock: socket.socket
    late: list[Late] = field(default_factory=list)


class Intake:
    """What one process hands over to this one."""

    def __init__(self, peer: Peer, builder: Builder, refusal: Callable[[Offer], str]) -> None:
        self._peer = peer
        self._builder = builder
        self._refusal = refusal
        self._began = time.monotonic()
        self._pending: dict[str, Pending] = {}
        self._pauses: list[float] = []
        self._bye: Bye | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take what is offered until the other process is gone; without a bye, it has died, and all is ours."""
        try:
            while not self._bye and (received := await self._peer.receive())[0] is not None:
                packet, descriptors = received
                if isinstance(packet, Hello) and packet.format != FORMAT:
                    return
                if isinstance(packet, Offer):
                    await self._answer(packet, socket.socket(fileno=descriptors[0]))
                elif isinstance(packet, Late) and packet.id in self._pending:
                    self._pending[packet.id].late.append(packet)
                elif isinstance(packet, Go) and packet.id in self._pending:
                    self._go(packet.id, packet.session)
                elif isinstance(packet, Bye):
                    self._bye = packet
            if not self._bye:
                for name, pending in list(self._pending.items()):
                    self._go(name, pending.offer.session)
        finally:
            for pending in self._pending.values():
                pending.sock.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _answer(self, offer: Offer, sock: socket.socket) -> None:
        why = "it was offered already" if offer.id in self._pending else self._refusal(offer)
        if not why:
            try:
                if sock.type is not socket.SOCK_STREAM:
                    raise ValueError("its socket is none")
                self._pending[offer.id] = Pending(offer, self._builder.build(offer), sock)
            except ValueError as error:
                why = f"it can't be rebuilt: {error}"
        if why:
            sock.close()
        with contextlib.suppress(OSError):  # it has died; what it offered is ours
            await self._peer.send(Refused(id=offer.id, why=why) if why else Ready(id=offer.id))

    def _go(self, name: str, session: dict[str, Any]) -> None:
        pending = self._pending.pop(name)
        pending.connection.session = session
        task = asyncio.create_task(self._resume(pending))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resume(self, pending: Pending) -> None:
        connection = pending.connection
        connection.late = whole(pending.late)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, pending.sock)
        self._pauses.append(time.monotonic() - pending.offer.frozen_at)

    def report(self, path: Path) -> None:
        """Log it, and leave the figures in a file for those who ask for the status."""
        pauses = sorted(self._pauses) or [0.0]
        figures = {
            "moved": len(self._pauses),
            "stayed": self._bye.stayed if self._bye else None,
            "seconds": round(time.monotonic() - self._began, 3),
            "pause_p50_ms": round(1000 * pauses[len(pauses) // 2], 1),
            "pause_p99_ms": round(1000 * pauses[int(len(pauses) * 0.99)], 1),
            "pause_max_ms": round(1000 * pauses[-1], 1),
        }
        logger.info(
            "connections taken over: %s", " ".join(f"{key}={value}" for key, value in figures.items())
        )
        with contextlib.suppress(OSError):
            path.write_text(json.dumps(figures))
