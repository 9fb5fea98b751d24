"""An echo that says, when asked, which release it is."""

from websockets.asyncio.server import ServerConnection


async def handler(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send("two" if message == "release?" else message)
