#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_daemon
short_description: Replace a running nginx or supervisord by the installed one, without losing a connection
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - A daemon runs the program and libraries that it was started with, whatever has been installed since. This module
    looks whether they were replaced on disk, by an upgrade of a library too, and if so has the installed ones run.
  - nginx is upgraded on the fly. The new master inherits the listening sockets, its workers take over, and the old
    workers stay until the clients they have are gone. When the new nginx doesn't serve, the old one goes on.
  - supervisord is killed, which its programs survive, and started. It starts each server process of
    M(wsfleet.websockets.ws_rollout) anew; a new one takes over the socket, and when it is healthy, the old one gets
    SIGTERM and drains. The server processes run the installed Python then, too.
  - A run that was killed in the middle is finished by the next one.
  - What doesn't run isn't started.
attributes:
  check_mode:
    support: full
    description: Says whether and why the daemon would be replaced, or refused.
  diff_mode:
    support: none
    description: No file changes.
options:
  name:
    description: The daemon.
    type: str
    choices: [nginx, supervisord]
    required: true
  force:
    description: Whether to replace it without a reason.
    type: bool
    default: false
  restart_others:
    description:
      - supervisord may run programs that aren't server processes of M(wsfleet.websockets.ws_rollout). They can't run
        twice, so they have to be stopped before it is replaced, and are started after.
      - Without this, the module refuses when there are any.
    type: bool
    default: false
  timeout:
    description: Seconds that new processes may take to serve.
    type: int
    default: 60
notes:
  - Needs root, and Debian's packages and systemd units C(nginx) and C(supervisor).
  - Server processes on TCP ports can't run twice, so each of them stops before the new one can start.
"""

EXAMPLES = r"""
- name: Have the installed nginx run
  wsfleet.websockets.ws_daemon:
    name: nginx

- name: Replace supervisord and all server processes
  wsfleet.websockets.ws_daemon:
    name: supervisord
    force: true
"""

RETURN = r"""
reasons:
  description: Why the daemon was (or, in check mode, would be) replaced.
  returned: success
  type: list
  elements: str
  sample: ["it runs /usr/sbin/nginx, which was replaced"]
draining:
  description: Old processes that only serve the connections they still have.
  returned: success
  type: list
  elements: str
  sample: ["nginx: worker process (pid 4711)", "echo_00-g3:echo_00 (pid 812)"]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.daemon import DaemonError, Host
from ansible_collections.wsfleet.websockets.plugins.module_utils.daemon_nginx import Nginx
from ansible_collections.wsfleet.websockets.plugins.module_utils.daemon_supervisord import Supervisord
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    Supervisor,
    SupervisorError,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "choices": ["nginx", "supervisord"], "required": True},
            "force": {"type": "bool", "default": False},
            "restart_others": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except (DaemonError, StepError, SupervisorError) as error:
        module.fail_json(msg=str(error))


def run(options: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Replace the daemon if needed and return the module's result."""
    daemon = find(options)
    half_replaced = daemon.is_half_replaced()
    outdated = daemon.outdated() or (["it was asked for"] if options["force"] and daemon.is_running() else [])
    if half_replaced and not check_mode:
        daemon.finish()
    if outdated:
        daemon.refuse()
    if outdated and not check_mode:
        daemon.replace()
    reasons = (["its last replacement was cut off"] if half_replaced else []) + outdated
    return {"changed": reasons != [], "reasons": reasons, "draining": daemon.draining()}


def find(options: dict[str, t.Any]) -> Nginx | Supervisord:
    """The daemon that the options name."""
    if options["name"] == "nginx":
        return Nginx(Host(), options["timeout"])
    supervisor = Supervisor.from_configuration()
    return Supervisord(Host(), supervisor, options["restart_others"], options["timeout"])


if __name__ == "__main__":
    main()
