# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.release import (
    Release,
    describe_python,
    prunable,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError


def release(name: str, finished: bool = True, current: bool = False, in_use: bool = False) -> Release:
    return Release(name, f"/opt/echo/releases/{name}", finished, current, in_use)


NEWEST_FIRST = [release("d"), release("c"), release("b"), release("a"), release("x", finished=False)]


@pytest.mark.parametrize(("keep", "removed"), [(1, ["c", "b", "a", "x"]), (3, ["a", "x"]), (5, ["x"])])
def test_the_newest_are_kept_and_the_unfinished_are_not(keep: int, removed: list[str]) -> None:
    assert prunable(NEWEST_FIRST, keep, "") == removed


def test_the_current_the_used_and_the_wanted_one_are_kept() -> None:
    releases = [release("d"), release("c"), release("b", current=True), release("a", in_use=True)]
    assert prunable(releases, 1, "c") == []


def test_an_unfinished_one_that_a_generation_uses_is_kept() -> None:
    assert prunable([release("x", finished=False, in_use=True)], 1, "") == []


def test_python_is_described() -> None:
    python = describe_python(sys.executable)
    assert python["version"] == sys.version.split()[0]
    assert python["target"] == f"{python['version']}-{python['machine']}-{python['glibc']}"
    assert python["venv"] is True


def test_a_python_that_is_not_there_is_named() -> None:
    with pytest.raises(StepError, match=r"^asking /no/python \(ws_app_python\) for its version failed: "):
        describe_python("/no/python")
