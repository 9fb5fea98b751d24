# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools/servers.py decides without running a container."""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
from pathlib import Path

import pytest

from tools import servers
from tools.servers import Engine, Host, Network, ServersError

Done = subprocess.CompletedProcess[str]


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
    with monkeypatch.context() as patch:
        patch.setattr(servers, "DOWNLOADED", [*servers.DOWNLOADED, "more"])
        assert servers.tag(image) != before
    monkeypatch.setattr(servers, "INIT", ["/sbin/other"])
    assert servers.tag(image) != before


def test_extended_image_is_its_base_with_more() -> None:
    for image, (base, more) in servers.EXTENDED.items():
        own = servers.recipe(image)
        assert f"--include={','.join([*servers.INSTALLED, *more])}" in own
        assert own[-2:] == servers.recipe(base)[-2:]
        assert servers.tag(image).startswith(f"localhost/wsfleet/{image}:")
        assert image not in servers.IMAGES  # which `make setup` builds


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
    document = json.loads(
        servers.inventory(Engine("docker"), "demo", hosts, Network(7, ipv6=True)).removeprefix("---\n")
    )
    assert document["all"]["hosts"]["server12"] == {
        "ansible_connection": "wsfleet_container",
        "ansible_host": "wsfleet-demo-server12",
        "ansible_python_interpreter": "/usr/bin/python3",
        "wsfleet_addresses": ["10.214.7.10", "fd00:d6:7::10"],
        "wsfleet_engine": "docker",
        "wsfleet_hostname": "server12",
        "wsfleet_pidfile": str(servers.CACHE / "wsfleet-demo-server12.pid"),
    }
    assert document["all"]["vars"] == {"wsfleet_spare_addresses": ["10.214.7.254", "fd00:d6:7::254"]}


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
    monkeypatch.setattr(servers, "unified_cgroups", lambda: True)
    assert servers.find_engine() == Engine("docker")
    monkeypatch.setenv("WSFLEET_ENGINE", "podman")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(ServersError, match=r"works here: podman says 'broken'\.$"):
        servers.find_engine()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ServersError, match=r"Try the same as root\.$"):
        servers.find_engine()


def test_ordinary_user_needs_unified_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(servers, "unified_cgroups", lambda: False)
    assert servers.why_not("podman") == (
        "podman can run systemd only for root here, because this machine has no unified cgroup v2"
    )
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(servers, "run", lambda *command: Done(command, 0, "", ""))
    assert servers.why_not("podman") is None


def test_mirror_is_the_one_of_this_machine_s_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert servers.mirror() == "http://mirror.example.org/debian"
    monkeypatch.delenv("WSFLEET_MIRROR")
    listed = [
        "bookworm-security main http://security.example.com/debian",
        "bookworm contrib http://contrib.example.com/debian",
        "bookworm main http://deb.example.com/debian",
    ]

    def listing(lines: list[str]) -> None:
        servers.mirror.cache_clear()
        output = "".join(f"{line}\n" for line in lines)
        monkeypatch.setattr(servers, "run", lambda *command: Done(command, 0, output, ""))

    listing(listed)
    assert servers.mirror() == "http://deb.example.com/debian"
    listing(listed[:2])
    with pytest.raises(ServersError, match="set WSFLEET_MIRROR"):
        servers.mirror()


