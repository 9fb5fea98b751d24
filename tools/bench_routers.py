# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restart of all processes loses with each of the ways to route on a server; bench_speed.py has their speed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools import servers
from tools.servers import Host

ROUTERS = ("nginx", "haproxy", "reuse_port")
HELD = 200


def measure_routers(
    engine: servers.Engine,
    fleet: str,
    hosts: Sequence[Host],
    inventory: Path,
    play: Callable[..., float],
    folder: Path,
) -> dict[str, Any]:
    """Return how many handshakes a restart loses with each router, on fresh hosts: a server and a client."""
    server, client = hosts
    figures = []
    for router in ROUTERS:
        variables: Mapping[str, Any] = {"ws_router": router, "ws_app_version": "v0"}
        servers.down(engine, fleet)
        servers.up(engine, fleet, hosts, inventory)
        play(f"{router}-site", "playbooks/site.yml", [server], variables)
        play(f"{router}-trust", "molecule/shared/trust.yml", [client], {})
        proving = {"ws_prove": True, "ws_prove_title": f"router-{router}", "ws_prove_held": HELD}
        report = folder / f"router-{router}.json"
        report.unlink(missing_ok=True)
        try:
            play(f"{router}-restart", "playbooks/restart.yml", [server], {**variables, **proving})
        except Exception:
            if not report.exists():  # it isn't that a promise was broken
                raise
        totals = json.loads(report.read_text())["totals"]
        figures.append({"router": router, "attempts": totals["attempts"], "lost": totals["failed"]})
    return {"routers": figures}
