# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong with a TLS certificate, found before any server has it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_certificate_problems
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: List what is wrong with a TLS certificate
description:
  - Checks a server's certificate, the chain behind it and its key, on the controller and without a network.
  - An empty list means that a server may use them.
requirements:
  - cryptography >= 42
positional: names
options:
  _input:
    description: The certificates as PEM text, the server's own first, then each one's issuer.
    type: str
    required: true
  names:
    description: DNS names (C(*.example.org) too) and IP addresses that clients connect to.
    type: list
    elements: str
    required: true
  key:
    description: The private key, public key or signing request (PEM text) that the certificate must belong to.
    type: str
    default: ''
  issuer:
    description: A CA's certificate, as PEM text, that must have signed the last certificate of the input.
    type: str
    default: ''
  days:
    description: How many days each certificate must still be valid for.
    type: int
    default: 0
  exact:
    description: Whether the certificate may be valid for no names but O(names).
    type: bool
    default: false
  now:
    description: The time to judge by, a C(datetime) with its time zone; by default the present.
    type: raw
"""

EXAMPLES = r"""
- name: Refuse a certificate that browsers would refuse
  ansible.builtin.assert:
    that: problems == []
    fail_msg: "{{ problems | join('; ') }}"
  vars:
    problems: >-
      {{ lookup('ansible.builtin.file', 'fullchain.pem')
         | wsfleet.websockets.ws_certificate_problems(['ws.example.org'], days=14) }}
"""

RETURN = r"""
_value:
  description: One clause for each problem, such as V(it is for a.example.org, not for b.example.org).
  type: list
  elements: str
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
        load_pem_public_key,
    )
except ImportError as error:
    MISSING: ImportError | None = error
else:
    MISSING = None

MIN_RSA_BITS = 2048
MIN_EC_BITS = 256


def canonical(name: str) -> str:
    """Return a DNS name in lower case, an IP address in its shortest form."""
    try:
        return str(ip_address(name))
    except ValueError:
        return name.lower().rstrip(".")


def covers(pattern: str, name: str) -> bool:
    """Tell whether a certificate's name covers a client's (both canonical); a leading * is one label."""
    return pattern == name or (pattern.startswith("*.") and pattern[2:] == name.partition(".")[2])


def subject_names(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names and IP addresses in a certificate's subjectAltName, canonical; [] without one."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        canonical(str(name))
        for kind in (x509.DNSName, x509.IPAddress)
        for name in san.get_values_for_type(kind)
    ]


def is_ca(certificate: x509.Certificate) -> bool:
    """Tell whether a certificate may sign others."""
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def title(certificate: x509.Certificate) -> str:
    """Return how a sentence names a certificate."""
    return f"the certificate of {certificate.subject.rfc4514_string() or 'its names'!r}"


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Tell whether issuer signed certificate, by name and by signature."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def public_bytes(public_key: Any) -> bytes:
    """Return a public key in a form that compares."""
    return bytes(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def key_problems(certificate: x509.Certificate, key: str) -> Iterator[str]:
    """Yield what keeps key (PEM of a private or public key or of a request) from being the certificate's."""
    pem = key.encode()
    public_key: Any
    try:
        if "CERTIFICATE REQUEST-----" in key:
            public_key = x509.load_pem_x509_csr(pem).public_key()
        elif "PUBLIC KEY-----" in key:
            public_key = load_pem_public_key(pem)
        else:
            public_key = load_pem_private_key(pem, password=None).public_key()
    except TypeError:
        yield "its key is encrypted, and a server has nobody to ask for the passphrase"
    except ValueError:
        yield "its key is not a PEM private key"
    else:
        if public_bytes(public_key) != public_bytes(certificate.public_key()):
            yield "its key belongs to another certificate"


def strength_problems(certificate: x509.Certificate) -> Iterator[str]:
    """Yield what is weak about the key of a certificate."""
    public_key = certificate.public_key()
    if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size < MIN_RSA_BITS:
        yield f"its RSA key has {public_key.key_size} bits, fewer than {MIN_RSA_BITS}"
    if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.key_size < MIN_EC_BITS:
        yield f"its EC key has {public_key.key_size} bits, fewer than {MIN_EC_BITS}"


def chain_problems(chain: Sequence[x509.Certificate], issuer: str) -> Iterator[str]:
    """Yield what is wrong with a chain's order and with who signed its end (PEM, or '' for anyone)."""
    if is_ca(chain[0]) and len(chain) > 1:
        yield f"{title(chain[0])} comes first, but is a CA's: the server's own must come first"
        return
    for certificate, signer in pairwise(chain):
        if not signed_by(certificate, signer):
            yield f"{title(certificate)} is followed by {title(signer)}, which did not sign it"
    if issuer and not signed_by(chain[-1], x509.load_pem_x509_certificate(issuer.encode())):
        yield f"{title(chain[-1])} was not signed by the CA"


def date_problems(chain: Sequence[x509.Certificate], days: int, now: datetime) -> Iterator[str]:
    """Yield which certificates of a chain are not valid now, or not for so many days more."""
    for certificate in chain:
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if start > now:
            yield f"{title(certificate)} is not valid before {start:%Y-%m-%d %H:%M} UTC"
        if end <= now:
            yield f"{title(certificate)} expired on {end:%Y-%m-%d}"
        elif end <= now + timedelta(days=days):
            yield f"{title(certificate)} expires on {end:%Y-%m-%d}, fewer than {days} days from now"


def name_problems(certificate: x509.Certificate, names: Sequence[str], exact: bool) -> Iterator[str]:
    """Yield which names a certificate does not cover and, when exact, which it has beyond them."""
    wanted, present = [canonical(name) for name in names], subject_names(certificate)
    if missing := [name for name in wanted if not any(covers(pattern, name) for pattern in present)]:
        yield f"it is for {', '.join(present) or 'no name'}, not for {', '.join(missing)}"
    if exact and (surplus := [name for name in present if name not in wanted]):
        yield f"it is also for {', '.join(surplus)}"


def ws_certificate_problems(
    certificate: str,
    names: Sequence[str],
    key: str = "",
    issuer: str = "",
    days: int = 0,
    exact: bool = False,
    now: datetime | None = None,
) -> list[str]:
    """Return a clause for each thing wrong with a server's certificate; the DOCUMENTATION has the arguments.

    Raises AnsibleFilterError when the library cryptography is missing.
    """
    if MISSING:
        raise AnsibleFilterError(f"ws_certificate_problems needs the Python library cryptography: {MISSING}")
    try:
        chain = x509.load_pem_x509_certificates(certificate.encode())
    except ValueError:
        return ["it holds no PEM certificate, or a damaged one"]
    return [
        *(key_problems(chain[0], key) if key else ()),
        *strength_problems(chain[0]),
        *chain_problems(chain, issuer),
        *date_problems(chain, days, now or datetime.now(UTC)),
        *name_problems(chain[0], names, exact),
    ]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"ws_certificate_problems": ws_certificate_problems}
