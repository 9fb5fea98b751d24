# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast and how lean the chain is, beside its variants and its peers.

All rows run on servers that are set up once (bench/speed.yml). A row's processes are started behind the slots of a
router, clients come from another container, and both are asked what they saw and used. The servers have the first core
of the machine, hence one process and one worker of nginx, as the roles have it on one core; the clients have the last.
Rows take turns, round after round, so that what else happens here happens to all; figures are medians over the rounds,
ratios medians of the ratios to the base of the same round.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from tools import servers
from tools.servers import Host

PLAYBOOK = "bench/speed.yml"
HOSTS = (Host("server1", "debian12", ()), Host("server2", "peers", ()))
CLIENT = Host("client", "client", ())
PYTHON_311, PYTHON_313 = (host.name for host in HOSTS)
# Of the deployment, as bench/speed.yml has it. Sockets for as many slots as any row has processes.
VARIABLES = {"ws_app_version": "v0", "ws_supervisor_processes": 4, "ws_tls_group": "ws-echo"}

PROGRAMS = "/opt/peers/current/app"
BIN = "/opt/peers/current/venv/bin"
SHARED_PORT = 8446
SETTLE = 0.3  # seconds

Figures = dict[str, float]  # of a row, in a round or over all


class SpeedError(Exception):
    """A row can't be measured; the text says why."""


# --- rows -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """What clients connect to: a router, its port, and the prefix of its slots."""

    router: str  # the systemd unit and the name of its processes, empty if there is none
    port: int
    tls: bool
    name: str


NGINX = Site("nginx", 443, True, "echo")
NGINX_PLAIN = Site("nginx", 8080, False, "plain")
GUIDE_NGINX = Site("nginx", 8443, True, "usual")
HAPROXY = Site("haproxy", 8444, True, "balanced")
HAPROXY_PLAIN = Site("haproxy", 8081, False, "balanced_plain")
SHARED = Site("", SHARED_PORT, True, "echo")
SHARED_PLAIN = Site("", SHARED_PORT, False, "echo")

SHARE = {"WS_SHARED_PORT": str(SHARED_PORT), "WS_HOST": "*"}
SHARE_TLS = SHARE | {
    "WS_TLS_CERTIFICATE": "/etc/wsfleet/echo/tls/fullchain.pem",
    "WS_TLS_KEY": "/etc/wsfleet/echo/tls/privkey.pem",
}
ASGI = {"PYTHONPATH": PROGRAMS}
# Of a peer, which has nothing that our role gives to processes.
UNHELPED: Mapping[str, str] = {"MALLOC_TOP_PAD_": ""}
UVICORN_QUIET = f"{BIN}/uvicorn asgi:app --uds {{name}}.sock --loop uvloop --lifespan off --log-level warning"
UVICORN = f"{UVICORN_QUIET} --ws websockets-sansio"
WSPROTO = f"{UVICORN_QUIET} --ws wsproto"
HYPERCORN = f"{BIN}/hypercorn asgi:app --bind unix:{{name}}.sock --worker-class uvloop --workers 0"
DAPHNE = f"{BIN}/daphne asgi:app -u {{name}}.sock -v 0"
NODE = f"node {PROGRAMS}/node.js {{processes}}"
GUIDE = "/opt/echo/current/venv/bin/python /opt/usual/app.py"


@dataclass(frozen=True)
class Row:
    """One way to serve the echo; what isn't said is as the roles do it by default."""

    name: str
    title: str
    base: str = "default"  # the row of ours that it is compared with
    peer: bool = False  # somebody else's
    site: Site = NGINX
    command: str = ""  # ours, if there is none
    environment: Mapping[str, str] = field(default_factory=dict)
    directives: Mapping[str, str] = field(default_factory=dict)  # of nginx
    window: int = (
        12  # bits of the largest window for compression that clients offer, the same for all; 0 offers none
    )
    processes: int = 1
    host: str = PYTHON_313


