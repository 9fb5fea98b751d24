#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make Debian servers out of containers, for the demo and for the Molecule scenarios.

    servers.py engine                             say which container engine is used
    servers.py images                             build the images that are missing
    servers.py up FLEET HOST=IMAGE[:PORT]... ... start the hosts of a fleet, on a network of their own
    servers.py down FLEET                         remove them and their network
    servers.py clean                              remove the images

A host boots systemd, is reached by the others under its name, keeps its address over reboots, and has the ports given
published on 127.0.0.1.
The images are made by mmdebstrap from the Debian mirror that this machine's apt uses, so no image registry is
needed; what the roles install lies in their apt cache.

Environment: WSFLEET_ENGINE (podman or docker; default: the one that works, podman first),
WSFLEET_MIRROR (Debian mirror to build the images from; default: this machine's).

Needs nothing but Python's standard library: it runs before the virtual environment exists.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
ENGINES = ("podman", "docker")
REPOSITORY = "localhost/wsfleet"

SUITES = {"debian12": "bookworm", "debian13": "trixie"}
CLIENT_BASE = "debian13"
IMAGES = (*SUITES, "client")
# Made when a fleet needs them: the recipe of another image, with more installed.
EXTENDED = {"peers": ("debian13", ["node-ws", "nodejs"])}

# What a Debian server has as installed; a minimal bootstrap lacks them.
INSTALLED = [
    "ca-certificates",
    "dbus",
    "iproute2",
    "logrotate",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
]
# What the roles install: downloaded but not installed, so that installing them is quick and needs no network.
DOWNLOADED = [
    "curl",
    "haproxy",
    "keepalived",
    "nginx",
    "openssh-server",
    "python3-cryptography",
    "python3-prometheus-client",
    "python3-venv",
    "supervisor",
]
# What all clients have, and what a scenario installs: it would run in all of them.
CLIENT_PACKAGES = ["faketime", "pebble", "python3-cryptography", "python3-h2", "python3-websockets"]
CLIENT_DOWNLOADED = ["prometheus"]

FIRST = 10  # address of a fleet's first host, in its network

INIT = ["/sbin/init"]
# Ansible's cache_valid_time goes by the age of this folder: the lists are as old as the image, but sufficient.
START = ["/bin/sh", "-c", "touch /var/lib/apt/lists && exec /sbin/init"]


class ServersError(Exception):
    """Something that the user can act on, said in a sentence."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command, quietly, whatever comes of it."""
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def say(text: str) -> None:
    print(text, flush=True)


# --- engine -----------------------------------------------------------------------------------------------


def unified_cgroups() -> bool:
    """Whether /sys/fs/cgroup is cgroup v2 only, rather than v1 or a hybrid of both."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


@dataclass(frozen=True)
class Engine:
    """Podman or Docker, with what this machine needs to run systemd in a container of theirs."""

    name: str

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine; if it fails and may not, raise ServersError with its own words."""
        done = run(*self.command(*arguments))
        if check and done.returncode:
            words = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
            raise ServersError(f"{self.name} {arguments[0]} failed: {words}")
        return done

    def command(self, *arguments: str) -> list[str]:
        """The words of a command of the engine."""
        # crun, which podman prefers, refuses to start systemd on v1 and hybrid cgroups.
        runtime = ["--runtime", "runc"] if self.name == "podman" and not unified_cgroups() else []
        return [self.name, *runtime, *arguments]

    def limits(self) -> list[str]:
        """Flags of `run` for limits that this machine allows, which the engines' defaults may exceed."""
        # Podman lowers its own limit of processes to pid_max, and can't hand on more than it has.
        processes = limit(resource.RLIMIT_NPROC, int(Path("/proc/sys/kernel/pid_max").read_text()))
        files = limit(resource.RLIMIT_NOFILE, 1024 * 1024)
        return [f"--ulimit=nofile=1024:{files}", f"--ulimit=nproc={processes}:{processes}"]

    def systemd(self) -> list[str]:
        """Flags of `run` under which systemd boots as the first process, and keepalived may add addresses."""
        flags = ["--cap-add=NET_ADMIN", "--cap-add=NET_RAW"]
        # What role ws_reuse_port sets on a host, but a container can't by itself.
        if Path("/proc/sys/net/ipv4/tcp_migrate_req").exists():
            flags.append("--sysctl=net.ipv4.tcp_migrate_req=1")
        if self.name == "podman":
            return [*flags, "--systemd=always"]
        flags += ["--env=container=docker", "--cap-add=SYS_ADMIN", "--tmpfs=/run", "--tmpfs=/run/lock"]
        if unified_cgroups():
            return [*flags, "--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw"]
        return [*flags, "--cgroupns=private", "--volume=/sys/fs/cgroup/systemd:/sys/fs/cgroup/systemd:rw"]


def limit(which: int, ceiling: int) -> int:
    """This process's own hard limit, but not above the ceiling."""
    hard = resource.getrlimit(which)[1]
    return ceiling if hard == resource.RLIM_INFINITY else min(hard, ceiling)


def why_not(name: str) -> str | None:
    """Why this engine can't run servers here, or None if it can."""
    if not shutil.which(name):
        return f"{name} is not installed"
    if name == "podman" and os.geteuid() != 0 and not unified_cgroups():
        return "podman can run systemd only for root here, because this machine has no unified cgroup v2"
    done = run(name, "info")
    if done.returncode:
        return f"{name} says '{done.stderr.strip().splitlines()[-1]}'"
    return None


def find_engine() -> Engine:
    """The engine that WSFLEET_ENGINE names, else the first that works."""
    wanted = os.environ.get("WSFLEET_ENGINE")
    if wanted and wanted not in ENGINES:
        raise ServersError(f"WSFLEET_ENGINE is '{wanted}', but must be one of {', '.join(ENGINES)}.")
    reasons = []
    for name in [wanted] if wanted else ENGINES:
        reason = why_not(name)
        if reason is None:
            return Engine(name)
        reasons.append(reason)
    advice = "" if os.geteuid() == 0 else " Try the same as root."
    raise ServersError(f"No container engine works here: {'; '.join(reasons)}.{advice}")


# --- images -----------------------------------------------------------------------------------------------


@functools.cache
def mirror() -> str:
    """Address of the Debian mirror that this machine's apt uses."""
    if "WSFLEET_MIRROR" in os.environ:
        return os.environ["WSFLEET_MIRROR"]
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    targets = run("apt-get", "indextargets", "--format", form, "Created-By: Packages").stdout
    releases = {*SUITES.values(), "stable", "testing", "sid", "unstable"}
    for target in targets.splitlines():
        release, component, address = target.split(" ", 2)
        if release in releases and component == "main":
            return address
    raise ServersError("apt here names no Debian mirror: set WSFLEET_MIRROR to the address of one.")


def recipe(image: str) -> list[str]:
    """The mmdebstrap command, less the output file, that makes an image; the same words make the same image."""
    if image == "client":
        return [*recipe(CLIENT_BASE), "client", *CLIENT_PACKAGES]
    base, more = EXTENDED.get(image, (image, []))
    packages = [*DOWNLOADED, *(CLIENT_PACKAGES + CLIENT_DOWNLOADED if image == CLIENT_BASE else [])]
    download = f"apt-get install --yes --download-only --no-install-recommends {' '.join(packages)}"
    return [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join([*INSTALLED, *more])}",
        "--skip=cleanup/apt/lists,cleanup/apt/cache",
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "locale", "man")),
        '--aptopt=APT::Keep-Downloaded-Packages "true"',
        '--customize-hook=rm -f "$1"/var/cache/apt/archives/*.deb',
        f'--customize-hook=env -u APT_CONFIG chroot "$1" {download}',
        '--customize-hook=env -u APT_CONFIG chroot "$1" apt-cache gencaches',
        SUITES[base],
        mirror(),
    ]


