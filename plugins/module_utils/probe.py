# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One WebSocket client check: connect, TLS, handshake, echo, close; what ws_probe runs.

It drives the Sans-I/O client of websockets itself rather than `websockets.sync.client`, because it wants what
that hides: the time of each step, the certificate and the status of a refused handshake, and redirects and
proxies left alone.
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
import socket
import ssl
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

try:
    from websockets.client import ClientProtocol
    from websockets.exceptions import InvalidURI
    from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
    from websockets.frames import Opcode
    from websockets.http11 import Response
    from websockets.protocol import State
    from websockets.uri import parse_uri

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

DEFAULT_SIZE = 64  # bytes of each random message


class ProbeError(Exception):
    """What the server did is not what was expected; the text is one sentence."""


def tls_context(ca_file: str | None, validate_certs: bool) -> ssl.SSLContext:
    """Return a client's context as the modules' options of these names ask for; ValueError says what is wrong."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise ValueError(
            f"ca_file is {ca_file!r}: allowed is a readable file of PEM certificates, got {exc}."
        ) from exc
    if not validate_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Connection:
    """A WebSocket client on a connected socket; `deadline` is on the clock of time.monotonic().

    All methods raise TimeoutError after the deadline. That the server cut the connection is no error here: it
    shows as the end of what can be received.
    """

    def __init__(self, sock: socket.socket, protocol: ClientProtocol, deadline: float) -> None:
        self.sock = sock
        self.protocol = protocol
        self.deadline = deadline
        self.events: list[Any] = []
        self.ended = False

    def flush(self) -> None:
        """Send what the protocol has to send."""
        self.sock.settimeout(remaining(self.deadline))
        for data in self.protocol.data_to_send():
            try:
                self.sock.sendall(data)
            except TimeoutError:
                raise
            except OSError:
                break  # there may still be a close frame to read, so reading reports the end

    def receive(self) -> Any:
        """Return the next event, the handshake's Response first, then Frames; None at the end."""
        while not self.events and not self.ended:
            self.sock.settimeout(remaining(self.deadline))
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                raise
            except OSError:
                data = b""
            if data:
                self.protocol.receive_data(data)
            else:
                self.protocol.receive_eof()
            self.events = self.protocol.events_received()
            self.ended = not data or (not self.events and self.protocol.handshake_exc is not None)
            self.flush()
        return self.events.pop(0) if self.events else None

    def message(self) -> str | bytes | None:
        """Return the next message; None when the connection is closed or cut."""
        opcode, fragments = None, []
        while (frame := self.receive()) is not None and frame.opcode is not Opcode.CLOSE:
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                opcode = frame.opcode
            elif frame.opcode is not Opcode.CONT:
                continue  # a ping, which the protocol has answered
            fragments.append(bytes(frame.data))
            if frame.fin:
                data = b"".join(fragments)
                return data.decode(errors="replace") if opcode is Opcode.TEXT else data
        return None


