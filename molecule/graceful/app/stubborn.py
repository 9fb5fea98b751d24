"""An echo handler for the runner that never returns once a client has asked for it."""

import asyncio

from websockets.asyncio.server import ServerConnection


async def handler(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)
        if message == "hang":
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass
