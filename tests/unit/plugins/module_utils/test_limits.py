# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which limit is hit first and at how many clients, on a host that exists for the test only."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout
from ansible_collections.wsfleet.websockets.plugins.module_utils.haproxy import Runtime
from ansible_collections.wsfleet.websockets.plugins.module_utils.info import Info
from ansible_collections.wsfleet.websockets.plugins.module_utils.limits import Limits
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError
from ansible_collections.wsfleet.websockets.plugins.module_utils.supervisor import Supervisor

from tests.unit.plugins.module_utils.fake_haproxy import FakeServer, Haproxy
from tests.unit.plugins.module_utils.fake_host import Host

SUPERVISORD = 50
WORKERS = (801, 802)
NGINX = """\
# configuration file /etc/nginx/nginx.conf:
events {
    worker_connections 1024;
}
upstream wsfleet_echo {
    server unix:/run/echo/echo_00.sock max_fails=0;
}
"""
OTHERS = """\
upstream others {
    server 192.0.2.80:8080;
    server 192.0.2.81:8080 backup;
}
"""
TCP_HEAD = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)


class Machine(Host):
    """A host with two processes behind nginx, each limit so high that it isn't hit first, unless a test lowers it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.proc_folder = self.proc.folder
        self.unread: list[str] = []
        self.sockets_of_ss = ""
        self.nginx_says = NGINX
        self.haproxy = Runtime(str(root / "no.sock"))
        self.rows = 0
        (root / "proc/net/tcp").write_text(TCP_HEAD)
        self.write("uptime", "1000.00 0.00\n")
        self.kernel(net__core__somaxconn="4096", net__ipv4__ip_local_port_range="32768\t60999")
        self.write("sys/fs/file-nr", f"2000\t0\t{2**63 - 1}\n")
        self.proc.available(100_000)
        self.process(SUPERVISORD, "supervisord", nofile=(1024, 524288))
        self.roll()
        self.pids = [self.pid("echo_00-g1"), self.pid("echo_01-g1")]
        for n, pid in enumerate(self.pids):
            (self.layout.run / f"g1/echo_0{n}.sock").touch()
            self.process(pid, "python", parent=SUPERVISORD)
            self.environment(pid)
            self.proc.listen(pid, f"echo_0{n}.sock")

    def write(self, name: str, text: str) -> None:
        path = self.proc_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def kernel(self, **values: str) -> None:
        for name, value in values.items():
            self.write(f"sys/{name.replace('__', '/')}", f"{value}\n")

    def process(
        self, pid: int, title: str, parent: int = 1, nofile: tuple[int, int] = (524288, 524288)
    ) -> None:
        self.write(f"{pid}/cmdline", title)
        self.write(f"{pid}/stat", f"{pid} (x) S {parent} {'0 ' * 17}5000 0\n")
        self.limit(pid, *nofile)
        (self.proc_folder / f"{pid}/fd").mkdir(exist_ok=True)

    def limit(self, pid: int, soft: int, hard: int) -> None:
        self.write(
            f"{pid}/limits", f"Max open files            {soft}                {hard}               files \n"
        )

    def environment(self, pid: int, **variables: str) -> None:
        self.write(f"{pid}/environ", "".join(f"{name}={value}\0" for name, value in variables.items()))

    def tcp(self, pid: int, port: int, state: str) -> None:
        self.rows += 1
        inode = 90000 + self.rows
        (self.proc_folder / f"{pid}/fd/{inode}").symlink_to(f"socket:[{inode}]")
        with (self.proc_folder / "net/tcp").open("a") as table:
            table.write(f"0: 00000000:{port:04X} 00000000:0000 {state} 0:0 00:0 0 0 0 {inode} 1\n")

    def with_nginx(self, clients: int = 0, nofile: int = 17408) -> Machine:
        for pid in WORKERS:
            self.process(pid, "nginx: worker process", nofile=(nofile, nofile))
            self.tcp(pid, 443, "0A")
            self.tcp(pid, 80, "0A")
        for _n in range(clients):
            self.tcp(WORKERS[0], 443, "01")
        return self

    def run_program(self, _step: str, command: list[str]) -> str:
        if command[0] == "ss":
            return self.sockets_of_ss
        if not self.nginx_says:
            raise StepError("nginx -T failed: unknown directive")
        return self.nginx_says

    def look(self) -> dict[str, t.Any]:
        kernel = Kernel(self.proc_folder)
        info = Info(self.layout, t.cast(Supervisor, self.supervisor), kernel).result()
        found: dict[str, t.Any] = Limits(
            self.layout,
            info,
            kernel,
            self.haproxy,
            self.run_program,
            lambda _pid_file, paths: [path for path in self.unread if Path(path) in paths],
            self.root,
        ).result()
        return found

    def link(self, name: str) -> dict[str, t.Any]:
        [found] = [link for link in self.look()["links"] if name in link["name"]]
        return dict(found)


@pytest.fixture
def host(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def behind(*servers: str) -> str:
    """What nginx says where it has these servers, and those of somebody else's site."""
    lines = "".join(f"    server {server};\n" for server in servers)
    return NGINX.replace("upstream wsfleet_echo {\n", f"{OTHERS}upstream wsfleet_echo {{\n{lines}") + OTHERS


