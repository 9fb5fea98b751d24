#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open WebSocket connections over HTTP/2 (RFC 8441).

http2.py ADDRESS NAME             opens one, and prints what comes back of a message
http2.py ADDRESS NAME COUNT EACH  opens as many, so many of them over each connection; prints how many got which status
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
from collections import Counter
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
        self.name = name
        self.events: list[Event] = []
        context = ssl.create_default_context()
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection((address, 443), timeout=20)
        self.socket = context.wrap_socket(raw, server_hostname=name)
        self.protocol = H2Connection(H2Configuration())
        self.protocol.initiate_connection()
        self.send()
        settings = self.wait_for(RemoteSettingsChanged)
        if SettingCodes.ENABLE_CONNECT_PROTOCOL not in settings.changed_settings:
            raise SystemExit("the server doesn't take WebSocket connections over HTTP/2")

    def open(self) -> int:
        """Ask for a WebSocket connection, and return its stream."""
        stream: int = self.protocol.get_next_available_stream_id()
        self.protocol.send_headers(
            stream,
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "https"),
                (":authority", self.name),
                (":path", "/"),
                ("sec-websocket-version", "13"),
            ],
        )
        self.send()
        return stream

    def status(self) -> str:
        """Return that of the next answer."""
        headers = dict(self.wait_for(ResponseReceived).headers)
        return str(headers[b":status"].decode())

    def send(self) -> None:
        self.socket.sendall(self.protocol.data_to_send())

    def receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise SystemExit("the connection was closed")
        self.events += self.protocol.receive_data(data)
        self.send()

    def wait_for(self, kind: type[Event]) -> Any:
        """Return the next event of a kind; those before it are passed over."""
        while True:
            while self.events:
                if isinstance(event := self.events.pop(0), kind):
                    return event
            self.receive()


def main() -> None:
    address, name, *numbers = sys.argv[1:]
    if numbers:
        many(address, name, *map(int, numbers))
    else:
        echo(address, name)


def many(address: str, name: str, count: int, each: int) -> None:
    """Hold all of them until the last one is answered."""
    statuses: Counter[str] = Counter()
    clients = []
    for _ in range(0, count, each):
        clients.append(client := Client(address, name))
        for _ in range(each):
            client.open()
        for _ in range(each):
            statuses[client.status()] += 1
    sys.stdout.write(json.dumps(statuses))


def echo(address: str, name: str) -> None:
    client = Client(address, name)
    stream = client.open()
    if (status := client.status()) != "200":
        raise SystemExit(f"the server answers {status}")
    client.protocol.send_data(stream, bytes([0x81, 0x80 | len(MESSAGE)]) + MASK + MESSAGE)
    client.send()
    answer = b""
    while len(answer) < 2 + len(MESSAGE):
        answer += client.wait_for(DataReceived).data
    sys.stdout.write(f"{answer[2:].decode()}\n")


if __name__ == "__main__":
    main()
