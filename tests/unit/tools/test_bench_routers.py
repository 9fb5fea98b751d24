# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/bench_routers.py makes of the proofs of a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tools import servers
from tools.bench_pair import Pair
from tools.bench_routers import measure_routers
from tools.servers import Engine, Host

HOSTS = (Host("server2", "debian13", ()), Host("client", "client", ()))


def test_every_router_is_measured_on_fresh_hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[Any] = []

    def play(name: str, _playbook: str, _hosts: Any, variables: Mapping[str, Any]) -> float:
        done.append((name, variables.get("ws_router")))
        if "ws_prove" in variables:
            (tmp_path / f"{variables['ws_prove_title']}.json").write_text(
                json.dumps({"totals": {"attempts": 9, "failed": 1}})
            )
            raise RuntimeError("a promise was broken")
        return 1.0

    monkeypatch.setattr(servers, "down", lambda *_: done.append("down"))
    monkeypatch.setattr(servers, "up", lambda *_: done.append("up"))
    measured = measure_routers(
        Pair(Engine("podman"), "bench", *HOSTS, tmp_path / "servers.yml", play, tmp_path)
    )
    assert measured["routers"] == [
        {"router": router, "attempts": 9, "lost": 1} for router in ("nginx", "haproxy", "reuse_port")
    ]
    assert done[:5] == [
        "down",
        "up",
        ("nginx-site", "nginx"),
        ("nginx-trust", None),
        ("nginx-restart", "nginx"),
    ]
    assert done.count("up") == 3


def test_restart_that_fails_for_another_reason_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def play(name: str, *_: Any) -> float:
        if name.endswith("restart"):
            raise RuntimeError("no such host")
        return 1.0

    monkeypatch.setattr(servers, "down", lambda *_: None)
    monkeypatch.setattr(servers, "up", lambda *_: None)
    (tmp_path / "router-nginx.json").write_text("{}")  # of an earlier run
    with pytest.raises(RuntimeError, match="no such host"):
        measure_routers(Pair(Engine("podman"), "bench", *HOSTS, tmp_path / "servers.yml", play, tmp_path))
