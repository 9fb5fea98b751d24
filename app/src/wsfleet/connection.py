# SPDX-License-Identifier: Apache-2.0
"""What a handler gets: the library's connection, and what it needs to go on in another process."""

from __future__ import annotations

import time
from asyncio import BaseTransport
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame
from websockets.protocol import Event
from websockets.typing import Data, DataLike

from . import internals
from .metrics import Metrics

Handler: TypeAlias = Callable[[Any], Awaitable[None]]
H = TypeVar("H", bound=Handler)
Message: TypeAlias = DataLike | Iterable[DataLike] | AsyncIterable[DataLike]
MARK = "__wsfleet_resumption__"


class Connection(ServerConnection):
    """A connection that may move to another process while it is open."""

    session: dict[str, Any]
    """What the handler wants to find again after a move; JSON must be able to hold it."""

    resumed: bool
    """Whether the connection has come from another process, and its handler hasn't begun it."""

    moved: bool
    """Whether the connection goes on in another process. A handler that is cancelled can tell by it."""

    opened_at: float
    """When the client opened it, in seconds since the epoch."""

    late: list[Frame]
    """What the client has yet to get of the process before; nothing for handlers."""

    is_check: bool
    """Whether it was only a question about the process's health."""

    def __init__(self, *arguments: Any, metrics: Metrics, **options: Any) -> None:
        super().__init__(*arguments, **options)
        internals.count_sent(self.protocol, metrics.traffic)
        self._metrics = metrics
        self.is_check = False
        self.session = {}
        self.resumed = False
        self.moved = False
        self.opened_at = time.time()
        self.late = []
        self._waiting = 0

    @property
    def waits(self) -> bool:
        """Whether somebody waits for the connection to close."""
        return self._waiting > 0

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        self._waiting += 1
        try:
            await super().wait_closed()
        finally:
            self._waiting -= 1

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin to serve the connection; before anything else, its client gets what it should have had."""
        super().connection_made(transport)
        internals.send_frames(self, self.late)

    def data_received(self, data: bytes) -> None:
        """Take in what the client has sent, in all as the library does."""
        if not internals.receive_at_once(self, data):
            super().data_received(b"")

    def process_event(self, event: Event) -> None:
        """Hand on what has come, and count messages."""
        frame = internals.message_frame(event)
        if frame is None:
            super().process_event(event)
            return
        self.recv_messages.put(frame)
        if frame.fin:
            self._metrics.traffic.received += 1

    def __aiter__(self) -> AsyncIterator[Data]:
        """Iterate on incoming messages, in all as the library does."""
        return internals.iterate(self) if internals.SHORT_CUT else super().__aiter__()

    async def send(self, message: Message, *, text: bool | None = None) -> None:
        """Send a message, in all as the library does."""
        if not internals.send_at_once(self, message, text):
            await super().send(message, text=text)
        elif self.paused:
            async with self.send_context():
                pass  # there is nothing to send any more, but to wait for

    async def handshake(self, *arguments: Any, **options: Any) -> None:
        """Perform the opening handshake, once in the life of a connection."""
        if not self.resumed:
            with self._metrics.handshake(self):
                await super().handshake(*arguments, **options)


@dataclass(frozen=True)
class Resumption:
    """Which sessions a handler goes on with: those of its own version and of `accepts`."""

    version: int
    accepts: frozenset[int]


def resumable(*, version: int = 0, accepts: Iterable[int] = ()) -> Callable[[H], H]:
    """Say that a handler can go on in another process with a connection that another process has begun.

    It is called there with `connection.resumed` true and with the `connection.session` that it has left, at a moment
    when it had nothing to do but to wait in recv(), `async for` or wait_closed(). Here, it is cancelled then, with
    `connection.moved` true.

    `version` is that of what it keeps in the session; change it with its meaning. `accepts` are older versions that
    it understands. Connections with other versions don't move; they are closed.
    """

    def mark(handler: H) -> H:
        setattr(handler, MARK, Resumption(version, frozenset({version, *accepts})))
        return handler

    return mark


def resumption_of(handler: Handler) -> Resumption | None:
    """What `resumable` has said, None if nothing."""
    return getattr(handler, MARK, None)
