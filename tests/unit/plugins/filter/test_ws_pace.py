# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.wsfleet.websockets.plugins.filter.ws_pace import FilterModule

pace = FilterModule().filters()["ws_pace"]
HOSTS = ["ws1", "ws2", "ws3", "ws4", "ws5", "ws6"]


@pytest.mark.parametrize("seconds", [40, 40.2, "40"])
def test_the_others_take_as_long_as_those_before(seconds: object) -> None:
    assert pace(HOSTS, "ws2", seconds) == "2 of 6 servers are done, the others take about 80 s"


def test_all_are_done() -> None:
    assert pace(HOSTS, "ws6", 40) == "6 of 6 servers are done"
