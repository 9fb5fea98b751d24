# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers for clients that are tested."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess
from websockets.sync.server import ServerConnection, serve


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start real server processes on TCP ports; what still runs at the end is killed."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            ServerProcess(tmp_path, {"unix_socket": "", "port": 0, "drain_rate": 1000, **settings})
        )


@pytest.fixture
def serving() -> Iterator[Callable[..., int]]:
    """Serve a handler on a free port, in a thread, and return the port."""
    with contextlib.ExitStack() as stack:

        def begin(handler: Callable[[ServerConnection], None], **options: Any) -> int:
            server = serve(handler, "127.0.0.1", 0, close_timeout=1, **options)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            port: int = server.socket.getsockname()[1]
            return port

        yield begin
        ended = time.monotonic()
    assert time.monotonic() - ended < 10, "a client has left its connection open"
