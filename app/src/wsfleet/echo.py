# SPDX-License-Identifier: Apache-2.0
"""The default handler."""

from websockets.asyncio.server import ServerConnection


async def handler(connection: ServerConnection) -> None:
    """Send every message back: text as text, binary as binary."""
    async for message in connection:
        await connection.send(message)
