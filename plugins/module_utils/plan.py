# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many servers and processes a load takes, by what one server was measured to carry. Arithmetic only.

A server is planned for what it was shown to carry and no more: it is never asked for more connections, messages or
processes than were measured. The headroom is kept also while the spare servers are down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MAX_PROCESSES = 99  # of ws_supervisor_processes
ROUTER_VARIABLES = {"nginx": "ws_nginx_connections", "haproxy": "ws_haproxy_connections"}
MAX_ROUTER_CONNECTIONS = 500_000  # of these
SIDE_BY_SIDE = 2  # generations whose processes run at once in a rollout
NEEDED = ("processes", "connections", "messages_per_second")
EPSILON = 1e-9  # so that 3.0000000000000004 servers are 3


class PlanError(Exception):
    """There is no plan; the text is one sentence."""


def plan(
    figures: Mapping[str, Any],
    connections: float,
    messages_per_second: float = 0,
    headroom_percent: float = 30,
    spare_servers: int = 1,
    servers: int | None = None,
) -> dict[str, Any]:
    """Return the plan for a load; with `servers`, for that many."""
    check(figures, connections, messages_per_second, headroom_percent, spare_servers, servers)
    use = 1 - headroom_percent / 100
    measured = {name: float(figures[name]) for name in NEEDED}
    room = min(use * measured["connections"], memory_room(figures, use))
    rate = use * measured["messages_per_second"]
    if connections and room < 1:
        raise PlanError(
            f"A server's memory has no room for a connection with a headroom of {headroom_percent:g} %."
        )
    if messages_per_second and not rate:
        raise PlanError("messages_per_second of the figures is 0: a plan for messages needs some.")
    # Connections are whole: of 10 on 3 servers, one has 4.
    carriers = max(1, ceiling(connections / math.floor(room + EPSILON)) if connections else 1)
    if messages_per_second:
        carriers = max(carriers, ceiling(messages_per_second / rate))
    needed = carriers + spare_servers
    if servers is not None and servers < needed:
        raise PlanError(
            f"servers is {servers}: {needed} are needed for {connections:,.0f} connections and "
            f"{messages_per_second:,.0f} messages/s with {headroom_percent:g} % headroom and "
            f"{spare_servers} of them down."
        )
    servers = servers or needed
    left = servers - spare_servers
    each = {"connections": math.ceil(connections / left), "messages_per_second": messages_per_second / left}
    shares = {name: each[name] / measured[name] if each[name] else 0.0 for name in each}
    processes = max(1, ceiling(max(shares.values()) / use * measured["processes"]))
    variables = {
        "ws_supervisor_processes": min(processes, int(measured["processes"])),
        "ws_app_max_connections": max(1, int(measured["connections"] // measured["processes"])),
    }
    if router := ROUTER_VARIABLES.get(figures.get("router", "nginx")):
        variables[router] = min(int(measured["connections"]), MAX_ROUTER_CONNECTIONS)
    return {
        "servers": servers,
        "processes": min(processes, int(measured["processes"])),
        "spare_servers": spare_servers,
        "headroom_percent": headroom_percent,
        "connections_per_server": each["connections"],
        "messages_per_second_per_server": round(each["messages_per_second"], 1),
        "used_percent": {name: round(100 * share, 1) for name, share in shares.items()},
        "memory_bytes_per_server": memory_needed(figures, each["connections"], processes),
        "seconds_to_reconnect": seconds_to_reconnect(figures, connections, servers, left),
        "variables": variables,
    }


def check(
    figures: Mapping[str, Any],
    connections: float,
    messages_per_second: float,
    headroom_percent: float,
    spare_servers: int,
    servers: int | None,
) -> None:
    """Raise what is wrong with the input."""
    for name in NEEDED:
        value = figures.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise PlanError(f"{name} of the figures is {value!r}: allowed is a number that was measured.")
    if figures["connections"] < 1 or not 1 <= figures["processes"] <= MAX_PROCESSES:
        raise PlanError(
            f"The figures are of {figures['connections']} connections and {figures['processes']} processes: "
            f"allowed are 1 connection or more, and 1 to {MAX_PROCESSES} processes."
        )
    if connections < 0 or messages_per_second < 0:
        raise PlanError("connections and messages_per_second are negative: allowed is 0 or more.")
    if not 0 <= headroom_percent <= 90:
        raise PlanError(f"headroom_percent is {headroom_percent:g}: allowed is 0 to 90.")
    if spare_servers < 0:
        raise PlanError(f"spare_servers is {spare_servers}: allowed is 0 or more.")
    if servers is not None and servers < 1:
        raise PlanError(f"servers is {servers}: allowed is 1 or more.")


def ceiling(value: float) -> int:
    return math.ceil(value - EPSILON)


def memory_room(figures: Mapping[str, Any], use: float) -> float:
    """Return how many connections fit into a server's memory; infinity where that isn't known."""
    total, each = figures.get("memory_bytes"), figures.get("memory_bytes_per_connection")
    if not total or not each:
        return math.inf
    base = SIDE_BY_SIDE * figures["processes"] * (figures.get("memory_bytes_per_process") or 0)
    return max(0.0, float((use * total - base) / each))


def memory_needed(figures: Mapping[str, Any], connections: float, processes: int) -> int | None:
    """Return what the connections and the processes of a rollout take; None where that isn't known."""
    if not figures.get("memory_bytes_per_connection"):
        return None
    base = SIDE_BY_SIDE * processes * (figures.get("memory_bytes_per_process") or 0)
    return int(connections * figures["memory_bytes_per_connection"] + base)


def seconds_to_reconnect(
    figures: Mapping[str, Any], connections: float, servers: int, left: int
) -> float | None:
    """Return how long the clients of servers that go down need to be on the others; None where that isn't known."""
    rate = figures.get("handshakes_per_second")
    if not rate:
        return None
    seconds = connections / servers * (servers - left) / (left * float(rate))
    return round(seconds, 1)
