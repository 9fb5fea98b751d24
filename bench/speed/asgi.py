# SPDX-License-Identifier: GPL-3.0-or-later
"""The echo for ASGI servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Send every message back."""
    if scope["type"] != "websocket":
        raise ValueError("only WebSockets are served")
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})
