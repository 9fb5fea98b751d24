# Copyright: the wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of configuration files that are validated together, then replaced together.

What the files replace is kept as it was under ``STORE``, so that a set can be given back. Several sets may
share a root and even a file: an original returns when the last set that holds its file lets go.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STORE = Path("/var/lib/wsfleet/original")


class ConfigError(Exception):
    """The set can't be written; the text is what the user reads."""


@dataclass(frozen=True)
class Node:
    """What a path holds: a regular file (`content`), a symlink (`link`) or, with neither, nothing."""

    content: bytes | None = None
    link: str | None = None
    mode: int = 0
    uid: int = 0
    gid: int = 0

    @classmethod
    def file(cls, content: bytes, mode: int) -> Node:
        """A file as this process would create it."""
        return cls(content=content, mode=mode, uid=os.geteuid(), gid=os.getegid())

    def text(self) -> str:
        """The node as a diff shows it."""
        if self.link is not None:
            return f"-> {self.link}\n"
        return (self.content or b"").decode(errors="replace")

    def label(self) -> str:
        """What the diff's header adds to the path."""
        if self == NOTHING:
            return "absent"
        return "symlink" if self.link is not None else f"mode {self.mode:04o}"


NOTHING = Node()

Changes = Mapping[str, tuple[Node, Node]]
"""Relative path to what it holds before and after."""


