# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Certificates made here, good and bad, and what the filter says of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.wsfleet.websockets.plugins.filter import ws_certificate_problems as plugin
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
problems = plugin.ws_certificate_problems


@dataclass
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    private_key: Any

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key(self, password: str = "") -> str:
        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        return str(self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), "ascii")


def make(
    name: str = "ws.example.org",
    *more: str,
    signer: Pair | None = None,
    ca: bool = False,
    private_key: Any = None,
    start: datetime = NOW - timedelta(days=1),
    days: int = 90,
    san: bool = True,
) -> Pair:
    """Make a certificate for the names, by default good for 90 days and signed by itself."""
    private_key = private_key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if san:
        names = [
            x509.IPAddress(ip_address(item)) if item[0].isdigit() or ":" in item else x509.DNSName(item)
            for item in (name, *more)
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signing_key = signer.private_key if signer else private_key
    return Pair(builder.sign(signing_key, hashes.SHA256()), private_key)


ROOT = make("Root", ca=True)
INTERMEDIATE = make("Intermediate", ca=True, signer=ROOT)
LEAF = make(signer=INTERMEDIATE)
NAMES = ["ws.example.org"]


def test_a_good_chain_has_no_problem() -> None:
    chain = LEAF.pem + INTERMEDIATE.pem + ROOT.pem
    assert problems(chain, NAMES, key=LEAF.key(), now=NOW) == []
    assert problems(LEAF.pem + INTERMEDIATE.pem, NAMES, issuer=ROOT.pem, days=30, exact=True, now=NOW) == []


def test_a_certificate_that_signed_itself_is_good() -> None:
    assert problems(make().pem, NAMES, now=NOW) == []
    assert problems(make(ca=True).pem, NAMES, now=NOW) == []


@pytest.mark.parametrize(
    "text", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_text_that_is_no_certificate(text: str) -> None:
    assert problems(text, NAMES, now=NOW) == ["it holds no PEM certificate, or a damaged one"]


def test_the_key_may_be_given_as_a_public_key_or_a_request() -> None:
    public = LEAF.private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(LEAF.private_key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    assert problems(LEAF.pem, NAMES, key=public.decode(), now=NOW) == []
    assert problems(LEAF.pem, NAMES, key=request.decode(), now=NOW) == []
    assert problems(ROOT.pem, ["Root"], key=request.decode(), now=NOW) == [
        "its key belongs to another certificate"
    ]


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (ROOT.key(), "its key belongs to another certificate"),
        (LEAF.key("secret"), "its key is encrypted, and a server has nobody to ask for the passphrase"),
        (LEAF.pem, "its key is not a PEM private key"),
        ("hello", "its key is not a PEM private key"),
    ],
)
def test_a_key_that_does_not_fit(key: str, problem: str) -> None:
    assert problems(LEAF.pem, NAMES, key=key, now=NOW) == [problem]


def test_weak_keys() -> None:
    weak_rsa = make(private_key=rsa.generate_private_key(65537, 1024))  # noqa: S505 (that it is weak is the test)
    assert problems(weak_rsa.pem, NAMES, now=NOW) == ["its RSA key has 1024 bits, fewer than 2048"]
    weak_ec = make(private_key=ec.generate_private_key(ec.SECP224R1()))
    assert problems(weak_ec.pem, NAMES, now=NOW) == ["its EC key has 224 bits, fewer than 256"]
    good_rsa = make(private_key=rsa.generate_private_key(65537, 2048))
    assert problems(good_rsa.pem, NAMES, now=NOW) == []


def test_a_chain_in_the_wrong_order() -> None:
    found = problems(INTERMEDIATE.pem + LEAF.pem, ["Intermediate"], now=NOW)
    assert found == [
        "the certificate of 'CN=Intermediate' comes first, but is a CA's: the server's own must come first"
    ]
    leaf, root, intermediate = (
        f"the certificate of 'CN={name}'" for name in (*NAMES, "Root", "Intermediate")
    )
    assert problems(LEAF.pem + ROOT.pem + INTERMEDIATE.pem, NAMES, now=NOW) == [
        f"{leaf} is followed by {root}, which did not sign it",
        f"{root} is followed by {intermediate}, which did not sign it",
    ]


def test_a_signer_of_the_same_name_but_another_key() -> None:
    assert problems(LEAF.pem, NAMES, issuer=make("Intermediate", ca=True).pem, now=NOW) == [
        "the certificate of 'CN=ws.example.org' was not signed by the CA"
    ]


def test_dates() -> None:
    expired = make(start=NOW - timedelta(days=91))
    assert problems(expired.pem, NAMES, now=NOW) == [
        "the certificate of 'CN=ws.example.org' expired on 2026-01-14"
    ]
    future = make(start=NOW + timedelta(hours=1))
    assert problems(future.pem, NAMES, now=NOW) == [
        "the certificate of 'CN=ws.example.org' is not valid before 2026-01-15 13:00 UTC"
    ]
    ending = make(days=21)
    assert problems(ending.pem, NAMES, days=19, now=NOW) == []
    assert problems(ending.pem, NAMES, days=20, now=NOW) == [
        "the certificate of 'CN=ws.example.org' expires on 2026-02-04, fewer than 20 days from now"
    ]


def test_an_expired_intermediate_counts_too() -> None:
    old = make("Old", ca=True, start=NOW - timedelta(days=100), days=50)
    leaf = make(signer=old)
    assert problems(leaf.pem + old.pem, NAMES, now=NOW) == [
        "the certificate of 'CN=Old' expired on 2025-11-26"
    ]


@pytest.mark.parametrize(
    ("certificate", "name", "covered"),
    [
        ("ws.example.org", "WS.Example.Org.", True),
        ("ws.example.org", "a.ws.example.org", False),
        ("w.example.org", "ws.example.org", False),
        ("*.example.org", "ws.example.org", True),
        ("*.example.org", "*.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "a.b.example.org", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:0db8:0:0::1", True),
    ],
)
def test_names(certificate: str, name: str, covered: bool) -> None:
    found = problems(make(certificate).pem, [name], now=NOW)
    assert found == ([] if covered else [f"it is for {certificate}, not for {name}"])


def test_a_common_name_does_not_count() -> None:
    assert problems(make(san=False).pem, NAMES, now=NOW) == ["it is for no name, not for ws.example.org"]


def test_more_names_than_wanted_count_only_when_exact() -> None:
    both = make("ws.example.org", "old.example.org").pem
    assert problems(both, NAMES, now=NOW) == []
    assert problems(both, NAMES, exact=True, now=NOW) == ["it is also for old.example.org"]


def test_every_problem_is_told_at_once() -> None:
    assert len(problems(make(days=1).pem, ["other"], key=ROOT.key(), now=NOW)) == 3


def test_the_present_is_the_default_time() -> None:
    assert len(problems(make(start=datetime.now(UTC) - timedelta(days=91)).pem, NAMES)) == 1


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "MISSING", ImportError("No module named 'cryptography'"))
    with pytest.raises(AnsibleFilterError, match="needs the Python library cryptography"):
        problems(LEAF.pem, NAMES)


def test_the_filter_is_found_by_its_name() -> None:
    assert plugin.FilterModule().filters() == {"ws_certificate_problems": problems}
