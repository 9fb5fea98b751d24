# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ws_install, with an apt and a dpkg that only pretend."""

from __future__ import annotations

import functools
import json
import os
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.module_utils.install import LISTS_SECONDS, Install
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError
from ansible_collections.wsfleet.websockets.plugins.modules import ws_install

# Each with its source and what it needs.
PACKAGES = {
    "haproxy": ("haproxy", ["liblua"]),
    "liblua": ("lua", []),
    "nginx": ("nginx", ["nginx-common"]),
    "nginx-common": ("nginx", []),
    "socat": ("socat", []),
}


class Host:
    """Packages are files in a folder tree; only those asked for by name aren't automatic."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[list[str]] = []
        self.automatic: set[str] = set()
        self.needed: set[str] = set()
        self.broken = False
        for folder in ("programs", "var/lib/dpkg", "var/lib/apt/lists"):
            (root / folder).mkdir(parents=True)

    @property
    def programs(self) -> Path:
        return self.root / "programs"

    @property
    def notes(self) -> Path:
        return self.root / "var/lib/wsfleet/packages"

    def installed(self) -> set[str]:
        return {file.name for file in self.programs.iterdir()}

    def install(self, *names: str) -> None:
        for name in names:
            (self.programs / name).touch()

    def run(
        self, step: str, command: list[str], environment: dict[str, str], accepted: tuple[int, ...] = (0,)
    ) -> str:
        self.commands.append(command)
        if command[0] == "dpkg-query":
            return "".join(f"{PACKAGES[name][0]} {name}\n" for name in self.installed())
        if command[0] == "apt-mark":
            return "\n".join(self.automatic)
        if command[0] == "dpkg":
            assert environment["DPKG_FRONTEND_LOCKED"]
            gone = {*command[2:]} - self.needed
            assert gone == {*command[2:]} or 1 in accepted
            for name in gone:
                (self.programs / name).unlink(missing_ok=True)
            return ""
        if "update" in command:
            os.utime(self.root / "var/lib/apt/lists")
            return ""
        wanted = {name for name in command if name in PACKAGES}
        fresh = {*wanted, *(need for name in wanted for need in PACKAGES[name][1])} - self.installed()
        if "--simulate" in command:
            upgrade = "Inst libc6 [1] (2 Debian:13/stable [amd64])\n"
            return upgrade + "".join(f"Inst {name} (1 Debian:13/stable [amd64])\n" for name in fresh)
        if self.broken:
            raise StepError(f"{step} failed: no space left")
        self.install(*fresh)
        self.automatic |= fresh - wanted
        return ""


Run = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def run(host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(ws_install, "Install", functools.partial(Install, run=host.run, root=str(host.root)))

    def run(*names: str, **options: t.Any) -> dict[str, t.Any]:
        packages = {name: f"/programs/{name}" for name in names or ("haproxy", "socat")}
        with patch_module_args({"packages": packages} | options), pytest.raises(SystemExit):
            ws_install.main()
        result: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        return result

    return run


def test_what_is_missing_comes_and_goes_again_with_what_came_along(run: Run, host: Host) -> None:
    result = run()
    assert (result["changed"], result["packages"]) == (True, ["haproxy", "socat"])
    assert host.installed() == {"haproxy", "liblua", "socat"}
    assert run()["changed"] is False
    result = run(state="absent")
    assert (result["changed"], result["packages"]) == (True, ["haproxy", "socat"])
    assert host.installed() == set()
    assert not (host.root / "var/lib/wsfleet").exists()
    assert run(state="absent")["changed"] is False


def test_what_was_there_stays_and_costs_nothing(run: Run, host: Host) -> None:
    host.install("haproxy", "socat")
    assert run()["changed"] is False
    assert run(state="absent")["changed"] is False
    assert host.commands == []
    (host.programs / "socat").unlink()
    assert run()["packages"] == ["socat"]
    assert run(state="absent")["packages"] == ["socat"]
    assert host.installed() == {"haproxy"}


def test_check_mode_asks_nobody(run: Run, host: Host) -> None:
    assert run(_ansible_check_mode=True)["packages"] == ["haproxy", "socat"]
    assert (host.commands, host.installed(), host.notes.exists()) == ([], set(), False)
    run()
    host.commands.clear()
    assert run(state="absent", _ansible_check_mode=True)["packages"] == ["haproxy", "socat"]
    assert (host.commands, host.installed()) == ([], {"haproxy", "liblua", "socat"})


def test_what_another_needs_by_now_stays_and_is_forgotten(run: Run, host: Host) -> None:
    run()
    host.needed = {"liblua"}
    run(state="absent")
    assert host.installed() == {"liblua"}
    assert run(state="absent")["changed"] is False


def test_what_a_run_that_failed_began_with_is_known(run: Run, host: Host) -> None:
    host.broken = True
    assert run()["msg"] == "installing haproxy, socat failed: no space left"
    host.install("haproxy", "liblua")
    host.broken = False
    assert run()["packages"] == ["socat"]
    run(state="absent")
    assert host.installed() == set()


def test_an_empty_note_of_before_removes_the_package_and_what_is_of_its_source(run: Run, host: Host) -> None:
    host.install("nginx", "nginx-common", "liblua")
    host.automatic = {"nginx-common", "liblua"}
    host.notes.mkdir(parents=True)
    (host.notes / "nginx").touch()
    assert run("nginx", state="absent")["packages"] == ["nginx"]
    assert host.installed() == {"liblua"}
    assert not host.notes.exists()


def test_notes_of_others_stay(run: Run, host: Host) -> None:
    run("socat")
    run("haproxy")
    run("haproxy", state="absent")
    assert [note.name for note in host.notes.iterdir()] == ["socat"]


def test_old_lists_are_fetched(run: Run, host: Host) -> None:
    run("socat")
    assert not [command for command in host.commands if "update" in command]
    os.utime(host.root / "var/lib/apt/lists", (0, LISTS_SECONDS))
    run("haproxy")
    assert [command for command in host.commands if "update" in command]


def test_the_results_are_documented(run: Run) -> None:
    assert set(run()) == set(yaml.safe_load(ws_install.RETURN)) | {"changed", "invocation"}
