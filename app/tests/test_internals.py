# SPDX-License-Identifier: Apache-2.0
"""What wsfleet.internals relies on in the library. Where a test fails, connections mustn't move with that version."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.asyncio.connection import Connection as LibraryConnection
from websockets.asyncio.server import ServerConnection, broadcast, unix_serve
from websockets.exceptions import ConcurrencyError, ConnectionClosed, ConnectionClosedError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import DataLike
from wsfleet import Connection, echo, internals
from wsfleet.config import Settings
from wsfleet.metrics import Metrics
from wsfleet.server import open_handover

Play = Callable[[Connection, ClientConnection], Awaitable[None]]


async def echoes(connection: Connection) -> None:
    async for message in connection:
        if message == "think":
            await asyncio.sleep(0.2)
        await connection.send(message)


async def leaves_it_to_the_test(connection: Connection) -> None:
    await connection.wait_closed()


@asynccontextmanager
async def connected(
    folder: Path, handle: Callable[[Connection], Awaitable[None]]
) -> AsyncIterator[tuple[Connection, ClientConnection]]:
    """A connection and its client."""
    opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        assert isinstance(connection, Connection)
        opened.set_result(connection)
        await handle(connection)

    path = str(folder / "s")
    factory = internals.DeflateFactory(server_max_window_bits=12, client_max_window_bits=12)
    server = unix_serve(
        handler,
        path,
        create_connection=partial(Connection, metrics=Metrics()),
        compression=None,
        extensions=[factory],
        ping_interval=None,
    )
    async with server, unix_connect(path, "ws://localhost/", ping_interval=None) as client:
        connection = await opened
        await asyncio.sleep(0)  # the handler gets to wait
        yield connection, client


def play(folder: Path, scene: Play, handle: Callable[[Connection], Awaitable[None]] = echoes) -> None:
    async def run() -> None:
        async with asyncio.timeout(10), connected(folder, handle) as (connection, client):
            await scene(connection, client)

    asyncio.run(run())


async def closed_with(client: ClientConnection) -> int:
    """The code that the server closes with."""
    with pytest.raises(ConnectionClosedError) as raised:
        await client.recv()
    assert raised.value.rcvd
    return raised.value.rcvd.code


async def becomes_quiet(connection: Connection) -> None:
    async with asyncio.timeout(5):
        while not internals.is_quiet(connection):
            await asyncio.sleep(0.001)


def test_the_installed_version_is_known() -> None:
    assert internals.known()
    assert websockets.version.version in internals.KNOWN


def test_connection_is_quiet_at_first_and_between_messages(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        assert internals.is_quiet(connection)
        for message in ("text", b"binary", "", "x" * 100_000):
            await client.send(message)
            assert await client.recv() == message
            await becomes_quiet(connection)

    play(tmp_path, scene)


@pytest.mark.parametrize("size", [1, 3, 6, 100])
def test_part_of_a_frame_makes_it_unquiet(tmp_path: Path, size: int) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        frame = Frame(Opcode.TEXT, b"x" * 300).serialize(mask=True, extensions=[])
        connection.data_received(frame[:size])
        assert not internals.is_quiet(connection)
        connection.data_received(frame[size:])
        assert await client.recv() == "x" * 300
        await becomes_quiet(connection)

    play(tmp_path, scene)


def test_part_of_a_message_makes_it_unquiet(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        connection.data_received(Frame(Opcode.TEXT, b"a", fin=False).serialize(mask=True, extensions=[]))
        await asyncio.sleep(0.01)
        assert not internals.is_quiet(connection)
        connection.data_received(Frame(Opcode.CONT, b"b").serialize(mask=True, extensions=[]))
        assert await client.recv() == "ab"
        await becomes_quiet(connection)

    play(tmp_path, scene)


def test_handler_that_does_something_else_makes_it_unquiet(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        await client.send("think")
        await asyncio.sleep(0.05)
        assert not internals.is_quiet(connection)
        await client.send("more")
        assert [await client.recv(), await client.recv()] == ["think", "more"]
        await becomes_quiet(connection)

    play(tmp_path, scene)


def test_message_to_the_client_that_is_in_parts_makes_it_unquiet(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            await asyncio.sleep(0.05)
            assert not internals.is_quiet(connection)
            yield "b"

        await connection.send(parts())
        assert await client.recv() == "ab"
        await becomes_quiet(connection)

    play(tmp_path, scene)


def test_ping_without_its_pong_makes_it_unquiet(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        client.transport.pause_reading()
        pong = await connection.ping()
        assert not internals.is_quiet(connection)
        client.transport.resume_reading()
        await pong
        await becomes_quiet(connection)

    play(tmp_path, scene)


def test_client_that_does_not_read_makes_it_unquiet(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        client.transport.pause_reading()
        broadcast([connection], os.urandom(900_000))
        assert not internals.is_quiet(connection)
        client.transport.resume_reading()
        assert len(await client.recv()) == 900_000
        await becomes_quiet(connection)

    play(tmp_path, scene)


def test_closing_makes_it_unquiet(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        closing = asyncio.create_task(client.close())
        while connection.state is State.OPEN:
            await asyncio.sleep(0)
        assert not internals.is_quiet(connection)
        await closing

    play(tmp_path, scene)


def test_frozen_connection_reads_and_writes_nothing_until_it_thaws(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        held = internals.freeze(connection)
        await client.send("one")
        await connection.send("by the handler")
        broadcast([connection], "by broadcast")
        await connection.ping()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.recv(), 0.1)
        assert [frame.opcode for frame in held] == [Opcode.TEXT, Opcode.TEXT, Opcode.PING]
        internals.thaw(connection, held)
        assert [await client.recv() for _n in range(3)] == ["by the handler", "by broadcast", "one"]

    play(tmp_path, scene)


def test_whoever_uses_a_connection_that_was_let_go_is_told_that_it_is_closed(tmp_path: Path) -> None:
    async def scene(connection: Connection, _client: ClientConnection) -> None:
        internals.freeze(connection)
        internals.let_go(connection)
        broadcast([connection], "left out")
        async with asyncio.timeout(1):
            with pytest.raises(ConnectionClosed):
                await connection.send("too late")
            await connection.close()
        assert connection.transport.get_write_buffer_size() == 0

    play(tmp_path, scene)


def test_keepalive_pings_go_on_after_a_thaw(tmp_path: Path) -> None:
    async def scene(connection: Connection, _client: ClientConnection) -> None:
        connection.ping_interval = 0.01
        connection.start_keepalive()
        internals.thaw(connection, internals.freeze(connection))
        async with asyncio.timeout(5):
            while not connection.latency:
                await asyncio.sleep(0.01)

    play(tmp_path, scene)


def deflated(bits: int) -> Callable[[bytes], Frame]:
    """What a client makes of messages, one after the other."""
    client = PerMessageDeflate(False, False, bits, max(bits, 9))

    def frame(data: bytes) -> Frame:
        return client.encode(Frame(Opcode.BINARY, data))

    return frame


@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize("size", [0, 1, 600, 70_000])
def test_inflating_goes_on_from_the_window(bits: int, size: int) -> None:
    frame = deflated(bits)
    text = bytes(range(200)) * 400
    messages = [text[:size], text[5:400], b"", text[:size] + b"!", text[3:300]]
    extension = internals.Deflate(False, False, bits, 9)
    for message in messages:
        assert bytes(extension.decode(frame(message)).data) == message
        assert len(extension.window) <= 1 << bits
        successor = internals.Deflate(False, False, bits, 9)
        successor.prime(extension.window)
        extension = successor


def test_what_was_not_deflated_is_not_in_the_window() -> None:
    extension = internals.Deflate(False, False, 12, 12)
    for opcode in (Opcode.TEXT, Opcode.PING, Opcode.CLOSE):
        extension.decode(Frame(opcode, b"plain"))
    assert extension.window == b""


def test_fresh_windows_are_not_kept() -> None:
    extension = internals.Deflate(True, False, 12, 12)
    frame = PerMessageDeflate(False, True, 12, 12).encode(Frame(Opcode.TEXT, b"once"))
    assert bytes(extension.decode(frame).data) == b"once"
    assert extension.window == b""


def test_what_a_fresh_deflater_says_any_inflater_understands() -> None:
    inflater = zlib.decompressobj(wbits=-12)
    for message in (b"one" * 50, b"two" * 50):
        deflater = internals.Deflate(False, False, 12, 12)
        data = bytes(deflater.encode(Frame(Opcode.TEXT, message)).data) + b"\0\0\xff\xff"
        assert inflater.decompress(data) == message


def test_connections_are_not_moved_with_a_version_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(internals, "VERSION", "99.0")
    settings = Settings(unix_socket="a.sock", slot="b.sock", handover=True)
    nothing: Any = None
    assert open_handover(settings, echo.handler, nothing, nothing, nothing) is None
    assert "connections will be closed, not moved: websockets 99.0 isn't one of 17.4" in caplog.text


def test_messages_are_counted_where_they_pass_in_both_directions(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        traffic = connection._metrics.traffic
        await client.send(["in ", "two ", "fragments"])
        await client.recv()
        await client.send(b"whole")
        await client.recv()
        await (await client.ping())  # the pong is no message
        assert (traffic.received, traffic.sent) == (2, 2)
        broadcast([connection], "to all")
        await connection.send(["in ", "two"])
        await client.close()
        assert (traffic.received, traffic.sent) == (2, 4)

    play(tmp_path, scene)


# receiving


def test_messages_come_as_they_were_sent(tmp_path: Path) -> None:
    async def scene(_connection: Connection, client: ClientConnection) -> None:
        for message in ("text é", b"bytes", ["in ", "two"], [b"in ", b"three ", b"parts"]):
            await client.send(message)
        assert [await client.recv() for _n in range(4)] == ["text é", b"bytes", "in two", b"in three parts"]
        numbers = [str(number) for number in range(200)]
        client.protocol.send_text(b"first")
        for number in numbers:  # at once
            client.protocol.send_text(number.encode())
        client.send_data()
        assert [await client.recv() for _n in range(201)] == ["first", *numbers]

    play(tmp_path, scene)


@pytest.mark.parametrize("short_cut", [True, False])
def test_what_comes_with_messages_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_cut: bool
) -> None:
    monkeypatch.setattr(internals, "SHORT_CUT", short_cut)

    async def scene(connection: Connection, client: ClientConnection) -> None:
        frames = [Frame(Opcode.TEXT, b"one"), Frame(Opcode.PING, b"?"), Frame(Opcode.TEXT, b"two")]
        pong = asyncio.get_running_loop().create_future()
        client.pending_pings[b"?"] = (pong, 0.0)
        connection.data_received(b"".join(frame.serialize(mask=True) for frame in frames))
        await pong
        assert [await client.recv(), await client.recv()] == ["one", "two"]
        broken = Frame(Opcode.CONT, b"of nothing").serialize(mask=True)
        connection.data_received(broken)
        assert await closed_with(client) == 1002

    play(tmp_path, scene)


def test_text_that_is_not_utf8_ends_the_connection(tmp_path: Path) -> None:
    async def scene(_connection: Connection, client: ClientConnection) -> None:
        client.protocol.send_text(b"\xff")
        client.send_data()
        assert await closed_with(client) == 1007

    play(tmp_path, scene)


def test_one_at_a_time_may_receive(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        for second in (connection.recv, aiter(connection).__anext__):
            with pytest.raises(ConcurrencyError):
                await second()
        await client.send("the handler")
        assert await client.recv() == "the handler"

    play(tmp_path, scene)


def test_nobody_takes_what_comes_for_who_has_begun_a_message(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        client.protocol.send_text(b"in ", fin=False)
        client.send_data()
        streaming = connection.recv_streaming()
        assert await anext(streaming) == "in "
        client.protocol.send_continuation(b"two", fin=True)
        client.send_data()
        await asyncio.sleep(0.05)
        with pytest.raises(ConcurrencyError):
            await anext(aiter(connection))
        assert [part async for part in streaming] == ["two"]

    play(tmp_path, scene, leaves_it_to_the_test)


@pytest.mark.parametrize("there", [True, False])
def test_message_is_not_lost_with_who_waited_for_it(tmp_path: Path, there: bool) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        waiting = asyncio.ensure_future(anext(aiter(connection)))
        await asyncio.sleep(0.01)
        if there:
            connection.data_received(Frame(Opcode.TEXT, b"kept").serialize(mask=True))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if not there:
            await client.send("kept")
        assert await connection.recv() == "kept"
        await client.send("more")
        assert await anext(aiter(connection)) == "more"

    play(tmp_path, scene, leaves_it_to_the_test)


def test_messages_end_with_the_connection(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        for message in ("one", "two"):
            await client.send(message)
        closing = asyncio.create_task(client.close())
        assert [message async for message in connection] == ["one", "two"]
        assert [message async for message in connection] == []
        await closing

    play(tmp_path, scene, leaves_it_to_the_test)


@pytest.mark.parametrize("waits", [True, False])
def test_messages_end_with_an_error_where_the_connection_is_cut(tmp_path: Path, waits: bool) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        async def read() -> list[Any]:
            return [message async for message in connection]

        if waits:
            reading = asyncio.create_task(read())
            await asyncio.sleep(0.01)
            client.transport.abort()
        else:
            client.transport.abort()
            await connection.wait_closed()
            reading = asyncio.create_task(read())
        with pytest.raises(ConnectionClosedError):
            await reading

    play(tmp_path, scene, leaves_it_to_the_test)


def test_reading_pauses_while_nobody_takes_messages_and_goes_on(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        sending = asyncio.create_task(client.send(b"first"))
        for _n in range(100):
            await client.send(b"more")
        while not connection.recv_messages.paused:
            await asyncio.sleep(0.01)
        for _n in range(100):
            await client.send(b"late")
        messages = aiter(connection)
        assert [await anext(messages) for _n in range(201)].count(b"late") == 100
        await sending

    play(tmp_path, scene, leaves_it_to_the_test)


def test_with_a_version_that_is_not_known_the_library_iterates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "SHORT_CUT", False)

    async def scene(connection: Connection, client: ClientConnection) -> None:
        iterator: Any = aiter(connection)
        assert iterator.ag_code is LibraryConnection.__aiter__.__code__
        await client.send("yes")
        assert await client.recv() == "yes"

    play(tmp_path, scene)


# sending


@pytest.mark.parametrize("message", ["text é", b"bytes", bytearray(b"more"), memoryview(b"of it")])
@pytest.mark.parametrize("text", [None, True, False])
def test_message_is_what_the_library_makes_of_it(
    tmp_path: Path, message: DataLike, text: bool | None
) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        await connection.send(message, text=text)
        await ServerConnection.send(connection, message, text=text)
        assert await client.recv() == await client.recv()

    play(tmp_path, scene)


def test_message_waits_for_the_end_of_one_in_fragments(tmp_path: Path) -> None:
    async def fragments() -> AsyncIterator[str]:
        yield "one"
        await asyncio.sleep(0.1)
        yield "two"

    async def scene(connection: Connection, client: ClientConnection) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.send(fragments()))
            await asyncio.sleep(0)
            tasks.create_task(connection.send("three"))
        assert [await client.recv(), await client.recv()] == ["onetwo", "three"]

    play(tmp_path, scene)


def test_who_sends_waits_for_a_client_that_does_not_read_until_it_goes(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        client.transport.pause_reading()

        async def send() -> None:
            for _n in range(1000):
                await connection.send(os.urandom(2**16))

        sending = asyncio.create_task(send())
        done, _waiting = await asyncio.wait([sending], timeout=0.5)
        client.transport.abort()  # first, for a client that doesn't read can't close either
        assert not done
        with pytest.raises(ConnectionClosed):
            await sending

    play(tmp_path, scene)


def test_nothing_is_sent_on_a_connection_that_closes(tmp_path: Path) -> None:
    async def scene(connection: Connection, client: ClientConnection) -> None:
        await client.close()
        with pytest.raises(ConnectionClosed):
            await connection.send("late")

    play(tmp_path, scene)


def test_text_that_is_not_unicode_ends_the_connection_as_in_the_library(tmp_path: Path) -> None:
    async def scene(connection: Connection, _client: ClientConnection) -> None:
        with pytest.raises(ConnectionClosed) as raised:
            await connection.send("\ud800")
        assert isinstance(raised.value.__cause__, UnicodeEncodeError)

    play(tmp_path, scene)


def test_with_a_version_that_is_not_known_the_library_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "SHORT_CUT", False)

    async def scene(connection: Connection, client: ClientConnection) -> None:
        assert not internals.send_at_once(connection, "no", None)
        await connection.send("yes")
        assert await client.recv() == "yes"

    play(tmp_path, scene)
