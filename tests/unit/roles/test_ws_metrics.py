# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exporter of role ws_metrics, over real sockets."""

from __future__ import annotations

import http.client
import importlib.util
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[3]
FILES = ROOT / "roles/ws_metrics/files"
MODULES = ROOT / "plugins/module_utils"  # where the role takes the other programs from
PATIENCE = 20

spec = importlib.util.spec_from_file_location("exporter", FILES / "exporter.py")
assert spec and spec.loader
exporter: Any = importlib.util.module_from_spec(spec)
sys.modules["exporter"] = exporter  # dataclasses look there
sys.path.append(str(MODULES))
spec.loader.exec_module(exporter)
sys.path.remove(str(MODULES))

FIGURES = """\
# HELP ws_connections Open connections
# TYPE ws_connections gauge
ws_connections {open}
# HELP ws_draining 1 while it drains
# TYPE ws_draining gauge
ws_draining {draining}
# HELP ws_connections_closed_total Connections closed
# TYPE ws_connections_closed_total counter
ws_connections_closed_total{{code="1001"}} {closed}
# HELP ws_handshake_seconds Time of handshakes
# TYPE ws_handshake_seconds histogram
ws_handshake_seconds_bucket{{le="0.1"}} 3.0
ws_handshake_seconds_bucket{{le="+Inf"}} 4.0
ws_handshake_seconds_count 4.0
ws_handshake_seconds_sum 0.5
# HELP ws_build_info Always 1
# TYPE ws_build_info gauge
ws_build_info{{release="1.4.0",version="0.1.0",slot="99"}} 1.0
"""


