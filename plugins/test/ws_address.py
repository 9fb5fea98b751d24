# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a text is an IP address."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_address
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Whether a text is an IP address
description:
  - IPv4 or IPv6, without a network, a port or brackets.
options:
  _input:
    description: What may be one.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Refuse what isn't an IP address
  ansible.builtin.assert:
    that: ws_address is wsfleet.websockets.ws_address
"""

RETURN = r"""
_value:
  description: Whether it is.
  type: bool
"""

import ipaddress
import typing as t


def is_address(text: object) -> bool:
    """Return it."""
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


class TestModule:
    """The tests of this file."""

    def tests(self) -> dict[str, t.Callable[..., bool]]:
        return {"ws_address": is_address}
