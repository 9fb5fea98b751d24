# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.plugins.module_utils.fake_haproxy import Haproxy


@pytest.fixture(params=["2.6", "3.0"])
def haproxy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Haproxy]:
    """A HAProxy that has nothing yet."""
    with Haproxy(tmp_path / "admin.sock", request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
