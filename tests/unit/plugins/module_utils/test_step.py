# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError, run


def test_output_is_returned_and_the_environment_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert run("echoing", ["sh", "-c", "echo $WORD $HOME"], {"WORD": "hello"}) == "hello /home/me\n"


def test_it_runs_where_it_may_whoever_called_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # under sudo, a folder that the other user can't read
    assert run("looking", ["pwd"]) == "/\n"


def test_a_program_that_asks_gets_no_answer() -> None:
    reading, writing = os.pipe()
    terminal = os.dup(0)
    try:
        os.dup2(reading, 0)
        os.write(writing, b"yes\n")
        assert run("asking", ["sh", "-c", "read answer || echo nobody"]) == "nobody\n"
    finally:
        os.dup2(terminal, 0)
        for descriptor in (reading, writing, terminal):
            os.close(descriptor)


@pytest.mark.parametrize(
    ("script", "words"), [("echo sorry; exit 1", "sorry"), ("exit 1", "no reason given")]
)
def test_a_failure_without_a_word_on_stderr(script: str, words: str) -> None:
    with pytest.raises(StepError, match=f"^fetching it failed: {words}$"):
        run("fetching it", ["sh", "-c", script])


def test_a_failure_names_the_step_and_ends_with_the_last_lines_without_passwords() -> None:
    script = "seq 9 >&2; echo 'no https://me:secret@host/simple' >&2; exit 3"
    with pytest.raises(StepError) as failure:
        run("fetching it", ["sh", "-c", script])
    assert str(failure.value) == "fetching it failed: 6; 7; 8; 9; no https://host/simple"


def test_a_missing_program_is_a_failure_too() -> None:
    with pytest.raises(StepError, match=r"^fetching it failed: .*/no/such"):
        run("fetching it", ["/no/such"])
