# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ws_load measures on a host whose supervisord and /proc exist for the test only."""

from __future__ import annotations

import os
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address
from ansible_collections.wsfleet.websockets.plugins.module_utils.load import Measurement, lag_p99
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import Supervisor

from tests.unit.plugins.module_utils.fake_host import Host

TICKS = os.sysconf("SC_CLK_TCK")
BOUNDS = ("0.01", "0.1", "1.0", "+Inf")


def metrics(*counts: int) -> str:
    """What Prometheus is told when so many looks at the lag were at most 0.01, 0.1, 1.0 s, and how many there were."""
    lines = ["# TYPE ws_event_loop_lag_seconds histogram"]
    lines += [
        f'ws_event_loop_lag_seconds_bucket{{le="{bound}"}} {count}.0'
        for bound, count in zip(BOUNDS, counts, strict=True)
    ]
    return "\n".join([*lines, f"ws_event_loop_lag_seconds_count {counts[-1]}.0", 'other_bucket{le="0.01"} 7'])


@pytest.mark.parametrize(
    ("before", "after", "lag"),
    [
        ((0, 0, 0, 0), (100, 100, 100, 100), 9.9),
        ((0, 0, 0, 0), (0, 100, 100, 100), 99.1),
        ((0, 0, 0, 0), (98, 100, 100, 100), 55.0),
        ((900, 900, 900, 1000), (901, 901, 901, 1001), 9.9),
        ((0, 0, 0, 0), (0, 0, 0, 5), 1000.0),
        ((5, 5, 5, 5), (5, 5, 5, 5), None),
    ],
)
def test_lag_is_of_the_time_between(
    before: tuple[int, ...], after: tuple[int, ...], lag: float | None
) -> None:
    assert lag_p99(metrics(*before), metrics(*after)) == lag


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("", metrics(1, 1, 1, 1)), (metrics(1, 1, 1, 1), ""), ("a", "a_total 1")]
)
def test_lag_is_unknown_where_nobody_tells(before: str, after: str) -> None:
    assert lag_p99(before, after) is None


class MeasuredHost(Host):
    """A host with two processes; `measure()` is what a run of ws_load does, `later` happens between its looks."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "proc/uptime").write_text("1000.00 0.00\n")
        self.roll()
        self.now = 0.0
        self.pids = [self.pid(f"echo_0{slot}-g1") for slot in range(2)]
        self.told: dict[str, list[str]] = {}
        self.happens: t.Callable[[], object] = lambda: None
        for slot, pid in enumerate(self.pids):
            (self.layout.run / f"g1/echo_0{slot}.sock").touch()
            self.proc.process(pid, f"echo_0{slot}.sock", connections=3 + slot)
            self.works(pid, seconds=1.0)

    def works(self, pid: int, seconds: float) -> None:
        """Have the process used so much of a core, half of it in the kernel."""
        half = round(seconds * TICKS / 2)
        (self.proc.folder / f"{pid}/stat").write_text(
            f"{pid} (py (x) 1) S 1 {'0 ' * 9}{half} {half} {'0 ' * 6}5000 0\n"
        )

    def measure(self) -> dict[str, t.Any]:
        seen: dict[str, t.Any] = Measurement(
            self.layout,
            t.cast(Supervisor, self.supervisor),
            seconds=10,
            root=self.root,
            kernel=lambda: Kernel(self.proc.folder),
            get=self.get,
            clock=lambda: self.now,
            sleep=self.sleep,
        ).result()
        return seen

    def get(self, address: Address, path: str) -> str:
        assert path == "/metrics"
        texts = self.told.get(Path(address.socket_path).name, [])
        return texts.pop(0) if texts else ""

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.happens()


@pytest.fixture
def host(tmp_path: Path) -> MeasuredHost:
    return MeasuredHost(tmp_path)


def test_each_process_has_its_part_of_a_core_its_connections_and_its_lag(host: MeasuredHost) -> None:
    host.happens = lambda: host.works(host.pids[0], seconds=6.0)
    host.told["echo_01.sock.metrics"] = [metrics(0, 0, 0, 0), metrics(0, 100, 100, 100)]
    seen = host.measure()
    assert seen["processes"] == [
        {"slot": 0, "cpu_percent": 50.0, "connections": 3, "lag_ms": None},
        {"slot": 1, "cpu_percent": 0.0, "connections": 4, "lag_ms": 99.1},
    ]
    assert (seen["problems"], seen["out_of_service"], seen["service_changed"]) == ([], "", None)
    assert seen["cores"] >= 1


def test_when_slots_last_changed_is_known_whoever_changed_them(host: MeasuredHost) -> None:
    def before(seconds: float) -> None:
        os.utime(host.layout.tmpfiles, (time.time() - seconds, time.time() - seconds))

    assert host.measure()["slots_changed"] < 60
    before(3600)
    host.roll()
    assert host.measure()["slots_changed"] > 3500, "a run that changes nothing doesn't count"
    for change in ({"processes": 3}, {"processes": 2}, {"restart": True}):
        before(3600)
        host.roll(**change)
        assert host.measure()["slots_changed"] < 60, change


def test_who_took_it_out_of_service(host: MeasuredHost) -> None:
    mark = host.root / "var/lib/wsfleet/apps/echo/drained"
    mark.parent.mkdir(parents=True)
    for text, who in (("autoscale\n", "autoscale"), ("", "operator")):
        mark.write_text(text)
        seen = host.measure()
        assert (seen["out_of_service"], seen["service_changed"] < 60) == (who, True)


def test_a_process_that_ends_meanwhile_isnt_idle(host: MeasuredHost) -> None:
    host.happens = lambda: host.proc.end(host.pids[1])
    assert host.measure()["problems"] == ["echo_01 ended while it was looked at"]


def test_a_slot_without_a_process_is_a_problem(host: MeasuredHost) -> None:
    host.supervisor.states["echo_01-g1"] = "FATAL"
    seen = host.measure()
    assert [process["cpu_percent"] for process in seen["processes"]] == [0.0, 0.0]
    assert seen["problems"] == ["echo_01 has no process of generation 1 (Exited too quickly)"]


def test_bare_host(tmp_path: Path) -> None:
    measurement = Measurement(
        Layout("echo", "/opt/echo", str(tmp_path)),
        None,
        seconds=1,
        root=tmp_path,
        kernel=lambda: Kernel(tmp_path / "proc"),
        sleep=lambda _seconds: None,
    )
    seen = measurement.result()
    assert (seen["processes"], seen["problems"], seen["slots_changed"]) == ([], [], None)
