#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_rollout
short_description: Move the slots of a websockets app to a release and its settings
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - Runs one server process per slot under the host's supervisord, each on its own unix socket, and keeps the
    stable path of every slot, C(/run/APP/APP_NN.sock), pointed at the process that serves it.
  - A release with its settings is a generation. When the wanted one isn't the one that serves, all its
    processes are started first; when every one of them is healthy, each slot's symlink is renamed over to the
    new process, and the old processes get SIGTERM and drain. A proxy in front notices nothing and needs no reload.
  - Where the command is the runner with C(--handover), the open connections move to the new processes, and their
    clients notice nothing; what can't move drains.
  - When a new process doesn't become healthy, the new generation is removed, the old one still serves, and the
    message holds the last lines of the process's log. With O(canary_seconds) and O(watch_seconds), a process that
    fails later has the slots go back too, and the new processes drain.
  - SIGTERM, SIGINT and SIGHUP end a rollout before the first slot is switched, and put all back. Later ones don't; the
    rollout is finished. A run that was killed in the middle is finished by the next one, or undone where that asks
    for the settings that served before.
  - While it runs, it shows how far it is, line by line, and the connections and time left when it waits.
  - Processes that outlived their supervisord are found and told to stop when the processes of the new one serve.
  - An app on TCP ports (O(port)) has no such paths. Its processes are stopped and started slot after slot, which
    the module says in a warning.
attributes:
  action:
    support: full
    description: Shows the progress.
  async:
    support: full
    description: In the background, no progress is shown.
  check_mode:
    support: full
    description: Says what would be moved and changes nothing.
  diff_mode:
    support: full
    description: Shows the generation and release of each slot, before and after, and the forecast.
options:
  app:
    description: Name of the app, the prefix of its processes and sockets.
    type: str
    required: true
  state:
    description:
      - V(present) moves the slots as needed.
      - V(restarted) moves them to new processes of the same release and settings too.
      - V(absent) stops every process of the app, waits until they have drained, and removes all but releases and logs.
    type: str
    choices: [present, restarted, absent]
    default: present
  path:
    description: Folder of the app's releases and generations. The default is C(/opt/APP).
    type: path
  release:
    description:
      - Folder of the release to run. A symlink is followed. Required unless O(state=absent).
      - When it is in C(releases) of O(path), C(current) in O(path) points at it after a successful rollout.
    type: path
  command:
    description:
      - Shell words that become the server process. They see C(SUPERVISOR_PROCESS_NAME) (C(APP_NN)) and the
        environment below, with the C(bin) folder of the release's C(venv) first in C(PATH).
      - The working directory is where the process must bind C($SUPERVISOR_PROCESS_NAME.sock), unless O(port) is set.
      - Required unless O(state=absent).
    type: str
  processes:
    description: Number of slots.
    type: int
    default: 1
  port:
    description:
      - First TCP port, for apps that can't bind a unix socket.
      - Slot NN gets C(HOST) (127.0.0.1) and C(PORT) (this number + NN) in its environment.
      - V(0) means unix sockets.
    type: int
    default: 0
  user:
    description: User that runs the processes. The default is C(ws-APP).
    type: str
  socket_group:
    description: Group that may connect to the sockets, that is, the proxy's.
    type: str
    default: www-data
  environment:
    description: Environment variables of the processes.
    type: dict
    default: {}
  secrets:
    description: More environment variables, never shown.
    type: dict
    default: {}
  stop_seconds:
    description: Seconds that a process may take to drain and exit after SIGTERM, before it is killed.
    type: int
    default: 50
  health_path:
    description:
      - A process is healthy when GET of this path answers 200.
      - When empty, it is healthy when it answers an opening handshake on C(/) with 101 or any status below 500.
    type: str
    default: ""
  health_timeout:
    description: Seconds that new processes may take to become healthy.
    type: int
    default: 30
  canary_seconds:
    description:
      - Seconds for which slot 00 is served by its new process alone before the other slots are switched.
      - When a new process dies, restarts or becomes unhealthy in that time, all slots go back to the processes that
        served before, the new ones drain, and the module fails.
    type: int
    default: 0
  watch_seconds:
    description:
      - Seconds for which the old processes are kept after the last slot was switched, so that the slots can go back, as
        with O(canary_seconds). Where nothing served before, a failure is only reported.
      - An app on TCP ports has no old processes to keep; they are started again.
    type: int
    default: 0
  max_generations:
    description:
      - Number of generations that may have processes at once, the new one included, 2 or more.
      - When there are as many, the rollout waits until the oldest that drains has ended.
    type: int
    default: 3
  memory_check:
    description:
      - Whether to refuse a rollout whose new processes don't fit into memory beside the old ones, before anything is
        touched. RV(forecast) has the figures.
    type: bool
    default: true
  drain:
    description:
      - Whether the old processes are told to drain.
      - With V(false) they go on until a run with V(true), so that something else can be done in between.
    type: bool
    default: true
  close_connections:
    description:
      - Whether to close the open connections also where they could move to the new processes, so that clients connect
        anew, perhaps elsewhere.
    type: bool
    default: false
  wait:
    description: Whether to wait until the old processes have drained, orphans included.
    type: bool
    default: false
