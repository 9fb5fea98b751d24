# SPDX-License-Identifier: GPL-3.0-or-later
"""What the load generator of playbook capacity takes for a message, beside the process that it drives.

No containers: the app on one core, module ws_load on another, as many messages as come back.
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
from tools.servers import ROOT, ServersError

MESSAGE = '{"type": "message", "text": "hello", "number": 12345}'
CONNECTIONS = 100
SECONDS = 5
PATIENCE = 60.0  # seconds
HEAD = ["app's loop", "compression", "messages/s", "generator", "app's process", "ratio"]


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


def measure_generator(say: Callable[[str], None]) -> dict[str, Any]:
    """Return the figures of each pair."""
    pairs = []
    for loop in LOOPS:
        for compression in (False, True):
            pairs.append(measure_pair(loop, compression))
            say(" ".join(row(pairs[-1])))
    return {"pairs": pairs}


def row(pair: dict[str, Any]) -> list[str]:
    """A row of the table."""
    return [
        pair["loop"],
        "on" if pair["compression"] else "off",
        f"{pair['messages_per_second']:,.0f}",
        f"{pair['generator_us']:.0f} µs",
        f"{pair['process_us']:.0f} µs",
        f"{pair['process_us'] / pair['generator_us']:.1f}",
    ]
