#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_info
short_description: Say what runs of a websockets app on a host
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - Lists the slots with the processes that serve them, the processes that still drain, nginx's old workers, and what
    is wrong. Reads only, and also where nothing is installed.
  - Connections are those that the kernel counts, whatever the app.
attributes:
  check_mode:
    support: full
    description: Changes nothing anyway.
  diff_mode:
    support: none
    description: Changes nothing.
options:
  app:
    description: Name of the app, the prefix of its processes and sockets.
    type: str
    required: true
  path:
    description: Folder of the app's releases and generations. The default is C(/opt/APP).
    type: path
  router:
    description: What sends the host's connections to the processes, for the part of the proxy in RV(memory).
    type: str
    choices: [nginx, haproxy, reuse_port]
    default: nginx
  tls:
    description: Whether it ends TLS.
    type: bool
    default: true
  https_port:
    description: Port of this host that shows the certificates of O(server_names).
    type: int
  proxy_protocol:
    description: Whether that port wants the PROXY protocol.
    type: bool
    default: false
  server_names:
    description: Names whose certificates are looked at, on O(https_port).
    type: list
    elements: str
    default: []
notes:
  - Needs root.
seealso:
  - module: wsfleet.websockets.ws_rollout
"""

EXAMPLES = r"""
- name: Look at the app
  wsfleet.websockets.ws_info:
    app: chat
  register: chat

- name: Fail where something is wrong
  ansible.builtin.assert:
    that: chat.problems == []
    fail_msg: "{{ chat.problems | join('; ') }}"
"""

RETURN = r"""
app:
  description: Name of the app.
  returned: always
  type: str
  sample: chat
release:
  description: Name of the release that serves, empty when none does; of several, the newest generation's.
  returned: always
  type: str
  sample: 1.4.0-3f2a91c07b
generation:
  description: Number of the generation that serves, null when none does; of several, the newest.
  returned: always
  type: int
  sample: 7
out_of_service:
  description: Who took the host out of service, V(autoscale) or V(operator); empty when it serves.
  returned: always
  type: str
  sample: ""
slots:
  description: The slots, each with the process that serves it.
  returned: always
  type: list
  elements: dict
  contains: &process
    slot:
      description: Number of the slot.
      type: int
    process:
      description: Name that supervisord has for the process.
      type: str
    generation:
      description: Number of its generation.
      type: int
    release:
      description: Name of its release.
      type: str
    pid:
      description: Its process id, null when it doesn't run.
      type: int
    state:
      description:
        - Its state in the words of supervisord.
        - V(ORPHAN) when it runs and supervisord doesn't know it, V(MISSING) when it doesn't run either.
      type: str
    age_seconds:
      description: Seconds since it was started, null when it doesn't run.
      type: int
    connections:
      description: Connections that it holds.
      type: int
    memory_bytes:
      description: Memory that it uses (proportional set size).
      type: int
    handover:
      description:
        - What it took over of the process before it, null when nothing. The numbers of connections that moved and that
          stayed to be closed, the seconds that it took, and for how many milliseconds a connection was paused. Only in
          RV(slots).
      type: dict
  sample:
    - slot: 0
      process: chat_00-g7:chat_00
      generation: 7
      release: 1.4.0-3f2a91c07b
      pid: 1207
      state: RUNNING
      age_seconds: 86400
      connections: 512
      memory_bytes: 73400320
      handover:
        moved: 498
        stayed: 2
        seconds: 0.7
        pause_p50_ms: 4.1
        pause_p99_ms: 12.3
        pause_max_ms: 15.0
draining:
  description:
    - Processes that run and no longer serve, orphans included.
    - Those that a rollout keeps while it watches their successors are among them.
  returned: always
  type: list
  elements: dict
  contains:
    <<: *process
    seconds_left:
      description: Seconds until supervisord kills it, null when it wasn't told to stop or is an orphan.
      type: int
  sample:
    - slot: 0
      process: chat_00-g6:chat_00
      generation: 6
      release: 1.3.2-9d0c61e5aa
      pid: 911
      state: STOPPING
      age_seconds: 172800
      connections: 87
      memory_bytes: 68157440
      seconds_left: 21
