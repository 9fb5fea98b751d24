# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of ws_rollout: shows what the module is doing while it runs."""

from __future__ import annotations

import contextlib
import shlex
import threading
import typing as t

from ansible.plugins.action import ActionBase
from ansible.plugins.connection import ConnectionBase
from ansible.plugins.loader import connection_loader
from ansible.utils.display import Display
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout

INTERVAL = 2.0  # seconds; a run that has nothing to do is over before


class ActionModule(ActionBase):  # type: ignore[misc] # Ansible's classes are untyped
    """Run the module, and follow it."""

    _supports_async = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Return what the module returns."""
        super().run(tmp, task_vars)
        in_background = bool(self._task.async_val) and not self._connection.has_native_async
        if in_background or self._task.check_mode:
            return self._module(task_vars, in_background)
        follower = Follower(self._second_connection(), self._task.args.get("app", ""), _host(task_vars))
        with follower.following():
            return self._module(task_vars)

    def _module(self, task_vars: dict[str, t.Any] | None, in_background: bool = False) -> dict[str, t.Any]:
        result: dict[str, t.Any] = self._execute_module(task_vars=task_vars, wrap_async=in_background)
        return result

    def _second_connection(self) -> ConnectionBase:
        """Another one to the same host, as the first is busy."""
        connection = connection_loader.get(self._connection.ansible_name, self._play_context)
        connection.set_options(direct=self._connection.get_options())
        return connection


class Follower:
    """Shows the lines that the module adds to its file, in a thread beside it."""

    def __init__(self, connection: ConnectionBase, app: str, host: str) -> None:
        self._connection = connection
        self._command = shlex.join(["cat", str(Layout(app, "/").progress)])
        self._host = host
        self._over = threading.Event()
        self._shown = ""

    @contextlib.contextmanager
    def following(self) -> t.Iterator[None]:
        thread = threading.Thread(target=self._follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _follow(self) -> None:
        # Whatever goes wrong here must not end a rollout that goes well.
        with contextlib.suppress(Exception):
            while not self._over.wait(INTERVAL):
                self.look()
            if self._shown:
                self.look()
            self._connection.close()

    def look(self) -> None:
        """Show the lines that are new."""
        # Everyone may read the file, so this needs no become.
        status, text, _errors = self._connection.exec_command(self._command, sudoable=False)
        if status:
            return
        lines = text.decode(errors="replace")
        news = lines.removeprefix(self._shown)
        for line in news.splitlines():
            Display().display(f"  {self._host}: {line}")
        self._shown = lines


def _host(task_vars: dict[str, t.Any] | None) -> str:
    return str((task_vars or {}).get("inventory_hostname", ""))
