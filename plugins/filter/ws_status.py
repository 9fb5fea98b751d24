# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words in which a terminal shows what ws_info found."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_status
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Say in lines what serves on a host
description:
  - A table of the processes, those that serve first, then what else there is to know.
options:
  _input:
    description: What M(wsfleet.websockets.ws_info) returned.
    type: dict
    required: true
  edge:
    description: Whether the host is a load balancer, of which only the certificates are shown.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Look at the processes
  wsfleet.websockets.ws_info:
    app: chat
  register: info

- name: Say what serves
  ansible.builtin.debug:
    msg: "{{ info | wsfleet.websockets.ws_status }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.wsfleet.websockets.plugins.module_utils.memory import size

HEAD = ("slot", "release", "gen", "state", "pid", "age", "connections", "memory")


def age(seconds: float) -> str:
    """A time in its two greatest units: 3d 4h, 5m 6s."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, rest = divmod(rest, length)
        if number or parts or unit == "s":
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2])


def _cells(member: dict[str, t.Any], name: str, state: str) -> tuple[str, ...]:
    return (
        name,
        member["release"],
        str(member["generation"]),
        state,
        str(member["pid"] or "-"),
        age(member["age_seconds"]) if member["pid"] else "-",
        str(member["connections"]),
        f"{member['memory_bytes'] / 2**20:.0f} MiB",
    )


def _draining(seconds_left: float | None) -> str:
    return "old" if seconds_left is None else f"draining, at most {age(seconds_left)}"


def _certificate(name: str, not_after: str | None, days_left: int | None, problem: str) -> str:
    if days_left is None:
        return f"problem: no certificate is shown for {name}: {problem}"
    if days_left < 0:
        return f"problem: the certificate for {name} expired on {not_after}"
    return f"the certificate for {name} is valid for {days_left} days"


def _memory(memory: dict[str, t.Any]) -> t.Iterator[str]:
    parts = {"process": "process_bytes", "proxy": "proxy_bytes", "kernel": "kernel_bytes"}
    yield (
        f"about {size(memory['connection_bytes'])} of memory per connection "
        f"({', '.join(f'{name} {size(memory[part])}' for name, part in parts.items() if memory[part])}), "
        f"{size(memory['worst_bytes'])} if a client fills every buffer"
    )
    limit = (
        f"; all {memory['max_connections']:,} that the processes accept take about {size(memory['max_bytes'])}"
        if memory["max_connections"]
        else ""
    )
    yield (
        f"{size(memory['available_bytes'])} of the host's {size(memory['total_bytes'])} are available, enough for "
        f"about {_rounded(memory['more_connections']):,} more connections{limit}"
    )


def _rounded(number: int) -> int:
    """Two digits and zeros: more would promise too much."""
    unit = int(10 ** max(0, len(str(number)) - 2))
    return number // unit * unit


def status(info: dict[str, t.Any], edge: bool = False) -> list[str]:
    """Return the lines."""
    app = info["app"]
    certificates = [_certificate(**certificate) for certificate in info.get("certificates", [])]
    if edge:
        return certificates
    if not info["slots"] and not info["draining"]:
        return [f"{app} isn't deployed here"]
    rows: list[tuple[str, ...]] = [HEAD]
    rows += [_cells(slot, f"{app}_{slot['slot']:02d}", slot["state"].lower()) for slot in info["slots"]]
    rows += [
        _cells(old, f"{app}_{old['slot']:02d}", _draining(old["seconds_left"])) for old in info["draining"]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    total = sum(member["connections"] for member in [*info["slots"], *info["draining"]])
    lines.append(f"{total} connections, release {info['release'] or 'unknown'}")
    if info["out_of_service"]:
        lines.append(f"out of service, by {info['out_of_service']}")
    lines += [
        f"{app}_{slot['slot']:02d} took over {slot['handover']['moved']:.0f} connections from the process before, each "
        f"paused for {slot['handover']['pause_max_ms']:.0f} ms at most; {slot['handover']['stayed']:.0f} were closed"
        for slot in info["slots"]
        if slot.get("handover") and slot["handover"]["moved"]
    ]
    lines += [
        f"nginx worker {worker['pid']} ({age(worker['age_seconds'])} old) was replaced by a reload and stays until its "
        f"{worker['connections']} connections end"
        for worker in info["nginx"]["old_workers"]
    ]
    if info["memory"]:
        lines += _memory(info["memory"])
    lines += certificates
    return lines + [f"problem: {problem}" for problem in info["problems"]]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_status": status}
