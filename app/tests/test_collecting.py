# SPDX-License-Identifier: Apache-2.0
"""The garbage collector while connections move."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from wsfleet.collecting import without_full_collections


class Cycle:
    """Only the collector finds out that nobody needs it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def full_collections() -> Iterator[list[int]]:
    """Grows with every full collection."""
    seen: list[int] = []

    def see(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            seen.append(info["generation"])

    gc.callbacks.append(see)
    yield seen
    gc.callbacks.remove(see)


def make_garbage() -> list[list[Cycle]]:
    """As many objects that stay as it takes for some full collections, and as much garbage."""
    kept = []
    for _n in range(300):
        kept.append([Cycle() for _m in range(1000)])
        del kept[-1][500:]
    return kept


def test_there_is_none_until_it_is_over(full_collections: list[int]) -> None:
    with without_full_collections():
        make_garbage()
        assert full_collections == []
    make_garbage()
    assert full_collections != []


def test_two_at_once_and_one_that_fails(full_collections: list[int]) -> None:
    with without_full_collections():
        with pytest.raises(LookupError), without_full_collections():
            raise LookupError
        make_garbage()
    assert full_collections != []
    before = gc.get_threshold()
    with without_full_collections():
        pass
    assert gc.get_threshold() == before
