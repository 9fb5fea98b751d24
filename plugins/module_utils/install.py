# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install Debian packages that are missing, and remove what came so."""

from __future__ import annotations

import fcntl
import re
import time
import typing as t
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils.packages import APT, ENVIRONMENT, note, noted
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import run

LISTS_SECONDS = 86400


class Install:
    """Packages, each with a file that is there when it needn't be installed.

    A note per package, in ``/var/lib/wsfleet/packages``, says that it came with us, and what came along. ``root`` moves
    everything, for tests.
    """

    def __init__(
        self, packages: t.Mapping[str, str], run: t.Callable[..., str] = run, root: str = "/"
    ) -> None:
        self._packages = packages
        self._run = run
        self._root = Path(root)
        self._notes = Path(root, "var/lib/wsfleet/packages")

    def missing(self) -> list[str]:
        """Packages whose file isn't there."""
        return [name for name, file in self._packages.items() if not (self._root / file.lstrip("/")).exists()]

    def ours(self) -> list[str]:
        """Packages that came with us."""
        return [name for name in self._packages if (self._notes / name).exists()]

    def install(self, names: list[str]) -> None:
        """Install them with what they need, noted before, so that a run that is cut off leaves nothing unknown."""
        if self._lists_are_old():
            self._run("fetching the lists of packages", [*APT, "update"], ENVIRONMENT)
        command = [*APT, "install", "--no-install-recommends", *names]
        output = self._run("asking apt what is to be installed", [*command, "--simulate"], ENVIRONMENT)
        along = set(re.findall(r"^Inst (\S+) \(", output, re.MULTILINE)) - {*names}
        for name in names:
            note(self._notes / name, noted(self._notes / name) | {name} | along)
            along = set()
        self._run(f"installing {', '.join(names)}", command, ENVIRONMENT)

    def remove(self, names: list[str]) -> None:
        """Remove them with what came along, except for what another package needs by now."""
        came = set().union(*(noted(self._notes / name) or self._of_empty_note(name) for name in names))
        with Path(self._root, "var/lib/dpkg/lock-frontend").open("a") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)  # which dpkg itself doesn't wait for
            self._run(
                f"removing {', '.join(names)}",
                ["dpkg", "--purge", *sorted(came)],
                ENVIRONMENT | {"DPKG_FRONTEND_LOCKED": "1"},
                accepted=(0, 1),  # 1 is that some are needed, 2 that dpkg couldn't run
            )
        for name in names:
            note(self._notes / name, set())

    def _of_empty_note(self, name: str) -> set[str]:
        """What an empty note stands for, as roles once wrote it: the package, and what it needs of its own source."""
        form = "${source:Package} ${Package}\\n"
        rows = self._run("asking dpkg", ["dpkg-query", "--show", f"--showformat={form}"], {}).splitlines()
        sources = {package: source for source, package in (row.split() for row in rows)}
        automatic = self._run("asking apt", ["apt-mark", "showauto"], {}).split()
        same = {package for package in automatic if sources.get(package) == sources.get(name, "")}
        return {name} | same

    def _lists_are_old(self) -> bool:
        stamps = [
            self._root / "var/lib/apt/periodic/update-success-stamp",
            self._root / "var/lib/apt/lists",
        ]
        times = [stamp.stat().st_mtime for stamp in stamps if stamp.exists()]
        return time.time() - max(times, default=0) > LISTS_SECONDS
