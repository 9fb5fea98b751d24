#!/usr/bin/env python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the README.md of every role, and the tables in the top README.md, from what describes the code itself.

readme.py           writes them
readme.py --check   writes nothing, prints what would change
Both tell where a role's defaults and argument specs disagree. The exit code is 1 when there is something to do.
"""

from __future__ import annotations

import argparse
import ast
import collections
import difflib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.nativetypes import NativeEnvironment

ROOT = Path(__file__).resolve().parent.parent
COLLECTION = "wsfleet.websockets"

ROLE = """\
<!-- made by tools/readme.py from meta/argument_specs.yml -->

# {{ collection }}.{{ role }}

{{ specs.main.short_description | text }}, on {{ platforms | join(" and ") }}.

{% for paragraph in specs.main.description | paragraphs %}
- {{ paragraph | text }}
{% endfor %}

The role gathers the facts it needs, works in check mode, and a second run changes nothing.

```yaml
- name: {{ specs.main.short_description }}
  hosts: ws_servers
  become: true
  tasks:
    - name: Include the role
      ansible.builtin.include_role:
        name: {{ collection }}.{{ role }}
```

## Entry points

The `tasks_from` of `include_role`; without it, `main`.

| entry point | does | inputs |
|---|---|---|
{% for name, spec in specs.items() %}
| `{{ name }}` | {{ spec | does(name) }} | {{ spec.options | inputs(specs.main.options) }} |
{% endfor %}

## Inputs

| name | type | default | |
|---|---|---|---|
{% for name, option in specs.main.options.items() %}
| `{{ name }}` | {{ option | kind }} | {{ option | default_value(defaults[name]) }} | {{ option | description }} |
{% endfor %}
"""


def paragraphs(description: str | list[str]) -> list[str]:
    """Return a description, which may be one string, as a list of paragraphs."""
    return [description] if isinstance(description, str) else description


def text(markup: str) -> str:
    """Turn Ansible's markup, such as C(code) and O(option=value), into Markdown on one line."""
    line = " ".join(markup.split())
    line = re.sub(r"\bL\((.+?), ?(.+?)\)", r"[\1](\2)", line)
    line = re.sub(r"\bU\((.+?)\)", r"<\1>", line)
    line = re.sub(r"\b[BCEIMOPV]\(((?:\\.|[^)\\])*)\)", r"`\1`", line)
    return re.sub(r"\\([()])", r"\1", line)


def cell(content: str) -> str:
    """Make text fit into a cell of a table."""
    return content.replace("|", r"\|")


def description(item: dict[str, Any]) -> str:
    """Return an option's or entry point's description."""
    return cell("<br>".join(text(paragraph) for paragraph in paragraphs(item["description"])))


def does(spec: dict[str, Any], name: str) -> str:
    """Return what an entry point does; what main does is told above the table."""
    brief = cell(text(spec["short_description"]))
    return brief if name == "main" else f"{brief}. {description(spec)}"


def kind(option: dict[str, Any]) -> str:
    """Return an option's type, or what it may be."""
    if choices := option.get("choices"):
        return ", ".join(f"`{choice}`" for choice in choices)
    return f"{option['type']} of {option['elements']}" if "elements" in option else str(option["type"])


def default_value(option: dict[str, Any], value: Any) -> str:
    """Return as code the value that defaults/main.yml gives an option; without one, it is required or else unset."""
    if "default" not in option:
        return "**required**" if option.get("required") else "unset"
    return f"`{cell(value if isinstance(value, str) and value else json.dumps(value))}`"


def inputs(options: dict[str, Any], of_main: dict[str, Any]) -> str:
    """Return which inputs an entry point has, compared with those of main."""
    return "all below" if options == of_main else ", ".join(f"`{name}`" for name in options)


def load(path: Path) -> Any:
    """Read a YAML file."""
    return yaml.safe_load(path.read_text())


def roles(root: Path) -> list[Path]:
    """Return the folders of the roles."""
    return sorted(path.parent.parent for path in root.glob("roles/*/meta/argument_specs.yml"))


