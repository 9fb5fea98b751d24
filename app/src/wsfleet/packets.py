# SPDX-License-Identifier: Apache-2.0
"""What two processes say to each other when connections move between them: packets on a unix socket.

A packet is the length of its header in four bytes, the header in JSON, and data. An offer comes with the
connection's descriptor.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from array import array
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

FORMAT = 1
LIMIT = 128 * 1024  # bytes of a packet; Linux's default for a socket's buffer is 208 KiB
LENGTH = struct.Struct("!I")
CREDENTIALS = struct.Struct("3i")


class BadPacketError(ValueError):
    """Something that no process of ours sends."""


@dataclass(frozen=True, kw_only=True)
class Packet:
    """The header's fields, checked by their types when it is read, and the data."""

    kind: ClassVar[str]
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, kw_only=True)
class Hello(Packet):
    """The first packet."""

    kind = "hello"
    format: int


@dataclass(frozen=True, kw_only=True)
class Offer(Packet):
    """An open connection, frozen for the time being; the data is the end of what was inflated."""

    kind = "offer"
    id: str
    version: int  # of the session
    session: dict[str, Any]
    opened_at: float  # seconds since the epoch
    frozen_at: float  # seconds of the monotonic clock, which all processes share
    path: str
    request: list[list[str]]  # headers
    response: list[list[str]]
    subprotocol: str
    username: str
    deflate: list[int]  # remote and local no_context_takeover, remote and local max_window_bits; or empty


@dataclass(frozen=True, kw_only=True)
class Ready(Packet):
    """The answer to an offer: all is ready to go on with the connection."""

    kind = "ready"
    id: str


@dataclass(frozen=True, kw_only=True)
class Refused(Packet):
    """The other answer: it stays where it was."""

    kind = "refused"
    id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Late(Packet):
    """A message, or a part of one, that was sent to the client since the offer."""

    kind = "late"
    id: str
    opcode: int
    last: bool


@dataclass(frozen=True, kw_only=True)
class Go(Packet):
    """From now on the connection is the receiver's, with the session as it is now."""

    kind = "go"
    id: str
    session: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Back(Packet):
    """The offer is withdrawn: the connection goes on where it was."""

    kind = "back"
    id: str


@dataclass(frozen=True, kw_only=True)
class Bye(Packet):
    """The last packet: how many connections the sender keeps, to close them. What was offered only, is its own."""

    kind = "bye"
    stayed: int


KINDS: dict[str, type[Packet]] = {
    kind.kind: kind for kind in (Hello, Offer, Ready, Refused, Late, Go, Back, Bye)
}
HEADERS = {
    name: {header: type_ for header, type_ in get_type_hints(kind).items() if header not in ("kind", "data")}
    for name, kind in KINDS.items()
}


def pack(packet: Packet) -> bytes:
    """The packet as bytes; TypeError or ValueError if JSON can't hold it or it is too long."""
    values = {name: getattr(packet, name) for name in HEADERS[packet.kind]}
    header = json.dumps({"kind": packet.kind, **values}, separators=(",", ":"), allow_nan=False).encode()
    if LENGTH.size + len(header) + len(packet.data) > LIMIT:
        raise ValueError(f"{len(header) + len(packet.data)} bytes are more than {LIMIT}")
    return LENGTH.pack(len(header)) + header + packet.data


def unpack(packet: bytes) -> Packet:
    """The opposite; BadPacketError for anything that pack() doesn't make."""
    try:
        (length,) = LENGTH.unpack_from(packet)
        header = packet[LENGTH.size :][:length]
        if len(header) < length:
            raise BadPacketError("a packet ends too early")
        values = json.loads(header)
        kind = KINDS[values.pop("kind")]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadPacketError(f"no packet ({error})") from None
    _check(kind, values)
    return kind(**values, data=packet[LENGTH.size + length :])


def _check(kind: type[Packet], values: dict[str, Any]) -> None:
    types = HEADERS[kind.kind]
    if set(values) != set(types):
        raise BadPacketError(f"the fields of {kind.kind} are wrong")
    for name, value in values.items():
        if not _fits(value, types[name]):
            raise BadPacketError(f"{name} of {kind.kind} is of the wrong type")


def _fits(value: Any, wanted: Any) -> bool:
    if wanted == list[list[str]]:
        return isinstance(value, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
            for pair in value
        )
    if wanted == list[int]:
        return isinstance(value, list) and all(_fits(item, int) for item in value)
    if wanted == dict[str, Any]:
        return isinstance(value, dict)
    if isinstance(value, bool):  # Python's are numbers, too
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)


class Peer:
    """A connected SOCK_SEQPACKET socket, on the running loop."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()

    @classmethod
    def connect(cls, path: str) -> Peer:
        """Connect to a listening socket; OSError if that's impossible."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            sock.connect(path)  # to a unix socket, at once or not at all
            return cls(sock)
        except BaseException:
            sock.close()
            raise

    @property
    def is_of_this_user(self) -> bool:
        """Whether the process at the other end belongs to the same user."""
        size = CREDENTIALS.size
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        _pid, uid, _gid = CREDENTIALS.unpack(credentials)
        return bool(uid == os.geteuid())

    def send_now(self, packet: Packet, *descriptors: int) -> bool:
        """Send if there is room; OSError if the other side is gone, TypeError or ValueError as pack()."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg([pack(packet)], rights)
        except BlockingIOError:
            return False
        return True

    async def have_room(self) -> None:
        """Wait until something may be sent."""
        async with self._sending:  # a loop tells only one of it
            await self._ready(self._loop.add_writer, self._loop.remove_writer)

    async def send(self, packet: Packet, *descriptors: int) -> None:
        """Wait until there is room, and send."""
        while not self.send_now(packet, *descriptors):
            await self.have_room()

    async def receive(self) -> tuple[Packet | None, list[int]]:
        """Wait for a packet and its descriptors; None when the other side is gone. BadPacketError closes those."""
        rights = socket.CMSG_SPACE(2 * array("i").itemsize)
        while True:
            try:
                data, ancillary, flags, _address = self._socket.recvmsg(
                    LIMIT, rights, socket.MSG_CMSG_CLOEXEC
                )
                break
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            except ConnectionError:
                return None, []
        descriptors = array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise BadPacketError("a packet is too long")
            packet = unpack(data) if data else None
            if len(descriptors) != isinstance(packet, Offer):
                raise BadPacketError(f"a packet comes with {len(descriptors)} descriptors")
        except BadPacketError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        return packet, list(descriptors)

    async def _ready(self, add: Any, remove: Any) -> None:
        """Wait until the socket can be read or written."""
        ready = asyncio.Event()
        descriptor = self._socket.fileno()
        add(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            if self._socket.fileno() == descriptor:  # otherwise it may be somebody else's by now
                remove(descriptor)

    def close(self) -> None:
        """Close the socket, of which the loop mustn't know any more: uvloop ends the process for one that is closed."""
        descriptor = self._socket.fileno()
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
            self._socket.close()
