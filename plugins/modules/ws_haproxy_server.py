#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a server out of a running HAProxy's balancing, or put it back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_haproxy_server
short_description: Take a server out of a running HAProxy's balancing, or put it back
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - Sets the administrative state of a server of a backend through HAProxy's runtime API, and waits, if asked to, until
    it has taken effect.
  - The state lasts until HAProxy is reloaded or restarted, unless its configuration keeps it
    (C(load-server-state-from-file)).
  - Where HAProxy doesn't run, the module warns and changes nothing, so that a drain goes on while an edge is down.
  - It warns, too, when it takes out the last server that is up. HAProxy gives new sessions to the backend's backup
    servers then, whose sessions aren't counted, or refuses them.
attributes:
  check_mode:
    support: full
    description: Says what would change and doesn't wait.
  diff_mode:
    support: full
    description: Shows the state before and after.
options:
  backend:
    description: Name of the backend in HAProxy's configuration.
    type: str
    required: true
  server:
    description: Name of the server in the backend.
    type: str
    required: true
  state:
    description:
      - V(ready) balances to it again.
      - V(drain) gives it no new sessions while another server is left, lets those that it has go on, and goes on
        with checks.
      - V(maint) does that without checks.
    type: str
    choices: [ready, drain, maint]
    required: true
  socket:
    description: Path of HAProxy's stats socket, which has C(level admin).
    type: path
    default: /run/haproxy/admin.sock
  wait_seconds:
    description:
      - Seconds to wait at most, after V(drain) and V(maint) until the server has no sessions any more, after V(ready)
        until it is up and a check of it has passed. Then it is an error, and the state stays set.
      - V(0) doesn't wait.
    type: int
    default: 0
  missing_ok:
    description:
      - Whether it is fine that HAProxy has no such backend or server, which is then left as it is, as before the
        first configuration that has it.
    type: bool
    default: false
notes:
  - Needs a user who may write to O(socket), which is root by default.
  - Sessions of processes that HAProxy has left behind at a reload aren't counted.
"""

EXAMPLES = r"""
- name: Give the server no new connections on each edge
  wsfleet.websockets.ws_haproxy_server:
    backend: chat
    server: web1
    state: drain
    wait_seconds: 60
  delegate_to: "{{ item }}"
  loop: "{{ groups['ws_edges'] }}"

- name: Put it back, and wait until it passes its checks
  wsfleet.websockets.ws_haproxy_server:
    backend: chat
    server: web1
    state: ready
    wait_seconds: 10
"""

RETURN = r"""
running:
  description: Whether HAProxy runs.
  type: bool
  returned: always
known:
  description: Whether HAProxy has the server. When it doesn't, there are no more values than this one and RV(running).
  type: bool
  returned: when HAProxy runs
before:
  description: State of the server before, V(ready), V(drain) or V(maint).
  type: str
  returned: when HAProxy has the server
  sample: ready
state:
  description: State of the server now, or in check mode as it would be.
  type: str
  returned: when HAProxy has the server
  sample: drain
sessions:
  description: Sessions that the server has now.
  type: int
  returned: when HAProxy has the server
  sample: 4711
up:
  description: Whether HAProxy takes the server to be up now.
  type: bool
  returned: when HAProxy has the server
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.haproxy import (
    SOCKET,
    HaproxyError,
    NotRunningError,
    Runtime,
    Server,
    UnknownError,
)

INTERVAL = 0.5  # seconds between looks at a server


def settle(runtime: Runtime, backend: str, server: str, seconds: int) -> Server:
    """Return the server when its state has taken effect, or as it is when the time has passed."""
    end = time.monotonic() + seconds
    while not (seen := runtime.server(backend, server)).is_done() and time.monotonic() < end:
        time.sleep(INTERVAL)
    return seen


def is_last(runtime: Runtime, backend: str, name: str) -> bool:
    """Whether no other server takes new sessions."""
    others = (server for server in runtime.servers(backend).values() if server.name != name)
    return not any(server.up and server.admin == "ready" for server in others)


def problem(server: Server, state: str, title: str, seconds: int) -> str | None:
    """Return what keeps the state that was set from taking effect, as a sentence, or None."""
    if state == "ready" and server.admin != state:
        return f"HAProxy keeps {title} in {server.admin}: a server that it tracks is, or its name has no address."
    if not seconds or server.is_done():
        return None
    if state == "ready":
        return f"HAProxy doesn't find {title} up after {seconds} s."
    return f"{title} stays in {server.admin}, but after {seconds} s it still has sessions: {server.sessions}."


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "backend": {"type": "str", "required": True},
            "server": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["ready", "drain", "maint"], "required": True},
            "socket": {"type": "path", "default": SOCKET},
            "wait_seconds": {"type": "int", "default": 0},
            "missing_ok": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    backend, name, state = (module.params[option] for option in ("backend", "server", "state"))
    seconds, title = module.params["wait_seconds"], f"{backend}/{name}"
    runtime = Runtime(module.params["socket"])
    try:
        before = server = runtime.server(backend, name)
        if state != "ready" and before.admin != state and is_last(runtime, backend, name):
            module.warn(
                f"No other server of {backend} is up: new clients get its backup servers, or are refused."
            )
        if not module.check_mode:
            if before.admin != state:
                runtime.set_state(backend, name, state)
            server = settle(runtime, backend, name, seconds)
    except NotRunningError:
        # What it was told is forgotten if it has ended meanwhile.
        module.warn(f"HAProxy doesn't run here; when it does, its checks tell it about {name}.")
        module.exit_json(changed=False, running=False)
    except HaproxyError as error:
        if isinstance(error, UnknownError) and module.params["missing_ok"]:
            module.exit_json(changed=False, running=True, known=False)
        module.fail_json(msg=str(error))
    after = state if module.check_mode else server.admin
    result = {
        "changed": before.admin != after,
        "running": True,
        "known": True,
        "before": before.admin,
        "state": after,
        "sessions": server.sessions,
        "up": server.up,
        "diff": {
            "before_header": title,
            "after_header": title,
            "before": f"{before.admin}\n",
            "after": f"{after}\n",
        },
    }
    if not module.check_mode and (sentence := problem(server, state, title, seconds)):
        module.fail_json(msg=sentence, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
