# SPDX-License-Identifier: Apache-2.0
"""The words between two processes, also those that no process of ours says."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from offers import OFFER
from server_process import command_environment
from wsfleet.packets import (
    KINDS,
    LENGTH,
    LIMIT,
    Back,
    BadPacketError,
    Bye,
    Go,
    Hello,
    Late,
    Offer,
    Packet,
    Peer,
    Ready,
    Refused,
    pack,
    unpack,
)

TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
SESSION = st.dictionaries(TEXT, JSON, max_size=4)
HEADERS = st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=4)
TIME = st.floats(0, 2e9)
PACKETS: st.SearchStrategy[Packet] = st.one_of(
    st.builds(Hello, format=st.integers()),
    st.builds(
        Offer,
        id=TEXT,
        version=st.integers(),
        session=SESSION,
        opened_at=TIME,
        frozen_at=TIME,
        path=TEXT,
        request=HEADERS,
        response=HEADERS,
        subprotocol=TEXT,
        username=TEXT,
        deflate=st.lists(st.integers(0, 15), max_size=4),
        data=st.binary(max_size=100),
    ),
    st.builds(Ready, id=TEXT),
    st.builds(Refused, id=TEXT, why=TEXT),
    st.builds(Late, id=TEXT, opcode=st.integers(), last=st.booleans(), data=st.binary(max_size=100)),
    st.builds(Go, id=TEXT, session=SESSION),
    st.builds(Back, id=TEXT),
    st.builds(Bye, stayed=st.integers()),
)


@given(PACKETS)
def test_packets_arrive_as_they_were_sent(packet: Packet) -> None:
    assert unpack(pack(packet)) == packet


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(BadPacketError):
        unpack(data)


@given(PACKETS, st.data())
def test_a_packet_that_was_cut_is_refused_or_has_less_data(packet: Packet, data: st.DataObject) -> None:
    whole = pack(packet)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        read = unpack(cut)
    except BadPacketError:
        return
    assert type(read) is type(packet)
    assert len(read.data) < len(packet.data)


@given(PACKETS, st.data())
def test_fields_of_another_type_are_refused(packet: Packet, data: st.DataObject) -> None:
    whole = pack(packet)
    (length,) = LENGTH.unpack_from(whole)
    header = json.loads(whole[LENGTH.size :][:length])
    name = data.draw(st.sampled_from(sorted(set(header) - {"kind"})))
    wrong = data.draw(JSON.filter(lambda value: type(value) is not type(header[name])))
    if isinstance(header[name], float) and type(wrong) is int:
        return
    changed = json.dumps(header | {name: wrong}).encode()
    with pytest.raises(BadPacketError):
        unpack(LENGTH.pack(len(changed)) + changed)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"kind": "hello"},
        {"kind": "hello", "format": 1, "more": 1},
        {"kind": "hello", "format": True},
        {"kind": "nobody", "id": ""},
        {"kind": ["hello"]},
        {"kind": "offer"},
        [],
        "hello",
        None,
    ],
)
def test_headers_that_are_none(header: Any) -> None:
    data = json.dumps(header).encode()
    with pytest.raises(BadPacketError):
        unpack(LENGTH.pack(len(data)) + data)


@pytest.mark.parametrize("deflate", [[1], [0, 0, 12, "12"], [[0]], {"a": 1}])
@pytest.mark.parametrize("request_", [[["a"]], [["a", 1]], ["ab"], {}])
def test_lists_of_something_else(deflate: Any, request_: Any) -> None:
    values = {
        "kind": "offer",
        "id": "",
        "version": 0,
        "session": {},
        "opened_at": 0,
        "frozen_at": 0,
        "path": "",
        "request": request_,
        "response": [],
        "subprotocol": "",
        "username": "",
        "deflate": deflate,
    }
    data = json.dumps(values).encode()
    with pytest.raises(BadPacketError):
        unpack(LENGTH.pack(len(data)) + data)


def test_what_json_can_not_hold_or_is_too_long_is_refused_before_it_is_sent() -> None:
    for session in ({"a": object()}, {"a": float("nan")}, {"a": "x" * LIMIT}):
        with pytest.raises((TypeError, ValueError)):
            pack(Go(id="a", session=session))
    with pytest.raises(ValueError, match="are more than"):
        pack(Late(id="a", opcode=1, last=True, data=bytes(LIMIT)))


def test_every_kind_has_its_own_name() -> None:
    assert {kind.kind for kind in KINDS.values()} == set(KINDS)


# on a socket


def pair(conversation: Callable[[Peer, socket.socket], Awaitable[None]]) -> None:
    """Have a conversation between a Peer and a plain socket."""

    async def have() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            theirs.settimeout(5)
            await asyncio.wait_for(conversation(Peer(ours), theirs), 10)

    asyncio.run(have())


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_offer_brings_its_descriptor() -> None:
    async def conversation(peer: Peer, other: socket.socket) -> None:
        read, write = os.pipe()
        socket.send_fds(other, [pack(OFFER)], [write])
        packet, [descriptor] = await peer.receive()
        assert packet == OFFER
        os.write(descriptor, b"through")
        assert os.read(read, 10) == b"through"
        for number in (read, write, descriptor):
            os.close(number)

    pair(conversation)


@pytest.mark.parametrize(
    ("packet", "descriptors"),
    [
        (pack(OFFER), 0),
        (pack(OFFER), 2),
        (pack(OFFER), 5),
        (pack(Ready(id="a")), 1),
        (b"garbage", 1),
        (bytes(LIMIT + 1), 1),
        (bytes(LIMIT + 1), 0),
    ],
)
def test_bad_packets_leave_no_descriptor_open(packet: bytes, descriptors: int) -> None:
    async def conversation(peer: Peer, other: socket.socket) -> None:
        with Path(os.devnull).open("rb") as file:
            before = count_descriptors()
            socket.send_fds(other, [packet], [file.fileno()] * descriptors)
            with pytest.raises(BadPacketError):
                await peer.receive()
            assert count_descriptors() == before

    pair(conversation)


def test_end_of_the_other_side() -> None:
    async def conversation(peer: Peer, other: socket.socket) -> None:
        waiting = asyncio.create_task(peer.receive())
        await asyncio.sleep(0.05)
        other.close()
        assert await waiting == (None, [])
        with pytest.raises(OSError, match="Broken pipe"):
            await peer.send(Bye(stayed=0))

    pair(conversation)


def test_sending_waits_for_room_and_keeps_the_order() -> None:
    async def conversation(peer: Peer, other: socket.socket) -> None:
        sends = asyncio.gather(
            *(peer.send(Late(id=str(n), opcode=1, last=True, data=bytes(60_000))) for n in range(20))
        )
        await asyncio.sleep(0.05)
        assert not sends.done()
        names = set()
        for _n in range(20):
            packet = unpack(await asyncio.to_thread(other.recv, LIMIT))
            assert isinstance(packet, Late)
            names.add(packet.id)
        await sends
        assert names == {str(n) for n in range(20)}

    pair(conversation)


def test_a_process_of_another_user_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation(peer: Peer, _other: socket.socket) -> None:
        assert peer.is_of_this_user
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert not peer.is_of_this_user

    pair(conversation)


CLOSED_WHILE_IT_WAITS = """
import asyncio, socket, sys
from wsfleet.packets import Peer

async def main():
    loop = asyncio.get_running_loop()
    for wait in (Peer.receive, Peer.have_room):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        while wait is Peer.have_room:
            try:
                ours.send(bytes(10_000), socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
        peer, descriptor = Peer(ours), ours.fileno()
        waiting = asyncio.create_task(wait(peer))
        await asyncio.sleep(0)  # it has just begun to wait
        peer.close()
        waiting.cancel()
        heard = asyncio.Event()
        fresh, other = socket.socketpair()
        assert fresh.fileno() == descriptor
        loop.add_reader(fresh, heard.set)
        await asyncio.sleep(0.01)
        other.send(b"x")
        await asyncio.wait_for(heard.wait(), 5)
        loop.remove_reader(fresh)
        for sock in (theirs, fresh, other):
            sock.close()

LOOP(main())
"""


@pytest.mark.parametrize("loop", ["asyncio.run", "__import__('uvloop').run"])
def test_peer_may_be_closed_while_somebody_waits_for_it(loop: str) -> None:
    script = CLOSED_WHILE_IT_WAITS.replace("LOOP", loop)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=command_environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
