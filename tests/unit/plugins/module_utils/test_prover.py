# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the clients of a proof: against the app's real runner, and against servers that do one thing wrong."""

from __future__ import annotations

import asyncio
import datetime
import gc
import ipaddress
import json
import os
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils import prover
from ansible_collections.wsfleet.websockets.plugins.module_utils.prover import ProveError, Prover
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from server_process import ServerProcess
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection
from websockets.utils import accept_key

OPTIONS: dict[str, Any] = {
    "urls": [],
    "addresses": None,
    "names": None,
    "validate_certs": True,
    "ca_file": None,
    "origin": None,
    "headers": None,
    "subprotocols": None,
    "rate": 0,
    "held": 0,
    "interval": 0.05,
    "echo": True,
    "timeout": 5,
    "seconds": 30,
    "ready_file": None,
    "stop_file": None,
}
PATIENCE = 20


class Run:
    """A prover in a thread, with its files in `folder`."""

    def __init__(self, folder: Path, *urls: str, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.ready, self.stop_file, self.result = (folder / name for name in ("ready", "stop", "proof.json"))
        files = {name: str(getattr(self, name)) for name in ("stop_file", "result")}
        self.prover = Prover(
            {**OPTIONS, **files, "urls": list(urls), "ready_file": str(self.ready), **options}
        )
        self.summary: dict[str, Any] = {}
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        deadline = time.monotonic() + PATIENCE
        while not self.ready.exists() and self.thread.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _run(self) -> None:
        self.summary = self.prover.run()

    def totals(self) -> dict[str, Any]:
        """Stop it and return the totals."""
        self.stop_file.touch()
        self.thread.join(PATIENCE)
        totals: dict[str, Any] = self.summary["totals"]
        return totals

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def serving(serving: Callable[..., int]) -> Callable[..., str]:
    """The URL instead of the port."""
    return lambda handler, **options: f"ws://127.0.0.1:{serving(handler, **options)}/"


def url_of(server: ServerProcess) -> str:
    return f"ws://127.0.0.1:{server.port}/"


def echo(websocket: ServerConnection) -> None:
    for message in websocket:
        websocket.send(message)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Nothing is closed because it is forgotten."""
    gc.disable()
    yield
    gc.enable()


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.usefixtures("no_garbage_collection")
def test_servers_that_are_left_alone(start: Any, tmp_path: Path) -> None:
    servers = [start(), start()]
    pids = [os.getpid(), *(server.pid for server in servers)]
    files = [descriptors(pid) for pid in pids]
    run = Run(tmp_path / "run", *map(url_of, servers), held=10, rate=50, names=["a", "b"])
    seen = run.prover.seen
    run.wait_for(lambda: seen.counts["message"] >= 100 and seen.totals()["attempts"] >= 10 + 25)
    run.wait_for(lambda: seen.second.open == [5, 5])
    totals = run.totals()
    assert descriptors(pids[0]) == files[0]
    run.wait_for(lambda: [descriptors(pid) for pid in pids] == files)  # a server may be a moment behind
    assert (totals["failed"], totals["failures"], totals["closes"], totals["reconnects"]) == (0, {}, [], 0)
    assert totals["messages"] == totals["echoes"] >= 100
    assert totals["unanswered"] == {"closed": 0, "cut": 0, "open": 0}
    assert totals["wrong"] == totals["doubled"] == totals["reordered"] == 0
    assert totals["first_problems"] == []
    assert 0 < totals["handshake_ms"]["p50"] <= totals["handshake_ms"]["p99"] <= totals["handshake_ms"]["max"]
    assert totals["longest_wait_ms"] >= totals["handshake_ms"]["max"]

    proof = json.loads(run.result.read_text())
    series = proof.pop("series")
    assert proof == run.summary
    assert proof["servers"] == ["a", "b"]
    assert sum(second["attempts"] for second in series) == totals["attempts"]
    assert sum(len(second["handshakes_ms"]) for second in series) == totals["attempts"]
    assert sum(second["echoes"] for second in series) == totals["echoes"]
    assert [5, 5] in [second["open"] for second in series]
    assert abs(series[0]["time"] - time.time()) < 60  # Unix time, so that other hosts' marks fit
    assert int(proof["begin"]) == series[0]["time"]
    assert proof["begin"] < proof["end"]
    for server in servers:
        server.stop()
        assert "draining: 0 connections" in server.log  # the clients have left in good order


def test_close_1001_under_load(start: Any, tmp_path: Path) -> None:
    old, new = start(reuse_port="true"), None
    run = Run(tmp_path / "run", url_of(old), held=20, rate=20, interval=0.02)
    time.sleep(0.3)
    port = old.port
    assert old.stop() == 0
    time.sleep(0.3)
    new = start(port=port)
    run.wait_for(lambda: len(run.prover.connections) == 20)
    totals = run.totals()
    assert len(new.lines) == 1
    closes = {(close["code"], close["reason"]): close["count"] for close in totals["closes"]}
    assert set(closes) == {(1001, "server is restarting")}
    assert closes[1001, "server is restarting"] >= 20  # some visits may have been there
    assert totals["reconnects"] == 20
    assert totals["reconnect_ms"]["max"] >= 300
    assert totals["longest_wait_ms"] == totals["reconnect_ms"]["max"]
    assert set(totals["failures"]) <= {"connection refused", "cut", "HTTP 503"}
    assert totals["failures"]["connection refused"] >= 20
    assert totals["failed"] == sum(totals["failures"].values())
    assert totals["unanswered"]["cut"] == totals["unanswered"]["open"] == 0
    assert totals["echoes"] + totals["unanswered"]["closed"] == totals["messages"]
    problem = totals["first_problems"][0]
    assert problem["server"] == f"127.0.0.1:{port}"
    assert abs(problem["time"] - time.time()) < 60


def test_killed_server(start: Any, tmp_path: Path) -> None:
    server = start()
    run = Run(tmp_path / "run", url_of(server), held=10)
    server.signal(signal.SIGKILL)
    run.wait_for(lambda: run.prover.seen.counts["connection refused"] >= 10)
    totals = run.totals()
    assert totals["closes"] == [{"code": 1006, "reason": "", "count": 10}]
    cuts = [problem for problem in totals["first_problems"] if problem["problem"] == "cut connection"]
    assert len(cuts) == 5
    assert totals["reconnects"] == 0
    assert set(totals["failures"]) <= {"connection refused", "cut"}


def test_answers_other_than_101(start: Any, tmp_path: Path) -> None:
    server = start(max_connections=5)
    run = Run(tmp_path / "run", url_of(server), held=5, rate=50)
    run.wait_for(lambda: run.prover.seen.counts["HTTP 503"] >= 10)
    totals = run.totals()
    assert totals["failures"] == {"HTTP 503": totals["failed"]}
    assert totals["attempts"] == totals["failed"] + 5
    assert len(totals["first_problems"]) == 5
    assert totals["closes"] == []


def wrong(websocket: ServerConnection) -> None:
    for _message in websocket:
        websocket.send("0 0 0")


def for_another_client(websocket: ServerConnection) -> None:
    for message in websocket:
        number, _space, index = str(message).partition(" ")
        websocket.send(f"{int(number) + 1} {index}")


def doubling(websocket: ServerConnection) -> None:
    for message in websocket:
        websocket.send(message)
        websocket.send(message)


def reordering(websocket: ServerConnection) -> None:
    while True:
        first, second = websocket.recv(), websocket.recv()
        websocket.send(second)
        websocket.send(first)


def forgetful(websocket: ServerConnection) -> None:
    """Forgets the first message only."""
    websocket.recv()
    echo(websocket)


def cutting(websocket: ServerConnection) -> None:
    websocket.recv()
    websocket.socket.shutdown(socket.SHUT_RDWR)


def closing(websocket: ServerConnection) -> None:
    websocket.recv()
    websocket.close(1012, "later")


@pytest.mark.parametrize(
    ("handler", "key"),
    [(wrong, "wrong"), (for_another_client, "wrong"), (doubling, "doubled"), (reordering, "reordered")],
)
def test_wrong_echoes(serving: Any, tmp_path: Path, handler: Any, key: str) -> None:
    run = Run(tmp_path / "run", serving(handler), held=1, timeout=0.5)
    run.wait_for(lambda: run.prover.seen.counts[f"{key} echo"] >= 2)
    totals = run.totals()
    assert totals[key] >= 2
    assert [name for name in ("wrong", "doubled", "reordered") if totals[name]] == [key]
    assert totals["first_problems"][0]["problem"] == f"{key} echo"
    assert totals["closes"] == []


@pytest.mark.parametrize(
    ("handler", "how", "closes"),
    [
        (forgetful, "open", []),
        (cutting, "cut", [(1006, "")]),
        (closing, "closed", [(1012, "later")]),
    ],
)
def test_unanswered_messages(
    serving: Any, tmp_path: Path, handler: Any, how: str, closes: list[tuple[int, str]]
) -> None:
    run = Run(tmp_path / "run", serving(handler), held=1, timeout=0.5)
    run.wait_for(lambda: run.prover.seen.counts["message"] >= 3)
    totals = run.totals()
    assert totals["unanswered"][how] >= 1
    assert [name for name, count in totals["unanswered"].items() if count] == [how]
    assert [(close["code"], close["reason"]) for close in totals["closes"]] == closes
    assert totals["reordered"] == totals["wrong"] == 0
    assert totals["echoes"] == totals["messages"] - totals["unanswered"][how]


def test_unanswered_message_of_a_visit(serving: Any, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", serving(cutting), rate=20)
    run.wait_for(lambda: run.prover.seen.counts["cut connection"] >= 1)
    totals = run.totals()
    assert totals["failed"] == 0
    assert totals["unanswered"]["cut"] == totals["attempts"] == totals["closes"][0]["count"] > 0


def test_app_that_does_not_echo(serving: Any, tmp_path: Path) -> None:
    received: list[Opcode] = []

    def mute(websocket: ServerConnection) -> None:
        receive = websocket.protocol.recv_frame

        def count(frame: Frame) -> None:
            received.append(frame.opcode)
            receive(frame)

        websocket.protocol.recv_frame = count  # type: ignore[method-assign]
        websocket.send("welcome")
        for _message in websocket:
            pass

    run = Run(tmp_path / "run", serving(mute), held=1, rate=20, echo=False)
    run.wait_for(lambda: received.count(Opcode.PING) >= 3)  # so that no proxy takes the connection for idle
    totals = run.totals()
    assert (totals["messages"], totals["wrong"], totals["failed"], totals["closes"]) == (0, 0, 0, [])


def test_request(serving: Any, tmp_path: Path) -> None:
    seen: list[Request] = []

    def respond(_connection: ServerConnection, request: Request) -> Response | None:
        seen.append(request)
        return None

    url = serving(echo, process_request=respond, subprotocols=["chat"])
    port = url.rstrip("/").rpartition(":")[2]
    Run(
        tmp_path / "run", f"ws://echo.test:{port}/path", addresses=["127.0.0.1"], held=1,
        origin="https://a.test", headers={"X-Token": 1, "User-Agent": "me"}, subprotocols=["chat"],
    ).totals()  # fmt: skip
    headers = seen[0].headers
    assert seen[0].path == "/path"
    assert headers["Host"] == f"echo.test:{port}"
    assert headers["Origin"] == "https://a.test"
    assert (headers["X-Token"], headers["User-Agent"]) == ("1", "me")
    assert headers["Sec-WebSocket-Protocol"] == "chat"
    assert "Sec-WebSocket-Extensions" not in headers


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, ssl.SSLContext]:
    """A file to trust, and the TLS of a server that has it for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return str(file), context


def test_tls_handshakes_are_complete(serving: Any, tmp_path: Path, certificate: Any) -> None:
    ca_file, context = certificate
    resumed: list[bool] = []

    def handler(websocket: ServerConnection) -> None:
        resumed.append(websocket.socket.session_reused)  # type: ignore[attr-defined]
        echo(websocket)

    url = serving(handler, ssl=context).replace("ws:", "wss:")
    run = Run(tmp_path / "run", url, rate=20, ca_file=ca_file)
    run.wait_for(lambda: len(resumed) >= 5)
    totals = run.totals()
    assert (totals["failed"], totals["echoes"]) == (0, totals["messages"])
    assert not any(resumed)
    distrusting = Run(tmp_path / "other", url, rate=20)
    run.wait_for(lambda: distrusting.prover.seen.problems != {})
    failures = distrusting.totals()["failures"]
    assert set(failures) == {"certificate: self-signed certificate"}
    careless = Run(tmp_path / "careless", url, rate=20, validate_certs=False)
    run.wait_for(lambda: careless.prover.seen.counts["message"] >= 1)
    assert careless.totals()["failed"] == 0


def test_server_that_does_not_answer_a_close(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            listener.accept()[0].close()  # the search for the address
            client, _address = listener.accept()
            key = client.recv(4096).decode().partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0]
            client.sendall(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode()
            )
            with client:
                while client.recv(4096):
                    pass

        thread = threading.Thread(target=accept)
        thread.start()
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        totals = Run(tmp_path / "run", url, held=1, echo=False, timeout=0.3).totals()
        thread.join(PATIENCE)
    assert totals["closes"] == [{"code": 1006, "reason": "", "count": 1}]


def test_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}/"
        run = Run(tmp_path / "run", url, rate=20, timeout=0.2)
        run.wait_for(lambda: run.prover.seen.counts["timeout"] >= 1)
        totals = run.totals()
    assert totals["failures"] == {"timeout": totals["attempts"]}


