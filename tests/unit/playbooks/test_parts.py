# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks that are put together from parts: what one part relies on, another does."""

from __future__ import annotations

import itertools
import typing as t
from pathlib import Path

import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"
ROLLING = ("site", "deploy", "rollback", "restart", "scale", "autoscale")
ROUTERS = ("nginx", "haproxy", "reuse_port")


def roles(part: dict[str, t.Any], name: str, inventory: dict[str, t.Any]) -> set[str]:
    """The roles that a playbook gives a part, with the variables of an inventory."""
    environment = NativeEnvironment()
    environment.filters["bool"] = bool
    template = environment.from_string(str(part["vars"].get(name, [])))
    return set(t.cast("list[str]", template.render(inventory)))


def test_there_are_no_other_playbooks_with_a_rollout() -> None:
    rolling = {path.stem for path in PLAYBOOKS.glob("*.yml") if "parts/roll.yml" in path.read_text()}
    assert rolling == set(ROLLING)


@pytest.mark.parametrize("playbook", ROLLING)
def test_roles_that_dont_check_their_input_again_had_it_checked_in_the_beginning(playbook: str) -> None:
    plays = yaml.safe_load((PLAYBOOKS / f"{playbook}.yml").read_text())
    parts = [play for play in plays if "ansible.builtin.import_playbook" in play]
    given = {Path(part["ansible.builtin.import_playbook"]).stem: part for part in parts if "vars" in part}
    trusting = [
        (given[part], name)
        for part, name in (("build", "__ws_build"), ("roll", "__ws_roll"))
        if part in given and given[part]["vars"].get("__ws_as_begun", True)
    ]
    for router, metrics in itertools.product(ROUTERS, (False, True)):
        inventory = {"ws_router": router, "ws_metrics": metrics}
        for part, name in trusting:
            unchecked = set(roles(part, name, inventory)) - set(
                roles(given["begin"], "__ws_checks", inventory)
            )
            assert not unchecked, f"{name} with {inventory}"


@pytest.mark.parametrize("router", ROUTERS)
def test_remove_takes_away_what_site_makes(router: str) -> None:
    inventory = {"ws_router": router, "ws_metrics": True}
    plays = yaml.safe_load((PLAYBOOKS / "site.yml").read_text())
    made: set[str] = set()
    for play in plays:
        for name in ("__ws_build", "__ws_roll"):
            if name in play.get("vars", {}):
                made |= roles(play, name, inventory)
    removal = yaml.safe_load((PLAYBOOKS / "remove.yml").read_text())[1]
    (loop,) = [task["loop"] for task in removal["tasks"] if "ansible.builtin.include_role" in task]
    assert roles({"vars": {"loop": loop}}, "loop", inventory) == made


def test_plays_that_tell_the_edges_or_are_asked_by_them_know_who_they_are() -> None:
    """HAProxy's configuration of a server, too, says whom it answers."""
    told = ("tasks/edges.yml", "tasks/enter.yml", "wsfleet.websockets.ws_haproxy", "__ws_roll", "__ws_checks")
    plays = {
        f"{path.name}: {play['name']}": play.get("vars_files", [])
        for path in PLAYBOOKS.glob("**/*.yml")
        for play in yaml.safe_load(path.read_text())
        if isinstance(play, dict) and "hosts" in play and any(text in str(play["tasks"]) for text in told)
    }
    assert len(plays) >= 8
    assert [
        name for name, files in plays.items() if not any("vars/edges.yml" in file for file in files)
    ] == []
