# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the ws_report module: what it returns and writes. Verdict and page are tested in test_proof.py."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.modules import ws_prove, ws_report
from websockets.sync.server import ServerConnection, serve


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ws_prove writes, in which the server has closed connections with 1012."""
    result = tmp_path_factory.mktemp("proof") / "proof.json"

    def once(websocket: ServerConnection) -> None:
        websocket.send(websocket.recv())
        websocket.close(1012)

    with serve(once, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        parameters = {
            "urls": [url],
            "rate": 10,
            "held": 1,
            "seconds": 2,
            "interval": 0.1,
            "result": str(result),
        }
        with patch_module_args(parameters), pytest.raises(SystemExit):
            ws_prove.main()
        server.shutdown()
        thread.join()
    return result


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that runs the module with parameters and returns (exit status, result)."""

    def run(**parameters: Any) -> tuple[Any, dict[str, Any]]:
        capsys.readouterr()
        with patch_module_args(parameters), pytest.raises(SystemExit) as stop:
            ws_report.main()
        return stop.value.code, json.loads(capsys.readouterr().out)

    return run


def test_success(run: Any, proof: Path, tmp_path: Path) -> None:
    files = {"html": str(tmp_path / "report.html"), "json": str(tmp_path / "report.json")}
    recorded = json.loads(proof.read_text())
    marks = [
        {"time": recorded["begin"] + 1.5, "kind": "end"},
        {"time": recorded["begin"] + 0.5, "kind": "begin", "text": "upgrade"},
    ]
    code, result = run(proof=str(proof), marks=marks, expected_codes=[1012], **files)
    assert (code, result["changed"], result["broken"]) == (0, True, [])
    assert result["msg"] == "Every promise was kept."
    assert set(yaml.safe_load(ws_report.RETURN)) == set(result) - {"changed", "invocation"}
    assert "Every promise was kept." in (tmp_path / "report.html").read_text()
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["promises"] == result["promises"]
    assert [mark["kind"] for mark in written["marks"]] == ["begin", "end"]
    assert {**written, **recorded} == written
    assert run(proof=str(proof), marks=marks, expected_codes=[1012], **files)[1]["changed"] is False


def test_broken_promises_are_returned(run: Any, proof: Path, tmp_path: Path) -> None:
    code, result = run(proof=str(proof), html=str(tmp_path / "report.html"))
    assert code == 0
    assert len(result["broken"]) == 1
    assert result["broken"][0].startswith("Connections were closed with another code than 1001: 1012 (")
    assert result["msg"] == result["broken"][0]
    assert "1 promise was broken." in (tmp_path / "report.html").read_text()


def test_check_mode_writes_nothing(run: Any, proof: Path, tmp_path: Path) -> None:
    code, result = run(
        proof=str(proof), html=str(tmp_path / "a"), json=str(tmp_path / "b"), _ansible_check_mode=True
    )
    assert (code, result["changed"]) == (0, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", "5"])
def test_not_a_proof(run: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "proof.json"
    path.write_text(text)
    code, result = run(proof=str(path))
    assert code == 1
    assert result["msg"] == f"proof is '{path}': allowed is a file that ws_prove wrote."


def test_no_proof(run: Any) -> None:
    assert run(proof="/absent")[1]["msg"] == "proof is '/absent': No such file or directory."


def test_page_that_cannot_be_written(run: Any, proof: Path) -> None:
    message = run(proof=str(proof), html="/absent/x")[1]["msg"]
    assert message == "html is '/absent/x': No such file or directory."


def test_matplotlib_is_missing(
    run: Any, proof: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ws_report, "IMPORT_ERROR", "Traceback: no matplotlib")
    code, result = run(proof=str(proof), html=str(tmp_path / "report.html"))
    assert code == 1
    assert "Failed to import the required Python library (matplotlib >= 3.8)" in result["msg"]
    assert run(proof=str(proof), expected_codes=[1012])[0] == 0  # the verdict needs no drawing
