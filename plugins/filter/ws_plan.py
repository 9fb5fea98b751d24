# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many servers and processes a load takes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_plan
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Say how many servers and processes a load takes
positional: connections, messages_per_second
description:
  - Divides a load by what one server was measured to carry, with playbook C(capacity). A server is never planned for
    more connections, messages or processes than were measured on it.
  - The headroom is kept also while O(spare_servers) servers are down.
  - Fails where the load doesn't fit, and says how many servers it takes.
options:
  _input:
    description: The figures of a server, C(figures) of what playbook C(capacity) wrote.
    type: dict
    required: true
    suboptions:
      processes:
        description: Server processes it was measured with, 1 to 99.
        type: int
        required: true
      connections:
        description: Connections that it held, all processes together.
        type: int
        required: true
      messages_per_second:
        description: Messages of clients that it answered in a second, all processes together.
        type: float
        required: true
      handshakes_per_second:
        description: Opening handshakes that it completed in a second.
        type: float
      router:
        description: What it was measured with, C(ws_router); V(reuse_port) needs no variable for its room.
        type: str
        choices: [nginx, haproxy, reuse_port]
        default: nginx
      memory_bytes:
        description: Bytes of memory that the app and the router can use on it.
        type: int
      memory_bytes_per_connection:
        description: Bytes that a connection takes in the app's process and in the router.
        type: int
      memory_bytes_per_process:
        description: Bytes that a process without connections takes. A rollout runs two of each.
        type: int
  connections:
    description: Connections to expect, over all servers.
    type: float
    required: true
  messages_per_second:
    description: Messages a second to expect from clients, over all servers.
    type: float
    default: 0
  headroom_percent:
    description: What stays free of each measured figure, 0 to 90 percent.
    type: float
    default: 30
  spare_servers:
    description: Servers that may be down.
    type: int
    default: 1
  servers:
    description: How many servers there are. The default is as many as it takes.
    type: int
"""

EXAMPLES = r"""
# group_vars/ws_servers.yml, with what playbook capacity measured, kept as a file beside it
capacity: "{{ lookup('ansible.builtin.file', inventory_dir ~ '/capacity.json') | from_json }}"
plan: "{{ capacity.figures | wsfleet.websockets.ws_plan(20000, 8000, servers=groups['ws_servers'] | length) }}"
ws_supervisor_processes: "{{ plan.processes }}"
ws_app_max_connections: "{{ plan.variables.ws_app_max_connections }}"
"""

RETURN = r"""
_value:
  description: The plan.
  type: dict
  contains:
    servers:
      description: Servers, those that may be down included.
      type: int
    processes:
      description: Server processes on each.
      type: int
    spare_servers:
      description: O(spare_servers).
      type: int
    headroom_percent:
      description: O(headroom_percent).
      type: float
    connections_per_server:
      description: Connections of each server while the spare ones are down.
      type: int
    messages_per_second_per_server:
      description: Messages a second of each server then.
      type: float
    used_percent:
      description: What that is of the measured C(connections) and C(messages_per_second).
      type: dict
    memory_bytes_per_server:
      description: Memory for that, with the processes of a rollout; null where it wasn't measured.
      type: int
    seconds_to_reconnect:
      description:
        - Seconds in which the clients of the spare servers are connected to the others, when they try at once; null
          where handshakes weren't measured.
      type: float
    variables:
      description: Inventory variables of the servers.
      type: dict
  sample:
    servers: 5
    processes: 4
    spare_servers: 1
    headroom_percent: 30
    connections_per_server: 5000
    messages_per_second_per_server: 2000.0
    used_percent: {connections: 55.6, messages_per_second: 16.7}
    memory_bytes_per_server: null
    seconds_to_reconnect: null
    variables: {ws_supervisor_processes: 4, ws_app_max_connections: 2250, ws_nginx_connections: 9000}
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.wsfleet.websockets.plugins.module_utils.plan import PlanError, plan


def ws_plan(
    figures: t.Mapping[str, t.Any],
    connections: float,
    messages_per_second: float = 0,
    headroom_percent: float = 30,
    spare_servers: int = 1,
    servers: int | None = None,
) -> dict[str, t.Any]:
    """Return the plan."""
    try:
        result: dict[str, t.Any] = plan(
            figures,
            float(connections),
            float(messages_per_second),
            float(headroom_percent),
            int(spare_servers),
            None if servers is None else int(servers),
        )
    except (PlanError, AttributeError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"ws_plan: {error}") from error
    return result


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_plan": ws_plan}
