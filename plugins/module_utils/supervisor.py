# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talk to a running supervisord through its XML-RPC unix socket."""

from __future__ import annotations

import configparser
import http.client
import socket
import typing as t
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = Path("/etc/supervisor/supervisord.conf")

STOPPED_STATES = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})

# Faults of supervisor.xmlrpc.Faults that say "it is already so".
_ALREADY_ADDED = 90
_ALREADY_STARTED = 60
_NOT_RUNNING = 70
_BAD_NAME = 10


class SupervisorError(Exception):
    """supervisord can't be reached, or refused a call; the text is one sentence for the operator."""


@dataclass(frozen=True)
class Process:
    """One process as supervisord sees it; `started` and `stopped` are Unix times, 0 when never."""

    group: str
    name: str
    state: str
    pid: int
    started: int
    stopped: int
    problem: str

    @property
    def is_stopped(self) -> bool:
        return self.state in STOPPED_STATES


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: t.Any) -> http.client.HTTPConnection:
        # The base class takes user:password off the host and keeps the header for send_headers().
        self._extra_headers = self.get_host_info(host)[1]
        self._connection = host, _UnixConnection(self._path)
        return t.cast("http.client.HTTPConnection", self._connection[1])


class Supervisor:
    """The calls of supervisord that a rollout needs; a process is named `group:name`."""

    def __init__(self, socket_path: str, username: str = "", password: str = "") -> None:
        self._path = socket_path
        login = f"{username}:{password}@" if username else ""
        proxy = xmlrpc.client.ServerProxy(
            f"http://{login}localhost/RPC2", transport=_UnixTransport(socket_path)
        )
        self._rpc: t.Any = proxy.supervisor

    @classmethod
    def of_host(cls, path: Path = CONFIGURATION) -> Supervisor | None:
        """The host's, None where none is installed."""
        return cls.from_configuration(path) if path.exists() else None

    @classmethod
    def from_configuration(cls, path: Path = CONFIGURATION) -> Supervisor:
        """Find the socket, and its login if it has one, where supervisorctl finds them."""
        parser = configparser.RawConfigParser(inline_comment_prefixes=(";",), strict=False)
        try:
            parser.read_string(path.read_text())
            section = parser["unix_http_server"]
        except (OSError, KeyError, configparser.Error) as error:
            raise SupervisorError(f"{path} doesn't name supervisord's unix socket: {error}") from error
        return cls(section["file"], section.get("username", ""), section.get("password", ""))

    def pid(self) -> int:
        return int(self._call("getPID"))

    def processes(self) -> list[Process]:
        return [
            Process(
                group=info["group"],
                name=info["name"],
                state=info["statename"],
                pid=info["pid"],
                started=info["start"],
                stopped=info["stop"],
                problem=info["spawnerr"],
            )
            for info in self._call("getAllProcessInfo")
        ]

    def reread(self) -> None:
        """Parse the configuration files again; nothing is started or stopped by it."""
        self._call("reloadConfig")

    def add(self, group: str) -> None:
        """Add a group that the last reread found; its programs with autostart start."""
        self._call("addProcessGroup", group, fine=(_ALREADY_ADDED,))

    def remove(self, group: str) -> None:
        """Forget a group whose processes have all stopped."""
        self._call("removeProcessGroup", group, fine=(_BAD_NAME,))

    def start(self, name: str) -> None:
        self._call("startProcess", name, False, fine=(_ALREADY_STARTED,))

    def stop(self, name: str) -> None:
        """Send the stop signal and return at once."""
        self._call("stopProcess", name, False, fine=(_NOT_RUNNING, _BAD_NAME))

    def _call(self, method: str, *arguments: object, fine: t.Collection[int] = ()) -> t.Any:
        try:
            return getattr(self._rpc, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in fine:
                return None
            raise SupervisorError(
                f"supervisord refused {method}({', '.join(map(str, arguments))}): {fault.faultString}"
            ) from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise SupervisorError(f"supervisord doesn't answer on {self._path}: {error}") from error
