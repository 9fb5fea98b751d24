# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.filter.ws_listener import FilterModule

listener = FilterModule().filters()["ws_listener"]
HAPROXY = {"ws_router": "haproxy"}
SHARED = {"ws_router": "reuse_port"}


@pytest.mark.parametrize(
    ("variables", "tls", "port", "http_port"),
    [
        ({}, True, 443, 80),
        ({"ws_nginx_https_port": "8443", "ws_nginx_http_port": 0}, True, 8443, 0),
        ({"ws_nginx_tls": "false", "ws_nginx_https_port": 8443}, False, 80, 0),
        ({"ws_nginx_tls": False, "ws_nginx_http_port": 8080}, False, 8080, 0),
        (HAPROXY, True, 443, 80),
        (HAPROXY | {"ws_nginx_https_port": 8443, "ws_nginx_tls": False}, True, 443, 80),
        (HAPROXY | {"ws_haproxy_https_port": "9443", "ws_haproxy_http_port": 8080}, True, 9443, 8080),
        (HAPROXY | {"ws_haproxy_tls": "passthrough"}, True, 443, 0),
        (HAPROXY | {"ws_haproxy_tls": "off", "ws_haproxy_http_port": 8080}, False, 8080, 0),
        (HAPROXY | {"ws_haproxy_tls": False}, False, 80, 0),
        (SHARED, True, 8443, 0),
        (SHARED | {"ws_reuse_port_tls": "no", "ws_reuse_port_port": "9000"}, False, 9000, 0),
    ],
)
def test_of_a_server_its_router_s(variables: dict[str, Any], tls: bool, port: int, http_port: int) -> None:
    assert listener(variables) == {"tls": tls, "port": port, "http_port": http_port}


@pytest.mark.parametrize(
    ("variables", "port"),
    [
        ({}, 443),
        (HAPROXY | {"ws_haproxy_https_port": 9443, "ws_nginx_https_port": 8443}, 9443),
        (SHARED | {"ws_haproxy_https_port": 9443}, 9443),
        ({"ws_edge": "nginx", "ws_haproxy_https_port": 9443, "ws_nginx_https_port": 8443}, 8443),
    ],
)
def test_of_an_edge_its_balancer_s(variables: dict[str, Any], port: int) -> None:
    assert listener(variables, edge=True)["port"] == port
