# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a text is an IP address or network."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_network
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Whether a text is an IP address or network
description:
  - IPv4 or IPv6, as C(192.0.2.7) or C(192.0.2.0/24).
  - C(192.0.2.7/24) isn't, as its address has bits beyond the prefix.
options:
  _input:
    description: What may be one.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Refuse what isn't an IP address or network
  ansible.builtin.assert:
    that: networks | reject('wsfleet.websockets.ws_network') == []
"""

RETURN = r"""
_value:
  description: Whether it is.
  type: bool
"""

import ipaddress
import typing as t


def is_network(text: object) -> bool:
    """Return it."""
    try:
        ipaddress.ip_network(str(text))
    except ValueError:
        return False
    return True


class TestModule:
    """The tests of this file."""

    def tests(self) -> dict[str, t.Callable[..., bool]]:
        return {"ws_network": is_network}
