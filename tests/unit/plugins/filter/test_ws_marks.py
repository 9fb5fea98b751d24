# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.wsfleet.websockets.plugins.filter.ws_marks import FilterModule

marks = FilterModule().filters()["ws_marks"]


def host(name: str, began: float, moved: list[tuple[int, int | None, int, float]]) -> dict[str, t.Any]:
    slots = [
        {"slot": slot, "from_generation": old, "to_generation": new, "switched": switched}
        for slot, old, new, switched in moved
    ]
    rollout = {"changed": True, "began": began, "ended": began + 30, "moved": slots}
    return {"inventory_hostname": name, "ws_supervisor_rollout": rollout}


def test_each_switch_and_when_the_old_processes_are_told_to_go() -> None:
    found = marks([host("ws1", 1000.0, [(0, 3, 4, 2.0), (1, 3, 4, 2.5)])])
    assert found == [
        {"time": 1000.0, "kind": "begin"},
        {"time": 1002.0, "kind": "switch", "host": "ws1", "text": "slot 00 to generation 4"},
        {"time": 1002.5, "kind": "switch", "host": "ws1", "text": "slot 01 to generation 4"},
        {"time": 1002.5, "kind": "drain", "host": "ws1", "text": "generation 3"},
        {"time": 1030.0, "kind": "end"},
    ]


def test_connections_that_moved_are_said_where_the_old_processes_go() -> None:
    moving = host("ws1", 1000.0, [(0, 3, 4, 2.0)])
    figures = {"stayed": 1.0, "pause_max_ms": 8.4}
    moving["ws_supervisor_rollout"]["handover"] = {
        "0": figures | {"moved": 5.0},
        "1": figures | {"moved": 2.0},
    }
    [text] = [mark["text"] for mark in marks([moving]) if mark["kind"] == "drain"]
    assert text == "generation 3, 7 connections moved, paused for 8 ms at most, 2 stayed to be closed"


def test_nothing_drains_where_nothing_served() -> None:
    assert "drain" not in [mark["kind"] for mark in marks([host("ws1", 0.0, [(4, None, 4, 1.0)])])]


def test_the_change_is_from_the_first_host_to_the_last() -> None:
    found = marks([host("ws2", 1100.0, []), host("ws1", 1000.0, [])])
    assert [(mark["kind"], mark["time"]) for mark in found] == [("begin", 1000.0), ("end", 1130.0)]


def test_hosts_that_changed_nothing_have_none() -> None:
    still = host("ws1", 1000.0, [])
    still["ws_supervisor_rollout"]["changed"] = False
    assert marks([still, {"inventory_hostname": "ws2"}]) == []


def test_a_change_without_a_rollout_has_the_times_that_are_given() -> None:
    found = marks([{"inventory_hostname": "ws1"}], 1000.0, 1009.0)
    assert [(mark["kind"], mark["time"]) for mark in found] == [("begin", 1000.0), ("end", 1009.0)]


def test_the_times_of_a_rollout_count_more() -> None:
    found = marks([host("ws1", 1003.0, [])], 1000.0, 1050.0)
    assert [(mark["kind"], mark["time"]) for mark in found] == [("begin", 1003.0), ("end", 1033.0)]
