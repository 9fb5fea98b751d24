#!/usr/bin/env python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure what clients see of changes, beside the usual recipe, and how long an upgrade takes.

    python -m tools.bench                 everything
    python -m tools.bench load            what clients see
    python -m tools.bench handover        what it costs to move connections
    python -m tools.bench generator       what the load generator costs
    python -m tools.bench day             a day of one process, for the simulations of autoscale
    python -m tools.bench hosts           how long runs take, by the number of servers
    python -m tools.bench routers         what a restart loses, by the way to route on a server
    python -m tools.bench speed           the chain beside its variants and its peers
    python -m tools.bench memory          what compression settings and the parts of a server take per connection
    python -m tools.bench results         nothing, but write the figures again

Makes servers of its own and removes them at the end. The figures go to bench/RESULTS.md and README.md, between markers;
build/bench keeps them, with the page and the JSON file of each proof, speed.html, and the logs. The exit status is 1 if
something failed, or if one of our changes broke a promise; the usual recipe may.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from tools import bench_speed, servers
from tools.bench_day import measure_day, write_record
from tools.bench_generator import HEAD as GENERATOR_HEAD
from tools.bench_generator import measure_processes, measure_server
from tools.bench_generator import row as generator_row
from tools.bench_handover import measure_handover
from tools.bench_hosts import COUNTS, RUNS, measure_hosts
from tools.bench_memory import (
    CHAIN_HEAD,
    advice,
    chain_rows,
    make_corpus,
    measure_chain,
    measure_table,
    read_corpus,
    table_rows,
)
from tools.bench_memory import HEAD as MEMORY_HEAD
from tools.bench_page import page
from tools.bench_pair import Pair
from tools.bench_picture import draw
from tools.bench_routers import measure_routers
from tools.servers import Host

ROOT = servers.ROOT
BENCH = ROOT / "bench"
PICTURE = BENCH / "upgrade.svg"
BUILD = ROOT / "build" / "bench"
FIGURES = BUILD / "figures.json"
INVENTORY = BUILD / "servers.yml"
FLEET = "bench"
SERVERS = [Host(f"server{number}", f"debian{13 - number % 2}", ()) for number in range(1, 1 + max(COUNTS))]
CLIENT = Host("client", "client", ())
PARTS = ["load", "speed", "handover", "memory", "hosts", "routers", "generator", "day"]
TAIL = 30  # lines of a log to show
PACKAGES = [
    "nginx",
    "haproxy",
    "nodejs",
    "node-ws",
    "supervisor",
    "python3",
]  # whose versions are said, if they are there

TRUST = "molecule/shared/trust.yml"
SITE = "playbooks/site.yml"
DEPLOY = "playbooks/deploy.yml"
ROLLBACK = "playbooks/rollback.yml"
SCALE = "playbooks/scale.yml"

Proof = Mapping[str, Any]  # what ws_report writes


class BenchError(Exception):
    """There are no figures; the text says why."""


@dataclass(frozen=True)
class Change:
    """A playbook that runs while clients watch. Its variables stay for the changes after it."""

    name: str
    title: str
    playbook: str
    variables: Mapping[str, Any] = field(default_factory=dict)


FIRST = {"ws_app_version": "v1"}
UPGRADE = Change("upgrade", "upgrade", DEPLOY, {"ws_app_version": "v2"})
CLOSING = Change(
    "closing",
    "upgrade, connections closed",
    DEPLOY,
    {"ws_app_version": "v3", "ws_supervisor_close_connections": True},
)
USUAL = Change("usual", "usual recipe, restart", "bench/usual.yml")
CHANGES = [
    UPGRADE,
    CLOSING,
    Change("rollback", "rollback", ROLLBACK, FIRST | {"ws_supervisor_close_connections": False}),
    Change("settings", "settings", SITE, {"ws_app_max_size": 65536}),
    Change("certificate", "certificate", SITE, {"ws_tls_days": 90, "ws_tls_renew_days": 89}),
    Change("scale_up", "scale, 4 to 6", SCALE, {"ws_supervisor_processes": 6}),
    Change("scale_down", "scale, 6 to 3", SCALE, {"ws_supervisor_processes": 3}),
    USUAL,
]
PICTURED = ((UPGRADE, "upgrade, connections move"), (USUAL, "usual recipe, processes are restarted"))


