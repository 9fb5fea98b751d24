# SPDX-License-Identifier: Apache-2.0
"""Runs a WebSocket handler as a server process that starts, reports and stops the way production needs."""

__version__ = "0.1.0"

from .connection import Connection, resumable

__all__ = ["Connection", "resumable"]
