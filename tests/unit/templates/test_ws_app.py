# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role ws_app refuses, and which hosts it makes a release for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROLE = Path(__file__).resolve().parents[3] / "roles/ws_app"


def render(name: str, inputs: dict[str, Any]) -> Any:
    """Return the role's variable `name`."""
    loader = DataLoader()
    variables: dict[str, Any] = {"role_path": str(ROLE)}
    for part in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROLE / part / "main.yml"), trusted_as_template=True)
    templar = Templar(loader=loader, variables=variables | inputs)
    return templar.template(variables[name])


def wrong(**inputs: Any) -> list[str]:
    """Names of the inputs that are refused."""
    return [rule["name"] for rule in render("__ws_app_wrong", inputs)]


def test_the_defaults_are_good() -> None:
    assert wrong() == []


def test_the_bundled_app_is_found() -> None:
    assert (Path(render("__ws_app_bundled", {})) / "pyproject.toml").is_file()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ws_app_name", "Chat"),
        ("ws_app_name", "a" * 25),
        ("ws_app_path", "/"),
        ("ws_app_path", "/opt"),
        ("ws_app_path", "/opt/../etc"),
        ("ws_app_user", "Root User"),
        ("ws_app_handler", "chat.handler"),
        ("ws_app_environment", {"A-B": "x"}),
        ("ws_app_secrets", {"1A": "x"}),
        ("ws_app_port", 80),
        ("ws_app_port", 65437),
        ("ws_app_drain_seconds", 0),
        ("ws_app_drain_seconds", 601),
        ("ws_app_drain_rate", 0),
        ("ws_app_close_timeout", 0),
        ("ws_app_close_timeout", 61),
        ("ws_app_ping_interval", -1),
        ("ws_app_ping_interval", 3601),
        ("ws_app_window_bits", 8),
        ("ws_app_window_bits", 16),
        ("ws_app_mem_level", 10),
        ("ws_app_max_queue", 0),
        ("ws_app_max_queue", 65536),
        ("ws_app_write_limit", 0),
        ("ws_app_max_size", 0),
        ("ws_app_max_size", 2147483648),
        ("ws_app_max_connections", -1),
        ("ws_app_max_connections", 10000001),
        ("ws_app_max_age_seconds", -1),
        ("ws_app_max_age_seconds", 2_592_001),
        ("ws_app_keep_releases", 0),
        ("ws_app_keep_releases", 101),
    ],
)
def test_bad_values_are_refused(name: str, value: object) -> None:
    assert name in wrong(**{name: value})


def test_names_of_secrets_are_shown_and_their_values_are_not() -> None:
    assert "hunter2" not in str(render("__ws_app_wrong", {"ws_app_secrets": {"1A": "hunter2"}}))


def found(target: str, *finished: str) -> dict[str, Any]:
    return {"__ws_app_found": {"available": list(finished), "python": {"target": target}}}


def test_bundles_are_made_for_the_hosts_that_lack_the_release() -> None:
    inputs = {
        "ws_app_release_id": "1.2-aa",
        "ansible_play_batch": ["has-it", "old", "new", "newer", "not-reached"],
        "hostvars": {
            "has-it": found("3.9.2-x86_64-2.31", "1.2-aa"),
            "old": found("3.11.2-x86_64-2.36", "1.1-bb"),
            "new": found("3.13.5-x86_64-2.41"),
            "newer": found("3.13.5-x86_64-2.41"),
            "not-reached": {},
        },
    }
    assert render("__ws_app_targets", inputs) == ["3.11.2-x86_64-2.36", "3.13.5-x86_64-2.41"]


@pytest.mark.parametrize(("batch", "pinned"), [(["one"], ""), (["two"], "1.2-aa")])
def test_later_batches_install_what_the_first_got(batch: list[str], pinned: str) -> None:
    inputs = {
        "ansible_play_hosts_all": ["one", "two"],
        "ansible_play_batch": batch,
        "hostvars": {"one": {"ws_app_releases": {"echo": "/opt/echo/releases/1.2-aa"}}, "two": {}},
    }
    assert render("__ws_app_pinned_id", inputs) == pinned
