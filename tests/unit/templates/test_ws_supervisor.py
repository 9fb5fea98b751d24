# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role ws_supervisor refuses, and the settings that it gives to the runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member

ROOT = Path(__file__).resolve().parents[3]


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
        ("window_bits", 16),
        ("mem_level", 10),
        ("max_queue", 0),
        ("write_limit", 0),
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
        "max_queue": 4,
        "max_size": 10,
        "mem_level": 7,
        "ping_interval": 0,
        "window_bits": 13,
        "write_limit": 11,
    }
    assert runner_settings(monkeypatch, **{f"{role}_{name}": value for name, value in inputs.items()}) == {
        "client_window_bits": 13,
        "close_timeout": 3.0,
        "compression": "off",
        "drain_code": 1012,
        "drain_rate": 7.0,
        "drain_seconds": 20.0,
        "max_age": 3600.0,
        "max_connections": 9,
        "max_queue": 4,
        "max_size": 10,
        "mem_level": 7,
        "ping_interval": 0.0,
        "server_window_bits": 13,
        "write_limit": 11,
    }


@pytest.mark.parametrize(
    ("limit", "more", "refused"),
    [
        (0, {}, False),  # nothing is promised
        (10_000, {}, False),
        (15_000, {}, True),
        (15_000, {"ws_app_compression": "memory"}, False),
        (15_000, {"ws_nginx_tls": False}, False),
        (15_000, {"ws_router": "haproxy"}, False),
        (15_000, {"ws_app_environment": {"WS_MAX_CONNECTIONS": 10_000}}, False),
        (15_000, {"ws_app_command": "python server.py"}, False),  # nothing is known
    ],
)
def test_more_connections_than_memory_are_refused(limit: int, more: dict[str, Any], refused: bool) -> None:
    host = {"processor_nproc": 2, "memtotal_mb": 4096}
    inputs = {"ws_app_max_connections": limit, "ansible_facts": host, **more}
    problem = render("__ws_supervisor_memory_problem", inputs)
    assert problem.startswith("15000 for each of 2 processes") if refused else problem == ""


def test_a_preset_for_more_connections_than_memory_is_refused() -> None:
    inputs = {"ansible_facts": {"processor_nproc": 2, "memtotal_mb": 4096}}
    assert render("__ws_supervisor_memory_problem", inputs | {"ws_host_preset": "10k"}) == ""
    problem = render("__ws_supervisor_memory_problem", inputs | {"ws_host_preset": "100k"})
    assert problem.startswith("100000 connections over 2 processes")
    assert render("__ws_supervisor_memory_problem", inputs | {"ws_host_preset": "none"}) == ""


def test_a_process_says_its_figures_where_it_is_asked_for_them() -> None:
    layout, member = Layout("echo", "/opt/echo"), Member(3, 7)
    command = render("__ws_supervisor_runner", {})
    name = layout.slot_name(member.slot)
    path = Path(layout.metrics(member).socket_path)
    assert f'--metrics-socket "{path.name}"' in command.replace("$SUPERVISOR_PROCESS_NAME", name)
    assert path.parent == Path(layout.address(member, 0).socket_path).parent, (
        "the folder that it is started in"
    )
