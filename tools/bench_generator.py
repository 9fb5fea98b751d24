# SPDX-License-Identifier: GPL-3.0-or-later
"""What the load generator of playbook capacity takes for a message, beside what it drives.

First the app's process alone, without containers: the app on one core, module ws_load on another, as many messages as
come back. Then a server as site.yml makes it, by the playbook itself.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.bench_handover import LOOPS, SOURCES, cpu
from tools.bench_pair import Pair
from tools.servers import ROOT, Host, ServersError

MESSAGE = '{"type": "message", "text": "hello", "number": 12345}'
CONNECTIONS = 100
SECONDS = 5
PATIENCE = 60.0  # seconds
CONTROLLER = Host("localhost", "", ())
CLIENTS = 800  # of a server; each says a message ten times a second, as the playbook has it by default
HEAD = ["driven", "compression", "messages/s", "generator", "app", "nginx", "ratio"]


@contextmanager
def app(loop: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """An echo app on the first core, as its role surrounds it, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "wsfleet", f"--port={port}", f"--loop={loop}"],
        cwd=folder,
        env={"PYTHONPATH": str(SOURCES), "MALLOC_TOP_PAD_": "1048576"},
        stderr=subprocess.DEVNULL,
    )
    try:
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        yield process, port
    finally:
        process.kill()
        process.wait()


def measure_pair(loop: str, compression: bool) -> dict[str, Any]:
    """Drive the app as fast as it answers."""
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as name, app(loop, Path(name)) as (process, port):
        ready = Path(name) / "ready"
        options = {
            "url": f"ws://127.0.0.1:{port}/",
            "connections": CONNECTIONS,
            "seconds": SECONDS,
            "processes": 1,
            "ready_file": str(ready),
            "scenario": [
                {"connect": {"compression": compression}},
                "repeat",
                {"say": MESSAGE},
                {"expect": MESSAGE},
            ],
        }
        os.sched_setaffinity(0, {max(cores)})  # and with it what is started here
        try:
            load = subprocess.Popen(
                ["ansible", "localhost", "-m", "wsfleet.websockets.ws_load", "-a", json.dumps(options)],
                cwd=ROOT,
                env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1"},
                stdout=subprocess.PIPE,
                text=True,
            )
        finally:
            os.sched_setaffinity(0, cores)
        deadline = time.monotonic() + PATIENCE
        while not ready.exists() and load.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        began, before = time.monotonic(), cpu(process.pid)
        time.sleep(SECONDS - 1)
        used = (cpu(process.pid) - before) / (time.monotonic() - began)
        text, _errors = load.communicate(timeout=PATIENCE)
    if load.returncode:
        raise ServersError(f"ws_load failed: {text}")
    found = json.loads(text.partition("=>")[2])
    return {
        "loop": loop,
        "compression": compression,
        "messages_per_second": found["messages_per_second"],
        "generator_us": found["generator"]["cpu_us_per_message"],
        "process_us": 1e6 * used / found["messages_per_second"],
    }


def measure_server(pair: Pair) -> dict[str, Any]:
    """Have a fresh host drive another one, through TLS and nginx."""
    pair.deploy("generator")
    patience = 1000  # milliseconds; whoever has two cores for all this isn't quick
    variables = {
        "ws_capacity_host": pair.server.name,
        "ws_capacity_from": pair.client.name,
        "ws_capacity_undrained": True,  # nobody else knows it
        "ws_capacity_start": CLIENTS,
        "ws_capacity_most": CLIENTS,
        "ws_capacity_seconds": 2 * SECONDS,
        "ws_capacity_p99_ms": patience,
        "ws_capacity_lag_ms": patience,
        "ws_capacity_report": str(pair.folder / "generator"),
    }
    pair.play("generator-capacity", "playbooks/capacity.yml", [*pair.hosts, CONTROLLER], variables)
    figures = json.loads((pair.folder / "generator.json").read_text())["figures"]
    if figures["generator_cpu_us_per_message"] is None:
        raise ServersError(
            f"{pair.server.name} didn't keep up with {CLIENTS} clients, so that nothing was measured."
        )
    return {
        "compression": True,
        "messages_per_second": figures["messages_per_second"],
        "generator_us": figures["generator_cpu_us_per_message"],
        "process_us": figures["app_cpu_us_per_message"],
        "router_us": figures["router_cpu_us_per_message"],
    }


def measure_processes(say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the figures of the app's process, with each loop."""
    found = []
    for loop in LOOPS:
        for compression in (False, True):
            found.append(measure_pair(loop, compression))
            say(" ".join(row(found[-1])))
    return found


def row(figures: dict[str, Any]) -> list[str]:
    """A row of the table."""
    router = figures.get("router_us")
    return [
        f"process, {figures['loop']}" if router is None else "server, TLS",
        "on" if figures["compression"] else "off",
        f"{figures['messages_per_second']:,.0f}",
        f"{figures['generator_us']:.0f} µs",
        f"{figures['process_us']:.0f} µs",
        "" if router is None else f"{router:.0f} µs",
        f"{(figures['process_us'] + (router or 0)) / figures['generator_us']:.1f}",
    ]
