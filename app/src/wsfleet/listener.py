# SPDX-License-Identifier: Apache-2.0
"""The listening socket with the library's server behind it."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, serve, unix_serve
from websockets.extensions.base import ServerExtensionFactory
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import SERVER

from . import internals
from .config import Settings
from .connection import Connection
from .connections import Connections
from .internals import DeflateFactory
from .metrics import Metrics
from .paths import Bound
from .receiver import Builder
from .shared_port import SharedPort, stop_accepting
from .tls import Tls

TICK = 0.01  # seconds between two looks at the handshakes
COMPRESSION = {"memory": (11, 4), "balanced": (12, 5), "ratio": (15, 8)}  # window bits, memory level


def compress_settings(settings: Settings) -> dict[str, int]:
    """What zlib.compressobj() gets beside the window."""
    return {"memLevel": settings.mem_level or COMPRESSION.get(settings.compression, (0, 8))[1]}


def make_extensions(settings: Settings) -> list[ServerExtensionFactory]:
    """Permessage-deflate as set; none if compression is off.

    A client that doesn't offer to limit its window may use 15 bits, 32 KiB here. Rather than keep those for
    the life of the connection, it is told not to refer to earlier messages.
    """
    if settings.compression == "off":
        return []
    bits, _level = COMPRESSION[settings.compression]
    server_bits = settings.server_window_bits or bits
    client_bits = settings.client_window_bits or bits
    zlib = compress_settings(settings)
    factory = DeflateFactory if settings.handover else ServerPerMessageDeflateFactory
    return [
        factory(
            server_max_window_bits=server_bits,
            client_max_window_bits=client_bits,
            compress_settings=zlib,
            require_client_max_window_bits=client_bits < 15,
        ),
        factory(server_max_window_bits=server_bits, client_no_context_takeover=True, compress_settings=zlib),
    ]


def make_options(settings: Settings) -> dict[str, Any]:
    """The keyword arguments of serve() and unix_serve()."""
    return {
        "origins": [
            None if origin == "none" else re.compile(origin[1:]) if origin.startswith("~") else origin
            for origin in settings.origins
        ]
        or None,
        "extensions": make_extensions(settings),
        "subprotocols": list(settings.subprotocols) or None,
        "compression": None,  # the library's own; ours is in extensions
        "server_header": SERVER if settings.server_header else None,
        "open_timeout": settings.open_timeout,
        "ping_interval": settings.ping_interval or None,
        "ping_timeout": settings.ping_timeout or None,
        "close_timeout": settings.close_timeout,
        "max_size": settings.max_size,
        "max_queue": settings.max_queue,
        "write_limit": settings.write_limit,
        "backlog": settings.backlog,
    }


def make_builder(settings: Settings, listener: Listener, metrics: Metrics) -> Builder:
    """What makes connections of those that come from another process."""
    options = make_options(settings)
    names = ("ping_interval", "ping_timeout", "close_timeout", "max_queue", "write_limit")
    return Builder(
        listener.server,
        {name: options[name] for name in names} | {"metrics": metrics},
        {"max_size": settings.max_size},
        compress_settings(settings),
    )


class Listener:
    """A server that accepts connections until `close`, its unix socket's file, and the port it shares with others."""

    def __init__(self, server: Server, path: Path | None, shared: SharedPort | None) -> None:
        self.server = server
        self._bound = Bound(path) if path else None
        self._shared = shared

    @classmethod
    async def open(cls, settings: Settings, metrics: Metrics, **callbacks: Any) -> Listener:
        """Start to listen; OSError if that's impossible. `callbacks`: handler and process_request."""
        create_connection = partial(Connection, metrics=metrics)
        options = make_options(settings) | {"create_connection": create_connection} | callbacks
        host = None if settings.host == "*" else settings.host
        context = Tls(settings.tls_certificate, settings.tls_key).context if settings.tls_key else None
        if not settings.unix_socket:
            server = await serve(
                host=host, port=settings.port, reuse_port=settings.reuse_port or None, ssl=context, **options
            )
            return cls(server, None, None)
        # A relative path stays so, because paths of unix sockets are limited to 107 bytes.
        path = Path(settings.unix_socket)
        server = await unix_serve(path=str(path), **options)
        if not settings.shared_port:
            return cls(server, path, None)
        open_port = partial(
            serve, host=host, port=settings.shared_port, reuse_port=True, ssl=context, **options
        )
        return cls(server, path, SharedPort(open_port, Path(settings.slot), path))

    @property
    def _servers(self) -> list[Server]:
        return [self.server, *(self._shared.servers if self._shared else [])]

    def __str__(self) -> str:
        """Where it listens."""
        if self._bound:
            return f"unix:{self._bound.path}"
        return ", ".join("{}:{}".format(*sock.getsockname()) for sock in self.server.sockets)

    def close(self) -> None:
        """Stop accepting; open connections and handshakes under way stay. Again: nothing happens."""
        if self._shared:
            self._shared.close()
        stop_accepting(self.server)
        if self._bound:  # Python 3.13 removes the file by itself, 3.11 leaves it
            self._bound.remove()

    async def wait_for_handshakes(self, connections: Connections) -> None:
        """Wait until all handshakes that were under way have ended."""
        while internals.handshakes(self._servers, len(connections)) > 0:
            await asyncio.sleep(TICK)

    def refuse(self) -> None:
        """Answer handshakes under way with 503."""
        for server in self._servers:
            internals.refuse_handshakes(server)

    async def wait_closed(self) -> None:
        """Wait until it is closed and all handlers have returned."""
        for server in self._servers:
            await server.wait_closed()
