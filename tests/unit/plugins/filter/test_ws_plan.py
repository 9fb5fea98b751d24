# Copyright (c) The wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.wsfleet.websockets.plugins.filter import ws_plan

plan = ws_plan.FilterModule().filters()["ws_plan"]
FIGURES = {"processes": 4, "connections": 9000, "messages_per_second": 12000}


def test_the_documented_sample() -> None:
    assert plan(FIGURES, 20000, 8000) == yaml.safe_load(ws_plan.RETURN)["_value"]["sample"]


def test_inventories_give_text() -> None:
    assert plan(FIGURES, "20000", "8000", "30", "1", "5") == plan(FIGURES, 20000, 8000)


@pytest.mark.parametrize(
    ("figures", "connections", "sentence"),
    [
        (FIGURES, "many", "could not convert"),
        ({}, 1, "processes of the figures is None"),
        ("figures", 1, "'str' object"),
    ],
)
def test_one_sentence_says_what_is_wrong(figures: object, connections: object, sentence: str) -> None:
    with pytest.raises(AnsibleFilterError, match=f"^ws_plan: .*{sentence}"):
        plan(figures, connections)
