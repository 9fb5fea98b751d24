# SPDX-License-Identifier: Apache-2.0
"""The files of unix sockets. Their paths are limited to 107 bytes, so they stay as short as they were given."""

import contextlib
import os
from pathlib import Path


def followed(link: Path) -> Path:
    """Where a symlink leads to, a relative one relative."""
    while link.is_symlink():
        link = link.parent / link.readlink()
    return link


class Bound:
    """A path that this process has bound, to be removed unless another process has bound it since."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._file: os.stat_result | None = path.stat()

    def remove(self) -> None:
        """Remove it, once."""
        file, self._file = self._file, None  # once it is closed, its number may become another file's
        with contextlib.suppress(FileNotFoundError):
            if file and os.path.samestat(self.path.lstat(), file):
                self.path.unlink()