def tag(image: str) -> str:
    """Full name of an image; it changes with the recipe, so a changed recipe is built anew."""
    digest = hashlib.sha256(json.dumps([recipe(image), INIT]).encode()).hexdigest()[:12]
    return f"{REPOSITORY}/{image}:{digest}"


def exists(engine: Engine, image: str) -> bool:
    return engine("image", "inspect", tag(image), check=False).returncode == 0


def build(engine: Engine, image: str) -> None:
    """Build one image of a suite, or the client from its base."""
    say(f"image {image}: building from Debian's packages")
    began = time.monotonic()
    if image == "client":
        name = "wsfleet-build-client"
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *CLIENT_PACKAGES]
        engine("rm", "--force", name, check=False)
        engine("run", f"--name={name}", *engine.limits(), "--network=none", tag(CLIENT_BASE), *install)
        engine("commit", "--change", f"CMD {json.dumps(INIT)}", name, tag(image))
        engine("rm", name)
    else:
        archive = CACHE / f"{image}.tar"
        log = CACHE / f"{image}.log"
        command = recipe(image)
        with log.open("w") as output:
            done = subprocess.run([*command[:-1], str(archive), command[-1]], stdout=output, stderr=output)
        if done.returncode:
            tail = "\n".join(log.read_text().splitlines()[-15:])
            raise ServersError(f"mmdebstrap could not make the image {image}; the end of {log}:\n{tail}")
        engine("import", "--change", f"CMD {json.dumps(INIT)}", str(archive), tag(image))
        archive.unlink()
    say(f"image {image}: ready after {time.monotonic() - began:.0f} s")


