# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/bench_speed.py measures, in what order, and what it makes of the figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import bench, bench_speed, servers
from tools.bench_page import page
from tools.bench_speed import BY_NAME, CHOICES, ROWS, Effort, Program, Row, SpeedError
from tools.servers import Engine

ROOT = servers.ROOT


def figures(us: float = 40, kib: float = 80, **changes: float) -> dict[str, float]:
    """Return the figures of a row in a round."""
    return bench_speed.derive(
        {
            "messages_per_second": 20_000.0,
            "busy_p99_ms": 8.0,
            "p50_ms": 0.2,
            "p99_ms": 1.0,
            "late": 0,
            "handshakes_per_second": 700.0,
            "handshake_p99_ms": 33.3,
            "failed": 0,
            "spread": 0.5,
            "message_us_processes": us * 3 / 4,
            "message_us_router": us / 4,
            "handshake_us_processes": 250.0,
            "handshake_us_router": 750.0,
            "kib_processes": kib / 2,
            "kib_router": kib / 2,
            **changes,
        }
    )


def measured(rounds: int = 1, **rows: Mapping[str, float]) -> dict[str, Any]:
    """Return the figures of a run of all rows, which are alike but for these."""
    run = bench_speed.measure_rounds(
        ROWS, rounds, lambda row: dict(rows.get(row.name, figures())), lambda _text: None
    )
    return {**run, "peers": {"uvicorn": "1.2"}}


# --- rows -------------------------------------------------------------------------------------------------


def test_every_row_has_a_base_of_ours_with_the_same_load() -> None:
    assert len(BY_NAME) == len(ROWS)
    for row in ROWS:
        base = BY_NAME[row.base]
        assert not base.peer
        if row.peer:  # at equal compression, TLS, Python and number of processes
            assert (row.window, row.site.tls, row.host, row.processes) == (
                base.window,
                base.site.tls,
                base.host,
                base.processes,
            )


def test_peers_are_behind_the_nginx_of_the_base() -> None:
    for row in ROWS:
        if row.peer and row.command != bench_speed.GUIDE:
            assert row.site == BY_NAME[row.base].site


def test_default_says_nothing_but_its_name() -> None:
    assert Row("default", "ours") == BY_NAME["default"]


def test_every_choice_and_router_has_its_rows() -> None:
    assert {BY_NAME[name].base for choice in CHOICES for name in choice.others} == {"default", "asyncio"}
    assert set(bench_speed.ROUTERS.values()) <= set(BY_NAME)


def test_defaults_are_those_of_the_roles() -> None:
    defaults: dict[str, Any] = {}
    for role in ("ws_app", "ws_supervisor"):
        defaults |= yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text())
    said = {choice.setting.strip("`"): choice.value for choice in CHOICES}
    for name in ("ws_app_compression", "ws_supervisor_processes"):
        assert said[name] == defaults[name]


def test_playbook_makes_every_site_that_rows_use() -> None:
    text = (ROOT / bench_speed.PLAYBOOK).read_text()
    assert yaml.safe_load(text)
    for site in {row.site for row in ROWS if row.site.router and row.site is not bench_speed.NGINX}:
        assert str(site.port) in text
        assert f"{site.name}_00" in text or f"app: {site.name}," in text or f"app: {site.name}\n" in text


def test_chosen_rows_bring_those_that_they_are_compared_with() -> None:
    assert [row.name for row in bench_speed.choose(["node_plain"])] == [
        "default",
        "off",
        "plain",
        "node_plain",
    ]
    assert bench_speed.choose([]) == list(ROWS)
    with pytest.raises(SpeedError, match="There is no row nobody; there are default, "):
        bench_speed.choose(["node", "nobody"])


def test_peers_are_locked() -> None:
    assert set(bench_speed.peer_versions()) == {"uvicorn", "wsproto", "hypercorn", "daphne", "uvloop"}


# --- measure ----------------------------------------------------------------------------------------------