ROWS = (
    Row("default", "ours"),
    Row("asyncio", "ours on asyncio", environment={"WS_LOOP": "asyncio"}),
    Row(
        "top_pad",
        "ours on asyncio, `MALLOC_TOP_PAD_` glibc's own",
        base="asyncio",
        environment={"WS_LOOP": "asyncio", "MALLOC_TOP_PAD_": ""},
    ),
    Row("python311", "ours, Python 3.11", host=PYTHON_311),
    Row(
        "python311_asyncio",
        "ours on asyncio, Python 3.11",
        host=PYTHON_311,
        environment={"WS_LOOP": "asyncio"},
    ),
    Row("two_processes", "ours, 2 processes on the core", processes=2),
    Row("four_processes", "ours, 4 processes on the core", processes=4),
    Row("memory", "ours, compression `memory`", environment={"WS_COMPRESSION": "memory"}),
    Row("ratio", "ours, compression `ratio`", environment={"WS_COMPRESSION": "ratio"}, window=15),
    Row("small_records", "ours, `ssl_buffer_size 4k`", directives={"ssl_buffer_size": "4k"}),
    Row("small_buffers", "ours, `proxy_buffer_size 1k`", directives={"proxy_buffer_size": "1k"}),
    Row(
        "rsa",
        "ours, RSA certificate",
        directives={"ssl_certificate": "/root/rsa.pem", "ssl_certificate_key": "/root/rsa.key"},
    ),
    Row("guide", "the guide's app and nginx configuration", peer=True, site=GUIDE_NGINX, command=GUIDE),
    Row("haproxy", "ours, HAProxy", site=HAPROXY),
    Row("haproxy_four", "ours, HAProxy, 4 processes", base="four_processes", site=HAPROXY, processes=4),
    Row("reuse_port", "ours, reuse_port", site=SHARED, environment=SHARE_TLS),
    Row(
        "reuse_port_asyncio",
        "ours on asyncio, reuse_port",
        base="reuse_port",
        site=SHARED,
        environment=SHARE_TLS | {"WS_LOOP": "asyncio"},
    ),
    Row(
        "reuse_port_four",
        "ours, reuse_port, 4 processes",
        base="four_processes",
        site=SHARED,
        environment=SHARE_TLS,
        processes=4,
    ),
    Row("uvicorn", "uvicorn", peer=True, command=UVICORN, environment=ASGI),
    Row("wsproto", "uvicorn, wsproto", peer=True, command=WSPROTO, environment=ASGI),
    Row("hypercorn", "hypercorn", peer=True, command=HYPERCORN, environment=ASGI),
    Row("node", "Node's ws, cluster", peer=True, command=NODE),
    Row("off", "ours", window=0),
    Row("off_asyncio", "ours on asyncio", base="off", environment={"WS_LOOP": "asyncio"}, window=0),
    Row(
        "uvicorn_off",
        "uvicorn",
        base="off",
        peer=True,
        command=UVICORN,
        environment=ASGI,
        window=0,
    ),
    Row(
        "daphne_off",
        "daphne, which doesn't compress",
        base="off",
        peer=True,
        command=DAPHNE,
        environment=ASGI,
        window=0,
    ),
    Row(
        "hypercorn_off",
        "hypercorn",
        base="off",
        peer=True,
        command=HYPERCORN,
        environment=ASGI,
        window=0,
    ),
    Row("node_off", "Node's ws, cluster", base="off", peer=True, command=NODE, window=0),
    Row("plain", "ours, without TLS", site=NGINX_PLAIN, window=0, base="off"),
    Row("haproxy_plain", "ours, HAProxy", base="plain", site=HAPROXY_PLAIN, window=0),
    Row(
        "direct",
        "ours, direct to the process",
        base="plain",
        site=SHARED_PLAIN,
        environment=SHARE,
        window=0,
    ),
    Row(
        "node_plain",
        "Node's ws, cluster",
        base="plain",
        peer=True,
        site=NGINX_PLAIN,
        command=NODE,
        window=0,
    ),
)  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}
ROUTERS = {"nginx": "four_processes", "haproxy": "haproxy_four", "reuse_port": "reuse_port_four"}


def choose(names: Sequence[str]) -> list[Row]:
    """The rows of these names, all if there are none, with those that they are compared with."""
    unknown = sorted(set(names) - set(BY_NAME))
    if unknown:
        raise SpeedError(f"There is no row {', '.join(unknown)}; there are {', '.join(BY_NAME)}.")
    wanted = set(names or BY_NAME)
    while bases := {BY_NAME[name].base for name in wanted} - wanted:
        wanted |= bases
    return [row for row in ROWS if row.name in wanted]


@dataclass(frozen=True)
class Effort:
    """How much is done for a row in a round."""

    seconds: float = 1.2
    paced: float = 3  # seconds for p50 and p99, which few messages would leave to chance
    warm: float = 0.3
    held: int = 500  # connections whose memory is measured
    talking: int = 100  # of them, those that send messages
    rate: float = 1000  # messages per second for p50 and p99, the same for all rows
    knocking: int = 20  # clients that open and close connections


QUICK = Effort(seconds=0.5, paced=0.5, warm=0.1, held=100, talking=50, rate=500)
ROUNDS = 5