def first(host: Machine) -> tuple[str, int, str]:
    found = host.look()["first"]
    return found["name"], found["connections"], found["variable"]


def test_bare_host(tmp_path: Path) -> None:
    layout = Layout("echo", "/opt/echo", str(tmp_path))
    kernel = Kernel(tmp_path / "proc")
    seen = Limits(
        layout, Info(layout, None, kernel).result(), kernel, Runtime("/nowhere"), root=tmp_path
    ).result()
    nothing: dict[str, t.Any] = {"links": [], "first": None, "backlogs": [], "drift": []}
    assert seen == {"app": "echo", "release": "", "clients": 0, **nothing}


def test_worker_connections_are_two_for_each_client_and_some_of_its_own(host: Machine) -> None:
    host.with_nginx(clients=3)
    # Two listening sockets and the channel to the master: 1021 are left.
    assert first(host) == ("worker_connections of an nginx worker", 510, "ws_nginx_connections")
    assert host.look()["clients"] == 3
    assert host.link("worker_connections")["used"] == 9


def test_without_the_directive_nginx_has_its_default(host: Machine) -> None:
    host.nginx_says = "upstream wsfleet_echo {\n}\n"
    assert first(host.with_nginx())[1] == (512 - 3) // 2


def test_descriptors_of_nginx(host: Machine) -> None:
    host.with_nginx(clients=4, nofile=206)
    for n in range(4):  # what those clients have at the processes
        (host.proc_folder / f"{WORKERS[0]}/fd/upstream{n}").symlink_to(f"socket:[{n}]")
    # The listening sockets take two.
    assert first(host) == ("descriptors of an nginx worker", 102, "ws_nginx_connections")


def test_nginx_that_serves_others_only_is_no_link(host: Machine) -> None:
    host.nginx_says = "upstream wsfleet_chat {\n}\n"
    assert not any("nginx" in link["name"] for link in host.with_nginx().look()["links"])


def test_max_connections_of_all_processes(host: Machine) -> None:
    for pid in host.pids:
        host.environment(pid, WS_MAX_CONNECTIONS="50")
    assert first(host.with_nginx()) == ("max_connections of the processes", 100, "ws_app_max_connections")
    host.environment(host.pids[0], WS_MAX_CONNECTIONS="0")
    assert not any("max_connections" in link["name"] for link in host.look()["links"]), "one has no limit"


def test_descriptors_of_the_process_with_the_least(host: Machine) -> None:
    host.limit(host.pids[1], 101, 101)
    # One is the socket that it listens on.
    assert first(host.with_nginx()) == ("descriptors of a process", 200, "ws_supervisor_nofile")


def test_what_supervisord_hands_on_counts_for_the_next_processes(host: Machine) -> None:
    assert not any("supervisord" in link["name"] for link in host.look()["links"])
    host.limit(SUPERVISORD, 1024, 201)
    assert first(host.with_nginx())[1:] == (400, "ws_supervisor_nofile")
    assert "supervisord" in first(host)[0]