class Chain:
    """An agent and clients that say what they are asked, and answer so that every part of the CPU is known."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, dict[str, Any]]] = []
        self.looks = iter(
            [
                self.look(cpu=1.0, mib=10, sockets=[5, 5]),  # fresh
                self.look(cpu=2.0, mib=60, sockets=[305, 205]),  # held
                self.look(cpu=3.0),  # before messages
                self.look(cpu=3.5),  # after 10,000 of them
                self.look(cpu=5.0),  # before handshakes
                self.look(cpu=6.0),  # after 1,000 of them
            ]
        )
        self.compressed = True

    @staticmethod
    def look(cpu: float, mib: float = 0, sockets: list[int] | None = None) -> dict[str, Any]:
        return {
            "cpu": {"processes": cpu, "router": cpu / 2},
            "memory": {"processes": mib * 2**20, "router": mib * 2**19},
            "sockets": {str(pid): count for pid, count in enumerate(sockets or [])},
        }

    def __call__(self, order: str, **arguments: Any) -> dict[str, Any]:
        self.orders.append((order, arguments))
        quantiles = {"p50_ms": 0.5, "p99_ms": 2.0 if "rate" in arguments else 9.0}
        answers: dict[str, dict[str, Any]] = {
            "open": {"compressed": self.compressed},
            "talk": {"messages": 10_000, "per_second": 5000.0, "late": 0, **quantiles},
            "knock": {
                "handshakes": 1000,
                "per_second": 500.0,
                "failed": 2,
                "failures": {"x": 2},
                **quantiles,
            },
        }
        return next(self.looks) if order == "look" else answers.get(order, {})


def test_figures_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_speed, "SETTLE", 0)
    chain = Chain()
    row = BY_NAME["two_processes"]
    found = bench_speed.measure_row(row, chain, chain, Effort(held=512, talking=7, rate=11))
    assert found["message_us_processes"] == 50
    assert found["message_us_router"] == 25
    assert found["messages_per_core"] == pytest.approx(1e6 / 75)
    assert found["handshake_us"] == 1500
    assert (found["kib_processes"], found["kib_router"]) == (100, 50)
    assert found["spread"] == 50
    assert (found["p99_ms"], found["busy_p99_ms"], found["failed"]) == (2.0, 9.0, 2)
    orders = [order for order, _ in chain.orders]
    assert (orders[0], orders[-1]) == ("start", "stop")
    assert chain.orders[0][1]["site"] == "echo"
    opened = dict(chain.orders[2][1])
    assert opened == {"url": "wss://server2:443/", "window": 12, "count": 512}


def test_peers_run_without_what_the_role_gives_to_processes() -> None:
    for name, given in (
        ("guide", {"MALLOC_TOP_PAD_": ""}),
        ("top_pad", {"WS_LOOP": "asyncio", "MALLOC_TOP_PAD_": ""}),
        ("default", {}),
    ):
        chain = Chain()
        with suppress(SpeedError):  # of figures that this row hasn't
            bench_speed.measure_row(BY_NAME[name], chain, chain, bench_speed.QUICK)
        assert chain.orders[0][1]["environment"] == given


def test_row_that_compresses_otherwise_than_the_others_has_no_figures() -> None:
    chain = Chain()
    chain.compressed = False
    with pytest.raises(SpeedError, match="it doesn't compress"):
        bench_speed.measure_row(BY_NAME["node"], chain, chain, Effort())
    assert chain.orders[-1][0] == "stop"


def test_rows_take_turns_and_ratios_are_to_the_base_of_the_same_round() -> None:
    rows = [BY_NAME["default"], BY_NAME["uvicorn"]]
    costs = iter([40, 20, 80, 40, 50, 50])  # the machine is busy in the second round
    done: list[str] = []

    def measure(row: Row) -> dict[str, float]:
        done.append(row.name)
        return figures(us=next(costs))

    run = bench_speed.measure_rounds(rows, 3, measure, lambda _text: None)
    assert done == ["default", "uvicorn"] * 3
    assert run["rows"]["uvicorn"]["message_us"] == 40
    assert run["rows"]["uvicorn"]["ratios"]["messages_per_core"] == 2
    assert run["rows"]["default"]["ratios"] == dict.fromkeys(bench_speed.COMPARED, 1)
    assert run["rows"]["default"]["differed"] == pytest.approx((25_000 - 12_500) / 20_000)


def test_row_that_fails_is_said_and_left_out_but_not_a_base() -> None:
    def fail(name: str) -> Any:
        def measure(row: Row) -> dict[str, float]:
            if row.name == name:
                raise SpeedError("it has no sockets")
            return figures()

        return measure

    rows = [BY_NAME["default"], BY_NAME["node"]]
    run = bench_speed.measure_rounds(rows, 2, fail("node"), lambda _text: None)
    assert list(run["rows"]) == ["default"]
    assert run["errors"] == {"node": "it has no sockets"}
    with pytest.raises(SpeedError, match="no sockets"):
        bench_speed.measure_rounds(rows, 2, fail("default"), lambda _text: None)


def engine(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Engine:
    """Return an engine whose containers run a script of Python."""
    monkeypatch.setattr(Engine, "command", lambda _self, *_arguments: [sys.executable, "-c", script])
    return Engine("podman")


def test_program_answers_line_by_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    order = json.loads(line)\n"
        "    if order['order'] == 'end': sys.exit()\n"
        "    print(json.dumps({'error': 'no'} if order['order'] == 'fail' else order), flush=True)\n"
    )
    program = Program(engine(monkeypatch, tmp_path, script), "server", "python3", "/x/agent.py")
    assert program("look", a=1) == {"order": "look", "a": 1}
    with pytest.raises(SpeedError, match=r"agent\.py, fail: no"):
        program("fail")
    with pytest.raises(servers.ServersError, match=r"agent\.py has ended at the order end"):
        program("end")
    program.close()


# --- write ------------------------------------------------------------------------------------------------


def test_row_of_the_table() -> None:
    run = measured(node=figures(us=20, kib=40, p99_ms=0.5))
    cells = bench_speed.cells(BY_NAME["node"], run["rows"]["node"])
    assert cells == [
        "`node`", "Node's ws, cluster", "50,000", "2.00", "15 + 5", "0.20", "0.50", "0.50", "1,000", "1.00", "20 + 20",
        "0.50",
    ]  # fmt: skip
    assert len(cells) == len(bench_speed.HEAD)


def test_groups_hold_every_row_once() -> None:
    groups = bench_speed.groups(measured())
    assert [title for title, _rows in groups] == [
        "TLS, compression",
        "TLS, no compression",
        "no TLS, no compression",
    ]
    assert sorted(row[0] for _title, rows in groups for row in rows) == sorted(
        f"`{row.name}`" for row in ROWS
    )


def test_judge_names_the_best_peer_and_why_it_leads() -> None:
    run = measured(node=figures(us=20), hypercorn=figures(us=60, kib=70), uvicorn=figures(us=39.5))
    said = list(bench_speed.judge(run))
    assert "messages/s per core, `default`: behind Node's ws, cluster (ratio 2.00, `node`)." in said
    assert (
        "memory of the process per idle connection, `default`: behind hypercorn (ratio 0.88, `hypercorn`)."
        in said
    )
    assert any(
        text.startswith("messages/s per core, `off`: at least equal to ") and "(ratio 1.00, " in text
        for text in said
    )


@pytest.mark.parametrize(("us", "behind"), [(38.9, False), (38.0, True)])
def test_lead_within_the_noise_is_none(us: float, behind: bool) -> None:
    first = next(bench_speed.judge(measured(node=figures(us=us))))
    assert (": behind " in first) == behind


def test_choices_are_ratios_to_the_row_with_the_default() -> None:
    run = measured(asyncio=figures(us=32, kib=88, p99_ms=0.5))
    rows = list(bench_speed.choice_rows(run))
    assert rows[0][2:] == ["`default`", "`asyncio`", "1.25", "1.00", "0.50", "1.10"]
    assert all(len(row) == len(bench_speed.CHOICES_HEAD) for row in rows)
    assert len(rows) == sum(len(choice.others) for choice in CHOICES)


def test_notes_say_what_went_wrong() -> None:
    run = measured(node=figures(failed=3, late=7))
    run["errors"]["daphne_off"] = "it has ended"
    assert list(bench_speed.notes(run))[1:] == [
        "Peers: uvicorn 1.2.",
        "`daphne_off` couldn't be measured: it has ended",
        "`node`: 3 handshakes failed in a round.",
        "`node`: 7 messages of the pace had to wait for the one before.",
    ]


def test_router_rows() -> None:
    rows = bench_speed.router_rows(measured(), [{"router": "nginx", "attempts": 1200, "lost": 3}])
    assert rows == [["`nginx`", "700", "33", "20,000", "8", "0.5", "80", "3 of 1,200"]]
    assert len(rows[0]) == len(bench_speed.ROUTERS_HEAD)


def test_page_is_self_contained_and_has_every_cell() -> None:
    text = page("Speed <1>", ["`a` & b"], [("T", ["x", "y"], [["`r`", "1,000"], ["s", "500"]])], ["end"])
    assert "<h1>Speed &lt;1&gt;</h1>" in text and "<p><code>a</code> &amp; b</p>" in text
    assert '<td class=bar style="--share: 50%">500</td>' in text
    assert "<td class=text><code>r</code></td>" in text
    assert "http" not in text and "src=" not in text


def test_results_and_page_have_every_row() -> None:
    about = {
        "date": "2026-01-02", "revision": "abc", "load": 0, "cores": 2, "memory": 2**33, "kernel": "Linux",
        "engine": "podman", "controller": ["Python"], "library": "17.4", "servers": ["Debian 13: nginx 1.26"],
    }  # fmt: skip
    run: dict[str, Any] = {**json.loads(json.dumps(measured())), "about": about}
    markdown = "\n".join(bench.speed_lines(run))
    html = bench.speed_page(run)
    for row in ROWS:
        assert f"| `{row.name}` |" in markdown
        assert f"<code>{row.name}</code>" in html
