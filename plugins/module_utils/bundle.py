# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bundles on the controller: what a release is made of, ready to be shipped.

The cache, a folder of the user who runs Ansible, holds

=============================  ====================================================================================
``bundles/<id>/``              snapshot of the source, complete by one rename: ``app/`` (files), ``wheels/`` (its own
                               wheels), ``lock.txt``, ``bundle.json`` (id, version, source)
``bundles/<id>/<target>.tar``  what a host with that Python unpacks: the snapshot's files, all wheels, and
                               ``requirements.txt``, the lock of exactly these; ``-index`` without the dependencies
``wheels/<digest>/``           wheel built from a source with that content
``git/<digest>/``              bare copy of a git repository
=============================  ====================================================================================

Whoever fills it holds a lock on ``lock``. What wasn't used for ``KEEP_DAYS`` is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

with suppress(ImportError):  # ws_bundle says it when it is missing
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from ansible_collections.wsfleet.websockets.plugins.module_utils.lock import (
    Pin,
    Target,
    check_complete,
    parse_lock,
    pin_wheel,
    sha256,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError, run, without_password

FORMAT = 1  # part of every id: raise it when the same input makes a different release
KEEP_DAYS = 90
DEFAULT_BRANCH = "refs/wsfleet/default"  # of a git repository, in our copy of it
BUILD_ENVIRONMENT = {
    "SOURCE_DATE_EPOCH": "315532800"
}  # 1980, the first that zip can hold: reproducible wheels
GIT_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
}
LEFT_OUT = re.compile(
    r"\.git|\.hg|\.svn|\.env|\.venv|venv|\.tox|\.nox|\.ansible|\.cache|\.DS_Store|__pycache__|node_modules"
    r"|.*\.py[co]|.*\.egg-info|\.(mypy|ruff|pytest)_cache"
)


