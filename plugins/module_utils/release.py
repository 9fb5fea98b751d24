# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Releases of an app on its host: immutable folders ``<home>/releases/<id>``, one of them ``<home>/current``.

A finished release has ``release.json``, which is written last, and a virtual environment of the Python that the
host has now. Anything else in ``releases`` is the rest of a run that was killed, or of another Python.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError, run

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

DESCRIBE_PYTHON = """
import importlib.util, json, os, platform
print(json.dumps({
    "version": platform.python_version(),
    "machine": platform.machine(),
    "glibc": os.confstr("CS_GNU_LIBC_VERSION").split()[-1],
    "venv": importlib.util.find_spec("ensurepip") is not None,
}))
"""


@dataclass(frozen=True)
class Release:
    """A folder in ``releases``. ``version`` and ``created`` (ISO 8601, UTC) are empty when it is unfinished."""

    id: str
    path: str
    finished: bool
    current: bool
    in_use: bool
    version: str = ""
    created: str = ""


def describe_python(python: str) -> dict[str, Any]:
    """Return path, version ("3.11.2"), machine ("x86_64"), glibc ("2.36") and venv (can it make one?) of ``python``.

    ``target`` ("3.11.2-x86_64-2.36") is the first three in one word: hosts where it is equal take the same wheels.
    """
    info = json.loads(
        run(f"asking {python} (ws_app_python) for its version", [python, "-c", DESCRIBE_PYTHON])
    )
    return {"path": python, "target": f"{info['version']}-{info['machine']}-{info['glibc']}", **info}


def prunable(releases: list[Release], keep: int, wanted: str) -> list[str]:
    """Return the ids to remove from ``releases`` (newest first): the unfinished and those beyond the newest ``keep``.

    Never the one that is current, used by a generation, or ``wanted``, which is about to be used.
    """
    newest = [release.id for release in releases if release.finished][:keep]
    return [
        release.id
        for release in releases
        if release.id not in (*newest, wanted) and not release.current and not release.in_use
    ]


