"""Answers each message with the version of this file before it."""

from websockets.asyncio.server import ServerConnection

VERSION = "one"


async def handler(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(f"{VERSION}: {message!s}")
