# SPDX-License-Identifier: Apache-2.0
"""A chat room whose members stay in it when the server is upgraded: broadcast, presence and history.

What is said is kept in a file, where every server process finds it. Each connection remembers in its session how far
its client has read. So it doesn't matter in which process a connection is, nor when it moves to another: nothing is
missed, and nothing is said twice.

    CHAT_FILE=/var/lib/chat/chat.sqlite3 wsfleet --handler chat:handler
    websockets "ws://localhost:8000/?name=ann"
"""

import asyncio
import json
import os
import sqlite3
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosed
from wsfleet import Connection, resumable

HISTORY = 20  # messages that somebody new gets to see
LOOK = 0.05  # seconds between looks for what was said in other processes


class Room:
    """What was said and who is here, over all processes."""

    def __init__(self, file: str) -> None:
        self._database = sqlite3.connect(file, isolation_level=None, timeout=5)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS said (id INTEGER PRIMARY KEY, name TEXT, text TEXT)"
        )
        self._database.execute("CREATE TABLE IF NOT EXISTS present (connection TEXT PRIMARY KEY, name TEXT)")

    def say(self, name: str, text: str) -> None:
        self._database.execute("INSERT INTO said (name, text) VALUES (?, ?)", (name, text))

    def enter(self, connection: str, name: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO present VALUES (?, ?)", (connection, name))
        self.say("room", f"{name} is here")

    def leave(self, connection: str, name: str) -> None:
        self._database.execute("DELETE FROM present WHERE connection = ?", (connection,))
        self.say("room", f"{name} has left")

    def present(self) -> list[str]:
        return [name for (name,) in self._database.execute("SELECT name FROM present ORDER BY name")]

    def last(self) -> int:
        (number,) = self._database.execute("SELECT coalesce(max(id), 0) FROM said").fetchone()
        return int(number)

    def since(self, number: int) -> list[tuple[int, str, str]]:
        return self._database.execute(
            "SELECT id, name, text FROM said WHERE id > ? ORDER BY id", (number,)
        ).fetchall()


room = Room(os.environ.get("CHAT_FILE", "chat.sqlite3"))


async def tell(connection: Connection) -> None:
    """Send the client what it hasn't read yet, now and whenever there is more."""
    while True:
        for number, name, text in room.since(connection.session["read"]):
            await connection.send(json.dumps({"id": number, "name": name, "text": text}))
            connection.session["read"] = number
        await asyncio.sleep(LOOK)


@resumable(version=1)
async def handler(connection: Connection) -> None:
    """Let the client talk and listen until it leaves; a move to another process isn't leaving."""
    session = connection.session
    if not connection.resumed:
        query = parse_qs(urlsplit(connection.request.path).query) if connection.request else {}
        session["name"] = query.get("name", ["somebody"])[0]
        session["read"] = max(0, room.last() - HISTORY)
        room.enter(str(connection.id), session["name"])
    telling = asyncio.create_task(tell(connection))
    try:
        async for message in connection:
            if message == "/who":
                await connection.send(json.dumps({"present": room.present()}))
            else:
                room.say(session["name"], str(message))
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError, ConnectionClosed):
            await telling
        if not connection.moved:
            room.leave(str(connection.id), session["name"])
