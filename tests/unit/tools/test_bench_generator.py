# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/bench_generator.py measures and writes."""

from __future__ import annotations

import os

import pytest

from tools import bench_generator


@pytest.mark.parametrize("compression", [False, True])
def test_both_sides_are_measured_on_cores_of_their_own(
    monkeypatch: pytest.MonkeyPatch, compression: bool
) -> None:
    monkeypatch.setattr(bench_generator, "SECONDS", 2)
    cores = os.sched_getaffinity(0)
    pair = bench_generator.measure_pair("uvloop", compression)
    assert os.sched_getaffinity(0) == cores
    assert (pair["loop"], pair["compression"]) == ("uvloop", compression)
    # Neither used more than its core.
    for side in ("generator_us", "process_us"):
        assert 0 < pair[side] * pair["messages_per_second"] < 1.2e6


def test_row_of_the_table() -> None:
    pair = {
        "loop": "uvloop",
        "compression": True,
        "messages_per_second": 12345.6,
        "generator_us": 10.4,
        "process_us": 26,
    }
    assert bench_generator.row(pair) == ["uvloop", "on", "12,346", "10 µs", "26 µs", "2.5"]
