# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where hosts of the inventory are reached by each other."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_servers
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Say where hosts are reached by each other
description:
  - A host's address is its variable C(ws_address), otherwise the C(ansible_host) by which the controller reaches
    it, otherwise its name.
  - Its port is the one on which C(ws_router) serves the app there.
options:
  _input:
    description: The hosts' variables, as in C(hostvars).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Balance over the servers
  ansible.builtin.include_role:
    name: wsfleet.websockets.ws_haproxy
  vars:
    ws_haproxy_servers: "{{ groups['ws_servers'] | map('extract', hostvars) | wsfleet.websockets.ws_servers }}"
"""

RETURN = r"""
_value:
  description: The hosts' C(name), C(address) and C(port), in their order.
  type: list
  elements: dict
  sample: [{name: ws1.example.org, address: 192.0.2.11, port: 443}]
"""

import typing as t

from ansible_collections.wsfleet.websockets.plugins.filter.ws_listener import listener


def servers(hosts: list[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return name, address and port of each."""
    return [
        {"name": host["inventory_hostname"], "address": address(host), "port": listener(host)["port"]}
        for host in hosts
    ]


def address(host: t.Mapping[str, t.Any]) -> str:
    """Return where the others reach it."""
    return str(host.get("ws_address") or host.get("ansible_host") or host["inventory_hostname"])


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_servers": servers}
