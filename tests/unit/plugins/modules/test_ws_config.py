# Copyright: the wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ws_config, run in this process with a validator of one line."""

from __future__ import annotations

import json
import os
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.module_utils.config_set import ConfigSet
from ansible_collections.wsfleet.websockets.plugins.modules import ws_config


class Host:
    """A root folder and a way to run the module on it."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = tmp_path / "etc"
        self.root.mkdir()
        self.capsys = capsys

    def run(self, *files: dict[str, str], **options: Any) -> dict[str, Any]:
        """Return what the module prints."""
        arguments: dict[str, Any] = {
            "root": str(self.root),
            "name": "echo",
            "files": list(files),
            "validate": ["sh", "-c", '! grep -r bad "$0"', "{stage}"],
        }
        with patch_module_args(arguments | options), pytest.raises(SystemExit):
            ws_config.main()
        result: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return result


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(ws_config, "ConfigSet", partial(ConfigSet, store=tmp_path / "lib/original"))
    return Host(tmp_path, capsys)


def test_writes_once_and_gives_back(host: Host) -> None:
    site = {"path": "site", "content": "good\n", "mode": "0600"}
    first = host.run(site)
    assert (first["changed"], first["validated"], first["files"]) == (True, True, [f"{host.root}/site"])
    assert first["diff"] == [
        {
            "before_header": f"{host.root}/site (absent)",
            "after_header": f"{host.root}/site (mode 0600)",
            "before": "",
            "after": "good\n",
        }
    ]
    assert (host.root / "site").stat().st_mode & 0o777 == 0o600

    second = host.run(site)
    assert (second["changed"], second["validated"], second["diff"]) == (False, False, [])

    assert host.run()["files"] == [f"{host.root}/site"]
    assert list(host.root.iterdir()) == []


def test_a_refused_configuration_is_reported_in_the_validators_words(host: Host) -> None:
    result = host.run({"path": "site", "content": "bad line\n"})
    assert result["msg"] == (
        f'{host.root} was left as it is because `sh -c ! grep -r bad "$0" {host.root}` refused'
        f" the new configuration:\n{host.root}/site:bad line"
    )
    assert list(host.root.iterdir()) == []


def test_check_mode_validates_and_changes_nothing(host: Host) -> None:
    good = host.run({"path": "site", "content": "good\n"}, _ansible_check_mode=True)
    assert (good["changed"], good["validated"]) == (True, True)
    bad = host.run({"path": "site", "content": "bad\n"}, _ansible_check_mode=True)
    assert bad["failed"]
    assert list(host.root.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "/nowhere"}, "/nowhere doesn't exist."),
        ({"validate": ["no-such-program"]}, "The validator no-such-program isn't installed."),
        ({"needs": ["/nowhere/key"]}, "The configuration needs /nowhere/key, which doesn't exist."),
    ],
)
def test_what_is_missing_is_an_error_except_in_check_mode(
    host: Host, options: dict[str, Any], message: str
) -> None:
    site = {"path": "site", "content": "good\n"}
    assert host.run(site, **options)["msg"] == message
    bare = host.run(site, **options, _ansible_check_mode=True)
    assert (bare["changed"], bare["validated"]) == (True, False)


@pytest.mark.parametrize(
    "file",
    [
        {"path": "/site", "content": ""},
        {"path": "../site", "content": ""},
        {"path": ".", "content": ""},
        {"path": "site"},
        {"path": "site", "content": "", "mode": "rw"},
    ],
)
def test_bad_files_are_refused(host: Host, file: dict[str, str]) -> None:
    assert host.run(file)["msg"].startswith("files: ")


def test_a_path_may_be_there_once(host: Host) -> None:
    assert "unique" in host.run(*2 * [{"path": "site", "content": "good"}])["msg"]


def test_a_relative_root_is_refused(host: Host) -> None:
    found = host.run({"path": "site", "content": "good"}, root="etc")
    assert found["msg"] == "root is 'etc', but must be an absolute path."


def test_what_nothing_can_validate_is_replaced_at_once(host: Host) -> None:
    found = host.run({"path": "new/site", "content": "bad\n"}, validate=[])
    assert (found["changed"], found["validated"], found["files"]) == (True, False, [f"{host.root}/new/site"])
    assert (host.root / "new/site").read_text() == "bad\n"


def test_a_warning_to_refuse_is_a_refusal(host: Host) -> None:
    options = {"validate": ["echo", "conflicting name"], "refuse": ["conflicting"]}
    assert (
        "refused the new configuration:\nconflicting name"
        in host.run({"path": "site", "content": "good"}, **options)["msg"]
    )


def test_others_are_named(host: Host) -> None:
    host.run({"path": "site", "content": "good\n"}, name="chat")
    assert host.run({"path": "site2", "content": "good\n"})["others"] == ["chat"]


@pytest.mark.parametrize("where", ["site", "certificate"])
def test_says_what_a_running_program_has_not_read(host: Host, tmp_path: Path, where: str) -> None:
    certificate = tmp_path / "certificate"
    certificate.write_text("good\n")
    site = {"path": "site", "content": "good\n"}
    with subprocess.Popen(["sleep", "60"]) as program:
        try:
            (tmp_path / "pid").write_text(str(program.pid))
            options = {"needs": [str(certificate)], "pid_file": str(tmp_path / "pid")}
            host.run(site, **options)
            paths = {"site": host.root / "site", "certificate": certificate}
            for path in paths.values():
                os.utime(path, (0, 0))
            again = host.run(site, **options)
            assert (again["changed"], again["unread"]) == (False, [])
            os.utime(paths[where])
            missed = host.run(site, **options)
            assert (missed["changed"], missed["files"], missed["unread"]) == (True, [], [str(paths[where])])
        finally:
            program.kill()
    assert not host.run(site, **options)["changed"], "it doesn't run any more"


def test_what_the_newest_child_has_read_was_read(host: Host, tmp_path: Path) -> None:
    site = {"path": "site", "content": "good\n"}
    options = {"pid_file": str(tmp_path / "pid")}
    host.run(site, **options)
    with subprocess.Popen(["sh", "-c", "sleep 1.5; sleep 60 & wait"]) as program:
        (tmp_path / "pid").write_text(str(program.pid))
        time.sleep(0.5)
        os.utime(host.root / "site")
        assert host.run(site, **options)["changed"]
        time.sleep(2)
        assert not host.run(site, **options)["changed"]
        subprocess.run(["pkill", "--parent", str(program.pid)], check=False)
