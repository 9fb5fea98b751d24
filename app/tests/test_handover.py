# SPDX-License-Identifier: Apache-2.0
"""Connections that move from one process to the next, as their clients see it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from offers import OFFER
from server_process import PATIENCE, ServerProcess, Slot, Start, close_of, wait_for
from websockets.asyncio.client import unix_connect as connect_async
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection
from wsfleet.connection import Resumption
from wsfleet.packets import Packet, Peer, Refused, pack
from wsfleet.receiver import Builder, Receiver

FRESH = ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
LOOPS = ("asyncio", "uvloop")


@pytest.fixture
def slot(tmp_path: Path, start: Start) -> Slot:
    return Slot(tmp_path, start)


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def ask(client: ClientConnection, message: str = "?") -> dict[str, Any]:
    client.send(message)
    answer: dict[str, Any] = json.loads(client.recv(PATIENCE))
    return answer


class Traffic:
    """Clients that send numbered messages of any kind and size, each when the last one came back."""

    def __init__(self, path: Path, number: int, **options: Any) -> None:
        self.problems: list[str] = []
        self.echoes = 0
        self._path = str(path)
        self._options = options
        self._number = number
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Traffic:
        self._thread.start()
        wait_for(lambda: self.problems or self.echoes > 2 * self._number)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self._number)))

    async def _client(self, number: int) -> None:
        chance = random.Random(number)
        try:
            async with connect_async(
                self._path, "ws://localhost/", ping_interval=0.05, **self._options
            ) as client:
                count = 0
                while not self._ending.is_set():
                    count += 1
                    length = chance.choice((1, 20, 300, 4000, 30_000))
                    text = f"{number} {count} " + "".join(chance.choices("abcde \u00e4", k=length))
                    message = text if chance.random() < 0.6 else text.encode()
                    in_parts = chance.random() < 0.2
                    await client.send([message[:5], message[5:9], message[9:]] if in_parts else message)
                    echo = await asyncio.wait_for(client.recv(), PATIENCE)
                    if echo != message:
                        self.problems.append(f"client {number}: {echo[:40]!r} for {message[:40]!r}")
                    self.echoes += 1
                    await asyncio.sleep(chance.uniform(0, 0.02))
        except Exception as error:
            self.problems.append(f"client {number}: {error!r}")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({"compression": "ratio"}, {}),
        ({"compression": "off"}, {}),
        ({"max_size": 200_000}, {"compression": None}),
        ({}, {"compression": None, "extensions": [FRESH]}),
    ],
    ids=["takeover", "large windows", "server without", "client without", "fresh windows"],
)
def test_no_client_notices(slot: Slot, loop: str, settings: dict[str, Any], options: dict[str, Any]) -> None:
    slot.start(loop=loop, **settings)
    with Traffic(slot.path, 10, **options) as traffic:
        for _n in range(2):
            old, _new = slot.roll(loop=loop, **settings)
            assert old.wait() == 0
            assert slot.figures()["moved"] == 10
    assert traffic.problems == []


def test_settings_of_the_handshake_may_change_under_open_connections(slot: Slot) -> None:
    slot.start(compression="balanced", subprotocols="chat")
    with Traffic(slot.path, 5, subprotocols=["chat"]) as traffic:
        for settings in (
            {"compression": "off", "origins": "https://example.com"},
            {"compression": "ratio", "mem_level": 1, "loop": "uvloop"},
        ):
            old, _new = slot.roll(**settings)
            assert old.wait() == 0
    assert traffic.problems == []


def test_handler_finds_all_again(slot: Slot, clients: ExitStack) -> None:
    slot.start(handler="handlers:resume", subprotocols="chat")
    client = clients.enter_context(slot.connect(additional_headers={"X-Test": "seen"}, subprotocols=["chat"]))
    before = ask(client, "user=ann")
    old, new = slot.roll(handler="handlers:resume")
    assert old.wait() == 0
    after = ask(client)
    assert after == before | {
        "pid": new.pid,
        "resumed": True,
        "session": {"moves": 1, "user": "ann", "?": ""},
    }
    assert (before["resumed"], before["header"], before["path"]) == (False, "seen", "/a?b=c")
    assert before["subprotocol"] == "chat"


def test_handler_is_cancelled_and_can_tell_why(slot: Slot, clients: ExitStack) -> None:
    slot.start(handler="handlers:part")
    moving, leaving = (clients.enter_context(slot.connect()) for _n in range(2))
    leaving.close()
    old, _new = slot.roll(handler="handlers:part")
    assert old.wait() == 0
    assert [line for line in old.lines if line.startswith("ended")] == ["ended, not moved", "ended, moved"]
    assert "Traceback" not in old.log
    moving.send("still here")
    assert moving.recv(PATIENCE) == "still here"


@pytest.mark.parametrize(("handler", "moves"), [("understand", True), ("forget", False)])
def test_new_version_says_which_sessions_it_understands(
    slot: Slot, clients: ExitStack, handler: str, moves: bool
) -> None:
    slot.start(handler="handlers:resume")
    client = clients.enter_context(slot.connect())
    ask(client, "user=ann")
    old, new = slot.roll(handler=f"handlers:{handler}")
    if moves:
        assert old.wait() == 0
        assert ask(client)["pid"] == new.pid
    else:
        assert close_of(client) == (1001, "server is restarting")
        assert old.wait() == 0
        assert "1 refused (the handler doesn't know version 1 of the session)" in old.log


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"handler": "handlers:resume"}, {"handler": "handlers:tasks"}),
        ({"handler": "handlers:tasks"}, {"handler": "handlers:resume"}),
        ({}, {"max_connections": 1}),
        ({"handler": "handlers:busy", "handover_seconds": 0.2}, {}),
    ],
    ids=["new isn't resumable", "old isn't resumable", "new is full", "handler doesn't wait for the client"],
)
def test_what_can_not_move_is_closed_as_announced(
    slot: Slot, clients: ExitStack, before: dict[str, Any], after: dict[str, Any]
) -> None:
    old = slot.start(**before)
    client = clients.enter_context(slot.connect(compression=None))
    new = slot.start(**after)
    if "max_connections" in after:
        clients.enter_context(new.connect())
    old.signal(signal.SIGTERM)
    assert close_of(client) == (1001, "server is restarting")


def test_process_that_has_no_successor_closes_its_connections(slot: Slot, clients: ExitStack) -> None:
    only = slot.start()
    client = clients.enter_context(slot.connect())
    only.signal(signal.SIGTERM)
    assert close_of(client) == (1001, "server is restarting")


def test_broadcasts_and_messages_of_tasks_arrive_once_and_in_order(slot: Slot, clients: ExitStack) -> None:
    slot.start(handler="handlers:count")
    client = clients.enter_context(slot.connect())
    numbers = [int(client.recv(PATIENCE)) for _n in range(50)]
    for _n in range(5):
        old, _new = slot.roll(handler="handlers:count")
        while old.is_alive:
            numbers.append(int(client.recv(PATIENCE)))
        assert old.wait() == 0
        assert slot.figures()["moved"] == 1
    numbers += [int(client.recv(PATIENCE)) for _n in range(50)]
    assert numbers == list(range(len(numbers)))


def test_handler_that_wakes_up_meanwhile_is_not_interrupted(slot: Slot, clients: ExitStack) -> None:
    settings = {"handler": "handlers:impatient"}
    slot.start(**settings)
    held = [clients.enter_context(slot.connect()) for _n in range(30)]
    for _n in range(3):
        old, _new = slot.roll(**settings)
        assert old.wait() == 0
        assert slot.figures()["moved"] == 30
        assert "interrupted" not in old.log
    for client in held:
        client.send("still here")
        assert client.recv(PATIENCE) == "still here"


def masked(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return bytes(Frame(opcode, data, fin).serialize(mask=True, extensions=[]))


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = client.recv(size - len(data))
        assert part, "closed"
        data += part
    return data


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("cut", [1, 2, 5, 8, 30], ids=lambda cut: f"{cut} bytes")
def test_frame_that_is_half_here_is_waited_for(slot: Slot, loop: str, cut: int) -> None:
    """Where the cut is between two frames of a message, too."""
    old = slot.start(loop=loop)
    with old.raw() as client:
        frames = (
            masked(Opcode.TEXT, b"ab", fin=False) + masked(Opcode.PING, b"x") + masked(Opcode.CONT, b"c" * 20)
        )
        client.sendall(frames[:cut])
        time.sleep(0.1)
        slot.roll(loop=loop)
        time.sleep(0.5)
        assert old.is_alive
        client.sendall(frames[cut:])
        assert receive(client, 3 + 24) == b"\x8a\x01x\x81\x16ab" + b"c" * 20
        assert old.wait() == 0
        assert slot.figures()["moved"] == 1
        client.sendall(masked(Opcode.TEXT, b"again"))
        assert receive(client, 7) == b"\x81\x05again"


def test_frame_that_does_not_come_is_not_waited_for_longer_than_set(slot: Slot) -> None:
    old = slot.start(handover_seconds=0.3)
    with old.raw() as client:
        client.sendall(masked(Opcode.TEXT, b"ab", fin=False))
        time.sleep(0.1)
        slot.roll()
        assert receive(client, 4) == b"\x88\x16\x03\xe9"


def test_slow_reader_moves_when_it_has_read_what_was_sent(slot: Slot) -> None:
    old = slot.start(compression="off")
    with old.raw() as client:
        message = b"x" * 1_000_000
        client.sendall(masked(Opcode.BINARY, message))
        time.sleep(0.2)
        slot.roll()
        time.sleep(0.5)
        assert old.is_alive
        assert receive(client, len(message) + 10)[10:] == message
        assert old.wait() == 0
        assert slot.figures()["moved"] == 1
        client.sendall(masked(Opcode.TEXT, b"again"))
        assert receive(client, 7) == b"\x81\x05again"


@pytest.mark.parametrize("loop", LOOPS)
def test_clients_that_close_meanwhile_are_answered(slot: Slot, loop: str) -> None:
    slot.start(loop=loop)
    for _n in range(3):
        closing = [slot.connect() for _n in range(20)]
        old, _new = slot.roll(loop=loop)
        time.sleep(0.19)
        for client in closing:
            client.close()
            assert client.close_code in (1000, 1001)
        assert old.wait() == 0


def test_close_by_the_server_arrives(slot: Slot, clients: ExitStack) -> None:
    slot.start(handler="handlers:resume")
    client = clients.enter_context(slot.connect())
    old, _new = slot.roll(handler="handlers:resume")
    assert old.wait() == 0
    client.send("close soon")
    assert close_of(client) == (4000, "at its own wish")


def test_session_that_is_no_json_keeps_its_connection_here(slot: Slot, clients: ExitStack) -> None:
    slot.start(handler="handlers:resume")
    good, bad = (clients.enter_context(slot.connect()) for _n in range(2))
    ask(good)
    bad.send("bad")
    time.sleep(0.1)
    old, new = slot.roll(handler="handlers:resume")
    assert close_of(bad)[0] in (1001, 1011)
    assert old.wait() == 0
    assert ask(good)["pid"] == new.pid


# killed in the middle


@pytest.mark.parametrize("loop", LOOPS)
def test_new_process_that_dies_leaves_the_connections_where_they_were(
    slot: Slot, clients: ExitStack, loop: str
) -> None:
    old = slot.start(loop=loop, drain_rate=1000)
    held = [clients.enter_context(slot.connect()) for _n in range(40)]
    new = slot.start(loop=loop)
    new.signal(signal.SIGSTOP)  # it gets offers, and answers none
    old.signal(signal.SIGTERM)
    time.sleep(0.6)
    for client in held:
        client.send("still here")
    time.sleep(0.2)
    new.signal(signal.SIGKILL)
    for client in held:
        assert client.recv(PATIENCE) == "still here"
        assert close_of(client) == (1001, "server is restarting")
    assert old.wait() == 0
    assert "2 refused (the process that takes over is gone)" in old.log


@pytest.mark.parametrize("loop", LOOPS)
def test_old_process_that_dies_leaves_to_the_new_one_what_it_had_offered(
    slot: Slot, clients: ExitStack, loop: str
) -> None:
    old = slot.start(loop=loop)
    held = [clients.enter_context(slot.connect()) for _n in range(2)]
    new = slot.start(loop=loop)
    new.signal(signal.SIGSTOP)
    old.signal(signal.SIGTERM)
    time.sleep(0.6)
    old.signal(signal.SIGKILL)
    old.wait()
    new.signal(signal.SIGCONT)
    for client in held:
        client.send("still here")
        assert client.recv(PATIENCE) == "still here"


def test_second_signal_closes_what_was_offered(slot: Slot, clients: ExitStack) -> None:
    old = slot.start()
    held = [clients.enter_context(slot.connect()) for _n in range(10)]
    new = slot.start()
    before = descriptors(new)
    new.signal(signal.SIGSTOP)
    old.signal(signal.SIGTERM)
    time.sleep(0.6)
    old.signal(signal.SIGTERM)
    for client in held:
        assert close_of(client) == (1001, "server is restarting")
    assert old.wait() == 0
    new.signal(signal.SIGCONT)
    with slot.connect() as client:
        client.send("hello")
        assert client.recv(PATIENCE) == "hello"
    assert wait_for(lambda: descriptors(new) == before)


def descriptors(process: ServerProcess) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def test_descriptors_do_not_leak(slot: Slot, clients: ExitStack) -> None:
    slot.start()
    for _n in range(5):
        clients.enter_context(slot.connect())
    counts = []
    for _n in range(6):
        old, new = slot.roll()
        assert old.wait() == 0
        slot.figures()
        counts.append(descriptors(new))
    assert len(set(counts)) == 1


def test_figures_that_can_not_be_written_stop_nothing(slot: Slot, clients: ExitStack, tmp_path: Path) -> None:
    old = slot.start()
    client = clients.enter_context(slot.connect())
    slot.start()
    (tmp_path / "g2/ws.sock.json").mkdir()
    old.signal(signal.SIGTERM)
    assert old.wait() == 0
    client.send("still here")
    assert client.recv(PATIENCE) == "still here"


# who may hand over


def test_socket_is_for_the_user_only_and_gone_with_the_process(slot: Slot, tmp_path: Path) -> None:
    process = slot.start()
    path = tmp_path / "g1/ws.sock.handover"
    assert path.stat().st_mode & 0o777 == 0o600
    assert process.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"\xff" * 100_000, b"\0\0\0\2{}", b'\0\0\0\x0f{"kind":"hello"}', b"\0\0\0\4null", pack(OFFER)],
    ids=["short", "long", "empty", "cut", "null", "no socket"],
)
def test_garbage_ends_the_conversation_and_nothing_else(
    slot: Slot, clients: ExitStack, tmp_path: Path, garbage: bytes
) -> None:
    process = slot.start()
    client = clients.enter_context(slot.connect())
    before = descriptors(process)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer, Path(os.devnull).open("rb") as file:
        peer.settimeout(PATIENCE)
        peer.connect(str(tmp_path / "g1/ws.sock.handover"))
        socket.send_fds(peer, [garbage], [file.fileno()])
        assert peer.recv(1) == b""
    client.send("still here")
    assert client.recv(PATIENCE) == "still here"
    assert wait_for(lambda: descriptors(process) == before)
    wait_for(lambda: "says what it can't" in process.log)


def test_a_process_of_another_user_gets_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, since only root could be somebody else."""
    nothing: Any = None
    heard: list[Packet | None] = []

    async def knock() -> None:
        path = str(tmp_path / "s.handover")
        receiver = Receiver(path, Builder(nothing, {}, {}, {}), Resumption(1, frozenset({1})), lambda: False)
        peer = Peer.connect(path)
        with socket.socket(socket.AF_UNIX) as offered:
            await peer.send(OFFER, offered.fileno())
            answer, _descriptors = await asyncio.wait_for(peer.receive(), PATIENCE)
        heard.append(answer)
        receiver.close()
        peer.close()

    asyncio.run(knock())
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    asyncio.run(knock())
    assert heard == [Refused(id="a", why="the handler doesn't know version 0 of the session"), None]


