# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the ws_load module: what it returns to Ansible. The load is tested in test_load.py."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.modules import ws_load


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """A function that runs the module for a second and returns (exit status, result)."""

    def run(**parameters: Any) -> tuple[Any, dict[str, Any]]:
        given = {"seconds": 1, "connections": 2, "ready_file": str(tmp_path / "ready"), **parameters}
        with patch_module_args(given), pytest.raises(SystemExit) as stop:
            ws_load.main()
        return stop.value.code, json.loads(capsys.readouterr().out)

    return run


def test_success(run: Any, url: str, tmp_path: Path) -> None:
    code, result = run(url=url)
    assert (code, result["changed"], result["failed_clients"]) == (0, False, 0)
    assert (tmp_path / "ready").exists()
    documented = yaml.safe_load(ws_load.RETURN)
    assert set(documented) == set(result) - {"changed", "invocation"}
    assert set(documented["generator"]["contains"]) == set(result["generator"])


def test_check_mode_opens_nothing(run: Any, tmp_path: Path) -> None:
    assert run(url="ws://127.0.0.1:1", _ansible_check_mode=True)[0] == 0
    assert list(tmp_path.iterdir()) == []
    assert run(url="ws://127.0.0.1:1", connections=0, _ansible_check_mode=True)[0] == 1


@pytest.mark.parametrize("gone", [False, True])
def test_it_stops_when_it_is_told_or_nobody_can_tell_it(
    run: Any, url: str, tmp_path: Path, gone: bool
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    tell = threading.Timer(2, lambda: shutil.rmtree(folder) if gone else (folder / "stop").touch())
    tell.start()
    code, result = run(url=url, seconds=60, stop_file=str(folder / "stop"))
    tell.join()
    assert code == 0
    assert result["seconds"] < 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"url": "ws://127.0.0.1:1"}, "Expected a connection to 127.0.0.1 port 1, got Connection refused."),
        ({"url": "http://a.test"}, "url is 'http://a.test': allowed are ws://"),
        ({"url": "ws://a.test/chat"}, "url is 'ws://a.test/chat': allowed are ws://"),
        ({"url": "wss://a.test", "ca_file": "/nowhere"}, "ca_file is '/nowhere': allowed is a readable file"),
        ({"url": "ws://a.test", "scenario": [{"say": 1}]}, "Step 1 of the scenario says 1"),
        ({"url": "ws://a.test", "seconds": 0}, "seconds is 0: allowed is 1 to 600"),
    ],
)
def test_what_is_wrong_is_said_and_nobody_waits(
    run: Any, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    code, result = run(**options)
    assert code == 1
    assert result["msg"].startswith(sentence)
    assert (tmp_path / "ready").exists()
