# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.wsfleet.websockets.plugins.filter.ws_autoscale import FilterModule

autoscale = FilterModule().filters()["ws_autoscale"]


def seen(cpu: float, processes: int = 2, **more: t.Any) -> dict[str, t.Any]:
    """What ws_observe returns."""
    return {
        "processors": 4,
        "processes": [
            {"slot": slot, "cpu_percent": cpu, "connections": 100, "lag_ms": None}
            for slot in range(processes)
        ],
        "slots_changed": 3600.0,
        "service_changed": None,
        "out_of_service": "",
        "most_processes": None,
        "problems": [],
        **more,
    }


def host(name: str = "ws1", **inputs: t.Any) -> dict[str, t.Any]:
    return {"inventory_hostname": name, **inputs}


def test_what_to_do_with_each_in_their_order() -> None:
    hosts = [host("ws1"), host("ws2"), host("ws3"), host("ws4"), host("ws5", ws_autoscale_spare=True)]
    loads = [
        seen(90),
        seen(50),
        {"unreachable": True, "msg": "Failed to connect to the host"},
        seen(0, problems=["echo_01 is BACKOFF, not RUNNING"]),
        seen(0, out_of_service="autoscale"),
    ]
    assert (
        autoscale([host()], [{"failed": True, "msg": "no\npython"}])[0]["text"]
        == "ws1: isn't scaled: no python"
    )
    assert autoscale(hosts, loads) == [
        {
            "name": "ws1",
            "change": "scale",
            "now": 2,
            "processes": 4,
            "text": "ws1: 2 -> 4 processes: CPU 90 % is above 70 %",
        },
        {
            "name": "ws2",
            "change": "stay",
            "now": 2,
            "processes": 2,
            "text": "ws2: stays at 2 processes: CPU 50 %; event-loop lag unknown",
        },
        {
            "name": "ws3",
            "change": "stay",
            "now": 0,
            "processes": 0,
            "text": "ws3: isn't scaled: it doesn't answer",
        },
        {
            "name": "ws4",
            "change": "stay",
            "now": 0,
            "processes": 0,
            "text": "ws4: isn't scaled: echo_01 is BACKOFF, not RUNNING",
        },
        {
            "name": "ws5",
            "change": "stay",
            "now": 2,
            "processes": 2,
            "text": "ws5: stays at 2 processes: it is a spare, and not needed",
        },
    ]


def test_a_locked_server_stays_and_the_others_dont() -> None:
    run = {"id": "a-1-1", "who": "alice@laptop", "when": "2026-11-21T11:44:26Z", "what": "deploy chat 1.4.2"}
    locks = [
        {"holder": run, "taken_over": None},
        {"holder": run, "taken_over": run},
        {"holder": None, "taken_over": None},
        {"unreachable": True, "msg": "Failed to connect to the host"},
        {},
    ]
    hosts = [host(f"ws{n}") for n in range(1, 6)]
    decisions = autoscale(hosts, [seen(90)] * 5, locks)
    assert [decision["change"] for decision in decisions] == ["stay", *["scale"] * 4]
    assert decisions[0]["text"] == (
        'ws1: isn\'t scaled: alice@laptop has it locked since 2026-11-21T11:44:26Z for "deploy chat 1.4.2"'
    )


@pytest.mark.parametrize(("inputs", "processes"), [({}, 3), ({"ws_supervisor_memory_check": "false"}, 4)])
def test_memory_is_a_bound_unless_nobody_checks_it(inputs: dict[str, t.Any], processes: int) -> None:
    [decision] = autoscale([host(**inputs)], [seen(90, most_processes=3)])
    assert decision["processes"] == processes


@pytest.mark.parametrize(
    ("inputs", "processes"),
    [
        ({"ws_autoscale_max": "3"}, 3),
        ({"ws_autoscale_min": 1, "ws_autoscale_cpu_percent": [50, "95"]}, 2),
        ({"ws_autoscale_connections": [10, 60]}, 6),
        ({"ws_autoscale_up_seconds": 3601}, 2),
    ],
)
def test_inputs_may_differ_by_host(inputs: dict[str, t.Any], processes: int) -> None:
    [decision] = autoscale([host(**inputs)], [seen(90, processors=8)])
    assert decision["processes"] == processes


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("ws_autoscale_cpu_percent", [70, 30], "[low, high], numbers with 0 < low < high"),
        ("ws_autoscale_cpu_percent", 70, "[low, high], numbers with 0 < low < high"),
        ("ws_autoscale_lag_ms", ["a", "b"], "[low, high], numbers with 0 < low < high"),
        ("ws_autoscale_connections", [1, 2, 3], "[low, high], numbers with 0 < low < high"),
        ("ws_autoscale_min", 0, "1 to 99"),
        ("ws_autoscale_min", 2.5, "a whole number from 1 to 99"),
        ("ws_autoscale_max", "many", "0 to 99"),
        ("ws_autoscale_down_seconds", -1, "0 to 86400"),
    ],
)
def test_wrong_inputs(name: str, value: object, allowed: str) -> None:
    with pytest.raises(AnsibleFilterError) as refusal:
        autoscale([host() | {name: value}], [seen(50)])
    assert str(refusal.value) == f"{name} of ws1 is {value}, allowed is {allowed}"


def test_bounds_of_the_number_that_exclude_each_other() -> None:
    with pytest.raises(
        AnsibleFilterError, match="ws_autoscale_max of ws1 is 2, allowed is ws_autoscale_min or more"
    ):
        autoscale([host(ws_autoscale_min=3, ws_autoscale_max=2)], [seen(50)])
