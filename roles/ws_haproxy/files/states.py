# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes what a reload of HAProxy shall not forget of its servers: states.py FILE FOLDER

That is who is drained and who is down. HAProxy's own list says ports and TLS too, and would go on with those whatever
the new configuration has.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

SOCKET = "/run/haproxy/admin.sock"
OURS = 18  # fields before the port; after it there has to be one more, and those behind may be left out


def ports(configuration: str) -> dict[tuple[str, str], str]:
    """The port of each server by backend and name; those with a unix socket have none."""
    found = {}
    backend = ""
    for line in configuration.splitlines():
        match line.split():
            case ["backend", backend, *_]:
                pass
            case ["server", name, address, *_] if (port := address.rpartition(":")[2]).isdecimal():
                found[backend, name] = port
    return found


def kept(states: str, configuration: str) -> str:
    """The lines of `show servers state` as the configuration's servers shall have them."""
    configured = ports(configuration)
    version, *lines = states.splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    ours = [row for row in rows if (row[1], row[3]) in configured]
    return "\n".join(
        [version, *(" ".join([*row[:OURS], configured[row[1], row[3]], "-"]) for row in ours), ""]
    )


def ask(command: str) -> str:
    """What HAProxy answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(SOCKET)
        connection.sendall(f"{command}\n".encode())
        with connection.makefile() as answer:
            return answer.read()


def main() -> None:
    """Replace the file, or leave none behind: what an earlier reload kept may be wrong by now."""
    file, folder = map(Path, sys.argv[1:])
    file.unlink(missing_ok=True)
    configuration = "\n".join(path.read_text() for path in folder.glob("wsfleet-*.cfg"))
    new = file.with_name(f"{file.name}.new")
    new.write_text(kept(ask("show servers state"), configuration))
    new.replace(file)


if __name__ == "__main__":
    main()
