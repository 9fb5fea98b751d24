# SPDX-License-Identifier: Apache-2.0
"""Open connections move to another process: one sends them, the other receives them, clients notice nothing.

A connection moves when it is quiet. It is frozen and offered with its descriptor, and when the other process is ready
for it, the sender lets go. Where a process dies in between, there is no doubt: until the word to go, the connection
is the sender's while that lives, and the receiver's afterwards.
"""

from __future__ import annotations

import logging
from pathlib import Path

from .collecting import without_full_collections
from .config import Settings
from .connection import Resumption
from .connections import Connections
from .packets import Peer
from .paths import followed
from .receiver import Builder, Receiver
from .sender import Sender

logger = logging.getLogger(__name__)

SUFFIX = ".handover"


def address(socket_path: str) -> str:
    """Where the process that listens at `socket_path` receives connections."""
    return f"{socket_path}{SUFFIX}"


class Handover:
    """Both halves, for a process that listens on a unix socket which clients reach by a symlink."""

    def __init__(
        self, settings: Settings, connections: Connections, resumption: Resumption, builder: Builder
    ) -> None:
        self._link = Path(settings.slot)
        self._patience = settings.handover_seconds
        self._connections = connections
        self._resumption = resumption
        self._receiver = Receiver(
            address(settings.unix_socket), builder, resumption, lambda: connections.full
        )

    def close(self) -> None:
        """Take no more connections."""
        self._receiver.close()

    async def run(self, deadline: float) -> None:
        """Move the connections to the process that clients reach by now, if there is one: ours can't be reached."""
        try:
            successor = address(str(followed(self._link)))
            peer = Peer.connect(successor)
        except OSError as error:
            logger.info("connections are closed, not moved: no process receives them (%s)", error)
            return
        if not peer.is_of_this_user:
            logger.warning("connections are closed, not moved: %s is another user's", successor)
            peer.close()
            return
        sender = Sender(peer, self._connections, self._resumption.version, self._patience)
        with without_full_collections():
            await sender.run(deadline)
        logger.info("%s, %d are closed", sender.outcome, len(self._connections.open()))
