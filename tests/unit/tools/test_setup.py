# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/setup.sh installs, on machines that have this or that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[3] / "tools" / "setup.sh"
WORKS, FAILS = "exit 0", "exit 1"


class Machine:
    """A folder of commands, and nothing else, on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.installed = folder / "installed"
        self.has("apt-get", f'echo "$@" >>{self.installed}')
        self.has("id", "echo 0")
        self.has("mmdebstrap", WORKS)
        self.has("ssh", WORKS)
        self.has("git", WORKS)
        self.has("python3", f'exec {sys.executable} "$@"')
        for name in ("env", "mktemp", "rm", "tail"):
            self.has(name, f'exec /usr/bin/{name} "$@"')

    def has(self, name: str, script: str) -> None:
        """Put a command into the folder."""
        command = self.folder / name
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)

    def packages(self, *arguments: str) -> set[str]:
        """What setup.sh asks apt for."""
        subprocess.run(["/bin/sh", SETUP, *arguments], env={"PATH": str(self.folder)}, check=True)
        if not self.installed.exists():
            return set()
        words = self.installed.read_text().split()
        return set(words[words.index("--no-install-recommends") + 1 :])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_podman_where_no_engine_is(machine: Machine) -> None:
    assert "podman" in machine.packages("servers")


def test_podman_beside_a_docker_client_without_its_daemon(machine: Machine) -> None:
    machine.has("docker", FAILS)
    assert "podman" in machine.packages("servers")


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_no_second_engine(machine: Machine, engine: str) -> None:
    machine.has(engine, WORKS)
    assert "podman" not in machine.packages("servers")


def test_no_engine_for_the_tools_alone(machine: Machine) -> None:
    assert machine.packages() == set()
