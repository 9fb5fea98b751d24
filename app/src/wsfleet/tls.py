# SPDX-License-Identifier: Apache-2.0
"""TLS that ends in this process, for when there is no proxy."""

from __future__ import annotations

import logging
import os
import ssl
from ssl import Purpose, SSLContext

logger = logging.getLogger(__name__)


class Tls:
    """Serves the certificate that is in the files when a client connects; a bad one isn't loaded, the last goes on.

    OSError if the first can't be loaded.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self._files = certificate, key
        try:
            self._version = self._look()
            self._current = self._load()
            self.context = self._load()
        except OSError as error:
            raise OSError(f"no certificate can be loaded from {certificate} and {key}: {error}") from error
        self.context.sni_callback = self._choose

    def _look(self) -> list[tuple[int, int]]:
        return [(status.st_mtime_ns, status.st_ino) for status in map(os.stat, self._files)]

    def _load(self) -> SSLContext:
        context = ssl.create_default_context(Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self._files)
        return context

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: SSLContext
    ) -> None:
        """Called at the beginning of each TLS handshake."""
        try:
            version = self._look()
            if version != self._version:
                self._version = version
                self._current = self._load()
                logger.info("the certificate was renewed")
        except OSError as error:
            logger.error("the certificate can't be loaded, the one before goes on: %s", error)
        connection.context = self._current
