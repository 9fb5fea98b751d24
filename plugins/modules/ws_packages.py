#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_packages
short_description: Upgrade Debian packages while their services run on, and hold them from other upgrades
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - Debian's packages restart their services when they are upgraded, which cuts every connection. This module upgrades
    what is installed, with the services left alone. M(wsfleet.websockets.ws_daemon) then has the new version run.
  - For the time of the upgrade, C(/usr/sbin/policy-rc.d) refuses to touch O(services). One that is there already goes
    on to decide about all others, and is put back. What a killed run has left is cleared away by the next one.
  - Packages are upgraded although they are held, and are held again after. Nothing is removed, configuration files stay
    as they are, and needrestart restarts nothing.
attributes:
  check_mode:
    support: full
    description: Says what would be upgraded and held.
  diff_mode:
    support: full
    description: Shows the versions before and after.
options:
  sources:
    description:
      - Shell patterns of Debian source packages; meant are all packages built from them that are installed. For
        instance V(nginx) is nginx, nginx-common and its modules, and V(python3.*) is any Python with its libraries.
    type: list
    elements: str
    required: true
  services:
    description: Services to leave alone.
    type: list
    elements: str
    default: []
  upgrade:
    description: Whether to upgrade, as far as the lists of packages on the host know newer versions.
    type: bool
    default: true
  reinstall:
    description: Whether to install again what is of the newest version already.
    type: bool
    default: false
  hold:
    description:
      - Whether the packages are held, as C(apt-mark hold) does it, so that C(apt upgrade) and unattended-upgrades leave
        them alone. C(apt-mark showhold) lists them.
      - V(false) lifts what was held by this module, and no other holds. By default, nothing changes.
    type: bool
notes:
  - Needs root and apt.
"""

EXAMPLES = r"""
- name: Upgrade nginx and leave the one that runs alone, and have nothing else upgrade it
  wsfleet.websockets.ws_packages:
    sources: [nginx]
    services: [nginx]
    hold: true

- name: Lift the hold
  wsfleet.websockets.ws_packages:
    sources: [nginx]
    upgrade: false
    hold: false
"""

RETURN = r"""
upgrades:
  description: What was (or would be) installed, dependencies included.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the package.
      type: str
    before:
      description: Version before, empty for a dependency that is new.
      type: str
    after:
      description: Version after.
      type: str
held:
  description: Packages that were (or would be) held.
  returned: success
  type: list
  elements: str
unheld:
  description: Packages whose hold was (or would be) lifted.
  returned: success
  type: list
  elements: str
"""

import typing as t
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.packages import Packages
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "sources": {"type": "list", "elements": "str", "required": True},
            "services": {"type": "list", "elements": "str", "default": []},
            "upgrade": {"type": "bool", "default": True},
            "reinstall": {"type": "bool", "default": False},
            "hold": {"type": "bool"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**change(module.params, module.check_mode))
    except StepError as error:
        module.fail_json(msg=str(error))


def change(options: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Upgrade and hold what the options say and return the module's result."""
    packages = Packages(options["sources"], options["services"])
    repaired = not check_mode and packages.repair()
    upgrades = packages.upgrades(options["reinstall"]) if options["upgrade"] else []
    if upgrades and not check_mode:
        packages.upgrade(options["reinstall"])
    held = packages.to_hold() if options["hold"] is True else []
    unheld = packages.to_unhold() if options["hold"] is False else []
    if not check_mode:
        packages.hold(held)
        packages.unhold(unheld)
    return {
        "changed": bool(repaired or upgrades or held or unheld),
        "upgrades": [asdict(upgrade) for upgrade in upgrades],
        "held": held,
        "unheld": unheld,
        "diff": {
            "before": describe((upgrade.name, upgrade.before) for upgrade in upgrades),
            "after": describe((upgrade.name, upgrade.after) for upgrade in upgrades),
        },
    }


def describe(versions: t.Iterable[tuple[str, str]]) -> str:
    """A package per line, for diffs."""
    return "".join(f"{name} {version}\n" for name, version in versions)


if __name__ == "__main__":
    main()
