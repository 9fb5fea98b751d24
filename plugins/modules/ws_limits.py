#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_limits
short_description: Say how many clients a host takes, and what differs between its disk and what runs
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - Walks the chain from the kernel over supervisord and the server processes to nginx or HAProxy, by live values, and
    says for each limit at how many clients it is hit and which variable raises it.
  - nginx doesn't show the configuration that it has loaded, so its C(worker_connections) is that on disk; when that
    wasn't loaded yet, RV(drift) says so. It counts for one worker, since the kernel may give all clients to one, and
    that one refuses when it is full.
  - Memory is the estimate of RV(wsfleet.websockets.ws_info#module:memory), by the settings that the processes run with
    and with TLS in the proxy; an app without the runner is taken to have the library's defaults. The handler's own
    needs come on top.
  - Reads only, and also where nothing is installed.
attributes:
  check_mode:
    support: full
    description: Changes nothing anyway.
  diff_mode:
    support: none
    description: Changes nothing.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  path:
    description: Folder of the app's releases and generations. The default is C(/opt/APP).
    type: path
notes:
  - Needs root.
seealso:
  - module: wsfleet.websockets.ws_info
"""

EXAMPLES = r"""
- name: Look at the limits
  wsfleet.websockets.ws_limits:
    app: chat
  register: limits

- name: Fail where there is room for fewer clients than are expected
  ansible.builtin.assert:
    that: limits.first.connections >= 20000
    fail_msg: "{{ limits.first.name }} is hit at {{ limits.first.connections }} clients"
"""

RETURN = r"""
app:
  description: Name of the app.
  returned: always
  type: str
  sample: chat
release:
  description: Id of the release that serves; empty where none does.
  returned: always
  type: str
  sample: 1.4.0-3f2a91c07b
clients:
  description: Connections of clients that are open now.
  returned: always
  type: int
  sample: 1108
links:
  description: The limits, that which is hit first first; empty where the app isn't served.
  returned: always
  type: list
  elements: dict
  contains: &link
    name:
      description: What is limited.
      type: str
    limit:
      description: Its limit, in RV(links[].unit).
      type: int
    unit:
      description: What is counted, such as V(connections), V(descriptors) or V(KiB).
      type: str
    per_connection:
      description: How many of that a client takes.
      type: int
    used:
      description: How many are used now.
      type: int
    connections:
      description: Number of clients from which on it may be hit.
      type: int
    variable:
      description: What raises it.
      type: str
first:
  description: The limit that is hit first, null where the app isn't served.
  returned: always
  type: dict
  contains: *link
  sample:
    name: worker_connections of an nginx worker
    limit: 16896
    unit: connections
    per_connection: 2
    used: 2221
    connections: 8445
    variable: ws_nginx_connections
backlogs:
  description:
    - Listening sockets of the app and its proxy, by name, and the port that processes share without a proxy. They limit
      a burst, not how many connections are open.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Socket of a slot, or port.
      type: str
    limit:
      description: Connections that the kernel keeps until they are accepted, cut to C(net.core.somaxconn).
      type: int
    waiting:
      description: Connections that wait now.
      type: int
    variable:
      description: What raises it.
      type: str
  sample:
    - name: chat_00.sock
      limit: 4096
      waiting: 0
      variable: WS_BACKLOG in ws_app_environment
drift:
  description:
    - What runs and isn't as on disk, a sentence each. Configuration that isn't loaded, problems that
      M(wsfleet.websockets.ws_info) finds, sockets without a process, old workers of nginx, changed kernel parameters.
  returned: always
  type: list
  elements: str
  sample: ["/etc/nginx/nginx.conf was changed since nginx was loaded: check it by nginx -t, then reload nginx"]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout
from ansible_collections.wsfleet.websockets.plugins.module_utils.info import Info
from ansible_collections.wsfleet.websockets.plugins.module_utils.limits import Limits
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    Supervisor,
    SupervisorError,
)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        {"app": {"type": "str", "required": True}, "path": {"type": "path"}},
        supports_check_mode=True,
    )
    app = module.params["app"]
    layout = Layout(app, module.params["path"] or f"/opt/{app}")
    try:
        supervisor = Supervisor.of_host()
    except SupervisorError as error:
        module.fail_json(msg=str(error))
    kernel = Kernel()
    module.exit_json(
        changed=False, **Limits(layout, Info(layout, supervisor, kernel).result(), kernel).result()
    )


if __name__ == "__main__":
    main()
