# SPDX-License-Identifier: Apache-2.0
"""The one place that decides what happens to each connection that must go: its process must, or it is old."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import signal
import threading
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable
from queue import Empty, SimpleQueue

from .background import Background
from .config import Settings
from .connection import Connection
from .connections import Connections
from .handover import Handover
from .listener import Listener

logger = logging.getLogger(__name__)

EXIT_FORCED = 70  # handlers hadn't returned by the deadline
SETTLE = 0.2  # seconds to go on accepting: a proxy may be sending handshakes here still
HANDSHAKES = 1.0  # seconds for those that have come until then
DIRECT = 3.0  # the same where no proxy sends all of a handshake at once, but the client itself comes
TLS = 1.0  # seconds for those whose TLS handshake has just begun, which nobody counts
MARGIN = 1.0  # seconds that handlers have, once cancelled, before the process ends by force
TICK = 0.02  # seconds, the shortest pause between closes
OLD = "connection reached its maximum age"


def pace(waiting: int, left: float, rate: float, *, growth: bool) -> tuple[int, float]:
    """How many of `waiting` connections to close now, and the seconds to pause then.

    `rate` is closes per second, exceeded with `growth` if `left` seconds don't suffice; with no time left,
    close all.
    """
    if left <= 0:
        return waiting, 0.0
    if growth:
        rate = max(rate, waiting / left)
    count = math.ceil(rate * TICK)
    return count, count / rate


def jittered(seconds: float, least: float, most: float) -> float:
    """`seconds` times a random proportion from `least` to `most`."""
    return seconds * random.uniform(least, most)  # noqa: S311 (it keeps no secret)


async def wait_at_most(seconds: float, event: Awaitable[None]) -> None:
    """Wait for `event`, at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event, seconds)


class HardExit:
    """Ends the process by force: a thread, because a handler may block the event loop."""

    def __init__(self) -> None:
        self._limits: SimpleQueue[float] = SimpleQueue()
        threading.Thread(target=self._run, name="hard-exit", daemon=True).start()

    def within(self, seconds: float) -> None:
        """Exit `seconds` from now, unless an earlier time is set. Safe in a signal handler."""
        self._limits.put(time.monotonic() + seconds)

    def _run(self) -> None:
        limit = self._limits.get()
        with contextlib.suppress(Empty):
            while True:
                limit = min(limit, self._limits.get(timeout=max(0, limit - time.monotonic())))
        logger.critical("a handler blocks the exit, ended by force, exit code %d", EXIT_FORCED)
        os._exit(EXIT_FORCED)


class Drain:
    """Waits for SIGTERM or SIGINT, then lets all connections go; until then, those that reach their age limit.

    The first signal begins: not ready at once, accepting a moment more, then closing one connection after
    the other within `drain_seconds`. Another signal, or the end of that time, closes the rest at once; clients
    then have `close_timeout` to answer. A handler that still hasn't returned is cancelled, and MARGIN later
    the process ends whatever the handler does.
    """

    def __init__(self, settings: Settings, connections: Connections) -> None:
        self._settings = settings
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._begun = asyncio.Event()
        self._hurried = asyncio.Event()
        self._signalled = False
        self._hard_exit = HardExit()
        self._leaving = Background()
        # Not loop.add_signal_handler: it wouldn't run while a handler blocks the loop.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signal)

    @property
    def begun(self) -> bool:
        """Whether the process is about to go."""
        return self._begun.is_set()

    def _signal(self, *_: object) -> None:
        patience = 0 if self._signalled else self._settings.drain_seconds
        self._hard_exit.within(patience + self._settings.close_timeout + MARGIN)
        self._loop.call_soon_threadsafe(self._hurried.set if self._signalled else self._begun.set)
        self._signalled = True

    async def serve(self, connection: Connection) -> None:
        """Serve one connection, and close it at an age drawn here so that those of one moment don't go in one."""
        age = jittered(self._settings.max_age, 1 - self._settings.max_age_jitter, 1)
        reached = time.time() - connection.opened_at
        retirement = self._loop.call_later(max(0, age - reached), self._retire, connection)
        try:
            await self._connections.serve(connection)
        finally:
            retirement.cancel()

    def _retire(self, connection: Connection) -> None:
        if not self.begun:
            self._dismiss(connection, OLD)

    async def run(self, listener: Listener, handover: Handover | None) -> int:
        """Wait for the signal, let all connections go, return the exit code: 0 or EXIT_FORCED."""
        await self._begun.wait()
        if handover:
            handover.close()
        began = self._loop.time()
        logger.info(
            "draining: %d connections, at most %g seconds",
            len(self._connections),
            self._settings.drain_seconds,
        )
        calm = asyncio.create_task(self._let_go(listener, handover, began + self._settings.drain_seconds))
        hurried = asyncio.create_task(self._hurried.wait())
        await asyncio.wait({calm, hurried}, timeout=self._settings.drain_seconds, return_when=FIRST_COMPLETED)
        calm.cancel()
        hurried.cancel()
        listener.close()
        listener.refuse()
        for connection in self._connections.open():
            self._dismiss(connection, self._settings.drain_reason)
        await wait_at_most(self._settings.close_timeout, self._connections.wait_empty())
        await wait_at_most(SETTLE, listener.wait_closed())  # handshakes under way are answered 503
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # the loop ends and can't be called any more
        if stuck := len(self._connections):
            logger.error("handlers of %d connections cancelled, exit code %d", stuck, EXIT_FORCED)
            return EXIT_FORCED
        logger.info("stopped after %.1f seconds", self._loop.time() - began)
        return 0

    async def _let_go(self, listener: Listener, handover: Handover | None, deadline: float) -> None:
        """Move what can move, and close the rest one after the other."""
        await asyncio.sleep(SETTLE)
        listener.close()
        await self._finish_handshakes(listener)
        listener.refuse()
        if handover:
            await handover.run(deadline)
        await self._close_paced(deadline)

    async def _finish_handshakes(self, listener: Listener) -> None:
        """Let in who has come in time; at least half of the drain is for closing."""
        proxied = self._settings.unix_socket and not self._settings.shared_port
        most = self._settings.drain_seconds / 4
        if self._settings.tls_key:
            await asyncio.sleep(min(TLS, most))
        patience = HANDSHAKES if proxied else min(DIRECT, most)
        await wait_at_most(patience, listener.wait_for_handshakes(self._connections))

    async def _close_paced(self, deadline: float) -> None:
        jitter = self._settings.drain_jitter
        while waiting := self._connections.open():
            count, pause = pace(
                len(waiting),
                deadline - self._loop.time(),
                self._settings.drain_rate,
                growth=self._settings.drain_growth,
            )
            for connection in waiting[:count]:
                self._dismiss(connection, self._settings.drain_reason)
            await wait_at_most(jittered(pause, 1 - jitter, 1 + jitter), self._connections.wait_empty())
        await self._connections.wait_empty()

    def _dismiss(self, connection: Connection, reason: str) -> None:
        self._leaving.start(self._close(connection, reason))

    async def _close(self, connection: Connection, reason: str) -> None:
        try:
            async with asyncio.timeout(self._settings.close_timeout):
                await connection.close(self._settings.drain_code, reason)
        except TimeoutError:  # the library has this limit too, but not while it waits to write
            connection.transport.abort()
