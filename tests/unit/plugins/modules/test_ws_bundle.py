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
from ansible_collections.wsfleet.websockets.plugins.module_utils import bundle
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError
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


def test_the_lock_the_runner_and_the_index_are_those_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock.txt").write_text("dep==1.0 --hash=sha256:aa\n")
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner/pyproject.toml").write_text('[project]\nname = "wsfleet"\n')
    (tmp_path / "runner/requirements.txt").write_text("uvloop==0.23.0 --hash=sha256:bb\n")
    commands: list[list[str]] = []

    def run_pip(_step: str, command: list[str], *_environment: object) -> str:
        commands.append(command)
        raise StepError("enough seen")

    monkeypatch.setattr(bundle, "run", run_pip)
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {
        "cache": "cache",
        "source": "./chat",
        "requirements": "lock.txt",
        "runner": "runner",
        "index_url": "https://pypi.example/simple",
        "ca_bundle": "/etc/ca.pem",
        "targets": [TARGET],
    }
    assert run(capsys, tmp_path, **options)["msg"] == "enough seen"
    (command,) = commands
    assert "--index-url https://pypi.example/simple --cert /etc/ca.pem" in " ".join(command)
    assert Path(command[command.index("--dest") + 1]).is_relative_to(tmp_path / "cache")
    (lock,) = (tmp_path / "cache/bundles").glob("*/lock.txt")
    assert [line.split("=")[0] for line in lock.read_text().splitlines()[::2]] == ["dep", "uvloop"]

    commands.clear()
    result = run(capsys, tmp_path, **options, wheelhouse=False)
    assert commands == []
    assert result["bundles"][TARGET].endswith("-index.tar")


def test_a_cache_that_cannot_be_made_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "/dev/null/cache" in run(capsys, tmp_path, source="./chat", cache="/dev/null/cache")["msg"]


def test_source_or_id_is_needed_and_not_both(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "source" in run(capsys, tmp_path)["msg"]
    assert "mutually exclusive" in run(capsys, tmp_path, source="a", id="b")["msg"]
