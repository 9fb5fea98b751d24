# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/bench_held.py asks of a server, and what it makes of the answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools import bench_held, servers
from tools.bench_held import measure_held
from tools.servers import Engine

URL = "wss://server2/"


def engine(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Engine:
    """Return an engine that is a script."""
    program = folder / "podman"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return Engine("podman")


def test_look_tells_the_programs_apart() -> None:
    looked = subprocess.run(
        [sys.executable, "-c", bench_held.LOOK], capture_output=True, text=True, check=True
    )
    assert set(json.loads(looked.stdout)) == {"nginx", "haproxy", "wsfleet"}


def test_figures_are_of_the_connections_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looks = iter([{"nginx": 1000 * 1024, "wsfleet": 0}, {"nginx": 21_000 * 1024, "wsfleet": 30_000 * 1024}])
    monkeypatch.setattr(bench_held, "SETTLE", 0)
    monkeypatch.setattr(bench_held, "look", lambda *_: next(looks))
    podman = engine(monkeypatch, tmp_path, "echo held\ncat")
    assert measure_held(podman, "server", "client", URL) == {"nginx": 20.0, "wsfleet": 30.0}


def test_clients_that_fail_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_held, "look", lambda *_: {})
    with pytest.raises(
        servers.ServersError, match=r"held\.py failed against wss://server2/: run it in client"
    ):
        measure_held(engine(monkeypatch, tmp_path, "exit 0"), "server", "client", URL)
