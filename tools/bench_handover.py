# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs a client that its connection moves, and what it costs a server to be able to.

No containers: two processes of the runner, one after the other behind a symlink, and the clients in this process. All
share the machine's cores, so that the pauses hold the clients' own work too.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, unix_connect

SOURCES = Path(__file__).resolve().parent.parent / "app" / "src"
LOOPS = ("asyncio", "uvloop")
COUNTS = (100, 2000, 8000)
MESSAGES_PER_SECOND = 400  # over all connections, while they move
IDLE_CONNECTIONS = 500
IDLE_MESSAGES = 40_000
TICK = os.sysconf("SC_CLK_TCK")


class Slot:
    """A folder with a symlink, and processes behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.link = folder / "ws.sock"
        self._count = 0

    @contextmanager
    def process(self, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
        """Start a process, and have the symlink lead to it; it is killed at the end."""
        self._count += 1
        folder = self.folder / f"g{self._count}"
        folder.mkdir()
        variables = {f"WS_{name.upper()}": str(value) for name, value in settings.items()}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WS_")}
        started = subprocess.Popen(
            [sys.executable, "-m", "wsfleet", "--unix-socket=ws.sock"],
            cwd=folder,
            env={**inherited, "PYTHONPATH": str(SOURCES), **variables},
            stderr=subprocess.DEVNULL,
        )
        try:
            while not (folder / "ws.sock").exists():
                time.sleep(0.01)
            time.sleep(0.2)
            fresh = self.folder / "new"
            fresh.symlink_to(f"g{self._count}/ws.sock")
            fresh.replace(self.link)
            yield started
        finally:
            started.kill()
            started.wait()

    def figures(self) -> dict[str, float]:
        """What the process that serves has noted of the handover."""
        figures: dict[str, float] = json.loads((self.folder / f"g{self._count}/ws.sock.json").read_text())
        return figures


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid: int) -> int:
    """Bytes of memory that a process uses, its part of shared pages included."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


async def open_many(slot: Slot, count: int) -> list[ClientConnection]:
    clients: list[ClientConnection] = []
    while len(clients) < count:
        batch = (
            unix_connect(str(slot.link), "ws://localhost/", ping_interval=None, open_timeout=60)
            for _n in range(min(100, count - len(clients)))
        )
        clients += await asyncio.gather(*batch)
    return clients


async def exchange(client: ClientConnection, message: str) -> float:
    """Seconds until the echo is back; ValueError if it is another."""
    began = time.monotonic()
    await client.send(message)
    if await client.recv() != message:
        raise ValueError("this is no echo")
    return time.monotonic() - began


async def move(loop: str, count: int) -> dict[str, Any]:
    """Move so many connections, with messages all the while."""
    with tempfile.TemporaryDirectory() as folder:
        slot = Slot(Path(folder))
        settings = {
            "loop": loop,
            "slot": "../ws.sock",
            "handover": True,
            "ping_interval": 0,
            "drain_seconds": 120,
        }
        with slot.process(**settings) as old:
            clients = await open_many(slot, count)
            over = asyncio.Event()
            echoes: list[float] = []
            failures = 0

            async def talk(start: int) -> None:
                nonlocal failures
                number = start
                while not over.is_set():
                    try:
                        echoes.append(await exchange(clients[number % count], f"{number} {'abcdefgh' * 20}"))
                    except Exception:  # counted, whatever it is
                        failures += 1
                    number += talkers
                    await asyncio.sleep(talkers / MESSAGES_PER_SECOND)

            talkers = min(count, 100)
            talking = [asyncio.create_task(talk(start)) for start in range(talkers)]
            with slot.process(**settings) as new:
                await asyncio.sleep(2)
                before = cpu(old.pid) + cpu(new.pid)
                echoes.clear()
                old.send_signal(signal.SIGTERM)
                _pid, _status, used = await asyncio.to_thread(os.wait4, old.pid, 0)
                old.returncode = 0
                used_now = used.ru_utime + used.ru_stime + cpu(new.pid) - before
                during = sorted(echoes)
                over.set()
                await asyncio.gather(*talking)
                lost = sum(client.close_code is not None for client in clients)
                figures = slot.figures()
        return {
            **figures,
            "loop": loop,
            "connections": count,
            "closed": lost,
            "failures": failures,
            "echo_p99_ms": round(1000 * during[int(len(during) * 0.99)], 1) if during else None,
            "cpu_ms_per_connection": round(1000 * used_now / count, 2),
        }


async def idle(loop: str, handover: bool) -> dict[str, Any]:
    """What a server uses that only echoes: memory per connection whose window is full, CPU per message."""
    with tempfile.TemporaryDirectory() as folder:
        slot = Slot(Path(folder))
        settings = {"loop": loop, "ping_interval": 0} | (
            {"slot": "../ws.sock", "handover": True} if handover else {}
        )
        with slot.process(**settings) as server:
            clients = await open_many(slot, 10)
            await asyncio.gather(*(exchange(client, "x") for client in clients))
            empty = memory(server.pid)
            clients += await open_many(slot, IDLE_CONNECTIONS)
            for number in range(6):
                text = f"{number} {os.urandom(512).hex()}"
                await asyncio.gather(*(exchange(client, text) for client in clients))
            full = memory(server.pid)
            before = cpu(server.pid)
            message = (
                "a message as chats have them, some 100 bytes long, with numbers such as 1234567890 and words"
            )

            async def many(client: ClientConnection, count: int) -> None:
                for _n in range(count):
                    await exchange(client, message)

            await asyncio.gather(*(many(client, IDLE_MESSAGES // 50) for client in clients[:50]))
            used = cpu(server.pid) - before
        return {
            "loop": loop,
            "handover": handover,
            "kib_per_connection": round((full - empty) / IDLE_CONNECTIONS / 1024, 1),
            "us_per_message": round(1e6 * used / IDLE_MESSAGES, 1),
        }


def measure_handover(say: Any) -> dict[str, Any]:
    """Return the figures of moves, and of servers that move nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    counts = [count for count in COUNTS if count < hard - 100]
    try:
        moves, idles = [], []
        for count in counts:
            for loop in LOOPS:
                moves.append(asyncio.run(move(loop, count)))
                say(f"{count} connections, {loop}: pause at most {moves[-1]['pause_max_ms']} ms")
        for loop in LOOPS:
            for handover in (False, True):
                idles.append(asyncio.run(idle(loop, handover)))
                say(f"idle, {loop}, handover {handover}: {idles[-1]['kib_per_connection']} KiB")
        return {"moves": moves, "idle": idles}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
