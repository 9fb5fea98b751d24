# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is used of a host is read from a /proc made for it, from metrics, and from an error log."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address
from ansible_collections.wsfleet.websockets.plugins.module_utils.observe import (
    LAG,
    Observer,
    Slot,
    buckets,
    quantile,
    scrape,
)

METRICS = """\
# TYPE ws_event_loop_lag_seconds histogram
ws_event_loop_lag_seconds_bucket{{process="a",le="0.01"}} {0}
ws_event_loop_lag_seconds_bucket{{le="0.1",process="a"}} {1}
ws_event_loop_lag_seconds_bucket{{process="a",le="+Inf"}} {2}
ws_event_loop_lag_seconds_sum{{process="a"}} 7
ws_other_seconds_bucket{{le="0.01"}} 5
"""


@pytest.mark.parametrize(
    ("after", "expected"),
    [((1000, 1000, 1000), 0.01), ((900, 1000, 1000), 0.1), ((0, 900, 1000), 0.2), ((10, 10, 10), None)],
)
def test_the_lag_is_that_of_the_time_between(after: tuple[int, ...], expected: float | None) -> None:
    early = buckets(METRICS.format(10, 10, 10), LAG)
    assert early == {0.01: 10, 0.1: 10, math.inf: 10}
    assert quantile(early, buckets(METRICS.format(*after), LAG), 0.99) == expected


def test_metrics_that_are_not_there() -> None:
    assert buckets("", LAG) == {}
    assert quantile({}, {}, 0.99) is None
    assert scrape(Address("/nowhere.sock")) == ""


class Proc:
    """A /proc with one server process of pid 10 and nginx of pid 20."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "net").mkdir()
        (folder / "net/unix").write_text("Num\n")
        (folder / "net/tcp").write_text("sl\n")
        (folder / "net/tcp6").write_text("sl\n")
        (folder / "meminfo").write_text("MemTotal: 2048 kB\nMemAvailable: 1024 kB\n")
        for pid, name in ((10, "python"), (20, "nginx"), (30, "other")):
            (folder / str(pid) / "fd").mkdir(parents=True)
            (folder / str(pid) / "comm").write_text(f"{name}\n")
            (folder / str(pid) / "smaps_rollup").write_text(f"Pss: {pid} kB\n")
            (folder / str(pid) / "limits").write_text(
                "Max open files            4                 8      files\n"
            )
            (folder / str(pid) / "environ").write_text("A=b\0WS_MAX_CONNECTIONS=0\0")
        self.spend(0, 0, 0)

    def spend(self, app: int, router: int, idle: int) -> None:
        for pid, ticks in ((10, app), (20, router), (30, 999)):
            fields = ["S", *["0"] * 10, str(ticks), "0", *["0"] * 20]
            (self.folder / str(pid) / "stat").write_text(f"{pid} (a b) {' '.join(fields)}\n")
        (self.folder / "stat").write_text(f"cpu  {app + router} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1\ncpu1 1\n")


def test_what_is_used(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    proc = Proc(tmp_path / "proc")
    log = tmp_path / "error.log"
    log.write_text("1024 worker_connections are not enough\n")
    texts = iter([METRICS.format(0, 0, 0), METRICS.format(50, 100, 100)])

    def work(_seconds: float) -> None:
        proc.spend(75, 25, 100)
        (proc.folder / "10/fd/0").touch()
        with log.open("a") as file:
            file.write("a limiting requests, excess\n" * 3 + "b worker_connections are not enough\n")

    slot = Slot(10, Address("/run/echo/g1/echo_00.sock"))
    observer = Observer([slot], proc.folder, log, work, lambda _address: next(texts))
    size = log.stat().st_size
    found = observer.watch(1, size)
    assert found["processors"] == 2
    assert found["host_cpu_percent"] == 50
    assert (found["app"]["pids"], found["router"]["pids"]) == ([10], [20])
    assert found["app"]["cpu_percent"] == pytest.approx(3 * found["router"]["cpu_percent"], rel=0.01)
    assert found["app"]["cpu_percent"] > 0
    assert (found["app"]["memory_bytes"], found["router"]["memory_bytes"]) == (10240, 20480)
    assert (found["app"]["files_percent"], found["router"]["files_percent"]) == (25, 0)
    assert (found["app"]["connections"], found["app"]["max_connections"]) == (0, False)
    assert (found["memory_bytes"], found["memory_available_bytes"]) == (2 * 2**20, 2**20)
    assert found["lag_ms"] == 100
    assert found["said"] == {
        "ws_nginx_connections": 1,
        "ws_nginx_handshakes_per_second_per_address": 3,
    }
    assert found["log_size"] == log.stat().st_size


def test_the_first_look_says_where_the_log_ends(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    proc = Proc(tmp_path / "proc")
    log = tmp_path / "error.log"
    observer = Observer([], proc.folder, log, lambda _seconds: None)
    assert (observer.watch(1, None)["said"], observer.watch(1, None)["log_size"]) == ({}, 0)
    log.write_text("limiting requests\n")
    assert observer.watch(1, None)["said"] == {}
    assert observer.watch(1, 500)["said"] == {"ws_nginx_handshakes_per_second_per_address": 1}  # rotated