class Containers:
    """An engine's answers, by the words that a command begins with; `calls` are the commands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.calls: list[str] = []
        self.answers: dict[str, tuple[int, str]] = {"exec": (0, "running\n")}
        monkeypatch.setattr(servers, "run", self._run)
        monkeypatch.setattr(servers, "CACHE", tmp_path)
        monkeypatch.setattr(servers, "unified_cgroups", lambda: True)
        monkeypatch.setattr("time.sleep", lambda _seconds: None)

    def _run(self, _name: str, *words: str) -> Done:
        line = " ".join(words)
        self.calls.append(line)
        answers = (answer for start, answer in self.answers.items() if line.startswith(start))
        code, output = next(answers, (0, ""))
        return Done(words, code, output, "")

    def has(self, status: str, image: str, checkout: Path = servers.ROOT) -> None:
        """Let the container be there."""
        self.answers["container inspect"] = (0, f"{status} {servers.tag(image)} {checkout}\n")

    def did(self, *words: str) -> list[str]:
        """Commands that begin with one of the words."""
        return [call for call in self.calls if call.split()[0] in words]


@pytest.fixture
def containers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Containers:
    return Containers(monkeypatch, tmp_path)


HOST = Host("server12", "debian12", (8443,))


def test_failed_command_of_the_engine_is_told_in_its_own_words(containers: Containers) -> None:
    containers.answers["rm"] = (125, "no such container\n")
    with pytest.raises(ServersError, match=r"^docker rm failed: no such container$"):
        Engine("docker")("rm", "x")
    assert Engine("docker")("rm", "x", check=False).returncode == 125


@pytest.mark.parametrize(("unified", "call"), [(True, "ps"), (False, "--runtime runc ps")])
def test_podman_takes_runc_only_where_crun_would_refuse(
    containers: Containers, monkeypatch: pytest.MonkeyPatch, unified: bool, call: str
) -> None:
    monkeypatch.setattr(servers, "unified_cgroups", lambda: unified)
    Engine("podman")("ps")
    assert containers.calls == [call]


def test_new_host_is_published_on_this_machine_only(containers: Containers) -> None:
    containers.answers["container inspect"] = (1, "")
    servers.start(Engine("podman"), "demo", HOST, ["10.214.7.10"])
    (made,) = containers.did("run")
    published = [word for word in made.split() if word.startswith("--publish")]
    assert published == ["--publish=127.0.0.1:8443:8443"]
    assert f"--label=wsfleet.checkout={servers.ROOT}" in made
    assert " --ip=10.214.7.10 " in made
    assert servers.tag("debian12") in made


@pytest.mark.parametrize(
    ("status", "image", "done"),
    [("running", "debian12", []), ("exited", "debian12", ["start"]), ("running", "debian13", ["rm", "run"])],
)
def test_host_that_is_there_is_kept_started_or_replaced(
    containers: Containers, status: str, image: str, done: list[str]
) -> None:
    containers.has(status, image)
    servers.start(Engine("docker"), "demo", HOST, ["10.214.7.10"])
    assert [call.split()[0] for call in containers.did("rm", "run", "start")] == done


def test_host_of_another_checkout_is_left_alone(containers: Containers) -> None:
    containers.has("running", "debian13", Path("/elsewhere"))
    message = "belongs to /elsewhere; remove it first: tools/servers.py down demo"
    with pytest.raises(ServersError, match=message):
        servers.start(Engine("docker"), "demo", HOST, ["10.214.7.10"])
    assert len(containers.calls) == 1


def test_host_is_up_when_systemd_has_booted(containers: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    containers.has("running", "debian12")
    containers.answers["exec"] = (1, "degraded\n")
    servers.start(Engine("docker"), "demo", HOST, ["10.214.7.10"])
    containers.answers |= {"exec": (1, "starting\n"), "logs": (0, "the last words")}
    monkeypatch.setattr("time.monotonic", iter(range(0, 1000, 20)).__next__)
    with pytest.raises(ServersError, match=r"did not boot within 60 s \(starting\):\nthe last words"):
        servers.start(Engine("docker"), "demo", HOST, ["10.214.7.10"])


def test_fleet_has_one_network(
    containers: Containers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    containers.has("running", "debian12")
    monkeypatch.setattr(servers, "make_images", lambda *_: None)
    servers.up(Engine("docker"), "demo", [HOST], tmp_path / "inventory.yml", ipv6=True)
    (made,) = [call for call in containers.did("network") if "inspect" not in call]
    found = re.fullmatch(
        r"network create --ipv6 --subnet=(10\.214\.\d+\.0/24) --subnet=(fd00:d6:\d+::/64) wsfleet-demo", made
    )
    assert found
    containers.answers["network inspect"] = (0, f'{{"subnets": ["{found[1]}", "{found[2]}"]}}')
    servers.up(Engine("docker"), "demo", [HOST], tmp_path / "again.yml")
    assert len(containers.did("network")) == 3, "an inspection more"
    assert (tmp_path / "again.yml").read_text() == (tmp_path / "inventory.yml").read_text()


def test_network_of_a_fleet_is_one_that_is_free(
    containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Network.make(Engine("docker"), "demo", ipv6=False)
    run = servers.run

    def busy(*words: str) -> Done:
        message = "" if f"--subnet={taken.subnets()[0]}" not in words else "subnet is already used"
        return Done(words, int(bool(message)), "", message) if message else run(*words)

    monkeypatch.setattr(servers, "run", busy)
    other = Network.make(Engine("docker"), "demo", ipv6=False)
    assert other.number == (taken.number + 1) % 256
    monkeypatch.setattr(servers, "run", lambda *words: Done(words, 1, "", "no daemon"))
    with pytest.raises(ServersError, match=r"^docker network create failed: no daemon$"):
        Network.make(Engine("docker"), "demo", ipv6=False)


@pytest.mark.parametrize(("engine", "rm"), [("podman", "rm --force --time=0"), ("docker", "rm --force")])
def test_removed_fleet_leaves_nothing(containers: Containers, tmp_path: Path, engine: str, rm: str) -> None:
    containers.answers["ps"] = (0, "wsfleet-demo-a\nwsfleet-demo-b\n")
    for name in ("wsfleet-demo-a.pid", "wsfleet-other-a.pid"):
        (tmp_path / name).touch()
    servers.down(Engine(engine), "demo")
    assert containers.did("rm") == [f"{rm} --volumes wsfleet-demo-a wsfleet-demo-b"]
    assert containers.calls[-1] == "network rm wsfleet-demo"
    assert [path.name for path in tmp_path.iterdir()] == ["wsfleet-other-a.pid"]


def test_images_that_are_missing_are_built_one_process_at_a_time(
    containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(servers, "build", lambda _engine, image: done.append(image))
    monkeypatch.setattr("fcntl.flock", lambda _file, _how: done.append("lock"))
    servers.make_images(Engine("docker"), servers.IMAGES)
    assert done == ["lock"]
    containers.answers["image inspect"] = (1, "")
    servers.make_images(Engine("docker"), ["client"])
    assert done == ["lock", "lock", servers.CLIENT_BASE, "client"]


def test_images_go_before_those_they_are_made_of(containers: Containers) -> None:
    for image in servers.IMAGES:
        containers.answers[f"images --quiet {servers.REPOSITORY}/{image}"] = (0, f"{image}-1\n{image}-1\n")
    servers.clean(Engine("docker"))
    assert containers.did("rmi")[0] == "rmi --force client-1"


@pytest.mark.parametrize("code", [0, 1])
def test_image_is_imported_or_its_build_says_why_not(
    containers: Containers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    script = f'echo no such mirror; touch "$0"; exit {code}'
    monkeypatch.setattr(servers, "tag", lambda image: f"the/{image}")
    monkeypatch.setattr(servers, "recipe", lambda _image: ["sh", "-c", script, "the mirror"])
    if code:
        with pytest.raises(ServersError, match=r"(?s)could not make the image debian12; .*no such mirror"):
            servers.build(Engine("docker"), "debian12")
        assert containers.calls == []
    else:
        servers.build(Engine("docker"), "debian12")
        (imported,) = containers.calls
        assert imported.endswith(f"{tmp_path}/debian12.tar the/debian12")
        assert 'CMD ["/sbin/init"]' in imported
        assert not (tmp_path / "debian12.tar").exists()


def test_failure_is_a_sentence_and_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WSFLEET_ENGINE", "lxc")
    monkeypatch.setattr("sys.argv", ["servers.py", "engine"])
    assert servers.main() == 1
    assert capsys.readouterr().err.startswith("servers: WSFLEET_ENGINE is 'lxc'")
