#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the checks of this repository, and count them.

    test.py                        everything but the group soak
    test.py lint|unit|package      one group
    test.py scenarios [NAME ...]   the Molecule scenarios, all or those named
    test.py soak                   the scenarios that take too long for every day

Each step writes build/logs/STEP.log. The last line says how many passed and how many failed: unit tests are
counted one by one, every other step as one. The exit status is 1 if any failed.

Environment: WSFLEET_JOBS, how many steps run side by side (default 2).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LOGS = BUILD / "logs"
JUNIT = LOGS / "pytest.xml"
PYTHON_FILES = ("app/src", "app/tests", "bench", "plugins", "roles", "tests", "tools")
GROUPS = ("lint", "unit", "package", "scenarios", "soak")
SOAK = ("acme", "autoscale", "capacity", "failures", "metrics", "reuse_port", "upkeep")
# Scenarios to begin with, so that none runs alone at the end.
LONGEST = ("edge", "default", "rollout", "included", "settings")
TIMEOUT = 30 * 60
TAIL = 40
ERRORS = ("ERROR", "FAILED", "fatal:", "E   ")  # worth a look wherever they stand in a log

# The collection is built from the files that git tracks or would track, and installed where nothing else is;
# what the group package checks is what users get.
EXPORT = BUILD / "export"
DIST = BUILD / "dist"
INSTALLED = BUILD / "installed"
COLLECTION = INSTALLED / "ansible_collections" / "wsfleet" / "websockets"
SANITY_HOME = BUILD / "sanity"


@dataclass(frozen=True)
class Step:
    """Commands that must all succeed, and print no line that matches `reject` (if given)."""

    name: str
    group: str
    commands: Sequence[Sequence[str]]
    cwd: Path = ROOT
    env: dict[str, str] = field(default_factory=dict)
    reject: str = ""

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name}.log"


@dataclass(frozen=True)
class Result:
    name: str
    seconds: float
    passed: int
    failed: int


def tarball() -> Path:
    """Where `ansible-galaxy collection build` puts the collection."""
    version = re.search(r"^version: (\S+)$", (ROOT / "galaxy.yml").read_text(), re.MULTILINE)
    return DIST / f"wsfleet-websockets-{version[1] if version else ''}.tar.gz"


def build_step() -> Step:
    """Build the collection and install it; the steps of the group package need it."""
    galaxy = ["ansible-galaxy", "collection"]
    build = [*galaxy, "build", str(EXPORT), "--output-path", str(DIST)]
    install = [
        *galaxy,
        "install",
        str(tarball()),
        "--force",
        "--offline",
        "--no-deps",
        "--collections-path",
        str(INSTALLED),
    ]
    # ansible-test looks at the files that git knows.
    git = ["git", "-C", str(COLLECTION)]
    return Step("build", "package", [build, install, [*git, "init", "--quiet"], [*git, "add", "--all"]])


def check_steps() -> list[Step]:
    """The steps that need no containers, those that take longest first."""
    python = f"--python={sys.version_info.major}.{sys.version_info.minor}"
    sanity = ["ansible-test", "sanity", "--local", "--requirements", "--color=no", python]
    importer = [sys.executable, "-m", "galaxy_importer.main", str(tarball())]
    docs = ["antsibull-docs", "lint-collection-docs", "--plugin-docs", str(COLLECTION)]
    return [
        Step(
            "sanity",
            "package",
            [sanity],
            cwd=COLLECTION,
            env={"HOME": str(SANITY_HOME)},
            reject="All targets skipped",
        ),
        Step("pytest", "unit", [["pytest", f"--junit-xml={JUNIT}"]]),
        Step("ansible-lint", "lint", [["ansible-lint", "--offline", "--strict", "--nocolor"]]),
        Step("mypy", "lint", [["mypy", *PYTHON_FILES]], env={"MYPYPATH": "app/src:app/tests"}),
        Step(
            "importer",
            "package",
            [importer],
            cwd=DIST,
            env={"GALAXY_IMPORTER_RUN_ANSIBLE_LINT": "0"},  # the step ansible-lint is stricter
            reject=r"^(WARNING|ERROR):",
        ),
        Step("docs", "package", [docs]),
        Step("changelog", "package", [["antsibull-changelog", "lint"]]),
        Step("readme", "lint", [[sys.executable, "tools/readme.py", "--check"]]),
        Step("yamllint", "lint", [["yamllint", "--strict", "."]]),
        Step("ruff", "lint", [["ruff", "check"], ["ruff", "format", "--check"]]),
    ]