# --- measure ----------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


def play(name: str, playbook: str, hosts: Sequence[Host], variables: Mapping[str, Any], *more: str) -> float:
    """Run a playbook, its output into a log, and return the seconds it took."""
    log = BUILD / f"{name}.log"
    paths = {"ws_tls_ca_folder": str(BUILD / "tls"), "ws_prove_folder": str(BUILD)}
    command = ["ansible-playbook", f"--inventory={BENCH / 'hosts.yml'}", f"--inventory={INVENTORY}"]
    command += [f"--limit={','.join(host.name for host in hosts)}"]
    command += [f"--extra-vars={json.dumps({**paths, **variables})}", *more, playbook]
    began = time.monotonic()
    with log.open("w") as output:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text().splitlines()[-TAIL:])
        raise BenchError(f"{playbook} failed; the end of {log}:\n{tail}")
    return time.monotonic() - began


def watch(change: Change, hosts: Sequence[Host], variables: Mapping[str, Any]) -> Proof:
    """Make a change while clients watch, and return what they saw, also when a promise was broken."""
    path = BUILD / f"{change.name}.json"
    path.unlink(missing_ok=True)
    try:
        play(
            change.name,
            change.playbook,
            hosts,
            {**variables, "ws_prove": True, "ws_prove_title": change.name},
        )
    except BenchError:
        if not (path.exists() and json.loads(path.read_text())["broken"]):
            raise
    proof: Proof = json.loads(path.read_text())
    return proof


def without_series(proof: Proof) -> Proof:
    return {name: value for name, value in proof.items() if name != "series"}


def measure_load(hosts: Sequence[Host], rate: float, held: int) -> dict[str, Any]:
    """Return what clients saw of each change, by its name."""
    variables = {"ws_app_version": "v1", "ws_prove_rate": rate, "ws_prove_held": held}
    say("first deployment")
    play("site", SITE, hosts, variables)
    play("trust", TRUST, [CLIENT], {})
    proofs = {}
    for change in CHANGES:
        variables |= change.variables
        say(change.title)
        proofs[change.name] = proof = watch(change, hosts, variables)
        say(f"  {proof['totals']['failed']:,} of {proof['totals']['attempts']:,} handshakes failed")
    draw(PICTURE, [(title, proofs[change.name]) for change, title in PICTURED])
    return {"proofs": {name: without_series(proof) for name, proof in proofs.items()}}


def describe_machine(load: float) -> dict[str, Any]:
    """Return when and on what the figures were made."""
    revision = servers.run("git", "-C", str(ROOT), "describe", "--always", "--dirty").stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "revision": revision,
        "load": round(load, 1),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "controller": [f"Python {platform.python_version()}", f"ansible-core {version('ansible-core')}"],
    }


def describe(engine: servers.Engine, hosts: Sequence[Host], load: float) -> dict[str, Any]:
    """Return of what the figures are, too."""
    script = (
        'printf "Debian %s: " "$(cat /etc/debian_version)";'
        f"dpkg-query --show --showformat='${{Package}} ${{Version}}\n' {' '.join(PACKAGES)} 2>/dev/null | paste -sd,"
    )
    lock = (ROOT / "app" / "requirements.txt").read_text()
    return {
        **describe_machine(load),
        "engine": engine.name,
        "library": re.findall(r"^websockets==(\S+)", lock, re.MULTILINE)[0],
        "servers": [
            engine("exec", servers.container(FLEET, host.name), "sh", "-c", script).stdout.strip()
            for host in hosts[:2]  # the others are like these
        ],
    }


