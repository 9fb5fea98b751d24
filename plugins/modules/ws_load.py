#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_load
short_description: Measure how much the processes of a websockets app have to do
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - Looks at the processes that serve twice, O(seconds) apart, and returns each one's part of a core, connections, and
    how late its event loop was. Reads only, and also where nothing is installed.
  - CPU and connections are what the kernel counts, whatever the app. The event loop's lag is what the runner tells
    Prometheus, C(ws_event_loop_lag_seconds), on the unix socket C(APP_NN.sock.metrics) beside that of the process.
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
  seconds:
    description: Seconds between the two looks, 1 or more.
    type: int
    default: 10
notes:
  - Needs root.
seealso:
  - module: wsfleet.websockets.ws_info
  - plugin: wsfleet.websockets.ws_autoscale
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Measure the load
  wsfleet.websockets.ws_load:
    app: chat
  register: load

- name: Say which process has the most to do
  ansible.builtin.debug:
    msg: "{{ load.processes | sort(attribute='cpu_percent') | last }}"
"""

RETURN = r"""
cores:
  description: Cores that processes of the host can use.
  returned: always
  type: int
  sample: 4
processes:
  description: The processes that serve, one for each slot.
  returned: always
  type: list
  elements: dict
  contains:
    slot:
      description: Number of the slot.
      type: int
    cpu_percent:
      description: Percent of a core that it used meanwhile.
      type: float
    connections:
      description: Connections that it held at the first look.
      type: int
    lag_ms:
      description: 99th percentile of its event loop's lag meanwhile, in milliseconds; null where it doesn't tell.
      type: float
  sample:
    - slot: 0
      cpu_percent: 41.2
      connections: 512
      lag_ms: 3.1
slots_changed:
  description:
    - Seconds since another generation, or more or fewer slots, came to serve, by any playbook; null when none did.
  returned: always
  type: float
  sample: 86412.3
service_changed:
  description:
    - Seconds since the host was taken into or out of service, or was given a release; null when it never was.
  returned: always
  type: float
  sample: 86412.3
out_of_service:
  description: Who took the host out of service, V(autoscale) or V(operator); empty when it serves.
  returned: always
  type: str
  sample: ""
problems:
  description: What is wrong, a sentence each, as M(wsfleet.websockets.ws_info) says.
  returned: always
  type: list
  elements: str
  sample: ["chat_03 has no process of generation 7 (FATAL)"]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout
from ansible_collections.wsfleet.websockets.plugins.module_utils.load import Measurement
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    CONFIGURATION,
    Supervisor,
    SupervisorError,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "app": {"type": "str", "required": True},
            "path": {"type": "path"},
            "seconds": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    app, seconds = module.params["app"], module.params["seconds"]
    if seconds < 1:
        module.fail_json(msg=f"seconds is {seconds}, allowed is 1 or more")
    layout = Layout(app, module.params["path"] or f"/opt/{app}")
    try:
        supervisor = Supervisor.from_configuration() if CONFIGURATION.exists() else None
    except SupervisorError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **Measurement(layout, supervisor, seconds).result())


if __name__ == "__main__":
    main()
