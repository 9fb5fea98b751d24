# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a generation is on disk: who may read it, what supervisord is told, and that each step is whole."""

from __future__ import annotations

import configparser
import grp
import os
import pwd
import shutil
import stat
import subprocess
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils import generation
from ansible_collections.wsfleet.websockets.plugins.module_utils.generation import (
    Layout,
    Member,
    Settings,
    environment_problems,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address

ME = pwd.getpwuid(os.getuid()).pw_name
MY_GROUP = grp.getgrgid(os.getgid()).gr_name
SETTINGS = Settings("/opt/echo/releases/a", "python server.py", ME, MY_GROUP, {}, {}, 0, 50)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    for folder in ("run", "etc/supervisor/conf.d", "etc/tmpfiles.d", "opt/echo/releases/a", "var/log/echo"):
        (tmp_path / folder).mkdir(parents=True)
    return Layout("echo", "/opt/echo", str(tmp_path))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def start(layout: Layout, **changes: t.Any) -> str:
    """Run a slot's start script as supervisord does, and return what it prints."""
    layout.create(1, replace(SETTINGS, **changes))
    return subprocess.run(
        [layout.generations / "1/start"], env={}, check=True, capture_output=True, text=True
    ).stdout


# the digest


def test_digest_goes_by_content_and_by_the_format_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(SETTINGS, environment={"A": "X", "B": "Y"})
    other = replace(SETTINGS, environment={"B": "Y", "A": "X"})
    assert one.digest == other.digest != SETTINGS.digest
    before = one.digest
    monkeypatch.setattr(generation, "FORMAT", generation.FORMAT + 1)
    assert one.digest != before


# who may read it


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_only_the_app_reads_its_environment_and_only_the_proxy_connects(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    owners: dict[str, tuple[str, ...]] = {}
    monkeypatch.setattr(shutil, "chown", lambda path, *who: owners.update({Path(path).name: who}))
    before = os.umask(umask)
    try:
        layout.create(1, replace(SETTINGS, user="ws-echo", socket_group="www-data"))
    finally:
        os.umask(before)
    folder = layout.generations / "1"
    assert owners == {".environment.new": ("ws-echo",), "g1": ("ws-echo", "www-data")}
    assert mode(folder / "environment") == 0o400
    assert mode(folder / "generation.json") == 0o600
    assert mode(folder / "start") == 0o755
    assert mode(layout.run) == 0o755
    assert mode(layout.run / "g1") == 0o2750


def test_nothing_is_in_a_file_before_its_mode_and_owner_are_right(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    fresh = layout.generations / "1/.environment.new"

    def look(*_arguments: object) -> None:
        if fresh.exists():
            seen.append((mode(fresh), fresh.stat().st_size))

    monkeypatch.setattr(generation.os, "fchmod", look)
    monkeypatch.setattr(generation.shutil, "chown", look)
    fresh.parent.mkdir(parents=True)
    fresh.write_text("of a killed run")
    layout.create(1, replace(SETTINGS, secrets={"TOKEN": "x"}))
    assert seen[-2:] == [(0o600, 0), (0o600, 0)]


# each step is whole


def test_a_file_is_replaced_at_once_when_it_is_on_disk(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = Member(0, 1)
    layout.write_program(member, SETTINGS)
    (conf,) = layout.programs.iterdir()
    old, inode = conf.read_text(), conf.stat().st_ino
    (layout.programs / f".{conf.name}.new").write_text("of a killed run")
    seen: list[tuple[str, list[Path]]] = []
    monkeypatch.setattr(
        generation.os,
        "fsync",
        lambda _: seen.append((conf.read_text(), list(layout.programs.glob("*.conf")))),
    )
    monkeypatch.setattr(Path, "unlink", refuse_to_unlink(conf))
    layout.write_program(member, replace(SETTINGS, stop_seconds=60))
    assert seen == [(old, [conf])], "supervisord includes *.conf"
    assert conf.stat().st_ino != inode
    assert "stopwaitsecs=60" in conf.read_text()
    assert list(layout.programs.iterdir()) == [conf]


def refuse_to_unlink(precious: Path) -> t.Callable[..., None]:
    unlink = Path.unlink

    def spy(path: Path, missing_ok: bool = False) -> None:
        assert path != precious, f"{path} was away for a moment"
        unlink(path, missing_ok)

    return spy


def test_a_slot_is_switched_in_one_step_also_after_a_killed_run(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.run.mkdir()
    layout.switch(Member(0, 9))
    (layout.run / "echo_00.new").symlink_to("of a killed run")
    monkeypatch.setattr(Path, "unlink", refuse_to_unlink(layout.run / "echo_00.sock"))
    layout.switch(Member(0, 10))
    assert (layout.run / "echo_00.sock").readlink() == Path("g10/echo_00.sock")
    assert layout.serving() == {0: 10}


def test_a_program_that_is_only_named_like_ours_is_not_ours(layout: Layout) -> None:
    assert layout.member("echo_00-g1") == Member(0, 1)
    assert layout.member("echo_00-g1-old") is None


def test_current_is_a_relative_link_to_the_release(layout: Layout) -> None:
    release = layout.path / "releases/a"
    for _again in range(2):
        layout.activate(str(release))
        assert layout.current.readlink() == Path("releases/a")


def test_an_unfinished_generation_is_one_and_is_discarded_whole(layout: Layout) -> None:
    layout.create(1, SETTINGS)
    (layout.generations / "1/generation.json").unlink()
    (layout.generations / "notes").mkdir()
    assert layout.read_generations() == {}
    assert layout.all_generations() == {1}
    layout.discard(1)
    assert layout.all_generations() == set()
    assert list(layout.run.iterdir()) == []


# what others are told


@pytest.mark.parametrize("port", [0, 8100])
def test_what_supervisord_is_told(layout: Layout, port: int) -> None:
    settings = replace(SETTINGS, user="ws-echo", port=port)
    layout.write_program(Member(3, 7), settings)
    parser = configparser.RawConfigParser()
    parser.read(layout.programs / "echo_03-g7.conf")
    assert parser.sections() == ["program:echo_03-g7"]
    told = dict(parser["program:echo_03-g7"])
    assert told.pop("environment", "") == ('HOST="127.0.0.1",PORT="8103"' if port else "")
    assert told == {
        "process_name": "echo_03",
        "command": f"{layout.generations}/7/start",
        "directory": f"{layout.run}/g7",
        "user": "ws-echo",
        "umask": "007",
        "autostart": "true",
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "100",
        "stopsignal": "TERM",
        "stopwaitsecs": "50",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": f"{layout.logs}/echo_03.log",
        "stdout_logfile_maxbytes": "0",
    }
    assert mode(layout.programs / "echo_03-g7.conf") == 0o644


def test_what_the_system_makes_at_boot(layout: Layout) -> None:
    layout.create(7, SETTINGS)
    layout.switch(Member(0, 7))
    layout.write_tmpfiles()
    lines = layout.tmpfiles.read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        f"d {layout.run} 0755 root root -",
        f"d {layout.run}/g7 2750 {ME} {MY_GROUP} -",
        f"L+ {layout.run}/echo_00.sock - - - - g7/echo_00.sock",
    ]
    assert mode(layout.tmpfiles) == 0o644
    before = layout.tmpfiles.stat().st_ino
    layout.write_tmpfiles()
    assert layout.tmpfiles.stat().st_ino == before, "a second run writes nothing"
    layout.erase()
    assert not layout.tmpfiles.exists()


# the process's surroundings


def test_environment_of_the_process(layout: Layout) -> None:
    given = {"A": "theirs", "B": "theirs", "WS_GENERATION": "theirs", "PYTHONPATH": "/theirs"}
    printed = start(layout, command="env", environment=given, secrets={"B": "secret"})
    assert (
        dict(line.split("=", 1) for line in printed.splitlines()).items()
        >= {
            "A": "theirs",
            "B": "secret",
            "MALLOC_TOP_PAD_": "1048576",
            "PATH": "/opt/echo/releases/a/venv/bin:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": "/theirs",
            "PYTHONUNBUFFERED": "1",
            "WS_GENERATION": "1",
            "WS_RELEASE": "/opt/echo/releases/a",
        }.items()
    )
    assert "PYTHONPATH=/opt/echo/releases/a/app" in start(layout, command="env").splitlines()


def test_the_process_may_open_as_many_files_as_the_hard_limit_says(layout: Layout) -> None:
    layout.create(1, replace(SETTINGS, command="sh -c 'ulimit -S -n; ulimit -H -n'"))
    lowered = ["sh", "-c", f"ulimit -S -n 99; exec {layout.generations}/1/start"]
    soft, hard = subprocess.run(lowered, check=True, capture_output=True, text=True).stdout.split()
    assert soft == hard != "99"


def test_the_command_becomes_the_process_that_gets_the_signals(layout: Layout) -> None:
    layout.create(1, replace(SETTINGS, command="sh -c 'echo $$; true'"))
    with subprocess.Popen([layout.generations / "1/start"], stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate()[0] == f"{process.pid}\n"


def test_where_connections_of_a_member_come_in(layout: Layout) -> None:
    member, path = Member(1, 7), str(layout.run / "g7/echo_01.sock")
    layout.create(7, replace(SETTINGS, environment={"WS_SHARED_PORT": "8443"}))
    layout.create(8, replace(SETTINGS, port=9000))
    layout.create(9, replace(SETTINGS, environment={"WS_SHARED_PORT": "$PORT"}))
    generations = layout.read_generations()
    assert layout.entrance(member, generations[7]) == Address(path, 8443)
    assert layout.entrance(Member(1, 8), generations[8]) == Address(port=9001)
    assert layout.entrance(Member(1, 9), generations[9]).port == 0
    assert layout.entrance(member, None) == Address(path)


def test_names_that_no_shell_could_read_back() -> None:
    assert environment_problems({"A_1": 1, "a": 2}) == []
    assert environment_problems({"1A": 1, "A-B": 2, "": 3, "A\n": 4}) == ["1A", "A-B", "", "A\n"]
