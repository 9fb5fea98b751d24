# SPDX-License-Identifier: GPL-3.0-or-later
"""How the time of a run grows with the number of servers, over SSH, which is how people reach theirs."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools import servers
from tools.servers import Host

COUNTS = (1, 2, 5, 10)
IMAGES = 2  # of different Debian versions, hence of different releases to collect
SITE = "playbooks/site.yml"
DEPLOY = "playbooks/deploy.yml"

Play = Callable[..., float]  # tools.bench.play


@dataclass(frozen=True)
class Run:
    """A playbook that is measured; one after the other on the same hosts."""

    title: str
    playbook: str
    variables: Mapping[str, Any] = field(default_factory=dict)


RUNS = (
    Run("site.yml on fresh servers", SITE, {"ws_app_version": "v0"}),
    Run("site.yml, nothing to change", SITE, {"ws_app_version": "v0"}),
    Run("deploy.yml, all at once", DEPLOY, {"ws_app_version": "v1"}),
    Run("deploy.yml, one at a time", DEPLOY, {"ws_app_version": "v2", "ws_serial": 1}),
    Run("18 pings", "bench/pings.yml"),
)


def machine_cpu() -> float:
    """Seconds of CPU that everything on this machine has used since it started."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = (
        Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return sum(map(int, (user, nice, system, irq, softirq))) / 100


def controller_cpu() -> float:
    """Seconds of CPU that this process's children have used, SSH clients included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_key(folder: Path) -> Path:
    """Make a key pair without a passphrase, anew."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    key = folder / "key"
    done = servers.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    if done.returncode:
        raise servers.ServersError(f"ssh-keygen failed: {done.stderr.strip()}")
    return key


def open_ssh(engine: servers.Engine, fleet: str, hosts: Sequence[Host], inventory: Path, key: Path) -> None:
    """Have the hosts take root in by the key, and have the inventory say so."""
    authorized = key.with_suffix(".pub").read_text().strip()
    script = (
        "apt-get install --yes --no-install-recommends openssh-server && "
        f"mkdir -m 700 -p /root/.ssh && echo '{authorized}' > /root/.ssh/authorized_keys"
    )
    for host in hosts:
        engine("exec", servers.container(fleet, host.name), "sh", "-c", script)
    options = f"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={key.parent / 'known'}"
    known = json.loads(inventory.read_text().removeprefix("---\n"))
    for variables in known["all"]["hosts"].values():
        variables |= {
            "ansible_connection": "ssh",
            "ansible_host": variables["wsfleet_addresses"][0],
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(key),
            "ansible_ssh_common_args": options,
        }
    inventory.write_text("---\n" + json.dumps(known, indent=2) + "\n")


def measure_hosts(
    engine: servers.Engine,
    fleet: str,
    hosts: Sequence[Host],
    inventory: Path,
    play: Play,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return the seconds, and the seconds of CPU, that each run took for each number of servers."""
    figures = []
    collected: set[tuple[str, str]] = set()
    for count in COUNTS:
        some = hosts[:count]
        servers.down(engine, fleet)
        servers.up(engine, fleet, some, inventory)
        open_ssh(engine, fleet, some, inventory, make_key(inventory.parent / "ssh"))
        for run in RUNS:
            version = run.variables.get("ws_app_version", "")
            releases = {(host.image, version) for host in some[:IMAGES]}
            if version and not releases <= collected:
                # In check mode the controller collects the release, so that this isn't measured.
                play("hosts-check", run.playbook, some[:IMAGES], run.variables, "--check")
                collected |= releases
            controller, machine, began = controller_cpu(), machine_cpu(), time.monotonic()
            play("hosts", run.playbook, some, run.variables)
            figures.append(
                {
                    "servers": count,
                    "run": run.title,
                    "seconds": round(time.monotonic() - began, 1),
                    "controller_cpu_seconds": round(controller_cpu() - controller, 1),
                    "machine_cpu_seconds": round(machine_cpu() - machine, 1),
                }
            )
            say(f"{count} servers, {run.title}: {figures[-1]['seconds']:.0f} s")
    return {"runs": figures}
