# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Upgrades and holds on a real folder tree, with an apt that only pretends."""

from __future__ import annotations

import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.packages import Packages, Upgrade
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError

SOURCES = {"nginx": "nginx", "nginx-common": "nginx", "supervisor": "supervisor", "openssh-server": "openssh"}


class FakeApt:
    """A host with four packages; apt forgets holds as the real one does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.policy = root / "usr/sbin/policy-rc.d"
        self.holds: set[str] = set()
        self.newer = {"nginx": "2"}
        self.commands: list[list[str]] = []
        self.environment: dict[str, str] = {}
        self.asked: dict[str, int] = {}
        self.audit = ""
        self.fails = False
        self.during: t.Callable[[], None] = lambda: None
        for folder in ("usr/sbin", "var/lib/dpkg/updates"):
            (root / folder).mkdir(parents=True)
        self.journal = root / "var/lib/dpkg/updates/0001"

    def run(self, step: str, command: list[str], environment: dict[str, str]) -> str:
        self.commands.append(command)
        if command[0] == "dpkg-query":
            rows = [
                f"installed {'hold' if name in self.holds else 'install'} {source} {name}"
                for name, source in SOURCES.items()
            ]
            return "\n".join([*rows, "config-files deinstall nginx nginx-old"]) + "\n"
        if command[0] == "apt-mark":
            self.holds = self.holds | {*command[2:]} if command[1] == "hold" else self.holds - {*command[2:]}
            return ""
        if command[:2] == ["dpkg", "--audit"]:
            return self.audit
        if command[0] == "dpkg":
            self.audit = ""
            self.journal.unlink(missing_ok=True)
            self.ask()
            return ""
        names = [word for word in command if word in SOURCES]
        again = "--reinstall" in command
        if "--simulate" in command:
            lines = [
                f"Inst {name} [1] ({self.newer.get(name, '1')} Debian:13/stable [amd64])"
                for name in names
                if again or name in self.newer
            ]
            return "\n".join(
                ["Reading...", *lines, "Inst new-library (3 Debian:13/stable [all])" * bool(lines)]
            )
        self.environment = environment
        self.ask()
        if self.fails:
            raise StepError(f"{step} failed: no space left")
        self.holds -= {*names}
        self.during()
        self.newer = {}
        return ""

    def ask(self) -> None:
        """Do as the packages' scripts do."""
        for words in ("nginx.service restart", "supervisor restart", "--quiet nginx status 5", "ssh restart"):
            self.asked[words] = self.decision(words)

    def decision(self, words: str) -> int:
        return subprocess.run([self.policy, *words.split()], check=False).returncode

    def packages(self, *sources: str) -> Packages:
        return Packages([*sources], ["nginx", "supervisor"], self.run, str(self.root))


@pytest.fixture
def apt(tmp_path: Path) -> FakeApt:
    return FakeApt(tmp_path)


def test_all_installed_packages_of_a_source_are_meant(apt: FakeApt) -> None:
    assert [package.name for package in apt.packages("nginx", "super*").installed()] == [
        "nginx",
        "nginx-common",
        "supervisor",
    ]


def test_what_apt_would_do_is_told(apt: FakeApt) -> None:
    assert apt.packages("nginx").upgrades(False) == [
        Upgrade("new-library", "", "3"),
        Upgrade("nginx", "1", "2"),
    ]
    apt.newer = {}
    assert apt.packages("nginx").upgrades(False) == []
    assert Upgrade("nginx-common", "1", "1") in apt.packages("nginx").upgrades(True)


def test_apt_is_not_asked_to_upgrade_nothing_in_particular(apt: FakeApt) -> None:
    assert apt.packages("haproxy").upgrades(False) == []
    assert [command[0] for command in apt.commands] == ["dpkg-query"]


def test_services_run_on_during_an_upgrade(apt: FakeApt) -> None:
    apt.packages("nginx").upgrade(False)
    assert apt.asked == {
        "nginx.service restart": 101,
        "supervisor restart": 101,
        "--quiet nginx status 5": 101,
        "ssh restart": 0,
    }
    assert not apt.policy.exists()
    assert list(apt.policy.parent.iterdir()) == []
    assert apt.environment["NEEDRESTART_SUSPEND"] == "1"


