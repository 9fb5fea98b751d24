# SPDX-License-Identifier: Apache-2.0
"""The garbage collector while connections move."""

import contextlib
import gc
from collections.abc import Iterator

NORMAL = gc.get_threshold()
NEVER = 1_000_000


@contextlib.contextmanager
def without_full_collections() -> Iterator[None]:
    """Have no full collection: it looks at every object of every connection while all clients wait.

    Whoever makes thousands of connections in seconds would set off one after the other.
    """
    gc.set_threshold(*NORMAL[:2], NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*NORMAL)
