# SPDX-License-Identifier: GPL-3.0-or-later
"""What compression settings cost and save, beside the published figures, and what the whole chain takes.

The table needs no containers: for each setting, a server of websockets and the clients in this process. For the chain
there is a server as site.yml makes it, with nginx or HAProxy; the kernel's part is that of sockets of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from plugins.module_utils.memory import COMPRESSION, estimate
from tools import servers
from tools.bench_held import measure_held
from tools.bench_pair import Pair

SERVER = servers.ROOT / "bench" / "memory.py"
CONNECTIONS = 200
FILLING = 48 * 1024  # bytes that each connection echoes: more than the largest window
SOCKETS = 4000  # pairs
SETTLE = 1.0  # seconds until the kernel has freed what was closed before
ROUNDS = 5
# A setting that takes more memory is worth it where each doubling makes messages smaller by this.
WORTH = 0.1

# Window bits and memory level; 0 is no compression. KiB per connection in websockets' documentation and in its author's
# guide of 2021, then size and time against 12, 5 in the documentation ("Compression", "Tuning compression").
PUBLISHED: dict[tuple[int, int], tuple[int, int | None, str, str]] = {
    (0, 0): (14, 22, "+350%", ""),
    (9, 2): (33, None, "+130%", "-90%"),
    (10, 3): (37, None, "+70%", "-40%"),
    (11, 4): (46, 55, "+10%", "-4%"),
    (12, 5): (64, 73, "=", "="),
    (13, 6): (100, 110, "-3%", "+2%"),
    (14, 7): (172, 181, "-7%", "+5%"),
    (15, 8): (316, 325, "-10%", "+10%"),
}
DEFAULT = COMPRESSION["balanced"]
CHOICES = {"off": (0, 0), **COMPRESSION}  # from least to most memory

Row = Mapping[str, Any]


# --- messages ---------------------------------------------------------------------------------------------


def make_corpus(count: int = 300) -> list[bytes]:
    """JSON documents of commits, about 2 KiB each, like those of the published figures; always the same."""
    chance = random.Random(17)  # noqa: S311
    syllables = [
        "con",
        "nec",
        "tion",
        "ser",
        "ver",
        "time",
        "out",
        "re",
        "fac",
        "tor",
        "test",
        "do",
        "cu",
        "ment",
    ]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _n in range(500)]
    likelihood = [1 / rank for rank in range(1, 501)]
    people = [
        {"name": f"{name} Doe", "email": f"{name}@example.com"} for name in ("Ada", "Ben", "Cleo", "Dan")
    ]
    site, project = "https://api.example.com/repos/example/project/git", "https://example.com/example/project"

    def sha() -> str:
        return f"{chance.getrandbits(160):040x}"

    corpus, parent = [], sha()
    for number in range(count):
        own, tree = sha(), sha()
        date = f"2026-{1 + number // 28 % 12:02d}-{1 + number % 28:02d}T{chance.randrange(24):02d}:15:42Z"
        document = {
            "sha": own,
            "url": f"{site}/commits/{own}",
            "html_url": f"{project}/commit/{own}",
            "author": {**chance.choice(people), "date": date},
            "committer": {**chance.choice(people), "date": date},
            "tree": {"sha": tree, "url": f"{site}/trees/{tree}"},
            "message": " ".join(chance.choices(words, likelihood, k=chance.randint(5, 60))),
            "parents": [
                {"sha": parent, "url": f"{site}/commits/{parent}", "html_url": f"{project}/commit/{parent}"}
            ],
            "verification": {"verified": False, "reason": "unsigned", "signature": None, "payload": None},
        }
        corpus.append(json.dumps(document, indent=2).encode())
        parent = own
    return corpus


def read_corpus(folder: str) -> list[bytes]:
    """The messages in a folder: each file is one, or each line of a file *.jsonl."""
    messages: list[bytes] = []
    try:
        for path in sorted(Path(folder).iterdir()):
            if path.is_file() and not path.name.startswith("."):
                content = path.read_bytes()
                messages += content.splitlines() if path.suffix == ".jsonl" else [content]
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{folder} can't be read: {error.strerror}") from None
    if not (messages := [message for message in messages if message]):
        raise argparse.ArgumentTypeError(
            f"{folder} has no messages: a file each, or a line each in files *.jsonl"
        )
    return messages


def compress(corpus: Sequence[bytes], bits: int, level: int) -> tuple[int, float]:
    """Bytes that a connection would send, and seconds of CPU for them, the least of some rounds."""
    if not bits:
        return sum(map(len, corpus)), 0.0
    seconds = math.inf
    for _n in range(ROUNDS):
        extension = PerMessageDeflate(False, False, bits, bits, {"memLevel": level})
        frames = [Frame(Opcode.TEXT, message) for message in corpus]
        began = time.process_time()
        size = sum(len(extension.encode(frame).data) for frame in frames)
        seconds = min(seconds, time.process_time() - began)
    return size, seconds


# --- measure ----------------------------------------------------------------------------------------------


class Server:
    """A process whose memory is asked for."""

    def __init__(self, process: subprocess.Popen[str], path: str) -> None:
        self.path = path
        self._input, self._output = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
        self._output.readline()

    def used(self) -> int:
        self._input.write("\n")
        self._input.flush()
        return int(self._output.readline())


@contextmanager
def server(bits: int, level: int, trace: bool) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/ws.sock"
        command = [sys.executable, str(SERVER), path, str(bits), str(level), *(["--trace"] if trace else [])]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Server(process, path)
            finally:
                process.kill()


async def connection_bytes(bits: int, level: int, trace: bool, corpus: Sequence[bytes]) -> float:
    """Bytes that a connection takes in a fresh server, when its windows are full."""
    with server(bits, level, trace) as process:

        async def open_and_fill() -> ClientConnection:
            client = await unix_connect(process.path, "ws://localhost/", ping_interval=None, open_timeout=60)
            sent = 0
            for message in corpus:
                await client.send(message)
                await client.recv()
                sent += len(message)
                if sent > FILLING:
                    break
            return client

        clients = [await open_and_fill()]  # the first one costs more
        before = process.used()
        while len(clients) <= CONNECTIONS:
            clients += await asyncio.gather(*(open_and_fill() for _n in range(20)))
        return (process.used() - before) / (len(clients) - 1)


def measure_table(corpus: Sequence[bytes], say: Callable[[str], None]) -> dict[str, Any]:
    """Return what each setting costs and saves."""
    filling, rows = make_corpus(50), []
    for bits, level in PUBLISHED:
        traced, shared = (
            asyncio.run(connection_bytes(bits, level, trace, filling)) / 1024 for trace in (True, False)
        )
        size, seconds = compress(corpus, bits, level)
        rows.append(
            {
                "bits": bits,
                "level": level,
                "allocated_kib": round(traced, 1),
                "pss_kib": round(shared, 1),
                "bytes": size,
                "us_per_message": round(1e6 * seconds / len(corpus), 1),
            }
        )
        say(f"{name_of(bits, level)}: {traced:.0f} KiB per connection, {size:,} bytes")
    return {"settings": rows, "messages": len(corpus)}


def slab() -> int:
    """Bytes of the kernel's objects."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Slab:"))


