# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace a running nginx by the installed one: its own upgrade on the fly, watched and undone when it fails.

USR2 has the master start a new one, which inherits the listening sockets. WINCH has the old workers finish, so that
the new ones get all that comes and can be judged. QUIT then ends the old master when its workers have no connection
left; HUP instead has it start workers again.
"""

from __future__ import annotations

import signal
import socket
import struct
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils.daemon import DaemonError, Host
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError

MASTER = "nginx: master process"
WORKER = "nginx: worker process"
LOG = "/var/log/nginx/error.log"
LOG_BYTES = 64 * 1024
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_LISTENING = "0A"


def answers(address: tuple[str, int], timeout: float = 5.0) -> bool:
    """Whether a worker does anything about a request, if only to refuse it."""
    try:
        with socket.create_connection(address, timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(REQUEST)
            connection.recv(1)
    except ConnectionResetError:
        return True
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Nginx:
    """The host's nginx, which systemd and its own tools find by /run/nginx.pid. Times are in seconds."""

    host: Host
    timeout: float = 60.0
    answers: t.Callable[[tuple[str, int]], bool] = answers

    def is_running(self) -> bool:
        return self._master() != 0

    def outdated(self) -> list[str]:
        """Why the one that runs isn't the one that is installed."""
        return [f"it runs {file}, which was replaced" for file in self.host.replaced_files(self._master())]

    def is_half_replaced(self) -> bool:
        """Whether there is an old master that wasn't told to quit."""
        old = self._old_master()
        workers = self._workers(old)
        return old != 0 and (not workers or not _finishing(workers))

    def refuse(self) -> None:
        """Say what stands in the way."""
        try:
            self.host.run("nginx -t", ["nginx", "-t", "-q"])
        except StepError as error:
            raise DaemonError(f"The installed nginx refuses its configuration: {error}") from error

    def draining(self) -> list[str]:
        """The processes that only serve the connections they have."""
        kernel = self.host.kernel()
        titles = {pid: kernel.title(pid) for pid in kernel.pids()}
        workers = {pid: title for pid, title in titles.items() if title.startswith(WORKER)}
        return [f"{WORKER} (pid {pid})" for pid, title in workers.items() if _finishing([title])]

    def replace(self) -> None:
        """Have the installed nginx serve, or else the old one."""
        self._let_go_of_old_master()
        old, logged = self._master(), self._log_size()
        self.host.tell(old, signal.SIGUSR2)
        self.host.wait(
            self.timeout, lambda: self._old_master() == old and self._workers(self._master()) != []
        )
        self._hand_over(old, self._master(), logged)

    def finish(self) -> None:
        """Do what a run that was killed has left to do."""
        self._hand_over(self._old_master(), self._master(), self._log_size())

    def _hand_over(self, old: int, new: int, logged: int) -> None:
        """From the old master's workers to the new one's, or back; before, the log had `logged` bytes."""
        if self._workers(new) and new != old:
            self.host.tell(old, signal.SIGWINCH)
            if self._serves_alone(old, new):
                self.host.tell(old, signal.SIGQUIT)
                return
            self.host.tell(old, signal.SIGHUP)
        if new not in (0, old):
            self.host.tell(new, signal.SIGQUIT)
        for pid in self._starting(old):
            self.host.tell(pid, signal.SIGKILL)
        # The old one takes its pid file back when the new one has ended.
        self.host.wait(self.timeout, lambda: self._master() == old)
        raise DaemonError(
            f"The new nginx didn't serve within {self.timeout:g} s, so the old one (pid {old}) goes on"
            f"{self._errors(logged)}"
        )

    def _serves_alone(self, old: int, new: int) -> bool:
        """Whether the new master's workers serve, when no others accept connections."""
        addresses = self._addresses(new)

        def good() -> bool:
            return (
                _finishing(self._workers(old))
                and self._workers(new) != []
                and (not addresses or any(self.answers(address) for address in addresses))
            )

        served: bool = self.host.wait(self.timeout, good)
        return served

    def _let_go_of_old_master(self) -> None:
        """nginx can't be replaced while the master before it is there.

        One that has been told to quit does nothing but wait for its workers, who go on without it.
        """
        if old := self._old_master():
            self.host.tell(old, signal.SIGKILL)
            self.host.wait(self.timeout, lambda: not self._old_master())

    def _master(self) -> int:
        return self._read(self.host.at("/run/nginx.pid"))

    def _old_master(self) -> int:
        return self._read(self.host.at("/run/nginx.pid.oldbin"))

    def _read(self, file: Path) -> int:
        """The pid in the file, 0 when no nginx has it."""
        try:
            pid = int(file.read_text())
        except (OSError, ValueError):
            return 0
        return pid if self.host.kernel().title(pid).startswith(MASTER) else 0

    def _workers(self, master: int) -> list[str]:
        """Titles of its workers."""
        kernel = self.host.kernel()
        children = (pid for pid in kernel.pids() if master and kernel.parent(pid) == master)
        return [title for pid in children if (title := kernel.title(pid)).startswith(WORKER)]

    def _starting(self, master: int) -> list[int]:
        """What it has started that isn't an nginx yet, for instance because it waits for a name server."""
        kernel = self.host.kernel()
        children = [pid for pid in kernel.pids() if kernel.parent(pid) == master]
        return [pid for pid in children if not kernel.title(pid).startswith("nginx: ")]

    def _addresses(self, master: int) -> list[tuple[str, int]]:
        """Where it listens."""
        links = (link.readlink() for link in self.host.at(f"/proc/{master}/fd").iterdir())
        inodes = {str(link)[len("socket:[") : -1] for link in links if str(link).startswith("socket:[")}
        found = []
        for table in ("tcp", "tcp6"):
            file = self.host.at(f"/proc/net/{table}")
            rows = [line.split() for line in file.read_text().splitlines()[1:]] if file.exists() else []
            found += [_address(row[1]) for row in rows if row[3] == _LISTENING and row[9] in inodes]
        return found

    def _log_size(self) -> int:
        log = self.host.at(LOG)
        return log.stat().st_size if log.exists() else 0

    def _errors(self, offset: int) -> str:
        """What has kept an nginx from starting, as logged since."""
        log = self.host.at(LOG)
        if not log.exists():
            return ""
        with log.open("rb") as file:
            file.seek(offset)
            lines = file.read(LOG_BYTES).decode(errors="replace").splitlines()
        return "".join(f"\n  {line}" for line in lines if "[emerg]" in line or "[alert]" in line)


def _finishing(workers: list[str]) -> bool:
    """Whether they accept no connections any more."""
    return all("shutting down" in title for title in workers)


def _address(text: str) -> tuple[str, int]:
    """An address of /proc/net/tcp, as one to connect to: that is loopback for the one that stands for all."""
    host, port = text.split(":")
    words = [host[start : start + 8] for start in range(0, len(host), 8)]
    packed = b"".join(struct.pack("=I", int(word, 16)) for word in words)
    if not any(packed):
        return ("127.0.0.1" if len(packed) == 4 else "::1"), int(port, 16)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)