def make_images(engine: Engine, images: Sequence[str]) -> None:
    """Build those images that don't exist; one process builds at a time, two suites side by side."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [image for image in images if not exists(engine, image)]
        if "client" in missing and CLIENT_BASE not in missing and not exists(engine, CLIENT_BASE):
            missing.insert(0, CLIENT_BASE)
        suites = [image for image in missing if image != "client"]
        with ThreadPoolExecutor() as pool:
            list(pool.map(functools.partial(build, engine), suites))
        if "client" in missing:
            build(engine, "client")


def clean(engine: Engine) -> None:
    """Remove every image made here, of this recipe and of earlier ones."""
    for image in (*EXTENDED, *reversed(IMAGES)):  # the client is made from another
        found = engine("images", "--quiet", f"{REPOSITORY}/{image}").stdout.split()
        if found:
            engine("rmi", "--force", *dict.fromkeys(found))


# --- fleets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Host:
    """A server to be: its name, its image, and the ports of it that are published on 127.0.0.1."""

    name: str
    image: str
    ports: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Host:
        """From HOST=IMAGE[:PORT]..."""
        name, _, rest = text.partition("=")
        image, *ports = rest.split(":")
        if not name or image not in IMAGES or not all(port.isdigit() for port in ports):
            raise argparse.ArgumentTypeError(
                f"'{text}' is not HOST=IMAGE[:PORT]... with an IMAGE of {', '.join(IMAGES)}"
            )
        return cls(name, image, tuple(map(int, ports)))


def network(fleet: str) -> str:
    return f"wsfleet-{fleet}"


@dataclass(frozen=True)
class Network:
    """The addresses of a fleet, as many as anybody needs; `number` tells fleets apart."""

    number: int
    ipv6: bool

    def subnets(self) -> list[str]:
        return [f"10.214.{self.number}.0/24", *([f"fd00:d6:{self.number}::/64"] if self.ipv6 else [])]

    def addresses(self, host: int) -> list[str]:
        """IPv4 and, where there is one, IPv6 address of a host, 1 to 254; the first is the gateway."""
        return [f"10.214.{self.number}.{host}", *([f"fd00:d6:{self.number}::{host}"] if self.ipv6 else [])]

    @classmethod
    def of(cls, engine: Engine, fleet: str) -> Network | None:
        """The network that the fleet has."""
        found = engine("network", "inspect", network(fleet), check=False).stdout
        number = re.search(r"10\.214\.(\d+)\.0/24", found)
        return cls(int(number[1]), "fd00:d6:" in found) if number else None

    @classmethod
    def make(cls, engine: Engine, fleet: str, ipv6: bool) -> Network:
        """A network of subnets that are free here."""
        for number in range(256):
            made = cls((number + zlib.crc32(fleet.encode())) % 256, ipv6)
            flags = [*(["--ipv6"] if ipv6 else []), *(f"--subnet={subnet}" for subnet in made.subnets())]
            done = engine("network", "create", *flags, network(fleet), check=False)
            if done.returncode == 0:
                return made
            if not re.search("subnet|overlap", done.stderr):
                raise ServersError(f"{engine.name} network create failed: {done.stderr.strip()}")
        raise ServersError(
            "All 256 subnets of 10.214.0.0/16 are in use here: remove fleets that aren't needed."
        )


def container(fleet: str, host: str) -> str:
    return f"wsfleet-{fleet}-{host}"


def pidfile(fleet: str, host: str) -> Path:
    """File in which podman keeps the process number of a container's init."""
    return CACHE / f"{container(fleet, host)}.pid"


def state(engine: Engine, name: str) -> tuple[str, str, str]:
    """Status, image and checkout of a container; empty if there is none."""
    form = '{{.State.Status}} {{.Config.Image}} {{index .Config.Labels "wsfleet.checkout"}}'
    done = engine("container", "inspect", f"--format={form}", name, check=False)
    status, image, checkout = done.stdout.strip().split(" ", 2) if done.returncode == 0 else ("", "", "")
    return status, image, checkout