class Host:
    """A /run with slots, and processes that say something."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.run = folder / "run"
        self.apps = folder / "apps"
        self.states = folder / "states.sock"
        self._stack = stack
        self.run.mkdir()
        self.apps.mkdir()

    def link(self, slot: str, generation: int) -> None:
        """Have a slot served by a generation."""
        app = slot.rpartition("_")[0]
        (self.run / app).mkdir(exist_ok=True)
        (self.run / app / f"{slot}.sock").symlink_to(f"g{generation}/{slot}.sock")

    def listen(self, path: Path, say: Callable[[socket.socket], None]) -> None:
        """Have something say something to each who connects at a path."""
        path.parent.mkdir(exist_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(os.path.relpath(path))  # the length of paths is limited
        listening.listen()
        self._stack.callback(listening.close)

        def serve() -> None:
            while True:
                try:
                    connection, _address = listening.accept()
                except OSError:
                    return
                self._stack.callback(connection.close)
                say(connection)

        threading.Thread(target=serve, daemon=True).start()
        self._stack.callback(listening.shutdown, socket.SHUT_RDWR)

    def process(self, slot: str, generation: int, **figures: float) -> None:
        """Have a process that answers /metrics."""
        text = FIGURES.format(**{"open": 0, "draining": 0, "closed": 0, **figures})
        self.answer(slot, generation, f"HTTP/1.1 200 OK\r\n\r\n{text}")

    def answer(self, slot: str, generation: int, text: str) -> None:
        """Have a process that says this, then closes the connection; without a text, nothing."""

        def say(connection: socket.socket) -> None:
            if text:
                connection.recv(1000)
                connection.sendall(text.encode())
                connection.close()

        app, _line, number = slot.rpartition("_")
        layout = Layout(app, f"/opt/{app}", str(self.run.parent))
        self.listen(Path(layout.metrics(Member(int(number), generation)).socket_path), say)

    def supervisord(self, *states: tuple[str, str]) -> None:
        """Have states.py say these."""

        def say(connection: socket.socket) -> None:
            connection.sendall(json.dumps(states).encode())
            connection.close()

        self.listen(self.states, say)

    def serve(self, allowed: str = "127.0.0.0/8", address: str = "127.0.0.1") -> tuple[str, int]:
        """Start the exporter; where it listens."""
        host = exporter.Host(self.run, self.apps, self.states)
        server = exporter.Server(host, address, 0, [ipaddress.ip_network(allowed)])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)
        place: tuple[str, int] = server.server_address[:2]
        return place

    def scrape(self) -> dict[str, float]:
        """All figures, by name and the values of the labels in the order of their names."""
        status, text = get(*self.serve())
        assert status == 200
        return {
            " ".join([sample.name, *(value for _name, value in sorted(sample.labels.items()))]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def get(address: str, port: int, path: str = "/metrics") -> tuple[int, str]:
    client = http.client.HTTPConnection(address, port, timeout=PATIENCE)
    client.request("GET", path)
    response = client.getresponse()
    return response.status, response.read().decode()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        yield Host(tmp_path, stack)


def test_figures_have_app_and_slot(host: Host) -> None:
    host.link("echo_00", 2)
    host.link("chat_room_01", 1)
    host.process("echo_00", 2, open=5, closed=7)
    host.process("chat_room_01", 1, open=3)
    now = host.scrape()
    assert now["ws_connections echo 00"] == 5
    assert now["ws_connections chat_room 01"] == 3
    assert now["ws_connections_closed_total echo 1001 00"] == 7
    assert now["ws_handshake_seconds_bucket echo 0.1 00"] == 3
    assert now["ws_handshake_seconds_count echo 00"] == 4
    assert now["ws_build_info echo 1.4.0 00 0.1.0"] == 1  # what a process says of its slot doesn't count
    assert now["ws_up echo 00"] == now["ws_up chat_room 01"] == 1


def test_each_family_is_described_once(host: Host) -> None:
    for slot in ("echo_00", "echo_01"):
        host.link(slot, 1)
        host.process(slot, 1)
    _status, text = get(*host.serve())
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert "# TYPE ws_connections_closed_total counter" in types


def test_processes_that_drain_are_a_sum(host: Host) -> None:
    host.link("echo_00", 4)
    host.process("echo_00", 4, open=1)
    host.process("echo_00", 3, open=20, draining=1, closed=2)
    host.process("echo_00", 2, open=300, draining=1, closed=5)
    host.process("echo_00", 5, open=1000)  # not switched to yet
    host.process("echo_01", 3, open=7, draining=1)  # a slot that was given up
    now = host.scrape()
    assert now["ws_draining_connections echo 00"] == 320
    assert now["ws_draining_connections echo 01"] == 7
    assert now["ws_draining_connections_closed_total echo 1001 00"] == 7
    assert now["ws_connections echo 00"] == 1
    assert "ws_connections echo 01" not in now
    assert "ws_up echo 01" not in now


@pytest.mark.parametrize(
    "text",
    [
        "",
        "HTTP/1.1 503 Service Unavailable\r\n\r\nno\n",
        "HTTP/1.1 200 OK\r\n\r\nws_connections{ so many",
        "HTTP/1.1 200 OK\r\n\r\n" + "#" * (1 << 20),
    ],
)
def test_one_that_is_stuck_or_broken_costs_its_own_series(
    host: Host, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(exporter, "LIMIT", 1.0)
    for slot in ("echo_00", "echo_01"):
        host.link(slot, 1)
    host.process("echo_00", 1, open=5)
    host.answer("echo_01", 1, text)
    now = host.scrape()
    assert (now["ws_up echo 00"], now["ws_up echo 01"]) == (1, 0)
    assert now["ws_connections echo 00"] == 5
    assert "ws_connections echo 01" not in now


def test_what_supervisord_says(host: Host) -> None:
    host.link("echo_00", 2)
    host.link("plain_00", 1)  # an app without the runner
    host.link("plain_01", 1)
    host.process("echo_00", 2)
    host.supervisord(
        ("echo_00-g1", "STOPPING"),
        ("echo_00-g2", "RUNNING"),
        ("plain_00-g1", "RUNNING"),
        ("plain_01-g1", "FATAL"),
        ("cron", "RUNNING"),
    )
    now = host.scrape()
    assert now["ws_supervisor_up"] == 1
    assert now["ws_supervisor_processes echo 00 STOPPING"] == 1
    assert now["ws_supervisor_processes echo 00 RUNNING"] == 1
    assert now["ws_supervisor_processes echo 00 FATAL"] == 0
    assert now["ws_supervisor_processes plain 01 FATAL"] == 1
    assert (now["ws_up plain 00"], now["ws_up plain 01"]) == (1, 0)
    assert not [name for name in now if "cron" in name]


def test_host_without_anything(host: Host) -> None:
    (host.run / "other").mkdir()
    (host.run / "other/other_00.sock").touch()
    (host.run / "other/strange.sock").symlink_to("g1/x")
    assert host.scrape() == {"ws_supervisor_up": 0}


@pytest.mark.parametrize("proxied", [False, True])
def test_certificates_that_clients_are_shown(host: Host, proxied: bool) -> None:
    certificate(host.run)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(host.run / "cert.pem", host.run / "key.pem")
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _address = listening.accept()
        if proxied:
            assert connection.recv(15) == b"PROXY UNKNOWN\r\n"
        with context.wrap_socket(connection, server_side=True) as tls:
            assert tls.recv(1000).startswith(b"GET /healthz HTTP/1.1\r\n")
            tls.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    port = listening.getsockname()[1]
    listener = {"names": ["ws.example.org"], "port": port} | ({"proxy_protocol": True} if proxied else {})
    (host.apps / "echo.json").write_text(json.dumps(listener))
    (host.apps / "off.json").write_text('{"names": ["ws.example.org"], "port": 1}')
    (host.apps / "half.json").write_text("{")
    now = host.scrape()
    thread.join(PATIENCE)
    listening.close()
    assert now[f"ws_certificate_not_after_seconds echo ws.example.org {port}"] == 2_524_608_000
    assert len([name for name in now if name.startswith("ws_certificate")]) == 1


def certificate(folder: Path) -> None:
    """Write one that ends with the year 2049."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2050, 1, 1, tzinfo=datetime.UTC))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(pem)


def test_others_are_refused(host: Host) -> None:
    address, port = host.serve()
    assert get(address, port)[0] == 200
    assert get(address, port, "/")[0] == 404
    with socket.create_connection(host.serve(allowed="192.0.2.0/24"), exporter.Answers.timeout / 2) as client:
        assert client.recv(1) == b""  # at once: who says nothing would have a thread for long
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        assert get("127.0.0.1", host.serve(address="::")[1])[0] == 200  # as ::ffff:127.0.0.1


def test_states_are_said_by_the_part_that_is_root(tmp_path: Path) -> None:
    for file in (FILES / "states.py", MODULES / "supervisor.py"):
        (tmp_path / file.name).write_text(file.read_text())
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        script = "import os, sys; os.dup2(int(sys.argv[1]), 3); import states; states.main()"
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", script, str(listening.fileno())],
            cwd=tmp_path,
            pass_fds=[listening.fileno()],
        )
        try:
            for _n in range(2):
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(PATIENCE)
                    client.connect(str(tmp_path / "s"))
                    assert client.recv(100) == b"null"  # there is no supervisord
        finally:
            process.kill()
            process.wait()
