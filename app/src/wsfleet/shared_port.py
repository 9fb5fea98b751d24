# SPDX-License-Identifier: Apache-2.0
"""A TCP port on which the processes of all slots listen; the kernel deals the connections out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from websockets.asyncio.server import Server

from . import internals

logger = logging.getLogger(__name__)

TICK = 0.05  # seconds between two looks at the symlink
GRACE = 0.5  # seconds to go on listening when it leads elsewhere: the process there has to begin


def stop_accepting(server: Server) -> None:
    """Stop listening; open connections and handshakes under way stay."""
    internals.finish_handshakes(server)
    server.close(close_connections=False)


class SharedPort:
    """Listens while the slot's symlink leads to this process, so that no process serves before it is switched to.

    `servers` are all that were opened, as their connections stay when they are closed.
    """

    def __init__(self, open_port: Callable[[], Awaitable[Server]], slot: Path, own: Path) -> None:
        self.servers: list[Server] = []
        self._open_port = open_port
        self._slot = slot
        self._own = own
        self._listening: Server | None = None
        self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        complained = False
        while True:
            try:
                if self._is_ours() and not self._listening:
                    self._listening = await self._open_port()
                    self.servers.append(self._listening)
                    logger.info("listening on the shared port")
                    complained = False
                elif self._listening and not self._is_ours():
                    await asyncio.sleep(GRACE)
                    if not self._is_ours():
                        self._stop()
            except OSError as error:
                if not complained:
                    logger.error("cannot listen on the shared port, trying again: %s", error)
                    complained = True
            await asyncio.sleep(TICK)

    def _is_ours(self) -> bool:
        try:
            return self._slot.samefile(self._own)
        except FileNotFoundError:
            return False

    def _stop(self) -> None:
        if self._listening:
            stop_accepting(self._listening)
            self._listening = None

    def close(self) -> None:
        """Stop listening, for good."""
        self._following.cancel()
        self._stop()
