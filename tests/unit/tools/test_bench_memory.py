# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/bench_memory.py measures without containers, and what it makes of the figures."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.memory import compression_bytes
from tools import bench, bench_memory, servers
from tools.bench_memory import (
    CHAIN_HEAD,
    HEAD,
    PUBLISHED,
    advice,
    chain_rows,
    compress,
    connection_bytes,
    make_corpus,
    measure_chain,
    measure_kernel,
    read_corpus,
    table_rows,
)
from tools.bench_pair import Pair
from tools.servers import Engine, Host

HOSTS = (Host("server2", "debian13", ()), Host("client", "client", ()))
CHAIN = [{"router": "haproxy", "process_kib": 59.2, "proxy_kib": 20.4, "kernel_kib": 8.4}]


def settings(**sizes: int) -> list[dict[str, Any]]:
    """Figures with what was published for memory, and these sizes for what has a name."""
    names = {numbers: name for name, numbers in bench_memory.CHOICES.items()}
    return [
        {
            "bits": bits,
            "level": level,
            "allocated_kib": float(documented),
            "pss_kib": 30.4,
            "bytes": sizes.get(names.get((bits, level), ""), 500),
            "us_per_message": 0.0 if not bits else 12.0,
        }
        for (bits, level), (documented, *_rest) in PUBLISHED.items()
    ]


# --- messages ---------------------------------------------------------------------------------------------


def test_the_corpus_is_always_the_same() -> None:
    assert make_corpus(20) == make_corpus(20)
    assert len({json.loads(message)["sha"] for message in make_corpus(20)}) == 20


def test_a_file_is_a_message_and_so_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('{"a":\n1}')
    (tmp_path / "a.jsonl").write_bytes(b'{"b": 1}\n\n{"b": 2}\r\n')
    (tmp_path / "c.bin").write_bytes(b"\n\0")
    (tmp_path / "empty").touch()
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "folder").mkdir()
    assert read_corpus(str(tmp_path)) == [b'{"b": 1}', b'{"b": 2}', b'{"a":\n1}', b"\n\0"]


def test_a_folder_without_messages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="has no messages: a file each"):
        read_corpus(str(tmp_path))
    with pytest.raises(argparse.ArgumentTypeError, match="nowhere can't be read: No such file"):
        read_corpus(str(tmp_path / "nowhere"))


def test_larger_windows_make_less_of_messages_that_are_alike() -> None:
    corpus = make_corpus(60)
    sizes = [compress(corpus, bits, level)[0] for bits, level in PUBLISHED]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == sum(map(len, corpus))


# --- measure ----------------------------------------------------------------------------------------------


def test_memory_of_a_connection_is_what_zlib_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_memory, "CONNECTIONS", 20)
    plain, compressed = (
        asyncio.run(connection_bytes(bits, level, True, make_corpus(50))) for bits, level in ((0, 0), (13, 6))
    )
    variables = {"WS_COMPRESSION": "balanced", "WS_SERVER_WINDOW_BITS": 13, "WS_CLIENT_WINDOW_BITS": 13}
    reckoned = compression_bytes({**variables, "WS_MEM_LEVEL": 6})
    assert compressed - plain == pytest.approx(reckoned, abs=4 * 1024)


def test_measuring_the_kernel_leaves_no_limit_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_memory, "SOCKETS", 10)
    monkeypatch.setattr(bench_memory, "SETTLE", 0)
    slabs = iter([0, 20 * 4096, 0, 20 * 2048])  # twenty sockets each
    monkeypatch.setattr(bench_memory, "slab", lambda: next(slabs))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert measure_kernel() == 4096 + 2 * 2048
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_the_chain_is_measured_with_each_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played: list[tuple[str, Any]] = []

    def play(name: str, _playbook: str, _hosts: Sequence[Host], variables: Mapping[str, Any]) -> float:
        played.append((name, variables.get("ws_router")))
        return 1.0

    def held(_engine: Engine, server: str, client: str, url: str) -> Mapping[str, float]:
        assert (server, client, url) == ("wsfleet-bench-server2", "wsfleet-bench-client", "wss://server2/")
        return {"nginx": 45.0, "haproxy": 20.0, "wsfleet": 59.0}

    monkeypatch.setattr(servers, "down", lambda *_: None)
    monkeypatch.setattr(servers, "up", lambda *_: None)
    monkeypatch.setattr(bench_memory, "measure_kernel", lambda: 8600.0)
    monkeypatch.setattr(bench_memory, "measure_held", held)
    measured = measure_chain(
        Pair(Engine("podman"), "bench", *HOSTS, tmp_path / "servers.yml", play, tmp_path)
    )
    assert measured["chain"] == [
        {"router": "nginx", "process_kib": 59.0, "proxy_kib": 45.0, "kernel_kib": 8.4},
        {"router": "haproxy", "process_kib": 59.0, "proxy_kib": 20.0, "kernel_kib": 8.4},
    ]
    assert [name for name in played if name[1]] == [
        ("memory-nginx-site", "nginx"),
        ("memory-haproxy-site", "haproxy"),
    ]