notes:
  - Needs root, Debian's C(supervisor) package with its C(/etc/supervisor/conf.d) and systemd-tmpfiles.
"""

EXAMPLES = r"""
- name: Run four processes of the release
  wsfleet.websockets.ws_rollout:
    app: chat
    release: /opt/chat/current
    command: python $WS_RELEASE/app/server.py
    processes: 4
    environment:
      LOG_LEVEL: info
    secrets:
      DATABASE_URL: "{{ chat_database_url }}"

- name: Replace the processes by new ones, because a file that they read at start has changed
  wsfleet.websockets.ws_rollout:
    app: chat
    release: /opt/chat/current
    command: python $WS_RELEASE/app/server.py
    processes: 4
    state: restarted

- name: Stop and forget them
  wsfleet.websockets.ws_rollout:
    app: chat
    state: absent
"""

RETURN = r"""
began:
  description: When the rollout began, in Unix time of the host.
  returned: unless O(state=absent)
  type: float
ended:
  description: When it ended, in Unix time of the host.
  returned: unless O(state=absent)
  type: float
generation:
  description: Number of the generation that serves.
  returned: unless O(state=absent)
  type: int
moved:
  description: Time line of each slot that was (or, in check mode, would be) moved.
  returned: unless O(state=absent)
  type: list
  elements: dict
  contains:
    slot:
      description: Number of the slot.
      type: int
    from_generation:
      description: Generation that served before, null when none did.
      type: int
    to_generation:
      description: Generation that serves now.
      type: int
    started:
      description: Seconds from the beginning of the rollout to the start of the new process.
      type: float
    healthy:
      description: Seconds until it was healthy.
      type: float
    switched:
      description: Seconds until it got the slot's new handshakes.
      type: float
started:
  description: Slots whose process had stopped and was (or would be) started again.
  returned: unless O(state=absent)
  type: list
  elements: int
retired:
  description: Slots that were (or would be) given up.
  returned: unless O(state=absent)
  type: list
  elements: int
