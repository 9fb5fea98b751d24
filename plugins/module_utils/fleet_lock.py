# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The deploy lock of an app on one host, and the audit log that tells who held it.

A run takes the lock on every host of the fleet before it moves anything, so two runs never both have all of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import typing as t
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

LOG_GROUP = "adm"


@dataclass(frozen=True)
class Run:
    """An ansible-playbook process: `controller` is its machine since boot, `started` in clock ticks since then."""

    id: str
    who: str
    controller: str
    pid: int
    started: int


@dataclass(frozen=True)
class Holder:
    """The run that holds a lock, since when and what for."""

    run: Run
    when: str
    what: str

    @classmethod
    def read(cls, fields: dict[str, t.Any]) -> Holder:
        """The inverse of asdict()."""
        return cls(Run(**fields["run"]), fields["when"], fields["what"])

    @property
    def facts(self) -> dict[str, str]:
        return {"id": self.run.id, "who": self.run.who, "when": self.when, "what": self.what}

    def __str__(self) -> str:
        return f"{self.run.who} since {self.when} for {json.dumps(self.what)}"


class FleetLock:
    """The lock of one app on this host. `root` moves the whole tree, for tests."""

    def __init__(self, app: str, root: str = "/") -> None:
        self.app = app
        self._folder = Path(root, "var/lib/wsfleet/locks")
        self._file = self._folder / f"{app}.json"
        self._log = Path(root, "var/log/wsfleet/audit.log")
        self._guard = Path(root, "run/wsfleet.lock")

    def holder(self) -> Holder | None:
        """Who holds the lock now. Reads only."""
        try:
            return Holder.read(json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None

    def take(self, run: Run, what: str, instead_of: str = "") -> Holder:
        """Take the lock for `run`, also from the run with the id `instead_of`; returns who holds it now."""
        with self._alone():
            found = self.holder()
            if found and found.run.id != instead_of:
                return found
            holder = Holder(run, _now(), what)
            _write(self._file, json.dumps(asdict(holder)))
            self._audit("taken over" if found else "locked", run, what, former=found)
            return holder

    def release(self, run: Run, outcome: str) -> Holder | None:
        """Give the lock up if `run` has it; returns who holds it now."""
        with self._alone():
            found = self.holder()
            if not found or found.run.id != run.id:
                return found
            self._file.unlink()
            self._audit("unlocked", run, found.what, outcome=outcome)
            return None

    def force(self, run: Run) -> Holder | None:
        """Take the lock away from whoever holds it, and return who that was."""
        with self._alone():
            found = self.holder()
            if found:
                self._file.unlink()
                self._audit("unlocked by force", run, found.what, former=found)
            return found

    @contextlib.contextmanager
    def _alone(self) -> t.Iterator[None]:
        """Keep other processes of this host away; the kernel lets them in when this one is killed."""
        with os.fdopen(os.open(self._guard, os.O_WRONLY | os.O_CREAT, 0o600)) as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
            # Empty folders would be all that is left of us on a host that we were removed from.
            with contextlib.suppress(OSError):
                self._folder.rmdir()
                self._folder.parent.rmdir()

    def _audit(
        self, event: str, run: Run, what: str, outcome: str | None = None, former: Holder | None = None
    ) -> None:
        line: dict[str, t.Any] = {
            "time": _now(),
            "app": self.app,
            "event": event,
            "who": run.who,
            "what": what,
            "id": run.id,
        }
        if outcome:
            line["outcome"] = outcome
        if former:
            line["former"] = former.facts
        self._log.parent.mkdir(exist_ok=True)
        new = not self._log.exists()
        with os.fdopen(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
            if new:
                shutil.chown(self._log, group=LOG_GROUP)
                os.fchmod(file.fileno(), 0o640)
            file.write(json.dumps(line) + "\n")


def this_run(pid: int, who: str, hostname: str) -> Run:
    """The run whose process has the number `pid` here, on the controller."""
    _state, started = _process(pid)
    return Run(f"{hostname}-{pid}-{started}", who, _controller(), pid, started)


def is_dead(run: Run) -> bool:
    """Whether `run` was a process of this controller that has ended. What runs elsewhere, we can't know."""
    if not run.controller or run.controller != _controller():
        return False
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's; /proc may hide it
        pass
    state, started = _process(run.pid)
    return state == "Z" or started not in (0, run.started)


def _controller() -> str:
    """This machine since its boot, and which of its processes we see; empty where the kernel doesn't say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, int]:
    """State of a process and when it started, in clock ticks since boot; 0 when we can't know."""
    try:
        # The name before them may hold anything, parentheses too.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])


def _write(path: Path, text: str) -> None:
    """Replace a file at once, safe from a crash of the host."""
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
