# SPDX-License-Identifier: Apache-2.0
"""All that reaches into the library beyond what it documents; test_internals.py holds what is relied on here.

An open connection is more than its socket: the parser may be inside a frame, a message may wait for the handler,
the window that the next compressed message refers to is inside zlib. A connection that is quiet has none of this
but the window, which is kept here.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import TYPE_CHECKING, Any, cast

import websockets.version
from websockets.asyncio.messages import Assembler
from websockets.asyncio.server import Server
from websockets.exceptions import ConnectionClosedOK
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Data, ExtensionParameter

if TYPE_CHECKING:
    from .connection import Connection

VERSION = websockets.version.version
CONTROL = int(Opcode.CLOSE)  # the least opcode of what isn't a message; a bare number compares faster
KNOWN = ("17.4",)  # versions of the library for which the tests here were run


def known() -> bool:
    """Whether connections may be moved with this version of the library."""
    return VERSION in KNOWN


SHORT_CUT = known()


class Deflate(PerMessageDeflate):
    """Permessage-deflate that keeps the end of what it has inflated: what the client's next message may refer to."""

    window = b""

    @classmethod
    def of(cls, other: PerMessageDeflate) -> Deflate:
        """The same, with nothing inflated or deflated yet."""
        return cls(
            other.remote_no_context_takeover,
            other.local_no_context_takeover,
            other.remote_max_window_bits,
            other.local_max_window_bits,
            other.compress_settings,
        )

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Inflate a frame."""
        decoded = super().decode(frame, max_size=max_size)
        if decoded is not frame and not self.remote_no_context_takeover:  # it is, if it wasn't compressed
            size = 1 << self.remote_max_window_bits
            self.window = (self.window + bytes(decoded.data[-size:]))[-size:]
        return decoded

    def prime(self, window: bytes) -> None:
        """Go on inflating where another one stopped that has kept `window`. Deflating needs no such thing."""
        if not self.remote_no_context_takeover:
            self.window = window
            self.decoder = zlib.decompressobj(wbits=-self.remote_max_window_bits, zdict=window)


class DeflateFactory(ServerPerMessageDeflateFactory):
    """Negotiates Deflate."""

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Negotiate as the library does."""
        answer, extension = super().process_request_params(params, accepted_extensions)
        return answer, Deflate.of(extension)


def finish_handshakes(server: Server) -> None:
    """Have handshakes that are under way end well though the server has stopped listening; it would refuse them."""
    vars(server)["is_serving"] = lambda: True


def refuse_handshakes(server: Server) -> None:
    """Undo `finish_handshakes`."""
    vars(server).pop("is_serving", None)


def handshakes(servers: Iterable[Server], served: int) -> int:
    """How many handshakes are under way, beside so many connections that are served."""
    return sum(len(server.handler_tasks) for server in servers) - served


def is_quiet(connection: Connection) -> bool:
    """Whether nothing of the connection is under way in this process, and its handler waits for the client."""
    protocol, messages = connection.protocol, connection.recv_messages
    return (
        protocol.state is State.OPEN
        and not connection.transport.is_closing()
        and connection.transport.get_write_buffer_size() == 0
        and _at_frame_boundary(protocol)
        and protocol.current_size is None  # no message in fragments, neither from the client
        and not protocol.expect_continuation_frame  # nor to it
        and connection.send_in_progress is None
        and not connection.pending_pings
        and not messages.frames
        and handler_waits(connection)
    )


def handler_waits(connection: Connection) -> bool:
    """Whether the handler has nothing to do but to wait for the client, or for the connection's end."""
    waiter = connection.recv_messages.frames.get_waiter
    return connection.waits or (waiter is not None and not waiter.done())


def _at_frame_boundary(protocol: ServerProtocol) -> bool:
    """Whether the parser has consumed all it got, and no part of a frame."""
    generator: Any = protocol.parser
    while isinstance(generator.gi_yieldfrom, GeneratorType):
        generator = generator.gi_yieldfrom
    return bool(generator.gi_code.co_name == "at_eof") and not protocol.reader.buffer


def freeze(connection: Connection) -> list[Frame]:
    """Stop reading and writing; returns where frames go meanwhile that the handler or a broadcast sends."""
    held: list[Frame] = []
    connection.transport.pause_reading()
    vars(connection.protocol)["send_frame"] = held.append
    if connection.keepalive_task is not None:
        connection.keepalive_task.cancel()
    return held


