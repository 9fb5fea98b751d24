# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan keeps its promises for every load: it fits with servers down, and more load never takes less."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.plan import PlanError, plan
from hypothesis import given
from hypothesis import strategies as st

FIGURES: dict[str, Any] = {"processes": 4, "connections": 8000, "messages_per_second": 12000.0}
MEMORY = {
    "memory_bytes": 4 * 2**30,
    "memory_bytes_per_connection": 100 * 2**10,
    "memory_bytes_per_process": 30 * 2**20,
}

figures = st.fixed_dictionaries(
    {
        "processes": st.integers(1, 64),
        "connections": st.integers(200, 200_000),
        "messages_per_second": st.floats(1, 200_000),
    }
)
loads = st.tuples(st.integers(0, 1_000_000), st.floats(0, 1_000_000))
headrooms = st.floats(0, 90)
spares = st.integers(0, 3)


@given(figures, loads, headrooms, spares)
def test_it_fits_with_headroom_while_servers_are_down(
    measured: dict[str, Any], load: tuple[int, float], headroom: float, spare: int
) -> None:
    made = plan(measured, *load, headroom, spare)
    left = made["servers"] - spare
    use = 1 - headroom / 100 + 1e-6
    assert left >= 1
    assert -(-load[0] // left) <= use * measured["connections"]
    assert load[1] / left <= use * measured["messages_per_second"]
    # So do the processes, each of which carries its share of what was measured.
    part = made["processes"] / measured["processes"]
    assert 1 <= made["processes"] <= measured["processes"]
    assert load[0] / left <= use * measured["connections"] * part
    assert load[1] / left <= use * measured["messages_per_second"] * part


@given(figures, loads, loads, headrooms, spares)
def test_more_load_never_takes_fewer_servers(
    measured: dict[str, Any], load: tuple[int, float], more: tuple[int, float], headroom: float, spare: int
) -> None:
    both = (load[0] + more[0], load[1] + more[1])
    assert (
        plan(measured, *both, headroom, spare)["servers"] >= plan(measured, *load, headroom, spare)["servers"]
    )


@given(figures, loads, headrooms, spares)
def test_one_server_less_does_not_fit(
    measured: dict[str, Any], load: tuple[int, float], headroom: float, spare: int
) -> None:
    made = plan(measured, *load, headroom, spare)
    if made["servers"] > spare + 1:
        with pytest.raises(PlanError, match=f"{made['servers']} are needed"):
            plan(measured, *load, headroom, spare, servers=made["servers"] - 1)


@given(figures, loads, st.integers(0, 20))
def test_more_servers_never_take_more_processes(
    measured: dict[str, Any], load: tuple[int, float], more: int
) -> None:
    made = plan(measured, *load)
    assert plan(measured, *load, servers=made["servers"] + more)["processes"] <= made["processes"]


def test_messages_decide() -> None:
    made = plan(FIGURES, 2000, 20000, headroom_percent=0, spare_servers=1)
    assert (made["servers"], made["processes"]) == (3, 4)
    assert made["used_percent"] == {"connections": 12.5, "messages_per_second": 83.3}


def test_connections_decide() -> None:
    made = plan(FIGURES, 16000, 100, headroom_percent=0, spare_servers=0)
    assert (made["servers"], made["processes"]) == (2, 4)
    assert made["variables"] == {
        "ws_supervisor_processes": 4,
        "ws_app_max_connections": 2000,
        "ws_nginx_connections": 8000,
    }


@pytest.mark.parametrize(
    ("router", "variable"), [("haproxy", {"ws_haproxy_connections": 8000}), ("reuse_port", {})]
)
def test_room_is_that_of_the_router(router: str, variable: dict[str, int]) -> None:
    variables = plan(FIGURES | {"router": router}, 100)["variables"]
    assert variables == {"ws_supervisor_processes": 1, "ws_app_max_connections": 2000, **variable}


def test_headroom_is_kept() -> None:
    assert plan(FIGURES, 8000, headroom_percent=0, spare_servers=0)["servers"] == 1
    assert plan(FIGURES, 8000, headroom_percent=1, spare_servers=0)["servers"] == 2


def test_a_small_load_takes_one_process_and_a_server_to_spare() -> None:
    made = plan(FIGURES, 10, 1)
    assert (made["servers"], made["processes"]) == (2, 1)


def test_memory_decides() -> None:
    assert plan(FIGURES, 8000, headroom_percent=0, spare_servers=0)["servers"] == 1
    small = FIGURES | MEMORY | {"memory_bytes": 600 * 2**20}
    made = plan(small, 8000, headroom_percent=0, spare_servers=0)
    assert made["servers"] == 3  # 360 MiB each beside two generations of processes: 3,686 connections
    assert made["memory_bytes_per_server"] <= 600 * 2**20
    assert plan(FIGURES | MEMORY, 8000, headroom_percent=0, spare_servers=0)["servers"] == 1


def test_clients_of_a_lost_server_come_back() -> None:
    made = plan(FIGURES | {"handshakes_per_second": 100}, 9000, headroom_percent=0, spare_servers=1)
    assert made["servers"] == 3
    assert made["seconds_to_reconnect"] == 15  # 3,000 of them, on two servers
    assert plan(FIGURES, 9000)["seconds_to_reconnect"] is None


@pytest.mark.parametrize(
    ("changed", "load", "sentence"),
    [
        ({"connections": None}, {}, "connections of the figures is None"),
        ({"messages_per_second": "many"}, {}, "messages_per_second of the figures is 'many'"),
        ({"processes": 0}, {}, "0 processes"),
        ({"messages_per_second": 0}, {"messages_per_second": 1}, "needs some"),
        ({}, {"connections": -1}, "negative"),
        ({}, {"headroom_percent": 91}, "headroom_percent is 91: allowed is 0 to 90"),
        ({}, {"spare_servers": -1}, "spare_servers is -1"),
        ({}, {"servers": 0}, "servers is 0"),
        ({}, {"connections": 8000, "servers": 2}, "servers is 2: 3 are needed for 8,000 connections"),
        (MEMORY | {"memory_bytes": 2**20}, {}, "no room for a connection"),
    ],
)
def test_what_cannot_be_planned_is_said(changed: dict[str, Any], load: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        plan({**FIGURES, **changed}, **{"connections": 100, **load})
