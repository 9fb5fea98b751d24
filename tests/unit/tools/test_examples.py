# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventories that users copy say only what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def test_there_are_examples() -> None:
    assert len(INVENTORIES) >= 5
