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
    M(wsfleet.websockets.ws_load) talk to them.
  - Reads only. How late the event loops are it learns from each process's C(/metrics), where there is one.
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
  log_from:
    description: RV(log_size) of an earlier run, since which nginx's error log is read.
    type: int
seealso:
  - module: wsfleet.websockets.ws_info
  - module: wsfleet.websockets.ws_load
"""

EXAMPLES = r"""
- name: See what the app uses
  wsfleet.websockets.ws_observe:
    app: chat
    seconds: 10
  become: true
  register: chat
"""

RETURN = r"""
seconds:
  description: Seconds that were watched.
  returned: success
  type: float
processors:
  description: Processors of the host.
  returned: success
  type: int
host_cpu_percent:
  description: Percent of all processors that were busy, with whatever.
  returned: success
  type: float
app:
  description: The server processes that serve the slots.
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
lag_ms:
  description:
    - Milliseconds by which the event loop of the worst process was late, at most, 99 times in 100; null where its
      metrics don't say.
    - It is the bound of a bucket of C(ws_event_loop_lag_seconds).
  returned: success
  type: float
said:
  description: Limits that nginx's error log has named since O(log_from), and how often.
  returned: success
  type: dict
  sample: {ws_nginx_connections: 12}
log_size:
  description: Where the error log ends, for O(log_from) of the next run.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member
from ansible_collections.wsfleet.websockets.plugins.module_utils.info import Info
from ansible_collections.wsfleet.websockets.plugins.module_utils.observe import Observer, Slot
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    CONFIGURATION,
    Supervisor,
    SupervisorError,
)


def main() -> None:
    module = AnsibleModule(
        {
            "app": {"type": "str", "required": True},
            "path": {"type": "path"},
            "seconds": {"type": "int", "default": 5},
            "log_from": {"type": "int"},
        },
        supports_check_mode=True,
    )
    app, seconds = module.params["app"], module.params["seconds"]
    if not 1 <= seconds <= 600:
        module.fail_json(msg=f"seconds is {seconds}: allowed is 1 to 600.")
    layout = Layout(app, module.params["path"] or f"/opt/{app}")
    try:
        supervisor = Supervisor.from_configuration() if CONFIGURATION.exists() else None
    except SupervisorError as error:
        module.fail_json(msg=str(error))
    generations = layout.read_generations()
    slots = [
        Slot(
            slot["pid"],
            layout.entrance(Member(slot["slot"], slot["generation"]), generations.get(slot["generation"])),
        )
        for slot in Info(layout, supervisor, Kernel()).result()["slots"]
        if slot["pid"]
    ]
    if not slots:
        module.fail_json(msg=f"{app} doesn't run here.")
    module.exit_json(changed=False, **Observer(slots).watch(seconds, module.params["log_from"]))


if __name__ == "__main__":
    main()
