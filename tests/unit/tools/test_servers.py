# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/servers.py decides without running a container."""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path

import pytest

from tools import servers
from tools.servers import Engine, Host, ServersError


@pytest.fixture(autouse=True)
def _no_real_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    servers.mirror.cache_clear()
    monkeypatch.setenv("WSFLEET_MIRROR", "http://mirror.example.org/debian")


def test_same_recipe_is_the_same_image() -> None:
    assert servers.tag("debian12") == servers.tag("debian12")
    assert servers.tag("debian12").startswith("localhost/wsfleet/debian12:")
    assert servers.tag("debian12").split(":")[1] != servers.tag("debian13").split(":")[1]


@pytest.mark.parametrize("image", servers.IMAGES)
def test_changed_recipe_is_another_image(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = servers.tag(image)
    monkeypatch.setattr(servers, "DOWNLOADED", [*servers.DOWNLOADED, "more"])
    assert servers.tag(image) != before


def test_image_name_does_not_tell_the_mirror() -> None:
    assert "mirror" not in servers.tag("debian12")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("server12=debian12", Host("server12", "debian12", ())),
        ("client=client:8080:8443", Host("client", "client", (8080, 8443))),
    ],
)
def test_host(text: str, host: Host) -> None:
    assert Host.parse(text) == host


@pytest.mark.parametrize("text", ["", "server12", "=debian12", "server12=debian11", "server12=debian12:http"])
def test_host_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="HOST=IMAGE"):
        Host.parse(text)


def test_inventory_is_read_by_ansible_without_discovery() -> None:
    hosts = [Host("server12", "debian12", ())]
    document = json.loads(servers.inventory(Engine("docker"), "demo", hosts).removeprefix("---\n"))
    assert document["all"]["hosts"]["server12"] == {
        "ansible_connection": "wsfleet_container",
        "ansible_host": "wsfleet-demo-server12",
        "ansible_python_interpreter": "/usr/bin/python3",
        "wsfleet_engine": "docker",
        "wsfleet_hostname": "server12",
        "wsfleet_pidfile": str(servers.CACHE / "wsfleet-demo-server12.pid"),
    }


@pytest.mark.parametrize(
    ("hard", "allowed"), [(20_000, 20_000), (1 << 30, 1 << 20), (resource.RLIM_INFINITY, 1 << 20)]
)
def test_limit_is_the_machine_s_up_to_a_ceiling(
    hard: int, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    assert servers.limit(resource.RLIMIT_NOFILE, 1 << 20) == allowed


def test_unknown_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSFLEET_ENGINE", "lxc")
    with pytest.raises(ServersError, match="WSFLEET_ENGINE is 'lxc', but must be one of podman, docker"):
        servers.find_engine()


def test_no_engine_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WSFLEET_ENGINE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServersError, match="podman is not installed; docker is not installed"):
        servers.find_engine()


def test_engine_that_does_not_answer_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, script in (("podman", "echo broken >&2; exit 1"), ("docker", "exit 0")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.delenv("WSFLEET_ENGINE", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert servers.find_engine() == Engine("docker")


def test_ordinary_user_needs_unified_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(servers, "unified_cgroups", lambda: False)
    assert servers.why_not("podman") == (
        "podman can run systemd only for root here, because this machine has no unified cgroup v2"
    )
