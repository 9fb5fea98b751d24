# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/bench_generator.py measures and writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tools import bench_generator, servers
from tools.bench_pair import Pair
from tools.servers import Host


@pytest.mark.parametrize("compression", [False, True])
def test_both_sides_are_measured_on_cores_of_their_own(
    monkeypatch: pytest.MonkeyPatch, compression: bool
) -> None:
    monkeypatch.setattr(bench_generator, "SECONDS", 2)
    cores = os.sched_getaffinity(0)
    pair = bench_generator.measure_pair("uvloop", compression)
    assert os.sched_getaffinity(0) == cores
    assert (pair["loop"], pair["compression"]) == ("uvloop", compression)
    # Neither used more than its core.
    for side in ("generator_us", "process_us"):
        assert 0 < pair[side] * pair["messages_per_second"] < 1.2e6


def test_row_of_the_table() -> None:
    figures = {
        "loop": "uvloop",
        "compression": True,
        "messages_per_second": 12345.6,
        "generator_us": 10.4,
        "process_us": 26,
    }
    process = ["process, uvloop", "on", "12,346", "10 µs", "26 µs", "", "2.5"]
    assert bench_generator.row(figures) == process
    server = ["server, TLS", "on", "12,346", "10 µs", "26 µs", "14 µs", "3.8"]
    assert bench_generator.row(figures | {"router_us": 14}) == server


@pytest.mark.parametrize("kept_up", [True, False])
def test_a_server_is_measured_by_the_playbook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_up: bool
) -> None:
    monkeypatch.setattr(servers, "down", lambda *_: None)
    monkeypatch.setattr(servers, "up", lambda *_: None)

    def play(_name: str, playbook: str, hosts: Sequence[Host], variables: Mapping[str, Any]) -> float:
        if "capacity" in playbook:
            names = [variables["ws_capacity_host"], variables["ws_capacity_from"], "localhost"]
            assert [host.name for host in hosts] == names
            assert variables["ws_capacity_undrained"], "it would be refused"
            times = {"generator": 10.0, "app": 26.0, "router": 14.0}
            figures = {
                f"{part}_cpu_us_per_message": time if kept_up else None for part, time in times.items()
            }
            report = Path(f"{variables['ws_capacity_report']}.json")
            report.write_text(json.dumps({"figures": {"messages_per_second": 8000.0, **figures}}))
        return 0.0

    hosts = (Host("server", "debian13", ()), Host("client", "client", ()))
    engine = servers.Engine("podman")
    measure = partial(bench_generator.measure_server, Pair(engine, "bench", *hosts, tmp_path, play, tmp_path))
    if kept_up:
        assert bench_generator.row(measure())[2:] == ["8,000", "10 µs", "26 µs", "14 µs", "4.0"]
    else:
        with pytest.raises(servers.ServersError, match="server didn't keep up"):
            measure()
