# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether all servers serve the same release."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_mixed_releases
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Say which servers serve which release, if not all the same
positional: limits
description:
  - Hosts that serve none, as edges do, don't count.
options:
  _input:
    description: Names of the hosts.
    type: list
    elements: str
    required: true
  limits:
    description: What M(wsfleet.websockets.ws_limits) returned on each of them, in their order.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Say whether the releases differ
  ansible.builtin.debug:
    msg: "{{ hosts | wsfleet.websockets.ws_mixed_releases(hosts | map('extract', hostvars, 'limits')) }}"
  vars:
    hosts: "{{ ansible_play_hosts }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: A sentence, or none.
  type: list
  elements: str
  sample: ["the servers serve different releases: 1.3.2-9d0c61e5aa on ws3; 1.4.0-3f2a91c07b on ws1, ws2"]
"""

import typing as t


def mixed_releases(hosts: list[str], limits: t.Iterable[dict[str, t.Any]]) -> list[str]:
    """Return the sentence."""
    serving: dict[str, list[str]] = {}
    for host, found in zip(hosts, limits, strict=True):
        if found["release"]:
            serving.setdefault(found["release"], []).append(host)
    if len(serving) < 2:
        return []
    which = "; ".join(f"{release} on {', '.join(names)}" for release, names in sorted(serving.items()))
    return [f"the servers serve different releases: {which}"]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_mixed_releases": mixed_releases}
