# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/bench.py makes of proofs, and what it does when a run fails, without running a container."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tools import bench, bench_hosts, bench_memory, bench_speed, servers
from tools.bench import BenchError, Change
from tools.bench_picture import draw, total
from tools.servers import Engine, Host

ABOUT = {
    "date": "2026-01-02",
    "revision": "abc1234",
    "load": 0.4,
    "cores": 2,
    "memory": 8 * 2**30,
    "kernel": "Linux 6.1",
    "engine": "podman",
    "controller": ["Python 3.11.2", "ansible-core 2.19.0"],
    "library": "17.4",
    "servers": ["Debian 12.1: nginx 1.22,supervisor 4.2", "Debian 13.1: nginx 1.26,supervisor 4.2"],
}
PROOF: dict[str, Any] = {
    "rate": 200.0,
    "held": 1000,
    "servers": ["server1", "server2"],
    "marks": [{"kind": "begin", "time": 100.0}, {"kind": "switch", "time": 101.0}, {"kind": "end", "time": 130.6}],
    "phases": [
        {"phase": "before", "attempts": 1600, "failed": 0, "handshake_ms": {"p50": 3.0, "p99": 9.6, "max": 11.0}},
        {"phase": "during", "attempts": 6000, "failed": 0, "handshake_ms": {"p50": 4.0, "p99": 1234.5, "max": 1500.0}},
        {"phase": "after", "attempts": 500, "failed": 0, "handshake_ms": None},
    ],
    "totals": {
        "attempts": 8100,
        "failed": 0,
        "closes": [{"code": 1001, "reason": "", "count": 1000}, {"code": 1006, "reason": "", "count": 2}],
        "reconnect_ms": {"p50": 5.0, "p99": 21.2, "max": 30.0},
        "longest_wait_ms": 1500.4,
    },
    "broken": [],
    "notes": [],
}  # fmt: skip


def proof(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(PROOF), **changes}


