#!/usr/bin/python
# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say which promises a change of WebSocket servers has kept, and show what clients saw."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_report
short_description: Say what clients saw while WebSocket servers were changed
version_added: 0.1.0
description:
  - Reads what M(wsfleet.websockets.ws_prove) recorded and says which promises were kept. Clients tried all the time,
    no handshake failed, no connection was cut, none was closed with a code that was not announced; and where the app
    echoes, every message came back once, in order and unchanged, unless its connection was closed as announced.
  - Writes it as a page, one HTML file without scripts that needs no other file and no network, and as JSON.
  - Broken promises are returned, not failed on. Use C(failed_when).
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
  proof:
    description: File that M(wsfleet.websockets.ws_prove) wrote.
    type: path
    required: true
  title:
    description: Title of the page.
    type: str
    default: What clients saw
  marks:
    description: What was done when, to be seen beside what clients saw.
    type: list
    elements: dict
    default: []
    suboptions:
      time:
        description: Unix time.
        type: float
        required: true
      kind:
        description:
          - V(begin) and V(end) are those of the change; with both, handshakes are told apart by before, during and
            after, and the clients must have been there from the one to the other.
          - V(switch) is a slot that a new process took over, V(drain) a process that began to close its connections.
        type: str
        choices: [begin, end, switch, drain, note]
        default: note
      host:
        description: Where it was done.
        type: str
      text:
        description: What was done.
        type: str
        default: ""
  expected_codes:
    description: Close codes that were announced.
    type: list
    elements: int
    default: [1001]
  html:
    description: File to write the page to.
    type: path
  json:
    description: File to write the proof, the marks and the verdict to.
    type: path
"""

EXAMPLES = r"""
- name: Say what clients saw
  wsfleet.websockets.ws_report:
    proof: /tmp/proof/proof.json
    title: Upgrade of chat to 2.4.0
    marks:
      - {time: 1767225600.0, kind: begin}
      - {time: 1767225611.3, kind: switch, host: ws1.example.com, text: slot 00 to generation 8}
      - {time: 1767225611.3, kind: drain, host: ws1.example.com, text: slot 00 of generation 7}
      - {time: 1767225640.2, kind: end}
    html: reports/chat-2.4.0.html
    json: reports/chat-2.4.0.json
  delegate_to: localhost
  register: report
  failed_when: report is failed or report.broken | length > 0
"""

RETURN = r"""
msg:
  description: The sentences of RV(broken), or that every promise was kept.
  returned: success
  type: str
  sample: Every promise was kept.
promises:
  description: The promises, and whether they were kept.
  returned: success
  type: list
  elements: dict
  contains:
    promise:
      description: The promise.
      type: str
    kept:
      description: Whether it was kept.
      type: bool
    detail:
      description: How, with figures.
      type: str
  sample:
    - promise: No handshake fails
      kept: true
      detail: 24,310 handshakes, none failed.
broken:
  description: A sentence for each promise that was broken.
  returned: success
  type: list
  elements: str
  sample: []
notes:
  description: Sentences that make the figures understood, such as that the clients themselves were too slow.
  returned: success
  type: list
  elements: str
  sample: []
phases:
  description:
    - Handshakes before, during and after the change, or C(all the time) when O(marks) don't say when it was.
    - Times are in milliseconds.
  returned: success
  type: list
  elements: dict
  sample:
    - phase: during
      attempts: 12044
      failed: 0
      handshake_ms: {p50: 4.4, p99: 19.2, max: 61.3}
"""

import json
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.wsfleet.websockets.plugins.module_utils.proof import judge
from ansible_collections.wsfleet.websockets.plugins.module_utils.proof_page import IMPORT_ERROR, page


def read(module: AnsibleModule) -> dict[str, t.Any]:
    path = module.params["proof"]
    try:
        proof: dict[str, t.Any] = json.loads(Path(path).read_text())
        proof["series"]  # else some other JSON
    except OSError as exc:
        module.fail_json(msg=f"proof is {path!r}: {exc.strerror}.")
    except (ValueError, LookupError, TypeError):
        module.fail_json(msg=f"proof is {path!r}: allowed is a file that ws_prove wrote.")
    return proof


def write(module: AnsibleModule, name: str, text: str) -> bool:
    """Write a file unless it is so already, or this is check mode; return whether it was another."""
    path = Path(module.params[name])
    try:
        if path.exists() and path.read_text() == text:
            return False
        if not module.check_mode:
            path.write_text(text)
    except OSError as exc:
        module.fail_json(msg=f"{name} is {str(path)!r}: {exc.strerror}.")
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "proof": {"type": "path", "required": True},
            "title": {"type": "str", "default": "What clients saw"},
            "marks": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "time": {"type": "float", "required": True},
                    "kind": {
                        "type": "str",
                        "choices": ["begin", "end", "switch", "drain", "note"],
                        "default": "note",
                    },
                    "host": {"type": "str"},
                    "text": {"type": "str", "default": ""},
                },
            },
            "expected_codes": {"type": "list", "elements": "int", "default": [1001]},
            "html": {"type": "path"},
            "json": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    if options["html"] and IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("matplotlib >= 3.8"), exception=IMPORT_ERROR)
    proof = read(module)
    marks = sorted(options["marks"], key=lambda mark: mark["time"])
    verdict = judge(proof, marks, options["expected_codes"])
    changed = False
    if options["json"]:
        everything = {"title": options["title"], **verdict, "marks": marks, **proof}
        changed |= write(module, "json", json.dumps(everything, indent=1) + "\n")
    if options["html"]:
        changed |= write(module, "html", page(options["title"], proof, marks, verdict))
    module.exit_json(changed=changed, msg=" ".join(verdict["broken"]) or "Every promise was kept.", **verdict)


if __name__ == "__main__":
    main()
