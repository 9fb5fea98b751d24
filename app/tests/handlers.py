# SPDX-License-Identifier: Apache-2.0
"""Handlers for server processes under test; most say a word first, so that the client knows they run."""

import asyncio
import contextlib
import os
import time

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosedError


async def bug(connection: ServerConnection) -> None:
    """Fails."""
    raise LookupError("a bug in the handler")


async def foreign(connection: ServerConnection) -> None:
    """Fails because another connection, to some other server, is closed."""
    raise ConnectionClosedError(None, None)


async def tasks(connection: ServerConnection) -> None:
    """Sends and receives in two tasks; both fail when the client leaves."""
    async with asyncio.TaskGroup() as group:
        group.create_task(connection.recv())
        group.create_task(forever(connection))


async def dismiss(connection: ServerConnection) -> None:
    """Closes the connection itself."""
    await connection.close(4001, "bye")


async def forever(connection: ServerConnection) -> None:
    """Sends without end, whether the client reads or not."""
    while True:
        await connection.send("x" * 100_000)


async def farewell(connection: ServerConnection) -> None:
    """Says more than a socket holds and returns."""
    await connection.send(bytes(4_000_000))


async def hang(connection: ServerConnection) -> None:
    """Never returns, though the connection is closed."""
    await connection.send("hello")
    await asyncio.Event().wait()


async def resist(connection: ServerConnection) -> None:
    """Never returns, not even when cancelled."""
    await connection.send("hello")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def block(connection: ServerConnection) -> None:
    """Blocks the event loop."""
    await connection.send("hello")
    time.sleep(3600)


async def describe(connection: ServerConnection) -> None:
    """Says which process and event loop serve it."""
    await connection.send(f"{os.getpid()} {type(asyncio.get_running_loop()).__module__}")


class Shouter:
    """A handler may be a method or any object with an async __call__."""

    async def __call__(self, connection: ServerConnection) -> None:
        await connection.send("called")

    async def method(self, connection: ServerConnection) -> None:
        await connection.send("method")


shouter = Shouter()
