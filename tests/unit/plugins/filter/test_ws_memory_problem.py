# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.wsfleet.websockets.plugins.filter.ws_memory_problem import FilterModule

memory_problem = FilterModule().filters()["ws_memory_problem"]
ENVIRONMENT = {"WS_COMPRESSION": "off", "WS_MAX_CONNECTIONS": 10_000}


def test_more_than_there_is() -> None:
    assert memory_problem(ENVIRONMENT, 2, 2**30).startswith("10000 for each of 2 processes")


def test_router_tls_and_handover_count() -> None:
    assert memory_problem(ENVIRONMENT, 2, 2 * 2**30, "nginx", True) == ""
    assert memory_problem(ENVIRONMENT, 2, 2**30, "nginx", False) == ""
    assert memory_problem(ENVIRONMENT, 2, 3 * 2**29, "haproxy", True) == ""
    fitting = 2 * (30 * 2**20 + 10_000 * 140 * 1024)
    balanced = {**ENVIRONMENT, "WS_COMPRESSION": "balanced"}
    assert memory_problem(balanced, 2, fitting) == ""
    assert memory_problem(balanced, 2, fitting, handover=True) != ""


def test_connections_that_are_expected_count_where_the_processes_accept_any() -> None:
    unlimited = {"WS_COMPRESSION": "off"}
    assert memory_problem(unlimited, 2, 2**30) == ""
    assert memory_problem(unlimited, 2, 2**30, connections=1_000) == ""
    sentence = memory_problem(unlimited, 2, 2**30, connections=100_000)
    assert sentence.startswith("100000 connections over 2 processes, which take 8.7 GiB")
    allowed = int(sentence.rpartition("allowed is ")[2].split()[0])
    assert memory_problem(unlimited, 2, 2**30, connections=allowed) == ""
    assert memory_problem(unlimited, 2, 2**30, connections=allowed + 1) != ""
