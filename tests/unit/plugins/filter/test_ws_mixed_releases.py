# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.wsfleet.websockets.plugins.filter.ws_mixed_releases import FilterModule

mixed_releases = FilterModule().filters()["ws_mixed_releases"]
HOSTS = ["ws1", "edge1", "ws2", "ws3"]


@pytest.mark.parametrize("releases", [("2-b", "", "2-b", "2-b"), ("", "", "", ""), ("2-b", "", "", "")])
def test_the_same_on_all_that_serve(releases: tuple[str, ...]) -> None:
    assert mixed_releases(HOSTS, ({"release": release} for release in releases)) == []


def test_different_ones() -> None:
    limits = [{"release": release} for release in ("2-b", "", "1-a", "2-b")]
    assert mixed_releases(HOSTS, limits) == [
        "the servers serve different releases: 1-a on ws2; 2-b on ws1, ws3"
    ]