def figures(**proofs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a run in which all was well but for these proofs."""
    names = [change.name for change in bench.CHANGES]
    return {"proofs": {name: proofs.get(name, proof()) for name in names}, "about": ABOUT}


HANDOVER: dict[str, Any] = {
    "moves": [
        {
            "loop": "uvloop",
            "connections": 2000,
            "moved": 1999,
            "stayed": 1,
            "seconds": 2.34,
            "pause_p50_ms": 4.1,
            "pause_p99_ms": 12.34,
            "pause_max_ms": 1015.0,
            "closed": 1,
            "failures": 0,
            "echo_p99_ms": 9.0,
            "cpu_ms_per_connection": 1.26,
        }
    ],
    "idle": [{"loop": "uvloop", "handover": True, "kib_per_connection": 71.04, "us_per_message": 65.6}],
    "about": ABOUT,
}
MEMORY: dict[str, Any] = {
    "settings": [
        {
            "bits": bits,
            "level": level,
            "allocated_kib": kib,
            "pss_kib": kib,
            "bytes": 9,
            "us_per_message": 1.0,
        }
        for (bits, level), (kib, *_rest) in bench_memory.PUBLISHED.items()
    ],
    "chain": [],
    "about": ABOUT,
}
LOST = proof(
    totals={**PROOF["totals"], "attempts": 4000, "failed": 1000},
    broken=["1,000 of 4,000 handshakes failed: HTTP 502 (1,000)."],
)


# --- write ------------------------------------------------------------------------------------------------


def test_row_of_a_change() -> None:
    assert bench.row(bench.UPGRADE, PROOF) == [
        "upgrade", "8,100", "0", "1001: 1,000, 1006: 2", "10", "1,234", "", "21", "1,500", "31",
    ]  # fmt: skip


def test_row_of_a_change_without_marks_and_closes() -> None:
    phases = [
        {"phase": "all the time", "attempts": 9, "failed": 0, "handshake_ms": {"p50": 1, "p99": 7, "max": 8}}
    ]
    totals = {**PROOF["totals"], "closes": [], "reconnect_ms": None}
    assert bench.row(bench.UPGRADE, proof(phases=phases, marks=[], totals=totals))[3:] == [
        "none", "", "7", "", "", "1,500", "",
    ]  # fmt: skip


def test_every_row_of_the_tables_has_a_cell_for_each_column() -> None:
    for lines in ([*bench.load_lines(figures())], [*bench.hosts_lines({"runs": runs(), "about": ABOUT})]):
        assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_load_says_what_was_broken_and_which_figures_are_in_doubt() -> None:
    late = proof(notes=["The clients' own machine was too busy."])
    lines = list(bench.load_lines(figures(usual=LOST, rollback=late)))
    assert lines[0].startswith("200 handshakes per second and 1,000 connections held, over 2 servers.")
    assert f"- {bench.USUAL.title}: 1,000 of 4,000 handshakes failed: HTTP 502 (1,000)." in lines
    assert "- rollback: The clients' own machine was too busy." in lines
    assert not any("never late" in line for line in lines)
    assert any("never late" in line for line in bench.load_lines(figures(usual=LOST)))


def test_handover() -> None:
    lines = list(bench.handover_lines(HANDOVER))
    assert lines[2] == "| uvloop | 2,000 | 1,999 | 1 | 0 | 4.1 ms | 12.3 ms | 1,015.0 ms | 2.3 | 1.3 ms |"
    assert lines[6] == "| uvloop | on | 71.0 KiB | 66 us |"
    assert lines[-1].startswith("Measured on ")


def test_picture_of_two_proofs(tmp_path: Path) -> None:
    second = {"time": 100.0, "open": [3, 4], "closes": {"1001": 2}, "failures": {}, "reconnects": 1}
    drawn = proof(series=[second, {**second, "time": 101.0, "failures": {"HTTP 502": 5}}])
    for name in ("one.svg", "two.svg"):
        draw(tmp_path / name, [("ours", drawn), ("usual", drawn)])
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert "<svg" in text
    assert [total(second[name]) for name in ("open", "closes", "failures", "reconnects")] == [7, 2, 0, 1]


def runs() -> list[dict[str, Any]]:
    """Return the figures of runs on 10 and 2 servers."""
    return [
        {
            "servers": count,
            "run": run.title,
            "seconds": 10.4 * count,
            "controller_cpu_seconds": 3.0 * count,
            "machine_cpu_seconds": 7.6 * count,
        }
        for count in (10, 2)
        for run in bench_hosts.RUNS
    ]


def test_hosts() -> None:
    lines = list(bench.hosts_lines({"runs": runs(), "about": ABOUT}))
    assert lines[2:4] == [
        "| 2 | " + " | ".join(5 * ["21 (6 / 15)"]) + " |",
        "| 10 | " + " | ".join(5 * ["104 (30 / 76)"]) + " |",
    ]


def test_routers() -> None:
    speed = {
        "handshakes_per_second": 1.0,
        "handshake_p99_ms": 2.0,
        "messages_per_second": 3.0,
        "busy_p99_ms": 4.0,
        "spread": 0.5,
        "kib": 60.0,
    }
    rows = {"rows": dict.fromkeys(bench_speed.ROUTERS.values(), speed), "about": ABOUT}
    lines = list(bench.routers_lines(rows, {"routers": [{"router": "nginx", "attempts": 9, "lost": 0}]}))
    assert lines[2] == "| `nginx` | 1 | 2 | 3 | 4 | 0.5 | 60 | 0 of 9 |"


def test_about() -> None:
    (line,) = bench.about_lines(ABOUT)
    assert line == (
        "Measured on 2026-01-02 at abc1234, everything on one machine: 2 cores, 8 GiB, Linux 6.1, podman; "
        "load average before 0.4. Servers: Debian 12.1: nginx 1.22, supervisor 4.2; "
        "Debian 13.1: nginx 1.26, supervisor 4.2; websockets 17.4. Controller: Python 3.11.2, ansible-core 2.19.0."
    )


def test_readme_has_both_figures() -> None:
    text = " ".join(bench.readme_lines(figures(usual=LOST)))
    assert text.startswith(
        "An upgrade under 200 handshakes per second and 1,000 held connections: **0 of 8,100 "
    )
    assert "handshakes failed, 1,002 connections were closed**" in text
    assert "under the same load: **1,000 of 4,000 (25%) handshakes failed, 1,002 times" in text


def test_put_replaces_what_is_between_the_markers() -> None:
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n"
    new = bench.put(text, "x", ["1", "2"])
    assert new == "a\n<!-- begin x -->\n1\n2\n<!-- end x -->\nb\n"
    assert bench.put(new, "x", ["1", "2"]) == new


@pytest.mark.parametrize("text", ["", "<!-- begin x -->\n", "<!-- end x -->\n<!-- begin x -->\n"])
def test_put_refuses_a_text_without_markers(text: str) -> None:
    with pytest.raises(BenchError, match="no place between '<!-- begin x -->' and '<!-- end x -->'"):
        bench.put(text, "x", [])


def test_there_is_a_place_for_everything() -> None:
    for file, name, _part, _lines in bench.PLACES:
        assert bench.put((bench.ROOT / file).read_text(), name, [])


# --- measure ----------------------------------------------------------------------------------------------


def test_every_playbook_exists_and_every_file_has_a_name_of_its_own() -> None:
    for change in bench.CHANGES:
        assert (bench.ROOT / change.playbook).is_file()
    assert len({change.name for change in bench.CHANGES}) == len(bench.CHANGES)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(bench, "BUILD", tmp_path)
    monkeypatch.setattr(bench, "FIGURES", tmp_path / "figures.json")
    return tmp_path


def ansible(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Have a script run instead of ansible-playbook."""
    program = folder / "ansible-playbook"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


HOSTS = [Host("server1", "debian12", ()), Host("server2", "debian13", ())]
CHANGE = Change("change", "a change", "change.yml")


def test_play_is_limited_to_the_hosts_and_shows_the_end_of_its_log(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ansible(monkeypatch, build, 'echo "$@"; echo much; echo went wrong >&2; exit 2')
    with pytest.raises(BenchError, match=r"change\.yml failed; the end of .*name\.log:\n(.|\n)*went wrong"):
        bench.play("name", "change.yml", HOSTS, {"a": [1]}, "--check")
    log = (build / "name.log").read_text()
    assert "--limit=server1,server2 " in log
    assert f'"ws_prove_folder": "{build}", "a": [1]}} --check change.yml' in log


@pytest.mark.parametrize("status", [0, 2])
def test_broken_promise_is_a_figure(build: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    (build / "written").write_text(json.dumps({**LOST, "series": [1, 2]}))
    ansible(monkeypatch, build, f"cp {build}/written {build}/change.json; exit {status}")
    assert bench.watch(CHANGE, HOSTS, {}) == {**LOST, "series": [1, 2]}


@pytest.mark.parametrize("written", [None, PROOF])
def test_failure_for_another_reason_is_none(
    build: Path, monkeypatch: pytest.MonkeyPatch, written: Mapping[str, Any] | None
) -> None:
    (build / "change.json").write_text(json.dumps({**LOST, "series": []}))  # of an earlier run
    if written:
        (build / "written").write_text(json.dumps(written))
    ansible(monkeypatch, build, f"cp {build}/written {build}/change.json; exit 2")
    with pytest.raises(BenchError, match=r"change\.yml failed"):
        bench.watch(CHANGE, HOSTS, {})


def test_a_change_stays_for_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = {}

    def watch(change: Change, hosts: Sequence[Host], variables: Mapping[str, Any]) -> bench.Proof:
        watched[change.name] = dict(variables)
        return {**PROOF, "series": [change.name]}

    drawn: list[Any] = []
    monkeypatch.setattr(bench, "draw", lambda file, proofs: drawn.append((file.name, proofs)))
    monkeypatch.setattr(bench, "watch", watch)
    monkeypatch.setattr(bench, "play", lambda *_: 1.0)
    measured = bench.measure_load(HOSTS, 50, 100)
    assert list(measured["proofs"]) == [change.name for change in bench.CHANGES]
    assert all("series" not in proof for proof in measured["proofs"].values())
    [(name, pictures)] = drawn
    assert name == "upgrade.svg"
    assert [proof["series"] for _title, proof in pictures] == [["upgrade"], ["usual"]]
    assert watched["closing"]["ws_supervisor_close_connections"] is True
    assert watched["upgrade"] == {"ws_app_version": "v2", "ws_prove_rate": 50, "ws_prove_held": 100}
    assert watched["scale_down"] == {
        "ws_app_version": "v1",
        "ws_prove_rate": 50,
        "ws_prove_held": 100,
        "ws_supervisor_close_connections": False,
        "ws_app_max_size": 65536,
        "ws_tls_days": 90,
        "ws_tls_renew_days": 89,
        "ws_supervisor_processes": 3,
    }


def test_runs_are_measured_when_their_release_is_collected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    played: list[tuple[Any, ...]] = []

    def play(
        _name: str, playbook: str, hosts: Sequence[Host], variables: Mapping[str, Any], *more: str
    ) -> float:
        played.append((playbook, len(hosts), variables.get("ws_app_version"), *more))
        return 1.0

    up: list[int] = []
    monkeypatch.setattr(servers, "down", lambda *_: None)
    monkeypatch.setattr(servers, "up", lambda _engine, _fleet, hosts, _into: up.append(len(hosts)))
    monkeypatch.setattr(bench_hosts, "open_ssh", lambda *_: None)
    monkeypatch.setattr(bench_hosts, "make_key", lambda folder: folder)
    measured = bench_hosts.measure_hosts(
        Engine("podman"), "bench", bench.SERVERS, tmp_path / "servers.yml", play, lambda _text: None
    )["runs"]
    assert up == [1, 2, 5, 10]
    site = bench_hosts.SITE
    assert played[:3] == [(site, 1, "v0", "--check"), (site, 1, "v0"), (site, 1, "v0")]
    versions = ("v0", "v1", "v2")
    checked = [
        (count, version) for count in (1, 2) for version in versions
    ]  # one more Debian version to collect for
    assert [(call[1], call[2]) for call in played if "--check" in call] == checked
    assert [(run["servers"], run["run"]) for run in measured] == [
        (count, run.title) for count in (1, 2, 5, 10) for run in bench_hosts.RUNS
    ]


def test_hosts_are_reached_by_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[tuple[str, ...]] = []
    monkeypatch.setattr(Engine, "__call__", lambda _self, *arguments, **_: done.append(arguments))
    key = bench_hosts.make_key(tmp_path / "ssh")
    assert key.stat().st_mode & 0o77 == 0
    inventory = tmp_path / "servers.yml"
    inventory.write_text(servers.inventory(Engine("podman"), "bench", HOSTS, servers.Network(7, ipv6=False)))
    bench_hosts.open_ssh(Engine("podman"), "bench", HOSTS, inventory, key)
    assert [arguments[1] for arguments in done] == ["wsfleet-bench-server1", "wsfleet-bench-server2"]
    assert key.with_suffix(".pub").read_text().strip() in done[0][-1]
    hosts = json.loads(inventory.read_text().removeprefix("---\n"))["all"]["hosts"]
    assert (hosts["server2"]["ansible_connection"], hosts["server2"]["ansible_host"]) == (
        "ssh",
        "10.214.7.11",
    )
    again = bench_hosts.make_key(tmp_path / "ssh")
    assert again.with_suffix(".pub").read_text().strip() not in done[0][-1]


def test_servers_are_new_and_removed_also_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def fail(hosts: Sequence[Host], *_: object) -> None:
        done.append([host.image for host in hosts])
        raise BenchError("no")

    monkeypatch.setattr(servers, "find_engine", lambda: Engine("podman"))
    monkeypatch.setattr(servers, "up", lambda _engine, fleet, hosts, _into: done.append((fleet, len(hosts))))
    monkeypatch.setattr(servers, "down", lambda _engine, fleet: done.append(fleet))
    monkeypatch.setattr(bench, "measure_load", fail)
    with pytest.raises(BenchError, match="no"):
        bench.measure("load", argparse.Namespace(rate=1, held=1))
    assert done == ["bench", ("bench", 3), ["debian12", "debian13"], "bench"]


@pytest.fixture
def places(build: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that results are written to, instead of the repository."""
    monkeypatch.setattr(bench, "ROOT", build)
    for file, name, _part, _lines in bench.PLACES:
        path = build / file
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as text:
            text.write(f"<!-- begin {name} -->\nold {name}\n<!-- end {name} -->\n")
    return build


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    return bench.main()


@pytest.mark.parametrize(("name", "status"), [("usual", 0), ("settings", 1)])
def test_only_our_own_broken_promises_are_failures(
    places: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    status: int,
) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_: figures(**{name: LOST}))
    assert run(monkeypatch, "load") == status
    assert ("settings broke a promise: 1,000 of 4,000" in capsys.readouterr().err) == (status == 1)
    assert "HTTP 502" in (places / "bench" / "RESULTS.md").read_text()


def test_figures_of_the_other_part_are_kept(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(part: str, wanted: argparse.Namespace) -> dict[str, Any]:
        asked.append((part, wanted.rate, wanted.held))
        if part == "handover":
            return HANDOVER
        if part == "speed":
            return {"rows": {}, "errors": {}, "peers": {}, "rounds": 1, "about": ABOUT}
        if part == "memory":
            return MEMORY
        return (
            figures(usual=LOST)
            if part == "load"
            else {"runs": [], "routers": [], "driven": [], "moments": [], "about": ABOUT}
        )

    monkeypatch.setattr(bench, "measure", measure)
    assert run(monkeypatch, "hosts") == 0
    results = places / "bench" / "RESULTS.md"
    assert "old load" in results.read_text() and "old hosts" not in results.read_text()
    assert run(monkeypatch, "load", "--rate", "50", "--held", "70") == 0
    text = results.read_text()
    assert "HTTP 502" in text and "Seconds from command to prompt" in text
    assert asked == [("hosts", 200, 1000), ("load", 50, 70)]
    results.write_text(text.replace("1,000 of 4,000", "edited"))
    assert run(monkeypatch, "results") == 0
    assert results.read_text() == text
    assert len(asked) == 2
    assert run(monkeypatch) == 0
    assert [part for part, *_ in asked[2:]] == bench.PARTS


def test_what_can_t_be_measured_is_a_sentence(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise BenchError("site.yml failed")

    monkeypatch.setattr(bench, "measure", fail)
    assert run(monkeypatch, "load") == 1
    assert capsys.readouterr().err == "bench: site.yml failed\n"


def test_some_rows_or_a_quick_run_are_printed_not_published(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted: list[argparse.Namespace] = []

    def measure(_part: str, arguments: argparse.Namespace) -> dict[str, Any]:
        wanted.append(arguments)
        return {"rows": {}, "errors": {"node": "no"}, "peers": {}, "rounds": 1, "about": ABOUT}

    monkeypatch.setattr(bench, "measure", measure)
    assert run(monkeypatch, "speed", "--rows", "node,uvicorn", "--rounds", "2") == 0
    assert (wanted[0].rows, wanted[0].rounds, wanted[0].quick) == (["node", "uvicorn"], 2, False)
    assert "`node` couldn't be measured: no" in capsys.readouterr().out
    assert not (places / "figures.json").exists()
    assert "old speed" in (places / "bench" / "RESULTS.md").read_text()
    with pytest.raises(SystemExit):
        run(monkeypatch, "load", "--quick")
