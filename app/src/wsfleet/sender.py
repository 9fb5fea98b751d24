# SPDX-License-Identifier: Apache-2.0
"""The half of a handover that gives connections away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from asyncio import FIRST_COMPLETED
from dataclasses import dataclass, field

from websockets.frames import Frame, Opcode

from . import internals
from .background import Background
from .connection import Connection
from .connections import Connections
from .packets import FORMAT, Back, BadPacketError, Bye, Go, Hello, Late, Offer, Packet, Peer, Ready, Refused

logger = logging.getLogger(__name__)

# Connections offered and not answered yet. Each waits for those before it, so they are few, unless the answer takes
# long anyway: then as many as it takes multiples of COST seconds, which is more than a connection takes by itself.
WINDOW_LEAST, WINDOW_MOST = 2, 64
COST = 0.004
LOOK = 0.002  # seconds until looking again for connections that have become quiet, at first
LOOK_MOST = 0.02  # and later
LATE_BYTES = 64 * 1024  # of a message in one packet
GRACE = 1.0  # seconds that a cancelled handler has


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
        self._window = WINDOW_LEAST
        self._offered: dict[str, Frozen] = {}
        self._refused: set[Connection] = set()
        self._progress = asyncio.Event()
        self._leaving = Background()

    async def run(self, deadline: float) -> None:
        """Move what becomes quiet before `deadline`, of the loop's clock, until nothing moves for too long."""
        reader = asyncio.create_task(self._read())
        try:
            await self._peer.send(Hello(format=FORMAT))
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
        await self._leaving.wait()

    async def _offer_all(self, reader: asyncio.Task[None], deadline: float) -> None:
        loop, look = asyncio.get_running_loop(), LOOK
        self._last_move = loop.time()
        # What is offered may be taken back, the last of them too.
        while not reader.done() and (self._offered or self._candidates()):
            look = min(2 * look, LOOK_MOST)
            for connection in self._candidates():
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
                    self._window = min(max(int(seconds / COST), WINDOW_LEAST), WINDOW_MOST)
                    self._leaving.start(self._let_go(packet.id))
                elif isinstance(packet, Refused) and packet.id in self._offered:
                    self._take_back(packet.id, packet.why)
        except BadPacketError as error:
            logger.error("the process that takes over says what it can't: %s", error)
        self._take_back_all("the process that takes over is gone")

    def _take_back_all(self, why: str) -> None:
        for name in list(self._offered):
            self._take_back(name, why)

    def _take_back(self, name: str, why: str) -> None:
        self._refused.add(self._thaw(name))
        self.outcome.refuse(why)

    def _thaw(self, name: str) -> Connection:
        """Go on with a connection here, until it is offered again."""
        frozen = self._offered.pop(name)
        with contextlib.suppress(OSError):  # where there is no room for it, the bye will do
            self._peer.send_now(Back(id=name))
        internals.thaw(frozen.connection, frozen.held)
        self._progress.set()
        return frozen.connection

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
            if not internals.handler_waits(
                frozen.connection
            ):  # a timeout of its own, or another task, has woken it
                self._thaw(name)
                return False
            try:
                packets: list[Packet] = [
                    *late(name, frozen.held)[sent:],
                    Go(id=name, session=frozen.connection.session),
                ]
                if (sent_now := self._send_now(packets)) == len(packets):
                    return True
                sent += sent_now
                await self._peer.have_room()
            except (TypeError, ValueError) as error:  # the session has changed since
                self._take_back(name, f"can't be described: {error}")
            except OSError:  # it is gone, as the reader will find
                return False
        return False

    def _send_now(self, packets: list[Packet]) -> int:
        """Send as many as there is room for."""
        return next((n for n, packet in enumerate(packets) if not self._peer.send_now(packet)), len(packets))


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