def measure(name: str, wanted: argparse.Namespace) -> dict[str, Any]:
    """Measure on servers made for it."""
    load = os.getloadavg()[0]
    if name == "handover":
        return {**measure_handover(say), "about": describe_machine(load)}
    engine = servers.find_engine()
    pair = Pair(engine, FLEET, SERVERS[1], CLIENT, INVENTORY, play, BUILD)
    servers.down(engine, FLEET)  # of a run that was killed: its changes would be none now
    try:
        if name == "hosts":
            figures = measure_hosts(engine, FLEET, SERVERS, INVENTORY, play, say)
        elif name == "routers":
            figures = measure_routers(pair)
        elif name == "speed":
            effort = bench_speed.QUICK if wanted.quick else bench_speed.Effort()
            rounds = wanted.rounds or (1 if wanted.quick else bench_speed.ROUNDS)
            figures = bench_speed.measure_speed(
                engine, FLEET, INVENTORY, play, say, wanted.rows, rounds, effort
            )
        elif name == "day":
            figures = measure_day(pair)
        elif name == "generator":
            figures = {"driven": measure_processes(say)}
            figures["driven"].append(measure_server(pair))
        elif name == "memory":
            figures = measure_table(make_corpus(), say)
            figures |= measure_chain(pair)
        else:
            servers.up(engine, FLEET, [*SERVERS[:2], CLIENT], INVENTORY)
            figures = measure_load(SERVERS[:2], wanted.rate, wanted.held)
        return {
            **figures,
            "about": describe(
                engine,
                SERVERS[1:2] if name in ("routers", "memory", "generator", "day") else SERVERS[:2],
                load,
            ),
        }
    finally:
        servers.down(engine, FLEET)


# --- write ------------------------------------------------------------------------------------------------

