# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says about processes: their connections, work, memory, age, and where they come from."""

from __future__ import annotations

import os
import sys
import time
import typing as t
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address

# States in the tables of /proc/net.
_UNIX_CONNECTED = "03"
_UNIX_LISTENING = "00010000"  # a flag
_TCP_ESTABLISHED = "01"
_TCP_LISTENING = "0A"

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _UnixSocket:
    path: str
    state: str
    inode: str
    listening: bool


@dataclass(frozen=True)
class _TcpSocket:
    port: int
    state: str
    inode: str


class Kernel:
    """A look at /proc. The tables of sockets are read once, so make a new one for a new look.

    A process that ends meanwhile has no connections, no memory and no age.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def pids(self) -> list[int]:
        return sorted(int(folder.name) for folder in self._proc.glob("[0-9]*"))

    def connections(self, pid: int, address: Address) -> int:
        """How many connections that came in at `address` the process holds."""
        accepted = {socket.inode for socket in self._established if socket.port == address.port}
        if address.socket_path:
            # A process may bind the name in its working directory or the whole path. One that took over connections of
            # another slot has them under that one's name.
            app = _app(address.socket_path)
            accepted |= {
                row.inode for row in self._unix if row.state == _UNIX_CONNECTED and _app(row.path) == app
            }
        return len(self._sockets(pid) & accepted)

    def listens(self, pid: int, address: Address) -> bool:
        """Whether the process itself listens there."""
        name = Path(address.socket_path).name
        return bool(
            self._sockets(pid)
            & {row.inode for row in self._unix if row.listening and Path(row.path).name == name}
        )

    def accepted(self, pid: int) -> int:
        """How many connections the process holds that came in at any TCP port."""
        listening = {socket.port for socket in self._tcp if socket.state == _TCP_LISTENING}
        return len(
            self._sockets(pid) & {socket.inode for socket in self._established if socket.port in listening}
        )

    def listening_ports(self, pid: int) -> set[int]:
        """The TCP ports on which the process itself listens."""
        sockets = self._sockets(pid)
        return {row.port for row in self._tcp if row.state == _TCP_LISTENING and row.inode in sockets}

    def listeners(self, pid: int) -> int:
        """How many listening TCP sockets the process has, a port having one for each address."""
        return len(self._sockets(pid) & {row.inode for row in self._tcp if row.state == _TCP_LISTENING})

    def outgoing(self, lowest: int, highest: int) -> int:
        """How many TCP connections the host has begun, from a port of the range."""
        listening = {row.port for row in self._tcp if row.state == _TCP_LISTENING}
        ports = [row.port for row in self._established]
        return sum(lowest <= port <= highest and port not in listening for port in ports)

    def nofile(self, pid: int) -> tuple[int, int]:
        """How many descriptors the process may have, and to how many it could raise that."""
        for line in self._lines(f"{pid}/limits"):
            if line.startswith("Max open files"):
                soft, hard = line.split()[3:5]
                return _limit(soft), _limit(hard)
        return 0, 0

    def descriptors(self, pid: int) -> int:
        """How many the process has."""
        try:
            return sum(1 for _descriptor in (self._proc / str(pid) / "fd").iterdir())
        except OSError:
            return 0

    def numbers(self, name: str) -> list[int]:
        """Those of a file such as sys/fs/file-nr; none where there is no such file."""
        return [int(word) for word in " ".join(self._lines(name)).split()]

    def memory(self, pid: int) -> int:
        """Bytes that the process uses, its part of shared pages included."""
        for line in self._lines(f"{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return 0

    def cpu_seconds(self, pid: int) -> float:
        """Seconds of a core that the process has used since it was started."""
        stat = self._stat(pid)
        return (int(stat[11]) + int(stat[12])) / _CLOCK_TICKS if stat else 0.0

    def host_ticks(self) -> tuple[int, int]:
        """What the host's processors have spent since boot: idle, and altogether."""
        spent = [int(value) for value in self._lines("stat")[0].split()[1:9]]
        return spent[3] + spent[4], sum(spent)

    def memory_available(self) -> int:
        """Bytes that new processes can use without swapping."""
        return self._meminfo("MemAvailable")

    def memory_total(self) -> int:
        """Bytes that the host has."""
        return self._meminfo("MemTotal")

    def _meminfo(self, name: str) -> int:
        for line in self._lines("meminfo"):
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        return 0

    def age(self, pid: int) -> float:
        """Seconds since the process was started."""
        if not (started := self.start_ticks(pid)):
            return 0.0
        uptime = float(self._lines("uptime")[0].split()[0])
        return max(0.0, uptime - started / _CLOCK_TICKS)

    def start_ticks(self, pid: int) -> int:
        """When the process was started; with the pid, it tells a process from all others since boot."""
        stat = self._stat(pid)
        return int(stat[19]) if stat else 0

    def parent(self, pid: int) -> int:
        stat = self._stat(pid)
        return int(stat[1]) if stat else 0

    def descends_from(self, pid: int, ancestor: int) -> bool:
        while pid and pid != ancestor:
            pid = self.parent(pid)
        return pid != 0 and pid == ancestor

    def name(self, pid: int) -> str:
        """Of the program that it runs."""
        return "".join(self._lines(f"{pid}/comm"))

    def title(self, pid: int) -> str:
        """The command line, or what the process has made of it."""
        return " ".join(self._strings(f"{pid}/cmdline"))

    def environment(self, pid: int) -> dict[str, str]:
        """The environment that the process was started with."""
        pairs = (entry.partition("=") for entry in self._strings(f"{pid}/environ"))
        return {name: value for name, _equals, value in pairs}

    def directory(self, pid: int) -> str:
        try:
            return str((self._proc / str(pid) / "cwd").readlink())
        except OSError:
            return ""

    @cached_property
    def _unix(self) -> list[_UnixSocket]:
        """The unix sockets that have a path."""
        rows = (line.split(maxsplit=7) for line in self._lines("net/unix")[1:])
        return [
            _UnixSocket(row[7], row[5], row[6], row[3] == _UNIX_LISTENING) for row in rows if len(row) == 8
        ]

    @cached_property
    def _tcp(self) -> list[_TcpSocket]:
        rows = (line.split() for table in ("tcp", "tcp6") for line in self._lines(f"net/{table}")[1:])
        return [_TcpSocket(int(row[1].rpartition(":")[2], 16), row[3], row[9]) for row in rows if row]

    @property
    def _established(self) -> t.Iterator[_TcpSocket]:
        return (socket for socket in self._tcp if socket.state == _TCP_ESTABLISHED)

    def _sockets(self, pid: int) -> set[str]:
        """Inodes of the sockets that the process holds."""
        found = set()
        try:
            descriptors = list((self._proc / str(pid) / "fd").iterdir())
        except OSError:
            return set()
        for descriptor in descriptors:
            try:
                target = str(descriptor.readlink())
            except OSError:  # closed meanwhile
                continue
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
        return found

    def _stat(self, pid: int) -> list[str]:
        """The fields of stat after the command, which may hold spaces and brackets."""
        lines = self._lines(f"{pid}/stat")
        return lines[0].rpartition(")")[2].split() if lines else []

    def _strings(self, name: str) -> list[str]:
        text = "\n".join(self._lines(name))
        return [part for part in text.split("\0") if part]

    def _lines(self, name: str) -> list[str]:
        try:
            return (self._proc / name).read_text(errors="replace").split("\n")
        except OSError:
            return []


