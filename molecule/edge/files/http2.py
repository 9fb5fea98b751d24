#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open a WebSocket connection over HTTP/2 (RFC 8441), and print what comes back of a message: http2.py ADDRESS NAME."""

from __future__ import annotations

import socket
import ssl
import sys
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RemoteSettingsChanged, ResponseReceived
from h2.settings import SettingCodes

MESSAGE = b"hello"
MASK = bytes(4)


class Client:
    """One connection of HTTP/2."""

    def __init__(self, address: str, name: str) -> None:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection((address, 443), timeout=20)
        self.socket = context.wrap_socket(raw, server_hostname=name)
        self.protocol = H2Connection(H2Configuration())
        self.protocol.initiate_connection()
        self.send()

    def send(self) -> None:
        self.socket.sendall(self.protocol.data_to_send())

    def receive(self) -> list[Event]:
        data = self.socket.recv(65536)
        if not data:
            raise SystemExit("the connection was closed")
        events: list[Event] = self.protocol.receive_data(data)
        self.send()
        return events

    def wait_for(self, kind: type[Event]) -> Any:
        """Return the first event of a kind."""
        while True:
            for event in self.receive():
                if isinstance(event, kind):
                    return event


def main() -> None:
    address, name = sys.argv[1:]
    client = Client(address, name)
    settings = client.wait_for(RemoteSettingsChanged)
    if SettingCodes.ENABLE_CONNECT_PROTOCOL not in settings.changed_settings:
        raise SystemExit("the server doesn't take WebSocket connections over HTTP/2")
    stream = client.protocol.get_next_available_stream_id()
    client.protocol.send_headers(
        stream,
        [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", name),
            (":path", "/"),
            ("sec-websocket-version", "13"),
        ],
    )
    client.send()
    status = dict(client.wait_for(ResponseReceived).headers)[b":status"]
    if status != b"200":
        raise SystemExit(f"the server answers {status.decode()}")
    client.protocol.send_data(stream, bytes([0x81, 0x80 | len(MESSAGE)]) + MASK + MESSAGE)
    client.send()
    answer = b""
    while len(answer) < 2 + len(MESSAGE):
        answer += client.wait_for(DataReceived).data
    sys.stdout.write(f"{answer[2:].decode()}\n")


if __name__ == "__main__":
    main()
