# SPDX-License-Identifier: Apache-2.0
"""Handlers for server processes under test; most say a word first, so that the client knows they run."""

import asyncio
import contextlib
import json
import os
import sys
import time

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from wsfleet import Connection, resumable


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


@resumable(version=1)
async def resume(connection: Connection) -> None:
    """Answers what it knows of the connection; `key=value` is remembered."""
    connection.session.setdefault("moves", 0)
    connection.session["moves"] += connection.resumed
    async for message in connection:
        if message == "bad":
            connection.session["bad"] = object()
        elif message == "close soon":
            await connection.close(4000, "at its own wish")
        else:
            key, _equals, value = str(message).partition("=")
            connection.session[key] = value
        request = connection.request
        await connection.send(
            json.dumps(
                {
                    "id": str(connection.id),
                    "session": connection.session,
                    "resumed": connection.resumed,
                    "opened_at": connection.opened_at,
                    "path": request and request.path,
                    "header": request and request.headers.get("X-Test"),
                    "subprotocol": connection.subprotocol,
                    "pid": os.getpid(),
                }
            )
        )


@resumable(version=2, accepts=[1])
async def understand(connection: Connection) -> None:
    """A later version of `resume` that understands the earlier."""
    await resume(connection)


@resumable(version=2)
async def forget(connection: Connection) -> None:
    """A later version of `resume` that doesn't."""
    await resume(connection)


@resumable()
async def count(connection: Connection) -> None:
    """Sends numbers, as fast as it can without blocking, whatever the client sends; a hundred of them by broadcast."""
    async with asyncio.TaskGroup() as group:
        numbers = group.create_task(_send_numbers(connection))
        await connection.wait_closed()
        numbers.cancel()


async def _send_numbers(connection: Connection) -> None:
    while True:
        number = connection.session.get("number", 0)
        if number % 2:
            await connection.send(str(number))
            connection.session["number"] = number + 1
        else:
            connection.session["number"] = number + 1
            broadcast([connection], str(number))
        await asyncio.sleep(0.001)


@resumable()
async def busy(connection: Connection) -> None:
    """Is occupied with something else than the client."""
    await connection.send("hello")
    await asyncio.sleep(3600)


@resumable()
async def part(connection: Connection) -> None:
    """Says in the log how it ends."""
    try:
        async for message in connection:
            await connection.send(message)
    finally:
        sys.stderr.write("ended, moved\n" if connection.moved else "ended, not moved\n")
        with contextlib.suppress(ConnectionClosed):
            await connection.send("must not arrive")


@resumable()
async def impatient(connection: Connection) -> None:
    """Waits for the client only a moment at a time, and says in the log when it is interrupted in something else."""
    while True:
        try:
            await connection.send(await asyncio.wait_for(connection.recv(), 0.002))
        except TimeoutError:
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                sys.stderr.write("interrupted\n")
                raise
