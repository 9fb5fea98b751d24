# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.wsfleet.websockets.plugins.test.ws_address import TestModule

is_address = TestModule().tests()["ws_address"]


@pytest.mark.parametrize("text", ["192.0.2.7", "255.255.255.255", "::", "2001:db8::1", "::ffff:192.0.2.7"])
def test_an_address_is_also_a_network(text: str) -> None:
    assert is_address(text)
    assert is_address(text, network=True)


@pytest.mark.parametrize("text", ["192.0.2.0/24", "2001:db8::/64", "0.0.0.0/0"])
def test_a_network_is_no_address(text: str) -> None:
    assert not is_address(text)
    assert is_address(text, network=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all",
        "localhost",
        "0.0.0.0/0 1; x",
        "192.0.2.300",
        "192.0.2",
        "192.0.2.7/24",
        "192.0.2.0/99",
        "2001:db8:::1",
        "[::1]",
        None,
    ],
)
def test_others_are_neither(text: object) -> None:
    assert not is_address(text)
    assert not is_address(text, network=True)
