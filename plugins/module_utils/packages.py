# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Upgrade Debian packages while their services run on, and hold them from other upgrades."""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import os
import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils.step import run

_MARK = "Put here by wsfleet.websockets.ws_packages"
_POLICY = """\
#!/bin/sh
# {mark} while it upgrades packages: their services are replaced without loss afterwards.
case " $* " in
{cases}
esac
[ ! -x {former} ] || exec {former} "$@"
exit 0
"""
# Nobody is asked, configuration files stay as they are, needrestart restarts nothing.
ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C.UTF-8",
    "NEEDRESTART_MODE": "l",
    "NEEDRESTART_SUSPEND": "1",
}
_DPKG = ["--force-confdef", "--force-confold"]
APT = [
    "apt-get",
    "--quiet",
    "--assume-yes",
    "--option=DPkg::Lock::Timeout=300",
    *(f"--option=Dpkg::Options::={option}" for option in _DPKG),
]


@dataclass(frozen=True)
class Package:
    """An installed binary package."""

    name: str
    source: str
    held: bool


@dataclass(frozen=True)
class Upgrade:
    """What apt would do to one package; equal versions are a reinstallation, an empty one a new package."""

    name: str
    before: str
    after: str


class Packages:
    """The host's packages that are built from `sources`, shell patterns of source packages' names.

    `services` are kept from being restarted by the packages' scripts. `root` moves our own files, for tests.
    """

    def __init__(
        self,
        sources: list[str],
        services: list[str],
        run: t.Callable[[str, list[str], dict[str, str]], str] = run,
        root: str = "/",
    ) -> None:
        self._sources = sources
        self._services = services
        self._run = run
        self._policy = Path(root, "usr/sbin/policy-rc.d")
        self._former_policy = Path(root, "usr/sbin/policy-rc.d.wsfleet")
        self._frontend = Path(root, "var/lib/dpkg/lock-frontend")
        self._journal = Path(root, "var/lib/dpkg/updates")
        self._held = Path(root, "var/lib/wsfleet/holds/held")
        self._lifted = Path(root, "var/lib/wsfleet/holds/lifted")

    def installed(self) -> list[Package]:
        form = "${db:Status-Status} ${db:Status-Want} ${source:Package} ${binary:Package}\\n"
        lines = self._run("asking dpkg", ["dpkg-query", "--show", f"--showformat={form}"], {}).splitlines()
        rows = [line.split() for line in lines]
        return [
            Package(name, source, want == "hold")
            for status, want, source, name in rows
            if status == "installed" and any(fnmatch.fnmatch(source, pattern) for pattern in self._sources)
        ]

    def upgrades(self, reinstall: bool) -> list[Upgrade]:
        """What apt would do now. Reads only."""
        if not self.installed():
            return []
        output = self._run(
            "asking apt what is to be upgraded", [*self._command(reinstall), "--simulate"], ENVIRONMENT
        )
        found = re.findall(r"^Inst (\S+) (?:\[(\S+)\] )?\((\S+)", output, re.MULTILINE)
        return sorted((Upgrade(*match) for match in found), key=lambda upgrade: upgrade.name)

    def upgrade(self, reinstall: bool) -> None:
        """Do it, with every service left alone and every hold kept."""
        held = {package.name for package in self.installed() if package.held}
        # apt forgets the hold of what it upgrades.
        note(self._lifted, held | noted(self._lifted))
        with self._services_left_alone():
            self._run("upgrading the packages", self._command(reinstall), ENVIRONMENT)
        self._repair_holds()

    def repair(self) -> bool:
        """Undo and finish what a killed run has left; returns whether there was anything."""
        left = self._is_ours() or self._former_policy.exists()
        if left:
            # Its apt may still be at work.
            with self._frontend.open("a") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX)
                self._drop_policy()
        # Either of them makes apt refuse all work.
        broken = self._run("asking dpkg", ["dpkg", "--audit"], {}) != "" or any(self._journal.iterdir())
        if broken:
            with self._services_left_alone():
                self._run(
                    "finishing an upgrade that was cut off",
                    ["dpkg", *_DPKG, "--configure", "--pending"],
                    ENVIRONMENT,
                )
        return self._repair_holds() or left or broken

    def _repair_holds(self) -> bool:
        """Hold again what an upgrade has lifted the hold of; returns whether there was anything."""
        lifted = noted(self._lifted) & {package.name for package in self.installed() if not package.held}
        self._mark("hold", lifted)
        note(self._lifted, set())
        return lifted != set()

    def to_hold(self) -> list[str]:
        """What isn't held yet."""
        return [package.name for package in self.installed() if not package.held]

    def to_unhold(self) -> list[str]:
        """What was held by us, rather than by the host's own administrator."""
        return [
            package.name for package in self.installed() if package.held and package.name in noted(self._held)
        ]

    def hold(self, names: list[str]) -> None:
        note(self._held, noted(self._held) | set(names))
        self._mark("hold", names)

    def unhold(self, names: list[str]) -> None:
        self._mark("unhold", names)
        note(self._held, noted(self._held) - set(names))

    def _command(self, reinstall: bool) -> list[str]:
        options = ["install", "--only-upgrade", "--no-remove", "--allow-change-held-packages"]
        return [
            *APT,
            *options,
            *(["--reinstall"] if reinstall else []),
            *(package.name for package in self.installed()),
        ]

    def _mark(self, mark: str, names: t.Collection[str]) -> None:
        if names:
            self._run(f"apt-mark {mark}", ["apt-mark", mark, *sorted(names)], {})

    @contextlib.contextmanager
    def _services_left_alone(self) -> t.Iterator[None]:
        """Have packages' scripts ask us first; another policy that is there goes on to decide about the rest."""
        if self._policy.exists() and not self._is_ours():
            self._former_policy.unlink(missing_ok=True)
            os.link(self._policy, self._former_policy, follow_symlinks=False)
        cases = (f'*" {service} "*|*" {service}.service "*) exit 101;;' for service in self._services)
        fresh = self._policy.with_suffix(".new")
        fresh.write_text(_POLICY.format(mark=_MARK, cases="\n".join(cases), former=self._former_policy))
        fresh.chmod(0o755)
        fresh.rename(self._policy)
        try:
            yield
        finally:
            self._drop_policy()

    def _drop_policy(self) -> None:
        if not self._is_ours():
            self._former_policy.unlink(missing_ok=True)
        elif self._former_policy.exists():
            self._former_policy.rename(self._policy)
        else:
            self._policy.unlink()

    def _is_ours(self) -> bool:
        return self._policy.exists() and _MARK in self._policy.read_text(errors="replace")


def noted(path: Path) -> set[str]:
    """Names that the note at ``path`` has, if there is one."""
    return set(path.read_text().split()) if path.exists() else set()


def note(path: Path, names: set[str]) -> None:
    """Write them; without any, remove the note and the folders that are empty then."""
    if names:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in sorted(names)))
        return
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others' notes, or none of ours
        path.parent.rmdir()
        path.parent.parent.rmdir()
