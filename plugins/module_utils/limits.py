# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many clients a host takes: every limit from the kernel to the proxy, by live values. Reads only."""

from __future__ import annotations

import re
import typing as t
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout
from ansible_collections.wsfleet.websockets.plugins.module_utils.haproxy import (
    HaproxyError,
    NotRunningError,
    Runtime,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address
from ansible_collections.wsfleet.websockets.plugins.module_utils.info import NGINX_OLD_WORKER, NGINX_WORKER
from ansible_collections.wsfleet.websockets.plugins.module_utils.memory import EDGE_BYTES, estimate
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel, unread
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError, run
from ansible_collections.wsfleet.websockets.plugins.module_utils.sysctl import parse, suffices

NGINX_FOLDERS = ("conf.d", "modules-enabled", "sites-enabled")
# What every nginx worker has beside connections, of which this is one to it: the channel to the master.
NGINX_CHANNEL = 1
NO_LIMIT = 2**62
BACKLOG = "WS_BACKLOG in ws_app_environment"


@dataclass(frozen=True)
class Link:
    """One link of the chain; it breaks above so many `connections` of clients."""

    name: str
    limit: int
    unit: str
    per_connection: int
    used: int
    connections: int
    variable: str


@dataclass(frozen=True)
class Backlog:
    """Connections that the kernel keeps until they are accepted: what limits a burst, not how many are open."""

    name: str
    limit: int
    waiting: int
    variable: str


@dataclass(frozen=True)
class Proxy:
    """What stands between the clients and the processes."""

    router: str
    connections: int
    destinations: set[str]  # servers that it reaches by TCP
    ports: set[int]
    variable: str


class Limits:
    """One look at the host, at which Info has looked before."""

    def __init__(
        self,
        layout: Layout,
        info: dict[str, t.Any],
        kernel: Kernel,
        haproxy: Runtime | None = None,
        run: t.Callable[[str, list[str]], str] = run,
        unread: t.Callable[[str | None, t.Iterable[Path]], list[str]] = unread,
        root: Path = Path("/"),
    ) -> None:
        self.layout = layout
        self.kernel = kernel
        self.root = root
        self._info = info
        self._run = run
        self._unread = unread
        self._slots = [slot for slot in info["slots"] if slot["pid"]]
        self._workers = self._find_workers()
        self.drift: list[str] = []
        self.links: list[Link] = []
        self._add_processes()
        proxies = [proxy for proxy in (self._add_nginx(), self._add_haproxy(haproxy or Runtime())) if proxy]
        self._proxy = proxies[0] if proxies else None
        self.clients = max(
            sum(slot["connections"] for slot in self._slots), self._proxy.connections if self._proxy else 0
        )
        if self._slots or self._proxy:
            self._add_host()
        self.backlogs = self._find_backlogs()
        self._compare()

    def result(self) -> dict[str, t.Any]:
        links = sorted(self.links, key=lambda link: link.connections)
        return {
            "app": self.layout.app,
            "release": self._info["release"],
            "clients": self.clients,
            "links": [asdict(link) for link in links],
            "first": asdict(links[0]) if links else None,
            "backlogs": [asdict(backlog) for backlog in self.backlogs],
            "drift": self.drift,
        }

    def _add(
        self,
        name: str,
        limit: int,
        unit: str,
        variable: str,
        *,
        per_connection: int = 1,
        used: int = 0,
        connections: int,
    ) -> None:
        if limit < NO_LIMIT:
            self.links.append(Link(name, limit, unit, per_connection, used, max(0, connections), variable))

    # the links, from the process outwards

    def _add_processes(self) -> None:
        if not self._slots:
            return
        number = len(self._slots)
        held = sum(slot["connections"] for slot in self._slots)
        limits = [int(self._environment(slot).get("WS_MAX_CONNECTIONS", "0") or 0) for slot in self._slots]
        if all(limits):
            total = sum(limits)
            self._add(
                "max_connections of the processes",
                total,
                "connections",
                "ws_app_max_connections",
                used=held,
                connections=total,
            )
        # Connections are spread evenly, so the one with the least room counts for all.
        rooms, handed_on = [], []
        for slot in self._slots:
            soft, _hard = self.kernel.nofile(slot["pid"])
            files = self.kernel.descriptors(slot["pid"])
            others = files - slot["connections"]
            rooms.append((soft - others, soft, files))
            _soft, hard = self.kernel.nofile(self.kernel.parent(slot["pid"]))
            handed_on.append((hard - others, hard))
        room, limit, files = min(rooms)
        self._add(
            "descriptors of a process",
            limit,
            "descriptors",
            "ws_supervisor_nofile",
            used=files,
            connections=room * number,
        )
        room, limit = min(handed_on)
        if limit < min(rooms)[1]:
            self._add(
                "descriptors that supervisord, started with less, gives the next processes",
                limit,
                "descriptors",
                "ws_supervisor_nofile",
                connections=room * number,
            )

    def _add_nginx(self) -> Proxy | None:
        if not self._workers:
            return None
        try:
            configuration = self._run("nginx -T", ["nginx", "-T", "-q"])
        except StepError as error:
            self.drift.append(f"nginx refuses its configuration on disk: {error}")
            return None
        upstream = re.search(
            rf"^\s*upstream wsfleet_{re.escape(self.layout.app)} \{{(.*?)\}}",
            configuration,
            re.MULTILINE | re.DOTALL,
        )
        if not upstream:
            return None
        held = {pid: self.kernel.accepted(pid) for pid in self._workers}
        found = re.search(r"^\s*worker_connections\s+(\d+);", configuration, re.MULTILINE)
        limit = int(found[1]) if found else 512
        # The kernel may give all clients to one worker, and that one refuses when it is full.
        fullest = max(self._workers, key=lambda pid: held[pid])
        others = self.kernel.listeners(fullest) + NGINX_CHANNEL
        self._add(
            "worker_connections of an nginx worker",
            limit,
            "connections",
            "ws_nginx_connections",
            per_connection=2,
            used=2 * held[fullest] + others,
            connections=(limit - others) // 2,
        )
        files = self.kernel.descriptors(fullest)
        soft = min(self.kernel.nofile(pid)[0] for pid in self._workers)
        self._add(
            "descriptors of an nginx worker",
            soft,
            "descriptors",
            "ws_nginx_connections",
            per_connection=2,
            used=files,
            connections=(soft - files + 2 * held[fullest]) // 2,
        )
        destinations = set(re.findall(r"^\s*server\s+(?!unix:)(\S+:\d+)[ ;]", upstream[1], re.MULTILINE))
        ports = set().union(*(self.kernel.listening_ports(pid) for pid in self._workers))
        return Proxy("nginx", sum(held.values()), destinations, ports, "ws_nginx_connections")

    def _add_haproxy(self, haproxy: Runtime) -> Proxy | None:
        try:
            destinations = haproxy.backends().get(f"wsfleet_{self.layout.app}")
            info = haproxy.info()
        except NotRunningError:
            return None
        except HaproxyError as error:
            self.drift.append(str(error))
            return None
        if destinations is None:
            return None
        held, maximum, files = (int(info[name]) for name in ("CurrConns", "Maxconn", "Ulimit-n"))
        self._add(
            "maxconn of HAProxy",
            maximum,
            "connections",
            "ws_haproxy_connections",
            used=held,
            connections=maximum,
        )
        others = max(0, int(info["Maxsock"]) - 2 * maximum)
        self._add(
            "descriptors of HAProxy",
            files,
            "descriptors",
            "ws_haproxy_connections",
            per_connection=2,
            used=2 * held + others,
            connections=(files - others) // 2,
        )
        pid = int(info["Pid"])
        ports = self.kernel.listening_ports(pid)
        return Proxy("haproxy", held, destinations, ports, "ws_haproxy_connections")

    def _add_host(self) -> None:
        """The limits that everything on the host shares."""
        proxy, clients = self._proxy, self.clients
        files = (2 if proxy else 0) + (1 if self._slots else 0)
        if numbers := self.kernel.numbers("sys/fs/file-nr"):
            self._add_shared("fs.file-max", numbers[2], "open files", files, numbers[0])
        count = self.kernel.numbers("sys/net/netfilter/nf_conntrack_count")
        maximum = self.kernel.numbers("sys/net/netfilter/nf_conntrack_max")
        if count and maximum:
            each = 2 if proxy and proxy.destinations else 1
            self._add_shared("nf_conntrack_max", maximum[0], "tracked connections", each, count[0])
        ports = self.kernel.numbers("sys/net/ipv4/ip_local_port_range")
        if proxy and proxy.destinations and ports:
            number = (ports[1] - ports[0] + 1) * len(proxy.destinations)
            self._add(
                "ports towards the servers",
                number,
                "ports",
                "ws_host_preset",
                used=self.kernel.outgoing(*ports),
                connections=number,
            )
        each = self._bytes_each() // 1024
        available = self.kernel.memory_available() // 1024
        self._add(
            "memory",
            available + clients * each,
            "KiB",
            "ws_app_compression, or more memory" if self._slots else "more memory",
            per_connection=each,
            used=clients * each,
            connections=clients + available // each,
        )

    def _add_shared(self, name: str, limit: int, unit: str, each: int, used: int) -> None:
        room = max(0, limit - used) // each
        self._add(
            name,
            limit,
            unit,
            "ws_host_preset",
            per_connection=each,
            used=used,
            connections=self.clients + room,
        )

    def _environment(self, slot: dict[str, t.Any]) -> dict[str, str]:
        environment: dict[str, str] = self.kernel.environment(slot["pid"])
        return environment

    def _bytes_each(self) -> int:
        """Memory per connection, with TLS; an app without the runner is taken to have the library's defaults."""
        router = self._proxy.router if self._proxy else ""
        found = [
            estimate(
                {"WS_COMPRESSION": "balanced"} | self._environment(slot),
                router,
                tls=True,
                handover="--handover" in self.kernel.title(slot["pid"]).split(),
            )
            for slot in self._slots
        ]
        each: int = max((each.connection_bytes for each in found if each), default=EDGE_BYTES.get(router, 0))
        return each

    def _find_workers(self) -> list[int]:
        titles = {pid: self.kernel.title(pid) for pid in self.kernel.pids()}
        return [
            pid
            for pid, title in titles.items()
            if title.startswith(NGINX_WORKER) and title != NGINX_OLD_WORKER
        ]

    # bursts

    def _find_backlogs(self) -> list[Backlog]:
        """Those of the slots and of the ports that clients come to, as the kernel has them since they listen."""
        try:
            rows = [
                line.split() for line in self._run("ss", ["ss", "-H", "-l", "-n", "-t", "-x"]).splitlines()
            ]
        except StepError:  # not every host has it
            return []
        somaxconn = next(iter(self.kernel.numbers("sys/net/core/somaxconn")), 0)
        found: dict[str, Backlog] = {}
        for row in rows:
            if len(row) < 5 or row[1] != "LISTEN" or not (known := self._entrance(row[0], row[4])):
                continue
            name, variable = known
            waiting, limit = int(row[2]), int(row[3])
            variable = "ws_host_preset" if limit >= somaxconn else variable
            if name not in found or limit < found[name].limit:
                found[name] = Backlog(name, limit, waiting, variable)
        return [found[name] for name in sorted(found)]

    def _entrance(self, kind: str, address: str) -> tuple[str, str] | None:
        """What listens there, and what sets its backlog; None if it isn't ours."""
        if kind == "tcp":
            port = int(address.rpartition(":")[2])
            if self._proxy and port in self._proxy.ports:
                return f"port {port}", self._proxy.variable
            return (f"port {port}", BACKLOG) if port in self._shared_ports() else None
        path = Path(address)
        if path.suffix == ".sock" and self.layout.slot(path.stem) is not None:
            return path.name, BACKLOG
        return None

    def _shared_ports(self) -> set[int]:
        """Those on which the processes listen themselves, without a proxy."""
        ports = (self._environment(slot).get("WS_SHARED_PORT", "") for slot in self._slots)
        return {int(port) for port in ports if port.isdecimal()}

    # drift

    def _compare(self) -> None:
        """Say where what runs isn't what is on disk."""
        nginx = self.root / "etc/nginx"
        haproxy = self.root / "etc/haproxy"
        files = [nginx / "nginx.conf", *(file for name in NGINX_FOLDERS for file in nginx.glob(f"{name}/*"))]
        for file in self._unread(str(self.root / "run/nginx.pid"), files):
            self.drift.append(
                f"{file} was changed since nginx was loaded: check it by nginx -t, then reload nginx"
            )
        files = [haproxy / "haproxy.cfg", *haproxy.glob("conf.d/*.cfg")]
        for file in self._unread(str(self.root / "run/haproxy.pid"), files):
            self.drift.append(
                f"{file} was changed since HAProxy was loaded: reload it, which checks it first"
            )
        self.drift += self._info["problems"]
        self.drift += self._strays()
        self.drift += [
            f"nginx worker {worker['pid']} was replaced by a reload and stays until its {worker['connections']} "
            "connections end"
            for worker in self._info["nginx"]["old_workers"]
        ]
        self.drift += self._sysctls()

    def _strays(self) -> list[str]:
        """Sockets of the app that nobody listens on."""
        members = {
            (member["slot"], member["generation"]): member["pid"]
            for member in (*self._info["draining"], *self._info["slots"])
            if member["pid"]
        }
        strays = []
        for socket in sorted(self.layout.run.glob("g*/*.sock")):
            slot, generation = self.layout.slot(socket.stem), self.layout.generation_at(str(socket.parent))
            if slot is None or generation is None:
                continue
            pid = members.get((slot, generation), 0)
            if not pid or not self.kernel.listens(pid, Address(str(socket))):
                strays.append(f"{socket} is there, and no process listens on it")
        return strays

    def _sysctls(self) -> list[str]:
        """Kernel parameters that were set by us and are lower now."""
        said = []
        for file in sorted(self.root.glob("etc/sysctl.d/*wsfleet*.conf")):
            for name, value in parse(file.read_text()).items():
                live = " ".join(map(str, self.kernel.numbers(f"sys/{name.replace('.', '/')}")))
                if live and not suffices(live, value):
                    said.append(f"{name} is {live}, but {file} has {value}")
        return said
