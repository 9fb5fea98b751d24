# SPDX-License-Identifier: GPL-3.0-or-later
"""A server and a client, for measurements that need no more hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import servers
from tools.servers import Host


@dataclass(frozen=True)
class Pair:
    """Two containers, made anew for each deployment, and how playbooks are run on them."""

    engine: servers.Engine
    fleet: str
    server: Host
    client: Host
    inventory: Path
    play: Callable[..., float]  # tools.bench.play
    folder: Path  # for what playbooks write on the controller

    @property
    def hosts(self) -> Sequence[Host]:
        return (self.server, self.client)

    def deploy(self, name: str, **variables: Any) -> Mapping[str, Any]:
        """Have site.yml run on a fresh server, and a fresh client trust it; return the variables of the deployment."""
        deployed = {"ws_app_version": "v0", **variables}
        servers.down(self.engine, self.fleet)
        servers.up(self.engine, self.fleet, self.hosts, self.inventory)
        self.play(f"{name}-site", "playbooks/site.yml", [self.server], deployed)
        self.play(f"{name}-trust", "molecule/shared/trust.yml", [self.client], {})
        return deployed
