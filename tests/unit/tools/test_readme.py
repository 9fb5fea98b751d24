# SPDX-License-Identifier: GPL-3.0-or-later
"""The README files that tools/readme.py makes of a small collection."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import readme

SPECS = """
argument_specs:
  main:
    short_description: Do it
    description:
      - First C(code) of
        O(ws_a_b=c\\(d\\)).
      - Second, see U(https://example.org) and L(there, https://example.com).
    options: &options
      ws_a_b: &b
        description: [One | two., Three.]
        type: str
        default: "{{ x | default('') }}"
      ws_a_number:
        description: One.
        type: int
        default: 5
      ws_a_list:
        description: Some.
        type: list
        elements: int
        default: []
      ws_a_switch:
        description: Whether.
        type: bool
        default: true
      ws_a_choice:
        description: One.
        type: str
        choices: ["off", "on"]
        required: true
      ws_a_optional:
        description: Perhaps.
        type: str
  check:
    short_description: Refuse
    description: Only that.
    options: *options
  remove:
    short_description: Undo
    description: [Now., Later.]
    options:
      ws_a_b: *b
"""
DEFAULTS = """
ws_a_b: "{{ x | default('') }}"
ws_a_number: "{{ ws_x | default(5) }}"
ws_a_list: []
ws_a_switch: true
"""
META = """
galaxy_info:
  platforms: [{name: Debian, versions: [bookworm, trixie]}]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a collection with one role, one playbook and one module."""
    files = {
        "roles/ws_a/meta/argument_specs.yml": SPECS,
        "roles/ws_a/meta/main.yml": META,
        "roles/ws_a/defaults/main.yml": DEFAULTS,
        "playbooks/site.yml": "---\n# Deploys.\n# More.\n- hosts: all\n",
        "plugins/modules/ws_m.py": 'import x\nDOCUMENTATION = r"""\nshort_description: Do C(this)\n"""\n',
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


@pytest.fixture
def role(root: Path) -> Path:
    """Return the folder of the role."""
    return root / "roles/ws_a"


def edit(path: Path, old: str, new: str) -> None:
    """Replace what must be in a file."""
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def test_a_role(role: Path) -> None:
    lines = readme.role_readme(role).splitlines()
    assert "# wsfleet.websockets.ws_a" in lines
    assert "Do it, on Debian bookworm and trixie." in lines
    assert "- First `code` of `ws_a_b=c(d)`." in lines
    assert "- Second, see <https://example.org> and [there](https://example.com)." in lines
    assert "| `main` | Do it | all below |" in lines
    assert "| `check` | Refuse. Only that. | all below |" in lines
    assert "| `remove` | Undo. Now.<br>Later. | `ws_a_b` |" in lines
    assert r"| `ws_a_b` | str | `{{ x \| default('') }}` | One \| two.<br>Three. |" in lines
    assert r"| `ws_a_number` | int | `{{ ws_x \| default(5) }}` | One. |" in lines
    assert "| `ws_a_list` | list of int | `[]` | Some. |" in lines
    assert "| `ws_a_switch` | bool | `true` | Whether. |" in lines
    assert "| `ws_a_choice` | `off`, `on` | **required** | One. |" in lines
    assert "| `ws_a_optional` | str | unset | Perhaps. |" in lines


def test_the_tables_replace_what_is_between_the_markers(root: Path) -> None:
    path = root / "README.md"
    path.write_text("Hello\n<!-- begin modules -->\nold\n<!-- end modules -->\nBye\n")
    path.write_text(readme.top_readme(root))
    content = path.read_text()
    assert content.startswith(
        "Hello\n<!-- begin modules -->\n| module | does |\n|---|---|\n"
        "| [ws_m](plugins/modules/ws_m.py) | Do `this` |\n<!-- end modules -->\nBye\n"
    )
    assert "\n| [ws_a](roles/ws_a) | Do it |\n" in content
    assert "\n| [site](playbooks/site.yml) | Deploys |\n" in content
    assert readme.top_readme(root) == content


def test_a_good_role_disagrees_with_itself_in_nothing(role: Path) -> None:
    assert list(readme.disagreements(role)) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        (
            "defaults/main.yml",
            "[]",
            "[1]",
            "ws_a_list is [] in argument_specs.yml, but [1] in defaults/main.yml",
        ),
        (
            "meta/argument_specs.yml",
            "default: 5",
            "default: 6",
            "ws_a_number is 6 in argument_specs.yml, but '{{ ws_x | default(5) }}' in defaults/main.yml",
        ),
        (
            "defaults/main.yml",
            "ws_a_list: []",
            "",
            "ws_a_list has a default in argument_specs.yml, but not in defaults/main.yml",
        ),
        (
            "defaults/main.yml",
            "ws_a_list: []",
            "ws_a_list: []\nws_a_other: 1",
            "ws_a_other has a default in defaults/main.yml, but not in argument_specs.yml",
        ),
        (
            "meta/argument_specs.yml",
            "      ws_a_b: *b",
            "      ws_a_c: *b",
            "ws_a_c is not the same in the entry points main and remove",
        ),
        (
            "meta/argument_specs.yml",
            "options: *options",
            "options: {ws_a_b: *b, ws_a_list: {}}",
            "ws_a_list is not the same in the entry points main and check",
        ),
        ("meta/argument_specs.yml", "options: *options", "options: {}", "the entry point check lacks ws_a_b"),
        (
            "meta/argument_specs.yml",
            "  remove:",
            "  undo:",
            "argument_specs.yml lacks the entry point remove",
        ),
    ],
)
def test_a_disagreement_is_told(role: Path, name: str, old: str, new: str, problem: str) -> None:
    edit(role / name, old, new)
    assert f"ws_a: {problem}" in list(readme.disagreements(role))


def test_check_writes_nothing_and_shows_the_drift(
    root: Path, role: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(readme, "ROOT", root)
    monkeypatch.setattr("sys.argv", ["readme.py", "--check"])
    assert readme.main() == 1
    assert not (role / "README.md").exists()
    assert "roles/ws_a/README.md is out of date: run tools/readme.py" in capsys.readouterr().err

    monkeypatch.setattr("sys.argv", ["readme.py"])
    assert readme.main() == 0

    monkeypatch.setattr("sys.argv", ["readme.py", "--check"])
    assert readme.main() == 0
    edit(role / "meta/argument_specs.yml", "Do it", "Do that")
    assert readme.main() == 1
    assert "-Do it, on Debian" in capsys.readouterr().err
