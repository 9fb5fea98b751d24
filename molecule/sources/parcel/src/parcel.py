"""An app that comes as a wheel: it answers each message with its own version before it."""

from importlib.metadata import version

from websockets.asyncio.server import ServerConnection


async def handler(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(f"{version('parcel')}: {message!s}")
