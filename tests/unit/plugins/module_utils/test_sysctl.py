# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel parameters raised and given back, on a /proc/sys that exists for the test only."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils import sysctl
from ansible_collections.wsfleet.websockets.plugins.module_utils.sysctl import (
    Outcome,
    Parameter,
    Paths,
    Sysctls,
    parse,
    suffices,
)

SOMAXCONN = "net.core.somaxconn"
PORTS = "net.ipv4.ip_local_port_range"


class Kernel:
    """The host."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(root)
        self.paths.file.parent.mkdir(parents=True)
        (root / "var/lib").mkdir(parents=True)
        self[SOMAXCONN] = "4096"
        self[PORTS] = "32768\t60999"

    def __getitem__(self, name: str) -> str:
        value: str = sysctl.read(self.paths.live(name))
        return value

    def __setitem__(self, name: str, value: str) -> None:
        path = self.paths.live(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def raise_to(self, value: str, *, by: str = "echo", dry: bool = False) -> Outcome:
        done: Outcome = Sysctls(by, self.paths).apply([Parameter(SOMAXCONN, value, "a reason")], dry)
        return done

    def release(self, by: str = "echo") -> Outcome:
        done: Outcome = Sysctls(by, self.paths).apply([])
        return done

    def at_boot(self) -> dict[str, str]:
        file = self.paths.file
        return parse(file.read_text()) if file.exists() else {}

    def is_as_before(self) -> bool:
        return not (self.paths.file.exists() or self.paths.note.parent.exists())


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_raised_now_and_at_boot_with_its_reason_and_given_back(kernel: Kernel) -> None:
    done = kernel.raise_to("16384")
    assert (kernel[SOMAXCONN], kernel.at_boot()) == ("16384", {SOMAXCONN: "16384"})
    assert (done.changed, done.changes) == (True, {SOMAXCONN: ("4096", "16384")})
    assert "# a reason\n-net.core.somaxconn = 16384\n" in kernel.paths.file.read_text()
    assert kernel.release().changes == {SOMAXCONN: ("16384", "4096")}
    assert kernel[SOMAXCONN] == "4096"
    assert kernel.is_as_before()


def test_second_run_changes_nothing(kernel: Kernel) -> None:
    kernel.raise_to("16384")
    again = kernel.raise_to("16384")
    assert (again.changed, again.changes) == (False, {})
    kernel.release()
    assert not kernel.release().changed


def test_check_mode_says_the_same_and_changes_nothing(kernel: Kernel) -> None:
    said = kernel.raise_to("16384", dry=True)
    assert kernel[SOMAXCONN] == "4096"
    assert kernel.is_as_before()
    assert said == kernel.raise_to("16384")


def test_what_suffices_is_left_as_it_is(kernel: Kernel) -> None:
    kernel[SOMAXCONN] = "65535"
    kernel.raise_to("16384")
    assert (kernel[SOMAXCONN], kernel.at_boot()) == ("65535", {})
    kernel.release()
    assert kernel[SOMAXCONN] == "65535"


def test_lower_preset_lowers_what_was_raised_and_no_further_than_before(kernel: Kernel) -> None:
    kernel.raise_to("65535")
    kernel.raise_to("16384")
    assert (kernel[SOMAXCONN], kernel.at_boot()) == ("16384", {SOMAXCONN: "16384"})
    kernel.raise_to("1024")
    assert (kernel[SOMAXCONN], kernel.at_boot()) == ("4096", {})


def test_of_two_apps_the_higher_counts_until_it_goes(kernel: Kernel) -> None:
    kernel.raise_to("65535")
    kernel.raise_to("16384", by="chat")
    assert kernel[SOMAXCONN] == "65535"
    kernel.release()
    assert kernel[SOMAXCONN] == "16384"
    kernel.release(by="chat")
    assert kernel[SOMAXCONN] == "4096"
    assert kernel.is_as_before()


def test_what_somebody_else_has_changed_since_stays(kernel: Kernel) -> None:
    kernel.raise_to("16384")
    kernel[SOMAXCONN] = "20000"
    assert not kernel.raise_to("16384").changes, "it suffices"
    kernel.release()
    assert kernel[SOMAXCONN] == "20000"
    assert kernel.is_as_before()


def test_set_again_where_it_was_lowered(kernel: Kernel) -> None:
    kernel.raise_to("16384")
    kernel[SOMAXCONN] = "128"
    assert kernel.raise_to("16384").changed
    kernel.release()
    assert kernel[SOMAXCONN] == "4096"


def test_unknown_to_this_kernel(kernel: Kernel) -> None:
    wanted = [Parameter("net.netfilter.nf_conntrack_max", "40000")]
    assert Sysctls("echo", kernel.paths).apply(wanted).refused == {}
    assert kernel.at_boot() == {}
    kernel["net.netfilter.nf_conntrack_max"] = "1000"  # loaded since
    Sysctls("echo", kernel.paths).apply(wanted)
    assert kernel["net.netfilter.nf_conntrack_max"] == "40000"


@pytest.mark.parametrize("dry", [True, False])
def test_refusal_is_said_and_leaves_nothing_for_the_next_boot(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, dry: bool
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(sysctl, "_write", refuse)
    done = kernel.raise_to("16384", dry=dry)
    assert (done.changes, done.refused) == ({}, {SOMAXCONN: "Read-only file system"})
    assert kernel.at_boot() == {}
    if not dry:
        assert not kernel.raise_to("16384").changed
        monkeypatch.undo()
        assert kernel.raise_to("16384").changes == {SOMAXCONN: ("4096", "16384")}


def test_range_of_ports(kernel: Kernel) -> None:
    wanted = [Parameter(PORTS, "10240 65535")]
    Sysctls("echo", kernel.paths).apply(wanted)
    assert (kernel[PORTS], kernel.at_boot()) == ("10240 65535", {PORTS: "10240 65535"})
    assert not Sysctls("echo", kernel.paths).apply(wanted).changed
    kernel.release()
    assert kernel[PORTS] == "32768 60999"


@pytest.mark.parametrize(
    ("value", "wanted", "good"),
    [
        ("4096", "4096", True),
        ("9223372036854775807", "65536", True),
        ("128", "4096", False),
        ("1024 65535", "10240 65535", True),
        ("32768 60999", "10240 65535", False),
        ("1024 60999", "10240 65535", False),
        ("20000 65535", "10240 65535", False),
    ],
)
def test_suffices(value: str, wanted: str, good: bool) -> None:
    assert suffices(value, wanted) is good
