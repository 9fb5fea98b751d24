#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""An echo server of websockets' own, whose memory is measured.

    memory.py SOCKET WINDOW_BITS MEMORY_LEVEL [--trace]

Without window bits, 0, nothing is compressed. Whenever it reads a line it prints the bytes that it uses: of allocations
with --trace, otherwise of memory, its part of shared pages included. It ends when its standard input does.
Needs Python >= 3.11 and websockets >= 14.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tracemalloc
from pathlib import Path

from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


def deflate(bits: int, level: int) -> ServerPerMessageDeflateFactory:
    return ServerPerMessageDeflateFactory(
        server_max_window_bits=bits, client_max_window_bits=bits, compress_settings={"memLevel": level}
    )


def used() -> int:
    gc.collect()
    if tracemalloc.is_tracing():
        return tracemalloc.get_traced_memory()[0]
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("bits", type=int)
    parser.add_argument("level", type=int)
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args()
    if options.trace:
        tracemalloc.start()
    async with unix_serve(
        echo,
        options.socket,
        compression=None,
        extensions=[deflate(options.bits, options.level)] if options.bits else [],
        ping_interval=None,
        backlog=4096,
    ):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(f"{used()}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
