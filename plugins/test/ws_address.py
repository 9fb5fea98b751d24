# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a text is an IP address, or a network."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_address
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Whether a text is an IP address, or a network
description:
  - IPv4 or IPv6, without a port or brackets.
options:
  _input:
    description: What may be one.
    type: raw
    required: true
  network:
    description: Whether a network such as C(192.0.2.0/24) is as good. C(192.0.2.7/24) isn't one.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Refuse what isn't an address
  ansible.builtin.assert:
    that:
      - ws_address is wsfleet.websockets.ws_address
      - networks | reject('wsfleet.websockets.ws_address', network=true) == []
"""

RETURN = r"""
_value:
  description: Whether it is.
  type: bool
"""

import ipaddress
import typing as t


def is_address(text: object, network: bool = False) -> bool:
    """Return it."""
    try:
        (ipaddress.ip_network if network else ipaddress.ip_address)(str(text))
    except ValueError:
        return False
    return True


class TestModule:
    """The tests of this file."""

    def tests(self) -> dict[str, t.Callable[..., bool]]:
        return {"ws_address": is_address}