def busy_percent(before: tuple[int, int], after: tuple[int, int]) -> float:
    """How many percent of the host's processors were busy between two looks at host_ticks."""
    idle, spent = (late - early for early, late in zip(before, after, strict=True))
    return 100 * (1 - idle / spent) if spent > 0 else 0.0


def orphans(kernel: Kernel, layout: Layout, supervisord: int) -> dict[int, Member]:
    """The app's processes that outlived the supervisord that started them, by pid; not their own children."""
    found = {}
    for pid in kernel.pids():
        generation = layout.generation_at(kernel.directory(pid))
        if generation is None or kernel.descends_from(pid, supervisord):
            continue
        slot = layout.slot(kernel.environment(pid).get("SUPERVISOR_PROCESS_NAME", ""))
        if slot is not None:
            found[pid] = Member(slot, generation)
    return {pid: member for pid, member in found.items() if kernel.parent(pid) not in found}


def unread(pid_file: str | None, paths: t.Iterable[Path]) -> list[str]:
    """Return those of the paths that are newer than the newest process of the program, which is when it read them."""
    try:
        main = int(Path(pid_file or "").read_text())
    except (OSError, ValueError):
        return []  # it doesn't run
    kernel = Kernel()
    ages = [kernel.age(pid) for pid in kernel.pids() if main in (pid, kernel.parent(pid))]
    if not any(ages):
        return []
    read = time.time() - min(filter(None, ages))
    return sorted(str(path) for path in paths if path.exists() and path.stat().st_mtime > read)


def _limit(word: str) -> int:
    return sys.maxsize if word == "unlimited" else int(word)


def _app(socket_path: str) -> str:
    """The name of a slot's socket without the slot's number; the socket of its metrics has another suffix."""
    path = Path(socket_path)
    return path.stem.rpartition("_")[0] + path.suffix