@dataclass(frozen=True)
class Source:
    """Where an app comes from. ``digest`` stands for its content; ``root`` is None without files of its own."""

    shown: str
    digest: str
    name: str = ""
    version: str = ""
    root: Path | None = None
    wheel: Path | None = None
    buildable: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A resolved source in the cache."""

    id: str
    path: Path

    @property
    def facts(self) -> dict[str, str]:
        """``id``, ``version`` and ``source``."""
        facts: dict[str, str] = json.loads((self.path / "bundle.json").read_text())
        return facts


class Cache:
    """The controller's cache in ``path``. ``index`` is pip's options that say where packages come from."""

    def __init__(self, path: Path, index: Iterable[str] = ()) -> None:
        self.path = path
        self.index = list(index)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs on this controller out."""
        for folder in ("bundles", "wheels", "git", "tmp"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                self._forget_unused()

    def _forget_unused(self) -> None:
        oldest = time.time() - KEEP_DAYS * 86400
        kept = [path for folder in ("bundles", "wheels", "git") for path in (self.path / folder).iterdir()]
        unused = [path for path in kept if path.stat().st_mtime < oldest]
        for path in [*unused, *(self.path / "tmp").iterdir()]:
            shutil.rmtree(path)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.path / "tmp") as folder:
            yield Path(folder)

    def snapshot(self, release_id: str) -> Snapshot:
        """Return a snapshot that was taken before."""
        path = self.path / "bundles" / release_id
        if not path.is_dir():
            raise StepError(f"there is no release {release_id!r} in {path.parent}")
        os.utime(path)
        return Snapshot(release_id, path)

    def resolve(
        self, source: str, version: str, requirements: str, runner: Path | None, base: list[Path]
    ) -> Snapshot:
        """Return the snapshot of a source as it is now, taken if its content is new.

        ``requirements`` ('': the source's own requirements.txt, if any) and a source that is a path may be relative:
        to the source (the former) or the first folder of ``base`` that has it. ``runner`` is the source of the
        bundled runner, which is added, with what it needs, unless the source or the lock has it.
        """
        with self._scratch() as scratch:
            app = self._find(source, version, base, scratch)
            lock = read_lock(app, requirements, base)
            sources = [app]
            if runner:
                extra = _folder(runner, "the runner")
                if extra.name not in (app.name, *(pin.name for pin in lock)):
                    sources.append(extra)
                    named = {pin.name for pin in lock}
                    lock += [pin for pin in read_lock(extra, "", []) if pin.name not in named]
            if not (app.root or app.wheel):
                app = _locked_requirement(app, lock)
            text = "".join(f"{pin}\n" for pin in sorted(lock, key=str))
            content = json.dumps([FORMAT, [found.digest for found in sources], text])
            label = re.sub(r"[^A-Za-z0-9._]+", "-", version or app.version).strip("-.")[:40] or "dev"
            release_id = f"{label}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
            if not (self.path / "bundles" / release_id).is_dir():
                made = scratch / "snapshot"
                (made / "wheels").mkdir(parents=True)
                if app.root:
                    copy_files(app.root, made / "app")  # before a build, which may leave files behind
                for found in sources:
                    wheel = self._build(found, scratch) if found.buildable else found.wheel
                    if wheel:
                        shutil.copy(wheel, made / "wheels")
                (made / "lock.txt").write_text(text)
                facts = {"id": release_id, "version": version or app.version, "source": app.shown}
                (made / "bundle.json").write_text(json.dumps(facts) + "\n")
                made.rename(self.path / "bundles" / release_id)
        return self.snapshot(release_id)

    def _find(self, source: str, version: str, base: list[Path], scratch: Path) -> Source:
        if source.startswith("git+"):
            return self._git(source.removeprefix("git+"), version, scratch / "git")
        if source.endswith(".whl"):
            return _wheel(find(source, base, "ws_app_source"), source)
        if "/" in source or source == ".":
            return _folder(find(source, base, "ws_app_source"), source)
        try:
            name = canonicalize_name(Requirement(source).name)
        except InvalidRequirement as error:
            raise StepError(
                f"ws_app_source is {source!r}; it must be a folder such as ./chat, git+URL, a wheel or a requirement "
                f"such as chat==1.2"
            ) from error
        return Source(shown=source, digest="", name=name)

    def _git(self, url: str, version: str, checkout: Path) -> Source:
        """Check out ``version`` (branch, tag or commit; '' is the default branch)."""
        mirror = self.path / "git" / hashlib.sha256(url.encode()).hexdigest()[:16]
        shown = without_password(url)

        def git(step: str, *words: str, at: Path = mirror) -> str:
            step = f"{step} of ws_app_source git+{shown}"
            output: str = run(step, ["git", "-C", str(at), *words], GIT_ENVIRONMENT)
            return output.strip()

        mirror.mkdir(exist_ok=True)
        git("preparing the copy", "init", "--quiet", "--bare")
        os.utime(mirror)
        refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", f"+HEAD:{DEFAULT_BRANCH}"]
        git(
            "fetching the branches and tags",
            "fetch",
            "--quiet",
            "--force",
            "--prune",
            "--end-of-options",
            url,
            *refs,
        )
        wanted = f"{version or DEFAULT_BRANCH}^{{commit}}"
        step = f"finding ws_app_version {version!r}"
        found = git(step, "rev-parse", "--verify", "--end-of-options", wanted)
        step = f"checking out {found}"
        git(step, "clone", "--quiet", "--shared", "--no-checkout", str(mirror), str(checkout))
        # Relative addresses of submodules start at the real origin, not at our copy.
        git(step, "remote", "set-url", "origin", url, at=checkout)
        git(step, "checkout", "--quiet", found, at=checkout)
        git(step, "submodule", "--quiet", "update", "--init", "--recursive", at=checkout)
        name, project_version, buildable = read_project(checkout)
        return Source(f"git+{shown}@{found}", found, name, project_version, checkout, buildable=buildable)

    def _build(self, source: Source, scratch: Path) -> Path:
        """Return the wheel of a source that is a Python project, built unless its content was built before."""
        folder = self.path / "wheels" / source.digest
        if source.root and not folder.is_dir():
            root = source.root
            if not root.is_relative_to(scratch):  # not in a folder of the user's
                root = scratch / f"build-{source.digest}"
                copy_files(source.root, root)
            built = scratch / f"wheel-{source.digest}"
            step = f"building the wheel of {source.shown}"
            wheel = ["wheel", *self.index, "--quiet", "--no-deps", "--wheel-dir", str(built), str(root)]
            run(step, [*pip(), *wheel], BUILD_ENVIRONMENT)
            built.rename(folder)
        os.utime(folder)
        return next(folder.glob("*.whl"))

    def bundle(self, snapshot: Snapshot, target: Target, wheelhouse: bool) -> Path:
        """Return the tar file for ``target``, made if it isn't there; without dependencies unless ``wheelhouse``."""
        path = snapshot.path / f"{target.name}{'' if wheelhouse else '-index'}.tar"
        if path.exists():
            return path
        lock = parse_lock((snapshot.path / "lock.txt").read_text(), "lock.txt")
        pins = [replace(pin, marker="") for pin in lock if target.wants(pin.marker)]
        with self._scratch() as scratch:
            wheels = scratch / "wheels"
            shutil.copytree(snapshot.path / "wheels", wheels)
            own = [pin_wheel(wheel, target) for wheel in sorted(wheels.iterdir())]
            if wheelhouse and pins:
                pins = self._download(pins, target, wheels)
            check_complete(wheels.iterdir(), [*own, *pins], target)
            requirements = scratch / "requirements.txt"
            requirements.write_text("".join(f"{pin}\n" for pin in [*own, *pins]))
            made = scratch / "bundle.tar"
            with tarfile.open(made, "w") as archive:
                for part in (snapshot.path / "bundle.json", snapshot.path / "app", requirements, wheels):
                    if part.exists():
                        archive.add(part, part.name, filter=_plain)
            made.rename(path)
        return path

    def _download(self, pins: list[Pin], target: Target, wheels: Path) -> list[Pin]:
        """Fetch the wheels of ``pins`` and return the pins with the hashes of just these files."""
        fetched = wheels.parent / "fetched"
        lock = wheels.parent / "fetch.txt"
        lock.write_text("".join(f"{pin}\n" for pin in pins))
        major, minor = target.minor
        python = ["--implementation=cp", f"--python-version={major}.{minor}", f"--abi=cp{major}{minor}"]
        platforms = [f"--platform={tag}" for tag in target.platforms()]
        what = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--requirement", str(lock)]
        download = ["download", *self.index, *python, *platforms, *what, "--dest", str(fetched)]
        run(f"fetching the wheels for {target}", [*pip(), *download])
        found = []
        for wheel in sorted(fetched.iterdir()):
            found.append(pin_wheel(wheel, target))
            wheel.rename(wheels / wheel.name)
        return found


