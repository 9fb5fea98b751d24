# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.wsfleet.websockets.plugins.filter.ws_status import FilterModule, age

status = FilterModule().filters()["ws_status"]


def member(slot: int, generation: int, **rest: t.Any) -> dict[str, t.Any]:
    return {
        "slot": slot,
        "process": f"chat_{slot:02d}-g{generation}:chat_{slot:02d}",
        "generation": generation,
        "release": f"1.{generation}-0d5a3e7c91fb",
        "pid": 100 + slot,
        "state": "RUNNING",
        "age_seconds": 3700,
        "connections": 10,
        "memory_bytes": 30 * 2**20,
        **rest,
    }


def info(**rest: t.Any) -> dict[str, t.Any]:
    return {
        "app": "chat",
        "release": "1.2-0d5a3e7c91fb",
        "generation": 2,
        "out_of_service": "",
        "slots": [member(0, 2), member(1, 2)],
        "draining": [],
        "nginx": {"workers": 2, "old_workers": []},
        "memory": None,
        "problems": [],
        **rest,
    }


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (59.9, "59s"), (60, "1m 0s"), (3700, "1h 1m"), (86400 * 3 + 3600 * 4, "3d 4h")],
)
def test_an_age_has_its_two_greatest_units(seconds: float, words: str) -> None:
    assert age(seconds) == words


def test_a_row_for_each_slot_and_the_total() -> None:
    assert status(info()) == [
        "slot     release           gen  state    pid  age    connections  memory",
        "chat_00  1.2-0d5a3e7c91fb  2    running  100  1h 1m  10           30 MiB",
        "chat_01  1.2-0d5a3e7c91fb  2    running  101  1h 1m  10           30 MiB",
        "20 connections, release 1.2-0d5a3e7c91fb",
    ]


def test_a_host_out_of_service_is_shown_with_who_took_it_out() -> None:
    assert status(info(out_of_service="autoscale"))[-1] == "out of service, by autoscale"


def test_what_drains_is_shown_with_the_time_it_has_and_counted() -> None:
    lines = status(info(draining=[member(0, 1, seconds_left=75, connections=7)]))
    assert "chat_00  1.1-0d5a3e7c91fb  1    draining, at most 1m 15s" in lines[3]
    assert lines[-1].startswith("27 connections")


def test_an_old_process_that_was_not_told_to_stop_has_no_time() -> None:
    assert "old" in status(info(draining=[member(0, 1, seconds_left=None)]))[3].split()


def test_a_slot_without_a_process() -> None:
    lines = status(info(slots=[member(0, 2, pid=None, age_seconds=None, state="MISSING", connections=0)]))
    assert "missing  -    -" in lines[1]


def test_connections_that_moved_are_said() -> None:
    lines = status(info(slots=[member(0, 2, handover={"moved": 9.0, "stayed": 1.0, "pause_max_ms": 8.2})]))
    assert lines[-1] == (
        "chat_00 took over 9 connections from the process before, each paused for 8 ms at most; 1 were closed"
    )


def test_old_workers_of_nginx_and_problems_are_said() -> None:
    lines = status(
        info(
            nginx={"workers": 2, "old_workers": [{"pid": 7, "age_seconds": 60, "connections": 3}]},
            problems=["chat_03 has no process of generation 2 (FATAL)"],
        )
    )
    assert lines[-2] == (
        "nginx worker 7 (1m 0s old) was replaced by a reload and stays until its 3 connections end"
    )
    assert lines[-1] == "problem: chat_03 has no process of generation 2 (FATAL)"


MEMORY = {
    "connection_bytes": 121 * 1024,
    "process_bytes": 65 * 1024,
    "proxy_bytes": 47 * 1024,
    "kernel_bytes": 9 * 1024,
    "worst_bytes": 17 * 2**20,
    "available_bytes": 3.2 * 2**30,
    "more_connections": 27731,
    "total_bytes": 8 * 2**30,
    "max_connections": None,
    "max_bytes": None,
}


def test_memory_of_a_connection_and_of_the_host() -> None:
    assert status(info(memory=MEMORY))[-2:] == [
        (
            "about 121 KiB of memory per connection (process 65 KiB, proxy 47 KiB, kernel 9 KiB), "
            "17 MiB if a client fills every buffer"
        ),
        "3.2 GiB of the host's 8.0 GiB are available, enough for about 27,000 more connections",
    ]


def test_memory_without_a_proxy_and_with_a_limit() -> None:
    limited = MEMORY | {"proxy_bytes": 0, "max_connections": 20000, "max_bytes": 2.3 * 2**30}
    lines = status(info(memory=limited))
    assert "(process 65 KiB, kernel 9 KiB)" in lines[-2]
    assert lines[-1].endswith("more connections; all 20,000 that the processes accept take about 2.3 GiB")


def test_nothing_there() -> None:
    assert status(info(slots=[], release="")) == ["chat isn't deployed here"]


def test_an_edge_has_certificates_only() -> None:
    good = {"name": "a", "not_after": "2030-01-31T12:00:00Z", "days_left": 61, "problem": ""}
    lines = status(info(slots=[], release="", certificates=[good]), edge=True)
    assert lines == ["the certificate for a is valid for 61 days"]


def test_what_is_left_of_certificates() -> None:
    good = {"name": "a", "not_after": "2030-01-31T12:00:00Z", "days_left": 61, "problem": ""}
    expired = {"name": "b", "not_after": "2020-01-31T12:00:00Z", "days_left": -3, "problem": ""}
    none = {"name": "c", "not_after": None, "days_left": None, "problem": "Connection refused"}
    assert status(info(certificates=[good, expired, none]))[-3:] == [
        "the certificate for a is valid for 61 days",
        "problem: the certificate for b expired on 2020-01-31T12:00:00Z",
        "problem: no certificate is shown for c: Connection refused",
    ]
