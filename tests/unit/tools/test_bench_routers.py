# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/bench_routers.py asks of a server, and what it makes of the answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tools import bench_routers, servers
from tools.bench_routers import Bench, measure_routers, router_rows
from tools.servers import Engine, Host

HOSTS = (Host("server2", "debian13", ()), Host("client", "client", ()))
MEASURED = {
    "handshakes": {"per_second": 312.4, "p99_ms": 120.6, "failed": 0},
    "messages": {"per_second": 8123.0, "p99_ms": 31.2, "failed": 0},
    "spread": 12.34,
    "kib_per_connection": 71.6,
}


def test_row() -> None:
    figures = [{"router": "nginx", **MEASURED, "attempts": 1200, "lost": 3}]
    row = ["`nginx`", "312", "121", "8,123", "31", "12.3", "72", "3 of 1,200"]
    assert router_rows(figures) == [row]
    assert len(row) == len(bench_routers.HEAD)


def test_look_counts_memory_and_sockets_of_the_processes() -> None:
    looked = subprocess.run(
        [sys.executable, "-c", bench_routers.LOOK], capture_output=True, text=True, check=True
    )
    seen = json.loads(looked.stdout)
    assert set(seen) == {"memory", "sockets"}
    assert set(seen["memory"]) == {"nginx", "haproxy", "wsfleet"}


def test_figures_are_of_the_connections_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looks = iter(
        [
            {"memory": {"nginx": 1000 * 1024, "wsfleet": 0}, "sockets": {"1": 3, "2": 3}},
            {"memory": {"nginx": 21_000 * 1024, "wsfleet": 30_000 * 1024}, "sockets": {"1": 503, "2": 303}},
        ]
    )
    program = tmp_path / "podman"
    answer = json.dumps({"messages": 1})
    program.write_text(f"#!/bin/sh\necho '{answer}'\necho held\ncat\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(bench_routers, "SETTLE", 0)
    monkeypatch.setattr(Bench, "look", lambda _self: next(looks))
    measured = Bench(Engine("podman"), "bench", *HOSTS).load(Path("load.py"), "wss://server2:443/")
    kib = {"nginx": 20.0, "wsfleet": 30.0}
    assert measured == {"messages": 1, "spread": 100.0, "kib": kib, "kib_per_connection": 50.0}


def test_load_that_fails_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(Bench, "look", lambda _self: {"memory": 0, "sockets": {}})
    with pytest.raises(servers.ServersError, match=r"load\.py failed against wss://server2/"):
        Bench(Engine("podman"), "bench", *HOSTS).load(Path("load.py"), "wss://server2/")


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

    urls: list[str] = []
    monkeypatch.setattr(servers, "down", lambda *_: done.append("down"))
    monkeypatch.setattr(servers, "up", lambda *_: done.append("up"))

    def load(_self: Bench, _program: Path, url: str) -> Mapping[str, Any]:
        urls.append(url)
        return MEASURED

    monkeypatch.setattr(Bench, "load", load)
    measured = measure_routers(Engine("podman"), "bench", HOSTS, tmp_path / "servers.yml", play, tmp_path)
    assert [(router["router"], router["lost"]) for router in measured["routers"]] == [
        ("nginx", 1),
        ("haproxy", 1),
        ("reuse_port", 1),
    ]
    assert done[:5] == [
        "down",
        "up",
        ("nginx-site", "nginx"),
        ("nginx-trust", None),
        ("nginx-restart", "nginx"),
    ]
    assert urls == ["wss://server2:443/", "wss://server2:443/", "wss://server2:8443/"]