def scenario_steps() -> list[Step]:
    names = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))
    names.sort(key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))
    env = {"MOLECULE_COMMAND_BORDERS": "false", "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}
    return [
        Step(name, "soak" if name in SOAK else "scenarios", [["molecule", "test", "-s", name]], env=env)
        for name in names
    ]


def prepare_package() -> None:
    """Lay out what build_step and the sanity tests start from."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for folder in (EXPORT, DIST, INSTALLED):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (EXPORT / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, EXPORT / name)
    # To put pip into a virtual environment, ansible-test fetches a script from its own site unless it has it here;
    # Python has a pip to offer.
    cache = SANITY_HOME / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "get_pip_24_2.py").write_text("import ensurepip\n\nensurepip.bootstrap()\n")


def run(step: Step) -> Result:
    """Run a step; its output goes to its log, the errors and the end of which are printed if it failed."""
    print(f"      {step.name}", flush=True)
    began = time.monotonic()
    with step.log.open("w") as log:
        passed = all(succeeds(command, step, log.fileno()) for command in step.commands)
    output = step.log.read_text(errors="replace")
    if step.reject and re.search(step.reject, output, re.MULTILINE):
        passed = False
    counts = (1, 0) if passed else (0, 1)
    if step.name == "pytest":
        counts = count(JUNIT, passed)
    result = Result(step.name, time.monotonic() - began, *counts)
    verdict = "FAIL" if result.failed else "ok"
    lines = [f"{verdict:4}  {step.name}  {result.seconds:.0f} s"]
    if result.failed:
        said = output.splitlines()
        errors = [line for line in said[:-TAIL] if line.startswith(ERRORS)]
        lines += [f"      | {line}" for line in errors[-TAIL:] + said[-TAIL:]]
        lines += [f"      all of it: {step.log.relative_to(ROOT)}"]
    print("\n".join(lines), flush=True)
    return result


def succeeds(command: Sequence[str], step: Step, log: int) -> bool:
    os.write(log, f"$ {' '.join(command)}\n".encode())
    env = os.environ | step.env
    try:
        done = subprocess.run(
            command,
            cwd=step.cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        os.write(log, f"{error}\n".encode())
        return False
    return done.returncode == 0


def count(junit: Path, passed: bool) -> tuple[int, int]:
    """Tests passed and failed by pytest's report; a run that failed otherwise counts as one failure more."""
    if not junit.exists():
        return 0, 1
    tests = failed = 0
    for suite in ElementTree.parse(junit).iter("testsuite"):  # noqa: S314 # pytest wrote it
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        tests += int(suite.get("tests", 0)) - int(suite.get("skipped", 0))
    return tests - failed, failed or int(not passed)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("group", nargs="?", choices=GROUPS, help="default: all of them")
    parser.add_argument("names", nargs="*", help="scenarios to run (default: all)")
    arguments = parser.parse_args()
    group, names = arguments.group, arguments.names
    scenarios = scenario_steps()
    unknown = set(names) - {step.name for step in scenarios}
    if unknown:
        parser.error(
            f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in scenarios)}"
        )
    checks = [step for step in check_steps() if group in (None, step.group)]
    scenarios = [
        step
        for step in scenarios
        if step.name in names or (not names and step.group == (group or "scenarios"))
    ]

    LOGS.mkdir(parents=True, exist_ok=True)
    JUNIT.unlink(missing_ok=True)
    began = time.monotonic()
    results = []
    if any(step.group == "package" for step in checks):
        prepare_package()
        results.append(run(build_step()))
    with ThreadPoolExecutor(int(os.environ.get("WSFLEET_JOBS", "2"))) as pool:
        results += pool.map(run, [*checks, *scenarios])

    print(f"\n{'step':24} {'seconds':>7} {'passed':>7} {'failed':>7}")
    for result in results:
        print(f"{result.name:24} {result.seconds:7.0f} {result.passed:7} {result.failed:7}")
    print(f"{'in all':24} {time.monotonic() - began:7.0f}\n")
    failed = sum(result.failed for result in results)
    print(f"{sum(result.passed for result in results)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
