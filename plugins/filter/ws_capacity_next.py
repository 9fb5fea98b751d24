# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What playbook capacity tries next."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_capacity_next
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Say with how many connections a ramp goes on
positional: start, most, limits
description:
  - Doubles the connections until a stage passes a limit, then goes between the last that was good and the first that
    was not, until these are within 15 percent. Ends when the load generator was too slow, and after 12 stages.
options:
  _input:
    description: The stages so far, each with C(load) of M(wsfleet.websockets.ws_load) and C(host) of
      M(wsfleet.websockets.ws_observe).
    type: list
    elements: dict
    required: true
  start:
    description: Connections of the first stage.
    type: int
    required: true
  most:
    description: Connections that no stage may exceed.
    type: int
    required: true
  limits:
    description: Milliseconds that answers, C(p99_ms), and event loops, C(lag_ms), may be late.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Begin
  ansible.builtin.debug:
    msg: "{{ [] | wsfleet.websockets.ws_capacity_next(50, 20000, {'p99_ms': 100, 'lag_ms': 50}) }}" # 50
"""

RETURN = r"""
_value:
  description: The connections, 0 when the ramp has ended.
  type: int
"""

import typing as t

from ansible_collections.wsfleet.websockets.plugins.module_utils.capacity import following


def capacity_next(
    stages: list[dict[str, t.Any]], start: int, most: int, limits: t.Mapping[str, t.Any]
) -> int:
    """Return the connections."""
    numbers = {name: float(value) for name, value in limits.items()}
    connections: int = following(stages, int(start), int(most), numbers)
    return connections


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_capacity_next": capacity_next}
