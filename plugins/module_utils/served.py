# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the certificate is valid that a server shows.

Python decodes only certificates that it trusts, so the date is read here.
"""

from __future__ import annotations

import socket
import ssl
import typing as t
from datetime import UTC, datetime

TIMEOUT = 5  # seconds
VERSION = 0xA0  # the tag of what certificates since version 3 begin with
UTC_TIME = 0x17
PROXY = b"PROXY UNKNOWN\r\n"  # the header of the PROXY protocol, with nothing to say


def elements(der: bytes) -> t.Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element of DER."""
    at = 0
    while at < len(der):
        tag, length = der[at : at + 2]
        at += 2
        if length & 0x80:
            octets = length & 0x7F
            length = int.from_bytes(der[at : at + octets], "big")
            at += octets
        yield tag, der[at : at + length]
        at += length


def not_after(certificate: bytes) -> datetime:
    """Return when a certificate (DER) expires."""
    ((_tag, signed),) = elements(certificate)
    (_tag, content), *_signature = elements(signed)
    fields = [field for tag, field in elements(content) if tag != VERSION]
    _serial, _algorithm, _issuer, validity = fields[:4]
    _start, (tag, end) = elements(validity)
    form = "%y%m%d%H%M%SZ" if tag == UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(end.decode(), form).replace(tzinfo=UTC)


def shown(port: int, name: str, proxied: bool = False, address: str = "127.0.0.1") -> bytes:
    """Return the certificate (DER) that a client is shown who asks for this name, by a balancer if it is `proxied`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((address, port), TIMEOUT) as connection:
        if proxied:
            connection.sendall(PROXY)
        with context.wrap_socket(connection, server_hostname=name) as tls:
            return tls.getpeercert(binary_form=True) or b""


def certificate(port: int, name: str, now: float, proxied: bool = False) -> dict[str, t.Any]:
    """Return until when the certificate is valid that is shown for a name, or why that can't be said."""
    try:
        end = not_after(shown(port, name, proxied))
    except (OSError, ValueError) as error:
        return {"name": name, "not_after": None, "days_left": None, "problem": str(error)}
    days = int((end.timestamp() - now) // 86400)
    return {"name": name, "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}", "days_left": days, "problem": ""}