def find(path: str, base: list[Path], variable: str) -> Path:
    """Return the absolute path of ``path``, looked up in the folders ``base``."""
    candidates = [folder / Path(path).expanduser() for folder in base]
    for candidate in candidates:
        if candidate.exists():
            return candidate.resolve()
    looked = " and ".join(str(folder) for folder in base)
    raise StepError(f"{variable} is {path!r}, which doesn't exist on the controller (looked in {looked})")


def read_lock(source: Source, requirements: str, base: list[Path]) -> list[Pin]:
    """Return the pins of the lock ``requirements``, or of the source's own requirements.txt, or none."""
    name = requirements or "requirements.txt"
    if source.root and (source.root / name).is_file():
        path, where = source.root / name, f"{name} of ws_app_source {source.shown}"
    elif requirements:
        path = find(requirements, base, "ws_app_requirements")
        where = f"ws_app_requirements {path}"
        if not path.is_file():
            raise StepError(f"{where} isn't a file")
    else:
        return []
    pins: list[Pin] = parse_lock(path.read_text(), where)
    return pins


def _locked_requirement(app: Source, lock: list[Pin]) -> Source:
    """Return the source with the version that the lock has of it."""
    requirement = Requirement(app.shown)
    versions = [pin.version for pin in lock if pin.name == app.name]
    if not versions:
        raise StepError(
            f"ws_app_source is the requirement {app.shown!r}, which isn't in the lock ws_app_requirements "
            f"(a folder is written ./{app.shown})"
        )
    for version in versions:
        if not requirement.specifier.contains(version, prereleases=True):
            raise StepError(f"ws_app_source is {app.shown!r}, and the lock ws_app_requirements has {version}")
    return Source(shown=app.shown, digest=app.digest, name=app.name, version=versions[-1])


