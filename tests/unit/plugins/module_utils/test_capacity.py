# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The knee of simulated hosts is found where it is, with what is used up there by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.capacity import (
    FINE,
    GENERATOR,
    STAGES,
    following,
    generator_bound,
    judge,
    passed,
    saturated,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.plan import plan

LIMITS = {"p99_ms": 100.0, "lag_ms": 50.0}
MIB = 2**20


@dataclass
class Host:
    """A server and a load generator that are used up one day. Clients send ten messages a second."""

    processes: int = 2
    processors: int = 4
    app_us: float = 100
    router_us: float = 30
    memory_mib: float = 8192
    kib_per_connection: float = 100
    max_connections: int = 0  # per process
    router_connections: int = 10**9
    generator_us: float = 10
    lag: bool = True

    def stage(self, mode: str, connections: int) -> dict[str, Any]:
        room = min(self.router_connections, self.max_connections * self.processes or 10**9)
        opened = min(connections, room)
        rate = 10.0 * opened if mode == "play" else 0.0
        used = [rate * self.app_us / 1e4 / self.processes, rate * self.router_us / 1e4 / self.processors]
        app, router = (min(100, percent) for percent in used)
        over = max(*used, rate * self.generator_us / 1e4)
        late = 1.0 if over < 90 else 20 * (over - 85)
        base = self.processes * 30 * MIB
        memory = base + opened * self.kib_per_connection * 1024
        failures = (
            {}
            if opened == connections
            else {"HTTP 503" if self.max_connections else "cut": connections - opened}
        )
        return {
            "load": {
                "mode": mode,
                "connections": connections,
                "opened": opened,
                "failed_clients": connections - opened,
                "failures": failures,
                "messages_per_second": min(rate, rate / max(over / 100, 1)),
                "handshakes_per_second": 0,
                "answer_ms": {"p50": late / 2, "p99": 10 * late, "max": 20 * late}
                if mode == "play"
                else None,
                "generator": {
                    "cpu_percent": min(100, rate * self.generator_us / 1e4),
                    "host_cpu_percent": 30.0,
                    "cpu_us_per_message": self.generator_us if rate else None,
                    "lag_ms": 0.5,
                },
            },
            "host": {
                "processors": self.processors,
                "host_cpu_percent": min(
                    100, (app * self.processes + router * self.processors) / self.processors
                ),
                "app": {
                    "pids": list(range(self.processes)),
                    "cpu_percent": app * self.processes,
                    "busiest_percent": app,
                    "memory_bytes": memory,
                    "files_percent": 1,
                    "connections": opened,
                    "max_connections": bool(self.max_connections) and opened < connections,
                },
                "router": {
                    "cpu_percent": router * self.processors,
                    "busiest_percent": router,
                    "memory_bytes": 0,
                    "files_percent": 1,
                },
                "memory_bytes": self.memory_mib * MIB,
                "memory_available_bytes": self.memory_mib * MIB - memory,
                "lag_ms": late if self.lag else None,
                "said": {"ws_nginx_connections": 3} if opened == self.router_connections else {},
            },
        }

    def ramp(self, mode: str, start: int, most: int) -> list[dict[str, Any]]:
        stages: list[dict[str, Any]] = []
        while connections := following(stages, start, most, LIMITS):
            stages.append(self.stage(mode, connections))
            assert len(stages) <= STAGES
            assert connections <= most
        return stages

    def judge(self, start: int = 50, most: int = 200_000) -> dict[str, Any]:
        play = self.ramp("play", start, most)
        hold = self.ramp("hold", start, most)
        found: dict[str, Any] = judge(self.stage("hold", 0)["host"], None, play, hold, LIMITS)
        return found


@pytest.mark.parametrize("start", [10, 50, 333, 5000])
@pytest.mark.parametrize(
    ("host", "name", "messages"),
    [
        (Host(), "CPU of the app", 18_000),  # 90 % of 2 processes at 100 µs
        (Host(lag=False), "CPU of the app", 18_000),
        (Host(router_us=300, app_us=10, generator_us=1), "CPU of the router", 12_000),
        (Host(max_connections=300), "ws_app_max_connections", 6_000),
        (Host(router_connections=700), "ws_nginx_connections", 7_000),
        (Host(memory_mib=200), "memory", 13_310),
    ],
)
def test_the_knee_of_messages(host: Host, name: str, messages: float, start: int) -> None:
    found = host.judge(start)
    knee = found["knees"]["messages"]
    assert knee["found"]
    assert knee["saturated"] == name
    assert knee["why"]
    assert found["figures"]["messages_per_second"] <= 1.1 * messages
    assert found["figures"]["messages_per_second"] >= messages / FINE / 1.05
    assert name in found["sentences"][0]


