# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError, run


def test_output_is_returned_and_the_environment_added() -> None:
    assert run("echoing", ["sh", "-c", "echo $WORD"], {"WORD": "hello"}) == "hello\n"


def test_a_failure_names_the_step_and_ends_with_the_last_lines_without_passwords() -> None:
    script = "seq 9 >&2; echo 'no https://me:secret@host/simple' >&2; exit 3"
    with pytest.raises(StepError) as failure:
        run("fetching it", ["sh", "-c", script])
    assert str(failure.value) == "fetching it failed: 6; 7; 8; 9; no https://host/simple"


def test_a_missing_program_is_a_failure_too() -> None:
    with pytest.raises(StepError, match=r"^fetching it failed: .*/no/such"):
        run("fetching it", ["/no/such"])
