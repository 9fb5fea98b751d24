# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the ws_probe module: what it returns to Ansible. The check itself is tested in test_probe.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.modules import ws_probe


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that runs the module with parameters and returns (exit status, result)."""

    def run(**parameters: Any) -> tuple[Any, dict[str, Any]]:
        with patch_module_args(parameters), pytest.raises(SystemExit) as stop:
            ws_probe.main()
        return stop.value.code, json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize("check_mode", [False, True])
def test_success(run: Any, url: str, check_mode: bool) -> None:
    code, result = run(url=url, _ansible_check_mode=check_mode)
    assert code == 0
    assert result["changed"] is False
    assert result["echoed"] is True
    assert set(yaml.safe_load(ws_probe.RETURN)) == set(result) - {"changed", "invocation"}


def test_failure_returns_what_was_seen(run: Any, url: str) -> None:
    code, result = run(url=url, status=403)
    assert code == 1
    assert result["msg"] == f"{url}: expected status 403, got 101 Switching Protocols."
    assert (result["failed"], result["status"], result["echoed"]) == (True, 101, False)


def test_nobody_there(run: Any, tmp_path: Path) -> None:
    _code, result = run(url="ws://echo.test/", unix_socket=str(tmp_path / "none.sock"))
    assert (result["status"], result["headers"], result["close_code"]) == (None, {}, None)


def test_refused_option(run: Any) -> None:
    code, result = run(url="ftp://echo.test/")
    assert code == 1
    assert (
        result["msg"]
        == "url is 'ftp://echo.test/': allowed are ws:// and wss:// URLs with a host and no fragment."
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"unix_socket": "/a", "address": "b"}, "parameters are mutually exclusive: unix_socket|address"),
        ({"unix_socket": "/a", "port": 1}, "parameters are mutually exclusive: unix_socket|port"),
        ({"send": "x", "size": 1}, "parameters are mutually exclusive: send|size"),
        ({"reply": "x"}, "missing parameter(s) required by 'reply': send"),
    ],
)
def test_options_that_exclude_or_need_each_other(run: Any, parameters: dict[str, Any], message: str) -> None:
    assert run(url="ws://echo.test/", **parameters)[1]["msg"] == message


def test_websockets_is_missing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws_probe, "IMPORT_ERROR", "Traceback: no websockets")
    code, result = run(url="ws://echo.test/")
    assert code == 1
    assert "Failed to import the required Python library (websockets >= 13)" in result["msg"]
