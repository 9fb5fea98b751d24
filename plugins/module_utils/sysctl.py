# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel parameters that are raised for somebody, and given back when nobody needs them any more.

What they were is in a note, with who wants what. A value that suffices already is left as it is.
"""

from __future__ import annotations

import json
import os
import textwrap
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

HEAD = "# Written by wsfleet.websockets.ws_sysctl, which remembers what the values were.\n"


@dataclass(frozen=True)
class Parameter:
    """A value to have at least: a number, or a range of two that reaches as far. `why` is for people."""

    name: str
    value: str
    why: str = ""


@dataclass(frozen=True)
class Paths:
    """Where things are; `root` moves them all, for tests."""

    root: Path = Path("/")

    @property
    def file(self) -> Path:
        return self.root / "etc/sysctl.d/60-wsfleet-host.conf"

    @property
    def note(self) -> Path:
        return self.root / "var/lib/wsfleet/sysctl.json"

    def live(self, name: str) -> Path:
        return self.root / "proc/sys" / name.replace(".", "/")


@dataclass(frozen=True)
class Outcome:
    """What changed, parameter by parameter: its name, and its value before and after."""

    changes: dict[str, tuple[str, str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    before: str = ""  # the file
    after: str = ""
    changed: bool = False


class Sysctls:
    """The parameters that the host's sets have raised, of which `name` is one."""

    def __init__(self, name: str, paths: Paths | None = None) -> None:
        self.name = name
        self.paths = paths or Paths()
        note = _load(self.paths.note)
        self._before: dict[str, str] = note["before"]
        self._sets: dict[str, dict[str, list[str]]] = note["sets"]

    def apply(self, wanted: t.Sequence[Parameter], dry: bool = False) -> Outcome:
        """Have the set consist of these, those left out or none given back; `dry` changes nothing."""
        sets = {name: values for name, values in self._sets.items() if name != self.name}
        if wanted:
            sets[self.name] = {one.name: [one.value, one.why] for one in wanted}
        ours, target = _highest(self._sets), _highest(sets)
        before, steps = dict(self._before), dict[str, str]()
        for name in sorted({*before, *target}):
            live = read(self.paths.live(name))
            if not live:  # this kernel doesn't have it, or not yet
                continue
            original = before.get(name, live)
            was_set = name in before and name in ours and live == ours[name].value
            if name in target and not suffices(original, target[name].value):
                before[name] = original
                if live != target[name].value and (was_set or not suffices(live, target[name].value)):
                    steps[name] = target[name].value
            elif name in before:
                del before[name]
                if was_set and live != original:  # otherwise somebody else has changed it since
                    steps[name] = original
        outcome = self._carry_out(steps, before, sets, target, dry)
        if not dry:
            self._before, self._sets = before, sets
        return outcome

    def _carry_out(
        self,
        steps: dict[str, str],
        before: dict[str, str],
        sets: dict[str, dict[str, list[str]]],
        target: dict[str, Parameter],
        dry: bool,
    ) -> Outcome:
        if not dry and steps:  # first, so that no crash loses what the values were
            _save(self.paths.note, {**self._before, **before}, {**self._sets, **sets})
        changes, refused = {}, {}
        for name, value in steps.items():
            path = self.paths.live(name)
            was = read(path)
            try:
                _write(path, value, dry)
                changes[name] = (was, value)
            except OSError as error:
                refused[name] = error.strerror or str(error)
                if name not in self._before:
                    before.pop(name, None)
                elif name not in before:
                    before[name] = self._before[name]
        # What can't be set here would be an error at every boot.
        text = render([one for name, one in sorted(target.items()) if name in before])
        old = _text(self.paths.file)
        if not dry:
            _replace(self.paths.file, text)
            _save(self.paths.note, before, sets)
        changed = bool(changes) or old != text or (self._before, self._sets) != (before, sets)
        return Outcome(changes, refused, old, text, changed)


def suffices(value: str, wanted: str) -> bool:
    """Whether the value is as high, or of a range, as wide."""
    have, want = [int(part) for part in value.split()], [int(part) for part in wanted.split()]
    if len(want) == 2:
        return have[0] <= want[0] and have[1] >= want[1]
    return have[0] >= want[0]


def read(path: Path) -> str:
    """A parameter's value, its parts separated by one space; empty when the kernel doesn't have it."""
    return " ".join(_text(path).split())


def parse(text: str) -> dict[str, str]:
    """The parameters in a file of sysctl.d."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#;")
    return {name.strip().lstrip("-"): " ".join(value.split()) for name, _equals, value in pairs}


def render(parameters: t.Iterable[Parameter]) -> str:
    """The text of a file of sysctl.d, empty without parameters."""
    lines = [HEAD]
    for one in parameters:
        lines += textwrap.wrap(one.why, 118, initial_indent="# ", subsequent_indent="# ")
        # The hyphen: at boot a module of the kernel may be missing still, which is no error.
        lines.append(f"-{one.name} = {one.value}\n")
    return "\n".join(lines) if len(lines) > 1 else ""


def _highest(sets: dict[str, dict[str, list[str]]]) -> dict[str, Parameter]:
    """What suffices for all of them."""
    found: dict[str, Parameter] = {}
    for values in sets.values():
        for name, (value, why) in values.items():
            if name not in found or not suffices(found[name].value, value):
                found[name] = Parameter(name, value, why)
    return found


def _write(path: Path, value: str, dry: bool) -> None:
    if not dry:
        path.write_text(f"{value}\n")
    elif not os.access(path, os.W_OK):  # as in containers, for root too
        raise OSError(0, "it can't be written here")


def _load(note: Path) -> dict[str, t.Any]:
    text = _text(note)
    return json.loads(text) if text else {"before": {}, "sets": {}}


def _save(note: Path, before: dict[str, str], sets: dict[str, dict[str, list[str]]]) -> None:
    if before or sets:
        note.parent.mkdir(parents=True, exist_ok=True)
        _replace(note, json.dumps({"before": before, "sets": sets}, indent=2, sort_keys=True) + "\n")
        return
    _replace(note, "")
    if note.parent.is_dir() and not any(note.parent.iterdir()):
        note.parent.rmdir()


def _replace(path: Path, text: str) -> None:
    """Have the file hold the text, or with none not be there, in one step."""
    if _text(path) == text:
        return
    if not text:
        path.unlink(missing_ok=True)
        return
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.chmod(0o644)
    fresh.replace(path)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