# --- measure ----------------------------------------------------------------------------------------------


class Program:
    """A program in a container that answers a line with a line, both JSON."""

    def __init__(self, engine: servers.Engine, container: str, *command: str) -> None:
        self.name = Path(command[-1]).name
        # It reads the environment and the memory of other users' processes, which needs CAP_SYS_PTRACE.
        self._process = subprocess.Popen(
            engine.command("exec", "--interactive", "--privileged", container, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, order: str, **arguments: Any) -> dict[str, Any]:
        """Give an order, and return the answer."""
        orders, answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        try:
            orders.write(json.dumps({"order": order, **arguments}) + "\n")
            orders.flush()
        except BrokenPipeError:
            pass  # then there is no answer either
        line = answers.readline()
        if not line:
            raise servers.ServersError(f"{self.name} has ended at the order {order}; it says above why")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SpeedError(f"{self.name}, {order}: {answer['error']}")
        return answer

    def close(self) -> None:
        cast(IO[str], self._process.stdin).close()
        self._process.wait()


Order = Callable[..., dict[str, Any]]


def used(before: Mapping[str, Any], after: Mapping[str, Any], what: str, part: str) -> float:
    return float(after[what][part] - before[what][part])


def measure_row(row: Row, agent: Order, clients: Order, effort: Effort) -> Figures:
    """The figures of a row in one round."""
    agent(
        "start",
        command=row.command.split(),
        processes=row.processes,
        site=row.site.name,
        router=row.site.router,
        environment={**UNHELPED, **row.environment} if row.peer else row.environment,
        directives=row.directives,
    )
    try:
        url = f"{'wss' if row.site.tls else 'ws'}://{row.host}:{row.site.port}/"
        fresh = agent("look")
        opened = clients("open", url=url, window=row.window, count=effort.held)
        if opened["compressed"] != bool(row.window):
            raise SpeedError("it compresses" if opened["compressed"] else "it doesn't compress")
        time.sleep(SETTLE)
        held = agent("look")
        clients("talk", count=effort.talking, seconds=effort.warm)
        silent = agent("look")
        talk = clients("talk", count=effort.talking, seconds=effort.seconds)
        talked = agent("look")
        paced = clients("talk", count=effort.talking, seconds=effort.paced, rate=effort.rate)
        clients("close")
        closed = agent("look")
        knock = clients("knock", url=url, window=row.window, count=effort.knocking, seconds=effort.seconds)
        knocked = agent("look")
    finally:
        agent("stop")
    if not (talk["messages"] and knock["handshakes"] and paced["messages"]):
        raise SpeedError(f"nothing came back; handshakes: {knock['failures'] or 'none'}")
    figures: Figures = {
        "messages_per_second": talk["per_second"],
        "busy_p99_ms": talk["p99_ms"],
        "p50_ms": paced["p50_ms"],
        "p99_ms": paced["p99_ms"],
        "late": paced["late"],
        "handshakes_per_second": knock["per_second"],
        "handshake_p99_ms": knock["p99_ms"],
        "failed": knock["failed"],
        "spread": statistics.pstdev(
            count - fresh["sockets"].get(pid, 0) for pid, count in held["sockets"].items()
        ),
    }
    for part in ("processes", "router"):
        figures[f"message_us_{part}"] = 1e6 * used(silent, talked, "cpu", part) / talk["messages"]
        figures[f"handshake_us_{part}"] = 1e6 * used(closed, knocked, "cpu", part) / knock["handshakes"]
        figures[f"kib_{part}"] = used(fresh, held, "memory", part) / 1024 / effort.held
    return derive(figures)


def derive(figures: Figures) -> Figures:
    """Add the sums of processes and router, and what a core would do."""
    for name in ("message_us", "handshake_us", "kib"):
        figures[name] = figures[f"{name}_processes"] + figures[f"{name}_router"]
    figures["messages_per_core"] = 1e6 / figures["message_us"] if figures["message_us"] else 0.0
    figures["handshakes_per_core"] = 1e6 / figures["handshake_us"] if figures["handshake_us"] else 0.0
    return figures


def measure_rounds(
    rows: Sequence[Row],
    rounds: int,
    measure: Callable[[Row], Figures],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure rows in turns; one that can't be measured is left out from then on."""
    measured: dict[str, list[Figures]] = {row.name: [] for row in rows}
    errors: dict[str, str] = {}
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        for row in rows:
            if row.name in errors:
                continue
            try:
                figures = measure(row)
            except SpeedError as error:
                if any(other.base == row.name for other in rows):
                    raise  # nothing to compare with
                errors[row.name] = str(error)
                say(f"  {row.name}: {error}")
                continue
            measured[row.name].append(figures)
            say(
                f"  {row.name}: {figures['messages_per_core']:,.0f} messages/s per core, "
                f"{figures['handshakes_per_core']:,.0f} handshakes/s per core, {figures['kib']:.0f} KiB"
            )
    rows = [row for row in rows if row.name not in errors]
    return {
        "rounds": rounds,
        "rows": {row.name: combine(measured[row.name], measured[row.base]) for row in rows},
        "errors": errors,
    }


def combine(figures: Sequence[Figures], base: Sequence[Figures]) -> dict[str, Any]:
    """The medians over the rounds, with ratios to the base, and how much a row differed between the rounds."""
    medians = {name: round(statistics.median(each[name] for each in figures), 3) for name in figures[0]}
    ratios = {
        name: round(statistics.median(each[name] / other[name] for each, other in zip(figures, base, strict=True)), 3)
        for name in COMPARED
        if all(other[name] for other in base)
    }  # fmt: skip
    rates = [each["messages_per_core"] for each in figures]
    differed = (max(rates) - min(rates)) / medians["messages_per_core"] if medians["messages_per_core"] else 0
    return {**medians, "ratios": ratios, "differed": round(differed, 3)}


def peer_versions() -> dict[str, str]:
    """The versions of the peers that are locked; Node's are Debian's."""
    lock = (servers.ROOT / "bench" / "speed" / "requirements.txt").read_text()
    return dict(re.findall(r"^(uvicorn|wsproto|hypercorn|daphne|uvloop)==(\S+)", lock, re.MULTILINE))


COMPARED = ("messages_per_core", "handshakes_per_core", "p50_ms", "p99_ms", "kib", "kib_processes")


def measure_speed(
    engine: servers.Engine,
    fleet: str,
    inventory: Path,
    play: Callable[..., float],
    say: Callable[[str], None],
    names: Sequence[str],
    rounds: int,
    effort: Effort,
) -> dict[str, Any]:
    """Return the figures of these rows."""
    rows = choose(names)
    say("first deployment")
    servers.up(engine, fleet, [*HOSTS, CLIENT], inventory)
    play("speed", PLAYBOOK, [*HOSTS, CLIENT], VARIABLES)
    programs = {
        host.name: Program(engine, servers.container(fleet, host.name), "python3", f"{PROGRAMS}/agent.py")
        for host in HOSTS
    }
    clients = Program(
        engine, servers.container(fleet, CLIENT.name), f"{BIN}/python", f"{PROGRAMS}/clients.py"
    )
    try:
        measured = measure_rounds(
            rows, rounds, lambda row: measure_row(row, programs[row.host], clients, effort), say
        )
        return {**measured, "peers": peer_versions(), **asdict(effort)}
    finally:
        for program in (clients, *programs.values()):
            program.close()


# --- write ------------------------------------------------------------------------------------------------


def present(speed: Mapping[str, Any]) -> list[Row]:
    return [row for row in ROWS if row.name in speed["rows"]]


HEAD = [
    "row",
    "served by",
    "messages/s per core",
    "ratio",
    "µs per message: processes + router",
    "p50 ms",
    "p99 ms",
    "ratio",
    "handshakes/s per core",
    "ratio",
    "KiB per idle connection: processes + router",
    "ratio",
]


def ratio(figures: Mapping[str, Any], name: str) -> str:
    return f"{figures['ratios'][name]:.2f}" if name in figures["ratios"] else ""


def cells(row: Row, figures: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    return [
        f"`{row.name}`",
        row.title,
        f"{figures['messages_per_core']:,.0f}",
        ratio(figures, "messages_per_core"),
        f"{figures['message_us_processes']:.0f} + {figures['message_us_router']:.0f}",
        f"{figures['p50_ms']:.2f}",
        f"{figures['p99_ms']:.2f}",
        ratio(figures, "p99_ms"),
        f"{figures['handshakes_per_core']:,.0f}",
        ratio(figures, "handshakes_per_core"),
        f"{figures['kib_processes']:.0f} + {figures['kib_router']:.0f}",
        ratio(figures, "kib"),
    ]


def groups(speed: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """The rows, by what they have in common, with titles."""
    tables: dict[str, list[list[str]]] = {}
    for row in present(speed):
        title = f"{'' if row.site.tls else 'no '}TLS, {'' if row.window else 'no '}compression"
        tables.setdefault(title, []).append(cells(row, speed["rows"][row.name]))
    return list(tables.items())


# Figure, what it is called, whether more is better, and its noise: a peer that leads by less doesn't lead.
GOALS = (
    ("messages_per_core", "messages/s per core", True, 0.03),
    ("p99_ms", "p99", False, 0.1),
    # The same nginx is before all of them; its part differs as its heap happens to have holes.
    ("kib_processes", "memory of the process per idle connection", False, 0.03),
)


def judge(speed: Mapping[str, Any]) -> Iterator[str]:
    """Yield for each goal how the default chain stands beside its best peer."""
    for name, title, more, noise in GOALS:
        for base in dict.fromkeys(row.base for row in ROWS if row.peer):
            peers = [
                (speed["rows"][row.name]["ratios"][name], row)
                for row in present(speed)
                if row.peer and row.base == base and name in speed["rows"][row.name]["ratios"]
            ]
            if not peers:
                continue
            lead, row = (max if more else min)(peers, key=lambda peer: peer[0])
            if lead > 1 + noise if more else lead < 1 - noise:
                verdict = f"behind {row.title}"
            else:
                verdict = f"at least equal to {row.title}, the best peer"
            yield f"{title}, `{base}`: {verdict} (ratio {lead:.2f}, `{row.name}`)."


@dataclass(frozen=True)
class Choice:
    """A default of the roles, and the rows with the alternatives, whose base has the default."""

    setting: str
    value: str
    others: tuple[str, ...]


CHOICES = (
    Choice("event loop, `WS_LOOP`", "auto, uvloop here", ("asyncio",)),
    Choice("`MALLOC_TOP_PAD_`, on asyncio", "1 MiB", ("top_pad",)),
    Choice("`ws_app_compression`", "balanced", ("memory", "ratio", "off")),
    Choice("`ws_supervisor_processes`", "auto", ("two_processes", "four_processes")),
    Choice("`ws_router`", "nginx", ("haproxy", "reuse_port")),
    Choice("nginx's `ssl_buffer_size`", "nginx's own, 16k", ("small_records",)),
    Choice("nginx's `proxy_buffer_size`", "nginx's own, 4k", ("small_buffers",)),
    Choice("key of a certificate, `ws_tls`", "P-256", ("rsa",)),
    Choice("Python", "3.13, Debian 13's", ("python311",)),
)
CHOICES_HEAD = [
    "default",
    "is",
    "in row",
    "instead",
    "messages/s per core",
    "handshakes/s per core",
    "p99",
    "memory",
]


def choice_rows(speed: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield what each alternative to a default would change, as ratios to the row with the default."""
    columns = ("messages_per_core", "handshakes_per_core", "p99_ms", "kib")
    for choice in CHOICES:
        for name in choice.others:
            if figures := speed["rows"].get(name):
                ratios = [ratio(figures, column) for column in columns]
                yield [choice.setting, choice.value, f"`{BY_NAME[name].base}`", f"`{name}`", *ratios]


def notes(speed: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is to be known of the figures."""
    differed = max((figures["differed"] for figures in speed["rows"].values()), default=0)
    yield f"Rounds: {speed['rounds']}; messages/s differed between them by at most {differed:.0%} of a row's median."
    yield f"Peers: {', '.join(f'{name} {version}' for name, version in speed['peers'].items())}."
    for name, text in speed["errors"].items():
        yield f"`{name}` couldn't be measured: {text}"
    for row in present(speed):
        figures = speed["rows"][row.name]
        if figures["failed"]:
            yield f"`{row.name}`: {figures['failed']:.0f} handshakes failed in a round."
        if figures["late"]:
            yield f"`{row.name}`: {figures['late']:.0f} messages of the pace had to wait for the one before."


ROUTERS_HEAD = [
    "router",
    "handshakes/s",
    "p99 ms",
    "messages/s",
    "p99 ms",
    "spread",
    "KiB per connection",
    "failed in a restart",
]


def router_rows(speed: Mapping[str, Any], routers: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The README's table: a row for each router, with what its restart lost."""
    return [
        [
            f"`{restart['router']}`",
            f"{figures['handshakes_per_second']:,.0f}",
            f"{figures['handshake_p99_ms']:,.0f}",
            f"{figures['messages_per_second']:,.0f}",
            f"{figures['busy_p99_ms']:,.0f}",
            f"{figures['spread']:.1f}",
            f"{figures['kib']:.0f}",
            f"{restart['lost']:,} of {restart['attempts']:,}",
        ]
        for restart in routers
        if (figures := speed["rows"].get(ROUTERS[restart["router"]]))
    ]
