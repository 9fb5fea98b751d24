# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the ws_capacity module: what it returns and writes. The judgement is tested in test_capacity.py."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.modules import ws_capacity

from tests.unit.plugins.module_utils.test_capacity import Host


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """A function that runs the module over stages of a simulated host and returns (exit status, result)."""

    def run(host: Host, **parameters: Any) -> tuple[Any, dict[str, Any]]:
        knock = host.stage("play", 20)
        knock["load"] |= {
            "mode": "knock",
            "handshakes_per_second": 210.0,
            "handshake_ms": knock["load"]["answer_ms"],
        }
        play, hold = (host.ramp(mode, 50, 5000) for mode in ("play", "hold"))
        for stage in (knock, *play, *hold):
            stage["load"] |= {
                "answers_per_second": stage["load"]["messages_per_second"],
                "handshake_ms": None,
            }
        given = {
            "baseline": host.stage("hold", 0)["host"],
            "knock": knock,
            "play": play,
            "hold": hold,
            "html": str(tmp_path / "reports/capacity.html"),
            "json": str(tmp_path / "reports/capacity.json"),
            **parameters,
        }
        with patch_module_args(given), pytest.raises(SystemExit) as stop:
            ws_capacity.main()
        return stop.value.code, json.loads(capsys.readouterr().out)

    return run


def test_json_page_and_plan_agree(run: Any, tmp_path: Path) -> None:
    code, result = run(
        Host(), connections=20_000, messages_per_second=30_000, title="A <b> server", router="haproxy"
    )
    assert code == 0
    assert "ws_haproxy_connections" in result["plan"]["variables"]
    assert set(yaml.safe_load(ws_capacity.RETURN)) == set(result) - {"changed", "invocation"}
    assert result["changed"]
    report = json.loads((tmp_path / "reports/capacity.json").read_text())
    for name in ("figures", "knees", "sentences", "plan", "plan_text"):
        assert report[name] == result[name]
    page = (tmp_path / "reports/capacity.html").read_text()
    assert "<h1>A &lt;b&gt; server</h1>" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "&#x27;" not in result["plan_text"]
    assert result["plan_text"] in page
    assert f"{result['figures']['messages_per_second']:,.0f} messages/s" in page
    assert yaml.safe_load(result["plan_text"]) == result["plan"]["variables"]
    assert f"# {result['plan']['servers']} servers" in result["plan_text"]
    picture = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])  # noqa: S314 - our own
    assert "Messages a second" in "".join(picture.itertext())


def test_the_same_again_changes_nothing(run: Any) -> None:
    assert run(Host())[1]["changed"]
    assert not run(Host())[1]["changed"]


def test_check_mode_writes_nothing(run: Any, tmp_path: Path) -> None:
    assert run(Host(), _ansible_check_mode=True)[1]["changed"]
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_planned_is_said_in_the_page(run: Any, tmp_path: Path) -> None:
    code, result = run(Host(app_us=10**6), connections=10, messages_per_second=1)
    assert (code, result["plan"]) == (0, None)
    assert result["plan_text"].startswith("There is no plan. ")
    assert result["plan_text"].split(".")[0] in (tmp_path / "reports/capacity.html").read_text()


def test_a_slow_generator_is_named(run: Any, tmp_path: Path) -> None:
    result = run(Host(app_us=10, router_us=1, generator_us=100))[1]
    assert "The load generator was too slow" in result["sentences"][0]
    assert result["plan"] is None
    assert result["plan_text"].startswith("There is no plan, as the load generator was too slow")
    assert "The load generator was too slow" in (tmp_path / "reports/capacity.html").read_text()


def test_there_must_be_a_stage(run: Any) -> None:
    code, result = run(Host(), play=[])
    assert (code, result["msg"]) == (1, "play is empty: allowed is one stage or more.")
