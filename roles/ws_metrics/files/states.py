# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says the states of supervisord's processes to whoever connects to the socket that systemd hands over, as JSON.

supervisord's own socket is root's, because who reaches it can stop everything. This is the part that runs as root: it
reads nothing of what those who connect say.
"""

from __future__ import annotations

import contextlib
import json
import socket

from supervisor import Supervisor, SupervisorError

SOCKET = 3  # systemd's first
PATIENCE = 2  # seconds for who connects to read


def states() -> list[list[str]] | None:
    """Group and state of each process; None without a supervisord."""
    try:
        return [[process.group, process.state] for process in Supervisor.from_configuration().processes()]
    except SupervisorError:
        return None


def main() -> None:
    """Answer one after the other, for ever."""
    with socket.socket(fileno=SOCKET) as listening:
        while True:
            connection, _address = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(PATIENCE)
                connection.sendall(json.dumps(states()).encode())


if __name__ == "__main__":
    main()
