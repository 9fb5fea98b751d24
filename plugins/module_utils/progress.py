# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollout is doing, line by line, in a file that everyone may read."""

from __future__ import annotations

import contextlib
import typing as t
from pathlib import Path


@contextlib.contextmanager
def reported(file: Path) -> t.Iterator[t.Callable[[str], None]]:
    """Begin `file` anew; what is yielded adds a line to it. It stays until the next one."""
    file.unlink(missing_ok=True)  # a reader of the last one sees that this is another
    with file.open("xb", buffering=0) as lines:
        file.chmod(0o644)

        def say(text: str) -> None:
            with contextlib.suppress(OSError):  # a full disk ends no rollout
                lines.write(f"{text}\n".encode())

        yield say


class Every:
    """Is due at once, and again after each `SECONDS`."""

    SECONDS = 5.0

    def __init__(self, clock: t.Callable[[], float]) -> None:
        self._clock = clock
        self._next = clock()

    def due(self) -> bool:
        if self._clock() < self._next:
            return False
        self._next = self._clock() + self.SECONDS
        return True


class Countdown:
    """Says how many connections are left, and how long they take, judged by how fast they became fewer."""

    def __init__(self, clock: t.Callable[[], float], say: t.Callable[[str], None]) -> None:
        self._clock = clock
        self._say = say
        self._every = Every(clock)
        self._began = clock()
        self._first: int | None = None

    def tell(self, count: t.Callable[[], int]) -> None:
        """Say it, when it is due; `count` is how many are left."""
        if not self._every.due():
            return
        left = count()
        if self._first is None:
            self._first = left
        gone = self._first - left
        seconds = f", about {left * (self._clock() - self._began) / gone:.0f} s" if gone > 0 else ""
        self._say(f"draining, {left} connections left{seconds}")
