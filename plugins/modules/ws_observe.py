#!/usr/bin/python
# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_observe
short_description: Say what a websockets app and its router use of a server
version_added: 0.1.0
description:
  - Watches the processes of the app's slots, and nginx or HAProxy of the host, for some seconds, while clients or
    M(wsfleet.websockets.ws_load) talk to them. Reads only, and also where nothing is installed.
  - CPU and connections are what the kernel counts, whatever the app. The event loop's lag is what the runner tells
    Prometheus, C(ws_event_loop_lag_seconds), on the unix socket that each process has for that.
author:
  - The wsfleet maintainers (@wsfleet)
attributes:
  check_mode:
    support: full
    description: Reads only.
  diff_mode:
    support: none
    description: Changes nothing.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  path:
    description: Where the app is installed. The default is C(/opt/<app>).
    type: path
  seconds:
    description: Seconds to watch, 1 to 600.
    type: int
    default: 5
  router:
    description: What passes connections on to the processes, C(ws_router), for RV(most_processes).
    type: str
    choices: [nginx, haproxy, reuse_port]
    default: nginx
  tls:
    description: Whether the router ends TLS, for RV(most_processes).
    type: bool
    default: true
  log_from:
    description: RV(log_size) of an earlier run, since which nginx's error log is read.
    type: int
notes:
  - Needs root.
seealso:
  - module: wsfleet.websockets.ws_info
  - module: wsfleet.websockets.ws_load
  - plugin: wsfleet.websockets.ws_autoscale
    plugin_type: filter
"""

EXAMPLES = r"""
- name: See what the app uses
  wsfleet.websockets.ws_observe:
    app: chat
    seconds: 10
  become: true
  register: chat

- name: Say which process has the most to do
  ansible.builtin.debug:
    msg: "{{ chat.processes | sort(attribute='cpu_percent') | last }}"
"""

RETURN = r"""
seconds:
  description: Seconds that were watched.
  returned: success
  type: float
processors:
  description: Processors that processes of the host can use.
  returned: success
  type: int
host_cpu_percent:
  description: Percent of all processors that were busy, with whatever.
  returned: success
  type: float
processes:
  description: The server processes that serve, one for each slot.
  returned: success
  type: list
  elements: dict
  contains:
    slot:
      description: Number of the slot.
      type: int
    cpu_percent:
      description: What it used, in percent of one processor.
      type: float
    connections:
      description: Connections that it holds.
      type: int
    lag_ms:
      description:
        - Milliseconds by which its event loop was late, at most, 99 times in 100; null where it doesn't tell.
        - Within a bucket of C(ws_event_loop_lag_seconds) as if evenly spread; of the last one, its lower bound.
      type: float
  sample:
    - slot: 0
      cpu_percent: 65.5
      connections: 500
      lag_ms: 3.1
    - slot: 1
      cpu_percent: 66.0
      connections: 500
      lag_ms: 2.8
app:
  description: All of them together.
  returned: success
  type: dict
  contains:
    pids:
      description: The processes.
      type: list
      elements: int
    cpu_percent:
      description: What they used, in percent of one processor.
      type: float
    busiest_percent:
      description: What the busiest of them used.
      type: float
    memory_bytes:
      description: Memory that they use, their part of shared pages included.
      type: int
    files_percent:
      description: The most that one of them has open, in percent of its limit.
      type: float
    connections:
      description: Connections that they hold.
      type: int
    max_connections:
      description: Whether one of them has as many as C(ws_app_max_connections) allows.
      type: bool
  sample:
    pids: [811, 812]
    cpu_percent: 131.5
    busiest_percent: 66.0
    memory_bytes: 125829120
    files_percent: 3.1
    connections: 1000
    max_connections: false
router:
  description: The same of nginx and HAProxy, but for connections.
  returned: success
  type: dict
  sample:
    pids: [700, 701]
    cpu_percent: 40.2
    busiest_percent: 40.1
    memory_bytes: 52428800
    files_percent: 6.0
memory_bytes:
  description: Memory of the host.
  returned: success
  type: int
memory_available_bytes:
  description: What of it new processes can use without swapping, at the end.
  returned: success
  type: int
most_processes:
  description:
    - Processes that the host's memory has room for, each with as many connections as C(ws_app_max_connections)
      allows, as role ws_supervisor estimates it. Null where the processes aren't the runner's, or have no such limit.
  returned: success
  type: int
  sample: 12
lag_ms:
  description: The greatest of the processes; null where none tells.
  returned: success
  type: float
  sample: 3.1
said:
  description:
    - Limits that nginx's error log has named since O(log_from), and how often.
    - V(ws_haproxy_connections) where HAProxy had as many connections as it may have, at the end.
  returned: success
  type: dict
  sample: {ws_nginx_connections: 12}
log_size:
  description: Where the error log ends, for O(log_from) of the next run.
  returned: success
  type: int
slots_changed:
  description:
    - Seconds since another generation, or more or fewer slots, came to serve, by any playbook; null when none did.
  returned: success
  type: float
  sample: 86412.3
service_changed:
  description:
    - Seconds since the host was taken into or out of service, or was given a release; null when it never was.
  returned: success
  type: float
  sample: 86412.3
out_of_service:
  description: Who took the host out of service, V(autoscale) or V(operator); empty when it serves.
  returned: success
  type: str
  sample: ""
problems:
  description: What is wrong, a sentence each, as M(wsfleet.websockets.ws_info) says.
  returned: success
  type: list
  elements: str
  sample: ["chat_03 has no process of generation 7 (FATAL)"]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout
from ansible_collections.wsfleet.websockets.plugins.module_utils.observe import Observer
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    Supervisor,
    SupervisorError,
)


def main() -> None:
    module = AnsibleModule(
        {
            "app": {"type": "str", "required": True},
            "path": {"type": "path"},
            "seconds": {"type": "int", "default": 5},
            "router": {"type": "str", "choices": ["nginx", "haproxy", "reuse_port"], "default": "nginx"},
            "tls": {"type": "bool", "default": True},
            "log_from": {"type": "int"},
        },
        supports_check_mode=True,
    )
    app, seconds = module.params["app"], module.params["seconds"]
    if not 1 <= seconds <= 600:
        module.fail_json(msg=f"seconds is {seconds}: allowed is 1 to 600.")
    layout = Layout(app, module.params["path"] or f"/opt/{app}")
    try:
        supervisor = Supervisor.of_host()
    except SupervisorError as error:
        module.fail_json(msg=str(error))
    observer = Observer(layout, supervisor, module.params["router"], module.params["tls"])
    module.exit_json(changed=False, **observer.watch(seconds, module.params["log_from"]))


if __name__ == "__main__":
    main()
