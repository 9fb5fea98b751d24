# Copyright: the wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of configuration files, with validators that are one line of shell."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils import config_set
from ansible_collections.wsfleet.websockets.plugins.module_utils.config_set import (
    NOTHING,
    ConfigError,
    ConfigSet,
    Node,
    read,
    write,
)

GOOD = ("true",)


def file(text: str, mode: int = 0o644) -> Node:
    return Node.file(text.encode(), mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree in the shape of Debian's /etc/nginx."""
    root = tmp_path / "etc/nginx"
    for folder in ("conf.d", "sites-available", "sites-enabled"):
        (root / folder).mkdir(parents=True)
    write(root / "nginx.conf", file(f"include {root}/conf.d/*.conf;\n"))
    write(root / "sites-available/default", file("default\n"))
    write(root / "sites-enabled/default", Node(link=str(root / "sites-available/default")))
    return root


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "lib/wsfleet/original"


def tree(root: Path) -> dict[str, Node]:
    """All files and symlinks below `root`."""
    return {
        str(path.relative_to(root)): read(path)
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }


def put(config: ConfigSet, wanted: Mapping[str, Node], command: Sequence[str] = GOOD) -> list[str]:
    """Bring the set to `wanted`; return the paths that changed."""
    changes = config.changes(wanted)
    if changes:
        config.validate(changes, command)
    config.apply(wanted, changes)
    return list(changes)


def test_writes_replaces_and_removes_then_has_nothing_to_do(root: Path, store: Path) -> None:
    wanted = {
        "conf.d/echo.conf": file("site\n", 0o640),
        "nginx.conf": file("main\n"),
        "sites-enabled/default": NOTHING,
    }
    assert put(ConfigSet(root, "echo", store), wanted) == sorted(wanted)
    assert {path: read(root / path) for path in wanted} == wanted
    assert ConfigSet(root, "echo", store).changes(wanted) == {}


def test_mode_alone_is_a_change(root: Path, store: Path) -> None:
    put(ConfigSet(root, "echo", store), {"conf.d/echo.conf": file("site\n", 0o644)})
    assert list(ConfigSet(root, "echo", store).changes({"conf.d/echo.conf": file("site\n", 0o600)})) == [
        "conf.d/echo.conf"
    ]


def test_giving_back_leaves_no_trace(root: Path, store: Path) -> None:
    before = tree(root)
    put(
        ConfigSet(root, "echo", store),
        {
            "conf.d/echo.conf": file("x"),
            "nginx.conf": file("main", 0o600),
            "sites-enabled/default": NOTHING,
        },
    )
    assert put(ConfigSet(root, "echo", store), {}) == [
        "conf.d/echo.conf",
        "nginx.conf",
        "sites-enabled/default",
    ]
    assert tree(root) == before
    assert not store.parent.exists()
    assert store.parent.parent.exists()


def test_a_file_no_longer_in_the_set_is_given_back(root: Path, store: Path) -> None:
    original = read(root / "nginx.conf")
    put(ConfigSet(root, "echo", store), {"conf.d/echo.conf": file("x"), "nginx.conf": file("main")})
    assert put(ConfigSet(root, "echo", store), {"conf.d/echo.conf": file("x")}) == ["nginx.conf"]
    assert read(root / "nginx.conf") == original


def test_the_first_original_is_the_one_kept(root: Path, store: Path) -> None:
    original = read(root / "nginx.conf")
    put(ConfigSet(root, "echo", store), {"nginx.conf": file("one")})
    write(root / "nginx.conf", file("edited by hand"))
    put(ConfigSet(root, "echo", store), {"nginx.conf": file("two")})
    put(ConfigSet(root, "echo", store), {})
    assert read(root / "nginx.conf") == original


def test_an_original_returns_when_the_last_set_lets_go(root: Path, store: Path) -> None:
    before = tree(root)
    shared = {"nginx.conf": file("main"), "sites-enabled/default": NOTHING}
    put(ConfigSet(root, "echo", store), {**shared, "conf.d/echo.conf": file("echo")})
    assert put(ConfigSet(root, "chat", store), {**shared, "conf.d/chat.conf": file("chat")}) == [
        "conf.d/chat.conf"
    ]
    assert ConfigSet(root, "echo", store).others() == ["chat"]

    assert put(ConfigSet(root, "echo", store), {}) == ["conf.d/echo.conf"]
    assert read(root / "nginx.conf") == file("main")
    assert ConfigSet(root, "chat", store).others() == []

    put(ConfigSet(root, "chat", store), {})
    assert tree(root) == before


def test_what_was_absent_and_unheld_stays_the_hosts_own(root: Path, store: Path) -> None:
    put(ConfigSet(root, "echo", store), {"sites-enabled/other": NOTHING})
    write(root / "sites-enabled/other", file("made by the administrator later"))
    assert put(ConfigSet(root, "echo", store), {}) == []


def test_a_refused_configuration_changes_nothing(root: Path, store: Path) -> None:
    before = tree(root)
    config = ConfigSet(root, "echo", store)
    changes = config.changes({"nginx.conf": file("bad")})
    with pytest.raises(ConfigError) as error:
        config.validate(changes, ["sh", "-c", "echo bad word in $0 >&2; exit 1", "{stage}/nginx.conf"])
    assert f"bad word in {root}/nginx.conf" in str(error.value)
    assert "/ws_config_" not in str(error.value)
    assert tree(root) == before
    assert not store.exists()


def test_output_to_refuse_is_a_failure(root: Path, store: Path) -> None:
    config = ConfigSet(root, "echo", store)
    changes = config.changes({"nginx.conf": file("x")})
    config.validate(changes, ["echo", "warn: conflicting name a"], refuse=["conflicting name b"])
    with pytest.raises(ConfigError, match="conflicting name b"):
        config.validate(changes, ["echo", "warn: conflicting name b"], refuse=["conflicting name b"])


def test_the_validator_sees_the_whole_tree_with_the_changes(root: Path, store: Path) -> None:
    (root.parent / "nginx-other").mkdir()
    write(root / "paths", file(f"{root}/a {root}; {root}-other /opt{root}/b"))
    write(root / "modules", Node(link="conf.d"))
    write(root / "gone", Node(link="../missing"))
    script = """
        cd "$0" || exit 1
        [ "$(cat nginx.conf)" = "include $0/conf.d/*.conf;" ] &&
        [ "$(cat paths)" = "$0/a $0; $1-other /opt$1/b" ] &&
        [ "$(cat sites-enabled/default)" = default ] && [ ! -L sites-enabled/default ] &&
        [ "$(cat modules/echo.conf)" = "see $0/conf.d" ] &&
        [ "$(readlink gone)" = "${1%/*}/missing" ]
    """
    config = ConfigSet(root, "echo", store)
    changes = config.changes({"conf.d/echo.conf": file(f"see {root}/conf.d")})
    config.validate(changes, ["sh", "-c", script, "{stage}", str(root)])


def test_an_error_in_the_middle_puts_back_what_was(
    root: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(root)
    real = config_set.write

    def full_disk(path: Path, node: Node) -> None:
        if path == root / "sites-enabled/echo" and node != NOTHING:
            raise OSError(28, "No space left on device")
        real(path, node)

    monkeypatch.setattr(config_set, "write", full_disk)
    with pytest.raises(ConfigError, match=r"put back as it was.*No space left"):
        put(
            ConfigSet(root, "echo", store),
            {
                "conf.d/echo.conf": file("x"),
                "new/echo.conf": file("x"),
                "nginx.conf": file("x"),
                "sites-enabled/echo": file("x"),
            },
        )
    assert tree(root) == before
    assert not (root / "new").exists()
    put(ConfigSet(root, "echo", store), {})
    assert tree(root) == before


def test_folders_are_not_replaced(root: Path, store: Path) -> None:
    config = ConfigSet(root, "echo", store)
    with pytest.raises(ConfigError, match="neither a file nor a symlink"):
        config.changes({"conf.d": file("x")})
    assert config.changes({"missing/x.conf": NOTHING}) == {}


def test_folders_that_are_missing_are_made_and_go_with_the_last_set(root: Path, store: Path) -> None:
    wanted = {"new/er/x.conf": file("x"), "conf.d/x.conf": file("x")}
    previous = os.umask(0o077)
    try:
        put(ConfigSet(root, "echo", store), wanted, ["test", "-f", "{stage}/new/er/x.conf"])
    finally:
        os.umask(previous)
    assert [stat.S_IMODE((root / path).stat().st_mode) for path in ("new", "new/er")] == [0o755, 0o755]
    assert put(ConfigSet(root, "echo", store), wanted) == []
    put(ConfigSet(root, "chat", store), {"new/y.conf": file("y"), "new/er/x.conf": file("x")})
    put(ConfigSet(root, "echo", store), {})
    assert (root / "new/er/x.conf").is_file(), "another set holds it"
    put(ConfigSet(root, "chat", store), {"new/y.conf": file("y")})
    assert (root / "new/y.conf").is_file()
    assert not (root / "new/er").exists()
    put(ConfigSet(root, "chat", store), {})
    assert not (root / "new").exists()
    assert (root / "conf.d").is_dir(), "it isn't ours, although it is empty"
    assert not store.parent.exists()


def test_a_folder_that_somebody_else_uses_stays(root: Path, store: Path) -> None:
    put(ConfigSet(root, "echo", store), {"new/x.conf": file("x")})
    (root / "new/theirs").touch()
    put(ConfigSet(root, "echo", store), {})
    assert [path.name for path in (root / "new").iterdir()] == ["theirs"]
    assert not store.parent.exists()


def test_a_file_is_no_folder(root: Path, store: Path) -> None:
    with pytest.raises(ConfigError, match=r"y can't be written: .*nginx.conf is not a folder"):
        ConfigSet(root, "echo", store).changes({"nginx.conf/new/y": file("y")})


def test_a_bare_host_has_everything_to_change(tmp_path: Path, store: Path) -> None:
    config = ConfigSet(tmp_path / "nowhere", "echo", store)
    assert config.changes({"conf.d/x": file("x"), "sites-enabled/default": NOTHING}) == {
        "conf.d/x": (NOTHING, file("x"))
    }


def test_a_file_is_replaced_in_one_step_that_survives_a_power_cut(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk is told to keep first is the new file, out of sight of `*.conf`; then that it is there."""
    target = root / "conf.d/echo.conf"
    write(target, file("old"))
    synced: list[tuple[str, bool]] = []

    def fsync(_descriptor: int) -> None:
        beside = [path.name for path in target.parent.iterdir() if path != target]
        synced.append((target.read_text(), bool(beside) and all(name.startswith(".") for name in beside)))

    monkeypatch.setattr(config_set.os, "fsync", fsync)
    write(target, file("new"))
    assert synced == [("old", True), ("new", False)]


def test_the_old_file_is_never_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlinked: list[Path] = []
    monkeypatch.setattr(Path, "unlink", lambda path, **_options: unlinked.append(path))
    write(root / "nginx.conf", file("new"))
    assert root / "nginx.conf" not in unlinked


def test_an_original_gets_its_owner_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(config_set.os, "fchown", lambda _descriptor, uid, gid: owners.append((uid, gid)))
    write(root / "nginx.conf", Node(b"x", None, 0o600, 1234, 5678))
    assert owners == [(1234, 5678)]
    status = (root / "nginx.conf").lstat()
    monkeypatch.setattr(config_set.os, "geteuid", lambda: 4321)
    assert (read(root / "nginx.conf").uid, read(root / "nginx.conf").gid) == (status.st_uid, status.st_gid)


def test_originals_are_for_root_only(root: Path, store: Path) -> None:
    put(ConfigSet(root, "echo", store), {"conf.d/echo.conf": file("x")})
    assert stat.S_IMODE(store.stat().st_mode) == 0o700  # the register alone
    put(ConfigSet(root, "echo", store), {})
    put(ConfigSet(root, "echo", store), {"nginx.conf": file("x")})
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    assert stat.S_IMODE(ConfigSet(root, "echo", store).register.stat().st_mode) == 0o600


def test_the_validator_does_not_see_what_is_taken_away(root: Path, store: Path) -> None:
    config = ConfigSet(root, "echo", store)
    changes = config.changes({"sites-enabled/default": NOTHING})
    config.validate(changes, ["test", "!", "-e", "{stage}/sites-enabled/default"])


def test_a_run_killed_while_it_gave_back_is_finished_by_the_next(
    root: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(root)
    put(ConfigSet(root, "echo", store), {"nginx.conf": file("main")})

    def killed(_self: ConfigSet) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ConfigSet, "_save", killed)
        put(ConfigSet(root, "echo", store), {})
    put(ConfigSet(root, "echo", store), {})
    assert tree(root) == before
    assert not store.parent.exists()


def test_an_original_that_nobody_needs_does_not_come_back(root: Path, store: Path) -> None:
    config = ConfigSet(root, "echo", store)
    (config.originals / "conf.d").mkdir(parents=True)
    write(config.originals / "conf.d/echo.conf", file("left by a killed run"))
    put(config, {"conf.d/echo.conf": file("x")})
    put(ConfigSet(root, "echo", store), {})
    assert not (root / "conf.d/echo.conf").exists()
