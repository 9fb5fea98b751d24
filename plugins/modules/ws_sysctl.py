#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_sysctl
short_description: Raise kernel parameters, and give back what they were
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - Sets kernel parameters that are too low, now and at boot, by C(/etc/sysctl.d/60-wsfleet-host.conf), where each has
    its reason. One that is high enough is left as it is, and one that this kernel doesn't have is left out.
  - What they were is noted in C(/var/lib/wsfleet/sysctl.json). With O(parameters=[]) each is set to that again, unless
    somebody else has changed it since.
  - Several sets, such as those of several apps, may want the same parameter; it has the highest value of theirs.
  - A container may not be allowed to set a parameter, which is no failure, see RV(refused).
attributes:
  check_mode:
    support: full
    description: Says what would change; changes nothing.
  diff_mode:
    support: full
    description: Shows the file, and each parameter before and after.
options:
  name:
    description: Name of the set, for example that of an app.
    type: str
    required: true
  parameters:
    description: The whole set. What an earlier run of the same O(name) had and this one doesn't is given back.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the parameter, such as V(net.core.somaxconn).
        type: str
        required: true
      value:
        description:
          - Number to have at least; or two of them, lowest and highest, of a range to have at least, as in
            V(net.ipv4.ip_local_port_range).
        type: str
        required: true
      why:
        description: The reason, for the comment in the file.
        type: str
        default: ""
notes:
  - Needs root.
seealso:
  - module: ansible.posix.sysctl
"""

EXAMPLES = r"""
- name: Have room for a burst of handshakes
  wsfleet.websockets.ws_sysctl:
    name: chat
    parameters:
      - name: net.core.somaxconn
        value: "16384"
        why: The kernel cuts every listen backlog to this.

- name: Have it as it was
  wsfleet.websockets.ws_sysctl:
    name: chat
    parameters: []
"""

RETURN = r"""
changes:
  description: The running kernel's values that changed, by parameter.
  returned: success
  type: dict
  sample: {net.core.somaxconn: {before: "4096", after: "16384"}}
refused:
  description: Why the kernel didn't take a value, by parameter.
  returned: success
  type: dict
  sample: {fs.nr_open: Read-only file system}
"""

import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.sysctl import Outcome, Parameter, Sysctls


def wrong(parameters: list[Parameter]) -> str:
    """Return what can't be, in a sentence."""
    for one in parameters:
        if not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_-]+)+", one.name):
            return f"parameters: name is '{one.name}', but must be a parameter such as net.core.somaxconn."
        if not re.fullmatch(r"\d+( \d+)?", one.value):
            return (
                f"parameters: value of {one.name} is '{one.value}', but must be a number, or two and a space."
            )
    return ""


def diff(outcome: Outcome) -> list[dict[str, str]]:
    """The changes as Ansible shows them."""
    live = [
        {"before_header": name, "after_header": name, "before": f"{before}\n", "after": f"{after}\n"}
        for name, (before, after) in outcome.changes.items()
    ]
    return [*live, {"before": outcome.before, "after": outcome.after}]


def main() -> None:
    """Run as an Ansible module."""
    options = {
        "name": {"type": "str", "required": True},
        "value": {"type": "str", "required": True},
        "why": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "parameters": {"type": "list", "elements": "dict", "required": True, "options": options},
        },
        supports_check_mode=True,
    )
    parameters = [Parameter(**one) for one in module.params["parameters"]]
    if problem := wrong(parameters):
        module.fail_json(msg=problem)
    try:
        outcome = Sysctls(module.params["name"]).apply(parameters, dry=module.check_mode)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"The kernel's parameters can't be noted: {error}")
    module.exit_json(
        changed=outcome.changed,
        changes={name: {"before": old, "after": new} for name, (old, new) in outcome.changes.items()},
        refused=outcome.refused,
        diff=diff(outcome),
    )


if __name__ == "__main__":
    main()