forecast:
  description: What the move costs (or, in check mode, would cost), as it was before it began.
  returned: unless O(state=absent)
  type: dict
  contains:
    connections:
      description: Open connections of the processes that leave and that are closed.
      type: int
    moving:
      description: Open connections that go on in the new processes, as far as they become quiet in time.
      type: int
    drain_seconds:
      description:
        - Seconds until the last of them is closed, at the pace C(WS_DRAIN_SECONDS) and C(WS_DRAIN_RATE) of the
          generation that leaves, or its O(stop_seconds) where it doesn't use the runner.
      type: float
    memory_needed_bytes:
      description:
        - What the new processes take beside the old ones, reckoned as what these use now (proportional set size), and
          30 MiB at least for each.
      type: int
    memory_available_bytes:
      description: C(MemAvailable) of the host.
      type: int
    fits:
      description: Whether the memory suffices.
      type: bool
  sample:
    connections: 1200
    moving: 0
    drain_seconds: 12.0
    memory_needed_bytes: 419430400
    memory_available_bytes: 1717986918
    fits: true
handover:
  description: What moved to the new process of each slot, by the slot's number.
  returned: unless O(state=absent)
  type: dict
  sample:
    "0":
      moved: 412
      stayed: 3
      seconds: 0.6
      pause_p50_ms: 4.1
      pause_p99_ms: 12.3
      pause_max_ms: 15.0
draining:
  description:
    - Processes that no longer serve and haven't exited yet, as supervisord names them; of orphans, that is, processes
      that outlived their supervisord, the pid too.
  returned: unless O(state=absent)
  type: list
  elements: str
  sample: [echo_00-g3:echo_00, "echo_01-g3:echo_01 (orphan, pid 812)"]
