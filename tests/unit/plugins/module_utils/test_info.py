# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ws_info says of a host whose supervisord and /proc exist for the test only."""

from __future__ import annotations

import json
import os
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member
from ansible_collections.wsfleet.websockets.plugins.module_utils.info import Info
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import Supervisor, SupervisorError

from tests.unit.plugins.module_utils.fake_host import Host


class ObservedHost(Host):
    """A host whose app has been rolled out, with its sockets there; `look()` is what a run of ws_info does."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "proc/uptime").write_text("1000.00 0.00\n")
        self.roll()
        self.bind("g1")

    def bind(self, generation: str) -> None:
        for n in range(2):
            (self.layout.run / f"{generation}/echo_0{n}.sock").touch()

    def start(self, pid: int, age: float, parent: int = 1) -> Path:
        """Give a process that is in /proc a parent and an age."""
        folder = self.proc.folder / str(pid)
        folder.mkdir(exist_ok=True)
        ticks = round((1000 - age) * os.sysconf("SC_CLK_TCK"))
        (folder / "stat").write_text(f"{pid} (python) S {parent} {'0 ' * 17}{ticks} 0\n")
        return folder

    def look(self) -> dict[str, t.Any]:
        supervisor = t.cast(Supervisor, self.supervisor)
        seen: dict[str, t.Any] = Info(self.layout, supervisor, Kernel(self.proc.folder)).result()
        return seen


@pytest.fixture
def host(tmp_path: Path) -> ObservedHost:
    return ObservedHost(tmp_path)


def test_bare_host(tmp_path: Path) -> None:
    assert Info(Layout("echo", "/opt/echo", str(tmp_path)), None, Kernel(tmp_path / "proc")).result() == {
        "app": "echo",
        "release": "",
        "generation": None,
        "out_of_service": "",
        "slots": [],
        "draining": [],
        "nginx": {"workers": 0, "old_workers": []},
        "memory": None,
        "problems": [],
    }


def test_slots_and_the_processes_that_serve_them(host: ObservedHost) -> None:
    pid = host.pid("echo_00-g1")
    host.proc.process(pid, "echo_00.sock", connections=3, mebibytes=20)
    host.start(pid, age=75)
    seen = host.look()
    assert (seen["release"], seen["generation"], seen["draining"], seen["problems"]) == ("a", 1, [], [])
    assert seen["slots"][0] == {
        "slot": 0,
        "process": "echo_00-g1:echo_00",
        "generation": 1,
        "release": "a",
        "pid": pid,
        "state": "RUNNING",
        "age_seconds": 75,
        "connections": 3,
        "memory_bytes": 20 * 2**20,
        "handover": None,
    }
    assert [slot["slot"] for slot in seen["slots"]] == [0, 1]


def test_what_a_process_took_over(host: ObservedHost) -> None:
    figures = {
        "moved": 3,
        "stayed": 1,
        "seconds": 0.5,
        "pause_p50_ms": 2,
        "pause_p99_ms": 8,
        "pause_max_ms": 9,
    }
    (host.layout.run / "g1/echo_00.sock.json").write_text(json.dumps(figures))
    assert [slot["handover"] for slot in host.look()["slots"]] == [figures, None]


def test_draining_process_has_so_many_seconds_left(host: ObservedHost) -> None:
    host.supervisor.drains_for_ever = True
    pid = host.pid("echo_00-g1")
    host.proc.process(pid, "echo_00.sock", connections=7)
    host.start(pid, age=500)
    host.roll(release="/opt/echo/releases/b")
    host.bind("g2")
    [note] = host.layout.run.glob(f"told.{pid}.*")
    os.utime(note, (time.time() - 20, time.time() - 20))
    seen = host.look()
    assert (seen["release"], seen["generation"], seen["problems"]) == ("b", 2, [])
    first, second = seen["draining"]
    assert (first["process"], first["release"], first["connections"]) == ("echo_00-g1:echo_00", "a", 7)
    assert first["seconds_left"] in (29, 30)
    assert second["process"] == "echo_01-g1:echo_01"


def test_orphan_beside_its_successor_drains_and_nobody_will_kill_it(host: ObservedHost) -> None:
    host.proc.orphan(77, host.layout.run / "g1", "echo_00")
    seen = host.look()
    [orphan] = seen["draining"]
    assert (orphan["pid"], orphan["state"], orphan["seconds_left"]) == (77, "ORPHAN", None)
    assert seen["slots"][0]["pid"] == host.pid("echo_00-g1")
    assert seen["problems"] == [
        "pid 77 of echo_00-g1:echo_00 lives on although its supervisord is gone; the next rollout has it drain"
    ]
    host.layout.note_told(77, Kernel(host.proc.folder).start_ticks(77))
    told = host.look()
    assert (told["draining"][0]["seconds_left"], told["problems"]) == (None, [])


def test_while_supervisord_is_down_the_orphans_serve(
    host: ObservedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down() -> t.NoReturn:
        raise SupervisorError("supervisord doesn't answer")

    monkeypatch.setattr(host.supervisor, "processes", down)
    host.proc.orphan(77, host.layout.run / "g1", "echo_00")
    seen = host.look()
    assert [(slot["pid"], slot["state"]) for slot in seen["slots"]] == [(77, "ORPHAN"), (None, "MISSING")]
    assert seen["draining"] == []
    assert seen["problems"] == [
        "supervisord doesn't answer",
        "echo_00 is served by pid 77, which supervisord doesn't know",
        "echo_01 has no process of generation 1",
    ]


def test_problems_are_named(host: ObservedHost) -> None:
    host.supervisor.states["echo_00-g1"] = "FATAL"
    host.supervisor.states["echo_01-g1"] = "STARTING"
    (host.layout.run / "g1/echo_01.sock").unlink()
    host.layout.current.symlink_to("releases/b")
    seen = host.look()
    assert seen["slots"][0]["pid"] is None
    assert seen["problems"] == [
        "echo_00 has no process of generation 1 (Exited too quickly)",
        "echo_01 is STARTING, not RUNNING",
        f"echo_01 points at {host.layout.run}/g1/echo_01.sock, which doesn't exist",
        f"{host.layout.current} points at b, but a serves",
    ]


def test_mixed_generations_are_a_problem(host: ObservedHost) -> None:
    host.supervisor.drains_for_ever = True
    host.roll(release="/opt/echo/releases/b")
    host.bind("g2")
    host.layout.switch(Member(1, 1))
    seen = host.look()
    assert (seen["generation"], [slot["generation"] for slot in seen["slots"]]) == (2, [2, 1])
    assert "served by generations 1 and 2" in seen["problems"][-1]


def test_app_on_ports_needs_no_socket(host: ObservedHost) -> None:
    host.roll(port=8100)
    assert host.look()["problems"] == []


def test_memory_is_reckoned_from_what_the_process_was_started_with(host: ObservedHost) -> None:
    assert host.look()["memory"] is None  # it isn't the runner
    folder = host.start(host.pid("echo_00-g1"), age=9)
    environment = ["WS_COMPRESSION=off", "WS_MAX_CONNECTIONS=100", "WS_MAX_SIZE=1024", "WS_WRITE_LIMIT=1024"]
    (folder / "environ").write_text("\0".join(environment))
    (folder / "cmdline").write_text("python\0-m\0wsfleet\0--handover\0")
    assert host.look()["memory"] == {
        "connection_bytes": 91 * 1024,
        "process_bytes": 16 * 1024,
        "proxy_bytes": 66 * 1024,
        "kernel_bytes": 9 * 1024,
        "worst_bytes": (91 + 17 + 1) * 1024,
        "available_bytes": 1000 * 2**20,
        "more_connections": 1000 * 1024 // 91,
        "total_bytes": 9 * 1024,
        "max_connections": 200,
        "max_bytes": 200 * 91 * 1024,
    }
    (folder / "environ").write_text("WS_COMPRESSION=balanced")
    memory = host.look()["memory"]
    assert (memory["process_bytes"], memory["max_connections"]) == ((65 + 4) * 1024, None)


def test_old_workers_of_nginx(host: ObservedHost) -> None:
    for pid, title in ((5, "nginx: master process nginx"), (6, "nginx: worker process")):
        (host.start(pid, age=9) / "cmdline").write_text(f"{title}\0\0\0")
    (host.start(7, age=300) / "cmdline").write_text("nginx: worker process is shutting down\0")
    rows = ["0: 00000000:01BB 00000000:0000 0A", "1: 0100007F:01BB 0100007F:C140 01", "2: 0:C141 0:1F90 01"]
    (host.proc.folder / "net/tcp").write_text(
        "header\n" + "".join(f"{row} 0 0 0 0 0 {n}\n" for n, row in enumerate(rows))
    )
    (host.proc.folder / "7/fd").mkdir()
    for n in range(3):
        (host.proc.folder / f"7/fd/{n}").symlink_to(f"socket:[{n}]")
    assert host.look()["nginx"] == {
        "workers": 1,
        "old_workers": [{"pid": 7, "age_seconds": 300, "connections": 1}],
    }
