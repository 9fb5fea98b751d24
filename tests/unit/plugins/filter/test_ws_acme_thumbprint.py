# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Thumbprints that others have computed."""

from __future__ import annotations

import base64

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.wsfleet.websockets.plugins.filter import ws_acme_thumbprint as plugin
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

thumbprint = plugin.ws_acme_thumbprint

# RFC 7638, section 3.1
RSA_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs"
    "tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajr"
    "n1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)
RSA_THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"

# The first of RFC 7517, appendix A.1, and one whose x begins with a zero octet, both hashed by openssl dgst
EC_KEYS = [
    (
        "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s",
    ),
    (
        "AFVDiUrz0A7X10Cr29dclrBod7eH219w7qeLkKjXwAo",
        "u0yFo9jqKe-q-iRAaRLdhNWxTcMr9lbvbGvVil2UP5I",
        "7Yxe6c_3bAa6kiaK1G-BZmi9EeNsUmlcbdnrtLeuK4E",
    ),
]


def decode(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(f"{text}=="), "big")


def pem(public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> str:
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_an_rsa_key() -> None:
    public_key = rsa.RSAPublicNumbers(65537, decode(RSA_N)).public_key()
    assert thumbprint(pem(public_key)) == RSA_THUMBPRINT


@pytest.mark.parametrize(("x", "y", "expected"), EC_KEYS)
def test_a_key_on_p_256(x: str, y: str, expected: str) -> None:
    public_key = ec.EllipticCurvePublicNumbers(decode(x), decode(y), ec.SECP256R1()).public_key()
    assert thumbprint(pem(public_key)) == expected


@pytest.mark.parametrize(("curve", "octets"), [(ec.SECP384R1(), 48), (ec.SECP521R1(), 66)])
def test_numbers_of_other_curves_are_as_long_as_the_curve_wants(curve: ec.EllipticCurve, octets: int) -> None:
    members = plugin.web_key(ec.derive_private_key(1, curve).public_key())
    assert len(base64.urlsafe_b64decode(members["x"] + "==")) == octets


@pytest.mark.parametrize(
    "text", ["", "hello", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
def test_text_that_is_no_key(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match="not a PEM public key"):
        thumbprint(text)


@pytest.mark.parametrize(
    "private_key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())]
)
def test_a_key_that_no_acme_server_takes(
    private_key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    with pytest.raises(AnsibleFilterError, match="RSA keys, or keys on the curves"):
        thumbprint(pem(private_key.public_key()))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "MISSING", ImportError("No module named 'cryptography'"))
    with pytest.raises(AnsibleFilterError, match="needs the Python library cryptography"):
        thumbprint("")


def test_the_filter_is_found_by_its_name() -> None:
    assert plugin.FilterModule().filters() == {"ws_acme_thumbprint": thumbprint}