def test_memory_by_the_compression_that_runs(host: Machine) -> None:
    host.proc.available(112)
    assert first(host) == ("memory", 112 * 1024 // 69, "ws_app_compression, or more memory")
    host.environment(host.pids[0], WS_COMPRESSION="ratio")
    assert host.link("memory")["connections"] == 112 * 1024 // 321
    host.with_nginx(clients=10)
    assert host.link("memory")["connections"] == 10 + 112 * 1024 // (317 + 66 + 9)


def test_open_files_where_they_are_limited(host: Machine) -> None:
    assert not any("file-max" in link["name"] for link in host.look()["links"])
    host.write("sys/fs/file-nr", "400\t0\t1000\n")
    assert host.with_nginx().link("file-max")["connections"] == 200


def test_tracked_connections(host: Machine) -> None:
    host.kernel(net__netfilter__nf_conntrack_max="1000", net__netfilter__nf_conntrack_count="300")
    assert host.link("nf_conntrack_max")["connections"] == 700
    host.nginx_says = behind()
    assert host.with_nginx(clients=5).link("nf_conntrack_max")["connections"] == 5 + 700, (
        "it reaches others only"
    )
    host.nginx_says = behind("192.0.2.7:443 max_fails=1")
    assert host.link("nf_conntrack_max")["connections"] == 5 + 350


def test_ports_towards_servers(host: Machine) -> None:
    host.nginx_says = behind("192.0.2.7:443 max_fails=1", "[2001:db8::7]:443")
    host.with_nginx()
    host.tcp(WORKERS[0], 40000, "01")
    link = host.link("ports")
    assert (link["connections"], link["used"], link["variable"]) == (2 * 28232, 1, "ws_host_preset")


def test_haproxy(host: Machine, haproxy: Haproxy) -> None:
    host.haproxy = Runtime(str(haproxy.path))
    host.process(900, "haproxy")
    haproxy.backends = {"wsfleet_echo": {"ws1": FakeServer(), "ws2": FakeServer()}}
    haproxy.info |= {"CurrConns": 7, "Maxconn": 300, "Maxsock": 650, "Ulimit-n": 651}
    assert first(host) == ("maxconn of HAProxy", 300, "ws_haproxy_connections")
    assert host.link("descriptors of HAProxy")["connections"] == 300
    assert host.link("ports")["connections"] == 2 * 28232
    assert host.look()["clients"] == 7
    haproxy.backends = {"wsfleet_chat": {"ws1": FakeServer()}}
    assert not any("HAProxy" in link["name"] for link in host.look()["links"])


def test_backlogs_of_slots_and_ports(host: Machine) -> None:
    host.with_nginx()
    host.sockets_of_ss = (
        "u_str LISTEN 0 100  echo_00.sock 123 * 0\n"
        "u_str LISTEN 2 4096 echo_01.sock 124 * 0\n"
        "u_str LISTEN 0 10   /run/other.sock 125 * 0\n"
        "tcp   LISTEN 0 511  0.0.0.0:443 0.0.0.0:*\n"
        "tcp   LISTEN 0 4096 [::]:443 [::]:*\n"
        "tcp   LISTEN 0 128  0.0.0.0:22 0.0.0.0:*\n"
    )
    assert host.look()["backlogs"] == [
        {"name": "echo_00.sock", "limit": 100, "waiting": 0, "variable": "WS_BACKLOG in ws_app_environment"},
        {"name": "echo_01.sock", "limit": 4096, "waiting": 2, "variable": "ws_host_preset"},
        {"name": "port 443", "limit": 511, "waiting": 0, "variable": "ws_nginx_connections"},
    ]


def test_backlog_of_a_port_that_the_processes_share(host: Machine) -> None:
    for pid in host.pids:
        host.environment(pid, WS_SHARED_PORT="8443")
    host.sockets_of_ss = (
        "tcp   LISTEN 0 4096 0.0.0.0:8443 0.0.0.0:*\n"
        "tcp   LISTEN 3 1024 0.0.0.0:8443 0.0.0.0:*\n"
        "tcp   LISTEN 0 128  0.0.0.0:22 0.0.0.0:*\n"
    )
    assert host.look()["backlogs"] == [
        {"name": "port 8443", "limit": 1024, "waiting": 3, "variable": "WS_BACKLOG in ws_app_environment"}
    ]


def test_nothing_has_drifted(host: Machine) -> None:
    assert host.with_nginx().look()["drift"] == []


def test_configuration_that_is_not_loaded(host: Machine) -> None:
    site = host.root / "etc/nginx/conf.d/wsfleet-echo.conf"
    site.parent.mkdir(parents=True)
    site.touch()
    host.unread = [str(site), str(host.root / "etc/haproxy/haproxy.cfg")]
    drift = host.look()["drift"]
    assert drift[0] == f"{site} was changed since nginx was loaded: check it by nginx -t, then reload nginx"
    assert "haproxy.cfg was changed" in drift[1]


def test_configuration_that_nginx_refuses(host: Machine) -> None:
    host.nginx_says = ""
    assert host.with_nginx().look()["drift"] == [
        "nginx refuses its configuration on disk: nginx -T failed: unknown directive"
    ]


def test_sockets_without_a_process_and_slots_without_a_socket(host: Machine) -> None:
    host.proc.end(host.pids[1])
    host.process(host.pids[1], "python", parent=SUPERVISORD)  # lives, and doesn't listen
    stray = host.layout.run / "g1/echo_01.sock"
    assert host.look()["drift"] == [f"{stray} is there, and no process listens on it"]
    stray.unlink()
    assert host.look()["drift"] == [f"echo_01 points at {stray}, which doesn't exist"]
    left = host.layout.run / "g7/echo_00.sock"
    left.parent.mkdir()
    left.touch()
    assert f"{left} is there, and no process listens on it" in host.look()["drift"]


def test_old_workers(host: Machine) -> None:
    host.with_nginx()
    host.process(803, "nginx: worker process is shutting down")
    host.tcp(803, 443, "01")
    assert host.look()["drift"] == [
        "nginx worker 803 was replaced by a reload and stays until its 1 connections end"
    ]


def test_lowered_kernel_parameters(host: Machine) -> None:
    file = host.root / "etc/sysctl.d/60-wsfleet-host.conf"
    file.parent.mkdir()
    file.write_text("# a reason\n-net.core.somaxconn = 16384\n-net.netfilter.nf_conntrack_max = 5\n")
    assert host.look()["drift"] == [f"net.core.somaxconn is 4096, but {file} has 16384"]
    host.kernel(net__core__somaxconn="65535")
    assert host.look()["drift"] == []
