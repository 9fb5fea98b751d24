# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of ws_lock: which run this is, and whether the one that has the lock still runs."""

from __future__ import annotations

import getpass
import multiprocessing
import os
import socket
import typing as t
from dataclasses import asdict

from ansible.plugins.action import ActionBase
from ansible_collections.wsfleet.websockets.plugins.module_utils.fleet_lock import (
    Holder,
    Run,
    is_dead,
    this_run,
)


class ActionModule(ActionBase):  # type: ignore[misc] # Ansible's classes are untyped
    """Take or give up the lock on one host."""

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run the module, once more when the lock is that of a run that was killed."""
        super().run(tmp, task_vars)
        run = _run()
        result, holder = self._call(task_vars, run)
        taking = self._task.args.get("state", "present") == "present"
        taken_over = None
        if taking and holder and is_dead(holder.run):
            taken_over = holder
            result, holder = self._call(task_vars, run, instead_of=taken_over.run.id)
            result = {"msg": f"Took over from a run that was killed: {taken_over}"} | result
        # In check mode, the dead one is still there.
        if taking and holder and holder.run.id != run.id and holder != taken_over:
            taken_over = None
            result |= self._refuse(holder)
        return result | {
            "holder": holder.facts if holder else None,
            "taken_over": taken_over.facts if taken_over else None,
        }

    def _call(
        self, task_vars: dict[str, t.Any] | None, run: Run, instead_of: str = ""
    ) -> tuple[dict[str, t.Any], Holder | None]:
        arguments = self._task.args | {"run": asdict(run), "instead_of": instead_of}
        result: dict[str, t.Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        holder = result.get("holder")
        return result, Holder.read(holder) if holder else None

    def _refuse(self, holder: Holder) -> dict[str, t.Any]:
        app = self._task.args["app"]
        problem = (
            f"{app} is locked on this host by {holder}; if that run is no more, "
            f"`ansible-playbook wsfleet.websockets.unlock -e ws_app_name={app}` removes the lock"
        )
        return {"warnings": [problem]} if self._task.check_mode else {"failed": True, "msg": problem}


def _run() -> Run:
    """The run that this task is part of: tasks are forked from ansible-playbook."""
    parent = multiprocessing.parent_process()
    pid = parent.pid if parent and parent.pid else os.getpid()
    hostname = socket.gethostname()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number only
        user = str(os.getuid())
    return this_run(pid, f"{user}@{hostname}", hostname)