def start(engine: Engine, fleet: str, host: Host, addresses: Sequence[str]) -> None:
    """Have one host run, and wait until its systemd has booted; one of another image is replaced."""
    name = container(fleet, host.name)
    status, image, checkout = state(engine, name)
    if status and checkout != str(ROOT):
        raise ServersError(f"{name} belongs to {checkout}; remove it first: tools/servers.py down {fleet}")
    if image != tag(host.image):
        engine("rm", "--force", name, check=False)
        publish = [f"--publish=127.0.0.1:{port}:{port}" for port in host.ports]
        where = [f"--name={name}", f"--hostname={host.name}", f"--network={network(fleet)}"]
        where += [f"--ip{'6' if ':' in address else ''}={address}" for address in addresses]
        where += [f"--network-alias={host.name}", f"--label=wsfleet.checkout={ROOT}"]
        if engine.name == "podman":
            where.append(f"--pidfile={pidfile(fleet, host.name)}")
        engine(
            "run", "--detach", *where, *publish, *engine.limits(), *engine.systemd(), tag(host.image), *START
        )
    elif status != "running":
        engine("start", name)
    deadline = time.monotonic() + 60
    while True:
        booted = engine("exec", name, "systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        if booted in ("running", "degraded"):
            return
        if time.monotonic() > deadline:
            last = engine("logs", "--tail=20", name, check=False)
            raise ServersError(
                f"systemd in {name} did not boot within 60 s ({booted or 'no answer'}):\n{last.stdout}"
            )
        time.sleep(0.2)


def inventory(engine: Engine, fleet: str, hosts: Sequence[Host], addresses: Network) -> str:
    """How Ansible reaches the hosts of a fleet, as a YAML inventory, and addresses that nobody has yet."""
    variables = {
        host.name: {
            "ansible_connection": "wsfleet_container",
            "ansible_host": container(fleet, host.name),
            "ansible_python_interpreter": "/usr/bin/python3",
            "wsfleet_addresses": addresses.addresses(FIRST + index),
            "wsfleet_engine": engine.name,
            "wsfleet_hostname": host.name,
            "wsfleet_pidfile": str(pidfile(fleet, host.name)),
        }
        for index, host in enumerate(hosts)
    }
    spare = {"wsfleet_spare_addresses": addresses.addresses(254)}
    return "---\n" + json.dumps({"all": {"hosts": variables, "vars": spare}}, indent=2) + "\n"


def up(engine: Engine, fleet: str, hosts: Sequence[Host], into: Path | None, ipv6: bool = False) -> None:
    make_images(engine, list(dict.fromkeys(host.image for host in hosts)))
    net = Network.of(engine, fleet) or Network.make(engine, fleet, ipv6)
    with ThreadPoolExecutor() as pool:
        started = [
            pool.submit(start, engine, fleet, host, net.addresses(FIRST + index))
            for index, host in enumerate(hosts)
        ]
    for each in started:
        each.result()
    if into:
        into.write_text(inventory(engine, fleet, hosts, net))
    say(f"{fleet}: {', '.join(host.name for host in hosts)} running under {engine.name}")


def down(engine: Engine, fleet: str) -> None:
    names = engine("ps", "--all", f"--filter=network={network(fleet)}", "--format={{.Names}}").stdout.split()
    if names:
        at_once = ["--time=0"] if engine.name == "podman" else []  # as docker does
        engine("rm", "--force", *at_once, "--volumes", *names)
    for file in CACHE.glob(f"{container(fleet, '*')}.pid"):
        file.unlink()
    if engine("network", "inspect", network(fleet), check=False).returncode == 0:
        engine("network", "rm", network(fleet))
    say(f"{fleet}: removed")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("engine", help="say which container engine is used")
    commands.add_parser("images", help="build the images that are missing")
    commands.add_parser("clean", help="remove the images")
    command = commands.add_parser("up", help="start the hosts of a fleet")
    command.add_argument("fleet")
    command.add_argument("hosts", nargs="+", type=Host.parse, metavar="HOST=IMAGE[:PORT]...")
    command.add_argument("--inventory", type=Path, help="write how Ansible reaches them to this file")
    command.add_argument("--ipv6", action="store_true", help="give the hosts IPv6 addresses too")
    command = commands.add_parser("down", help="remove a fleet")
    command.add_argument("fleet")
    arguments = parser.parse_args()
    try:
        engine = find_engine()
        if arguments.command == "engine":
            say(engine.name)
        elif arguments.command == "images":
            make_images(engine, IMAGES)
        elif arguments.command == "up":
            up(engine, arguments.fleet, arguments.hosts, arguments.inventory, arguments.ipv6)
        elif arguments.command == "down":
            down(engine, arguments.fleet)
        else:
            clean(engine)
    except ServersError as error:
        print(f"servers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
