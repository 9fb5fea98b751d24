# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the presets of role ws_host raise, and the defaults of other roles that follow them."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

ROLES = Path(__file__).resolve().parents[3] / "roles"
BACKLOGS = {"net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog"}

init_plugin_loader()


def render(role: str, name: str, inputs: dict[str, Any]) -> Any:
    """Return the role's variable `name`."""
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        file = str(ROLES / role / part / "main.yml")
        variables |= loader.load_from_file(file, trusted_as_template=True)
    return Templar(loader=loader, variables=variables | inputs).template(variables[name])


def wanted(preset: str, cookies: str = "1", **inputs: Any) -> dict[str, str]:
    """Return the kernel's parameters."""
    facts = {"__ws_host_cookies": {"content": base64.b64encode(f"{cookies}\n".encode()).decode()}}
    found = render("ws_host", "__ws_host_wanted", {**facts, "ws_host_preset": preset, **inputs})
    return {one["name"]: one["value"] for one in found}


def test_none_wants_nothing() -> None:
    assert wanted("none") == {}
    assert render("ws_host", "ws_host_preset", {}) == "none"


@pytest.mark.parametrize(("preset", "backlog"), [("10k", "4096"), ("100k", "16384"), ("1m", "65535")])
def test_backlogs_grow_with_the_preset(preset: str, backlog: str) -> None:
    assert wanted(preset)["net.core.somaxconn"] == backlog


def test_backlog_of_syns_only_where_the_kernel_looks_at_it() -> None:
    assert wanted("100k").keys() & BACKLOGS == {"net.core.somaxconn"}
    assert wanted("100k", cookies="0").keys() & BACKLOGS == BACKLOGS


def test_ports_only_on_edges() -> None:
    name = "net.ipv4.ip_local_port_range"
    assert name not in wanted("1m")
    assert wanted("1m", ws_edge_servers=[{"name": "ws1"}])[name] == "10240 65535"


def test_only_the_largest_needs_more_descriptors_than_any_process_may_have() -> None:
    assert [preset for preset in ("10k", "100k", "1m") if "fs.nr_open" in wanted(preset)] == ["1m"]
    clients = render("ws_nginx", "ws_nginx_connections", {"ws_host_preset": "1m"})
    assert int(wanted("1m")["fs.nr_open"]) >= 2 * clients + 1024


@pytest.mark.parametrize(
    ("preset", "clients", "files"),
    [
        (None, 8192, 524288),
        ("none", 8192, 524288),
        ("10k", 10_000, 524288),
        ("100k", 100_000, 524288),
        ("1m", 1_000_000, 1048576),
    ],
)
def test_other_roles_follow(preset: str | None, clients: int, files: int) -> None:
    inputs = {"ws_host_preset": preset} if preset else {}
    assert render("ws_nginx", "ws_nginx_connections", inputs) == clients
    assert render("ws_haproxy", "ws_haproxy_connections", inputs) == clients
    assert render("ws_supervisor", "ws_supervisor_nofile", inputs) == files
    assert render("ws_supervisor", "__ws_supervisor_connections", inputs) == (
        clients if preset and preset != "none" else 0
    )
    backlog = render("ws_supervisor", "__ws_supervisor_backlog", inputs)
    assert backlog == int(wanted(preset or "none").get("net.core.somaxconn", 4096))


def test_every_parameter_has_its_reason_source_and_place_in_the_documentation() -> None:
    loader = DataLoader()
    parameters = loader.load_from_file(str(ROLES / "ws_host/vars/main.yml"))["__ws_host_parameters"]
    told = " ".join((ROLES / "ws_host/meta/argument_specs.yml").read_text().split())
    for one in parameters:
        source = re.fullmatch(r"[A-Z].+\. (https://\S+)", one["why"].strip())
        assert source, one["name"]
        assert f"C({one['name']})" in told
        assert source[1] in told
