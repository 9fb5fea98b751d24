# SPDX-License-Identifier: Apache-2.0
"""The half of a handover that takes connections over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.typing import Origin, Subprotocol

from . import internals
from .background import Background
from .collecting import without_full_collections
from .connection import Connection, Resumption
from .packets import FORMAT, Back, BadPacketError, Bye, Go, Hello, Late, Offer, Peer, Ready, Refused
from .paths import Bound

logger = logging.getLogger(__name__)


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
        request = Request(offer.path, _headers(offer.request))
        protocol.origin = Origin(request.headers["Origin"]) if "Origin" in request.headers else None
        protocol.subprotocol = Subprotocol(offer.subprotocol) if offer.subprotocol else None
        connection = Connection(protocol, self.server, **self.connection_options)
        connection.request = request
        connection.response = Response(101, "Switching Protocols", _headers(offer.response))
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
        self._builder = builder
        self._resumption = resumption
        self._is_full = is_full
        self._open = True
        self._conversations = Background()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.setblocking(False)
        Path(path).unlink(missing_ok=True)
        umask = os.umask(0o177)
        try:
            self._listening.bind(path)
        finally:
            os.umask(umask)
        self._listening.listen(8)
        self._bound = Bound(Path(path))
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """Take no more connections; those that are offered stay where they are."""
        if self._open:
            self._open = False
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
            self._listening.close()
            self._bound.remove()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _address = self._listening.accept()
            self._conversations.start(self._serve(Peer(sock)))

    async def _serve(self, peer: Peer) -> None:
        intake = Intake(peer, self._builder, self._refusal)
        try:
            if not peer.is_of_this_user:
                logger.warning("a process of another user wanted to hand over connections")
                return
            with without_full_collections():
                await intake.run()
        except BadPacketError as error:
            logger.error("a process that hands over connections says what it can't: %s", error)
            return
        finally:
            peer.close()
        intake.report(self._bound.path.with_suffix(".json"))

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
        self._taken: set[str] = set()
        self._pauses: list[float] = []
        self._bye: Bye | None = None
        self._resuming = Background()

    async def run(self) -> None:
        """Take what is offered until the other process is gone; without a bye, it has died, and all is ours."""
        try:
            while not self._bye and (received := await self._peer.receive())[0] is not None:
                packet, descriptors = received
                if isinstance(packet, Hello) and packet.format != FORMAT:
                    return
                if isinstance(packet, Offer):
                    await self._answer(packet, _socket(descriptors[0]))
                elif isinstance(packet, Late) and packet.id in self._pending:
                    self._pending[packet.id].late.append(packet)
                elif isinstance(packet, Go) and packet.id in self._pending:
                    self._go(packet.id, packet.session)
                elif isinstance(packet, Back):
                    self._drop(packet.id)
                elif isinstance(packet, Bye):
                    self._bye = packet
            if not self._bye:
                for name, pending in list(self._pending.items()):
                    self._go(name, pending.offer.session)
        finally:
            for name in list(self._pending):
                self._drop(name)
        await self._resuming.wait()

    async def _answer(self, offer: Offer, sock: socket.socket) -> None:
        self._drop(offer.id)
        why = "it is here already" if offer.id in self._taken else self._refusal(offer)
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

    def _drop(self, name: str) -> None:
        """Forget an offer that was withdrawn, if there was one."""
        if pending := self._pending.pop(name, None):
            pending.sock.close()

    def _go(self, name: str, session: dict[str, Any]) -> None:
        pending = self._pending.pop(name)
        pending.connection.session = session
        self._taken.add(name)
        self._resuming.start(self._resume(pending))

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


def _headers(pairs: list[list[str]]) -> Headers:
    return Headers((pair[0], pair[1]) for pair in pairs)


def _socket(descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        os.close(descriptor)
        raise BadPacketError(f"an offer comes without a socket ({error})") from None


def whole(packets: list[Late]) -> list[Frame]:
    """The opposite."""
    frames, data = [], b""
    for packet in packets:
        data += packet.data
        if packet.last:
            frames.append(Frame(Opcode(packet.opcode), data))
            data = b""
    return frames
