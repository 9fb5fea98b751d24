# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask one server process whether it is ready, on the socket it was told to bind."""

from __future__ import annotations

import http.client
import socket
import typing as t
from dataclasses import dataclass

_CLOSE_1000 = b"\x88\x82\x00\x00\x00\x00\x03\xe8"  # a masked close frame, code 1000, mask 0

_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "d3NmbGVldCBoZWFsdGhjaA==",
}


@dataclass(frozen=True)
class Address:
    """Where a server process listens: the path of a unix socket, or a port of 127.0.0.1.

    With both, it is reached by the path; others listen on the port too.
    """

    socket_path: str = ""
    port: int = 0

    def __str__(self) -> str:
        return self.socket_path or f"127.0.0.1:{self.port}"

    def connect(self, timeout: float) -> socket.socket:
        if not self.socket_path:
            return socket.create_connection(("127.0.0.1", self.port), timeout)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(self.socket_path)
        except OSError:
            connection.close()
            raise
        return connection


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._address = address
        self._timeout = timeout

    def connect(self) -> None:
        self.sock = self._address.connect(self._timeout)


def problem(address: Address, path: str, timeout: float = 5.0) -> str:
    """Say why the process at `address` isn't ready; the empty string when it is.

    With a `path`, ready means that GET answers 200. Without one (an app that knows nothing of health
    checks), it means that an opening handshake on / is answered: 101, or the app's own refusal below 500.
    """
    connection = _Connection(address, timeout)
    try:
        connection.request("GET", path or "/", headers={} if path else _UPGRADE)
        response = connection.getresponse()
        status = response.status
        if status == http.HTTPStatus.SWITCHING_PROTOCOLS:
            _say_goodbye(connection.sock)
    except (OSError, http.client.HTTPException) as error:
        return f"{address} doesn't answer: {error or type(error).__name__}"
    finally:
        connection.close()
    if path:
        return "" if status == http.HTTPStatus.OK else f"{address} answers {status} to GET {path}"
    return (
        ""
        if status < http.HTTPStatus.INTERNAL_SERVER_ERROR
        else f"{address} answers the handshake with {status}"
    )


def get(address: Address, path: str, timeout: float = 2.0) -> str:
    """What GET of the path answers with 200; empty when it doesn't."""
    connection = _Connection(address, timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
    return text if response.status == http.HTTPStatus.OK else ""


def _say_goodbye(connection: t.Any) -> None:
    """Close with 1000, so that the app doesn't log a client that vanished."""
    connection.sendall(_CLOSE_1000)
    while connection.recv(4096):
        pass
