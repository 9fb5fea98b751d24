#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_release
short_description: Make, activate, list and prune the releases of an app
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - A release is an immutable folder C(releases/ID) of an app, with its own virtual environment, the app's files in
    C(app), the lock of what is installed in C(requirements.txt), and C(release.json), which is written last.
  - A release without C(release.json) is unfinished, the rest of a run that was killed; so is one that was made for
    another version of Python than the host has now. It is never activated, and made again when it is wanted.
  - Everything belongs to root, and the app can't write to it.
attributes:
  check_mode:
    support: full
    description: Says what would change and changes nothing, also on a host where nothing is installed yet.
  diff_mode:
    support: full
    description: Shows the ids of the releases and of the current one, before and after.
options:
  path:
    description: Folder of the app.
    type: path
    required: true
  state:
    description:
      - V(present) makes the release O(id) from O(bundle) unless it is there and finished. When a step fails, nothing
        is left behind.
      - V(active) points the symlink C(current) at the release O(id), in one atomic step.
      - V(absent) removes the release O(id), which must not be current or used by a generation.
      - V(pruned) removes the unfinished releases and all finished ones but the newest O(keep). The current one, those
        that a generation uses and O(id) stay.
      - V(listed) changes nothing.
    type: str
    choices: [present, active, absent, pruned, listed]
    default: present
  id:
    description:
      - Id of the release, as M(wsfleet.websockets.ws_bundle) returns it.
      - Required with O(state=present), O(state=active) and O(state=absent).
    type: str
  bundle:
    description:
      - Tar file on the host with what to install, made by M(wsfleet.websockets.ws_bundle) for this host's Python.
      - Required with O(state=present) when the release has to be made; removed after that.
    type: path
  python:
    description: Python interpreter that the release's virtual environment is made with, 3.11 or newer.
    type: path
    default: /usr/bin/python3
  wheelhouse:
    description:
      - Whether the bundle holds every package. When V(false), they come from O(index_url), with the hashes of the lock.
    type: bool
    default: true
  index_url:
    description: Package index for O(wheelhouse=false). The default is what pip is configured for, or PyPI.
    type: str
  ca_bundle:
    description: File on the host with the certificates that the index is verified with, for O(wheelhouse=false).
    type: path
  keep:
    description: Number of finished releases to keep with O(state=pruned).
    type: int
    default: 5
seealso:
  - module: wsfleet.websockets.ws_bundle
"""

EXAMPLES = r"""
- name: See which releases and which Python the host has
  wsfleet.websockets.ws_release:
    path: /opt/chat
    state: listed
  register: chat

- name: Make a release
  wsfleet.websockets.ws_release:
    path: /opt/chat
    id: v1.2-0d5a3e7c91fb
    bundle: /root/chat.tar

- name: Run it at the next start
  wsfleet.websockets.ws_release:
    path: /opt/chat
    id: v1.2-0d5a3e7c91fb
    state: active

- name: Keep three
  wsfleet.websockets.ws_release:
    path: /opt/chat
    state: pruned
    keep: 3
"""

RETURN = r"""
release:
  description: Folder of the release O(id).
  returned: when O(id) is given
  type: str
  sample: /opt/chat/releases/v1.2-0d5a3e7c91fb
current:
  description: Id of the release that C(current) points at after this task, empty when there is none.
  returned: success
  type: str
available:
  description: Ids of the finished releases after this task.
  returned: success
  type: list
  elements: str
releases:
  description: What was there before this task, newest first, the unfinished last.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Id of the release.
      type: str
    path:
      description: Its folder.
      type: str
    version:
      description: Version of the app, empty when unfinished.
      type: str
    created:
      description: Time it was made at, ISO 8601 in UTC, empty when unfinished.
      type: str
    finished:
      description: Whether it can be activated.
      type: bool
    current:
      description: Whether C(current) points at it.
      type: bool
    in_use:
      description: Whether a generation of processes uses it.
      type: bool