def role_readme(role: Path) -> str:
    """Return the README.md of a role."""
    environment = jinja2.Environment(  # noqa: S701 (what it makes is Markdown)
        trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    for function in (default_value, description, does, inputs, kind, paragraphs, text):
        environment.filters[function.__name__] = function
    platforms = [
        f"{platform['name']} {' and '.join(platform['versions'])}"
        for platform in load(role / "meta/main.yml")["galaxy_info"]["platforms"]
    ]
    specs = load(role / "meta/argument_specs.yml")["argument_specs"]
    defaults = collections.defaultdict(str, load(role / "defaults/main.yml"))
    return environment.from_string(ROLE).render(
        collection=COLLECTION, role=role.name, specs=specs, defaults=defaults, platforms=platforms
    )


def module_description(path: Path) -> str:
    """Return the short_description in a module's DOCUMENTATION."""
    documentation = next(
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DOCUMENTATION"
    )
    return str(yaml.safe_load(documentation)["short_description"])


def playbook_description(path: Path) -> str:
    """Return a playbook's first line of comment, without the full stop."""
    comment = next(line for line in path.read_text().splitlines() if line.startswith("# "))
    return comment.removeprefix("# ").removesuffix(".")


def tables(root: Path) -> dict[str, str]:
    """Return the tables of the top README.md by the name in their markers."""
    described = {
        "roles": [
            (role, load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["short_description"])
            for role in roles(root)
        ],
        "playbooks": [(path, playbook_description(path)) for path in sorted(root.glob("playbooks/*.yml"))],
        "modules": [(path, module_description(path)) for path in sorted(root.glob("plugins/modules/*.py"))],
    }
    return {
        name: "\n".join(
            [
                f"| {name.removesuffix('s')} | does |",
                "|---|---|",
                *(f"| [{path.stem}]({path.relative_to(root)}) | {cell(text(does))} |" for path, does in rows),
            ]
        )
        for name, rows in described.items()
    }


def top_readme(root: Path) -> str:
    """Return README.md with the tables between its markers made anew; at first, nothing but them."""
    path = root / "README.md"
    content = path.read_text() if path.exists() else f"# {COLLECTION}\n"
    for name, table in tables(root).items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if begin not in content:
            content += f"\n{begin}\n{end}\n"
        before, _old, rest = content.partition(begin)
        content = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return content


def fallback(value: Any) -> Any:
    """Return what a default is where no other variable is set: 5 for `{{ ws_app_processes | default(5) }}`."""
    return NativeEnvironment().from_string(value).render() if isinstance(value, str) else value


def disagreements(role: Path) -> Iterator[str]:
    """Yield where the defaults and argument specs of a role disagree.

    Specs may have the fallback instead, as a number's default must be a number there.
    """
    specs = load(role / "meta/argument_specs.yml")["argument_specs"]
    options = specs["main"]["options"]
    in_specs = {name: option["default"] for name, option in options.items() if "default" in option}
    in_defaults = load(role / "defaults/main.yml")
    for name in sorted(in_specs.keys() | in_defaults.keys()):
        if name not in in_defaults:
            yield f"{role.name}: {name} has a default in argument_specs.yml, but not in defaults/main.yml"
        elif name not in in_specs:
            yield f"{role.name}: {name} has a default in defaults/main.yml, but not in argument_specs.yml"
        elif in_specs[name] != (value := in_defaults[name]) and in_specs[name] != fallback(value):
            yield f"{role.name}: {name} is {in_specs[name]!r} in argument_specs.yml, but {value!r} in defaults/main.yml"
    for entry in sorted({"check", "remove"} - specs.keys()):
        yield f"{role.name}: argument_specs.yml lacks the entry point {entry}"
    for entry, spec in specs.items():
        for name, option in spec["options"].items():
            if options.get(name) != option:
                yield f"{role.name}: {name} is not the same in the entry points main and {entry}"
    for name in sorted(options.keys() - specs.get("check", {}).get("options", {}).keys()):
        yield f"{role.name}: the entry point check lacks {name}"


def main() -> int:
    """Write or, with --check, compare; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, print what would change")
    check = parser.parse_args().check

    problems = [problem for role in roles(ROOT) for problem in disagreements(role)]
    made = {role / "README.md": role_readme(role) for role in roles(ROOT)} | {
        ROOT / "README.md": top_readme(ROOT)
    }
    for path, content in made.items():
        present = path.read_text() if path.exists() else ""
        if check and present != content:
            name = str(path.relative_to(ROOT))
            problems += difflib.unified_diff(
                present.splitlines(), content.splitlines(), name, "made anew", lineterm=""
            )
            problems += [f"{name} is out of date: run tools/readme.py"]
        elif present != content:
            path.write_text(content)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
