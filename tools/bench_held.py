# SPDX-License-Identifier: GPL-3.0-or-later
"""What idle connections take in each program of a server."""

from __future__ import annotations

import json
import subprocess
import time
from typing import IO, cast

from tools import servers

CLIENTS = servers.ROOT / "bench" / "held.py"
IDLE = 1000
SETTLE = 3.0  # seconds

# Printed on the server: bytes used by each program.
LOOK = """
import json, os
memory = dict.fromkeys(("nginx", "haproxy", "wsfleet"), 0)
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline").read()
        program = next((name for name in memory if name in words), None)
        if not program or pid == str(os.getpid()):
            continue
        lines = open(f"/proc/{pid}/smaps_rollup").read().splitlines()
        memory[program] += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended
print(json.dumps(memory))
"""


def look(engine: servers.Engine, server: str) -> dict[str, int]:
    """Bytes of each program in a container."""
    # The memory of other users' processes is shown to who has CAP_SYS_PTRACE.
    memory: dict[str, int] = json.loads(engine("exec", "--privileged", server, "python3", "-c", LOOK).stdout)
    return memory


def measure_held(engine: servers.Engine, server: str, client: str, url: str) -> dict[str, float]:
    """Have the client hold connections, and return the KiB that each takes in each program of the server."""
    engine("cp", str(CLIENTS), f"{client}:/root/{CLIENTS.name}")
    before = look(engine, server)
    process = subprocess.Popen(
        engine.command("exec", "--interactive", client, "python3", f"/root/{CLIENTS.name}", url, str(IDLE)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    output, instructions = cast(IO[str], process.stdout), cast(IO[str], process.stdin)
    if output.readline() != "held\n":
        process.kill()
        raise servers.ServersError(f"{CLIENTS.name} failed against {url}: run it in {client} to see why")
    time.sleep(SETTLE)
    held = look(engine, server)
    instructions.close()
    process.wait()
    return {name: round((held[name] - before[name]) / IDLE / 1024, 1) for name in held}
