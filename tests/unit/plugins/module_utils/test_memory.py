# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a connection is reckoned to take, beside what was measured and what the runner does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.memory import (
    COMPRESSION,
    PROCESS_BYTES,
    Estimate,
    estimate,
    most_processes,
    problem,
    size,
)

ROOT = Path(__file__).resolve().parents[4]
BALANCED = {"WS_COMPRESSION": "balanced"}
# Allocated per connection with websockets 17.4 and Python 3.11, by tracemalloc.
MEASURED = {
    (9, 2): 34,
    (10, 3): 38,
    (11, 4): 47,
    (12, 5): 65,
    (13, 6): 101,
    (14, 7): 173,
    (15, 8): 317,
}


def kib(
    variables: dict[str, Any], router: str = "nginx", tls: bool = True, handover: bool = False
) -> Estimate:
    """The estimate in KiB."""
    found = estimate(variables, router, tls, handover)
    assert found is not None
    return Estimate(*(getattr(found, name) // 1024 for name in Estimate.__dataclass_fields__))


@pytest.mark.parametrize(("bits", "level"), MEASURED)
def test_the_process_takes_what_was_measured(bits: int, level: int) -> None:
    windows = {"WS_SERVER_WINDOW_BITS": bits, "WS_CLIENT_WINDOW_BITS": str(bits), "WS_MEM_LEVEL": level}
    assert kib(BALANCED | windows).process_bytes == pytest.approx(MEASURED[bits, level], abs=1)


@pytest.mark.parametrize(
    ("name", "expected"), [("off", 16), ("memory", 47), ("balanced", 65), ("ratio", 317)]
)
def test_compressions(name: str, expected: int) -> None:
    assert kib({"WS_COMPRESSION": name}).process_bytes == expected


def test_compressions_are_those_of_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "app/src"))
    from wsfleet import listener

    assert listener.COMPRESSION == COMPRESSION


def test_settings_left_out_are_those_of_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "app/src"))
    from wsfleet.config import Settings, shown

    named = {f"WS_{name.upper()}": shown(value) for name, value in vars(Settings()).items()}
    assert estimate(named, "nginx", True) == estimate(BALANCED, "nginx", True)


def test_a_connection_that_can_move_keeps_another_window() -> None:
    assert kib(BALANCED, handover=True).process_bytes - kib(BALANCED).process_bytes == 4


@pytest.mark.parametrize(
    ("router", "tls", "proxy", "kernel"),
    [
        ("nginx", True, 66, 9),
        ("nginx", False, 24, 9),
        ("haproxy", True, 50, 9),
        ("haproxy", False, 23, 9),
        ("reuse_port", True, 0, 4),
    ],
)
def test_the_proxy_and_the_kernel_have_their_parts(router: str, tls: bool, proxy: int, kernel: int) -> None:
    found = kib(BALANCED, router, tls)
    assert (found.process_bytes, found.proxy_bytes, found.kernel_bytes) == (65, proxy, kernel)
    assert found.connection_bytes == 65 + proxy + kernel


@pytest.mark.parametrize(
    ("row", "compression", "router", "tls"),
    [
        ("default", "balanced", "nginx", True),
        ("off", "off", "nginx", True),
        ("plain", "off", "nginx", False),
        ("haproxy", "balanced", "haproxy", True),
        ("haproxy_plain", "off", "haproxy", False),
    ],
)
def test_no_part_is_reckoned_to_take_much_less_than_the_bench_has_measured(
    row: str, compression: str, router: str, tls: bool
) -> None:
    lines = (ROOT / "bench/RESULTS.md").read_text().splitlines()
    cells = next(line for line in lines if line.startswith(f"| `{row}` | ours")).split(" | ")
    process, proxy = map(int, cells[-2].split(" + "))
    found = kib({"WS_COMPRESSION": compression}, router, tls)
    assert found.process_bytes >= 0.9 * process
    assert found.proxy_bytes >= 0.9 * proxy


@pytest.mark.parametrize(("loop", "more"), [("", 50), ("auto", 50), ("uvloop", 50), ("asyncio", 300)])
def test_tls_without_a_proxy_is_the_process_s(loop: str, more: int) -> None:
    variables = {**BALANCED, "WS_LOOP": loop}
    plain, own = kib(variables, "reuse_port"), kib({**variables, "WS_TLS_KEY": "/key.pem"}, "reuse_port")
    assert own.process_bytes - plain.process_bytes == more
    assert (own.proxy_bytes, own.kernel_bytes) == (0, plain.kernel_bytes)


def test_the_worst_case_is_full_buffers() -> None:
    limits = {"WS_MAX_SIZE": 64 * 1024, "WS_MAX_QUEUE": 4, "WS_WRITE_LIMIT": 8 * 1024}
    found = kib({**BALANCED, **limits})
    assert found.buffer_bytes == 5 * 64 + 8
    assert found.worst_bytes == found.connection_bytes + found.buffer_bytes


def test_values_that_the_runner_refuses_are_as_good_as_none() -> None:
    bad = {"WS_SERVER_WINDOW_BITS": "999999999999", "WS_MEM_LEVEL": "-1", "WS_MAX_SIZE": "plenty"}
    assert estimate({**BALANCED, **bad}, "nginx", True) == estimate(BALANCED, "nginx", True)


def test_of_another_app_nothing_is_known() -> None:
    assert estimate({}, "nginx", True) is None
    assert problem({"WS_MAX_CONNECTIONS": 9}, "nginx", True, False, 1, 1) == ""
    assert most_processes({"WS_MAX_CONNECTIONS": 9}, "nginx", True, False, 1) is None


def test_what_is_allowed_fits_and_one_more_does_not() -> None:
    def refused(limit: int) -> str:
        return str(problem({**BALANCED, "WS_MAX_CONNECTIONS": limit}, "nginx", True, False, 4, 8 * 2**30))

    sentence = refused(50_000)
    assert sentence == (
        "50000 for each of 4 processes, which take 27 GiB at about 140 KiB per connection, "
        "where the host has 8.0 GiB; allowed is 14760 or less"
    )
    assert refused(14_760) == ""
    assert "allowed is 14760 or less" in refused(14_761)


def test_as_many_processes_fit_and_one_more_does_not() -> None:
    variables = {**BALANCED, "WS_MAX_CONNECTIONS": 5000}
    most = most_processes(variables, "nginx", True, False, 8 * 2**30)
    assert most is not None
    assert problem(variables, "nginx", True, False, most, 8 * 2**30) == ""
    assert problem(variables, "nginx", True, False, most + 1, 8 * 2**30) != ""
    assert most_processes(BALANCED, "nginx", True, False, 8 * 2**30) is None, "nothing is promised"


def test_no_connection_fits_where_the_processes_do_not() -> None:
    assert problem({**BALANCED, "WS_MAX_CONNECTIONS": 1}, "nginx", True, False, 9, PROCESS_BYTES).endswith(
        "allowed is 0 or less"
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [(65 * 1024, "65 KiB"), (17 * 2**20, "17 MiB"), (3.25 * 2**30, "3.2 GiB"), (24 * 2**30, "24 GiB")],
)
def test_sizes(number: int, words: str) -> None:
    assert size(number) == words
