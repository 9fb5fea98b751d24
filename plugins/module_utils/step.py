# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running other programs, one step after the other, with a sentence when one fails."""

from __future__ import annotations

import os
import re
import subprocess


class StepError(Exception):
    """What can't be done, in one sentence."""


def run(
    step: str, command: list[str], environment: dict[str, str] | None = None, accepted: tuple[int, ...] = (0,)
) -> str:
    """Run ``command`` with ``environment`` added to ours and return its output.

    When it ends with another code than those ``accepted``, StepError says which ``step`` that was, with the last
    lines of the command, without passwords.
    """
    try:
        result = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise StepError(f"{step} failed: {error}") from error
    if result.returncode not in accepted:
        lines = (result.stderr or result.stdout).strip().splitlines()
        words = without_password("; ".join(line.strip() for line in lines[-5:]))
        raise StepError(f"{step} failed: {words or 'no reason given'}")
    return result.stdout


def without_password(text: str) -> str:
    """Return ``text`` without what stands before the host in its URLs."""
    return re.sub(r"://[^/@\s]+@", "://", text)
