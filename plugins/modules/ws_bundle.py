#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_bundle
short_description: Collect on the controller what a release of an app is made of
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - Runs on the controller. Takes a snapshot of an app's source and its lock into a cache there, and makes one tar
    file per kind of host with the app's files and every wheel, which M(wsfleet.websockets.ws_release) installs
    without network.
  - The id of the release depends on nothing but content, which is the files or the commit, the lock and the bundled
    runner. It is the same for all hosts, and in all later runs until something is changed.
  - What is in the cache isn't made again, so that a second run needs no network, except to ask a git repository for
    its branch or tag. What wasn't used for 90 days is removed. Several runs may share a cache.
  - A folder or git source that is a Python package, with C(setup.py) or with C([build-system]) in its
    C(pyproject.toml), is built into a wheel once. The files of every folder and git source are shipped as well.
attributes:
  check_mode:
    support: full
    description: Fills the cache as well, so that a missing wheel shows. It is no part of any host.
  diff_mode:
    support: none
    description: Nothing on a host changes.
options:
  source:
    description:
      - What the app is made of; exactly one of O(source) and O(id) is required.
      - A folder, written with a C(/), such as C(./chat). Version control, caches, virtual environments, C(.env) and
        C(*.egg-info) are left out.
      - C(git+URL), a git repository.
      - A wheel, C(dist/chat-1.2-py3-none-any.whl).
      - A Python requirement such as C(chat==1.2), which O(requirements) must have.
    type: str
  id:
    description: Id of a snapshot taken before, to make bundles of it.
    type: str
  version:
    description:
      - Branch, tag or commit of a git source, whose default branch is the default.
      - For other sources only the beginning of the release's id, instead of the project's version.
    type: str
    default: ""
  requirements:
    description:
      - Lock file with the app's dependencies, each pinned and with hashes, as C(uv pip compile --universal
        --generate-hashes) or C(pip-compile --generate-hashes) write it.
      - The default is C(requirements.txt) of a folder or git source, where a relative path is looked up first, too.
    type: str
    default: ""
  runner:
    description:
      - Folder of the bundled runner, which is added unless the source or the lock has it.
      - Packages that the runner's lock has and the app's doesn't are added as well.
    type: path
  base:
    description: Folders on the controller in which relative paths are looked up. The first that has it wins.
    type: list
    elements: path
    default: [.]
  targets:
    description:
      - Kinds of hosts to make bundles for, as C(python.target) that M(wsfleet.websockets.ws_release) returns.
      - Their wheels are chosen by version of Python, processor architecture and version of glibc.
    type: list
    elements: str
    default: []
  wheelhouse:
    description: Whether the bundles hold the dependencies. When V(false), the host installs them from an index.
    type: bool
    default: true
  index_url:
    description: Package index. The default is what the controller's pip is configured for, or PyPI.
    type: str
  ca_bundle:
    description: File on the controller with the certificates that the index is verified with.
    type: path
  cache:
    description: Folder of the cache.
    type: path
    required: true
seealso:
  - module: wsfleet.websockets.ws_release
"""

EXAMPLES = r"""
- name: Take a snapshot of the app and make what Debian 12 hosts need
  wsfleet.websockets.ws_bundle:
    source: git+https://git.example.org/chat.git
    version: v1.2
    targets:
      - 3.11.2-x86_64-2.36
    cache: "{{ lookup('ansible.builtin.config', 'ANSIBLE_HOME') }}/wsfleet"
  delegate_to: localhost
  run_once: true
  register: chat

- name: Ship it
  ansible.builtin.copy:
    src: "{{ chat.bundles['3.11.2-x86_64-2.36'] }}"
    dest: /root/chat.tar
    mode: "0600"
"""

RETURN = r"""
id:
  description: Id of the release, the version and the beginning of a digest of its content.
  returned: success
  type: str
  sample: v1.2-0d5a3e7c91fb
version:
  description: Version of the app, empty when it isn't known.
  returned: success
  type: str
source:
  description: The source, without passwords; for git with the commit.
  returned: success
  type: str
bundles:
  description: Path of the tar file for each of O(targets).
  returned: success
  type: dict
  sample:
    3.11.2-x86_64-2.36: /home/me/.ansible/wsfleet/bundles/v1.2-0d5a3e7c91fb/3.11.2-x86_64-2.36.tar
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.wsfleet.websockets.plugins.module_utils.bundle import Cache
from ansible_collections.wsfleet.websockets.plugins.module_utils.lock import (
    HAS_PACKAGING,
    Target,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str"},
            "id": {"type": "str"},
            "version": {"type": "str", "default": ""},
            "requirements": {"type": "str", "default": ""},
            "runner": {"type": "path"},
            "base": {"type": "list", "elements": "path", "default": ["."]},
            "targets": {"type": "list", "elements": "str", "default": []},
            "wheelhouse": {"type": "bool", "default": True},
            "index_url": {"type": "str"},
            "ca_bundle": {"type": "path"},
            "cache": {"type": "path", "required": True},
        },
        mutually_exclusive=[("source", "id")],
        required_one_of=[("source", "id")],
        supports_check_mode=True,
    )
    if not HAS_PACKAGING:
        module.fail_json(msg=missing_required_lib("packaging"))
    given = module.params
    index = ["--index-url", given["index_url"]] if given["index_url"] else []
    index += ["--cert", given["ca_bundle"]] if given["ca_bundle"] else []
    cache = Cache(Path(given["cache"]).absolute(), index)
    try:
        with cache.locked():
            if given["id"]:
                snapshot = cache.snapshot(given["id"])
            else:
                snapshot = cache.resolve(
                    given["source"],
                    given["version"],
                    given["requirements"],
                    Path(given["runner"]).absolute() if given["runner"] else None,
                    [Path(folder).absolute() for folder in given["base"]],
                )
            bundles = {
                target: str(cache.bundle(snapshot, Target(target), given["wheelhouse"]))
                for target in given["targets"]
            }
    except (StepError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, bundles=bundles, **snapshot.facts)


if __name__ == "__main__":
    main()
