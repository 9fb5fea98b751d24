#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that are idle: some messages on each connection, then none.

    held.py URL COUNT

Prints "held" when all are open, and ends when its standard input does. Needs Python >= 3.11 and websockets >= 15.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

OPENING = 20  # connections opened at a time
MESSAGES = 3  # on each
MESSAGE = json.dumps({"id": 12345, "text": "a message of some length"})


async def talk(connection: ClientConnection) -> None:
    await connection.send(MESSAGE)
    if await connection.recv() != MESSAGE:
        raise ValueError("this is no echo")


async def main() -> None:
    url, count = sys.argv[1], int(sys.argv[2])
    options: dict[str, Any] = {"ssl": ssl.create_default_context()} if url.startswith("wss:") else {}
    held: list[ClientConnection] = []
    while len(held) < count:
        some = (
            connect(url, proxy=None, ping_interval=None, open_timeout=30, **options)
            for _n in range(min(OPENING, count - len(held)))
        )
        held += await asyncio.gather(*some)
    for connection in held:
        for _n in range(MESSAGES):
            await talk(connection)
    sys.stdout.write("held\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