# killed at any moment


async def fate(slot: Slot, count: int, killed: ServerProcess | None, moment: float) -> list[str]:
    """What becomes of clients, each with numbered messages all the while, when a process is killed in a handover."""
    outcomes: list[str] = []
    over = asyncio.Event()

    async def talk() -> None:
        number = 0
        async with connect_async(str(slot.path), "ws://localhost/", ping_interval=None) as client:
            opened.release()
            try:
                while not over.is_set():
                    number += 1
                    await client.send(str(number))
                    echo = await asyncio.wait_for(client.recv(), PATIENCE)
                    assert echo == str(number)
                outcomes.append("alive")
            except ConnectionClosed as error:
                outcomes.append(str(error.rcvd.code if error.rcvd else 1006))

    opened = asyncio.Semaphore(0)
    talking = [asyncio.create_task(talk()) for _n in range(count)]
    for _n in range(count):
        await opened.acquire()
    old, new = await asyncio.to_thread(slot.roll)
    victim = old if killed else new
    await asyncio.sleep(moment)
    victim.signal(signal.SIGKILL)
    await asyncio.sleep(0.5)
    if victim is not old:
        await asyncio.to_thread(old.wait)
    over.set()
    await asyncio.gather(*talking)
    return outcomes


@pytest.mark.parametrize("victim", ["old", "new"])
@pytest.mark.parametrize("moment", [0.2, 0.22, 0.24, 0.26, 0.3])
def test_whoever_is_killed_each_client_is_served_on_or_closed(slot: Slot, victim: str, moment: float) -> None:
    """What the victim held is cut; all else is alive, or closed as announced. Nothing hangs, doubles or gets lost."""
    old = slot.start(drain_seconds=2, drain_rate=1000)
    outcomes = asyncio.run(fate(slot, 60, old if victim == "old" else None, moment))
    assert len(outcomes) == 60
    assert set(outcomes) <= ({"alive", "1006"} if victim == "old" else {"1001", "1006"})
