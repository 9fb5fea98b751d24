# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ws_release, run in this process with a Python that only pretends to install."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
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


def test_an_id_that_would_leave_the_folder_is_refused(host: Host) -> None:
    assert host.run(id="../../etc", state="absent")["msg"].startswith("id is '../../etc'; it must be letters")
