# SPDX-License-Identifier: Apache-2.0
"""Answers to requests that aren't let through to the handshake: health checks, and all when full."""

from collections.abc import Callable
from http import HTTPStatus

from websockets.http11 import Request, Response

from .connection import Connection
from .connections import Connections
from .drain import Drain

RETRY_AFTER = 5  # seconds


def make_process_request(
    connections: Connections, drain: Drain
) -> Callable[[Connection, Request], Response | None]:
    """Make the function that serve() asks about each request.

    /healthz is 200 while the process is alive. /readyz is 503 while it drains or is full, otherwise 200.
    Any other path is a handshake: 503 with Retry-After while the process is full.
    """

    def process_request(connection: Connection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if path in ("/healthz", "/readyz"):
            connection.is_check = True
            if request.method not in ("GET", "HEAD"):
                response = connection.respond(HTTPStatus.METHOD_NOT_ALLOWED, "use GET or HEAD\n")
                response.headers["Allow"] = "GET, HEAD"
            elif path == "/readyz" and drain.begun:
                response = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "draining\n")
            elif path == "/readyz" and connections.full:
                response = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "full\n")
            else:
                response = connection.respond(HTTPStatus.OK, "ok\n")
        elif connections.full:
            response = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
            response.headers["Retry-After"] = str(RETRY_AFTER)
        else:
            return None
        if request.method == "HEAD":
            response.body = b""
        return response

    return process_request
