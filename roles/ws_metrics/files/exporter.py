# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One address of a host at which Prometheus finds the figures of all its websockets apps.

Each scrape asks every process there is, all at once, each for a limited time: one that is stuck costs its own series,
not the scrape. What serves has the labels app and slot. Processes that drain have no label of their own, since every
rollout would add some for ever: what they hold and close is summed up for their slot.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import re
import ssl
import typing as t
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET, AF_INET6

from prometheus_client import CONTENT_TYPE_LATEST, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from served import PROXY, not_after

LIMIT = 2.0  # seconds for each answer
MOST = 1 << 20  # bytes of an answer
STATES = ("STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL", "UNKNOWN")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, order=True)
class Slot:
    """A numbered place of an app."""

    app: str
    number: str

    @property
    def labels(self) -> dict[str, str]:
        """What its series have."""
        return {"app": self.app, "slot": self.number}


@dataclass
class Place:
    """What there is of a slot on disk: which generation serves it, and the sockets of those that say something."""

    serving: str = ""
    sockets: dict[str, Path] = field(default_factory=dict)


def find(run: Path) -> dict[Slot, Place]:
    """The slots of all apps on the host; layout: plugins/module_utils/generation.py."""
    places: dict[Slot, Place] = defaultdict(Place)
    for link in run.glob("*/*_*.sock"):
        slot = slot_of(link)
        if slot and link.is_symlink() and (target := re.match(r"g(\d+)/", str(link.readlink()))):
            places[slot].serving = target[1]
    for path in run.glob("*/g*/*_*.metrics"):
        slot = slot_of(path, folder=path.parent.parent)
        if slot and (generation := re.fullmatch(r"g(\d+)", path.parent.name)):
            places[slot].sockets[generation[1]] = path
    return dict(sorted(places.items()))


def slot_of(path: Path, folder: Path | None = None) -> Slot | None:
    """Whose a path is, if it is one of ours."""
    app = (folder or path.parent).name
    match = re.fullmatch(rf"{re.escape(app)}_(\d\d+)", path.stem)
    return Slot(app, match[1]) if match else None


