# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words in which a terminal shows what ws_limits found."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ws_doctor
author: The wsfleet maintainers (@wsfleet)
version_added: 0.1.0
short_description: Say in lines which limit of a host is hit first, and what has drifted
description:
  - The first limit, a table of all, the backlogs, and what differs between the disk and what runs.
options:
  _input:
    description: What M(wsfleet.websockets.ws_limits) returned.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Look at the limits
  wsfleet.websockets.ws_limits:
    app: chat
  register: limits

- name: Say which is hit first
  ansible.builtin.debug:
    msg: "{{ limits | wsfleet.websockets.ws_doctor }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import typing as t

HEAD = ("limit", "clients", "used", "of", "raised by")


def doctor(limits: dict[str, t.Any]) -> list[str]:
    """Return the lines."""
    drift = [f"drift: {sentence}" for sentence in limits["drift"]]
    if not (first := limits["first"]):
        return [f"{limits['app']} isn't served here", *drift]
    lines = [
        f"{limits['clients']:,} clients now",
        f"first limit: {first['name']}, at {first['connections']:,} clients; raise {first['variable']}",
    ]
    rows: list[tuple[str, ...]] = [HEAD]
    rows += [
        (
            link["name"],
            f"{link['connections']:,}",
            f"{link['used']:,}",
            f"{link['limit']:,} {link['unit']}",
            link["variable"],
        )
        for link in limits["links"]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    if limits["backlogs"]:
        least = min(limits["backlogs"], key=lambda backlog: int(backlog["limit"]))
        lines.append(
            f"a burst may have {least['limit']:,} handshakes wait at {least['name']}, the least of "
            f"{len(limits['backlogs'])} backlogs; raise {least['variable']}"
        )
    return lines + (drift or ["no drift: what runs is as on disk"])


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"ws_doctor": doctor}