# --- write ------------------------------------------------------------------------------------------------


def test_measured_and_published_figures_stand_side_by_side() -> None:
    rows = table_rows(settings(off=2000, memory=550))
    assert rows[0] == ["`off`", "14", "30", "14", "22", "+300%", "+350%", "", ""]
    assert rows[3] == ["11, 4 `memory`", "46", "30", "46", "55", "+10%", "+10%", "=", "-4%"]
    assert rows[4] == ["12, 5 `balanced`", "64", "30", "64", "73", "=", "=", "=", "="]
    assert {len(row) for row in rows} == {len(HEAD)}


def test_parts_of_the_chain_beside_what_is_reckoned() -> None:
    (row,) = chain_rows(CHAIN)
    assert row == ["`haproxy`", "59", "20", "8", "88", "128"]
    assert len(row) == len(CHAIN_HEAD)


@pytest.mark.parametrize(
    ("sizes", "choice"),
    [
        ({"off": 1000, "memory": 990, "balanced": 980, "ratio": 970}, "off"),
        ({"off": 1000, "memory": 250, "balanced": 245, "ratio": 240}, "memory"),
        ({"off": 1000, "memory": 250, "balanced": 220, "ratio": 200}, "balanced"),
        ({"off": 1000, "memory": 250, "balanced": 220, "ratio": 150}, "ratio"),
    ],
)
def test_advice(sizes: dict[str, int], choice: str) -> None:
    assert advice(settings(**sizes)).startswith(f"For these messages choose `ws_app_compression: {choice}`: ")


def test_advice_gives_its_reason() -> None:
    assert advice(settings(off=1000, memory=250, balanced=220, ratio=198)) == (
        "For these messages choose `ws_app_compression: balanced`: 78% fewer bytes than uncompressed, for 64 KiB per "
        "connection and 12 µs per message. `ratio` would send 10% less for 252 KiB more. "
        "More memory is taken to be worth it where each doubling saves 10% of the bytes."
    )


def test_noise_is_not_compressed() -> None:
    chance = random.Random(1)
    corpus = [chance.randbytes(300) for _n in range(40)]
    rows = [{**row, "bytes": compress(corpus, row["bits"], row["level"])[0]} for row in settings()]
    assert "choose `ws_app_compression: off`" in advice(rows)


def test_own_messages_are_measured_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "message").write_text("hello")
    monkeypatch.setattr(bench, "write_results", lambda _figures: pytest.fail("written"))
    monkeypatch.setattr(
        bench, "measure_table", lambda corpus, _say: {"settings": settings(off=len(corpus[0]))}
    )
    monkeypatch.setattr("sys.argv", ["bench", "memory", "--corpus", str(tmp_path)])
    assert bench.main() == 0
    shown = capsys.readouterr().out
    assert "| 12, 5 `balanced` | 64 | 30 | 64 | 73 | = | = | = | = |" in shown
    assert "choose `ws_app_compression: off`" in shown
    monkeypatch.setattr("sys.argv", ["bench", "load", "--corpus", str(tmp_path)])
    with pytest.raises(SystemExit):
        bench.main()
    assert "--corpus goes with memory" in capsys.readouterr().err


def test_results() -> None:
    about = {"date": "2026-01-02", "revision": "abc1234", "load": 0.4, "cores": 2, "memory": 8 * 2**30}
    about |= {"kernel": "Linux 6.1", "engine": "podman", "controller": [], "library": "17.4", "servers": []}
    figures = {"settings": settings(off=2000), "chain": CHAIN, "about": about}
    lines = list(bench.memory_lines(figures))
    assert lines[0].startswith("| window bits, memory level | KiB per connection |")
    assert "| `haproxy` | 59 | 20 | 8 | 88 | 128 |" in lines
    assert lines[-1].startswith("Measured on ")
