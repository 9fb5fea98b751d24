# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The upgrade of nginx on the fly, with an nginx that answers signals as nginx does and exists in a folder only."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.daemon import DaemonError, Host
from ansible_collections.wsfleet.websockets.plugins.module_utils.daemon_nginx import Nginx, _address, answers
from ansible_collections.wsfleet.websockets.plugins.module_utils.process import Kernel
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError

MASTER = "nginx: master process /usr/sbin/nginx"
WORKER = "nginx: worker process"
OLD = 100
MAPS = """\
55d0-55d1 r--p 00000000 08:01 11 /usr/sbin/nginx{deleted}
55d1-55d2 r-xp 00000000 08:01 11 /usr/sbin/nginx{deleted}
7f00-7f01 rw-s 00000000 00:01 12 /dev/zero (deleted)
7f01-7f02 rwxp 00000000 00:01 12 /memfd:jit (deleted)
7f02-7f03 r--p 00000000 08:01 13 /usr/lib/locale/locale-archive (deleted)
7f03-7f04 r-xp 00000000 00:00 0 [vdso]
"""


class FakeNginx:
    """A master with two workers. `broken` is what a new one can't do, `held` whether clients keep old workers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.signals: list[str] = []
        self.broken = ""
        self.held = True
        self.now = 1000.0
        self.soon: t.Callable[[], None] = lambda: None
        self.asked: list[list[str]] = []
        self.on: dict[str, t.Callable[[], None]] = {}
        (root / "run").mkdir()
        (root / "var/log/nginx").mkdir(parents=True)
        (root / "proc/net").mkdir(parents=True)
        (root / "proc/net/tcp").write_text(
            "sl local\n 0: 00000000:0050 00000000:0000 0A 0:0 0:0 0 0 0 77 1\n"
            " 1: 0100007F:0051 00000000:0000 0A 0:0 0:0 0 0 0 78 1\n"
        )
        self.next = OLD
        self.pid_file = root / "run/nginx.pid"
        self.old_pid_file = root / "run/nginx.pid.oldbin"
        self.start_master(1, outdated=True)

    def process(self, title: str, parent: int) -> int:
        pid, self.next = self.next, self.next + 1
        folder = self.root / f"proc/{pid}"
        (folder / "fd").mkdir(parents=True)
        (folder / "fd/5").symlink_to("socket:[77]")
        (folder / "cmdline").write_text(title + "\0")
        (folder / "stat").write_text(f"{pid} (nginx) S {parent} {'0 ' * 17}5000 0\n")
        return pid

    def start_master(self, parent: int, outdated: bool) -> int:
        pid = self.process(MASTER, parent)
        (self.root / f"proc/{pid}/maps").write_text(MAPS.format(deleted=" (deleted)" if outdated else ""))
        self.pid_file.write_text(f"{pid}\n")
        if not outdated and self.broken == "workers":
            return pid
        self.start_workers(pid)
        return pid

    def start_workers(self, master: int) -> None:
        self.process(WORKER, master)
        self.process(WORKER, master)

    def workers(self, master: int) -> dict[int, str]:
        kernel = Kernel(self.root / "proc")
        return {
            pid: kernel.title(pid)
            for pid in kernel.pids()
            if kernel.parent(pid) == master and kernel.title(pid).startswith(WORKER)
        }

    def end(self, pid: int) -> None:
        shutil.rmtree(self.root / f"proc/{pid}")

    def finish_workers(self, master: int) -> None:
        for pid in self.workers(master):
            if self.held and master == OLD:
                (self.root / f"proc/{pid}/cmdline").write_text(f"{WORKER} is shutting down\0")
            else:
                self.end(pid)

    def kill(self, pid: int, number: int) -> None:
        name = signal.Signals(number).name
        self.signals.append(f"{name} {pid}")
        is_old = self.old_pid_file.exists() and int(self.old_pid_file.read_text()) == pid
        if name == "SIGUSR2" and not self.old_pid_file.exists() and self.broken != "start":
            self.pid_file.rename(self.old_pid_file)
            if self.broken == "hangs":
                self.process("/usr/sbin/nginx -g daemon on;", pid)
            else:
                self.start_master(pid, outdated=False)
        if name == "SIGWINCH":
            self.soon = lambda: self.finish_workers(pid)
        if name == "SIGHUP":
            self.start_workers(pid)
        if name == "SIGQUIT":
            self.finish_workers(pid)
            if not self.workers(pid):
                self.end(pid)
                if is_old:
                    self.old_pid_file.unlink()
                else:
                    self.old_pid_file.rename(self.pid_file)
        if name == "SIGKILL":
            self.end(pid)
            if is_old:
                self.old_pid_file.unlink()
            else:
                self.old_pid_file.rename(self.pid_file)
        self.on.get(name, lambda: None)()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.soon()
        self.soon = lambda: None

    def run(self, step: str, command: list[str]) -> str:
        assert command == ["nginx", "-t", "-q"]
        if self.broken == "configuration":
            raise StepError(f"{step} failed: unknown directive")
        return ""

    def answers(self, address: tuple[str, int]) -> bool:
        assert address == ("127.0.0.1", 80), "asked where it doesn't listen"
        self.asked.append(list(self.workers(OLD).values()))
        return self.broken != "answers"

    def daemon(self) -> Nginx:
        host = Host(
            root=self.root,
            kernel=lambda: Kernel(self.root / "proc"),
            kill=self.kill,
            run=self.run,
            now=lambda: self.now,
            sleep=self.sleep,
        )
        return Nginx(host, 60, self.answers)

    @property
    def master(self) -> int:
        return int(self.pid_file.read_text())


@pytest.fixture
def nginx(tmp_path: Path) -> FakeNginx:
    return FakeNginx(tmp_path)


def test_code_that_was_replaced_on_disk_is_a_reason_and_data_is_none(nginx: FakeNginx) -> None:
    assert nginx.daemon().outdated() == ["it runs /usr/sbin/nginx, which was replaced"]
    (nginx.root / f"proc/{OLD}/maps").write_text(MAPS.format(deleted=""))
    assert nginx.daemon().outdated() == []


def test_the_new_one_serves_and_the_old_workers_stay(nginx: FakeNginx) -> None:
    nginx.daemon().replace()
    new = nginx.master
    assert nginx.signals == [f"SIGUSR2 {OLD}", f"SIGWINCH {OLD}", f"SIGQUIT {OLD}"]
    assert new != OLD
    assert list(nginx.workers(new).values()) == [WORKER, WORKER]
    assert len(nginx.daemon().draining()) == 2
    assert nginx.daemon().outdated() == []
    assert not nginx.daemon().is_half_replaced()


def test_old_workers_without_clients_are_gone(nginx: FakeNginx) -> None:
    nginx.held = False
    nginx.daemon().replace()
    assert nginx.daemon().draining() == []
    assert not (nginx.root / f"proc/{OLD}").exists()


def test_nothing_is_asked_of_the_new_one_while_old_workers_accept(nginx: FakeNginx) -> None:
    """Their answer would say nothing."""
    nginx.daemon().replace()
    assert nginx.asked == [[f"{WORKER} is shutting down"] * 2]


def test_a_second_replacement_needn_t_wait_for_the_first_ones_clients(nginx: FakeNginx) -> None:
    nginx.daemon().replace()
    second = nginx.master
    (nginx.root / f"proc/{second}/maps").write_text(MAPS.format(deleted=" (deleted)"))
    nginx.daemon().replace()
    assert f"SIGKILL {OLD}" in nginx.signals
    assert nginx.master not in (OLD, second)
    assert nginx.daemon().draining() != []


@pytest.mark.parametrize("broken", ["start", "hangs", "workers", "answers"])
def test_the_old_one_goes_on_when_the_new_one_fails(nginx: FakeNginx, broken: str) -> None:
    nginx.broken = broken
    log = nginx.root / "var/log/nginx/error.log"
    log.write_text("1 [emerg] 5#5: long ago\n")

    def complain() -> None:
        log.write_text(log.read_text() + "2 [emerg] 7#7: no memory\n3 [info] hello\n")

    nginx.on["SIGUSR2"] = complain
    with pytest.raises(DaemonError) as failure:
        nginx.daemon().replace()
    assert str(failure.value) == (
        "The new nginx didn't serve within 60 s, so the old one (pid 100) goes on\n  2 [emerg] 7#7: no memory"
    )
    assert nginx.master == OLD
    assert WORKER in nginx.workers(OLD).values()
    assert not nginx.old_pid_file.exists()
    assert f"SIGQUIT {OLD}" not in nginx.signals


def test_a_configuration_that_the_new_one_refuses_is_found_before(nginx: FakeNginx) -> None:
    nginx.broken = "configuration"
    with pytest.raises(
        DaemonError, match=r"The installed nginx refuses its configuration: .*unknown directive"
    ):
        nginx.daemon().refuse()


@pytest.mark.parametrize("last", ["SIGUSR2", "SIGWINCH"])
@pytest.mark.parametrize("held", [True, False])
def test_a_run_that_was_killed_is_finished(nginx: FakeNginx, last: str, held: bool) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    nginx.held = held
    nginx.on[last] = die
    with pytest.raises(KeyboardInterrupt):
        nginx.daemon().replace()
    nginx.on.clear()
    nginx.sleep(1)
    # With clients, what WINCH did looks as if QUIT had done it; their end shows that it hadn't.
    if not (last == "SIGWINCH" and held):
        assert nginx.daemon().is_half_replaced()
        nginx.daemon().finish()
        assert nginx.master != OLD
        assert nginx.signals[-1] == f"SIGQUIT {OLD}"
    assert not nginx.daemon().is_half_replaced()


def test_an_nginx_that_does_not_run_is_left_alone(nginx: FakeNginx) -> None:
    nginx.end(OLD)
    assert not nginx.daemon().is_running()
    assert nginx.daemon().outdated() == []
    assert not nginx.daemon().is_half_replaced()


def test_a_pid_file_that_names_another_process_is_no_nginx(nginx: FakeNginx) -> None:
    (nginx.root / f"proc/{OLD}/cmdline").write_text("/bin/sh\0")
    assert not nginx.daemon().is_running()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:01BB", ("127.0.0.1", 443)),
        ("0200000A:0050", ("10.0.0.2", 80)),
        ("00000000000000000000000000000000:0050", ("::1", 80)),
        ("B80D0120000000000000000001000000:0050", ("2001:db8::1", 80)),
    ],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    assert _address(text) == address


@pytest.mark.parametrize(
    ("does", "expected"), [("answer", True), ("close", True), ("reset", True), ("nothing", False)]
)
def test_an_answer_or_a_close_is_a_sign_of_life(does: str, expected: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _peer = server.accept()
            with connection:
                if does == "reset":  # which a close with unread data is
                    time.sleep(0.1)
                    return
                connection.recv(1000)
                if does == "answer":
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                if does == "nothing":
                    connection.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        assert answers(server.getsockname(), 0.5) is expected
        thread.join()


def test_nobody_there_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    assert not answers(address)