async def ask(path: Path) -> list[Metric]:
    """The figures of one process; OSError or ValueError if it says none."""
    text = await read(path, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _empty, body = text.partition(b"\r\n\r\n")
    if not re.match(rb"HTTP/1\.1 200 ", head):
        raise ValueError(f"{path} answers {head[:20]!r}")
    return list(text_string_to_metric_families(body.decode()))


async def read(path: Path, request: bytes = b"") -> bytes:
    """All that is said at a unix socket, within the limit."""
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_unix_connection(path, limit=MOST)
        try:
            writer.write(request)
            text = b""
            while chunk := await reader.read(MOST):
                text += chunk
                if len(text) > MOST:
                    raise ValueError(f"{path} says too much")
            return text
        finally:
            writer.close()


async def processes(path: Path) -> list[list[str]] | None:
    """Group and state of supervisord's processes, as states.py says it; None if it is silent."""
    try:
        said: list[list[str]] | None = json.loads(await read(path))
    except (OSError, ValueError):
        return None
    return said


async def expiry(name: str, port: int, proxied: bool) -> float | None:
    """When the certificate ends that clients are shown for a name, in Unix time; None if that can't be known."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(LIMIT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                if proxied:
                    writer.write(PROXY)
                await writer.start_tls(context, server_hostname=name)
                shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                # A whole request: one that doesn't come would be a failed handshake in what we count.
                writer.write(
                    b"GET /healthz HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % name.encode()
                )
                await reader.read(1)
            finally:
                writer.close()
        end: float = not_after(shown).timestamp()
    except (OSError, ValueError):
        return None
    return end


def listeners(folder: Path) -> list[tuple[str, str, int, bool]]:
    """App, name and port of what shows certificates, and whether it wants the PROXY protocol, as the role wrote it."""
    found = []
    for file in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):  # it is being replaced, or removed
            said = json.loads(file.read_text())
            found += [
                (file.stem, name, said["port"], said.get("proxy_protocol", False)) for name in said["names"]
            ]
    return found


class Host:
    """The figures of the host, anew for each scrape."""

    def __init__(self, run: Path, apps: Path, states: Path) -> None:
        self._run = run
        self._apps = apps
        self._states = states

    def collect(self) -> t.Iterator[Metric]:
        """All of them, as prometheus_client writes them."""
        return iter(asyncio.run(self._collect()))

    async def _collect(self) -> list[Metric]:
        places = find(self._run)
        sockets = [(slot, number) for slot, place in places.items() for number in place.sockets]
        shown = listeners(self._apps)
        answers, states, ends = await asyncio.gather(
            asyncio.gather(
                *(ask(places[slot].sockets[number]) for slot, number in sockets), return_exceptions=True
            ),
            processes(self._states),
            asyncio.gather(*(expiry(name, port, proxied) for _app, name, port, proxied in shown)),
        )
        said = {
            key: answer
            for key, answer in zip(sockets, answers, strict=True)
            if not isinstance(answer, BaseException)
        }
        return [
            *serving(places, said),
            *draining(places, said),
            *up(places, said, states),
            *supervised(places, states),
            *certificates(shown, ends),
        ]


Said = dict[tuple[Slot, str], list[Metric]]


def serving(places: dict[Slot, Place], said: Said) -> t.Iterable[Metric]:
    """What the processes that serve say, by app and slot."""
    families: dict[str, Metric] = {}
    for slot, place in places.items():
        for family in said.get((slot, place.serving), ()):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                merged.add_sample(sample.name, {**sample.labels, **slot.labels}, sample.value)
    return families.values()


def draining(places: dict[Slot, Place], said: Said) -> t.Iterable[Metric]:
    """What the processes hold and have closed that are about to go, by app and slot."""
    held = dict.fromkeys(places, 0.0)
    closed: dict[tuple[Slot, str], float] = defaultdict(float)
    for (slot, number), families in said.items():
        values = {
            (sample.name, sample.labels.get("code", "")): sample.value
            for family in families
            for sample in family.samples
        }
        if number == places[slot].serving or not values.get(("ws_draining", "")):
            continue
        held[slot] += values.get(("ws_connections", ""), 0.0)
        for (name, code), value in values.items():
            if name == "ws_connections_closed_total":
                closed[slot, code] += value
    connections = GaugeMetricFamily(
        "ws_draining_connections",
        "Open connections of processes that are about to go",
        labels=["app", "slot"],
    )
    closes = CounterMetricFamily(
        "ws_draining_connections_closed",
        "Connections that processes have closed which are about to go",
        labels=["app", "slot", "code"],
    )
    for slot, value in held.items():
        connections.add_metric([slot.app, slot.number], value)
    for (slot, code), value in sorted(closed.items()):
        closes.add_metric([slot.app, slot.number, code], value)
    return connections, closes


def up(places: dict[Slot, Place], said: Said, states: list[list[str]] | None) -> t.Iterable[Metric]:
    """Which slots are served: the process answers, or, of an app that says nothing, runs."""
    family = GaugeMetricFamily(
        "ws_up",
        "1 if the slot's process answers, or runs where it isn't one that answers",
        labels=["app", "slot"],
    )
    running = {group for group, state in states or () if state == "RUNNING"}
    for slot, place in places.items():
        if place.serving:
            is_up = (
                (slot, place.serving) in said
                if place.serving in place.sockets
                else f"{slot.app}_{slot.number}-g{place.serving}" in running
            )
            family.add_metric([slot.app, slot.number], is_up)
    return [family]


def supervised(places: dict[Slot, Place], states: list[list[str]] | None) -> t.Iterable[Metric]:
    """How many processes of each slot are in each state of supervisord's, old ones too."""
    reached = GaugeMetricFamily("ws_supervisor_up", "1 if supervisord says the states of its processes")
    reached.add_metric([], states is not None)
    family = GaugeMetricFamily(
        "ws_supervisor_processes",
        "Processes in this state, those that drain included",
        labels=["app", "slot", "state"],
    )
    if states is not None:
        counts = {(slot, state): 0 for slot in places for state in STATES}
        for group, state in states:
            match = re.fullmatch(r"(.+)_(\d\d+)-g\d+", group)
            key = (Slot(match[1], match[2]), state) if match else None
            if key in counts:
                counts[key] += 1
        for (slot, state), count in counts.items():
            family.add_metric([slot.app, slot.number, state], count)
    return reached, family


def certificates(
    shown: list[tuple[str, str, int, bool]], ends: t.Sequence[float | None]
) -> t.Iterable[Metric]:
    """When the certificates end that clients are shown."""
    family = GaugeMetricFamily(
        "ws_certificate_not_after_seconds",
        "When the certificate ends that clients are shown, in Unix time",
        labels=["app", "name", "port"],
    )
    for (app, name, port, _proxied), end in zip(shown, ends, strict=True):
        if end is not None:
            family.add_metric([app, name, str(port)], end)
    return [family]


class Answers(BaseHTTPRequestHandler):
    """Answers GET /metrics."""

    host: Host
    timeout = 10

    def do_GET(self) -> None:
        """Answer."""
        if self.path.partition("?")[0] != "/metrics":
            self._answer(404, b"there is /metrics\n")
        else:
            self._answer(200, generate_latest(t.cast(t.Any, self.host)), CONTENT_TYPE_LATEST)

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: it would be a line for each scrape."""


class Server(ThreadingHTTPServer):
    """Has a thread for each of those who are allowed to ask, and closes the connections of others at once."""

    daemon_threads = True

    def __init__(self, host: Host, address: str, port: int, allowed: t.Sequence[Network]) -> None:
        self.address_family = AF_INET6 if ":" in address else AF_INET
        self.allowed = allowed
        super().__init__((address, port), type("Answers", (Answers,), {"host": host}))

    def verify_request(self, _request: object, client_address: tuple[str, int]) -> bool:
        """Tell whether the client is allowed to ask."""
        address = ipaddress.ip_address(client_address[0].partition("%")[0])
        plain = getattr(address, "ipv4_mapped", None) or address
        return any(plain in network for network in self.allowed)


def main() -> None:
    """Serve until the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--allow", type=ipaddress.ip_network, nargs="*", default=[])
    parser.add_argument("--run", type=Path, default=Path("/run"))
    parser.add_argument("--apps", type=Path, default=Path("/etc/wsfleet-metrics"))
    parser.add_argument("--states", type=Path, default=Path("/run/wsfleet-metrics.sock"))
    options = parser.parse_args()
    host = Host(options.run, options.apps, options.states)
    Server(host, options.address, options.port, options.allow).serve_forever()


if __name__ == "__main__":
    main()
