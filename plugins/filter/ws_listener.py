# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What clients connect to on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_listener
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Say what clients connect to on a host
positional: edge
description:
  - Reads the inputs of the role that serves there, by C(ws_router), and on an edge by C(ws_edge).
options:
  _input:
    description: The host's variables, as in C(hostvars).
    type: dict
    required: true
  edge:
    description: Whether the host is an edge.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Say on which port a server is
  ansible.builtin.debug:
    msg: "{{ (hostvars['ws1.example.org'] | wsfleet.websockets.ws_listener).port }}"
"""

RETURN = r"""
_value:
  description:
    - The C(port) for WebSocket connections, whether they have C(tls) there, and the C(http_port) that sends others to
      it, 0 where there is none.
  type: dict
  sample: {tls: true, port: 443, http_port: 80}
"""

import typing as t

from ansible.module_utils.parsing.convert_bool import boolean


def listener(host: t.Mapping[str, t.Any], edge: bool = False) -> dict[str, t.Any]:
    """Return it."""
    by = host.get("ws_edge", "haproxy") if edge else host.get("ws_router", "nginx")
    if by == "reuse_port":
        tls = boolean(host.get("ws_reuse_port_tls", True))
        return {"tls": tls, "port": int(host.get("ws_reuse_port_port", 8443)), "http_port": 0}
    if by == "haproxy":
        mode = host.get("ws_haproxy_tls", "terminate")
        tls = mode not in ("off", False)  # YAML reads a bare off as false
        redirects = mode == "terminate"
    else:
        tls = redirects = boolean(host.get("ws_nginx_tls", True))
    http_port = int(host.get(f"ws_{by}_http_port", 80))
    if not tls:
        return {"tls": False, "port": http_port, "http_port": 0}
    port = int(host.get(f"ws_{by}_https_port", 443))
    return {"tls": True, "port": port, "http_port": http_port if redirects else 0}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_listener": listener}
