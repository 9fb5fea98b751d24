# SPDX-License-Identifier: Apache-2.0
"""The example of a chat room, through upgrades."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from server_process import PATIENCE, Start
from websockets.asyncio.client import ClientConnection, unix_connect

EXAMPLE = Path(__file__).parents[2] / "examples/chat/chat.py"


class Member:
    """Reads all that it gets."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.read: list[dict[str, Any]] = []
        self.present: asyncio.Queue[list[str]] = asyncio.Queue()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.client:
            answer = json.loads(message)
            if "present" in answer:
                self.present.put_nowait(answer["present"])
            else:
                self.read.append(answer)

    @property
    def texts(self) -> list[str]:
        return [answer["text"] for answer in self.read]

    async def who(self) -> list[str]:
        await self.client.send("/who")
        return await self.present.get()


def test_members_of_a_chat_room_notice_nothing_of_upgrades(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.setenv("CHAT_FILE", str(tmp_path / "chat.sqlite3"))
    link = tmp_path / "ws.sock"

    def deploy(number: int) -> Any:
        (tmp_path / f"g{number}").mkdir()
        process = start(
            handler="chat:handler", unix_socket=f"g{number}/ws.sock", slot="ws.sock", handover=True
        )
        fresh = tmp_path / "new"
        fresh.symlink_to(f"g{number}/ws.sock")
        fresh.replace(link)
        return process

    async def join(name: str) -> Member:
        return Member(await unix_connect(str(link), f"ws://localhost/?name={name}"))

    async def talk(members: list[Member], said: list[str]) -> None:
        while True:
            member = members[len(said) % len(members)]
            said.append(f"number {len(said)}")
            await member.client.send(said[-1])
            await asyncio.sleep(0.005)

    async def evening() -> None:
        process = await asyncio.to_thread(deploy, 1)
        members = [await join(name) for name in ("ann", "bob", "cem")]
        said: list[str] = []
        talking = asyncio.create_task(talk(members, said))
        for number in (2, 3, 4):
            old, process = process, await asyncio.to_thread(deploy, number)
            old.signal(signal.SIGTERM)
            assert await asyncio.to_thread(old.wait) == 0
            assert await members[0].who() == ["ann", "bob", "cem"]
        talking.cancel()
        late = await join("dee")
        await late.client.send("good evening")
        while not all("good evening" in member.texts for member in [*members, late]):
            await asyncio.sleep(0.05)
        for member in members:
            numbers = [answer["id"] for answer in member.read]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            spoken = [text for text in member.texts if text.startswith("number")]
            assert sorted(spoken) == sorted(said)
            assert [text for text in member.texts if text.endswith("has left")] == []
        assert members[0].texts[:3] == ["ann is here", "bob is here", "cem is here"]
        assert len(late.read) == 20 + 2  # history, its own arrival, what it said
        await members[2].client.close()
        while await members[0].who() != ["ann", "bob", "dee"]:
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(evening(), 3 * PATIENCE))