nginx:
  description: The workers of nginx.
  returned: always
  type: dict
  contains:
    workers:
      description: Number of workers that accept connections.
      type: int
    old_workers:
      description: Workers that a reload has replaced, and that stay until their last connection ends.
      type: list
      elements: dict
      contains:
        pid:
          description: Process id.
          type: int
        age_seconds:
          description: Seconds since it was started.
          type: int
        connections:
          description: Connections of clients that it holds.
          type: int
  sample:
    workers: 2
    old_workers:
      - pid: 640
        age_seconds: 90061
        connections: 3
memory:
  description:
    - What a connection takes, reckoned from the settings that a serving process was started with; null when none runs,
      and for apps that don't use the runner.
    - It is what is allocated while no message waits. A fresh connection uses less and grows to this.
    - >-
      In the process, 16 KiB for the connection (measured with websockets 17.4, whose documentation says 14), and with
      compression 13 KiB and the windows and tables of zlib,
      C((1 << (window + 2)) + (1 << (level + 9)) + (1 << window)), the last twice where connections can move. In nginx
      66 KiB with TLS, 24 without; in HAProxy 50 and 23; in a process that ends TLS itself 50, on asyncio 300; in the
      kernel 9, or 4 without a proxy (measured).
  returned: always
  type: dict
  contains:
    connection_bytes:
      description: One connection, all parts.
      type: int
    process_bytes:
      description: Its part in the process.
      type: int
    proxy_bytes:
      description: Its part in nginx or HAProxy.
      type: int
    kernel_bytes:
      description: Its part in the kernel.
      type: int
    worst_bytes:
      description: One connection whose client fills the buffers, C((max_queue + 1) * max_size + write_limit) more.
      type: int
    available_bytes:
      description: C(MemAvailable) of the host.
      type: int
    more_connections:
      description: Connections that this is enough for.
      type: int
    total_bytes:
      description: Memory of the host.
      type: int
    max_connections:
      description: Connections that the processes accept together, null without a limit.
      type: int
    max_bytes:
      description: What these take, null without a limit.
      type: int
  sample:
    connection_bytes: 128000
    process_bytes: 70656
    proxy_bytes: 48128
    kernel_bytes: 9216
    worst_bytes: 17986560
    available_bytes: 3435973836
    more_connections: 26843
    total_bytes: 8589934592
    max_connections: 20000
    max_bytes: 2560000000
certificates:
  description: The certificates that clients are shown, whether or not they would accept them.
  returned: when O(https_port) is set
  type: list
  elements: dict
  contains:
    name:
      description: Name that was asked for.
      type: str
    not_after:
      description: When it expires, in UTC; null when none was shown.
      type: str
    days_left:
      description: Whole days until then, negative when it has expired; null when none was shown.
      type: int
    problem:
      description: Why none was shown.
      type: str
  sample:
    - name: chat.example.com
      not_after: "2030-01-31T12:00:00Z"
      days_left: 61
      problem: ""
problems:
  description: What is wrong, a sentence each.
  returned: always
  type: list
  elements: str
  sample: ["chat_03 has no process of generation 7 (FATAL)"]
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout
from ansible_collections.wsfleet.websockets.plugins.module_utils.info import Info
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.served import certificate
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    Supervisor,
    SupervisorError,
)


def main() -> None:
    module = AnsibleModule(
        {
            "app": {"type": "str", "required": True},
            "path": {"type": "path"},
            "router": {"type": "str", "choices": ["nginx", "haproxy", "reuse_port"], "default": "nginx"},
            "tls": {"type": "bool", "default": True},
            "https_port": {"type": "int"},
            "proxy_protocol": {"type": "bool", "default": False},
            "server_names": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    app = module.params["app"]
    layout = Layout(app, module.params["path"] or f"/opt/{app}")
    try:
        supervisor = Supervisor.of_host()
    except SupervisorError as error:
        module.fail_json(msg=str(error))
    result = Info(
        layout, supervisor, Kernel(), router=module.params["router"], tls=module.params["tls"]
    ).result()
    if port := module.params["https_port"]:
        names, proxied = module.params["server_names"], module.params["proxy_protocol"]
        result["certificates"] = [certificate(port, name, time.time(), proxied) for name in names]
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
