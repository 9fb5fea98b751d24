# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/bench_day.py records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tools import bench_day, servers
from tools.bench_pair import Pair
from tools.servers import Engine, Host


def stage(clients: int, failed: int = 0, lag: float | None = 1.5) -> dict[str, Any]:
    """What a stage of capacity.yml keeps, as far as it is recorded."""
    process = {"slot": 0, "connections": clients, "cpu_percent": clients / 20, "lag_ms": lag}
    load = {"messages_per_second": 10 * clients, "failed_clients": failed, "failures": {"cut": failed}}
    return {"load": load, "host": {"processes": [process]}}


def test_a_day_is_recorded_half_an_hour_after_half_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "down", lambda *_: None)
    monkeypatch.setattr(servers, "up", lambda *_: None)

    def play(name: str, _playbook: str, _hosts: Sequence[Host], variables: Mapping[str, Any]) -> float:
        if name == "day":
            stages = [stage(count) for count in variables["bench_day_clients"]]
            Path(variables["bench_day_file"]).write_text(json.dumps(stages))
        return 0.0

    hosts = (Host("server", "debian13", ()), Host("client", "client", ()))
    figures = bench_day.measure_day(Pair(Engine("podman"), "bench", *hosts, tmp_path, play, tmp_path))
    bench_day.write_record(figures, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text())
    assert record == figures["moments"]
    assert [one["minute"] for one in record] == list(range(0, 1440, 30))
    assert [one["connections"] for one in record] == [bench_day.clients(one["minute"]) for one in record]
    assert set(record[0]) == {"minute", "connections", "messages_per_second", "cpu_percent", "lag_ms"}


@pytest.mark.parametrize("bad", [stage(100, failed=1), stage(100, lag=None)])
def test_a_moment_that_failed_is_no_record(bad: dict[str, Any]) -> None:
    with pytest.raises(servers.ServersError, match="Minute 30 of the day"):
        bench_day.moment(30, bad)
