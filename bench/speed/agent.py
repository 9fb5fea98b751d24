#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on a server, as root: starts what is measured behind the slots of the routers, and says what it uses.

Each line of standard input is a JSON object with an `order` and its arguments, each line of standard output the answer:

    start  command, processes, site, router, environment, directives
           Start the processes, have the slots of the site lead to them, and start the router anew. `command` is words,
           in which {name} is the process's name and {processes} their number; with the latter there is one command in
           all. Without a command, it is that of the processes which role ws_supervisor runs. `directives` are nginx's,
           instead of those that the role wrote.
    look   What processes and router have used so far: seconds of CPU, bytes of memory, and sockets of each process.
    stop   Stop the processes.

Everything on the server gets the first core. Needs Python >= 3.11, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

APP = "echo"
SLOTS = 4  # of each site
SOCKETS = Path("/run") / APP
FOLDER = SOCKETS / "speed"  # as that of a generation: the processes' working directory
USER = f"ws-{APP}"
# Of the processes.
IDENTITY: dict[str, Any] = {
    "user": USER,
    "group": "www-data",
    "extra_groups": [USER],  # which may read the key
    "umask": 0,
}
NGINX = Path("/etc/nginx/conf.d")
LOG = Path("/root/speed.log")
TIMEOUT = 20.0  # seconds
TICK = os.sysconf("SC_CLK_TCK")


class AgentError(Exception):
    """What is to be measured doesn't run."""


# --- processes --------------------------------------------------------------------------------------------


def pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def words(pid: int, name: str) -> list[str]:
    """The strings of /proc/PID/cmdline or environ."""
    return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace").split("\0")[:-1]


def parent_and_ticks(stat: str) -> tuple[int, int]:
    """The parent, and the ticks of CPU used, of a line of /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[1]), int(fields[11]) + int(fields[12])


def family(roots: Iterable[int], parents: Mapping[int, int]) -> set[int]:
    """Processes and all their descendants."""
    found: set[int] = set()
    wanted = set(roots)
    while wanted:
        found |= wanted
        wanted = {pid for pid, parent in parents.items() if parent in wanted} - found
    return found


def memory(pid: int) -> int:
    """Bytes that a process uses, its part of shared pages included; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def sockets(pid: int) -> int:
    count = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it has been closed
            count += str(file.readlink()).startswith("socket:")
    return count


def pin() -> None:
    """Have everything here run on the first core, and what it starts."""
    core = {min(os.sched_getaffinity(0))}
    for pid in pids():
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), core)
        except OSError:  # it has ended, or is a kernel's
            continue


# --- what is measured -------------------------------------------------------------------------------------


def names(processes: int) -> list[str]:
    return [f"{APP}_{number:02d}" for number in range(processes)]


def slots(site: str, processes: int) -> dict[str, str]:
    """Symlinks of a site, and where each leads: all have a process, and all processes the same number of them."""
    sockets = names(processes)
    return {
        f"{site}_{slot:02d}.sock": f"{FOLDER.name}/{sockets[slot % processes]}.sock" for slot in range(SLOTS)
    }


def vary(text: str, directives: Mapping[str, str]) -> str:
    """A configuration with these directives instead of its own."""
    for name in directives:
        text = re.sub(rf"^ *{re.escape(name)} .*;\n", "", text, flags=re.MULTILINE)
    lines = "".join(f"{name} {value};\n" for name, value in directives.items())
    return f"{lines}{text}"  # of a site: on nginx's level http, for all of them


def deployed() -> tuple[list[str], dict[str, str]]:
    """Command and environment of the first process of role ws_supervisor."""
    for pid in pids():
        try:
            environment = dict(word.split("=", 1) for word in words(pid, "environ") if "=" in word)
            command = words(pid, "cmdline")
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        if environment.get("SUPERVISOR_PROCESS_NAME", "").startswith(f"{APP}_00") and "wsfleet" in command:
            return command, environment
    raise AgentError(f"no process of the app {APP} runs here: deploy it first")


class Agent:
    """What the orders are for."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self.router = ""
        # nginx counts the machine's cores, not those that it may use.
        main = NGINX.parent / "nginx.conf"
        main.write_text(vary(main.read_text(), {"worker_processes": "1"}))
        self.sites = {file: file.read_text() for file in NGINX.glob("wsfleet-*.conf")}
        self.command, self.environment = deployed()

    def start(
        self,
        command: Sequence[str],
        processes: int,
        site: str,
        router: str,
        environment: Mapping[str, str],
        directives: Mapping[str, str],
    ) -> dict[str, Any]:
        self.stop()  # what an order that failed has left
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        shutil.chown(FOLDER, USER, "www-data")
        LOG.write_bytes(b"")
        log = LOG.open("ab")
        together = "{processes}" in command
        for name in names(1 if together else processes):
            own = [word.replace(f"{APP}_00", name) for word in self.command]
            some = [word.format(name=name, processes=processes) for word in command] or own
            given = {**self.environment, **environment, "SUPERVISOR_PROCESS_NAME": name}
            variables = {name: value for name, value in given.items() if value}  # an empty one takes it away
            self.started.append(
                subprocess.Popen(
                    some,
                    cwd=FOLDER,
                    env=variables,
                    **IDENTITY,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
        # The app's own slots too: they say to the runner that clients are to reach it.
        for link, target in (slots(APP, processes) | slots(site, processes)).items():
            fresh = SOCKETS / "fresh"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(target)
            fresh.replace(SOCKETS / link)
        log.close()
        self.await_sockets(processes)
        self.router = router
        for file, text in self.sites.items() if router == "nginx" else ():
            file.write_text(vary(text, directives) if file.name == f"wsfleet-{site}.conf" else text)
        if router:
            subprocess.run(["systemctl", "reset-failed", router], check=True)
            subprocess.run(["systemctl", "restart", router], check=True)
        return {}

    def await_sockets(self, processes: int) -> None:
        """Wait until every process listens."""
        deadline = time.monotonic() + TIMEOUT
        missing = [FOLDER / f"{name}.sock" for name in names(processes)]
        while missing := [path for path in missing if not path.exists()]:
            ended = [process for process in self.started if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                self.stop()
                tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-10:])
                raise AgentError(f"{missing[0].name} isn't there; the process says:\n{tail}")
            time.sleep(0.05)
        time.sleep(0.3)  # bind and listen are two calls

    def look(self) -> dict[str, Any]:
        stats = {}
        for pid in pids():
            try:
                stats[pid] = Path(f"/proc/{pid}/stat").read_text()
            except OSError:  # it has ended
                continue
        parents = {pid: parent_and_ticks(stat)[0] for pid, stat in stats.items()}
        groups = {
            "processes": family([process.pid for process in self.started], parents),
            "router": {pid for pid, stat in stats.items() if self.router and f"({self.router})" in stat},
        }
        return {
            "cpu": {
                group: sum(parent_and_ticks(stats[pid])[1] for pid in members if pid in stats) / TICK
                for group, members in groups.items()
            },
            "memory": {group: sum(map(memory, members)) for group, members in groups.items()},
            "sockets": {str(pid): sockets(pid) for pid in groups["processes"]},
        }

    def stop(self) -> dict[str, Any]:
        for process in self.started:
            process.send_signal(signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.started.clear()
        return {}


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # as the roles have it
    pin()
    try:
        agent = Agent()
    except AgentError as error:
        sys.exit(f"agent: {error}")
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = getattr(agent, arguments.pop("order"))(**arguments)
        except (AgentError, OSError, subprocess.CalledProcessError) as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    agent.stop()


if __name__ == "__main__":
    main()
