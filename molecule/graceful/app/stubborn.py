"""An echo handler for the runner that never returns once a client has asked for it."""

import asyncio
import contextlib

from websockets.asyncio.server import ServerConnection


async def handler(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)
        if message == "hang":
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