def read(path: Path) -> Node:
    """Return what `path` holds; ConfigError when it is a folder or a device."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    if stat.S_ISLNK(status.st_mode):
        return Node(link=str(path.readlink()))
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is neither a file nor a symlink, so it can't be replaced.")
    return Node(path.read_bytes(), None, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def write(path: Path, node: Node) -> None:
    """Make `path` hold `node`, in one step: whoever opens it sees the old or the new, never a part."""
    if node == NOTHING:
        path.unlink(missing_ok=True)
    else:
        # A leading dot keeps the temporary file out of the `*` and `*.conf` of include directives.
        with tempfile.TemporaryDirectory(prefix=".ws_config_", dir=path.parent) as folder:
            new = Path(folder) / "new"
            if node.link is not None:
                new.symlink_to(node.link)
            else:
                with new.open("wb") as file:
                    file.write(node.content or b"")
                    os.fchown(file.fileno(), node.uid, node.gid)
                    os.fchmod(file.fileno(), node.mode)
                    file.flush()
                    os.fsync(file.fileno())
            new.replace(path)
    if path.parent.is_dir():
        folder_fd = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)


class ConfigSet:
    """The files under `root` that the set `name` holds.

    Beside the originals lies a register, ``<root>.json``: which sets hold which path. A path in the register
    without a kept original held nothing before; one that ends in a slash is a folder that was made.
    """

    def __init__(self, root: Path, name: str, store: Path = STORE) -> None:
        self.root = root
        self.name = name
        self.store = store
        self.originals = store / root.relative_to("/")
        self.register = self.originals.with_name(f"{self.originals.name}.json")
        try:
            self.holders: dict[str, list[str]] = json.loads(self.register.read_text())
        except FileNotFoundError:
            self.holders = {}

    def others(self) -> list[str]:
        """The other sets that hold files under the root, sorted."""
        return sorted({name for names in self.holders.values() for name in names} - {self.name})

    def changes(self, wanted: Mapping[str, Node]) -> Changes:
        """Return what has to change until the set consists of exactly `wanted`.

        A path that the set held and no longer wants gets its original back, unless another set holds it.
        """
        after = dict(wanted)
        for path in self._released(wanted):
            if self.holders[path] == [self.name] and not path.endswith("/"):
                after[path] = read(self.originals / path)
        for path, node in after.items():
            for folder in (self.root / path).parents:
                if node != NOTHING and folder.exists() and not folder.is_dir():
                    raise ConfigError(f"{self.root / path} can't be written: {folder} is not a folder.")
        compared = {path: (read(self.root / path), node) for path, node in sorted(after.items())}
        return {path: (before, node) for path, (before, node) in compared.items() if before != node}

    def validate(self, changes: Changes, command: Sequence[str], refuse: Sequence[str] = ()) -> None:
        """Run `command` on a copy of the root with `changes`; ConfigError with its output when it fails.

        ``{stage}`` in the command is the copy's path. Output that matches a pattern of `refuse` is a failure
        too, for validators that only warn.
        """
        with self._stage(changes) as stage:
            result = subprocess.run(
                [word.replace("{stage}", str(stage)) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            output = result.stdout.decode(errors="replace").replace(str(stage), str(self.root)).strip()
        if result.returncode or any(re.search(pattern, output) for pattern in refuse):
            shown = " ".join(command).replace("{stage}", str(self.root))
            raise ConfigError(
                f"{self.root} was left as it is because `{shown}` refused the new configuration:\n{output}"
            )

    def apply(self, wanted: Mapping[str, Node], changes: Changes) -> None:
        """Keep the originals, make the `changes` and let go of what the set no longer wants.

        After an error in the middle the root is as before.
        """
        self._hold(wanted)
        missing = [folder for folder in self._folders(wanted) if not (self.root / folder).is_dir()]
        try:
            for folder in missing:
                (self.root / folder).mkdir()
                (self.root / folder).chmod(0o755)  # whatever the umask
            for path, (_before, after) in changes.items():
                write(self.root / path, after)
        except OSError as error:
            for path, (before, _after) in changes.items():
                if read(self.root / path) != before:
                    write(self.root / path, before)
            self._remove_empty(missing)
            raise ConfigError(f"{self.root} was put back as it was: {error}.") from error
        self._let_go(wanted)

    def _folders(self, wanted: Mapping[str, Node]) -> list[str]:
        """Folders that are or were made for `wanted`, those above first."""
        above = {
            f"{folder}/"
            for path, node in wanted.items()
            if node != NOTHING
            for folder in Path(path).parents
            if folder != Path()
        }
        return sorted(path for path in above if path in self.holders or not (self.root / path).is_dir())

    def _remove_empty(self, folders: Iterable[str]) -> None:
        for folder in sorted(folders, reverse=True):
            with contextlib.suppress(OSError):  # somebody else's files are in it
                (self.root / folder).rmdir()

    def _released(self, wanted: Mapping[str, Node]) -> list[str]:
        kept = {*wanted, *self._folders(wanted)}
        return [path for path, names in self.holders.items() if self.name in names and path not in kept]

    def _hold(self, wanted: Mapping[str, Node]) -> None:
        """Enter `wanted` in the register; the original is kept first, so that no crash can lose it."""
        before = json.dumps(self.holders)
        for path, node in wanted.items():
            names = self.holders.get(path, [])
            if not names:
                original = read(self.root / path)
                if original == node == NOTHING:
                    continue
                self._keep(path, original)
            self.holders[path] = sorted({*names, self.name})
        for folder in self._folders(wanted):
            self.holders[folder] = sorted({*self.holders.get(folder, []), self.name})
        if json.dumps(self.holders) != before:
            self._save()

    def _keep(self, path: str, original: Node) -> None:
        kept = self.originals / path
        if original == NOTHING:
            kept.unlink(missing_ok=True)
            return
        # What is kept may hold secrets: only root looks inside.
        self.store.parent.mkdir(parents=True, exist_ok=True)
        self.store.mkdir(mode=0o700, exist_ok=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write(kept, original)

    def _let_go(self, wanted: Mapping[str, Node]) -> None:
        """Leave the register; originals go last, so that a crash leaves at worst one that nobody needs."""
        released = self._released(wanted)
        if not released:
            return
        unneeded = [path for path in released if self.holders[path] == [self.name]]
        for path in released:
            self.holders[path].remove(self.name)
        for path in unneeded:
            del self.holders[path]
        folders = [path for path in unneeded if path.endswith("/")]
        self._remove_empty(folders)
        self._save()
        for path in set(unneeded) - set(folders):
            kept = self.originals / path
            kept.unlink(missing_ok=True)
            self._prune(kept.parent)

    def _save(self) -> None:
        if self.holders:
            self.store.parent.mkdir(parents=True, exist_ok=True)
            self.store.mkdir(mode=0o700, exist_ok=True)
            self.register.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.holders, indent=2, sort_keys=True) + "\n"
            write(self.register, Node.file(text.encode(), 0o600))
        else:
            self.register.unlink(missing_ok=True)
            self._prune(self.register.parent)

    def _prune(self, folder: Path) -> None:
        """Remove `folder` and those above it as long as they are empty; what is above the store's stays."""
        while folder.is_relative_to(self.store.parent):
            if folder.is_dir() and any(folder.iterdir()):
                return
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
            folder = folder.parent

    @contextlib.contextmanager
    def _stage(self, changes: Changes) -> Iterator[Path]:
        """A copy of the root with `changes`, for as long as the context lasts.

        Symlinks to files are followed, and absolute references to the root, in files and symlinks, are made to
        point into the copy: the validator sees what it would see were the changes live.
        """
        with tempfile.TemporaryDirectory(prefix="ws_config_") as folder:
            stage = Path(folder) / self.root.name
            stage.mkdir()
            reference = re.compile(rb"(?<![\w./-])%b(?![\w.-])" % re.escape(bytes(self.root)))

            def moved(text: bytes) -> bytes:
                return reference.sub(lambda _match: bytes(stage), text)

            def copy(source: Path, target: Path) -> None:
                if source.is_file():
                    target.write_bytes(moved(source.read_bytes()))
                elif source.is_symlink():
                    link = os.path.normpath(source.parent / source.readlink())
                    target.symlink_to(os.fsdecode(moved(os.fsencode(link))))
                elif source.is_dir():
                    target.mkdir(exist_ok=True)
                    for child in source.iterdir():
                        copy(child, target / child.name)

            for child in self.root.iterdir():
                copy(child, stage / child.name)
            for path, (_before, node) in changes.items():
                target = stage / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                if node.content is not None:
                    target.write_bytes(moved(node.content))
                elif node.link is not None:
                    link = os.path.normpath((self.root / path).parent / node.link)
                    target.symlink_to(os.fsdecode(moved(os.fsencode(link))))
            yield stage
