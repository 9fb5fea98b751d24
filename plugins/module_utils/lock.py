# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks (requirements files with hashes), and which of their wheels a host takes."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from zipfile import BadZipFile, ZipFile

try:
    from packaging.markers import Marker
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.tags import Tag, compatible_tags, cpython_tags
    from packaging.utils import canonicalize_name, parse_wheel_filename
except ImportError:  # the controller has it, because ansible-core needs it
    HAS_PACKAGING = False
else:
    HAS_PACKAGING = True

from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError

MAKE_LOCK = "uv pip compile --universal --generate-hashes requirements.in -o requirements.txt"
# Platform tags from before PEP 600, by the glibc they stand for.
OLD_MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True)
class Pin:
    """A line of a lock: a package, its only version, the hashes of its files, and where it is installed."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str = ""

    def __str__(self) -> str:
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}=={self.version}{marker}" + "".join(f" \\\n    --hash={h}" for h in self.hashes)


def parse_lock(text: str, where: str) -> list[Pin]:
    """Return the pins of a requirements file, sorted. ``where`` names the file in a refusal."""
    text = re.sub(r"^\s*#.*\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\\r?\n", " ", text)
    lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in text.splitlines())
    return sorted((_parse_pin(line, where) for line in lines if line), key=str)


def _parse_pin(line: str, where: str) -> Pin:
    written, *hashes = re.split(r"\s+--hash[=\s]\s*", line)
    if written.startswith("-"):
        raise StepError(
            f"{where} has the option {written!r}; a lock has only packages, and ws_app_index_url names their index"
        )
    try:
        requirement = Requirement(written)
    except InvalidRequirement as error:
        raise StepError(f"{where} has {written!r}, which is no requirement: {error}") from error
    pin = re.fullmatch(r"===?([^*,]+)", str(requirement.specifier))
    if not pin or not hashes:
        raise StepError(
            f"{where} has {written!r}; every package in it must be pinned with == and have hashes: "
            f"make a lock with `{MAKE_LOCK}`"
        )
    marker = str(requirement.marker or "")
    return Pin(canonicalize_name(requirement.name), pin[1], tuple(sorted(h.strip() for h in hashes)), marker)


@dataclass(frozen=True)
class Target:
    """A Python on a host, written ``3.11.2-x86_64-2.36``: its version, the machine, and the version of glibc."""

    name: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """Version of Python, machine, version of glibc."""
        version, machine, glibc = self.name.split("-")
        return version, machine, glibc

    @property
    def minor(self) -> tuple[int, int]:
        """Version of Python as wheels know it, (3, 11)."""
        major, minor = self.parts[0].split(".")[:2]
        return int(major), int(minor)

    def __str__(self) -> str:
        version, machine, glibc = self.parts
        return f"Python {version} on {machine} with glibc {glibc}"

    def platforms(self) -> list[str]:
        """Return the platform tags whose wheels run there, best first."""
        _version, machine, glibc = self.parts
        tags = []
        for number in range(int(glibc.split(".")[1]), 4, -1):
            tags.append(f"manylinux_2_{number}_{machine}")
            if number in OLD_MANYLINUX:
                tags.append(f"{OLD_MANYLINUX[number]}_{machine}")
        return tags

    def tags(self) -> set[Tag]:
        """Return the tags of all wheels that run there, those built on this machine included if they do."""
        platforms = self.platforms()
        _version, machine, glibc = self.parts
        here = platform.libc_ver()[1] or "2.999"
        if machine == platform.machine() and _numbers(here) <= _numbers(glibc):
            platforms.append(f"linux_{machine}")
        major, minor = self.minor
        return {
            *cpython_tags(self.minor, [f"cp{major}{minor}"], platforms),
            *compatible_tags(self.minor, f"cp{major}{minor}", platforms),
        }

    def wants(self, marker: str) -> bool:
        """Return whether a requirement with this marker ('' has none) is installed there."""
        version, machine, _glibc = self.parts
        major, minor = self.minor
        return not marker or Marker(marker).evaluate(
            {
                "extra": "",
                "implementation_name": "cpython",
                "implementation_version": version,
                "os_name": "posix",
                "platform_machine": machine,
                "platform_python_implementation": "CPython",
                "platform_system": "Linux",
                "python_full_version": version,
                "python_version": f"{major}.{minor}",
                "sys_platform": "linux",
            }
        )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def pin_wheel(wheel: Path, target: Target) -> Pin:
    """Return the pin of just this file, which must run on ``target``."""
    name, version, _build, tags = parse_wheel_filename(wheel.name)
    if not tags & target.tags():
        raise StepError(f"the wheel {wheel.name} isn't pure Python and doesn't run on {target}")
    return Pin(name, str(version), (f"sha256:{sha256(wheel)}",))


def check_complete(wheels: Iterable[Path], pins: list[Pin], target: Target) -> None:
    """Refuse a lock that lacks what a wheel needs, or has it in another version."""
    locked = {pin.name: pin.version for pin in pins}
    for wheel in wheels:
        try:
            with ZipFile(wheel) as archive:
                name = next(
                    name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)
                )
                metadata = message_from_bytes(archive.read(name))
        except (BadZipFile, StopIteration) as error:
            raise StepError(f"{wheel.name} isn't a wheel") from error
        for need in map(Requirement, metadata.get_all("Requires-Dist", [])):
            if not target.wants(str(need.marker or "")):
                continue
            version = locked.get(canonicalize_name(need.name))
            if version is None:
                raise StepError(
                    f"the lock (ws_app_requirements) lacks {str(need).partition(';')[0].strip()}, which "
                    f"{metadata['Name']} {metadata['Version']} needs on {target}"
                )
            if not need.specifier.contains(version, prereleases=True):
                raise StepError(
                    f"the lock (ws_app_requirements) has {need.name} {version}, and {metadata['Name']} "
                    f"{metadata['Version']} needs {need.specifier}"
                )


def sha256(path: Path) -> str:
    """Return the digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
