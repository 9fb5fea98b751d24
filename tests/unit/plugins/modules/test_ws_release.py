# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ws_release, run in this process with a Python that only pretends to install."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.module_utils.release import Releases
from ansible_collections.wsfleet.websockets.plugins.modules import ws_release

# Describes itself, makes virtual environments that hold itself, and notes what pip is asked to do. It fails where a
# file `fail` next to it has a word of the command line.
PYTHON = """#!/bin/sh
here=$(dirname "$0")
words=" $* "
if [ "$1" = -c ]; then
  echo '{"version": "'$(cat $here/version)'", "machine": "x86_64", "glibc": "2.36", "venv": true}'
  exit
fi
echo "$words" >> {log}
for word in $(cat {fail} 2>/dev/null); do
  case "$words" in *" $word "*) echo "no $word today" >&2; exit 1;; esac
done
if [ "$2" = venv ]; then
  mkdir -p "$3/bin" "$3/lib/python$(cut -d. -f1,2 $here/version)/site-packages"
  cp "$0" "$here/version" "$3/bin/"
fi
exit 0
"""


class Host:
    """An app's folder, a stand-in for Python, and a way to run the module on them."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = tmp_path / "opt" / "chat"
        self.python = tmp_path / "bin" / "python"
        self.python.parent.mkdir()
        self.log = tmp_path / "log"
        self.fail = tmp_path / "fail"
        self.python.write_text(PYTHON.replace("{log}", str(self.log)).replace("{fail}", str(self.fail)))
        self.python.chmod(0o755)
        self.install_python("3.11.2")
        self.capsys = capsys

    def install_python(self, version: str) -> None:
        (self.python.parent / "version").write_text(version)

    def run(self, **options: Any) -> dict[str, Any]:
        """Return what the module prints."""
        arguments = {"path": str(self.path), "python": str(self.python)}
        with patch_module_args(arguments | options), pytest.raises(SystemExit):
            ws_release.main()
        result: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return result

    def bundle(self, release_id: str, **files: str) -> str:
        """Write a bundle with an app and return its path."""
        facts = {"id": release_id, "version": "1.2", "source": "./chat"}
        content = {"bundle.json": json.dumps(facts), "requirements.txt": "dep==1.0 --hash=sha256:aa\n"}
        content |= {"app/server.py": "print()\n", "wheels/dep-1.0-py3-none-any.whl": ""} | files
        path = self.path.parents[1] / "bundle.tar"
        with tarfile.open(path, "w") as archive:
            for name, text in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, BytesIO(text.encode()))
        return str(path)

    def make(self, release_id: str, **options: Any) -> dict[str, Any]:
        return self.run(id=release_id, bundle=self.bundle(release_id), **options)

    def release(self, release_id: str) -> Path:
        return self.path / "releases" / release_id


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path, capsys)


def test_a_bare_host_can_be_listed(host: Host) -> None:
    result = host.run(state="listed")
    assert result["changed"] is False
    assert (result["releases"], result["available"], result["current"]) == ([], [], "")
    assert result["python"]["target"] == "3.11.2-x86_64-2.36"


def test_a_release_is_made_once(host: Host) -> None:
    first = host.make("1.2-aa")
    assert first["changed"] is True
    assert first["diff"]["after"]["releases"] == ["1.2-aa"]
    release = host.release("1.2-aa")
    assert first["release"] == str(release)
    assert {path.name for path in release.iterdir()} == {"app", "release.json", "requirements.txt", "venv"}
    facts = json.loads((release / "release.json").read_text())
    assert (facts["id"], facts["version"], facts["source"]) == ("1.2-aa", "1.2", "./chat")
    assert facts["python"] == {"path": str(host.python), "version": "3.11"}
    assert host.run(id="1.2-aa")["changed"] is False  # and needs no bundle


def test_pip_installs_what_is_locked_from_the_bundle(host: Host) -> None:
    host.make("1.2-aa")
    install = next(line for line in host.log.read_text().splitlines() if " install " in line)
    for option in ("--isolated", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-index"):
        assert option in install.split()


def test_pip_installs_from_an_index_when_told_to(host: Host) -> None:
    host.make("1.2-aa", wheelhouse=False, index_url="https://pypi.example/simple", ca_bundle="/etc/ca.pem")
    install = next(line for line in host.log.read_text().splitlines() if " install " in line)
    assert "--index-url https://pypi.example/simple --cert /etc/ca.pem" in install
    assert "--no-index" not in install


def test_the_bundle_is_removed(host: Host) -> None:
    bundle = host.bundle("1.2-aa")
    host.run(id="1.2-aa", bundle=bundle)
    assert not Path(bundle).exists()


def test_modules_of_the_app_can_be_imported(host: Host) -> None:
    host.make("1.2-aa")
    path_file = host.release("1.2-aa") / "venv/lib/python3.11/site-packages/wsfleet_app.pth"
    assert (path_file.parent / path_file.read_text().strip()).resolve() == host.release("1.2-aa") / "app"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("venv", "making the virtual environment failed: no venv today"),
        ("install", "installing the packages failed: no install today"),
        ("check", "checking that every dependency is in the lock failed: no check today"),
    ],
)
def test_a_failure_names_the_step_and_leaves_nothing_behind(host: Host, word: str, message: str) -> None:
    host.fail.write_text(word)
    result = host.make("1.2-aa")
    assert result["failed"] is True
    assert result["msg"] == message
    assert list((host.path / "releases").iterdir()) == []


def test_a_bundle_of_another_release_is_refused(host: Host) -> None:
    assert host.run(id="1.2-bb", bundle=host.bundle("1.2-aa"))["msg"].endswith(
        "holds the release 1.2-aa, not 1.2-bb"
    )
    assert not host.release("1.2-bb").exists()


def test_a_missing_or_broken_bundle_is_named(host: Host) -> None:
    assert host.run(id="1.2-aa")["msg"] == f"{host.release('1.2-aa')} has to be made, and bundle isn't given"
    assert host.run(id="1.2-aa", bundle="/no/bundle")["msg"].startswith(
        "unpacking the bundle /no/bundle failed: "
    )


def test_an_unfinished_release_is_made_again(host: Host) -> None:
    (host.release("1.2-aa") / "venv").mkdir(parents=True)
    (host.release("1.2-aa") / "rest").write_text("")
    assert host.run(id="1.2-aa", state="active")["msg"] == (
        f"{host.release('1.2-aa')} can't be activated: it is unfinished"
    )
    result = host.make("1.2-aa")
    assert result["diff"]["before"]["unfinished"] == ["1.2-aa"]
    assert result["available"] == ["1.2-aa"]
    assert not (host.release("1.2-aa") / "rest").exists()


def test_a_release_for_another_python_is_made_again(host: Host) -> None:
    host.make("1.2-aa")
    host.install_python("3.13.5")
    assert host.run(state="listed")["available"] == []
    assert host.make("1.2-aa")["changed"] is True
    assert host.run(state="listed")["available"] == ["1.2-aa"]


def test_activation_moves_the_link_once(host: Host) -> None:
    host.make("1.2-aa")
    first = host.run(id="1.2-aa", state="active")
    assert (first["changed"], first["current"]) == (True, "1.2-aa")
    assert (host.path / "current").readlink() == Path("releases/1.2-aa")
    assert host.run(id="1.2-aa", state="active")["changed"] is False


def test_a_release_that_is_not_there_is_not_activated(host: Host) -> None:
    message = f"{host.release('1.2-aa')} can't be activated: there is no such release"
    assert host.run(id="1.2-aa", state="active")["msg"] == message


def test_check_mode_changes_nothing(host: Host) -> None:
    for options in ({"bundle": "/not/yet/shipped"}, {"state": "active"}):
        result = host.run(id="1.2-aa", _ansible_check_mode=True, **options)
        assert result["changed"] is True
    assert not host.path.exists()
    host.make("1.2-aa")
    assert host.run(id="1.2-aa", state="absent", _ansible_check_mode=True)["changed"] is True
    assert host.release("1.2-aa").exists()


def test_absent_removes_what_is_not_in_use(host: Host) -> None:
    host.make("1.2-aa")
    host.run(id="1.2-aa", state="active")
    assert host.run(id="1.2-aa", state="absent")["msg"].endswith("can't be removed: it is current or in use")
    (host.path / "current").unlink()
    assert host.run(id="1.2-aa", state="absent")["changed"] is True
    assert host.run(id="1.2-aa", state="absent")["changed"] is False


def test_pruning_keeps_the_newest_and_what_a_generation_uses(host: Host) -> None:
    for release_id in ("a", "b", "c", "d"):
        host.make(release_id)
    generation = host.path / "generations" / "7"
    generation.mkdir(parents=True)
    (generation / "generation.json").write_text(json.dumps({"release": str(host.release("a"))}))
    result = host.run(state="pruned", keep=1)
    assert result["diff"]["after"]["releases"] == ["a", "d"]
    assert sorted(path.name for path in (host.path / "releases").iterdir()) == ["a", "d"]
    assert host.run(state="pruned", keep=1)["changed"] is False


def test_nothing_is_pruned_while_a_generation_cannot_be_read(host: Host) -> None:
    for release_id in ("a", "b"):
        host.make(release_id)
    (host.path / "generations" / "7").mkdir(parents=True)
    (host.path / "generations" / "7" / "generation.json").write_text("")
    assert host.run(state="pruned", keep=1)["changed"] is False


@pytest.mark.parametrize("release_id", ["../../etc", "1.2/../../etc"])
def test_an_id_that_would_leave_the_folder_is_refused(host: Host, release_id: str) -> None:
    assert host.run(id=release_id, state="absent")["msg"].startswith(
        f"id is {release_id!r}; it must be letters"
    )


def test_the_app_can_read_it_whatever_the_umask(host: Host) -> None:
    before = os.umask(0o077)
    try:
        host.make("1.2-aa")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    for path in (host.release("1.2-aa"), *host.release("1.2-aa").rglob("*")):
        assert path.stat().st_mode & 0o044 == 0o044, path


def test_release_json_comes_last_at_once_and_after_the_rest_is_on_disk(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[str]]] = []
    replace = Path.replace

    def look(step: str) -> None:
        seen.append((step, sorted(path.name for path in host.release("1.2-aa").iterdir())))

    def renamed(path: Path, target: Path) -> Path:
        look(f"{target.name}: {path.read_text()[-2:]!r}")
        return replace(path, target)

    monkeypatch.setattr(os, "sync", lambda: look("sync"))
    monkeypatch.setattr(Path, "replace", renamed)
    host.make("1.2-aa")
    rest = ["app", "requirements.txt", "venv"]
    assert seen == [("sync", rest), ("release.json: '}\\n'", [".release.json", *rest])]


def test_a_run_killed_while_it_makes_one_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Releases, "_fill", killed)
    with pytest.raises(KeyboardInterrupt):
        Releases(str(host.path)).make("1.2-aa", Path("/no/bundle"), "python3", [])
    assert list((host.path / "releases").iterdir()) == []


def test_a_run_killed_while_it_removes_one_leaves_it_unfinished(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    host.make("1.2-aa")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        Releases(str(host.path)).remove("1.2-aa")
    assert host.run(state="listed")["available"] == []


def test_a_release_whose_python_is_gone_is_unfinished(host: Host) -> None:
    host.make("1.2-aa")
    (host.release("1.2-aa") / "venv/bin/python").unlink()
    assert host.run(state="listed")["available"] == []


def test_a_file_of_somebody_else_is_no_release(host: Host) -> None:
    host.make("1.2-aa")
    host.release("notes.txt").write_text("")
    assert [release["id"] for release in host.run(state="listed")["releases"]] == ["1.2-aa"]
    assert host.run(state="pruned")["changed"] is False


def test_the_newest_is_the_one_made_last_whatever_its_name(host: Host) -> None:
    for release_id in ("b", "c", "a"):
        host.make(release_id)
    assert host.run(state="listed")["available"] == ["a", "c", "b"]


def test_current_is_never_away_also_after_a_killed_run(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for release_id in ("a", "b"):
        host.make(release_id)
    host.run(id="a", state="active")
    (host.path / ".current").symlink_to("of a killed run")
    unlink = Path.unlink

    def spy(path: Path, missing_ok: bool = False) -> None:
        assert path != host.path / "current"
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", spy)
    assert host.run(id="b", state="active")["current"] == "b"
    assert (host.path / "current").readlink() == Path("releases/b")


def test_one_that_only_a_generation_uses_is_not_removed(host: Host) -> None:
    host.make("1.2-aa")
    (host.path / "generations/1").mkdir(parents=True)
    used = json.dumps({"release": str(host.release("1.2-aa"))})
    (host.path / "generations/1/generation.json").write_text(used)
    assert host.run(id="1.2-aa", state="absent")["msg"].endswith("can't be removed: it is current or in use")


def test_pruning_spares_the_one_that_is_about_to_be_used(host: Host) -> None:
    for release_id in ("a", "b", "c"):
        host.make(release_id)
    assert host.run(state="pruned", keep=1, id="a")["diff"]["after"]["releases"] == ["a", "c"]


@pytest.mark.parametrize("state", ["present", "active", "absent"])
def test_an_id_is_needed(host: Host, state: str) -> None:
    assert host.run(state=state)["msg"] == f"state is {state} but all of the following are missing: id"


def test_a_folder_that_cannot_be_made_is_named(host: Host) -> None:
    assert (
        "/dev/null/chat" in host.run(path="/dev/null/chat", id="1.2-aa", bundle=host.bundle("1.2-aa"))["msg"]
    )


def test_a_bundle_that_would_write_elsewhere_is_refused(host: Host) -> None:
    bundle = host.bundle("1.2-aa", **{"../escaped": "x"})
    assert host.run(id="1.2-aa", bundle=bundle)["msg"].startswith(f"unpacking the bundle {bundle} failed: ")
    assert not (host.path / "releases" / "escaped").exists()
