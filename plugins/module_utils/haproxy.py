# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talk to a running HAProxy, 2.6 or later, through the unix socket of its runtime API."""

from __future__ import annotations

import contextlib
import csv
import re
import socket
from dataclasses import dataclass

SOCKET = "/run/haproxy/admin.sock"
TIMEOUT = 5.0  # seconds for each step of an exchange

# Bits of srv_admin_state. 0x04 is no state: it remembers that the configuration says `disabled`, also after `ready`.
_MAINT = 0x01 | 0x02 | 0x20  # forced, inherited from a tracked server, without an address
_DRAIN = 0x08 | 0x10  # forced, inherited
# Values of srv_op_state in which a server gets new connections; 0 is stopped, 3 is stopping.
_UP = frozenset({1, 2})


class HaproxyError(Exception):
    """HAProxy doesn't answer, or refused a command; the text is one sentence for the operator."""


class NotRunningError(HaproxyError):
    """Nobody listens on the socket."""


class UnknownError(HaproxyError):
    """HAProxy has no such backend or server."""


@dataclass(frozen=True)
class Server:
    """A server of a backend as HAProxy sees it."""

    name: str
    admin: str  # ready, drain or maint
    up: bool
    checked: bool  # has no checks, or its last one passed; HAProxy takes a server to be up before the first
    sessions: int

    def is_done(self) -> bool:
        """Tell whether what `admin` is for has been reached: it serves, or nobody is on it any more."""
        return self.up and self.checked if self.admin == "ready" else self.sessions == 0


class Runtime:
    """The commands of HAProxy that a fleet needs."""

    def __init__(self, socket_path: str = SOCKET) -> None:
        self._path = socket_path

    def servers(self, backend: str) -> dict[str, Server]:
        """Return the servers of a backend by name, without backups; UnknownError names the backends there are."""
        states = self._table("show servers state", " ")
        if backend not in (backends := {row["be_name"] for row in states}):
            raise UnknownError(f"HAProxy has no backend {backend}, only {_names(backends)}.")
        # Servers (4) of all proxies: a frontend may have the name of the backend, and would be found in its place.
        counts = {
            row["svname"]: row
            for row in self._table("show stat -1 4 -1", ",")
            if row["pxname"] == backend and row["bck"] == "0"
        }
        return {
            row["srv_name"]: _server(row, counts[row["srv_name"]])
            for row in states
            if row["be_name"] == backend and row["srv_name"] in counts
        }

    def info(self) -> dict[str, str]:
        """Return what `show info` says, by name."""
        lines = (line.partition(":") for line in self._ask("show info").splitlines())
        return {name: value.strip() for name, colon, value in lines if colon}

    def backends(self) -> dict[str, set[str]]:
        """Return the addresses of each backend's servers that are reached by TCP."""
        found: dict[str, set[str]] = {}
        for row in self._table("show servers state", " "):
            addresses = found.setdefault(row["be_name"], set())
            if row["srv_port"].isdecimal() and int(row["srv_port"]):
                addresses.add(f"{row['srv_addr']}:{row['srv_port']}")
        return found

    def server(self, backend: str, name: str) -> Server:
        """Return one server of a backend; UnknownError names those there are."""
        servers = self.servers(backend)
        if name not in servers:
            raise UnknownError(f"The backend {backend} has no server {name}, only {_names(servers)}.")
        return servers[name]

    def set_state(self, backend: str, server: str, state: str) -> None:
        """Make a server `ready`, `drain` or `maint`, until HAProxy is reloaded."""
        command = f"set server {backend}/{server} state {state}"
        if refusal := self._ask(command).strip():
            raise HaproxyError(f"HAProxy refused `{command}`: {_words(refusal)}")

    def certificate(self, path: str) -> str | None:
        """Return how HAProxy describes the certificate it has for the file `path`, and its chain; None without one.

        With an Ed25519 key, that is the serial number, the dates and the names only.
        """
        answer = self._ask(f"show ssl cert {path}")
        if found := re.search(r"^Serial: .+", answer, re.MULTILINE | re.DOTALL):
            return found[0].strip()
        if answer.startswith("Filename: ") or "Not found" in answer:
            return None
        raise HaproxyError(f"HAProxy doesn't show the certificate {path}: {_words(answer)}")

    def replace_certificate(
        self, path: str, fullchain: str, key: str = "", *, commit: bool = True
    ) -> str | None:
        """Serve these (both PEM) as the file `path`, for which the configuration has `crt`; all of them or nothing.

        Return how HAProxy describes them; without `commit` that is all, and the key isn't needed.
        """
        # An empty line would end the payload, and what follows it would be taken for commands.
        lines = [line for pem in (fullchain, key) for line in pem.splitlines() if line.strip()]
        with contextlib.ExitStack() as stack:
            stack.callback(self._abort, path)
            self._step("set", path, " <<\n" + "\n".join(lines) + "\n", expected="Transaction ")
            described = self.certificate(f"*{path}")
            if commit:
                self._step("commit", path, expected="Success!")
                stack.pop_all()
        return described

    def _abort(self, path: str) -> None:
        with contextlib.suppress(HaproxyError):
            self._ask(f"abort ssl cert {path}")

    def _step(self, verb: str, path: str, payload: str = "", *, expected: str) -> None:
        answer = self._ask(f"{verb} ssl cert {path}{payload}")
        if expected not in answer:
            raise HaproxyError(f"HAProxy refused `{verb} ssl cert {path}`: {_words(answer)}")

    def _table(self, command: str, delimiter: str) -> list[dict[str, str]]:
        """Return the rows of an answer whose first line with a `# ` names the columns."""
        answer = self._ask(command)
        _before, mark, table = answer.partition("# ")
        if not mark:
            raise HaproxyError(f"HAProxy refused `{command}`: {_words(answer)}")
        return list(csv.DictReader(table.splitlines(), delimiter=delimiter))

    def _ask(self, command: str) -> str:
        """Return the answer; HAProxy closes the connection after it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT)
            try:
                connection.connect(self._path)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                raise NotRunningError(f"HAProxy doesn't run, or not with the socket {self._path}.") from error
            except OSError as error:
                raise HaproxyError(f"HAProxy can't be reached on {self._path}: {error}") from error
            try:
                connection.sendall(f"{command}\n".encode())
                with connection.makefile("rb") as answer:
                    return answer.read().decode(errors="replace")
            except OSError as error:
                raise HaproxyError(f"HAProxy doesn't answer on {self._path}: {error}") from error


def _server(state: dict[str, str], counts: dict[str, str]) -> Server:
    """Make a server of its row in `show servers state` and the one in `show stat`."""
    bits = int(state["srv_admin_state"])
    # Passed checks add to check_health up to this; one that fails takes 1 off, and at the start it is check_rise.
    health = counts["check_health"]  # empty without checks, and in maint
    return Server(
        name=state["srv_name"],
        admin="maint" if bits & _MAINT else "drain" if bits & _DRAIN else "ready",
        up=int(state["srv_op_state"]) in _UP,
        checked=not health or int(health) == int(counts["check_rise"]) + int(counts["check_fall"]) - 1,
        sessions=int(counts["scur"]),
    )


def _names(names: set[str] | dict[str, Server]) -> str:
    return ", ".join(sorted(names)) or "none"


def _words(answer: str) -> str:
    """HAProxy's own words on one line."""
    return " ".join(answer.split()) or "it said nothing"
