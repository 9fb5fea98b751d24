# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far a change of many servers is."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_pace
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Say how many servers are done, and how long the others take
positional: last, seconds
description:
  - The others are taken to need as long, each, as those that are done.
options:
  _input:
    description: Names of all servers, in their order.
    type: list
    elements: str
    required: true
  last:
    description: Name of the last one that is done.
    type: str
    required: true
  seconds:
    description: Seconds that this took.
    type: float
    required: true
"""

EXAMPLES = r"""
- name: Say how far this is
  ansible.builtin.debug:
    msg: "{{ ansible_play_hosts_all | wsfleet.websockets.ws_pace(ansible_play_batch | last, 40) }}"
"""

RETURN = r"""
_value:
  description: A sentence.
  type: str
  sample: 2 of 6 servers are done, the others take about 80 s
"""

import typing as t


def pace(hosts: list[str], last: str, seconds: float) -> str:
    """Return the sentence."""
    done = hosts.index(last) + 1
    if done == len(hosts):
        return f"{done} of {done} servers are done"
    rest = float(seconds) * (len(hosts) - done) / done
    return f"{done} of {len(hosts)} servers are done, the others take about {rest:.0f} s"


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_pace": pace}
