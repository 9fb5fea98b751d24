# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace a running supervisord by the installed one, and with it the server processes of all apps, without loss.

supervisord can't be replaced in place, and its own stop takes its programs along. Killed, it leaves them running. The
new one starts each anew, which takes over the socket of the old process; that one then gets SIGTERM and drains.
"""

from __future__ import annotations

import configparser
import contextlib
import re
import signal
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils import health
from ansible_collections.wsfleet.websockets.plugins.module_utils.daemon import DaemonError, Host
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import orphans
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import (
    Process,
    Supervisor,
    SupervisorError,
)

UNIT = "supervisor.service"
# Time of the last unpacking of the package, whose Python files a process doesn't hold open.
PACKAGE = "/var/lib/dpkg/info/supervisor.list"
# supervisord kills a program that doesn't stop; what it allows is in each program's settings.
SECONDS_UNTIL_STOPPED = 900


def apps(host: Host) -> list[Layout]:
    """The apps whose programs ws_rollout has given to supervisord."""
    found = {}
    for file in sorted(host.at("/etc/supervisor/conf.d").glob("*.conf")):
        if not re.fullmatch(r"[a-z][a-z0-9_]*_\d+-g\d+", file.stem):
            continue
        parser = configparser.RawConfigParser()
        parser.read_string(file.read_text())
        program = parser[f"program:{file.stem}"]
        run = re.fullmatch(r".*/run/([a-z][a-z0-9_]*)/g\d+", program["directory"])
        start = re.fullmatch(r"(.+)/generations/\d+/start", program["command"])
        if run and start:
            path = "/" + str(Path(start[1]).relative_to(host.root))
            found[run[1]] = Layout(run[1], path, str(host.root))
    return list(found.values())


@dataclass(frozen=True)
class Supervisord:
    """The host's supervisord. `restart_others` allows that programs of others are stopped and started meanwhile."""

    host: Host
    supervisor: Supervisor
    restart_others: bool = False
    timeout: float = 60.0
    problem: t.Callable[[health.Address, str], str] = health.problem

    def is_running(self) -> bool:
        return self._pid() != 0

    def outdated(self) -> list[str]:
        """Why the one that runs isn't the one that is installed."""
        if not (pid := self._pid()):
            return []
        package = self.host.at(PACKAGE)
        started = self.host.now() - self.host.kernel().age(pid)
        reasons = (
            ["its package was replaced"] if package.exists() and package.stat().st_mtime > started else []
        )
        ours = {process.pid for _app, _member, process in self._ours() if process.state == "RUNNING"}
        files = {file for number in {pid, *ours} for file in self.host.replaced_files(number)}
        return reasons + [f"it or its processes run {file}, which was replaced" for file in sorted(files)]

    def is_half_replaced(self) -> bool:
        """Whether there are old processes that nobody has told to drain."""
        return self._orphans() != []

    def draining(self) -> list[str]:
        """The server processes that outlived the supervisord that started them."""
        kernel, pid = self.host.kernel(), self._pid()
        return [
            f"{app.process(member)} (pid {orphan})"
            for app in apps(self.host)
            for orphan, member in orphans(kernel, app, pid).items()
        ]

    def refuse(self) -> None:
        """Say what stands in the way."""
        mode = self.host.run(
            "asking systemd", ["systemctl", "show", UNIT, "--property=KillMode", "--value"]
        ).strip()
        if mode not in ("process", "none"):
            raise DaemonError(
                f"KillMode of {UNIT} is {mode}, so the end of supervisord would be the end of its programs at once; "
                "allowed are process, as in Debian's unit, and none"
            )
        others = [_name(process) for process in self._others()]
        if others and not self.restart_others:
            raise DaemonError(
                f"supervisord also runs {', '.join(others)}, which would have to be restarted with it; "
                "with restart_others: true they are"
            )

    def replace(self) -> None:
        """Have the installed supervisord run everything."""
        others = self._stop_others()
        self._note_those_that_drain()
        old = self._pid()
        self.host.tell(old, signal.SIGKILL)
        self._start(old)
        started = {_name(process) for process in self._others()}
        for process in others:
            if _name(process) not in started:  # it has no autostart
                self.supervisor.start(_name(process))
        self._let_go()

    def finish(self) -> None:
        """Do what a run that was killed has left to do."""
        self._start(0)
        self._let_go()

    def _let_go(self) -> None:
        """Tell each old process to drain, once the new one of its slot is healthy."""
        for app, member, pid in self._orphans():
            generation = app.read_generations().get(member.generation)
            port = generation.port if generation else 0
            if port:  # the new one can't have it before
                self._tell(app, pid)
            self._wait_until_healthy(app, member, port)
            self._tell(app, pid)

    def _wait_until_healthy(self, app: Layout, member: Member, port: int) -> None:
        address, reason = app.address(member, port), ""

        def healthy() -> bool:
            nonlocal reason
            new = next(new for owner, known, new in self._ours() if (owner.app, known) == (app.app, member))
            if new.state != "RUNNING":
                reason = new.problem or f"it is {new.state}"
            elif not port and not self.host.kernel().listens(new.pid, address):  # the old one would answer
                reason = f"it doesn't listen on {address}"
            else:
                reason = self.problem(address, "")
            return not reason

        if not self.host.wait(self.timeout, healthy):
            raise DaemonError(
                f"supervisord was replaced, but the new {app.process(member)} wasn't healthy within "
                f"{self.timeout:g} s ({reason}), so its old process wasn't told to stop"
            )

    def _tell(self, app: Layout, pid: int) -> None:
        """Send one SIGTERM: a second one would cut the drain short."""
        ticks = self.host.kernel().start_ticks(pid)
        if ticks and not app.told(pid, ticks):
            app.note_told(pid, ticks)
            self.host.tell(pid, signal.SIGTERM)

    def _note_those_that_drain(self) -> None:
        """Nobody else will know when supervisord is gone."""
        kernel = self.host.kernel()
        for app, _member, process in self._ours():
            if process.state == "STOPPING":
                app.note_told(process.pid, kernel.start_ticks(process.pid))

    def _stop_others(self) -> list[Process]:
        """Otherwise they would run twice."""
        others = self._others()
        for process in others:
            self.supervisor.stop(_name(process))
        if not self.host.wait(SECONDS_UNTIL_STOPPED, lambda: not self._others()):
            raise DaemonError(
                f"supervisord didn't stop its other programs within {SECONDS_UNTIL_STOPPED} s, so it goes on"
            )
        return others

    def _start(self, old: int) -> None:
        def started() -> bool:
            # systemd may not have noticed the end of the old one yet.
            self.host.run("starting supervisord", ["systemctl", "start", UNIT])
            return self._pid() not in (0, old)

        if not self.host.wait(self.timeout, started):
            raise DaemonError(
                f"The new supervisord didn't answer within {self.timeout:g} s; the programs of the old one run on"
            )

    def _pid(self) -> int:
        """The pid of supervisord, 0 when it doesn't run."""
        pid = 0
        with contextlib.suppress(SupervisorError):
            pid = self.supervisor.pid()
        return pid

    def _ours(self) -> list[tuple[Layout, Member, Process]]:
        """The server processes that supervisord runs or has to run."""
        processes = self.supervisor.processes()
        return [
            (app, member, process)
            for app in apps(self.host)
            for process in processes
            if (member := app.member(process.group))
        ]

    def _others(self) -> list[Process]:
        """The programs of others, those that run."""
        ours = {process.group for _app, _member, process in self._ours()}
        processes = self.supervisor.processes()
        return [process for process in processes if process.group not in ours and not process.is_stopped]

    def _orphans(self) -> list[tuple[Layout, Member, int]]:
        """The old processes that have a successor, or will when supervisord runs, and weren't told to stop."""
        kernel, pid = self.host.kernel(), self._pid()
        return [
            (app, member, orphan)
            for app in apps(self.host)
            for orphan, member in sorted(orphans(kernel, app, pid).items())
            if member in app.programs_on_disk() and not app.told(orphan, kernel.start_ticks(orphan))
        ]


def _name(process: Process) -> str:
    return f"{process.group}:{process.name}"
