# SPDX-License-Identifier: Apache-2.0
"""The package under test comes from the checkout, for the tests and for the processes they start."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from server_process import ServerProcess, Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start server processes, with settings as keyword arguments; what still runs at the end is killed."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(ServerProcess(tmp_path, settings))
