# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What autoscale does with each server."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_autoscale
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Decide how many processes each server should have
positional: loads, locks
description:
  - A server whose figures are within their bounds stays as it is. Where one is above, it gets as many processes as
    bring it to the middle of the bounds. Where all are below, up to a quarter of its processes go, as far as the others
    stay below the upper bounds. After a change of its slots there is time to wait before the next.
  - Where a server above its bounds has all the processes that it may have, and the others have no room either, spare
    ones are taken into service. When the others can do without them, they are taken out of it, up to a tenth of the
    servers at a time.
  - What isn't known isn't taken for little. A server that wasn't seen stays as it is, and none is taken out of service
    meanwhile. So does one that another run has locked.
options:
  _input:
    description: The hosts' variables, as in C(hostvars), with the inputs of the playbook C(autoscale).
    type: list
    elements: dict
    required: true
  loads:
    description: What M(wsfleet.websockets.ws_observe) returned on each of them, or failed to, in their order.
    type: list
    elements: dict
    required: true
  locks:
    description:
      - What M(wsfleet.websockets.ws_lock) returned on each of them in check mode, or failed to, in their order.
      - The default is that none is locked.
    type: list
    elements: dict
"""

EXAMPLES = r"""
- name: Measure the load
  wsfleet.websockets.ws_observe:
    app: chat
  register: load

- name: Decide
  ansible.builtin.debug:
    msg: "{{ hosts | wsfleet.websockets.ws_autoscale(hosts | map(attribute='load')) | map(attribute='text') }}"
  vars:
    hosts: "{{ ansible_play_hosts_all | map('extract', hostvars) }}"
  run_once: true
"""

RETURN = r"""
_value:
  description:
    - For each server C(name), C(change) (C(stay), C(scale), C(in) or C(out) of service), C(now) and C(processes), the
      numbers of processes before and after, and C(text), all of it in one line with the reasons.
  type: list
  elements: dict
  sample:
    - name: ws1.example.org
      change: scale
      now: 4
      processes: 6
      text: "ws1.example.org: 4 -> 6 processes: CPU 82 % is above 70 %"
"""

import math
import typing as t

from ansible.errors import AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.wsfleet.websockets.plugins.module_utils.autoscale import (
    Band,
    Load,
    Process,
    Rules,
    Server,
    decide,
)

Variables = t.Mapping[str, t.Any]


def autoscale(
    hosts: list[Variables], loads: t.Iterable[Variables], locks: t.Iterable[Variables] | None = None
) -> list[dict[str, t.Any]]:
    """Return what to do with each.

    Raises AnsibleFilterError for a wrong input.
    """
    held = [{}] * len(hosts) if locks is None else locks
    servers = [
        Server(
            host["inventory_hostname"],
            rules(host),
            None if (locked := holder(lock)) else load(seen),
            locked or problem(seen),
        )
        for host, seen, lock in zip(hosts, loads, held, strict=True)
    ]
    return [
        {
            "name": decision.name,
            "change": decision.change,
            "now": decision.now,
            "processes": decision.processes,
            "text": str(decision),
        }
        for decision in decide(servers)
    ]


def rules(host: Variables) -> Rules:
    """Return what is wanted of a host."""
    default = Rules()
    found = Rules(
        minimum=_whole(host, "ws_autoscale_min", default.minimum, 1, 99),
        maximum=_whole(host, "ws_autoscale_max", default.maximum, 0, 99),
        cpu=_band(host, "ws_autoscale_cpu_percent") or default.cpu,
        lag=_band(host, "ws_autoscale_lag_ms") or default.lag,
        connections=_band(host, "ws_autoscale_connections") or default.connections,
        up_seconds=_number(host, "ws_autoscale_up_seconds", default.up_seconds, 0, 86400),
        down_seconds=_number(host, "ws_autoscale_down_seconds", default.down_seconds, 0, 86400),
        spare=boolean(host.get("ws_autoscale_spare", default.spare)),
        memory=boolean(host.get("ws_supervisor_memory_check", default.memory)),
    )
    if 0 < found.maximum < found.minimum:
        raise _refusal(host, "ws_autoscale_max", found.maximum, "ws_autoscale_min or more")
    return found


def load(seen: Variables) -> Load | None:
    """Return what was seen of a host; None where it can't be relied on."""
    if "processes" not in seen or seen["problems"]:
        return None
    return Load(
        cores=int(seen["processors"]),
        processes=tuple(
            Process(process["cpu_percent"], process["connections"], process["lag_ms"])
            for process in seen["processes"]
        ),
        calm=_since(seen["slots_changed"]),
        at_post=_since(seen["service_changed"]),
        out=seen["out_of_service"],
        room=seen["most_processes"],
    )


def problem(seen: Variables) -> str:
    """Return why nothing was seen of a host, or why it can't be relied on."""
    if "processes" in seen:
        return "; ".join(seen["problems"])
    if seen.get("unreachable"):
        return "it doesn't answer"
    return " ".join(str(seen["msg"]).split())


def holder(lock: Variables) -> str:
    """Return which run has a host locked; empty where none has, or one that was killed, from which it is taken over."""
    found = lock.get("holder")
    if not found or lock["taken_over"]:
        return ""
    return f'{found["who"]} has it locked since {found["when"]} for "{found["what"]}"'


def _since(seconds: float | None) -> float:
    return math.inf if seconds is None else float(seconds)


def _number(host: Variables, name: str, default: float, least: float, most: float) -> float:
    value = host.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not least <= number <= most:
        raise _refusal(host, name, value, f"{least:g} to {most:g}")
    return number


def _whole(host: Variables, name: str, default: int, least: int, most: int) -> int:
    number = _number(host, name, default, least, most)
    if number % 1:
        raise _refusal(host, name, number, f"a whole number from {least} to {most}")
    return int(number)


def _band(host: Variables, name: str) -> Band | None:
    value = host.get(name)
    if not value:
        return None
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not 0 < low < high:
        raise _refusal(host, name, value, "[low, high], numbers with 0 < low < high")
    return Band(low, high)


def _refusal(host: Variables, name: str, value: t.Any, allowed: str) -> AnsibleFilterError:
    return AnsibleFilterError(f"{name} of {host['inventory_hostname']} is {value}, allowed is {allowed}")


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_autoscale": autoscale}
