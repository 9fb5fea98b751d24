#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that measure one server: as many handshakes, then as many messages, as go in some seconds, then idle ones.

    load.py URL [--idle]

Prints a JSON object with the figures of the first two, which it leaves out with --idle. Then it holds idle
connections, prints "held", and ends when its standard input does. Needs Python >= 3.11 and websockets >= 15.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

SECONDS = 8.0
KNOCKING = 40  # clients that open and close connections
TALKING = 100  # clients that send a message when the one before has come back
IDLE = 1000
MESSAGE = json.dumps({"id": 12345, "text": "a message of some length"})


class Clients:
    """Clients of one server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.options: dict[str, Any] = {"ssl": ssl.create_default_context()} if url.startswith("wss:") else {}

    def open(self) -> Awaitable[ClientConnection]:
        return connect(self.url, proxy=None, ping_interval=None, open_timeout=30, **self.options)

    async def knock(self) -> None:
        await (await self.open()).close()

    async def talk(self, connection: ClientConnection) -> None:
        await connection.send(MESSAGE)
        if await connection.recv() != MESSAGE:
            raise ValueError("this is no echo")


async def repeat(actions: list[Callable[[], Awaitable[None]]]) -> dict[str, float]:
    """Do each again and again, all at the same time; how often it went well, and how long it took."""
    times: list[float] = []
    failed = 0
    end = time.monotonic() + SECONDS

    async def go_on(action: Callable[[], Awaitable[None]]) -> None:
        nonlocal failed
        while (began := time.monotonic()) < end:
            try:
                await action()
                times.append(time.monotonic() - began)
            except Exception:  # counted, whatever it is
                failed += 1

    await asyncio.gather(*map(go_on, actions))
    times.sort()
    return {
        "per_second": round(len(times) / SECONDS, 1),
        "p99_ms": round(1000 * times[math.ceil(0.99 * len(times)) - 1], 1),
        "failed": failed,
    }


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def measure(clients: Clients) -> dict[str, dict[str, float]]:
    figures = {"handshakes": await repeat([clients.knock] * KNOCKING)}
    talking = await asyncio.gather(*(clients.open() for _n in range(TALKING)))
    figures["messages"] = await repeat([partial(clients.talk, connection) for connection in talking])
    await asyncio.gather(*(connection.close() for connection in talking))
    return figures


async def main() -> None:
    clients = Clients(sys.argv[1])
    say(json.dumps({} if "--idle" in sys.argv else await measure(clients)))
    idle: list[ClientConnection] = []
    while len(idle) < IDLE:
        idle += await asyncio.gather(*(clients.open() for _n in range(min(20, IDLE - len(idle)))))
    for connection in idle:
        for _n in range(3):
            await clients.talk(connection)
    say("held")
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
