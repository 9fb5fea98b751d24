# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ws_packages, with an apt that only pretends."""

from __future__ import annotations

import functools
import json
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.module_utils.packages import Packages
from ansible_collections.wsfleet.websockets.plugins.modules import ws_packages

from tests.unit.plugins.module_utils.test_packages import FakeApt

Run = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def apt(tmp_path: Path) -> FakeApt:
    return FakeApt(tmp_path)


@pytest.fixture
def run(apt: FakeApt, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(ws_packages, "Packages", functools.partial(Packages, run=apt.run, root=str(apt.root)))

    def run(**options: t.Any) -> dict[str, t.Any]:
        arguments = {"sources": ["nginx"], "services": ["nginx", "supervisor"]} | options
        with patch_module_args(arguments), pytest.raises(SystemExit):
            ws_packages.main()
        result: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        return result

    return run


def test_an_upgrade_happens_once(run: Run) -> None:
    first = run()
    assert first["changed"] is True
    assert {"name": "nginx", "before": "1", "after": "2"} in first["upgrades"]
    assert "nginx 1\n" in first["diff"]["before"]
    assert "nginx 2\n" in first["diff"]["after"]
    second = run()
    assert (second["changed"], second["upgrades"]) == (False, [])


def test_check_mode_changes_nothing(run: Run, apt: FakeApt) -> None:
    apt.audit = "nginx is only half configured"
    result = run(_ansible_check_mode=True, hold=True)
    assert result["changed"] is True
    assert result["held"] == ["nginx", "nginx-common"]
    assert apt.holds == set()
    assert apt.newer != {}
    assert apt.audit != ""


def test_holds_come_and_go(run: Run, apt: FakeApt) -> None:
    assert run(hold=True)["held"] == ["nginx", "nginx-common"]
    assert apt.holds == {"nginx", "nginx-common"}
    assert run(hold=True)["changed"] is False
    assert run()["changed"] is False
    result = run(hold=False, upgrade=False)
    assert (result["changed"], result["unheld"], apt.holds) == (True, ["nginx", "nginx-common"], set())
    assert run(hold=False)["changed"] is False


def test_an_upgrade_may_be_left_out(run: Run, apt: FakeApt) -> None:
    assert run(upgrade=False)["changed"] is False
    assert apt.newer == {"nginx": "2"}


def test_what_a_killed_run_has_left_is_a_change(run: Run, apt: FakeApt) -> None:
    apt.newer = {}
    apt.audit = "nginx is only half configured"
    assert run()["changed"] is True
    assert run()["changed"] is False


def test_a_failure_is_one_sentence(run: Run, apt: FakeApt) -> None:
    apt.fails = True
    assert run()["msg"] == "upgrading the packages failed: no space left"


def test_the_results_are_documented(run: Run) -> None:
    assert set(run()) == set(yaml.safe_load(ws_packages.RETURN)) | {"changed", "diff", "invocation"}
