# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways to route on one server, side by side: the same app, the same load."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from tools import servers
from tools.servers import Host

ROUTERS = {
    "nginx": {"ws_router": "nginx"},
    "haproxy": {"ws_router": "haproxy"},
    "reuse_port": {"ws_router": "reuse_port"},
}
PORTS = {"reuse_port": 8443}
IDLE = 1000  # as in bench/load.py
SETTLE = 3.0  # seconds

# Printed on the server: bytes used by each program, the proxy and the processes, and sockets of each process.
LOOK = """
import json, os
memory, sockets = dict.fromkeys(("nginx", "haproxy", "wsfleet"), 0), {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline").read()
        program = next((name for name in memory if name in words), None)
        if not program or pid == str(os.getpid()):
            continue
        lines = open(f"/proc/{pid}/smaps_rollup").read().splitlines()
        memory[program] += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        if "wsfleet" in words:
            names = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
            sockets[pid] = sum(name.startswith("socket:") for name in names)
    except OSError:
        pass  # it has ended
print(json.dumps({"memory": memory, "sockets": sockets}))
"""


class Bench:
    """One server and a client, made for it."""

    def __init__(self, engine: servers.Engine, fleet: str, server: Host, client: Host) -> None:
        self.engine = engine
        self.server = servers.container(fleet, server.name)
        self.client = servers.container(fleet, client.name)

    def look(self) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads(self.engine("exec", self.server, "python3", "-c", LOOK).stdout)
        return seen

    def load(self, program: Path, url: str, *options: str) -> dict[str, Any]:
        """Have the client measure, and look at the server before and while it holds connections."""
        self.engine("cp", str(program), f"{self.client}:/root/load.py")
        before = self.look()
        process = subprocess.Popen(
            [
                self.engine.name,
                "exec",
                "--interactive",
                self.client,
                "python3",
                "/root/load.py",
                url,
                *options,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        output, instructions = cast(IO[str], process.stdout), cast(IO[str], process.stdin)
        first = output.readline()
        if not first or output.readline() != "held\n":
            process.kill()
            raise servers.ServersError(f"load.py failed against {url}: run it in {self.client} to see why")
        time.sleep(SETTLE)
        held = self.look()
        instructions.close()
        process.wait()
        spread = [held["sockets"][pid] - before["sockets"].get(pid, 0) for pid in held["sockets"]]
        kib = {
            name: round((held["memory"][name] - before["memory"][name]) / IDLE / 1024, 1)
            for name in held["memory"]
        }
        return {
            **json.loads(first),
            "spread": round(statistics.pstdev(spread), 1),
            "kib": kib,
            "kib_per_connection": round(sum(kib.values()), 1),
        }


def measure_routers(
    engine: servers.Engine,
    fleet: str,
    hosts: tuple[Host, Host],
    inventory: Path,
    play: Callable[..., float],
    folder: Path,
) -> dict[str, Any]:
    """Return what each router's clients see, what it costs, and what a restart under traffic loses."""
    server, client = hosts
    figures = []
    for router, choice in ROUTERS.items():
        variables: Mapping[str, Any] = {**choice, "ws_app_version": "v0"}
        servers.down(engine, fleet)
        servers.up(engine, fleet, hosts, inventory)
        play(f"{router}-site", "playbooks/site.yml", [server], variables)
        play(f"{router}-trust", "molecule/shared/trust.yml", [client], {})
        port = PORTS.get(router, 443)
        measured = Bench(engine, fleet, server, client).load(
            servers.ROOT / "bench" / "load.py", f"wss://{server.name}:{port}/"
        )
        proving = {"ws_prove": True, "ws_prove_title": f"router-{router}", "ws_prove_held": 200}
        report = folder / f"router-{router}.json"
        report.unlink(missing_ok=True)
        try:
            play(f"{router}-restart", "playbooks/restart.yml", [server], {**variables, **proving})
        except Exception:
            if not report.exists():  # it isn't that a promise was broken
                raise
        totals = json.loads(report.read_text())["totals"]
        figures.append(
            {"router": router, **measured, "attempts": totals["attempts"], "lost": totals["failed"]}
        )
    return {"routers": figures}


def router_rows(figures: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row of the table for each router."""
    return [
        [
            f"`{router['router']}`",
            f"{router['handshakes']['per_second']:,.0f}",
            f"{router['handshakes']['p99_ms']:,.0f}",
            f"{router['messages']['per_second']:,.0f}",
            f"{router['messages']['p99_ms']:,.0f}",
            f"{router['spread']:.1f}",
            f"{router['kib_per_connection']:.0f}",
            f"{router['lost']:,} of {router['attempts']:,}",
        ]
        for router in figures
    ]


HEAD = [
    "router",
    "handshakes/s",
    "p99 ms",
    "messages/s",
    "p99 ms",
    "spread",
    "KiB per connection",
    "failed in a restart",
]