def test_it_says_when_it_is_late(serving: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run", serving(echo), rate=100)
    visit, slept = Prover.visit, threading.Event()

    async def slow(prover: Prover) -> None:
        if not slept.is_set():
            slept.set()
            time.sleep(1.5)  # as if the processor was somebody else's
        await visit(prover)

    monkeypatch.setattr(Prover, "visit", slow)
    run.wait_for(lambda: run.prover.seen.counts["skipped"] > 0)
    late = run.totals()["late"]
    assert late["max_ms"] >= 1000
    assert late["seconds"] >= 1
    assert late["skipped"] >= 100


def test_it_stops_by_itself(serving: Any, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", serving(echo), rate=10, seconds=1)
    run.thread.join(PATIENCE)
    assert 1 <= run.summary["end"] - run.summary["begin"] < 10


def refusal(tmp_path: Path, **options: Any) -> str:
    with pytest.raises(ProveError) as caught:
        Prover({**OPTIONS, "urls": ["ws://a.test/"], "result": str(tmp_path / "r"), **options}).run()
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"urls": []}, "urls is empty: at least one URL is needed."),
        (
            {"urls": ["http://a.test/"]},
            "urls has 'http://a.test/': allowed are ws:// and wss:// URLs with a host and no fragment.",
        ),
        ({"addresses": ["x", "y"]}, "addresses has 2 items: allowed is one for each of urls."),
        ({"names": []}, None),
        ({"names": ["x", "y"]}, "names has 2 items: allowed is one for each of urls."),
        ({"urls": ["ws://a/", "ws://a/b"]}, "names is ['a', 'a']: allowed is each name once."),
        ({"rate": 1001}, "rate is 1001: allowed are 0 to 1000."),
        ({"held": 10_001}, "held is 10001: allowed are 0 to 10000."),
        ({"held": -1}, "held is -1: allowed are 0 to 10000."),
        ({"interval": 0}, "interval is 0: allowed are 0.01 to 3600."),
        ({"timeout": 301}, "timeout is 301: allowed are 0.1 to 300."),
        ({"seconds": 0}, "seconds is 0: allowed are 1 to 86400."),
        ({"result": "/absent/x"}, "result is '/absent/x': its folder doesn't exist."),
        ({"ready_file": "/"}, "ready_file is '/': it exists already, from another run."),
        ({"stop_file": "/tmp"}, "stop_file is '/tmp': it exists already, from another run."),  # noqa: S108
    ],
)
def test_refused_options(tmp_path: Path, options: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert "expected a connection to a.test port 80" in refusal(tmp_path, **options)
    else:
        assert refusal(tmp_path, **options) == message


def test_refused_ca_file(tmp_path: Path) -> None:
    message = refusal(tmp_path, urls=["wss://a.test/"], ca_file="/absent")
    assert message.startswith("ca_file is '/absent': allowed is a readable file of PEM certificates, got ")


def test_nothing_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    message = refusal(tmp_path, urls=[f"ws://127.0.0.1:{port}/"])
    assert (
        message
        == f"127.0.0.1:{port}: expected a connection to 127.0.0.1 port {port}, got Connection refused."
    )


def test_connections_cannot_be_held(start: Any, tmp_path: Path) -> None:
    server = start(max_connections=3)
    message = refusal(tmp_path, urls=[url_of(server)], held=4, timeout=0.3)
    name = f"127.0.0.1:{server.port}"
    assert (
        message == f"3 of 4 connections could be opened, and no more in 0.6 s; {name} began with 'HTTP 503'."
    )
    assert not (tmp_path / "r").exists()


def test_more_connections_than_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (100, 264))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, _limits: None)
    message = refusal(tmp_path, held=100, rate=50, timeout=2.1)
    assert message == "held, and rate times timeout, need 205 connections at once: this process may open 200."


def test_names_of_failures() -> None:
    assert prover.failure(TimeoutError()) == "timeout"
    assert prover.failure(EOFError()) == prover.failure(ConnectionResetError()) == "cut"
    assert prover.failure(OSError(113, "Connect call failed")) == "no route to host"
    assert prover.failure(ssl.SSLError(1, "x")).startswith("TLS: ")
    assert prover.failure(asyncio.InvalidStateError("x")) == "InvalidStateError: x"
