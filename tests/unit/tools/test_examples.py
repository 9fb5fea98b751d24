# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventories that users copy say only what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.playbook.play import Play
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

ROOT = Path(__file__).resolve().parents[3]
INVENTORIES = [*ROOT.glob("examples/inventory_*.yml"), *ROOT.glob("inventory/example/**/*.yml")]


def inputs() -> set[str]:
    """Inputs of the roles, and those that the playbooks tell of in their first lines."""
    names = set()
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        names |= set(yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"])
    for path in ROOT.glob("playbooks/*.yml"):
        names |= set(re.findall(r"^#   (ws_\w+) ", path.read_text(), re.MULTILINE))
    return names


def variables(node: Any) -> set[str]:
    """Every key that begins with ws_ and names neither a group nor a host."""
    if isinstance(node, dict):
        found = {key for key in node if str(key).startswith("ws_")}
        return found.union(*map(variables, node.values()))
    return set()


@pytest.mark.parametrize("path", INVENTORIES, ids=lambda path: path.name)
def test_every_variable_is_an_input(path: Path) -> None:
    text = path.read_text()
    told = set(re.findall(r"# *(ws_\w+):", text))  # those that are commented out
    assert (variables(yaml.safe_load(text)) | told) - {"ws_servers", "ws_edges"} <= inputs()


class Fleet:
    """Hosts of an inventory, for which templates are rendered as in a play."""

    def __init__(self, *inventories: Path) -> None:
        self.loader = DataLoader()
        self.inventory = InventoryManager(self.loader, sources=[str(path) for path in inventories])
        self.variables = VariableManager(self.loader, self.inventory)
        HostVars(self.inventory, self.variables, self.loader)  # makes itself known to the variables

    def plays(self, playbook: Path) -> list[Play]:
        plays = Playbook.load(str(playbook), variable_manager=self.variables, loader=self.loader).get_plays()
        return list(plays)

    def hosts(self, play: Play) -> list[str]:
        templar = Templar(self.loader, self.variables.get_vars(play=play))
        return [host.name for host in self.inventory.get_hosts(templar.template(play.hosts))]

    def render(self, template: str, play: Play, host: str) -> Any:
        variables = self.variables.get_vars(play=play, host=self.inventory.get_host(host))
        return Templar(self.loader, variables).template(trust_as_template(template))


def edge_plays() -> list[tuple[str, int]]:
    """Every play that runs on edges, by playbook and place in it."""
    return [
        (str(path.relative_to(ROOT)), place)
        for path in sorted(ROOT.glob("playbooks/**/*.yml"))
        for place, play in enumerate(yaml.safe_load(path.read_text()))
        if isinstance(play, dict) and "ws_edges_group" in play.get("hosts", "")
    ]


@pytest.mark.parametrize("own", [{}, {"ws_app_name": "own"}], ids=["servers", "own"])
@pytest.mark.parametrize(("playbook", "place"), edge_plays())
def test_edges_know_what_is_said_of_the_app_for_the_servers(
    playbook: str, place: int, own: dict[str, str], tmp_path: Path
) -> None:
    more = {"ws_servers": {"vars": {"ws_app_ping_interval": 33}}, "ws_edges": {"vars": own}}
    (tmp_path / "more.yml").write_text(yaml.safe_dump(more))
    fleet = Fleet(ROOT / "examples/inventory_fleet.yml", tmp_path / "more.yml")
    play = fleet.plays(ROOT / playbook)[place]
    edges = [host for host in fleet.hosts(play) if host.startswith("edge")]
    for host in edges:
        assert fleet.render("{{ ws_app_name }}", play, host) == own.get("ws_app_name", "chat")
        if playbook in {"playbooks/parts/edges.yml", "playbooks/parts/check_edges.yml"}:
            assert fleet.render("{{ ws_app_ping_interval }}", play, host) == 33
        if playbook == "playbooks/verify.yml":
            assert fleet.render("{{ __ws_verify_echo }}", play, host) is False
    assert len(edges) == 2 or play.get_name() == "Drained servers"


@pytest.mark.parametrize("by", ["ws_servers", "ws_edges", None])
def test_what_edges_run_may_be_said_for_either_group(by: str | None, tmp_path: Path) -> None:
    (tmp_path / "more.yml").write_text(yaml.safe_dump({by: {"vars": {"ws_edge": "nginx"}}} if by else {}))
    fleet = Fleet(ROOT / "examples/inventory_fleet.yml", tmp_path / "more.yml")
    play = fleet.plays(ROOT / "playbooks/parts/begin.yml")[0]
    assert fleet.render("{{ __ws_edge_runs }}", play, "ws1.example.com") == ("nginx" if by else "haproxy")


def test_there_are_examples() -> None:
    assert len(INVENTORIES) >= 5
