# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dates of certificates, and a server that shows one."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils import served
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())


def make(end: datetime, units: int = 1) -> x509.Certificate:
    """Make a certificate that expires then; more units make its names longer."""
    unit = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "a" * 60)
    name = x509.Name([unit] * units)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(end)
    )
    return builder.sign(KEY, hashes.SHA256())


@pytest.mark.parametrize(
    "end", [NOW, NOW - timedelta(days=400), datetime(2060, 2, 29, 23, 59, 58, tzinfo=UTC)]
)
@pytest.mark.parametrize("units", [1, 3, 10])
def test_the_date_is_that_of_the_certificate(end: datetime, units: int) -> None:
    assert served.not_after(make(end, units).public_bytes(Encoding.DER)) == end


@pytest.mark.parametrize("octets", [b"", b"\x30", b"hello", make(NOW).public_bytes(Encoding.DER)[4:]])
def test_what_is_no_certificate(octets: bytes) -> None:
    with pytest.raises(ValueError):
        served.not_after(octets)


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize(("offset", "days"), [(timedelta(days=60, hours=1), 60), (timedelta(hours=-1), -1)])
def test_a_server_is_asked_by_name(tmp_path: Path, offset: timedelta, days: int, proxied: bool) -> None:
    pem = tmp_path / "server.pem"
    key = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(key + make(NOW + offset).public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    names: list[str | None] = []
    context.sni_callback = lambda _tls, name, _context: names.append(name)

    def serve() -> None:
        connection, _ = listener.accept()
        if proxied:
            assert connection.recv(15) == b"PROXY UNKNOWN\r\n"
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        found = served.certificate(port, "ws.example.org", NOW.timestamp(), proxied)
        thread.join(5)
    assert names == ["ws.example.org"]
    end = NOW + offset
    assert found == {
        "name": "ws.example.org",
        "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        "days_left": days,
        "problem": "",
    }


def test_a_port_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = served.certificate(port, "ws.example.org", 0)
    assert found["days_left"] is None
    assert "refused" in found["problem"]
