#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_install
short_description: Install Debian packages that are missing, and remove what came so
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - Installs packages, without those that they only recommend, where a file of theirs is missing, and notes in
    C(/var/lib/wsfleet/packages) that they came so and what came along. What was there before isn't touched, now or
    later.
  - Where nothing is missing, apt and dpkg aren't asked.
  - V(absent) purges what was noted, except for what another package needs by now.
attributes:
  check_mode:
    support: full
    description: Says what would be installed or removed, without what comes along. Needs no C(python3-apt).
  diff_mode:
    support: none
    description: There is nothing to show but names.
options:
  packages:
    description: Names of packages, each with the absolute path of a file without which it is missing.
    type: dict
    required: true
  state:
    description: Whether they are there.
    type: str
    choices: [present, absent]
    default: present
notes:
  - Needs root and apt. The lists of packages are fetched when they are older than a day.
"""

EXAMPLES = r"""
- name: Have curl
  wsfleet.websockets.ws_install:
    packages: {curl: /usr/bin/curl}

- name: Remove it, if it came so
  wsfleet.websockets.ws_install:
    packages: {curl: /usr/bin/curl}
    state: absent
"""

RETURN = r"""
packages:
  description: Those of O(packages) that were (or would be) installed or removed.
  returned: success
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.install import Install
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**change(module.params, module.check_mode))
    except StepError as error:
        module.fail_json(msg=str(error))


def change(options: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Install or remove what the options say and return the module's result."""
    install = Install(options["packages"])
    present = options["state"] == "present"
    names = install.missing() if present else install.ours()
    if names and not check_mode:
        (install.install if present else install.remove)(names)
    return {"changed": names != [], "packages": names}


if __name__ == "__main__":
    main()
