# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The name that ACME servers give an account's key."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_acme_thumbprint
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Make the thumbprint of an ACME account's key
description:
  - The answer to a challenge (http-01) of an ACME server is the challenge's token, a full stop, and this thumbprint
    (RFC 7638). It is no secret.
requirements:
  - cryptography >= 42
options:
  _input:
    description: The public key as PEM text, RSA or elliptic curve.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Read the public half of the account's key
  community.crypto.openssl_privatekey_info:
    path: account-key.pem
  register: account

- name: Say what challenges are answered with
  ansible.builtin.debug:
    msg: "TOKEN.{{ account.public_key | wsfleet.websockets.ws_acme_thumbprint }}"
"""

RETURN = r"""
_value:
  description: The thumbprint.
  type: str
  sample: NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs
"""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
except ImportError as error:
    MISSING: ImportError | None = error
else:
    MISSING = None

CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def encode(octets: bytes) -> str:
    """Return octets in base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def number(value: int, size: int = 0) -> str:
    """Return a number in base64url, in `size` octets, or as few as it takes."""
    return encode(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def web_key(public_key: Any) -> dict[str, str]:
    """Return the members of a JSON Web Key that its thumbprint is made of."""
    if isinstance(public_key, rsa.RSAPublicKey):
        numbers = public_key.public_numbers()
        return {"e": number(numbers.e), "kty": "RSA", "n": number(numbers.n)}
    if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name in CURVES:
        point, size = public_key.public_numbers(), (public_key.key_size + 7) // 8
        curve = CURVES[public_key.curve.name]
        return {"crv": curve, "kty": "EC", "x": number(point.x, size), "y": number(point.y, size)}
    raise AnsibleFilterError("ACME accounts have RSA keys, or keys on the curves P-256, P-384 and P-521")


def ws_acme_thumbprint(public_key: str) -> str:
    """Return the thumbprint of a public key in PEM.

    Raises AnsibleFilterError for what is no such key, and when the library cryptography is missing.
    """
    if MISSING:
        raise AnsibleFilterError(f"ws_acme_thumbprint needs the Python library cryptography: {MISSING}")
    try:
        members = web_key(load_pem_public_key(public_key.encode()))
    except ValueError:
        raise AnsibleFilterError("the ACME account's key is not a PEM public key") from None
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return encode(hashlib.sha256(canonical.encode()).digest())


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"ws_acme_thumbprint": ws_acme_thumbprint}
