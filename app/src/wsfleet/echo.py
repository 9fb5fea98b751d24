# SPDX-License-Identifier: Apache-2.0
"""The default handler."""

from .connection import Connection, resumable


@resumable()
async def handler(connection: Connection) -> None:
    """Send every message back: text as text, binary as binary."""
    async for message in connection:
        await connection.send(message)