python:
  description: The interpreter O(python).
  returned: success
  type: dict
  contains:
    path:
      description: Path of the interpreter.
      type: str
    version:
      description: Its version.
      type: str
      sample: 3.11.2
    machine:
      description: Processor architecture.
      type: str
      sample: x86_64
    glibc:
      description: Version of the C library.
      type: str
      sample: "2.36"
    target:
      description: The three above in one word, what M(wsfleet.websockets.ws_bundle) takes as a target.
      type: str
      sample: 3.11.2-x86_64-2.36
    venv:
      description: Whether it can make virtual environments; Debian needs C(python3-venv) for that.
      type: bool
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.release import (
    ID,
    Release,
    Releases,
    describe_python,
    prunable,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {
                "type": "str",
                "choices": ["present", "active", "absent", "pruned", "listed"],
                "default": "present",
            },
            "id": {"type": "str"},
            "bundle": {"type": "path"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "wheelhouse": {"type": "bool", "default": True},
            "index_url": {"type": "str"},
            "ca_bundle": {"type": "path"},
            "keep": {"type": "int", "default": 5},
        },
        required_if=[("state", state, ["id"]) for state in ("present", "active", "absent")],
        supports_check_mode=True,
    )
    try:
        result = apply(module.params, module.check_mode)
    except (StepError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


def apply(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Bring the releases to the wanted state, or only say how, and return the module's result."""
    python = describe_python(params["python"])
    releases = Releases(params["path"], python["version"])
    found = releases.listed()
    before = State(found, releases.current())
    after = State(found, releases.current())
    wanted = params["id"] or ""
    state = params["state"]
    if wanted and not ID.fullmatch(wanted):
        raise StepError(f"id is {wanted!r}; it must be letters, digits, '.', '_' and '-'")

    if state == "present" and wanted not in after.finished:
        after.make(wanted)
        if not check_mode:
            make(releases, params)
    elif state == "active":
        if wanted not in after.finished and not check_mode:
            # In check mode it may be the release that would have been made by the task before.
            raise StepError(f"{releases.path(wanted)} can't be activated: {before.flaw(wanted)}")
        after.current = wanted
        if after.current != before.current and not check_mode:
            releases.activate(wanted)
    elif state in ("absent", "pruned"):
        doomed = prunable(found, params["keep"], wanted)
        if state == "absent":
            doomed = [release.id for release in found if release.id == wanted]
            if any(release.id == wanted and (release.current or release.in_use) for release in found):
                raise StepError(f"{releases.path(wanted)} can't be removed: it is current or in use")
        for release_id in doomed:
            after.remove(release_id)
            if not check_mode:
                releases.remove(release_id)

    result = {
        "changed": before.describe() != after.describe(),
        "diff": {"before": before.describe(), "after": after.describe()},
        "current": after.current,
        "available": after.finished,
        "releases": [vars(release) for release in found],
        "python": python,
    }
    return result | ({"release": str(releases.path(wanted))} if wanted else {})


def make(releases: Releases, params: dict[str, Any]) -> None:
    """Make the release that ``params`` describe and remove its bundle."""
    if not params["bundle"]:
        raise StepError(f"{releases.path(params['id'])} has to be made, and bundle isn't given")
    index = ["--no-index"]
    if not params["wheelhouse"]:
        index = ["--index-url", params["index_url"]] if params["index_url"] else []
        index += ["--cert", params["ca_bundle"]] if params["ca_bundle"] else []
    bundle = Path(params["bundle"])
    try:
        releases.make(params["id"], bundle, params["python"], index)
    finally:
        bundle.unlink(missing_ok=True)


class State:
    """What a diff shows: ids of finished and unfinished releases, and the current one."""

    def __init__(self, found: list[Release], current: str) -> None:
        self.finished = [release.id for release in found if release.finished]
        self.unfinished = [release.id for release in found if not release.finished]
        self.current = current

    def make(self, release_id: str) -> None:
        """Add a release."""
        self.remove(release_id)
        self.finished.insert(0, release_id)

    def remove(self, release_id: str) -> None:
        """Remove a release."""
        self.finished = [finished for finished in self.finished if finished != release_id]
        self.unfinished = [unfinished for unfinished in self.unfinished if unfinished != release_id]

    def flaw(self, release_id: str) -> str:
        """Return why a release that isn't finished can't be used."""
        return "it is unfinished" if release_id in self.unfinished else "there is no such release"

    def describe(self) -> dict[str, Any]:
        """Return it in a form that doesn't depend on the order of releases."""
        return {
            "releases": sorted(self.finished),
            "unfinished": sorted(self.unfinished),
            "current": self.current,
        }


if __name__ == "__main__":
    main()