def thaw(connection: Connection, held: list[Frame]) -> None:
    """Undo `freeze`."""
    del vars(connection.protocol)["send_frame"]
    for frame in held:
        connection.protocol.send_frame(frame)
    connection.send_data()
    connection.start_keepalive()
    connection.transport.resume_reading()


def send_frames(connection: Connection, frames: list[Frame]) -> None:
    """Send frames of whole messages; a close as the closing handshake's beginning."""
    for frame in frames:
        if frame.opcode is Opcode.CLOSE:
            close = Close.parse(frame.data)
            connection.protocol.send_close(close.code, close.reason)
        else:
            connection.protocol.send_frame(frame)
    connection.send_data()


def let_go(connection: Connection) -> None:
    """Have the connection be closed for this process, without a word on the wire; `abort` follows."""
    connection.protocol.state = State.CLOSED  # a broadcast leaves it out
    connection.close_deadline = connection.loop.time()  # whoever sends gets ConnectionClosed at once


@dataclass(slots=True)
class Traffic:
    """Messages of all connections."""

    received: int = 0
    sent: int = 0


def send_at_once(connection: Connection, message: object, text: bool | None) -> bool:
    """Send a message in one frame, if the library would do the same at once; return whether it is sent.

    The library makes a context manager of a generator for each message, which costs more than what it is for.
    Whatever isn't the usual case is left to it.
    """
    protocol, transport = connection.protocol, connection.transport
    if (
        not SHORT_CUT
        or text is not None
        or connection.paused
        or connection.send_in_progress is not None
        or protocol.state is not State.OPEN
        or transport.is_closing()
    ):
        return False
    if isinstance(message, bytes):
        protocol.send_binary(message)
    elif isinstance(message, str):
        try:
            data = message.encode()
        except UnicodeEncodeError:
            return False
        protocol.send_text(data)
    else:
        return False
    connection.send_data()
    return True


def receive_at_once(connection: Connection, data: bytes) -> bool:
    """Take in what has come; return whether that was all.

    Otherwise there is something to answer, and the library goes on, for which it needs no more than to be called
    without data.
    """
    protocol = connection.protocol
    protocol.receive_data(data)
    if not SHORT_CUT or protocol.writes:
        return False
    for event in protocol.events_received():
        connection.process_event(event)
    return True


async def iterate(connection: Connection) -> AsyncIterator[Data]:
    """Yield messages as the library does, which has three coroutines for each of them.

    Whatever isn't a message in one frame is left to it, and so is the connection's end.
    """
    messages = connection.recv_messages
    frames = messages.frames
    try:
        while True:
            if not (messages.get_in_progress or messages.closed or frames.queue):
                messages.get_in_progress = True
                frames.get_waiter = frames.loop.create_future()
                try:
                    await frames.get_waiter
                except EOFError:
                    pass  # recv() knows why
                finally:
                    frames.get_waiter = None
                    messages.get_in_progress = False
            message = _take(messages)
            yield await connection.recv() if message is None else message
    except ConnectionClosedOK:
        return


def _take(messages: Assembler) -> Data | None:
    """The next message if it is there and in one frame."""
    queue = messages.frames.queue
    if messages.get_in_progress or not queue or not queue[0].fin:
        return None
    data = bytes(queue[0].data)
    try:
        message = data.decode() if queue[0].opcode is Opcode.TEXT else data
    except UnicodeDecodeError:
        return None  # recv() closes the connection for it
    queue.popleft()
    messages.maybe_resume()
    return message


class Counting(ServerProtocol):
    """Counts the messages that are sent where they pass, broadcasts too; a look at each frame is all that it costs."""

    traffic: Traffic

    def send_frame(self, frame: Frame) -> None:
        """Send a frame."""
        if frame.fin and frame.opcode < CONTROL:
            self.traffic.sent += 1
        super().send_frame(frame)


def count_sent(protocol: ServerProtocol, traffic: Traffic) -> None:
    """Have what a protocol sends counted there. It is the library that makes protocols, of its own class only."""
    protocol.__class__ = Counting
    cast("Counting", protocol).traffic = traffic


def message_frame(event: object) -> Frame | None:
    """The event if it is a frame of a message."""
    return event if isinstance(event, Frame) and event.opcode < CONTROL else None


def open_protocol(extensions: list[Extension], **options: Any) -> ServerProtocol:
    """The protocol of a connection that is open already."""
    protocol = ServerProtocol(state=State.OPEN, **options)
    protocol.extensions = extensions
    return protocol
