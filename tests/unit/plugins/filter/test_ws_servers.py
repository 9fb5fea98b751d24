# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.filter.ws_servers import FilterModule

servers = FilterModule().filters()["ws_servers"]


@pytest.mark.parametrize(
    ("variables", "address", "port"),
    [
        ({}, "ws1", 443),
        ({"ansible_host": "192.0.2.1"}, "192.0.2.1", 443),
        ({"ansible_host": "192.0.2.1", "ws_address": "10.0.0.1"}, "10.0.0.1", 443),
        ({"ws_router": "haproxy", "ws_haproxy_https_port": 8443}, "ws1", 8443),
    ],
)
def test_where_a_server_is(variables: dict[str, Any], address: str, port: int) -> None:
    hosts = [{"inventory_hostname": "ws1", **variables}, {"inventory_hostname": "ws2"}]
    assert servers(hosts) == [
        {"name": "ws1", "address": address, "port": port},
        {"name": "ws2", "address": "ws2", "port": 443},
    ]