def test_quiet_connections_end_where_memory_does() -> None:
    found = Host(memory_mib=1024).judge()
    knee = found["knees"]["connections"]
    room = (1024 * 0.95 - 60) * 1024 / 100
    assert knee["saturated"] == "memory"
    assert room / FINE <= knee["connections"] <= room
    assert found["figures"]["memory_bytes_per_connection"] == 100 * 1024
    assert found["figures"]["memory_bytes_per_process"] == 30 * MIB
    assert found["figures"]["memory_bytes"] == 1024 * MIB
    # The plan takes the figures as they are.
    assert plan(found["figures"], 20_000, 1000)["servers"] >= 3


@pytest.mark.parametrize("start", [50, 4000])
def test_a_slow_generator_claims_nothing(start: int) -> None:
    found = Host(app_us=10, router_us=1, generator_us=100).judge(start)
    knee = found["knees"]["messages"]
    assert knee["saturated"] == GENERATOR
    assert not knee["found"]
    assert "nothing is said beyond that" in found["sentences"][0]


def test_the_most_that_was_asked_for_is_no_knee() -> None:
    found = Host().judge(most=500)
    assert found["knees"]["messages"] == {
        "connections": 500,
        "messages_per_second": 5000,
        "found": False,
        "saturated": "",
        "why": [],
    }
    assert found["sentences"][0].endswith("the most that was tried, within all limits.")


def test_nothing_goes_well() -> None:
    found = Host(app_us=10**6).judge(start=40)
    assert found["knees"]["messages"]["connections"] == 0
    assert found["figures"]["messages_per_second"] == 0
    assert [stage["load"]["connections"] for stage in Host(app_us=10**6).ramp("play", 40, 100)] == [40, 10, 2]


def test_what_a_message_costs_is_known_of_a_busy_app_only() -> None:
    figures = Host().judge()["figures"]
    assert figures["app_cpu_us_per_message"] == pytest.approx(100, rel=0.02)
    assert figures["router_cpu_us_per_message"] == pytest.approx(30, rel=0.02)
    assert figures["generator_cpu_us_per_message"] == 10
    quiet = Host().stage("play", 10)
    found = judge(Host().stage("hold", 0)["host"], None, [quiet], [], LIMITS)["figures"]
    assert found["app_cpu_us_per_message"] is found["generator_cpu_us_per_message"] is None


def test_noise_ends_a_ramp() -> None:
    good, bad = (Host().stage("play", number) for number in (400, 4000))
    assert following([bad, good], 1, 10**5, LIMITS) == round(math.sqrt(400 * 4000))
    bad["load"]["connections"] = 300
    assert following([bad, good], 1, 10**5, LIMITS) == 0


def test_each_limit_is_said() -> None:
    stage = Host().stage("play", 100)
    assert passed(stage, LIMITS) == []
    assert saturated(stage, LIMITS) == ""
    stage["load"] |= {
        "failed_clients": 3,
        "failures": {"cut": 3},
        "answer_ms": {"p50": 1, "p99": 101, "max": 200},
    }
    stage["host"] |= {"lag_ms": 51, "memory_available_bytes": MIB}
    assert passed(stage, LIMITS) == [
        "3 of 100 clients failed: cut (3)",
        "1 % of the answers took more than 101 ms, allowed are 100 ms",
        "an event loop was 51 ms late, allowed are 50 ms",
        "1 MiB of memory were left",
    ]


@pytest.mark.parametrize(
    ("part", "value", "name"),
    [
        (("host", "app", "files_percent"), 96, "limit of open files"),
        (("load", "generator", "cpu_percent"), 80, GENERATOR),
        (("load", "generator", "host_cpu_percent"), 95, GENERATOR),
        (("load", "generator", "lag_ms"), 26, GENERATOR),
        (("host", "host_cpu_percent"), 95, "CPU of the server, most of it by the app"),
    ],
)
def test_what_is_used_up(part: tuple[str, ...], value: float, name: str) -> None:
    stage = Host().stage("play", 100)
    where: Any = stage
    for key in part[:-1]:
        where = where[key]
    where[part[-1]] = value
    assert saturated(stage, LIMITS) == name
    assert generator_bound(stage, LIMITS) == (name == GENERATOR)
