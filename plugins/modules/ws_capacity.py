#!/usr/bin/python
# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_capacity
short_description: Say what a server carries, and how many servers a load takes
version_added: 0.1.0
description:
  - Reads what M(wsfleet.websockets.ws_load) and M(wsfleet.websockets.ws_observe) found in the stages of a ramp, and
    says where the knee is, what was used up there, and what P(wsfleet.websockets.ws_plan#filter) makes of it.
  - When the load generator itself was too slow, it says so, claims no more than what was carried, and makes no plan.
  - Writes it as a page, one HTML file without scripts that needs no other file and no network, and as JSON.
author:
  - The wsfleet maintainers (@wsfleet)
requirements:
  - Python >= 3.11
  - matplotlib >= 3.8 in the Python that runs the module, for O(html)
notes:
  - The controller is the natural place for it, with C(delegate_to=localhost).
attributes:
  check_mode:
    support: full
    description: Returns the same and writes nothing.
  diff_mode:
    support: none
    description: What it writes is of use as a whole only.
options:
  title:
    description: Title of the page.
    type: str
    default: What the server carries
  baseline:
    description: What M(wsfleet.websockets.ws_observe) returned when there was no connection.
    type: dict
    required: true
  knock:
    description: A stage, C(load) and C(host), of clients that open and close connections.
    type: dict
  play:
    description: The stages of clients that play the scenario.
    type: list
    elements: dict
    required: true
  hold:
    description: The stages of clients that are quiet.
    type: list
    elements: dict
    default: []
  router:
    description: What passes connections on to the processes, C(ws_router). The plan has the variable of its room.
    type: str
    choices: [nginx, haproxy, reuse_port]
    default: nginx
  p99_ms:
    description: Milliseconds that 99 % of the answers may take.
    type: float
    default: 100
  lag_ms:
    description: Milliseconds by which event loops may be late, 99 times in 100.
    type: float
    default: 50
  connections:
    description: Connections to plan for, over all servers. The default is what the server carries.
    type: int
  messages_per_second:
    description: Messages a second to plan for. The default is what the server carries.
    type: float
  headroom_percent:
    description: What stays free of each figure, 0 to 90 percent.
    type: float
    default: 30
  spare_servers:
    description: Servers that may be down.
    type: int
    default: 1
  html:
    description: File to write the page to.
    type: path
  json:
    description: File to write everything to.
    type: path
seealso:
  - plugin: wsfleet.websockets.ws_plan
    plugin_type: filter
"""

EXAMPLES = r"""
# As playbook capacity does it
- name: Say what the server carries
  wsfleet.websockets.ws_capacity:
    baseline: "{{ baseline }}"
    play: "{{ stages }}"
    connections: 20000
    messages_per_second: 8000
    html: reports/capacity.html
    json: reports/capacity.json
  delegate_to: localhost
"""

RETURN = r"""
figures:
  description: What the server carries, for P(wsfleet.websockets.ws_plan#filter).
  returned: success
  type: dict
knees:
  description:
    - Of C(messages) and of C(connections), the last good stage's C(connections) and C(messages_per_second), whether
      the knee was C(found), what was C(saturated) there, and C(why).
  returned: success
  type: dict
sentences:
  description: The same in words.
  returned: success
  type: list
  elements: str
plan:
  description: What P(wsfleet.websockets.ws_plan#filter) returns; null where there is none.
  returned: success
  type: dict
plan_text:
  description: Inventory variables to paste, with comments, or why there are none.
  returned: success
  type: str
"""

import json
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.wsfleet.websockets.plugins.module_utils.capacity import GENERATOR, judge, passed
from ansible_collections.wsfleet.websockets.plugins.module_utils.capacity_page import IMPORT_ERROR, page
from ansible_collections.wsfleet.websockets.plugins.module_utils.plan import PlanError, plan

RAN = (
    *(
        "ansible_job_id",
        "changed",
        "deprecations",
        "exception",
        "failed",
        "finished",
        "invocation",
        "results_file",
    ),
    *("started", "stderr", "stderr_lines", "stdout", "stdout_lines", "warnings", "attempts"),
)


def stage(found: t.Mapping[str, t.Any], limits: t.Mapping[str, float]) -> dict[str, t.Any]:
    """Return a stage with what passed its limit in it."""
    seen = {name: clean(found[name]) for name in ("load", "host")}
    return {**seen, "passed": passed(seen, limits)}


def planned(
    verdict: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any]
) -> tuple[dict[str, t.Any] | None, str]:
    """Return the plan and its text, or why there is none."""
    if any(knee["saturated"] == GENERATOR for knee in verdict["knees"].values()):
        return None, "There is no plan, as the load generator was too slow to say what the server carries."
    try:
        made: dict[str, t.Any] = plan(verdict["figures"], **wanted)
    except PlanError as error:
        return None, f"There is no plan. {error}"
    used = made["used_percent"]
    lines = [
        f"# {made['servers']} servers, of which {made['spare_servers']} may be down. Then each has",
        f"# {made['connections_per_server']:,} connections, {used['connections']:g} % of what one carries, and",
        f"# {made['messages_per_second_per_server']:,.0f} messages/s, {used['messages_per_second']:g} %.",
        *(f"{name}: {value}" for name, value in made["variables"].items()),
    ]
    return made, "\n".join(lines)


def clean(seen: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return what a module found, without what Ansible says about how it ran."""
    return {name: value for name, value in seen.items() if name not in RAN}


def write(module: AnsibleModule, name: str, text: str) -> bool:
    """Write a file unless it is so already, or this is check mode; return whether it was another."""
    path = Path(module.params[name])
    try:
        if path.exists() and path.read_text() == text:
            return False
        if not module.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as exc:
        module.fail_json(msg=f"{name} is {str(path)!r}: {exc.strerror}.")
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "title": {"type": "str", "default": "What the server carries"},
            "baseline": {"type": "dict", "required": True},
            "knock": {"type": "dict"},
            "play": {"type": "list", "elements": "dict", "required": True},
            "hold": {"type": "list", "elements": "dict", "default": []},
            "router": {"type": "str", "choices": ["nginx", "haproxy", "reuse_port"], "default": "nginx"},
            "p99_ms": {"type": "float", "default": 100},
            "lag_ms": {"type": "float", "default": 50},
            "connections": {"type": "int"},
            "messages_per_second": {"type": "float"},
            "headroom_percent": {"type": "float", "default": 30},
            "spare_servers": {"type": "int", "default": 1},
            "html": {"type": "path"},
            "json": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    if options["html"] and IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("matplotlib >= 3.8"), exception=IMPORT_ERROR)
    if not options["play"]:
        module.fail_json(msg="play is empty: allowed is one stage or more.")
    limits = {"p99_ms": options["p99_ms"], "lag_ms": options["lag_ms"]}
    ramps = {name: [stage(found, limits) for found in options[name]] for name in ("play", "hold")}
    knock = stage(options["knock"], limits) if options["knock"] else None
    baseline = clean(options["baseline"])
    verdict = judge(baseline, knock, ramps["play"], ramps["hold"], limits)
    verdict["figures"]["router"] = options["router"]
    wanted = {name: options[name] for name in ("headroom_percent", "spare_servers")}
    for name in ("connections", "messages_per_second"):
        wanted[name] = verdict["figures"][name] if options[name] is None else options[name]
    made, text = planned(verdict, wanted)
    result = {**verdict, "plan": made, "plan_text": text}
    report = {
        "title": options["title"],
        **result,
        "wanted": wanted,
        "limits": limits,
        "baseline": baseline,
        "knock": knock,
        **ramps,
    }
    changed = False
    if options["json"]:
        changed |= write(module, "json", json.dumps(report, indent=1) + "\n")
    if options["html"]:
        changed |= write(module, "html", page(options["title"], report))
    module.exit_json(changed=changed, **result)


if __name__ == "__main__":
    main()
