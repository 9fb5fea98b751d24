# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.progress import Countdown, reported


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_everyone_may_read_each_line_at_once_and_of_this_run_only(tmp_path: Path, umask: int) -> None:
    file = tmp_path / "progress"
    file.write_text("of a run that was killed\n")
    before = os.umask(umask)
    try:
        with reported(file) as say:
            say("one")
            assert file.read_text() == "one\n"
            say("two")
            assert file.read_text() == "one\ntwo\n"
            assert file.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
    assert file.read_text() == "one\ntwo\n"


def test_full_disk_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb", buffering=0)

    def open_full(path: Path, *_arguments: object, **_options: object) -> object:
        path.touch()
        return full

    monkeypatch.setattr(Path, "open", open_full)
    with reported(tmp_path / "progress") as say:
        say("one")
    assert full.closed


def test_countdown_tells_the_rest_by_the_pace_so_far_every_five_seconds() -> None:
    now, said = 0.0, list[str]()
    countdown = Countdown(lambda: now, said.append)
    left = {0.0: 100, 1.0: 99, 5.0: 80, 9.9: 40, 10.0: 20, 15.0: 0}
    for now, number in left.items():  # noqa: B007 # the clock's
        countdown.tell(lambda number=number: number)
    assert said == [
        "draining, 100 connections left",
        "draining, 80 connections left, about 20 s",
        "draining, 20 connections left, about 2 s",
        "draining, 0 connections left, about 0 s",
    ]
