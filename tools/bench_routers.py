# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restart of all processes loses with each of the ways to route on a server; bench_speed.py has their speed."""

from __future__ import annotations

import json
from typing import Any

from tools.bench_pair import Pair

ROUTERS = ("nginx", "haproxy", "reuse_port")
HELD = 200


def measure_routers(pair: Pair) -> dict[str, Any]:
    """Return how many handshakes a restart loses with each router, on fresh hosts: a server and a client."""
    figures = []
    for router in ROUTERS:
        variables = pair.deploy(router, ws_router=router)
        proving = {"ws_prove": True, "ws_prove_title": f"router-{router}", "ws_prove_held": HELD}
        report = pair.folder / f"router-{router}.json"
        report.unlink(missing_ok=True)
        try:
            pair.play(f"{router}-restart", "playbooks/restart.yml", [pair.server], {**variables, **proving})
        except Exception:
            if not report.exists():  # it isn't that a promise was broken
                raise
        totals = json.loads(report.read_text())["totals"]
        figures.append({"router": router, "attempts": totals["attempts"], "lost": totals["failed"]})
    return {"routers": figures}