@pytest.mark.parametrize("fails", [False, True])
def test_another_policy_decides_about_the_others_and_comes_back(apt: FakeApt, fails: bool) -> None:
    apt.policy.write_text('#!/bin/sh\n[ "$1" = ssh ] && exit 104\nexit 0\n')
    apt.policy.chmod(0o755)
    before = apt.policy.read_text(), apt.policy.stat().st_mode, apt.policy.stat().st_ino
    apt.fails = fails
    try:
        apt.packages("nginx").upgrade(False)
    except StepError as error:
        assert fails, error
    assert apt.asked["nginx.service restart"] == 101
    assert apt.asked["ssh restart"] == 104
    assert (apt.policy.read_text(), apt.policy.stat().st_mode, apt.policy.stat().st_ino) == before
    assert [path.name for path in apt.policy.parent.iterdir()] == ["policy-rc.d"]


@pytest.mark.parametrize("foreign", [False, True])
def test_what_a_killed_run_has_left_is_cleared_away(apt: FakeApt, foreign: bool) -> None:
    if foreign:
        apt.policy.write_text("#!/bin/sh\nexit 104\n")
        apt.policy.chmod(0o755)
    apt.holds = {"nginx"}
    packages = apt.packages("nginx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "_drop_policy", lambda: None)
        patch.setattr(packages, "_repair_holds", lambda: False)
        packages.upgrade(False)
    assert (apt.decision("nginx restart"), apt.holds) == (101, set())

    apt.audit = "nginx is only half configured"
    apt.asked.clear()
    assert apt.packages("nginx").repair() is True
    assert apt.asked["nginx.service restart"] == 101, "the rest of the upgrade restarted it"
    assert apt.holds == {"nginx"}
    assert apt.policy.exists() is foreign
    if foreign:
        assert apt.decision("nginx restart") == 104
    assert apt.packages("nginx").repair() is False


def test_a_run_killed_before_its_policy_was_in_place_leaves_the_other(apt: FakeApt) -> None:
    apt.policy.write_text("#!/bin/sh\nexit 104\n")
    apt.policy.with_name("policy-rc.d.wsfleet").hardlink_to(apt.policy)
    apt.packages("nginx").repair()
    assert [path.name for path in apt.policy.parent.iterdir()] == ["policy-rc.d"]


def test_a_dpkg_that_was_killed_between_two_packages_is_repaired(apt: FakeApt) -> None:
    apt.journal.touch()
    assert apt.packages("nginx").repair() is True
    assert not apt.journal.exists()


def test_holds_are_kept_over_an_upgrade(apt: FakeApt) -> None:
    apt.holds = {"nginx", "openssh-server"}
    apt.packages("nginx").upgrade(False)
    assert apt.holds == {"nginx", "openssh-server"}
    assert not (apt.root / "var/lib/wsfleet").exists()


def test_only_our_own_holds_are_lifted(apt: FakeApt) -> None:
    apt.holds = {"nginx-common"}
    packages = apt.packages("nginx", "supervisor")
    assert packages.to_hold() == ["nginx", "supervisor"]
    packages.hold(packages.to_hold())
    assert apt.holds == {"nginx", "nginx-common", "supervisor"}
    assert packages.to_hold() == []
    assert packages.to_unhold() == ["nginx", "supervisor"]
    packages.unhold(packages.to_unhold())
    assert apt.holds == {"nginx-common"}
    assert packages.to_unhold() == []
    assert not (apt.root / "var/lib/wsfleet").exists()


def test_one_source_can_be_let_go_of_and_the_other_not(apt: FakeApt) -> None:
    both = apt.packages("nginx", "supervisor")
    both.hold(both.to_hold())
    apt.packages("nginx").unhold(apt.packages("nginx").to_unhold())
    assert apt.holds == {"supervisor"}
    assert both.to_unhold() == ["supervisor"]