"""

import contextlib
import fcntl
import os
import re
import signal
import time
import typing as t
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import (
    Layout,
    Settings,
    environment_problems,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.progress import reported
from ansible_collections.wsfleet.websockets.plugins.module_utils.rollout import (
    Rollout,
    RolloutError,
    Timeline,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    Supervisor,
    SupervisorError,
)

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "app": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "restarted", "absent"], "default": "present"},
    "path": {"type": "path"},
    "release": {"type": "path"},
    "command": {"type": "str"},
    "processes": {"type": "int", "default": 1},
    "port": {"type": "int", "default": 0},
    "user": {"type": "str"},
    "socket_group": {"type": "str", "default": "www-data"},
    "environment": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "stop_seconds": {"type": "int", "default": 50},
    "health_path": {"type": "str", "default": ""},
    "health_timeout": {"type": "int", "default": 30},
    "canary_seconds": {"type": "int", "default": 0},
    "watch_seconds": {"type": "int", "default": 0},
    "max_generations": {"type": "int", "default": 3},
    "memory_check": {"type": "bool", "default": True},
    "drain": {"type": "bool", "default": True},
    "close_connections": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": False},
}

PATIENCE = 60  # seconds to wait for another rollout on this host
LEAST = {"processes": 1, "canary_seconds": 0, "watch_seconds": 0, "max_generations": 2}


def _strings(variables: dict[str, t.Any]) -> dict[str, str]:
    return {name: str(value) for name, value in variables.items()}


def _rollout(module: AnsibleModule) -> Rollout:
    options = module.params
    app = options["app"]
    settings = Settings(
        release=str(Path(options["release"] or "/").resolve()),
        command=options["command"] or "",
        user=options["user"] or f"ws-{app}",
        socket_group=options["socket_group"],
        environment=_strings(options["environment"]),
        secrets=_strings(options["secrets"]),
        port=options["port"],
        stop_seconds=options["stop_seconds"],
    )
    return Rollout(
        layout=Layout(app, options["path"] or f"/opt/{app}"),
        settings=settings,
        processes=options["processes"],
        supervisor=Supervisor.of_host(),
        health_path=options["health_path"],
        health_timeout=options["health_timeout"],
        restart=options["state"] == "restarted",
        canary_seconds=options["canary_seconds"],
        watch_seconds=options["watch_seconds"],
        max_generations=options["max_generations"],
        memory_check=options["memory_check"],
        close_connections=options["close_connections"],
    )


def _refuse_bad_input(module: AnsibleModule) -> None:
    options = module.params
    for name, least in LEAST.items():
        if options[name] < least:
            module.fail_json(msg=f"{name} is {options[name]}, allowed is {least} or more")
    for name in ("environment", "secrets"):
        if bad := environment_problems(options[name]):
            module.fail_json(
                msg=f"{name} has the key {bad[0]!r}, allowed are letters, digits and underscores"
            )
    release = Path(options["release"])
    if not module.check_mode and not release.is_dir():
        module.fail_json(msg=f"release is {release}, which isn't a folder on this host")


def _present(module: AnsibleModule, rollout: Rollout) -> dict[str, t.Any]:
    _refuse_bad_input(module)
    layout = rollout.layout
    plan = rollout.plan()
    forecast = rollout.forecast(plan)
    before = rollout.describe(plan.serving)
    draining: list[str] = []
    began = time.time()
    if module.check_mode:
        moved = [Timeline(slot, plan.serving.get(slot), plan.generation) for slot in plan.move]
    else:
        moved = rollout.execute(plan)
        draining = rollout.settle(plan, module.params["wait"], module.params["drain"])
        for warning in rollout.warnings:
            module.warn(warning)
    return {
        "began": began,
        "ended": time.time(),
        "changed": plan.changes,
        "generation": plan.generation,
        "moved": [asdict(timeline) for timeline in moved],
        "started": plan.start,
        "retired": plan.retire,
        "forecast": asdict(forecast),
        "handover": rollout.handovers,
        "draining": draining,
        "diff": {
            "before_header": f"{layout.app} slots",
            "after_header": f"{layout.app} slots",
            "before": before,
            "after": rollout.describe(dict.fromkeys(range(rollout.processes), plan.generation))
            + (f"{forecast}\n" if plan.changes else ""),
        },
    }


def _absent(module: AnsibleModule, rollout: Rollout) -> dict[str, t.Any]:
    before = rollout.describe(rollout.layout.serving())
    if module.check_mode:
        layout = rollout.layout
        changed = bool(before) or layout.generations.exists() or layout.run.exists()
    else:
        changed = rollout.remove()
        for file in (rollout.layout.progress, rollout.layout.lock):
            file.unlink(missing_ok=True)
    return {"changed": changed, "diff": {"before": before, "after": ""}}


@contextlib.contextmanager
def _alone(layout: Layout) -> t.Iterator[None]:
    """Keep other rollouts of the app on this host out: one whose controller was killed may still be at work."""
    with layout.lock.open("a") as file:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RolloutError(f"another rollout of {layout.app} is at work on this host") from None
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")  # for people
        file.flush()
        yield


def _listen_to_signals(rollout: Rollout) -> None:
    """Have the rollout decide what a signal ends. SIGHUP comes when the connection to the controller is lost."""

    def interrupt(number: int, _frame: object) -> None:
        rollout.interrupted = signal.Signals(number).name

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupt)


def main() -> None:
    module = AnsibleModule(
        ARGUMENTS,
        required_if=[("state", state, ("release", "command")) for state in ("present", "restarted")],
        supports_check_mode=True,
    )
    app = module.params["app"]
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,23}", app):  # it is part of every path, also of what is removed
        module.fail_json(
            msg=f"app is {app!r}, allowed is 1 to 24 lower-case letters, digits and underscores, a letter first"
        )
    bring = _absent if module.params["state"] == "absent" else _present
    try:
        rollout = _rollout(module)
        layout = rollout.layout
        if layout.run.exists() and not layout.generations.exists():
            module.fail_json(
                msg=f"app is {app!r}, but {layout.run} belongs to something else; take another name"
            )
        _listen_to_signals(rollout)
        with contextlib.ExitStack() as stack:
            if not module.check_mode:
                stack.enter_context(_alone(layout))
                rollout.say = stack.enter_context(reported(layout.progress))
            result = bring(module, rollout)
    except (RolloutError, SupervisorError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"The rollout of {module.params['app']} failed: {error}; what served still serves, "
            "and the next run finishes the rest"
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
