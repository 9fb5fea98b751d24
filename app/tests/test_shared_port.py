# SPDX-License-Identifier: Apache-2.0
"""A TCP port that the processes of all slots listen on, as clients see it."""

from __future__ import annotations

import datetime
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from server_process import Slot, Start, close_of, wait_for
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol


@pytest.fixture
def port() -> int:
    """A port that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    return number


def echo(client: ClientConnection) -> bool:
    client.send("hello")
    return client.recv() == "hello"


def reach(port: int) -> ClientConnection:
    return connect(
        f"ws://127.0.0.1:{port}/", subprotocols=[Subprotocol("old"), Subprotocol("new")], legacy=True
    )


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_process_listens_while_its_slot_leads_to_it(tmp_path: Path, start: Start, port: int) -> None:
    (tmp_path / "g0").mkdir()
    early = start(unix_socket="g0/ws.sock", slot="ws.sock", shared_port=port)
    with early.connect() as client:  # it serves, so it would have begun
        assert echo(client)
    assert not listens(port)
    slot = Slot(tmp_path, start)
    old = slot.start(handover=False, shared_port=port, subprotocols="old")
    wait_for(lambda: listens(port))
    with reach(port) as first:
        slot.start(handover=False, shared_port=port, subprotocols="new")
        wait_for(lambda: all(who_answers(port) == "new" for _n in range(20)))
        assert echo(first)  # connections stay
        slot.point(1)
        wait_for(lambda: all(who_answers(port) == "old" for _n in range(20)))
        old.signal(signal.SIGTERM)
        assert close_of(first)[0] == 1001
    assert "listening on the shared port" not in early.log


def who_answers(port: int) -> str | None:
    """The subprotocol by which a process can be told."""
    with reach(port) as client:
        assert echo(client)
        return client.subprotocol


def test_connections_of_the_port_move(tmp_path: Path, start: Start, port: int) -> None:
    slot = Slot(tmp_path, start)
    slot.start(shared_port=port)
    wait_for(lambda: listens(port))
    with reach(port) as client:
        assert echo(client)
        for _n in range(3):
            old, _new = slot.roll(shared_port=port)
            assert old.wait() == 0
            assert echo(client)
        assert client.close_code is None
    assert slot.figures()["moved"] == 1


def test_port_that_is_taken_is_tried_again(tmp_path: Path, start: Start, port: int) -> None:
    slot = Slot(tmp_path, start)
    with socket.create_server(("127.0.0.1", port)):
        process = slot.start(shared_port=port)
        wait_for(lambda: "cannot listen on the shared port" in process.log)
        with process.connect() as client:
            assert echo(client)
    wait_for(lambda: "listening on the shared port" in process.log)
    assert process.log.count("cannot listen") == 1
    assert who_answers(port) is None


def write_certificate(folder: Path, name: str) -> None:
    """Replace cert.pem and key.pem by those of a name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file, content in (("key.pem", pem), ("cert.pem", certificate.public_bytes(Encoding.PEM))):
        fresh = folder / f"{file}.new"
        fresh.write_bytes(content)
        fresh.replace(folder / file)


def served(port: int) -> str:
    """The name in the certificate that is served."""
    pem = ssl.get_server_certificate(("127.0.0.1", port))
    name = x509.load_pem_x509_certificate(pem.encode()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name[0].value)


def reach_by_tls(port: int) -> ClientConnection:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return connect(f"wss://127.0.0.1:{port}/", ssl=context, legacy=True)


def tls_on_the_shared_port(folder: Path, start: Start, port: int) -> None:
    Slot(folder, start).start(shared_port=port, tls_certificate="cert.pem", tls_key="key.pem")


def tls_on_a_port(_folder: Path, start: Start, port: int) -> None:
    start(unix_socket="", port=port, tls_certificate="cert.pem", tls_key="key.pem")


@pytest.mark.parametrize("begin", [tls_on_the_shared_port, tls_on_a_port])
def test_certificate_is_the_one_in_the_files(
    tmp_path: Path, start: Start, port: int, begin: Callable[[Path, Start, int], None]
) -> None:
    write_certificate(tmp_path, "one")
    begin(tmp_path, start, port)
    wait_for(lambda: listens(port))
    with reach_by_tls(port) as client:
        assert echo(client)
        assert served(port) == "one"
        write_certificate(tmp_path, "two")
        assert served(port) == "two"
        (tmp_path / "cert.pem").write_text("no certificate")
        assert served(port) == "two"
        (tmp_path / "cert.pem").unlink()
        assert served(port) == "two"
        write_certificate(tmp_path, "three")
        assert served(port) == "three"
        assert echo(client)


def test_connections_with_tls_are_closed_not_moved(tmp_path: Path, start: Start, port: int) -> None:
    write_certificate(tmp_path, "one")
    slot = Slot(tmp_path, start)
    tls = {"tls_certificate": "cert.pem", "tls_key": "key.pem"}
    slot.start(shared_port=port, **tls)
    wait_for(lambda: listens(port))
    with reach_by_tls(port) as client:
        old, _new = slot.roll(shared_port=port, **tls)
        assert close_of(client)[0] == 1001
        assert old.wait() == 0


def test_certificate_that_is_missing_at_the_start(tmp_path: Path, start: Start, port: int) -> None:
    process = start(unix_socket="", port=port, tls_certificate="cert.pem", tls_key="key.pem")
    assert process.wait() == 1
    why = "no certificate can be loaded from cert.pem and key.pem: [Errno 2] No such file or directory: 'cert.pem'"
    assert f"cannot listen on 127.0.0.1:{port}: {why}" in process.log
