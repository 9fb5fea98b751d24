# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the probe against real servers: `Servers` starts them, each test says what the probe makes of one."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.probe import (
    Probe,
    ProbeError,
    random_messages,
    remaining,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve, unix_serve

OPTIONS: dict[str, Any] = {
    "url": "",
    "address": None,
    "port": None,
    "unix_socket": None,
    "validate_certs": True,
    "ca_file": None,
    "min_days_left": None,
    "timeout": 5,
    "origin": None,
    "headers": None,
    "subprotocols": None,
    "compression": "any",
    "status": 101,
    "subprotocol": None,
    "echo": True,
    "send": None,
    "size": None,
    "reply": None,
    "close_code": None,
}


def probe(url: str, **options: Any) -> dict[str, Any]:
    check = Probe({**OPTIONS, "url": url, **options})
    check.run()
    result: dict[str, Any] = check.result
    return result


def failure(url: str, **options: Any) -> str:
    """Return what the probe says is wrong, without the URL that it begins with."""
    with pytest.raises(ProbeError) as caught:
        probe(url, **options)
    sentence = str(caught.value)
    assert sentence.startswith(f"{url}: ")
    assert sentence.endswith(".")
    assert ".." not in sentence
    return sentence.removeprefix(f"{url}: ")


def echo(websocket: ServerConnection) -> None:
    for message in websocket:
        websocket.send(message)


def respond(connection: ServerConnection, request: Request) -> Response | None:
    """Answer what an application behind nginx answers besides handshakes."""
    if request.path == "/healthz":
        return connection.respond(200, "OK\n")
    if request.path == "/redirect":
        response = connection.respond(301, "")
        response.headers["Location"] = "wss://127.0.0.1/"
        return response
    if request.path == "/headers":
        values = [request.headers.get(name, "-") for name in ("Host", "User-Agent", "X-Token")]
        response = connection.respond(200, "")
        response.headers["X-Seen"] = " ".join(values)
        return response
    return None


