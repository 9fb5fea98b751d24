# SPDX-License-Identifier: GPL-3.0-or-later
"""The test driver counts what happened, whatever happened."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tools import test as driver
from tools.test import Step

JUNIT = '<testsuites><testsuite errors="{}" failures="{}" skipped="{}" tests="{}"/></testsuites>'


@pytest.fixture(autouse=True)
def _logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "ROOT", tmp_path)
    monkeypatch.setattr(driver, "LOGS", tmp_path)
    monkeypatch.setattr(driver, "JUNIT", tmp_path / "pytest.xml")
    monkeypatch.setattr(driver, "TIMEOUT", 1)


@pytest.mark.parametrize(
    ("step", "passed", "failed"),
    [
        (Step("good", "lint", [["true"], ["true"]]), 1, 0),
        (Step("bad", "lint", [["true"], ["false"]]), 0, 1),
        (Step("missing", "lint", [["no-such-program"]]), 0, 1),
        (Step("slow", "lint", [["sleep", "9"]]), 0, 1),
        (Step("env", "lint", [["sh", "-c", "test $WORD = yes"]], env={"WORD": "yes"}), 1, 0),
        (Step("warns", "lint", [["echo", "WARNING: x"]], reject="^WARNING"), 0, 1),
        (Step("quiet", "lint", [["echo", "fine"]], reject="^WARNING"), 1, 0),
    ],
)
def test_step(step: Step, passed: int, failed: int, tmp_path: Path) -> None:
    result = driver.run(replace(step, cwd=tmp_path))
    assert (result.passed, result.failed) == (passed, failed)


def test_failed_step_shows_the_end_of_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    driver.run(Step("bad", "lint", [["sh", "-c", "echo the reason; exit 3"]], cwd=tmp_path))
    output = capsys.readouterr().out
    assert "FAIL  bad" in output
    assert "| the reason" in output
    assert "all of it: bad.log" in output


def test_errors_are_shown_wherever_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = "echo ERROR: line 3 is wrong; seq 100; exit 1"
    driver.run(Step("bad", "lint", [["sh", "-c", script]], cwd=tmp_path))
    output = capsys.readouterr().out
    assert output.count("| ERROR: line 3 is wrong") == 1
    assert "| 60\n" not in output
    assert "| 61\n" in output


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


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which each step that was run leaves a file; the step `bad` fails."""
    folder = tmp_path / "ran"
    folder.mkdir()

    def step(name: str, group: str) -> Step:
        code = "1" if name == "bad" else "0"
        return Step(name, group, [["sh", "-c", f"touch {name}; exit {code}"]], cwd=folder)

    monkeypatch.setattr(driver, "check_steps", lambda: [step("good", "lint"), step("bad", "unit")])
    monkeypatch.setattr(
        driver,
        "scenario_steps",
        lambda: [step("tls", "scenarios"), step("other", "scenarios"), step("long", "soak")],
    )
    return folder


@pytest.mark.parametrize(
    ("arguments", "ran", "status"),
    [
        ([], {"good", "bad", "tls", "other"}, 1),
        (["lint"], {"good"}, 0),
        (["unit"], {"bad"}, 1),
        (["scenarios"], {"tls", "other"}, 0),
        (["scenarios", "tls"], {"tls"}, 0),
        (["scenarios", "long"], {"long"}, 0),
        (["soak"], {"long"}, 0),
    ],
)
def test_what_is_run_and_the_exit_status(
    steps: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], ran: set[str], status: int
) -> None:
    monkeypatch.setattr("sys.argv", ["test.py", *arguments])
    driver.JUNIT.write_text(JUNIT.format(0, 0, 0, 10))
    assert driver.main() == status
    assert {path.name for path in steps.iterdir()} == ran
    assert not driver.JUNIT.exists(), "a report of an earlier run must not count"


def test_unknown_scenario_is_refused(
    steps: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["test.py", "scenarios", "tsl"])
    with pytest.raises(SystemExit):
        driver.main()
    assert "no scenario tsl; there are tls, other, long" in capsys.readouterr().err
    assert not list(steps.iterdir())


def test_every_scenario_is_a_step_of_its_own(tmp_path: Path) -> None:
    for name in ("tls", "default", "shared"):
        (tmp_path / "molecule" / name).mkdir(parents=True)
    for name in ("tls", "default"):
        (tmp_path / "molecule" / name / "molecule.yml").touch()
    assert [(step.name, step.commands) for step in driver.scenario_steps()] == [
        (name, [["molecule", "test", "-s", name]]) for name in ("default", "tls")
    ]


def test_package_is_made_of_what_git_has_or_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("EXPORT", "DIST", "INSTALLED", "SANITY_HOME"):
        monkeypatch.setattr(driver, folder, tmp_path / "build" / folder)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name in ("tracked", "deleted", "new", "secret", "build/EXPORT/of-an-earlier-run"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("secret\nbuild\n")
    subprocess.run(["git", "-C", tmp_path, "add", "tracked", "deleted"], check=True)
    (tmp_path / "deleted").unlink()
    driver.prepare_package()
    exported = {path.name for path in (tmp_path / "build/EXPORT").iterdir()}
    assert exported == {"tracked", "new", ".gitignore"}
