# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the ws_prove module: what it returns to Ansible. The clients are tested in test_prover.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.modules import ws_prove


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """A function that runs the module for a second and returns (exit status, result)."""

    def run(**parameters: Any) -> tuple[Any, dict[str, Any]]:
        files = {"result": str(tmp_path / "proof.json"), "ready_file": str(tmp_path / "ready")}
        given = {"seconds": 1, "rate": 10, "held": 2, **files, **parameters}
        with patch_module_args(given), pytest.raises(SystemExit) as stop:
            ws_prove.main()
        return stop.value.code, json.loads(capsys.readouterr().out)

    return run


def test_success(run: Any, url: str, tmp_path: Path) -> None:
    code, result = run(urls=[url])
    assert code == 0
    assert result["changed"] is False
    assert (tmp_path / "ready").exists()
    documented = yaml.safe_load(ws_prove.RETURN)
    assert set(documented) == set(result) - {"changed", "invocation"}
    assert set(documented["totals"]["contains"]) == set(result["totals"])
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert set(proof) == set(documented) | {"series"}


def test_check_mode(run: Any, url: str, tmp_path: Path) -> None:
    code, result = run(urls=[url], _ansible_check_mode=True)
    assert (code, result["changed"]) == (0, False)
    assert list(tmp_path.iterdir()) == []
    assert run(urls=[url], rate=5000, _ansible_check_mode=True)[0] == 1


def test_failure_ends_the_wait(run: Any, tmp_path: Path) -> None:
    code, result = run(urls=["ws://127.0.0.1:1/"])
    assert code == 1
    assert result["msg"] == "127.0.0.1:1: expected a connection to 127.0.0.1 port 1, got Connection refused."
    assert (tmp_path / "ready").exists()


def test_websockets_is_missing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws_prove, "IMPORT_ERROR", "Traceback: no websockets")
    code, result = run(urls=["ws://echo.test/"])
    assert code == 1
    assert "Failed to import the required Python library (websockets >= 13)" in result["msg"]
