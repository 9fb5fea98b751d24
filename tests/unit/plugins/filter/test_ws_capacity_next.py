# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.wsfleet.websockets.plugins.filter.ws_capacity_next import FilterModule

following = FilterModule().filters()["ws_capacity_next"]


def test_inventories_give_text() -> None:
    assert following([], "50", "20000", {"p99_ms": "100", "lag_ms": "50"}) == 50
    assert following([], 50, 20, {"p99_ms": 100, "lag_ms": 50}) == 20