class Servers:
    """Starts servers in threads of this process and stops them with the test."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack

    def websocket(self, handler: Callable[[ServerConnection], None] = echo, **options: Any) -> int:
        """Start a WebSocket server on a free port of 127.0.0.1 and return the port."""
        server = serve(handler, "127.0.0.1", 0, process_request=respond, **options)
        self._run(server)
        port: int = server.socket.getsockname()[1]
        return port

    def unix(self, path: str) -> None:
        self._run(unix_serve(echo, path))

    def _run(self, server: Any) -> None:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.stack.callback(thread.join)
        self.stack.callback(server.shutdown)

    def raw(self, answer: bytes | None, *, stays: bool = False, resets: bool = False) -> int:
        """Start a TCP server that sends `answer` to one client and closes; None: says nothing at all.

        If it `stays`, it waits for the client to close; if it `resets`, it cuts the connection instead of closing it.
        """
        listener = socket.create_server(("127.0.0.1", 0))
        self.stack.callback(listener.close)
        if answer is not None:

            def run() -> None:
                client, _address = listener.accept()
                with client:
                    client.recv(65536)
                    client.sendall(answer)
                    while stays and client.recv(65536):
                        pass
                    if resets:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

            thread = threading.Thread(target=run)
            thread.start()
            self.stack.callback(thread.join)
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def servers() -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        yield Servers(stack)


class Certificates:
    """A certificate authority in a folder; `ca_file` is what clients trust."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.ca_file = str(folder / "ca.pem")
        certificate = (
            self._builder(self.name, self.key.public_key(), days=30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .sign(self.key, hashes.SHA256())
        )
        Path(self.ca_file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )

    def server_context(self, *, days: float = 10.5) -> ssl.SSLContext:
        """Return a server's TLS context with a certificate for echo.test and 127.0.0.1, valid `days` more days."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("echo.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            self._builder(x509.Name([]), key.public_key(), days)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        path = self.folder / "server.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


# What is returned


def test_echo_of_text_and_binary(servers: Servers) -> None:
    result = probe(f"ws://127.0.0.1:{servers.websocket()}/")
    assert result["status"] == 101
    assert result["headers"]["upgrade"] == "websocket"
    assert result["echoed"] is True
    assert (result["close_code"], result["close_reason"]) == (1000, "")
    assert result["subprotocol"] is result["tls"] is result["certificate"] is None
    assert list(result["timings"]) == ["connect", "handshake", "text", "binary", "close"]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65536, 2**20])
def test_sizes_up_to_the_servers_max_size(servers: Servers, size: int) -> None:
    port = servers.websocket(max_size=2**20)
    assert probe(f"ws://127.0.0.1:{port}/", size=size)["echoed"] is True


def test_answers_of_any_size(servers: Servers) -> None:
    port = servers.websocket(max_size=None)
    assert probe(f"ws://127.0.0.1:{port}/", size=2**20 + 1)["echoed"] is True


def test_random_messages() -> None:
    text, binary = random_messages(1001)
    assert len(text) == len(binary) == 1001
    assert random_messages(0) == ("", b"")
    assert random_messages(None)[0] != random_messages(None)[0]
    with pytest.raises(UnicodeDecodeError):
        binary.decode()


def test_message_and_reply(servers: Servers) -> None:
    def pong(websocket: ServerConnection) -> None:
        for message in websocket:
            websocket.send(str(message).replace("ping", "pong"))

    url = f"ws://127.0.0.1:{servers.websocket(pong)}/"
    result = probe(url, send='{"type": "ping"}', reply='"type": *"pong"')
    assert result["echoed"] is True
    assert "binary" not in result["timings"]
    assert failure(url, send="ping") == "expected the text message back, got 'pong'."
    assert failure(url, send="x", reply="^y$") == "expected an answer that matches '^y$', got 'x'."

    def binary(websocket: ServerConnection) -> None:
        websocket.send(bytes(3))

    url = f"ws://127.0.0.1:{servers.websocket(binary)}/"
    assert failure(url, send="x", reply="y") == "expected an answer that matches 'y', got 3 other bytes."


def test_fragments_and_pings_are_understood(servers: Servers) -> None:
    def in_pieces(websocket: ServerConnection) -> None:
        for message in websocket:
            websocket.ping()
            websocket.send([message[:3], message[3:7], message[7:]])

    assert probe(f"ws://127.0.0.1:{servers.websocket(in_pieces)}/")["echoed"] is True


def test_handshake_only(servers: Servers) -> None:
    result = probe(f"ws://127.0.0.1:{servers.websocket()}/", echo=False)
    assert result["echoed"] is False
    assert list(result["timings"]) == ["connect", "handshake", "close"]


def test_compression(servers: Servers) -> None:
    port, off_port = servers.websocket(), servers.websocket(compression=None)
    url, off_url = f"ws://127.0.0.1:{port}/", f"ws://127.0.0.1:{off_port}/"
    assert probe(url, compression="negotiated")["compression"] == {
        "server_max_window_bits": 12,
        "client_max_window_bits": 12,
        "server_no_context_takeover": False,
        "client_no_context_takeover": False,
    }
    assert probe(url, compression="not_offered")["compression"] is None
    assert probe(off_url, compression="declined")["compression"] is None
    assert probe(off_url)["compression"] is None
    assert failure(off_url, compression="negotiated") == "expected compression to be negotiated, got none."
    assert (
        failure(url, compression="declined") == "expected compression to be declined, got permessage-deflate."
    )


def test_subprotocol(servers: Servers) -> None:
    url = f"ws://127.0.0.1:{servers.websocket(subprotocols=['chat.v2'])}/"
    assert probe(url, subprotocols=["chat.v3", "chat.v2"], subprotocol="chat.v2")["subprotocol"] == "chat.v2"
    assert failure(url, subprotocols=["chat.v2"], subprotocol="b") == "expected subprotocol b, got chat.v2."
    plain = f"ws://127.0.0.1:{servers.websocket()}/"
    assert failure(plain, subprotocols=["b"], subprotocol="b") == "expected subprotocol b, got none."


def test_address_port_and_headers(servers: Servers) -> None:
    """The connection goes elsewhere, the request says what the URL says, and given headers replace ours."""
    result = probe(
        "ws://echo.test/headers",
        address="127.0.0.1",
        port=servers.websocket(),
        headers={"User-Agent": "me", "x-token": "secret"},
        status=200,
    )
    assert result["headers"]["x-seen"] == "echo.test me secret"
    url = f"ws://127.0.0.1:{servers.websocket()}/headers"
    assert probe(url, headers={"host": "other.test"}, status=200)["headers"]["x-seen"].startswith(
        "other.test "
    )


def test_unix_socket(servers: Servers, tmp_path: Path) -> None:
    servers.unix(str(tmp_path / "echo.sock"))
    assert probe("ws://localhost/", unix_socket=str(tmp_path / "echo.sock"))["echoed"] is True


# Status


def test_other_statuses(servers: Servers) -> None:
    url = f"ws://127.0.0.1:{servers.websocket(origins=['https://good.test'])}"
    assert probe(f"{url}/healthz", status=200)["status"] == 200
    assert probe(f"{url}/redirect", status=301)["headers"]["location"] == "wss://127.0.0.1/"
    assert failure(f"{url}/redirect") == "expected status 101, got 301 Moved Permanently."
    assert failure(f"{url}/healthz", status=403) == "expected status 403, got 200 OK."


def test_origin(servers: Servers) -> None:
    url = f"ws://127.0.0.1:{servers.websocket(origins=['https://good.test'])}/"
    assert probe(url, origin="https://good.test")["echoed"] is True
    result = probe(url, origin="https://evil.test", status=403)
    assert (result["status"], result["echoed"]) == (403, False)
    assert failure(url, origin="https://evil.test") == "expected status 101, got 403 Forbidden."
    assert (
        failure(url, origin="https://good.test", status=403)
        == "expected status 403, got 101 Switching Protocols."
    )


def test_what_is_no_http(servers: Servers) -> None:
    url = f"ws://127.0.0.1:{servers.raw(b'220 mail ESMTP' + bytes([13, 10]))}/"
    sentence = failure(url)
    assert sentence.startswith("expected status 101, got no HTTP response: ")
    assert "220 mail ESMTP" in sentence
    for answer, how in ((b"", {}), (b"", {"resets": True}), (b"* OK IMAP4\r\n", {"stays": True})):
        assert failure(f"ws://127.0.0.1:{servers.raw(answer, **how)}/").startswith(
            "expected status 101, got no HTTP response: "
        )


def test_handshake_that_breaks_the_protocol(servers: Servers) -> None:
    answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"
    )
    assert failure(f"ws://127.0.0.1:{servers.raw(answer)}/") == (
        "expected a WebSocket handshake, got invalid Sec-WebSocket-Accept header: AAAAAAAAAAAAAAAAAAAAAAAAAAA=."
    )


# Connections


def test_unreachable(free_port: int, tmp_path: Path) -> None:
    expected = f"expected a connection to 127.0.0.1 port {free_port}, got Connection refused."
    assert failure(f"ws://127.0.0.1:{free_port}/") == expected
    assert failure("ws://echo.test/", address="127.0.0.1", port=free_port) == expected
    path = str(tmp_path / "none.sock")
    assert failure("ws://localhost/", unix_socket=path) == (
        f"expected a connection to {path}, got No such file or directory."
    )
    assert failure("ws://no-such-host.invalid/").startswith(
        "expected a connection to no-such-host.invalid port 80, "
    )


def test_timeouts(servers: Servers) -> None:
    silent = servers.raw(None)
    assert failure(f"ws://127.0.0.1:{silent}/", timeout=0.2) == "expected status 101 within 0.2 s, got none."
    assert failure(f"wss://127.0.0.1:{silent}/", timeout=0.2) == (
        "expected a TLS handshake within 0.2 s, got none."
    )


def test_silence_after_the_handshake(servers: Servers) -> None:
    done = threading.Event()

    def silent(_websocket: ServerConnection) -> None:
        done.wait(10)

    url = f"ws://127.0.0.1:{servers.websocket(silent)}/"
    servers.stack.callback(done.set)
    began = time.monotonic()
    assert failure(url, timeout=0.3) == "expected the text message back within 0.3 s, got none."
    assert time.monotonic() - began < 4
    assert failure(url, timeout=0.3, send="x", reply="y") == (
        "expected an answer that matches 'y' within 0.3 s, got none."
    )
    assert failure(url, timeout=0.3, close_code=1001) == (
        "expected the server to close with code 1001 within 0.3 s, got none."
    )


def test_the_time_is_up_also_when_the_server_keeps_talking(servers: Servers) -> None:
    done = threading.Event()

    def ping(websocket: ServerConnection) -> None:
        for _n in range(200):
            if done.wait(0.05):
                break
            websocket.ping()

    url = f"ws://127.0.0.1:{servers.websocket(ping)}/"
    servers.stack.callback(done.set)
    began = time.monotonic()
    assert failure(url, timeout=0.5) == "expected the text message back within 0.5 s, got none."
    assert time.monotonic() - began < 5
    with pytest.raises(TimeoutError):
        remaining(time.monotonic() - 1)


def test_wrong_echo(servers: Servers) -> None:
    def shout(websocket: ServerConnection) -> None:
        for message in websocket:
            websocket.send(message.upper() if isinstance(message, str) else message[1:])

    url = f"ws://127.0.0.1:{servers.websocket(shout)}/"
    assert failure(url, send="hello") == "expected the text message back, got 'HELLO'."
    assert failure(url, send="x" * 61) == f"expected the text message back, got '{'X' * 60}'."

    def cut_binary(websocket: ServerConnection) -> None:
        for message in websocket:
            websocket.send(message if isinstance(message, str) else message[1:])

    url = f"ws://127.0.0.1:{servers.websocket(cut_binary)}/"
    assert failure(url) == "expected the binary message back, got 63 other bytes."


def test_closed_early(servers: Servers) -> None:
    def close(websocket: ServerConnection) -> None:
        websocket.close(1011, "out of order")

    def cut(websocket: ServerConnection) -> None:
        websocket.recv()
        websocket.socket.shutdown(socket.SHUT_RDWR)

    url = f"ws://127.0.0.1:{servers.websocket(close)}/"
    assert failure(url) == "expected the text message back, got close code 1011 (out of order)."
    url = f"ws://127.0.0.1:{servers.websocket(cut)}/"
    assert failure(url) == "expected the text message back, got the connection cut without a close frame."


def test_close_by_the_server(servers: Servers) -> None:
    def refuse(websocket: ServerConnection) -> None:
        websocket.recv(timeout=5)
        websocket.close(4001, "who are you?")

    url = f"ws://127.0.0.1:{servers.websocket(refuse)}/"
    result = probe(url, send="let me in", close_code=4001)
    assert (result["close_code"], result["close_reason"], result["echoed"]) == (4001, "who are you?", False)
    assert failure(url, send="let me in", close_code=4003) == (
        "expected the server to close with code 4003, got close code 4001 (who are you?)."
    )

    def cut(websocket: ServerConnection) -> None:
        websocket.socket.shutdown(socket.SHUT_RDWR)

    url = f"ws://127.0.0.1:{servers.websocket(cut)}/"
    assert probe(url, close_code=1006)["close_code"] == 1006


def test_close_right_behind_the_echo(servers: Servers) -> None:
    def answer_and_close(websocket: ServerConnection) -> None:
        message = str(websocket.recv()).encode()
        with websocket.protocol_mutex:
            websocket.socket.sendall(b"\x81" + bytes([len(message)]) + message + b"\x88\x02\x03\xe9")
            websocket.socket.shutdown(socket.SHUT_WR)

    url = f"ws://127.0.0.1:{servers.websocket(answer_and_close)}/"
    result = probe(url, send="x", compression="not_offered")
    assert (result["echoed"], result["close_code"]) == (True, 1001)
    assert failure(url, compression="not_offered") == "expected the binary message back, got close code 1001."


def test_close_without_an_answer(servers: Servers) -> None:
    def cut_after_echo(websocket: ServerConnection) -> None:
        websocket.recv()
        with websocket.protocol_mutex:  # or the library answers the close before the cut
            websocket.socket.sendall(b"\x81\x01x")
            websocket.socket.shutdown(socket.SHUT_RDWR)

    url = f"ws://127.0.0.1:{servers.websocket(cut_after_echo)}/"
    assert failure(url, send="x", compression="not_offered") == (
        "expected an answer to the close frame, got the connection cut without a close frame."
    )


# TLS


def test_tls(servers: Servers, certificates: Certificates) -> None:
    port = servers.websocket(ssl=certificates.server_context())
    result = probe(
        "wss://echo.test/", address="127.0.0.1", port=port, ca_file=certificates.ca_file, min_days_left=10
    )
    assert result["echoed"] is True
    assert result["tls"]["version"] == "TLSv1.3"
    assert result["tls"]["cipher"].startswith("TLS_")
    assert result["certificate"]["days_left"] == 10
    assert result["certificate"]["not_after"].endswith("Z")
    assert result["certificate"]["names"] == ["echo.test", "127.0.0.1"]
    assert list(result["timings"]) == ["connect", "tls", "handshake", "text", "binary", "close"]


def test_certificate_that_is_not_validated(servers: Servers, certificates: Certificates) -> None:
    port = servers.websocket(ssl=certificates.server_context(days=-1))
    result = probe(f"wss://127.0.0.1:{port}/", validate_certs=False)
    assert (result["echoed"], result["certificate"]) == (True, None)


def test_bad_certificates(servers: Servers, certificates: Certificates) -> None:
    url = f"wss://127.0.0.1:{servers.websocket(ssl=certificates.server_context())}/"
    ca_file = certificates.ca_file
    assert failure(url) == (
        "expected a certificate valid for 127.0.0.1, got unable to get local issuer certificate."
    )
    sentence = failure(url, ca_file=ca_file, min_days_left=11)
    assert sentence.startswith(
        "expected a certificate valid for at least 11 more days, got one that expires in 10 days, on "
    )
    assert failure("wss://other.test/", address="127.0.0.1", port=int(url[16:-1]), ca_file=ca_file) == (
        "expected a certificate valid for other.test, got Hostname mismatch, "
        "certificate is not valid for 'other.test'."
    )
    expired = servers.websocket(ssl=certificates.server_context(days=-1))
    assert failure(f"wss://127.0.0.1:{expired}/", ca_file=ca_file) == (
        "expected a certificate valid for 127.0.0.1, got certificate has expired."
    )


def test_no_tls_where_it_is_expected(servers: Servers) -> None:
    sentence = failure(f"wss://127.0.0.1:{servers.websocket()}/")
    assert sentence.startswith("expected a TLS handshake, got ")


# Options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        *(
            ({"url": url}, f"url is {url!r}: allowed are ws:// and wss:// URLs with a host and no fragment.")
            for url in (
                "https://echo.test/",
                "wss:///",
                "wss://echo.test/#here",
                "wss://[/",
                "wss://./",
                "wss://echo.test:0x1/",
            )
        ),
        ({"port": 0}, "port is 0: allowed are 1 to 65535."),
        ({"port": 65536}, "port is 65536: allowed are 1 to 65535."),
        ({"size": -1}, "size is -1: allowed are 0 and more bytes."),
        (
            {"min_days_left": 30},
            "min_days_left is 30: allowed only for a wss:// url whose certificate is validated.",
        ),
        (
            {"url": "wss://echo.test/", "min_days_left": 30, "validate_certs": False},
            "min_days_left is 30: allowed only for a wss:// url whose certificate is validated.",
        ),
        (
            {"send": "x", "reply": "*"},
            "reply is '*': allowed are regular expressions, got nothing to repeat at position 0.",
        ),
    ],
)
def test_refused_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ProbeError) as caught:
        Probe({**OPTIONS, "url": "ws://echo.test/", **options})
    assert str(caught.value) == sentence


def test_ca_file_that_cannot_be_read(servers: Servers, tmp_path: Path) -> None:
    path = str(tmp_path / "none.pem")
    with pytest.raises(ProbeError) as caught:
        probe(f"wss://127.0.0.1:{servers.raw(None)}/", ca_file=path)
    assert str(caught.value) == (
        f"ca_file is {path!r}: allowed is a readable file of PEM certificates, "
        "got [Errno 2] No such file or directory."
    )


def test_credentials_stay_out_of_the_sentence(free_port: int) -> None:
    with pytest.raises(ProbeError) as caught:
        probe(f"ws://user:secret@127.0.0.1:{free_port}/")
    assert str(caught.value).startswith(f"ws://127.0.0.1:{free_port}/: expected ")