HEAD = [
    "change",
    "handshakes",
    "failed",
    "closes",
    "before",
    "during",
    "after",
    "reconnect",
    "longest wait",
    "seconds",
]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> list[str]:
    """Return a Markdown table; all columns but the first ones are numbers."""
    lines = [head, [*["---"] * texts, *["---:"] * (len(head) - texts)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def milliseconds(quantiles: Mapping[str, float] | None, name: str) -> str:
    return f"{quantiles[name]:,.0f}" if quantiles else ""


def row(change: Change, proof: Proof) -> list[str]:
    """Return a change's row of the table."""
    totals = proof["totals"]
    phases = {phase["phase"]: phase["handshake_ms"] for phase in proof["phases"]}
    phases.setdefault("during", phases.get("all the time"))  # the change has no marks
    times = {mark["kind"]: mark["time"] for mark in proof["marks"]}
    return [
        change.title,
        f"{totals['attempts']:,}",
        f"{totals['failed']:,}",
        ", ".join(f"{close['code']}: {close['count']:,}" for close in totals["closes"]) or "none",
        *(milliseconds(phases.get(name), "p99") for name in ("before", "during", "after")),
        milliseconds(totals["reconnect_ms"], "p99"),
        f"{totals['longest_wait_ms']:,.0f}",
        f"{times['end'] - times['begin']:.0f}" if "end" in times else "",
    ]


def load_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what clients saw, as Markdown."""
    changes = [(change, figures["proofs"][change.name]) for change in CHANGES]
    proofs = [proof for _change, proof in changes]
    yield (
        f"{proofs[0]['rate']:g} handshakes per second and {proofs[0]['held']:,} connections held, "
        f"over {len(proofs[0]['servers'])} servers. Times in milliseconds, p99 of the handshakes that succeeded."
    )
    yield ""
    yield from table(HEAD, (row(*change) for change in changes))
    yield ""
    for change, proof in changes:
        for sentence in [*proof["broken"], *proof["notes"]]:
            yield f"- {change.title}: {sentence}"
    if not any(proof["notes"] for proof in proofs):
        yield "- The clients were never late, so these figures are the servers'."
    yield ""
    yield from about_lines(figures["about"])


def hosts_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield how long runs take, as Markdown."""
    cells = {
        (run["servers"], run["run"]): (
            f"{run['seconds']:.0f} ({run['controller_cpu_seconds']:.0f} / {run['machine_cpu_seconds']:.0f})"
        )
        for run in figures["runs"]
    }
    counts = sorted({count for count, _run in cells})
    rows = [[str(count), *(cells[count, run.title] for run in RUNS)] for count in counts]
    yield from table(["servers", *(run.title for run in RUNS)], rows)
    yield ""
    yield "Seconds from command to prompt, and in brackets seconds of CPU: of the controller / of the whole machine."
    yield ""
    yield from about_lines(figures["about"])


def generator_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the load generator takes, as Markdown."""
    yield from table(GENERATOR_HEAD, map(generator_row, figures["driven"]), texts=2)
    yield ""
    yield from machine_lines(figures["about"])


def handover_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a move costs, as Markdown."""
    head = [
        "loop",
        "connections",
        "moved",
        "closed",
        "wrong",
        "pause p50",
        "p99",
        "max",
        "seconds",
        "CPU per move",
    ]
    yield from table(
        head,
        [
            [
                move["loop"],
                f"{move['connections']:,}",
                f"{move['moved']:,.0f}",
                f"{move['closed']}",
                f"{move['failures']}",
                *(f"{move[f'pause_{name}_ms']:,.1f} ms" for name in ("p50", "p99", "max")),
                f"{move['seconds']:.1f}",
                f"{move['cpu_ms_per_connection']:.1f} ms",
            ]
            for move in figures["moves"]
        ],
    )
    yield ""
    yield from table(
        ["a server that only echoes", "handover", "memory per connection", "CPU per message"],
        [
            [
                idle["loop"],
                "on" if idle["handover"] else "off",
                f"{idle['kib_per_connection']:.1f} KiB",
                f"{idle['us_per_message']:.0f} us",
            ]
            for idle in figures["idle"]
        ],
    )
    yield ""
    yield from machine_lines(figures["about"])


def routers_lines(speed: Mapping[str, Any], routers: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the ways to route cost, as Markdown."""
    yield from table(bench_speed.ROUTERS_HEAD, bench_speed.router_rows(speed, routers["routers"]))
    yield ""
    yield from about_lines(speed["about"])


def speed_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the chain beside its variants and its peers, as Markdown."""
    for title, rows in bench_speed.groups(figures):
        yield f"**{title}**"
        yield ""
        yield from table(bench_speed.HEAD, rows, texts=2)
        yield ""
    yield from (f"- {sentence}" for sentence in [*bench_speed.judge(figures), *bench_speed.notes(figures)])
    yield ""
    yield from table(bench_speed.CHOICES_HEAD, bench_speed.choice_rows(figures), texts=4)
    yield ""
    yield from about_lines(figures["about"])


def speed_page(figures: Mapping[str, Any]) -> str:
    """Return the same as a page of its own."""
    tables = [(title, bench_speed.HEAD, rows) for title, rows in bench_speed.groups(figures)]
    if choices := list(bench_speed.choice_rows(figures)):
        tables.append(("Defaults, and what else they could be", bench_speed.CHOICES_HEAD, choices))
    sentences = [*bench_speed.judge(figures), *bench_speed.notes(figures)]
    return page("Speed of the chain", sentences, tables, [*about_lines(figures["about"])])


def settings_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what compression settings cost and save, as Markdown."""
    yield from table(MEMORY_HEAD, table_rows(figures["settings"]))
    yield ""
    yield advice(figures["settings"])


def memory_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield that, and what the parts of a server take, as Markdown."""
    yield from settings_lines(figures)
    yield ""
    yield from table(CHAIN_HEAD, chain_rows(figures["chain"]))
    yield ""
    yield from about_lines(figures["about"])


def machine_lines(about: Mapping[str, Any]) -> Iterator[str]:
    """Yield when and on what the figures of a part without servers are."""
    yield (
        f"Measured on {about['date']} at {about['revision']}, servers and clients on one machine: "
        f"{about['cores']} cores, {about['kernel']}; load average before {about['load']:g}. {about['controller'][0]}."
    )


def about_lines(about: Mapping[str, Any]) -> Iterator[str]:
    """Yield when, on what and of what the figures are."""
    yield (
        f"Measured on {about['date']} at {about['revision']}, everything on one machine: {about['cores']} cores, "
        f"{about['memory'] / 2**30:.0f} GiB, {about['kernel']}, {about['engine']}; "
        f"load average before {about['load']:g}. "
        f"Servers: {'; '.join(about['servers']).replace(',', ', ')}; websockets {about['library']}. "
        f"Controller: {', '.join(about['controller'])}."
    )


def readme_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the top README.md."""
    ours, usual = (figures["proofs"][change.name] for change in (UPGRADE, USUAL))
    yield f"An upgrade under {ours['rate']:g} handshakes per second and {ours['held']:,} held connections:"
    yield f"**{share(ours['totals'])} handshakes failed, {closes(ours)} connections were closed**. The usual recipe,"
    yield "processes restarted one after the other behind nginx's defaults, on the same servers under the same load:"
    yield f"**{share(usual['totals'])} handshakes failed, {closes(usual)} times a connection was closed**."
    yield "[All figures](bench/RESULTS.md), by `make bench`."
    yield ""
    yield "![Connections, closes, failures and reconnects of both, second by second](bench/upgrade.svg)"


def closes(proof: Proof) -> str:
    return f"{sum(close['count'] for close in proof['totals']['closes']):,}"


def share(totals: Mapping[str, Any]) -> str:
    """Return how many handshakes failed."""
    percent = f" ({totals['failed'] / totals['attempts']:.0%})" if totals["failed"] else ""
    return f"{totals['failed']:,} of {totals['attempts']:,}{percent}"


def put(text: str, name: str, lines: Iterable[str]) -> str:
    """Return the text with these lines between its markers."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    _old, closed, after = rest.partition(end)
    if not (found and closed):
        raise BenchError(f"There is no place between '{begin.strip()}' and '{end}'.")
    return "".join([before, begin, *(f"{line}\n" for line in lines), end, after])


def write_results(figures: Mapping[str, Any]) -> None:
    """Write the figures to where people read them."""
    for file, name, parts, lines in PLACES:
        if all(part in figures for part in parts):
            path = ROOT / file
            path.write_text(put(path.read_text(), name, lines(*(figures[part] for part in parts))))
            say(f"written: {file}, {name}")
    if "day" in figures:
        write_record(figures["day"], ROOT / "bench" / "day.json")
        say("written: bench/day.json")
    if "speed" in figures:
        (BUILD / "speed.html").write_text(speed_page(figures["speed"]))
        say(f"written: {BUILD / 'speed.html'}")


# File, name of the markers, parts of the figures, and what makes lines of them.
PLACES: list[tuple[str, str, tuple[str, ...], Callable[..., Iterator[str]]]] = [
    ("bench/RESULTS.md", "load", ("load",), load_lines),
    ("bench/RESULTS.md", "speed", ("speed",), speed_lines),
    ("bench/RESULTS.md", "handover", ("handover",), handover_lines),
    ("bench/RESULTS.md", "generator", ("generator",), generator_lines),
    ("bench/RESULTS.md", "memory", ("memory",), memory_lines),
    ("bench/RESULTS.md", "hosts", ("hosts",), hosts_lines),
    ("README.md", "bench", ("load",), readme_lines),
    ("README.md", "routers", ("speed", "routers"), routers_lines),
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=[*PARTS, "results"], help="default: all")
    parser.add_argument("--rate", type=float, default=200, help="handshakes per second (default: 200)")
    parser.add_argument("--held", type=int, default=1000, help="connections held (default: 1000)")
    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--rows", type=lambda text: text.split(","), default=[], help="of bench_speed.ROWS (default: all)"
    )
    speed.add_argument("--rounds", type=int, default=0, help=f"default: {bench_speed.ROUNDS}, quick 1")
    speed.add_argument("--quick", action="store_true", help="one short round, to see whether it works")
    parser.add_argument(
        "--corpus",
        type=read_corpus,
        metavar="FOLDER",
        help="with memory: measure your messages, a file each, or a line each in files *.jsonl; nothing is written",
    )
    arguments = parser.parse_args()
    trial = bool(arguments.rows or arguments.quick)
    if trial and arguments.part != "speed":
        parser.error("--rows and --quick go with speed")
    if arguments.corpus:
        if arguments.part != "memory":
            parser.error("--corpus goes with memory")
        print("\n".join(settings_lines(measure_table(arguments.corpus, say))))
        return 0
    parts = {None: PARTS, "results": []}.get(arguments.part, [arguments.part])
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        for part in parts:
            measured = measure(part, arguments)
            if trial:  # nothing to publish
                say("\n".join(["", *speed_lines(measured)]))
                return 0
            figures[part] = measured
            FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        write_results(figures)
    except (BenchError, bench_speed.SpeedError, servers.ServersError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    proofs = figures["load"]["proofs"] if "load" in parts else {}
    broken = [name for name, proof in proofs.items() if proof["broken"] and name != USUAL.name]
    for name in broken:
        print(f"bench: {name} broke a promise: {' '.join(proofs[name]['broken'])}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
