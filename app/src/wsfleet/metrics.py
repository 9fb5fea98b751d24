# SPDX-License-Identifier: Apache-2.0
"""What a process counts, and the socket of its own on which it says it, until its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import InvalidOrigin
from websockets.http11 import Request, Response
from websockets.protocol import State

from . import __version__
from .internals import Traffic
from .paths import Bound

if TYPE_CHECKING:
    from .connection import Connection

TICK = 0.25  # seconds between two looks at how late the event loop is
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # of both histograms
REASONS = ("draining", "full", "gone", "invalid", "origin", "timeout")
OWN_CODES = 3000  # close codes from here on are anybody's

disable_created_metrics()  # type: ignore[no-untyped-call] # a series for each of the others, which nobody reads


class Messages(Collector):
    """What is counted for each message: as a bare number, which costs less than prometheus_client's counters."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def collect(self) -> Iterable[Metric]:
        """The totals."""
        for name, text, value in (
            ("received", "received from clients", self._traffic.received),
            ("sent", "sent to clients", self._traffic.sent),
        ):
            yield CounterMetricFamily(f"ws_messages_{name}", f"Messages {text}, whole ones", value)


class Metrics:
    """All figures of this process, in a registry of their own."""

    def __init__(self, release: str = "") -> None:
        self.registry = CollectorRegistry()
        self.traffic = Traffic()
        self.registry.register(Messages(self.traffic))
        ProcessCollector(registry=self.registry)
        self._connections = self._gauge("ws_connections", "Open connections")
        self._draining = self._gauge(
            "ws_draining", "1 while the process lets its connections go, otherwise 0"
        )
        self._opened = self._counter("ws_connections_opened", "Connections that clients have opened")
        self._taken_over = self._counter(
            "ws_connections_taken_over", "Open connections that came from another process"
        )
        self._closed = self._counter(
            "ws_connections_closed", "Connections closed, by the code of who closed first", "code"
        )
        self._handed_over = self._counter(
            "ws_connections_handed_over", "Open connections that went to another process"
        )
        self._rejected = self._counter(
            "ws_handshakes_rejected", "Handshakes that opened no connection, by reason", "reason"
        )
        for reason in REASONS:
            self._rejected.labels(reason)
        self._handshake = Histogram(
            "ws_handshake_seconds",
            "Time of the handshakes that opened a connection",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._lag = Histogram(
            "ws_event_loop_lag_seconds",
            f"How late the event loop is, looked at every {TICK:g} s",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._gauge("ws_build_info", "Always 1", "release", "version").labels(release, __version__).set(1)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def watch(self, connections: Callable[[], int], draining: Callable[[], bool]) -> None:
        """Ask these for what has no counter."""
        self._connections.set_function(connections)
        self._draining.set_function(draining)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    @contextlib.contextmanager
    def handshake(self, connection: Connection) -> Iterator[None]:
        """Count what comes of it; health checks are none."""
        began = time.perf_counter()
        reason = ""
        try:
            yield
        except asyncio.CancelledError:
            reason = "timeout"
            raise
        finally:
            if connection.state is State.OPEN:
                self._handshake.observe(time.perf_counter() - began)
            elif not connection.is_check:
                self._rejected.labels(reason or rejection(connection)).inc()

    def came(self, connection: Connection) -> None:
        """Count a connection that begins to be served."""
        (self._taken_over if connection.resumed else self._opened).inc()

    def went(self, connection: Connection) -> None:
        """Count a connection that is closed, or has moved."""
        (self._handed_over if connection.moved else self._closed.labels(close_code(connection))).inc()

    async def watch_loop(self) -> None:
        """See how late the event loop is, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            self._lag.observe(max(0.0, loop.time() - due))

    @contextlib.asynccontextmanager
    async def serve(self, path: str) -> AsyncIterator[None]:
        """Meanwhile, answer /metrics on a unix socket at `path`, if any; OSError if that's impossible.

        Not on the socket that clients reach: that is closed as soon as the process drains, and proxied for everybody.
        """
        watching = asyncio.create_task(self.watch_loop())
        try:
            if not path:
                yield
                return
            try:
                server = await unix_serve(
                    _no_handler, path, process_request=self._answer, compression=None, server_header=None
                )
            except OSError as error:  # it doesn't say which path
                raise OSError(error.errno, error.strerror, path) from error
            bound = Bound(Path(path))
            try:
                yield
            finally:
                server.close()
                bound.remove()
        finally:
            watching.cancel()

    def _answer(self, connection: ServerConnection, request: Request) -> Response:
        if request.path.partition("?")[0] != "/metrics":
            return connection.respond(HTTPStatus.NOT_FOUND, "there is /metrics\n")
        response = connection.respond(HTTPStatus.OK, self.text().decode())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = CONTENT_TYPE_LATEST
        return response


async def _no_handler(_connection: ServerConnection) -> None:
    """Nobody gets that far."""


def release_of(environment: Mapping[str, str]) -> str:
    """The release's name, as the deployment says it; empty if there was none."""
    return Path(environment.get("WS_RELEASE", "")).name


def rejection(connection: Connection) -> str:
    """Why a handshake has opened no connection, as far as one can tell."""
    error, response = connection.protocol.handshake_exc, connection.response
    if isinstance(error, InvalidOrigin):
        return "origin"
    if response and response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        return "full" if "Retry-After" in response.headers else "draining"
    if error is None or isinstance(error.__cause__, EOFError):
        return "gone"
    return "invalid"


def close_code(connection: Connection) -> str:
    """The code of who closed first, 1006 if nobody did.

    Clients choose from thousands of codes; all those that have no common meaning are one series for each thousand.
    """
    protocol = connection.protocol
    ours, theirs = protocol.close_sent, protocol.close_rcvd
    if ours and not protocol.close_rcvd_then_sent:
        return str(int(ours.code))
    if theirs is None:
        return "1006"
    return str(int(theirs.code)) if theirs.code < OWN_CODES else f"{theirs.code // 1000}xxx"
