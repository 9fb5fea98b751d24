# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an app's generations and slots are on disk: folders, supervisor programs, symlinks.

A generation is one set of server processes: a release and its settings. A slot is a numbered place whose
stable socket path is a symlink into the generation that serves it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import typing as t
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.wsfleet.websockets.plugins.module_utils.health import Address

# The runner's own pace where WS_DRAIN_RATE doesn't set another, connections per second.
RUNNER_DRAIN_RATE = 50.0

# What the runner notes of the connections that a process took over.
HANDOVER_FIGURES = ("moved", "stayed", "seconds", "pause_p50_ms", "pause_p99_ms", "pause_max_ms")

# Part of every digest: raise it when the generated files change in a way that processes must pick up.
FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """All that makes one generation differ from another; stop_seconds is supervisor's stopwaitsecs."""

    release: str
    command: str
    user: str
    socket_group: str
    environment: dict[str, str]
    secrets: dict[str, str]
    port: int
    stop_seconds: int

    @property
    def digest(self) -> str:
        text = json.dumps([FORMAT, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def hands_over(self) -> bool:
        """Whether the runner is told to move open connections from process to process."""
        return "--handover" in self.command.split() or "WS_HANDOVER" in self.environment

    @property
    def shared_port(self) -> int:
        """TCP port on which the runner listens beside its unix socket; 0 is none."""
        number = self.environment.get("WS_SHARED_PORT", "0")
        return int(number) if number.isdecimal() else 0

    @property
    def drain(self) -> tuple[float, float]:
        """Window in seconds and connections per second of the runner's drain; zeros for any other app."""
        variables = {**self.environment, **self.secrets}
        try:
            return (
                float(variables["WS_DRAIN_SECONDS"]),
                float(variables.get("WS_DRAIN_RATE", RUNNER_DRAIN_RATE)),
            )
        except (KeyError, ValueError):
            return 0.0, 0.0


@dataclass(frozen=True)
class Generation:
    """A generation that is on disk, perhaps written by an older or newer version of this file."""

    number: int
    digest: str
    release: str
    stop_seconds: int
    port: int = 0
    shared_port: int = 0
    drain_seconds: float = 0.0
    drain_rate: float = 0.0

    def seconds_to_drain(self, connections: int) -> float:
        """How long a process with so many connections takes to end, as far as one can know."""
        if not connections:
            return 0.0
        if not self.drain_rate:
            return float(self.stop_seconds)
        return min(self.drain_seconds, connections / self.drain_rate)


@dataclass(frozen=True, order=True)
class Member:
    """One server process: the slot it is for and the generation it belongs to."""

    slot: int
    generation: int


class Layout:
    """Every path of one app on this host. `root` moves the whole tree, for tests."""

    def __init__(self, app: str, path: str, root: str = "/") -> None:
        self.app = app
        self._root = Path(root)
        self.path = self._at(path)
        self.current = self.path / "current"
        self.generations = self.path / "generations"
        self.run = self._at(f"/run/{app}")
        self.lock = self._at(f"/run/wsfleet-{app}.lock")
        self.progress = self._at(f"/run/wsfleet-{app}.progress")
        self.logs = self._at(f"/var/log/{app}")
        self.programs = self._at("/etc/supervisor/conf.d")
        self.tmpfiles = self._at(f"/etc/tmpfiles.d/wsfleet-{app}.conf")
        self.state = self._at(f"/var/lib/wsfleet/apps/{app}")
        self._slot = re.compile(rf"{re.escape(app)}_(\d+)")
        self._program = re.compile(rf"{self._slot.pattern}-g(\d+)")

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    # names

    def slot_name(self, slot: int) -> str:
        return f"{self.app}_{slot:02d}"

    def group(self, member: Member) -> str:
        return f"{self.slot_name(member.slot)}-g{member.generation}"

    def process(self, member: Member) -> str:
        return f"{self.group(member)}:{self.slot_name(member.slot)}"

    def member(self, group: str) -> Member | None:
        """The inverse of group(); None for what isn't ours."""
        match = self._program.fullmatch(group)
        return Member(int(match[1]), int(match[2])) if match else None

    def slot(self, name: str) -> int | None:
        """The inverse of slot_name(); None for what isn't ours."""
        match = self._slot.fullmatch(name)
        return int(match[1]) if match else None

    def log(self, slot: int) -> Path:
        return self.logs / f"{self.slot_name(slot)}.log"

    def address(self, member: Member, settings_port: int, shared_port: int = 0) -> Address:
        if settings_port:
            return Address(port=settings_port + member.slot)
        path = self._sockets(member.generation) / f"{self.slot_name(member.slot)}.sock"
        return Address(str(path), shared_port)

    def entrance(self, member: Member, generation: Generation | None) -> Address:
        """Where the member's connections come in; of a generation that isn't on disk, what can be known."""
        if generation is None:
            return self.address(member, 0)
        return self.address(member, generation.port, generation.shared_port)

    def generation_at(self, directory: str) -> int | None:
        """Whose sockets are bound there; a process may be in a folder that was removed."""
        match = re.fullmatch(rf"{re.escape(str(self.run))}/g(\d+)( \(deleted\))?", directory)
        return int(match[1]) if match else None

    def _folder(self, generation: int) -> Path:
        return self.generations / str(generation)

    def _sockets(self, generation: int) -> Path:
        return self.run / f"g{generation}"

    def _link(self, slot: int) -> Path:
        return self.run / f"{self.slot_name(slot)}.sock"

    def _conf(self, member: Member) -> Path:
        return self.programs / f"{self.group(member)}.conf"

    # what is there

    def read_generations(self) -> dict[int, Generation]:
        """The finished generations on disk, by number."""
        found = {}
        for file in self.generations.glob("*/generation.json"):
            number, facts = int(file.parent.name), json.loads(file.read_text())
            if self._abandoned(number).exists():
                facts["digest"] = ""
            known = {name: value for name, value in facts.items() if name in Generation.__dataclass_fields__}
            found[number] = Generation(number, **known)
        return found

    def all_generations(self) -> set[int]:
        """Every generation that has a folder, the unfinished ones too."""
        return {int(folder.name) for folder in self.generations.glob("*") if folder.name.isdecimal()}

    def serving(self) -> dict[int, int]:
        """Which generation each slot's symlink points to."""
        targets = {slot: re.match(r"g(\d+)/", target) for slot, target in self._links().items()}
        return {slot: int(target[1]) for slot, target in targets.items() if target}

    def lent(self) -> set[int]:
        """The slots that were given up and still point at another."""
        return set(self._links()) - set(self.serving())

    def _links(self) -> dict[int, str]:
        links = ((self.slot(path.stem), path) for path in self.run.glob("*.sock") if path.is_symlink())
        return {slot: str(path.readlink()) for slot, path in links if slot is not None}

    def programs_on_disk(self) -> set[Member]:
        """The members that supervisord would start at boot."""
        members = (self.member(file.stem) for file in self.programs.glob(f"{self.app}_*.conf"))
        return {member for member in members if member}

    def told(self, pid: int, start_ticks: int) -> float:
        """The Unix time when the process was told to stop, 0 when it wasn't."""
        note = self._note(pid, start_ticks)
        return note.stat().st_mtime if note.exists() else 0.0

    def out_of_service(self) -> str:
        """Who took the host out of service; empty when it serves."""
        try:
            return (self.state / "drained").read_text().strip() or "operator"
        except FileNotFoundError:
            return ""

    def _abandoned(self, number: int) -> Path:
        return self._folder(number) / "abandoned"

    def _note(self, pid: int, start_ticks: int) -> Path:
        return self.run / f"told.{pid}.{start_ticks}"

    # changes

    def note_told(self, pid: int, start_ticks: int) -> None:
        """Remember that a process was told to stop: a second SIGTERM would cut its drain short."""
        self.run.mkdir(exist_ok=True)
        self._note(pid, start_ticks).touch()

    def forget_told(self, alive: t.Callable[[int], bool]) -> None:
        """Drop the notes of processes that have ended."""
        for note in self.run.glob("told.*"):
            if not alive(int(note.name.split(".")[1])):
                note.unlink(missing_ok=True)

    def create(self, number: int, settings: Settings) -> None:
        """Write a generation's folder; generation.json comes last, so that one without it is unfinished."""
        drain_seconds, drain_rate = settings.drain
        folder = self._folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "start", self._start_script(number, settings), 0o755)
        _write(folder / "environment", _environment(number, settings), 0o400, settings.user)
        _write(
            folder / "generation.json",
            json.dumps(
                {
                    "digest": settings.digest,
                    "release": settings.release,
                    "stop_seconds": settings.stop_seconds,
                    "port": settings.port,
                    "shared_port": settings.shared_port,
                    "drain_seconds": drain_seconds,
                    "drain_rate": drain_rate,
                },
                indent=2,
            )
            + "\n",
            0o600,
        )
        self.run.mkdir(exist_ok=True)
        self.run.chmod(0o755)
        sockets = self._sockets(number)
        sockets.mkdir(exist_ok=True)
        shutil.chown(sockets, settings.user, settings.socket_group)
        sockets.chmod(0o2750)

    def discard(self, number: int) -> None:
        """Remove a generation that has no process any more."""
        shutil.rmtree(self._folder(number), ignore_errors=True)
        shutil.rmtree(self._sockets(number), ignore_errors=True)

    def abandon(self, number: int) -> None:
        """Never take the generation for the wanted one again: it has failed."""
        if self._folder(number).exists():
            self._abandoned(number).touch()

    def write_program(self, member: Member, settings: Settings) -> None:
        _write(self._conf(member), self._program_text(member, settings), 0o644)

    def remove_program(self, member: Member) -> None:
        self._conf(member).unlink(missing_ok=True)

    def switch(self, member: Member) -> None:
        """Point the slot at the member: from this rename on, every new handshake goes to it."""
        self._replace_link(member.slot, f"g{member.generation}/{self.slot_name(member.slot)}.sock")

    def lend(self, slot: int, other: int) -> None:
        """Point a slot that is given up at another, for as long as a proxy still lists it."""
        self._replace_link(slot, f"{self.slot_name(other)}.sock")

    def _replace_link(self, slot: int, target: str) -> None:
        link = self._link(slot)
        fresh = link.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.rename(link)

    def refuse_handover(self, number: int) -> None:
        """Have processes that go find nobody in the generation who takes their connections."""
        for file in self._sockets(number).glob("*.sock.handover"):
            file.unlink(missing_ok=True)

    def hands_over(self, member: Member) -> bool:
        """Whether the member's process can move connections: its handler is resumable, and nobody has refused it."""
        return self._handover_socket(member).exists()

    def _handover_socket(self, member: Member) -> Path:
        return self._sockets(member.generation) / f"{self.slot_name(member.slot)}.sock.handover"

    def metrics(self, member: Member) -> Address:
        """Where the member's process answers /metrics, if it does; role ws_supervisor has the runner bind it."""
        return Address(str(self._sockets(member.generation) / f"{self.slot_name(member.slot)}.metrics"))

    def handover(self, member: Member) -> dict[str, float]:
        """What the member noted of the connections that it took over last; empty if it took none."""
        file = self._sockets(member.generation) / f"{self.slot_name(member.slot)}.sock.json"
        try:
            noted = json.loads(file.read_text())
            return {name: float(noted[name]) for name in HANDOVER_FIGURES}
        except (OSError, ValueError, TypeError, KeyError):  # it is the app's file, not ours
            return {}

    def drop_link(self, slot: int) -> None:
        self._link(slot).unlink(missing_ok=True)

    def write_tmpfiles(self) -> None:
        """Have systemd-tmpfiles make /run at boot as it is now: the slots that serve."""
        serving = self.serving()
        folders = [self._sockets(number) for number in sorted(set(serving.values()))]
        lines = [
            f"# Slots of {self.app}, remade at boot; written by wsfleet.websockets.ws_rollout",
            f"d {self.run} 0755 root root -",
            *(f"d {folder} 2750 {folder.owner()} {folder.group()} -" for folder in folders),
        ]
        lines += [
            f"L+ {self._link(slot)} - - - - g{number}/{self.slot_name(slot)}.sock"
            for slot, number in sorted(serving.items())
        ]
        text = "\n".join(lines) + "\n"
        if not self.tmpfiles.is_file() or self.tmpfiles.read_text() != text:
            _write(self.tmpfiles, text, 0o644)

    def activate(self, release: str) -> None:
        """Point the app's `current` symlink at the release, if it is among the app's own."""
        if Path(release).parent != self.path / "releases" or self.current.resolve() == Path(release):
            return
        fresh = self.current.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("releases") / Path(release).name)
        fresh.rename(self.current)

    def erase(self) -> None:
        """Remove everything of the app but its releases and logs; its processes have stopped."""
        for member in self.programs_on_disk():
            self.remove_program(member)
        self.tmpfiles.unlink(missing_ok=True)
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.generations, ignore_errors=True)

    # the files' texts

    def _start_script(self, number: int, settings: Settings) -> str:
        return (
            "#!/bin/sh\n"
            f"# Run by supervisord for each slot of {self.app}'s generation {number}; becomes the server process.\n"
            "set -a\n"
            f". {self._folder(number)}/environment\n"
            'ulimit -S -n "$(ulimit -H -n)"\n'
            f"exec {settings.command}\n"
        )

    def _program_text(self, member: Member, settings: Settings) -> str:
        lines = [
            "; Written by wsfleet.websockets.ws_rollout; a change here is made by a new generation.",
            f"[program:{self.group(member)}]",
            f"process_name={self.slot_name(member.slot)}",
            f"command={self._folder(member.generation)}/start",
            f"directory={self._sockets(member.generation)}",
            f"user={settings.user}",
            "umask=007",
            "autostart=true",
            "autorestart=true",
            "startsecs=1",
            # A dependency that is away for minutes must not end in FATAL, from which nothing restarts.
            "startretries=100",
            "stopsignal=TERM",
            f"stopwaitsecs={settings.stop_seconds}",
            "killasgroup=true",
            "redirect_stderr=true",
            # Several generations append to the slot's log; logrotate rotates it, not supervisord.
            f"stdout_logfile={self.log(member.slot)}",
            "stdout_logfile_maxbytes=0",
        ]
        if settings.port:
            lines.append(f'environment=HOST="127.0.0.1",PORT="{settings.port + member.slot}"')
        return "\n".join(lines) + "\n"


def _environment(number: int, settings: Settings) -> str:
    variables = {
        # asyncio reads into a new buffer of 256 KiB each time, for which glibc moves the end of the heap, and back
        # after it; with compression, 15 of 37 µs per message (row `top_pad` of bench/RESULTS.md).
        "MALLOC_TOP_PAD_": "1048576",
        "PATH": f"{settings.release}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{settings.release}/app",
        "PYTHONUNBUFFERED": "1",
        **settings.environment,
        **settings.secrets,
        "WS_GENERATION": str(number),
        "WS_RELEASE": settings.release,
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))


def _write(path: Path, text: str, mode: int, owner: str = "") -> None:
    """Replace a file at once: nobody sees half of it, or its content before its mode and owner are right."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            os.fchmod(file.fileno(), mode)
            if owner:
                shutil.chown(fresh, owner)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError as error:  # a full disk doesn't say which file it was
        fresh.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def environment_problems(variables: t.Mapping[str, object]) -> list[str]:
    """Names that no shell could read back."""
    return [name for name in variables if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]
