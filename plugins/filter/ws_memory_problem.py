# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a host has memory for the connections that its processes accept."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_memory_problem
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Say why a host hasn't the memory for as many connections as its processes accept
positional: processes, memory_bytes
description:
  - Reckons what an open connection takes, in the process, in the proxy of the same host and in the kernel, as
    M(wsfleet.websockets.ws_info) does, and compares that with the host's memory.
  - Nothing is said where neither C(WS_MAX_CONNECTIONS) nor O(connections) is set, as no number is promised then, and
    where the app isn't the runner.
options:
  _input:
    description: Environment variables of the processes, the runner's settings.
    type: dict
    required: true
  processes:
    description: Number of processes.
    type: int
    required: true
  memory_bytes:
    description: Memory of the host.
    type: int
    required: true
  router:
    description: What sends the connections to the processes.
    type: str
    choices: [nginx, haproxy, reuse_port]
    default: nginx
  tls:
    description: Whether it ends TLS.
    type: bool
    default: true
  handover:
    description: Whether connections can move to new processes.
    type: bool
    default: false
  connections:
    description: Connections to expect on the host where C(WS_MAX_CONNECTIONS) is 0; V(0) is no number.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Refuse more connections than there is memory for
  ansible.builtin.assert:
    that: problem == ''
    fail_msg: "WS_MAX_CONNECTIONS is {{ problem }}"
  vars:
    environment: {WS_COMPRESSION: balanced, WS_MAX_CONNECTIONS: 50000}
    problem: "{{ environment | wsfleet.websockets.ws_memory_problem(4, 8 * 2 ** 30) }}"
"""

RETURN = r"""
_value:
  description: The end of a sentence that begins with the name of the setting and C(is), or nothing.
  type: str
  sample: 50000 for each of 4 processes, which take 27 GiB at about 140 KiB per connection, where the host has 8.0 GiB;
    allowed is 14760 or less
"""

import typing as t

from ansible_collections.wsfleet.websockets.plugins.module_utils.memory import problem


def memory_problem(
    environment: dict[str, t.Any],
    processes: int,
    memory_bytes: int,
    router: str = "nginx",
    tls: bool = True,
    handover: bool = False,
    connections: int = 0,
) -> str:
    """Return it."""
    return str(problem(environment, router, tls, handover, processes, memory_bytes, connections))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_memory_problem": memory_problem}
