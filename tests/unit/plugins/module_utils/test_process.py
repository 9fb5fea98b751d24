# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says, of real sockets and processes; and of a /proc written for the purpose."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import Layout, Member
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel, orphans


def connect(stack: ExitStack, listener: socket.socket, times: int) -> list[socket.socket]:
    """Connect to the listener so many times; returns what it accepted."""
    accepted = []
    for _n in range(times):
        client = stack.enter_context(socket.socket(listener.family))
        client.connect(listener.getsockname())
        accepted.append(stack.enter_context(listener.accept()[0]))
    return accepted


@pytest.mark.parametrize("bound", ["echo_00.sock", "{folder}/echo_00.sock"])
def test_connections_of_a_unix_socket(tmp_path: Path, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = Address(f"{tmp_path}/echo_00.sock")
    others = ("other_echo_00.sock", "echo_00.metrics")
    with ExitStack() as stack:
        for name in (bound.format(folder=tmp_path), *others):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(name)
            listener.listen()
            accepted = connect(stack, listener, 1 if name in others else 3)
            if name not in others:
                accepted[0].close()
        assert Kernel().connections(os.getpid(), address) == 2
        assert Kernel().connections(os.getppid(), address) == 0, "they are another process's"
        assert Kernel().listens(os.getpid(), address)
        assert not Kernel().listens(os.getppid(), address)
        assert not Kernel().listens(os.getpid(), Address(f"{tmp_path}/echo_01.sock"))
    assert Kernel().connections(os.getpid(), address) == 0
    assert not Kernel().listens(os.getpid(), address)


def test_descriptors_and_their_limit() -> None:
    kernel, me = Kernel(), os.getpid()
    assert kernel.nofile(me) == resource.getrlimit(resource.RLIMIT_NOFILE)
    before = kernel.descriptors(me)
    with Path(os.devnull).open():
        assert kernel.descriptors(me) == before + 1
    assert (kernel.nofile(2**30), kernel.descriptors(2**30)) == ((0, 0), 0)


def test_ports_that_the_process_listens_on_and_connections_that_it_began() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        stack.enter_context(listener.accept()[0])
        assert port in Kernel().listening_ports(os.getpid())
        assert Kernel().listeners(os.getpid()) >= 1
        own = client.getsockname()[1]
        assert Kernel().outgoing(own, own) == 1
        assert Kernel().outgoing(port, port) == 0, "others began those that came in there"
        assert port not in Kernel().listening_ports(os.getppid())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_of_a_tcp_port(host: str) -> None:
    with ExitStack() as stack:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = stack.enter_context(socket.socket(family))
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip(f"there is no {host} here")
        listener.listen()
        connect(stack, listener, 2)
        port = listener.getsockname()[1]
        assert Kernel().connections(os.getpid(), Address(port=port)) == 2, "not the clients' ends"
        assert Kernel().accepted(os.getpid()) == 2
        assert Kernel().connections(os.getpid(), Address(port=port + 1)) == 0


def test_connections_of_a_unix_socket_and_a_shared_port_are_added(tmp_path: Path) -> None:
    with ExitStack() as stack:
        path = f"{tmp_path}/echo_00.sock"
        own = stack.enter_context(socket.socket(socket.AF_UNIX))
        own.bind(path)
        shared = stack.enter_context(socket.socket())
        shared.bind(("127.0.0.1", 0))
        for listener, count in ((own, 2), (shared, 3)):
            listener.listen()
            connect(stack, listener, count)
        port = shared.getsockname()[1]
        assert Kernel().connections(os.getpid(), Address(path, port)) == 5
        assert Kernel().connections(os.getpid(), Address(path)) == 2


def test_memory_is_what_the_process_uses() -> None:
    def used(ballast: int) -> int:
        program = f"ballast = bytearray(b'x' * {ballast}); print(flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            try:
                return int(Kernel().memory(child.pid))
            finally:
                child.kill()

    assert 31 * 2**20 < used(32 * 2**20) - used(0) < 36 * 2**20
    assert Kernel().memory_available() > 2**20


def test_a_process_tells_where_it_comes_from(tmp_path: Path) -> None:
    program = "import time; time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env={"A": "1=2\n3", "B": ""}, stdin=subprocess.DEVNULL
    ) as child:
        time.sleep(0.3)
        kernel = Kernel()
        assert child.pid in kernel.pids()
        assert kernel.title(child.pid) == f"{sys.executable} -c {program}"
        assert kernel.directory(child.pid) == str(tmp_path)
        assert {"A": "1=2\n3", "B": ""}.items() <= kernel.environment(child.pid).items()
        assert kernel.parent(child.pid) == os.getpid()
        assert kernel.descends_from(child.pid, os.getppid())
        assert not kernel.descends_from(os.getpid(), child.pid)
        assert 0.2 < kernel.age(child.pid) < 10
        assert kernel.start_ticks(child.pid) >= kernel.start_ticks(os.getpid())
        child.kill()


def test_a_process_that_is_gone_has_nothing(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    address = Address("/run/echo/g1/echo_00.sock")
    assert (kernel.pids(), kernel.connections(7, address), kernel.accepted(7)) == ([], 0, 0)
    assert (kernel.memory(7), kernel.age(7), kernel.title(7), kernel.environment(7)) == (0, 0.0, "", {})
    assert (kernel.directory(7), kernel.parent(7), kernel.descends_from(7, 1)) == ("", 0, False)


def test_a_name_with_spaces_and_brackets_is_no_trap(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text("7 (a) R 1 (b) S 42 " + " ".join(["0"] * 17) + " 500 0 0\n")
    (tmp_path / "uptime").write_text("15.00 0.00\n")
    assert Kernel(tmp_path).parent(7) == 42
    assert Kernel(tmp_path).age(7) == pytest.approx(15 - 500 / os.sysconf("SC_CLK_TCK"))


@contextmanager
def process(folder: Path, name: str) -> Iterator[int]:
    """A server process and its child; the pid of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    # The shell has nothing left to do after the sleep, but mustn't become it.
    with subprocess.Popen(
        ["/bin/sh", "-c", "sleep 60; :"],
        cwd=folder,
        env={"SUPERVISOR_PROCESS_NAME": name, "PATH": os.environ["PATH"]},
        start_new_session=True,
    ) as child:
        time.sleep(0.2)
        yield child.pid
        os.killpg(child.pid, signal.SIGKILL)


def test_orphans_are_the_first_of_their_family_and_ours(tmp_path: Path) -> None:
    layout = Layout("echo", "/opt/echo", str(tmp_path))
    with (
        process(layout.run / "g1", "echo_00") as first,
        process(layout.run / "g12", "echo_03") as second,
        process(layout.run / "g1", "chat_00"),
        process(layout.run, "echo_00"),
        process(tmp_path / "run/echo_two/g1", "echo_two_00"),
    ):
        (layout.run / "g12").rmdir()
        found = {first: Member(0, 1), second: Member(3, 12)}
        assert orphans(Kernel(), layout, supervisord=0) == found
        assert orphans(Kernel(), layout, supervisord=first) == {second: Member(3, 12)}
        assert orphans(Kernel(), layout, supervisord=os.getpid()) == {}


def test_work_is_what_the_process_did() -> None:
    program = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 0.25 < Kernel().cpu_seconds(child.pid) < 1.0
        child.kill()
    assert Kernel().cpu_seconds(child.pid) == 0.0
