#!/usr/bin/python
# Copyright: the wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace configuration files together, when the whole of them is valid."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_config
short_description: Replace configuration files together, when the whole of them is valid
version_added: 0.1.0
description:
  - Writes a set of files under a folder such as V(/etc/nginx). The folder is copied, the changes are made in
    the copy, a validator runs on the copy, and only when it accepts them the live files are replaced, each in
    one step. Without a validator, they are replaced at once.
  - When the validator refuses, nothing live has changed and the message is the validator's own.
  - Folders of theirs that are missing are made (V(0755)), and removed with the last file if they are empty then.
  - What the files replace is kept under V(/var/lib/wsfleet/original). A file that is no longer in the set gets
    its original back, or is removed when there was none, validated in the same way; with O(files=[]) the whole
    set does.
  - Several sets may share a folder, and a file in it. An original returns when the last set that holds its file
    lets go; until then the file has the content that was written last.
author:
  - The wsfleet maintainers (@wsfleet)
options:
  root:
    description: Absolute path of the folder that is validated as a whole. It exists.
    type: path
    required: true
  name:
    description: Name of the set, unique under O(root), for example that of the app it belongs to.
    type: str
    required: true
  files:
    description: The whole set. What an earlier run of the same O(name) had and this one doesn't is given back.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Path relative to O(root).
        type: str
        required: true
      content:
        description: Text of the file. Required when O(files[].state=present).
        type: str
      mode:
        description: Permissions as an octal string.
        type: str
        default: "0644"
      state:
        description: Whether the file is there. V(absent) also takes a symlink away.
        type: str
        choices: [present, absent]
        default: present
  validate:
    description:
      - Command and arguments, without a shell. V({stage}) stands for the path of the copy of O(root).
      - Absolute references to O(root) inside the copied files are made to point into the copy.
      - In check mode it runs too, unless O(root), the command or one of O(needs) doesn't exist yet.
      - Empty for files that nothing can validate.
    type: list
    elements: str
    default: []
  refuse:
    description: Regular expressions. Output that matches one is a failure, for validators that only warn.
    type: list
    elements: str
    default: []
  needs:
    description:
      - Absolute paths of files outside O(root) that the configuration reads, such as certificates.
      - It is an error when one is missing, except in check mode, where an earlier task would have made it.
    type: list
    elements: path
    default: []
  reads:
    description: Those of O(needs) that the program reads only when it is started or reloaded. By default, all.
    type: list
    elements: path
  pid_file:
    description:
      - PID file of the program that reads the configuration.
      - When it runs, and one of the files, or one of O(reads), is newer than the newest of its processes, then the task
        is changed although the files aren't, so that a reload that a run was killed before is caught up on.
    type: path
attributes:
  check_mode:
    description: Says what would change and validates it; changes nothing.
    support: full
  diff_mode:
    description: Shows each file before and after.
    support: full
"""

EXAMPLES = r"""
- name: Configure nginx for an app
  wsfleet.websockets.ws_config:
    root: /etc/nginx
    name: echo
    files:
      - path: conf.d/echo.conf
        content: "{{ lookup('ansible.builtin.template', 'echo.conf.j2') }}"
      - path: sites-enabled/default
        state: absent
    validate: [nginx, -t, -q, -c, "{stage}/nginx.conf"]
    needs: [/etc/wsfleet/echo/tls/fullchain.pem]
  notify: Reload nginx

- name: Give nginx its own configuration back
  wsfleet.websockets.ws_config:
    root: /etc/nginx
    name: echo
    files: []
    validate: [nginx, -t, -q, -c, "{stage}/nginx.conf"]
  notify: Reload nginx
"""

RETURN = r"""
unread:
  description: Absolute paths of files that the program of O(pid_file) hadn't read before this task, sorted.
  type: list
  elements: str
  returned: success
  sample: [/etc/wsfleet/echo/tls/fullchain.pem]
files:
  description: Absolute paths of the files that changed, sorted.
  type: list
  elements: str
  returned: success
  sample: [/etc/nginx/conf.d/echo.conf]
others:
  description: Names of the other sets that hold files under O(root), sorted.
  type: list
  elements: str
  returned: success
  sample: [chat]
validated:
  description: Whether a validator ran; not when nothing changes, nor in check mode on a host that lacks it.
  type: bool
  returned: success
"""

import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.config_set import (
    NOTHING,
    Changes,
    ConfigError,
    ConfigSet,
    Node,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import unread


def wanted_nodes(files: list[dict[str, str | None]]) -> dict[str, Node]:
    """Turn the `files` option into path → node; ConfigError for what isn't a file below the root."""
    nodes: dict[str, Node] = {}
    for file in files:
        content, mode, path = file["content"], str(file["mode"]), Path(str(file["path"]))
        if path.is_absolute() or ".." in path.parts or path == Path() or str(path) in nodes:
            raise ConfigError(
                f"files: path is '{path}', but must be relative to root, without `..`, and unique."
            )
        if file["state"] == "absent":
            nodes[str(path)] = NOTHING
            continue
        if content is None:
            raise ConfigError(f"files: {path} has no content, but a file that is present needs one.")
        try:
            nodes[str(path)] = Node.file(content.encode(), int(mode, 8))
        except ValueError:
            raise ConfigError(
                f"files: mode of {path} is {mode!r}, but must be octal, as in '0644'."
            ) from None
    return nodes


def missing(root: Path, command: list[str], needs: list[str]) -> str | None:
    """Return why the configuration can't be validated here, as a sentence, or None."""
    if not root.is_dir():
        return f"{root} doesn't exist."
    if command and shutil.which(command[0]) is None:
        return f"The validator {command[0]} isn't installed."
    for need in needs:
        if not Path(need).exists():
            return f"The configuration needs {need}, which doesn't exist."
    return None


def diff(root: Path, changes: Changes) -> list[dict[str, str]]:
    """The changes as Ansible shows them."""
    return [
        {
            "before_header": f"{root / path} ({before.label()})",
            "after_header": f"{root / path} ({after.label()})",
            "before": before.text(),
            "after": after.text(),
        }
        for path, (before, after) in changes.items()
    ]


def main() -> None:
    """Run as an Ansible module."""
    file_options = {
        "path": {"type": "str", "required": True},
        "content": {"type": "str"},
        "mode": {"type": "str", "default": "0644"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "dict", "required": True, "options": file_options},
            "validate": {"type": "list", "elements": "str", "default": []},
            "refuse": {"type": "list", "elements": "str", "default": []},
            "needs": {"type": "list", "elements": "path", "default": []},
            "reads": {"type": "list", "elements": "path"},
            "pid_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    command: list[str] = module.params["validate"]
    try:
        if not root.is_absolute():
            raise ConfigError(f"root is '{root}', but must be an absolute path.")
        wanted = wanted_nodes(module.params["files"])
        config = ConfigSet(root, module.params["name"])
        changes = config.changes(wanted)
        obstacle = missing(root, command, module.params["needs"])
        reads = module.params["needs"] if module.params["reads"] is None else module.params["reads"]
        paths = [*(root / path for path in wanted), *map(Path, reads)]
        missed = unread(module.params["pid_file"], paths)
        if changes and obstacle and not module.check_mode:
            raise ConfigError(obstacle)
        validated = bool(changes and command) and obstacle is None
        if validated:
            config.validate(changes, command, module.params["refuse"])
        if not module.check_mode:
            config.apply(wanted, changes)
    except ConfigError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(changes or missed),
        diff=diff(root, changes),
        files=[str(root / path) for path in changes],
        unread=missed,
        others=config.others(),
        validated=validated,
    )


if __name__ == "__main__":
    main()
