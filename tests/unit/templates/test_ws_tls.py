# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the role ws_tls expects challenges to be answered, and who orders a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

ROLE = Path(__file__).resolve().parents[3] / "roles/ws_tls"
EDGES = {"groups": {"ws_edges": ["edge1"]}}

init_plugin_loader()


def render(name: str, inputs: dict[str, Any]) -> Any:
    """Return the role's variable `name`."""
    loader = DataLoader()
    variables: dict[str, Any] = {"inventory_hostname": "ws1", "playbook_dir": "/nowhere", "groups": {}}
    for part in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROLE / part / "main.yml"), trusted_as_template=True)
    return Templar(loader=loader, variables=variables | inputs).template(variables[name])


@pytest.mark.parametrize(
    ("inputs", "wrong"),
    [
        ({}, []),
        ({"ws_nginx_http_port": 0}, ["ws_nginx_http_port"]),
        ({"ws_nginx_http_port": 0, "ws_tls_acme_challenge": "dns-01", "ws_tls_acme_dns_hook": __file__}, []),
        ({"ws_router": "haproxy", "ws_nginx_http_port": 0}, []),
        ({"ws_router": "haproxy", "ws_haproxy_http_port": 0}, ["ws_haproxy_http_port"]),
        ({"ws_router": "reuse_port"}, ["ws_router"]),
        ({"ws_router": "reuse_port", **EDGES}, []),
        ({"ws_haproxy_http_port": 0, **EDGES}, ["ws_haproxy_http_port"]),
        ({"ws_edge": "nginx", "ws_nginx_http_port": 0, **EDGES}, ["ws_nginx_http_port"]),
    ],
)
def test_something_answers_challenges(inputs: dict[str, Any], wrong: list[str]) -> None:
    rules = render("__ws_tls_acme_rules", {"ws_tls_acme_terms_agreed": True, **inputs})
    assert [rule["name"] for rule in rules if not rule["good"]] == wrong


def test_of_servers_and_edges_with_the_same_names_one_orders() -> None:
    hosts = {
        "ws1": {"inventory_hostname": "ws1", "__ws_tls_share": "a"},
        "ws2": {"inventory_hostname": "ws2", "__ws_tls_share": "b"},
        "edge1": {"inventory_hostname": "edge1", "__ws_tls_share": "a"},
        "not-acme": {"inventory_hostname": "not-acme"},
    }
    inputs = {"ansible_play_hosts": [*hosts], "hostvars": hosts, "__ws_tls_share": "a"}
    assert render("__ws_tls_sharers", inputs) == ["ws1", "edge1"]
