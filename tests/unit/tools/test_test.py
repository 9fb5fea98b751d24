# SPDX-License-Identifier: GPL-3.0-or-later
"""The test driver counts what happened, whatever happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import test as driver
from tools.test import Step

JUNIT = '<testsuites><testsuite errors="{}" failures="{}" skipped="{}" tests="{}"/></testsuites>'


@pytest.fixture(autouse=True)
def _logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "ROOT", tmp_path)
    monkeypatch.setattr(driver, "LOGS", tmp_path)


@pytest.mark.parametrize(
    ("step", "passed", "failed"),
    [
        (Step("good", "lint", [["true"], ["true"]]), 1, 0),
        (Step("bad", "lint", [["true"], ["false"]]), 0, 1),
        (Step("missing", "lint", [["no-such-program"]]), 0, 1),
        (Step("warns", "lint", [["echo", "WARNING: x"]], reject="^WARNING"), 0, 1),
        (Step("quiet", "lint", [["echo", "fine"]], reject="^WARNING"), 1, 0),
    ],
)
def test_step(step: Step, passed: int, failed: int, tmp_path: Path) -> None:
    result = driver.run(Step(step.name, step.group, step.commands, cwd=tmp_path, reject=step.reject))
    assert (result.passed, result.failed) == (passed, failed)


def test_failed_step_shows_the_end_of_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    driver.run(Step("bad", "lint", [["sh", "-c", "echo the reason; exit 3"]], cwd=tmp_path))
    output = capsys.readouterr().out
    assert "FAIL  bad" in output
    assert "| the reason" in output
    assert "all of it: bad.log" in output


@pytest.mark.parametrize(
    ("report", "passed", "counts"),
    [
        (JUNIT.format(0, 0, 1, 10), True, (9, 0)),
        (JUNIT.format(1, 2, 0, 10), False, (7, 3)),
        (JUNIT.format(0, 0, 0, 10), False, (10, 1)),
    ],
)
def test_unit_tests_are_counted_one_by_one(
    report: str, passed: bool, counts: tuple[int, int], tmp_path: Path
) -> None:
    junit = tmp_path / "pytest.xml"
    junit.write_text(report)
    assert driver.count(junit, passed) == counts


def test_pytest_that_wrote_no_report_has_failed(tmp_path: Path) -> None:
    assert driver.count(tmp_path / "pytest.xml", passed=False) == (0, 1)
