# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the replacement of a running daemon by the installed one needs, whichever daemon it is."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import run


class DaemonError(Exception):
    """The daemon wasn't replaced; the text says why in one sentence, and what serves now."""


@dataclass(frozen=True)
class Host:
    """The host, or in tests what stands for it."""

    root: Path = Path("/")
    kernel: t.Callable[[], Kernel] = Kernel
    kill: t.Callable[[int, int], None] = os.kill
    run: t.Callable[[str, list[str]], str] = run
    now: t.Callable[[], float] = time.time
    sleep: t.Callable[[float], None] = time.sleep

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def tell(self, pid: int, number: signal.Signals) -> None:
        """Send a signal; a process that has ended needs none."""
        with contextlib.suppress(ProcessLookupError):
            self.kill(pid, number)

    def wait(self, seconds: float, done: t.Callable[[], bool]) -> bool:
        """Wait until `done`, but no longer than that; returns whether it is."""
        deadline = self.now() + seconds
        while not done():
            if self.now() >= deadline:
                return False
            self.sleep(0.1)
        return True

    def replaced_files(self, pid: int) -> list[str]:
        """The programs and libraries that the process runs and that an upgrade has replaced on disk."""
        try:
            lines = self.at(f"/proc/{pid}/maps").read_text().splitlines()
        except OSError:
            return []
        rows = (line.split(maxsplit=5) for line in lines if line.endswith(" (deleted)"))
        # Data may have been deleted for any reason.
        code = (row[5].removesuffix(" (deleted)") for row in rows if "x" in row[1])
        return sorted({path for path in code if path.startswith(("/usr/", "/lib"))})
