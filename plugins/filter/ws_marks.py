# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When what was done in a rollout, for the page of ws_report."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_marks
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Say when each host's slots were switched
positional: begin, end
description:
  - Makes the marks of M(wsfleet.websockets.ws_report) from the rollouts of the hosts, which role ws_supervisor
    registers as C(ws_supervisor_rollout). Hosts without one, or that changed nothing, have no marks.
options:
  _input:
    description: The variables of the hosts.
    type: list
    elements: dict
    required: true
  begin:
    description: When the change began, in Unix time, for one that was no rollout.
    type: float
  end:
    description: When it ended.
    type: float
"""

EXAMPLES = r"""
- name: Report what clients saw
  wsfleet.websockets.ws_report:
    proof: /tmp/proof.json
    html: /tmp/proof.html
    marks: "{{ ansible_play_hosts_all | map('extract', hostvars) | wsfleet.websockets.ws_marks }}"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description: The marks, in the order of their times.
  type: list
  elements: dict
"""

import typing as t


def _handed_over(rollout: t.Mapping[str, t.Any]) -> str:
    """How many connections moved to the new processes, if any did."""
    handovers = list(rollout.get("handover", {}).values())
    moved, stayed = (sum(handover[name] for handover in handovers) for name in ("moved", "stayed"))
    if not moved:
        return ""
    pause = max(handover["pause_max_ms"] for handover in handovers)
    return f", {moved:.0f} connections moved, paused for {pause:.0f} ms at most, {stayed:.0f} stayed to be closed"


def marks(
    hosts: list[t.Mapping[str, t.Any]], begin: float | None = None, end: float | None = None
) -> list[dict[str, t.Any]]:
    """Return the marks."""
    found: list[dict[str, t.Any]] = []
    rollouts = [
        (host["inventory_hostname"], host["ws_supervisor_rollout"])
        for host in hosts
        if "began" in host.get("ws_supervisor_rollout", {}) and host["ws_supervisor_rollout"]["changed"]
    ]
    for name, rollout in rollouts:
        began = rollout["began"]
        for moved in rollout["moved"]:
            text = f"slot {moved['slot']:02d} to generation {moved['to_generation']}"
            found.append({"time": began + moved["switched"], "kind": "switch", "host": name, "text": text})
        leaving = [moved for moved in rollout["moved"] if moved["from_generation"] is not None]
        if leaving:
            last = max(moved["switched"] for moved in rollout["moved"])
            text = f"generation {leaving[0]['from_generation']}{_handed_over(rollout)}"
            found.append({"time": began + last, "kind": "drain", "host": name, "text": text})
    if rollouts:
        begin = min(rollout["began"] for _name, rollout in rollouts)
        end = max(rollout["ended"] for _name, rollout in rollouts)
    if begin is not None and end is not None:
        found += [{"time": begin, "kind": "begin"}, {"time": end, "kind": "end"}]
    return sorted(found, key=lambda mark: float(mark["time"]))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_marks": marks}