def measure_kernel() -> float:
    """Bytes of the kernel for a connection through a proxy: a TCP socket and a pair of unix ones, in epoll."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def tcp() -> Iterator[tuple[socket.socket, ...]]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            while True:
                client = socket.create_connection(listening.getsockname())
                yield client, listening.accept()[0]

    def per_socket(pairs: Iterator[tuple[socket.socket, ...]]) -> float:
        time.sleep(SETTLE)
        with select.epoll() as epoll:
            before = slab()
            kept: list[socket.socket] = []
            for _n in range(SOCKETS):
                kept += next(pairs)
                epoll.register(kept[-1])
                epoll.register(kept[-2])
            taken = slab() - before
            for each in kept:
                each.close()
        return taken / len(kept)

    try:
        return per_socket(tcp()) + 2 * per_socket(iter(socket.socketpair, None))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def measure_chain(pair: Pair) -> dict[str, Any]:
    """Return what an idle connection takes in each part of a server with its defaults and TLS."""
    kernel, rows = measure_kernel(), []
    for router in ("nginx", "haproxy"):
        pair.deploy(f"memory-{router}", ws_router=router)
        server, clients = (servers.container(pair.fleet, host.name) for host in pair.hosts)
        kib = measure_held(pair.engine, server, clients, f"wss://{pair.server.name}/")
        rows.append(
            {
                "router": router,
                "process_kib": kib["wsfleet"],
                "proxy_kib": kib[router],
                "kernel_kib": round(kernel / 1024, 1),
            }
        )
    return {"chain": rows}


# --- write ------------------------------------------------------------------------------------------------

HEAD = [
    "window bits, memory level",
    "KiB per connection",
    "of it resident",
    "documentation",
    "guide of 2021",
    "size",
    "documentation",
    "time",
    "documentation",
]
CHAIN_HEAD = ["`ws_router`", "process", "proxy", "kernel", "together", "reckoned"]


def name_of(bits: int, level: int) -> str:
    """The setting as people know it: 12, 5 (balanced)."""
    numbers = f"{bits}, {level} " if bits else ""
    return next(
        (f"{numbers}`{name}`" for name, choice in CHOICES.items() if choice == (bits, level)), numbers.strip()
    )


def against(value: float, base: float) -> str:
    return "=" if value == base else f"{value / base - 1:+.0%}"


def table_rows(settings: Sequence[Row]) -> list[list[str]]:
    """Return a row of the table for each setting, with the published figures beside the measured ones."""
    base = next(row for row in settings if (row["bits"], row["level"]) == DEFAULT)
    rows = []
    for row in settings:
        documented, guide, size, seconds = PUBLISHED[row["bits"], row["level"]]
        rows.append(
            [
                name_of(row["bits"], row["level"]),
                f"{row['allocated_kib']:.0f}",
                f"{row['pss_kib']:.0f}",
                f"{documented}",
                f"{guide or ''}",
                against(row["bytes"], base["bytes"]),
                size,
                against(row["us_per_message"], base["us_per_message"]) if row["bits"] else "",
                seconds,
            ]
        )
    return rows


def chain_rows(chain: Sequence[Row]) -> list[list[str]]:
    """Return a row of the table for each router, in KiB."""
    rows = []
    for row in chain:
        parts = [row[f"{part}_kib"] for part in ("process", "proxy", "kernel")]
        reckoned = estimate({"WS_COMPRESSION": "balanced"}, row["router"], tls=True, handover=True)
        together = reckoned.connection_bytes / 1024 if reckoned else 0
        rows.append([f"`{row['router']}`", *(f"{part:.0f}" for part in (*parts, sum(parts), together))])
    return rows


def advice(settings: Sequence[Row]) -> str:
    """Say which setting to choose for the messages, and why."""
    rows = {(row["bits"], row["level"]): row for row in settings}
    choices = [(name, rows[numbers]) for name, numbers in CHOICES.items()]
    name, chosen = raw = choices[0]
    for other, row in choices[1:]:
        doublings = math.log2(row["allocated_kib"] / chosen["allocated_kib"])
        if row["bytes"] <= chosen["bytes"] * (1 - WORTH) ** doublings:
            name, chosen = other, row
    reason = (
        f"{1 - chosen['bytes'] / raw[1]['bytes']:.0%} fewer bytes than uncompressed, for "
        f"{chosen['allocated_kib']:.0f} KiB per connection and {chosen['us_per_message']:.0f} µs per message"
        if name != "off"
        else f"{chosen['allocated_kib']:.0f} KiB per connection, and compression saves too little"
    )
    more = [
        f"`{other}` would send {abs(less):.0%} {'less' if less > 0 else 'more'} for {kib:.0f} KiB more"
        for other, row in choices
        for less, kib in [
            (1 - row["bytes"] / chosen["bytes"], row["allocated_kib"] - chosen["allocated_kib"])
        ]
        if kib > 0
    ]
    return (
        f"For these messages choose `ws_app_compression: {name}`: {reason}. "
        + (f"{'; '.join(more)}. " if more else "")
        + f"More memory is taken to be worth it where each doubling saves {WORTH:.0%} of the bytes."
    )
