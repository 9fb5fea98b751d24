# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role ws_metrics refuses, brings and starts."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[3] / "roles/ws_metrics"

init_plugin_loader()


def templar(**inputs: Any) -> Templar:
    loader = DataLoader()
    variables: dict[str, Any] = {
        "role_path": str(ROLE),
        "ansible_managed": "managed",
        "inventory_hostname": "ws1.example.org",
    }
    for part in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROLE / part / "main.yml"), trusted_as_template=True)
    return Templar(loader=loader, variables=variables | inputs)


def render(name: str, **inputs: Any) -> Any:
    """Return the role's variable `name`."""
    values = templar(**inputs)
    return values.template(values.available_variables[name])


def unit(name: str, **inputs: Any) -> configparser.RawConfigParser:
    """Return one of the role's units."""
    text = (ROLE / "templates" / f"{name}.j2").read_text()
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names as they are
    parser.read_string(templar(**inputs).template(trust_as_template(text)))
    return parser


def test_the_defaults_are_good() -> None:
    assert render("__ws_metrics_wrong") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("app", "Chat"),
        ("address", "localhost"),
        ("port", 80),
        ("port", 65536),
        ("allowed", ["192.0.2.0/24", "prometheus"]),
        ("allowed", ["192.0.2.7/24"]),
        ("https_port", 65536),
    ],
)
def test_bad_values_are_refused(name: str, value: object) -> None:
    wrong = render("__ws_metrics_wrong", **{f"ws_metrics_{name}": value})
    assert [rule["name"] for rule in wrong] == [f"ws_metrics_{name}"]


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "2001:db8::1", "192.0.2.7"])  # noqa: S104 (only a value)
def test_addresses_of_both_families_are_good(address: str) -> None:
    assert render("__ws_metrics_wrong", ws_metrics_address=address, ws_metrics_allowed=[address]) == []


def test_all_programs_are_there() -> None:
    files = [Path(file) for file in render("__ws_metrics_files")]
    assert all(file.is_file() for file in files)
    assert {file.name for file in files} == {"exporter.py", "states.py", "served.py", "supervisor.py"}
    for file in files:  # a host has no collection
        assert "ansible" not in "".join(
            line for line in file.read_text().splitlines() if line.startswith(("import ", "from "))
        )


def test_exporter_gets_its_inputs_and_no_rights() -> None:
    service = unit(
        "wsfleet-metrics.service", ws_metrics_port=9000, ws_metrics_allowed=["192.0.2.1", "2001:db8::/64"]
    )["Service"]
    arguments = shlex.split(service["ExecStart"])
    assert arguments[-7:] == [
        "--address",
        "127.0.0.1",
        "--port",
        "9000",
        "--allow",
        "192.0.2.1",
        "2001:db8::/64",
    ]
    assert (service["User"], service["CapabilityBoundingSet"]) == ("wsfleet-metrics", "")


def test_only_the_exporter_reaches_what_is_root() -> None:
    socket = unit("wsfleet-metrics-states.socket")["Socket"]
    assert (socket["SocketUser"], socket["SocketGroup"], socket["SocketMode"]) == (
        "root",
        "wsfleet-metrics",
        "0660",
    )
    service = unit("wsfleet-metrics-states.service")["Service"]
    assert (service["PrivateNetwork"], service["RestrictAddressFamilies"]) == ("yes", "AF_UNIX")
    assert service["CapabilityBoundingSet"] == ""


@pytest.mark.parametrize(
    ("inputs", "port"),
    [
        ({}, 443),
        ({"ws_nginx_https_port": 8443}, 8443),
        ({"ws_router": "haproxy"}, 443),
        ({"ws_router": "reuse_port"}, 8443),
        ({"ws_router": "reuse_port", "ws_reuse_port_port": 9443}, 9443),
    ],
)
def test_certificates_are_looked_at_where_the_router_shows_them(inputs: dict[str, Any], port: int) -> None:
    expected = {"names": ["ws1.example.org"], "port": port, "proxy_protocol": False}
    assert render("__ws_metrics_listener", **inputs) == expected
    proxied = render("__ws_metrics_listener", **inputs, ws_nginx_proxy_protocol=True)["proxy_protocol"]
    assert proxied == ("ws_router" not in inputs)


def test_names_that_nobody_can_ask_for_are_left_out() -> None:
    names = ["*.example.org", "ws.example.org", "~^ws"]
    assert render("__ws_metrics_listener", ws_nginx_server_names=names)["names"] == ["ws.example.org"]
    assert render("__ws_metrics_listener", ws_metrics_https_port=0)["names"] == []
