#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_lock
short_description: Keep two runs from changing an app of the fleet at once
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - A run takes the lock of an app on every host of the fleet before it moves anything, and gives it up when it is
    done. While it has it, other runs are refused in one sentence that says who has it, since when and what for.
  - The lock is C(/var/lib/wsfleet/locks/APP.json), which only root can read.
  - The lock belongs to the C(ansible-playbook) process. Its later tasks and plays take it again without effect. When
    it was killed, the next run from the same controller takes its lock over; one from elsewhere can't know and
    is refused until the playbook C(wsfleet.websockets.unlock) has removed it.
  - Each change is a line of JSON in C(/var/log/wsfleet/audit.log), for root and the group C(adm). Two lines per run
    need no rotation.
attributes:
  check_mode:
    support: full
    description: Reads only. A lock that would refuse the run is a warning.
  diff_mode:
    support: none
    description: A lock is gone when the run is.
  action:
    support: full
    description: The controller's half knows which process this is, and whether the one that has the lock still runs.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  state:
    description:
      - V(present) takes the lock, and fails when another run has it.
      - V(absent) gives it up. One that another run has stays, and one that is gone is fine.
    type: str
    choices: [present, absent]
    default: present
  what:
    description: What the run does, in a few words for people, without secrets. Required with O(state=present).
    type: str
  outcome:
    description: How the run ended, for the audit log. Only with O(state=absent).
    type: str
    choices: [ok, failed]
    default: ok
  force:
    description: Whether O(state=absent) removes the lock of another run, too.
    type: bool
    default: false
  run:
    description: The run on the controller; the action sets it.
    type: dict
  instead_of:
    description: Id of the run that has ended without giving up its lock; the action sets it.
    type: str
    default: ""
notes:
  - Needs root on the host. Linux on the controller, for a lock to be taken over.
  - A lock that a run takes and gives up is no change. Only its removal by O(force) is.
"""

EXAMPLES = r"""
- name: Take the lock
  wsfleet.websockets.ws_lock:
    app: chat
    what: deploy chat 1.4.2

- name: Give it up
  wsfleet.websockets.ws_lock:
    app: chat
    state: absent

- name: Remove whoever's lock
  wsfleet.websockets.ws_lock:
    app: chat
    state: absent
    force: true
"""

RETURN = r"""
holder:
  description: Who has the lock now, or in check mode and with O(force) before; null when nobody.
  returned: always
  type: dict
  contains: &holder
    id:
      description: The run.
      type: str
      sample: laptop-4711-8191234
    who:
      description: User and host name on the controller.
      type: str
      sample: alice@laptop
    when:
      description: Time in UTC.
      type: str
      sample: "2026-11-21T11:44:26Z"
    what:
      description: What for.
      type: str
      sample: deploy chat 1.4.2
taken_over:
  description: The run that was killed and left its lock, which this one has now; null when there was none.
  returned: always
  type: dict
  contains: *holder
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.fleet_lock import FleetLock, Run


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "what": {"type": "str"},
            "outcome": {"type": "str", "choices": ["ok", "failed"], "default": "ok"},
            "force": {"type": "bool", "default": False},
            "run": {"type": "dict"},
            "instead_of": {"type": "str", "default": ""},
        },
        required_if=[("state", "present", ("what",))],
        supports_check_mode=True,
    )
    options = module.params
    lock, run = FleetLock(options["app"]), Run(**options["run"])
    forced = options["state"] == "absent" and options["force"]
    if module.check_mode:
        holder = lock.holder()
    elif forced:
        holder = lock.force(run)
    elif options["state"] == "absent":
        holder = lock.release(run, options["outcome"])
    else:
        holder = lock.take(run, options["what"], options["instead_of"])
    module.exit_json(changed=forced and holder is not None, holder=asdict(holder) if holder else None)


if __name__ == "__main__":
    main()
