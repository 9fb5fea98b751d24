# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.wsfleet.websockets.plugins.filter.ws_doctor import doctor


def link(name: str, connections: int, variable: str) -> dict[str, Any]:
    return {
        "name": name,
        "limit": 2 * connections,
        "unit": "connections",
        "per_connection": 2,
        "used": 1,
        "connections": connections,
        "variable": variable,
    }


def test_first_limit_all_of_them_the_least_backlog_and_drift() -> None:
    links = [link("worker_connections", 4096, "ws_nginx_connections"), link("memory", 90000, "more memory")]
    backlogs = [
        {"name": "chat_00.sock", "limit": 4096, "waiting": 0, "variable": "ws_host_preset"},
        {"name": "port 443", "limit": 511, "waiting": 0, "variable": "ws_nginx_connections"},
    ]
    drift = ["net.core.somaxconn is 128, but a file has 4096"]
    found = {
        "app": "chat",
        "clients": 1108,
        "links": links,
        "first": links[0],
        "backlogs": backlogs,
        "drift": drift,
    }
    assert doctor(found) == [
        "1,108 clients now",
        "first limit: worker_connections, at 4,096 clients; raise ws_nginx_connections",
        "limit               clients  used  of                   raised by",
        "worker_connections  4,096    1     8,192 connections    ws_nginx_connections",
        "memory              90,000   1     180,000 connections  more memory",
        "a burst may have 511 handshakes wait at port 443, the least of 2 backlogs; raise ws_nginx_connections",
        "drift: net.core.somaxconn is 128, but a file has 4096",
    ]


def test_no_drift_is_said() -> None:
    links = [link("memory", 90000, "more memory")]
    found = {"app": "chat", "clients": 0, "links": links, "first": links[0], "backlogs": [], "drift": []}
    assert doctor(found)[-1] == "no drift: what runs is as on disk"


def test_not_served_here() -> None:
    found = {"app": "chat", "clients": 0, "links": [], "first": None, "backlogs": [], "drift": ["something"]}
    assert doctor(found) == ["chat isn't served here", "drift: something"]