class Releases:
    """The releases of the app whose folder is ``home``, for the Python of version ``python`` ("3.11.2")."""

    def __init__(self, home: str, python: str = "") -> None:
        self.home = Path(home)
        self.folder = self.home / "releases"
        self.link = self.home / "current"
        self.python = minor(python)

    def path(self, release_id: str) -> Path:
        """Return the folder of a release."""
        return self.folder / release_id

    def listed(self) -> list[Release]:
        """Return what is in ``releases``, newest first, the unfinished last."""
        if not self.folder.is_dir():
            return []
        current = self.current()
        used = self._used()
        releases = []
        for path in self.folder.iterdir():
            if not path.is_dir():
                continue
            facts = self._facts(path)
            releases.append(
                Release(
                    id=path.name,
                    path=str(path),
                    finished=bool(facts),
                    current=path.name == current,
                    in_use=used is None or path.name in used,
                    version=facts.get("version", ""),
                    created=facts.get("created", ""),
                )
            )
        return sorted(releases, key=lambda release: (release.created, release.id), reverse=True)

    def current(self) -> str:
        """Return the id that ``current`` points at, or ''."""
        return self.link.readlink().name if self.link.is_symlink() else ""

    def make(self, release_id: str, bundle: Path, python: str, index: list[str]) -> None:
        """Make a release from ``bundle``, a tar file by ws_bundle, and leave nothing behind when that fails.

        ``index`` is pip's options for where packages come from besides the bundle's own wheels.
        """
        path = self.path(release_id)
        umask = os.umask(0o022)  # the app's user must be able to read it, whatever the host's umask
        try:
            self.remove(release_id)
            path.mkdir(parents=True)
            self._fill(path, bundle, python, index)
        except BaseException:
            self.remove(release_id)
            raise
        finally:
            os.umask(umask)

    def _fill(self, path: Path, bundle: Path, python: str, index: list[str]) -> None:
        unpack(bundle, path)
        manifest = path / "bundle.json"
        facts = json.loads(manifest.read_text())
        if facts["id"] != path.name:
            raise StepError(f"the bundle {bundle} holds the release {facts['id']}, not {path.name}")
        run("making the virtual environment", [python, "-m", "venv", str(path / "venv")])
        venv_python = str(path / "venv" / "bin" / "python")
        pip = [
            venv_python,
            "-m",
            "pip",
            "--isolated",
            "--disable-pip-version-check",
            "--no-input",
            "--no-cache-dir",
        ]
        requirements = path / "requirements.txt"
        if requirements.read_text().strip():
            # The lock is complete, so pip resolves nothing; `pip check` says what it lacks.
            install = ["install", "--quiet", "--root-user-action=ignore", "--no-deps", "--require-hashes"]
            wheels = ["--only-binary=:all:", "--find-links", str(path / "wheels"), *index]
            run("installing the packages", [*pip, *install, *wheels, "--requirement", str(requirements)])
            run("checking that every dependency is in the lock", [*pip, "check"])
        if (path / "app").is_dir():
            # Behind the installed packages, for a folder that isn't a package itself. Relative to site-packages.
            site_packages = path / "venv" / "lib" / f"python{self.python}" / "site-packages"
            (site_packages / "wsfleet_app.pth").write_text("../../../../app\n")
            compile_all = [venv_python, "-m", "compileall", "-q", str(path / "app")]
            subprocess.run(
                compile_all, check=False, capture_output=True
            )  # a file of another Python is no failure
        shutil.rmtree(path / "wheels", ignore_errors=True)
        manifest.unlink()
        facts["created"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        facts["python"] = {"path": python, "version": self.python}
        os.sync()  # so that a release that survives a power cut with release.json is whole
        unfinished = path / ".release.json"
        unfinished.write_text(json.dumps(facts, indent=2) + "\n")
        unfinished.replace(path / "release.json")

    def activate(self, release_id: str) -> None:
        """Point ``current`` at a release in one step."""
        link = self.home / ".current"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("releases") / release_id)
        link.replace(self.link)

    def remove(self, release_id: str) -> None:
        """Remove a release; killed halfway, it leaves an unfinished one."""
        path = self.path(release_id)
        (path / "release.json").unlink(missing_ok=True)
        if path.exists():
            shutil.rmtree(path)

    def _facts(self, path: Path) -> dict[str, Any]:
        """Return release.json of a finished release, else {}."""
        try:
            facts: dict[str, Any] = json.loads((path / "release.json").read_text())
            made_for = facts["python"]["version"]
        except (OSError, ValueError, KeyError):
            return {}
        return facts if self.python in ("", made_for) and (path / "venv" / "bin" / "python").exists() else {}

    def _used(self) -> set[str] | None:
        """Return the ids of the releases that generations use, or None when a generation can't be read."""
        used = set()
        for file in self.home.glob("generations/*/generation.json"):
            try:
                used.add(Path(json.loads(file.read_text())["release"]).name)
            except (OSError, ValueError, KeyError):
                return None  # it may use any of them
        return used


def minor(version: str) -> str:
    """Return "3.11" for "3.11.2"."""
    return ".".join(version.split(".")[:2])


def unpack(bundle: Path, path: Path) -> None:
    """Unpack the tar file ``bundle`` into ``path``."""
    try:
        with tarfile.open(bundle) as archive:
            if hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on
                archive.extractall(path, filter="data")
            else:
                for name in archive.getnames():
                    if Path(name).is_absolute() or ".." in Path(name).parts:
                        raise tarfile.TarError(f"{name} is outside")
                archive.extractall(path)  # noqa: S202 - our own archive, sent by the controller
    except (OSError, tarfile.TarError) as error:
        raise StepError(f"unpacking the bundle {bundle} failed: {error}") from error
