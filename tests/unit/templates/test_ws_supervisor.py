# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role ws_supervisor refuses, and the settings that it gives to the runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

ROOT = Path(__file__).resolve().parents[3]

init_plugin_loader()


def load(role: str, *parts: str) -> dict[str, Any]:
    """Return the role's variables, not rendered."""
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for part in parts:
        variables |= loader.load_from_file(
            str(ROOT / "roles" / role / part / "main.yml"), trusted_as_template=True
        )
    return variables


def render(name: str, inputs: dict[str, Any]) -> Any:
    """Return the role's variable `name`."""
    variables = load("ws_supervisor", "defaults", "vars")
    return Templar(loader=DataLoader(), variables=variables | inputs).template(variables[name])


def wrong(**inputs: Any) -> list[str]:
    """Names of the inputs that are refused."""
    return [rule["name"] for rule in render("__ws_supervisor_wrong", inputs)]


def runner_settings(monkeypatch: pytest.MonkeyPatch, **inputs: Any) -> dict[str, object]:
    """Return what the runner reads from the environment that it gets, where it isn't the runner's default."""
    monkeypatch.syspath_prepend(str(ROOT / "app/src"))
    from wsfleet.config import parse

    variables = render("__ws_supervisor_runner_environment", inputs)
    return parse([], {name: str(value) for name, value in variables.items()}).changed()


def test_the_defaults_are_good() -> None:
    assert wrong() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("app", "Chat"),
        ("processes", "many"),
        ("port", 80),
        ("drain_seconds", 601),
        ("drain_rate", 0),
        ("close_timeout", 61),
        ("max_age_seconds", -1),
        ("max_age_seconds", 2_592_001),
        ("max_size", 0),
        ("handler", "chat.handler"),
    ],
)
def test_bad_values_are_refused(name: str, value: object) -> None:
    assert wrong(**{f"ws_supervisor_{name}": value}) == [f"ws_supervisor_{name}"]


def test_defaults_are_those_of_the_runner_with_and_without_ws_app(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runner_settings(monkeypatch) == {}
    assert runner_settings(monkeypatch, **load("ws_app", "defaults")) == {}
    # Not one byte may differ: a changed environment is a new generation.
    name = "__ws_supervisor_runner_environment"
    assert str(render(name, {})) == str(render(name, load("ws_app", "defaults")))


@pytest.mark.parametrize("role", ["ws_app", "ws_supervisor"])
def test_inputs_reach_the_runner(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    inputs = {
        "close_timeout": 3,
        "compression": False,  # YAML reads a bare off as false
        "drain_code": 1012,
        "drain_rate": 7,
        "drain_seconds": 20,
        "max_age_seconds": 3600,
        "max_connections": 9,
        "max_size": 10,
        "ping_interval": 0,
    }
    assert runner_settings(monkeypatch, **{f"{role}_{name}": value for name, value in inputs.items()}) == {
        "close_timeout": 3.0,
        "compression": "off",
        "drain_code": 1012,
        "drain_rate": 7.0,
        "drain_seconds": 20.0,
        "max_age": 3600.0,
        "max_connections": 9,
        "max_size": 10,
        "ping_interval": 0.0,
    }