def _folder(path: Path, shown: str) -> Source:
    if not path.is_dir():
        raise StepError(f"ws_app_source is {shown!r}, which isn't a folder")
    name, version, buildable = read_project(path)
    return Source(shown, digest_files(path), name, version, path, buildable=buildable)


def _wheel(path: Path, shown: str) -> Source:
    try:
        name, version, _build, _tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise StepError(f"ws_app_source is {shown!r}, which isn't the name of a wheel: {error}") from error
    return Source(shown, sha256(path), name, str(version), wheel=path)


def read_project(root: Path) -> tuple[str, str, bool]:
    """Return a Python project's name and version, '' where they aren't written down, and whether it is one."""
    try:
        settings = tomllib.loads((root / "pyproject.toml").read_text())
    except FileNotFoundError:
        settings = {}
    except ValueError as error:
        raise StepError(f"pyproject.toml of ws_app_source {root} can't be read: {error}") from error
    project = settings.get("project", {})
    # A pyproject.toml may also hold nothing but the settings of tools, or dependencies for uv.
    buildable = "build-system" in settings or (root / "setup.py").is_file()
    return canonicalize_name(project.get("name", "")), project.get("version", ""), buildable


def list_files(root: Path) -> list[Path]:
    """Return the files and symlinks below ``root``, sorted, without what a release doesn't need."""
    files = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not LEFT_OUT.fullmatch(name) and not (here / name / "pyvenv.cfg").exists()
        )
        links = [name for name in folders if (here / name).is_symlink()]
        for path in (here / name for name in [*names, *links] if not LEFT_OUT.fullmatch(name)):
            if path.is_symlink():
                goal = path.readlink()
                if goal.is_absolute() or not (path.parent / goal).resolve().is_relative_to(root.resolve()):
                    raise StepError(f"ws_app_source has the link {path} to {goal}, which is outside of it")
            if path.is_symlink() or path.is_file():
                files.append(path)
    return sorted(files)


def digest_files(root: Path) -> str:
    """Return a digest of names, content and execute bits of the files below ``root``."""
    digest = hashlib.sha256()
    for path in list_files(root):
        is_link = path.is_symlink()
        content = hashlib.sha256(str(path.readlink()).encode()).hexdigest() if is_link else sha256(path)
        kind = "link" if is_link else "program" if path.stat().st_mode & 0o100 else "file"
        digest.update(f"{path.relative_to(root)}\0{kind}\0{content}\0".encode())
    return digest.hexdigest()


def copy_files(root: Path, to: Path) -> None:
    """Copy the files below ``root`` that a release needs."""
    for path in list_files(root):
        goal = to / path.relative_to(root)
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, goal, follow_symlinks=False)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Let everyone read what root owns, whoever made the bundle."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def pip() -> list[str]:
    """Return the command of the controller's pip."""
    if importlib.util.find_spec("pip") is None:
        raise StepError(
            f"the controller's Python {sys.executable} has no pip, which collects an app's packages: "
            f"install pip for it"
        )
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
