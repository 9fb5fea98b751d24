#!/usr/bin/env python
"""Binds TCP, as told by HOST and PORT, and ignores SIGTERM."""

import asyncio
import os
import signal

from websockets import serve


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def main():
    async with serve(echo, os.environ["HOST"], int(os.environ["PORT"])) as server:
        await server.serve_forever()


signal.signal(signal.SIGTERM, signal.SIG_IGN)
asyncio.run(main())
