# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ws_bundle, run in this process on an app without dependencies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.modules import ws_bundle

TARGET = "3.11.2-x86_64-2.36"


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    folder = tmp_path / "chat"
    folder.mkdir()
    (folder / "server.py").write_text("print('hello')\n")
    return folder


def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, **options: Any) -> dict[str, Any]:
    """Return what the module prints."""
    with patch_module_args({"cache": str(tmp_path / "cache")} | options), pytest.raises(SystemExit):
        ws_bundle.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_snapshot_taken_first_is_bundled_later(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, chat: Path
) -> None:
    first = run(capsys, tmp_path, source="./chat", base=[str(tmp_path)], version="v1")
    assert (first["changed"], first["version"], first["source"], first["bundles"]) == (
        False,
        "v1",
        "./chat",
        {},
    )
    (chat / "server.py").write_text("print('changed in the middle of the run')\n")
    second = run(capsys, tmp_path, id=first["id"], targets=[TARGET])
    assert second["id"] == first["id"]
    assert Path(second["bundles"][TARGET]) == tmp_path / "cache" / "bundles" / first["id"] / f"{TARGET}.tar"
    assert Path(second["bundles"][TARGET]).exists()


def test_check_mode_fills_the_cache_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, chat: Path
) -> None:
    result = run(capsys, tmp_path, source=str(chat), targets=[TARGET], _ansible_check_mode=True)
    assert Path(result["bundles"][TARGET]).exists()


def test_a_refusal_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(capsys, tmp_path, source="./chta", base=[str(tmp_path)])
    assert result["failed"] is True
    assert result["msg"] == (
        f"ws_app_source is './chta', which doesn't exist on the controller (looked in {tmp_path})"
    )


def test_source_or_id_is_needed_and_not_both(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "source" in run(capsys, tmp_path)["msg"]
    assert "mutually exclusive" in run(capsys, tmp_path, source="a", id="b")["msg"]
