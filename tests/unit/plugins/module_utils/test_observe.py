# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ws_observe says of a host whose supervisord, /proc, metrics and error log exist for the test only."""

from __future__ import annotations

import os
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout
from ansible_collections.wsfleet.websockets.plugins.module_utils.haproxy import Runtime
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address
from ansible_collections.wsfleet.websockets.plugins.module_utils.memory import most_processes
from ansible_collections.wsfleet.websockets.plugins.module_utils.observe import ERROR_LOG, Observer, lag_p99
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import Supervisor

from tests.unit.plugins.module_utils.fake_haproxy import Haproxy
from tests.unit.plugins.module_utils.fake_host import Host

TICKS = os.sysconf("SC_CLK_TCK")
BOUNDS = ("0.01", "0.1", "1.0", "+Inf")
NGINX = 20


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


class WatchedHost(Host):
    """A host with two processes and nginx; `watch()` is what ws_observe does, what `happens` is between its looks."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "proc/uptime").write_text("1000.00 0.00\n")
        self.roll()
        self.now = 0.0
        self.haproxy = Runtime(str(root / "no.sock"))
        self.pids = [self.pid(f"echo_0{slot}-g1") for slot in range(2)]
        self.told: dict[str, list[str]] = {}
        self.happens: t.Callable[[], object] = lambda: None
        for slot, pid in enumerate(self.pids):
            (self.layout.run / f"g1/echo_0{slot}.sock").touch()
            self.proc.process(pid, f"echo_0{slot}.sock", connections=3 + slot, mebibytes=10)
            (self.folder(pid) / "environ").write_text("A=b\0WS_MAX_CONNECTIONS=0\0")
            (self.folder(pid) / "limits").write_text("Max open files            16                32\n")
            self.works(pid, seconds=1.0)
        (self.folder(NGINX) / "fd").mkdir(parents=True)
        (self.folder(NGINX) / "comm").write_text("nginx\n")
        (self.folder(NGINX) / "smaps_rollup").write_text("Pss: 5120 kB\n")
        self.works(NGINX, seconds=1.0)
        self.host(busy=0, idle=0)
        self.log = root / ERROR_LOG
        self.log.parent.mkdir(parents=True)

    def folder(self, pid: int) -> Path:
        return self.proc.folder / str(pid)

    def host(self, busy: int, idle: int) -> None:
        """Have the host's processors spent so many ticks."""
        (self.proc.folder / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1\n")

    def works(self, pid: int, seconds: float) -> None:
        """Have the process used so much of a core, half of it in the kernel."""
        half = round(seconds * TICKS / 2)
        (self.folder(pid) / "stat").write_text(
            f"{pid} (py (x) 1) S 1 {'0 ' * 9}{half} {half} {'0 ' * 6}5000 0\n"
        )

    def watch(self, log_from: int | None = None) -> dict[str, t.Any]:
        observer = Observer(
            self.layout,
            t.cast(Supervisor, self.supervisor),
            root=self.root,
            kernel=lambda: Kernel(self.proc.folder),
            haproxy=self.haproxy,
            get=self.get,
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        seen: dict[str, t.Any] = observer.watch(10, log_from)
        return seen

    def get(self, address: Address, path: str) -> str:
        assert path == "/metrics"
        texts = self.told.get(str(Path(address.socket_path).relative_to(self.layout.run)), [])
        return texts.pop(0) if texts else ""

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.happens()


@pytest.fixture
def host(tmp_path: Path) -> WatchedHost:
    return WatchedHost(tmp_path)


def test_each_process_has_its_part_of_a_core_its_connections_and_its_lag(host: WatchedHost) -> None:
    host.happens = lambda: host.works(host.pids[0], seconds=6.0)
    host.told["g1/echo_01.metrics"] = [metrics(0, 0, 0, 0), metrics(0, 100, 100, 100)]
    seen = host.watch()
    assert seen["processes"] == [
        {"slot": 0, "cpu_percent": 50.0, "connections": 3, "lag_ms": None},
        {"slot": 1, "cpu_percent": 0.0, "connections": 4, "lag_ms": 99.1},
    ]
    assert (seen["problems"], seen["out_of_service"], seen["service_changed"]) == ([], "", None)
    assert seen["processors"] >= 1


def test_what_app_router_and_host_use(host: WatchedHost) -> None:
    def work() -> None:
        host.works(host.pids[0], seconds=6.0)
        host.works(host.pids[1], seconds=3.0)
        host.works(NGINX, seconds=2.0)
        host.host(busy=300, idle=100)

    host.happens = work
    host.told["g1/echo_00.metrics"] = [metrics(0, 0, 0, 0), metrics(98, 100, 100, 100)]
    host.told["g1/echo_01.metrics"] = [metrics(0, 0, 0, 0), metrics(0, 100, 100, 100)]
    seen = host.watch()
    assert seen["app"] == {
        "pids": host.pids,
        "cpu_percent": 70.0,
        "busiest_percent": 50.0,
        "memory_bytes": 20 * 2**20,
        "files_percent": 25.0,
        "connections": 7,
        "max_connections": False,
    }
    assert seen["router"] == {
        "pids": [NGINX],
        "cpu_percent": 10.0,
        "busiest_percent": 10.0,
        "memory_bytes": 5 * 2**20,
        "files_percent": 0,
    }
    assert (seen["seconds"], seen["host_cpu_percent"], seen["lag_ms"]) == (10, 75.0, 99.1)
    assert (seen["memory_bytes"], seen["memory_available_bytes"]) == (9 * 1024, 1000 * 2**20)


@pytest.mark.parametrize(("limit", "reached"), [(3, True), (4, False)])
def test_a_process_that_has_all_connections_it_may_have(host: WatchedHost, limit: int, reached: bool) -> None:
    (host.folder(host.pids[0]) / "environ").write_text(f"WS_MAX_CONNECTIONS={limit}\0")
    assert host.watch()["app"]["max_connections"] == reached


def test_processes_that_memory_has_room_for(host: WatchedHost) -> None:
    assert host.watch()["most_processes"] is None, "they aren't the runner's"
    (host.proc.folder / "meminfo").write_text(f"MemTotal: {8 * 2**20} kB\nMemAvailable: 1024 kB\n")
    for pid, limit in zip(host.pids, (1000, 20_000), strict=True):
        variables = {"WS_COMPRESSION": "balanced", "WS_MAX_CONNECTIONS": str(limit)}
        (host.folder(pid) / "environ").write_text(
            "".join(f"{name}={value}\0" for name, value in variables.items())
        )
    assert host.watch()["most_processes"] == most_processes(variables, "nginx", True, False, 8 * 2**30)


def test_limits_that_nginx_names_meanwhile(host: WatchedHost) -> None:
    assert (host.watch()["said"], host.watch()["log_size"]) == ({}, 0)
    host.log.write_text("1024 worker_connections are not enough\n")
    assert host.watch()["said"] == {}, "the first look says where the log ends"
    size = host.watch()["log_size"]
    with host.log.open("a") as file:
        file.write("a limiting requests, excess\n" * 3 + "b worker_connections are not enough\n")
    seen = host.watch(size)
    assert seen["said"] == {"ws_nginx_connections": 1, "ws_nginx_handshakes_per_second_per_address": 3}
    assert seen["log_size"] == host.log.stat().st_size
    host.log.write_text("limiting requests\n")
    assert host.watch(size)["said"] == {"ws_nginx_handshakes_per_second_per_address": 1}, "it was rotated"


@pytest.mark.parametrize(("connections", "said"), [(299, {}), (300, {"ws_haproxy_connections": 1})])
def test_haproxy_that_is_full(
    host: WatchedHost, haproxy: Haproxy, connections: int, said: dict[str, int]
) -> None:
    host.haproxy = Runtime(str(haproxy.path))
    haproxy.info |= {"CurrConns": connections, "Maxconn": 300}
    assert host.watch()["said"] == said


def test_when_slots_last_changed_is_known_whoever_changed_them(host: WatchedHost) -> None:
    def before(seconds: float) -> None:
        os.utime(host.layout.tmpfiles, (time.time() - seconds, time.time() - seconds))

    assert host.watch()["slots_changed"] < 60
    before(3600)
    host.roll()
    assert host.watch()["slots_changed"] > 3500, "a run that changes nothing doesn't count"
    for change in ({"processes": 3}, {"processes": 2}, {"restart": True}):
        before(3600)
        host.roll(**change)
        assert host.watch()["slots_changed"] < 60, change


def test_who_took_it_out_of_service(host: WatchedHost) -> None:
    host.layout.state.mkdir(parents=True)
    for text, who in (("autoscale\n", "autoscale"), ("", "operator")):
        (host.layout.state / "drained").write_text(text)
        seen = host.watch()
        assert (seen["out_of_service"], seen["service_changed"] < 60) == (who, True)


def test_a_process_that_ends_meanwhile_isnt_idle(host: WatchedHost) -> None:
    host.happens = lambda: host.proc.end(host.pids[1])
    assert host.watch()["problems"] == ["echo_01 ended while it was looked at"]


def test_a_slot_without_a_process_is_a_problem(host: WatchedHost) -> None:
    host.supervisor.states["echo_01-g1"] = "FATAL"
    host.told["g1/echo_01.metrics"] = [metrics(0, 0, 0, 0), metrics(1, 1, 1, 1)]  # left by another
    seen = host.watch()
    assert [process["cpu_percent"] for process in seen["processes"]] == [0.0, 0.0]
    assert (seen["app"]["pids"], seen["lag_ms"]) == (host.pids[:1], None)
    assert seen["problems"] == ["echo_01 has no process of generation 1 (Exited too quickly)"]


def test_bare_host(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  1 0 0 1 0 0 0 0 0 0\n")
    observer = Observer(
        Layout("echo", "/opt/echo", str(tmp_path)),
        None,
        root=tmp_path,
        haproxy=Runtime(str(tmp_path / "no.sock")),
        kernel=lambda: Kernel(tmp_path / "proc"),
        sleep=lambda _seconds: None,
    )
    seen = observer.watch(1)
    assert (seen["processes"], seen["problems"], seen["slots_changed"]) == ([], [], None)
    assert (seen["app"]["connections"], seen["lag_ms"], seen["said"], seen["log_size"]) == (0, None, {}, 0)