class Probe:
    """One check. `options` are the module's parameters; `result` is what it returns, filled as it goes."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.deadline = time.monotonic() + options["timeout"]
        try:
            self.uri = parse_uri(options["url"])
            self.uri.host.encode("idna")
        except (InvalidURI, ValueError) as exc:
            raise ProbeError(
                f"url is {options['url']!r}: allowed are ws:// and wss:// URLs with a host and no fragment."
            ) from exc
        if options["port"] is not None and not 0 < options["port"] < 65536:
            raise ProbeError(f"port is {options['port']}: allowed are 1 to 65535.")
        if (options["size"] or 0) < 0:
            raise ProbeError(f"size is {options['size']}: allowed are 0 and more bytes.")
        if options["min_days_left"] is not None and not (self.uri.secure and options["validate_certs"]):
            raise ProbeError(
                f"min_days_left is {options['min_days_left']}: "
                "allowed only for a wss:// url whose certificate is validated."
            )
        try:
            re.compile(options["reply"] or "")
        except re.error as exc:
            raise ProbeError(
                f"reply is {options['reply']!r}: allowed are regular expressions, got {exc}."
            ) from exc
        # Credentials in the URL stay out of messages.
        self.url = re.sub(r"//[^/]*@", "//", options["url"])
        self.result: dict[str, Any] = {
            "status": None,
            "headers": {},
            "subprotocol": None,
            "compression": None,
            "echoed": False,
            "close_code": None,
            "close_reason": None,
            "tls": None,
            "certificate": None,
            "timings": {},
        }

    def run(self) -> None:
        """Check everything that was asked for; raise ProbeError at the first thing that is not as expected."""
        with contextlib.ExitStack() as stack:
            sock: socket.socket = stack.enter_context(self.connect())
            if self.uri.secure:
                sock = tls = stack.enter_context(self.start_tls(sock))
                self.check_tls(tls)
            connection = self.handshake(sock)
            if self.result["status"] == 101:
                self.converse(connection)

    def fail(self, expected: str, got: object) -> NoReturn:
        raise ProbeError(f"{self.url}: expected {expected}, got {str(got).rstrip('.')}.")

    @contextlib.contextmanager
    def step(self, name: str, expected: str) -> Iterator[None]:
        """Time a step; `expected` completes the sentence if the time is up."""
        start = time.perf_counter()
        try:
            yield
        except TimeoutError:
            self.fail(f"{expected} within {self.options['timeout']:g} s", "none")
        self.result["timings"][name] = round(1000 * (time.perf_counter() - start), 1)

    def connect(self) -> socket.socket:
        path = self.options["unix_socket"]
        host = self.options["address"] or self.uri.host
        port = self.options["port"] or self.uri.port
        expected = f"a connection to {path or f'{host} port {port}'}"
        with self.step("connect", expected):
            try:
                if not path:
                    sock = socket.create_connection((host, port), remaining(self.deadline))
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return sock
                sock = socket.socket(socket.AF_UNIX)
                try:
                    sock.settimeout(remaining(self.deadline))
                    sock.connect(path)
                except OSError:
                    sock.close()
                    raise
                return sock
            except TimeoutError:
                raise
            except OSError as exc:
                self.fail(expected, exc.strerror or exc)

    def start_tls(self, sock: socket.socket) -> ssl.SSLSocket:
        try:
            context = tls_context(self.options["ca_file"], self.options["validate_certs"])
        except ValueError as exc:
            raise ProbeError(str(exc)) from exc
        with self.step("tls", "a TLS handshake"):
            try:
                sock.settimeout(remaining(self.deadline))
                return context.wrap_socket(sock, server_hostname=self.uri.host)
            except ssl.SSLCertVerificationError as exc:
                self.fail(f"a certificate valid for {self.uri.host}", exc.verify_message)
            except TimeoutError:
                raise
            except OSError as exc:
                self.fail("a TLS handshake", getattr(exc, "reason", None) or exc.strerror or exc)

    def check_tls(self, tls: ssl.SSLSocket) -> None:
        cipher = tls.cipher()
        self.result["tls"] = {"version": tls.version(), "cipher": cipher[0] if cipher else None}
        certificate: Any = tls.getpeercert()
        if not certificate:
            return  # it was not validated
        end = ssl.cert_time_to_seconds(certificate["notAfter"])
        not_after = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
        days_left = math.floor((end - time.time()) / 86400)
        self.result["certificate"] = {
            "days_left": days_left,
            "not_after": not_after,
            "names": [name for _kind, name in certificate.get("subjectAltName", ())],
        }
        wanted = self.options["min_days_left"]
        if wanted is not None and days_left < wanted:
            self.fail(
                f"a certificate valid for at least {wanted} more days",
                f"one that expires in {days_left} days, on {not_after}",
            )

    def handshake(self, sock: socket.socket) -> Connection:
        offered = self.options["compression"] != "not_offered"
        protocol = ClientProtocol(
            self.uri,
            origin=self.options["origin"],
            subprotocols=self.options["subprotocols"],
            extensions=[ClientPerMessageDeflateFactory()] if offered else None,
            max_size=None,
        )
        request = protocol.connect()
        headers = {"User-Agent": "wsfleet-ws_probe", **(self.options["headers"] or {})}
        for name, value in headers.items():
            request.headers.pop(name, None)
            request.headers[name] = str(value)
        connection = Connection(sock, protocol, self.deadline)
        status = self.options["status"]
        with self.step("handshake", f"status {status}"):
            protocol.send_request(request)
            connection.flush()
            response: Response | None = connection.receive()
        error = protocol.handshake_exc
        if response is None:
            self.fail(f"status {status}", f"no HTTP response: {error and (error.__cause__ or error)}")
        self.result["status"] = response.status_code
        self.result["headers"] = {name.lower(): value for name, value in response.headers.raw_items()}
        if response.status_code != status:
            self.fail(f"status {status}", f"{response.status_code} {response.reason_phrase}")
        if status == 101:
            if error is not None:
                self.fail("a WebSocket handshake", error)
            self.check_negotiated(protocol)
        return connection

    def check_negotiated(self, protocol: ClientProtocol) -> None:
        self.result["subprotocol"] = protocol.subprotocol
        for extension in protocol.extensions:
            if isinstance(extension, PerMessageDeflate):
                self.result["compression"] = {
                    "server_max_window_bits": extension.remote_max_window_bits,
                    "client_max_window_bits": extension.local_max_window_bits,
                    "server_no_context_takeover": extension.remote_no_context_takeover,
                    "client_no_context_takeover": extension.local_no_context_takeover,
                }
        wanted = self.options["subprotocol"]
        if wanted is not None and protocol.subprotocol != wanted:
            self.fail(f"subprotocol {wanted}", protocol.subprotocol or "none")
        if self.options["compression"] == "negotiated" and self.result["compression"] is None:
            self.fail("compression to be negotiated", "none")
        if self.options["compression"] == "declined" and self.result["compression"] is not None:
            self.fail("compression to be declined", "permessage-deflate")

    def converse(self, connection: Connection) -> None:
        """Send the messages, compare the answers, close."""
        message, code = self.options["send"], self.options["close_code"]
        if code is not None:
            if message is not None:
                self.send(connection, message)
            expected = f"the server to close with code {code}"
        else:
            if self.options["echo"]:
                for data in [message] if message is not None else random_messages(self.options["size"]):
                    self.check_answer(connection, data)
                self.result["echoed"] = True
            expected = "an answer to the close frame"
            if connection.protocol.state is State.OPEN:
                connection.protocol.send_close(1000)
        with self.step("close", expected):
            connection.flush()
            while connection.message() is not None:
                pass
        closed = self.close_seen(connection)
        seen = self.result["close_code"]
        if seen == 1006 if code is None else seen != code:
            self.fail(expected, closed)

    def send(self, connection: Connection, data: str | bytes) -> None:
        if connection.protocol.state is State.OPEN:  # else the server has closed it, which receiving reports
            if isinstance(data, str):
                connection.protocol.send_text(data.encode())
            else:
                connection.protocol.send_binary(data)
            connection.flush()

    def check_answer(self, connection: Connection, data: str | bytes) -> None:
        """Send a message and compare the answer: with `reply` if there is one, else with the message."""
        kind = "text" if isinstance(data, str) else "binary"
        reply = self.options["reply"]
        expected = f"an answer that matches {reply!r}" if reply else f"the {kind} message back"
        with self.step(kind, expected):
            self.send(connection, data)
            answer = connection.message()
        if answer is None:
            self.fail(expected, self.close_seen(connection))
        if reply is not None:
            right = isinstance(answer, str) and re.search(reply, answer) is not None
        else:
            right = answer == data
        if not right:
            got = repr(answer[:60]) if isinstance(answer, str) else f"{len(answer)} other bytes"
            self.fail(expected, got)

    def close_seen(self, connection: Connection) -> str:
        """Record how the server closed the connection and return it in words."""
        close = connection.protocol.close_rcvd
        self.result["close_code"] = close.code if close else 1006
        self.result["close_reason"] = close.reason if close else ""
        if close is None:
            return "the connection cut without a close frame"
        return f"close code {close.code}" + (f" ({close.reason})" if close.reason else "")


def remaining(deadline: float) -> float:
    """Return the seconds left until `deadline`; raise TimeoutError when there are none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def random_messages(size: int | None) -> tuple[str, bytes]:
    """Return a random text and a random binary message of `size` bytes each (None: 64).

    Both can be compressed: deflate makes random bytes longer, which then exceed the server's max_size.
    The binary one is the complement of the text, so it is not valid UTF-8.
    """
    size = DEFAULT_SIZE if size is None else size
    text = secrets.token_hex(size // 2 + 1)[:size]
    return text, text.encode().translate(bytes(range(255, -1, -1)))
