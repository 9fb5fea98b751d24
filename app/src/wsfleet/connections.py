# SPDX-License-Identifier: Apache-2.0
"""The one place that knows all open connections of this process."""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from .connection import Connection, Handler
from .metrics import Metrics


class Connections:
    """Serves connections with `handler` and knows those it serves, at most `limit` (0: any number)."""

    def __init__(self, handler: Handler, limit: int, metrics: Metrics) -> None:
        self._handler = handler
        self._metrics = metrics
        self._limit = limit
        self._served: dict[Connection, asyncio.Task[Any] | None] = {}  # a dict keeps the order
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """The number of connections that aren't closed, or whose handler hasn't returned."""
        return len(self._served)

    @property
    def full(self) -> bool:
        """Whether no more connections may be opened."""
        return 0 < self._limit <= len(self)

    def open(self) -> list[Connection]:
        """The connections that are neither closed nor closing, oldest first."""
        return [connection for connection in self._served if connection.state is State.OPEN]

    async def wait_empty(self) -> None:
        """Wait until all connections are closed and their handlers have returned."""
        await self._empty.wait()

    async def stop(self, connection: Connection, grace: float) -> None:
        """Cancel the handler of a connection that has moved, and wait for it at most `grace` seconds."""
        if task := self._served.get(connection):
            task.cancel()
            await asyncio.wait({task}, timeout=grace)

    async def serve(self, connection: Connection) -> None:
        """Serve one connection until it is closed or has moved. That the client has left isn't an error."""
        self._served[connection] = asyncio.current_task()
        self._empty.clear()
        self._metrics.came(connection)
        try:
            async with connection:  # the library would close it too, but only after it was forgotten here
                try:
                    await self._handler(connection)
                except* ConnectionClosed:  # alone, or in the group of a handler's tasks
                    if connection.state is State.OPEN:  # it's another one, that the handler has opened itself
                        raise
        except asyncio.CancelledError:
            if not connection.moved:
                raise
        finally:
            self._metrics.went(connection)
            del self._served[connection]
            if not self._served:
                self._empty.set()
