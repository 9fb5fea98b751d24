# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ws_haproxy_certificate, run in this process against a HAProxy that answers as the real one."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsfleet.websockets.plugins.modules import ws_haproxy_certificate

from tests.unit.plugins.module_utils.fake_haproxy import Haproxy, make_certificate, sha1


class Host:
    """A folder with a certificate and its key, and a way to run the module on it."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.certificate = tmp_path / "fullchain.pem"
        self.key = tmp_path / "privkey.pem"
        self._capsys = capsys
        self.renew()

    def renew(self, *, edwards: bool = False) -> str:
        """Put a new certificate there and return it."""
        certificate, key = make_certificate(edwards=edwards)
        self.certificate.write_text(certificate + make_certificate("CA")[0])
        self.key.write_text(key)
        return certificate

    def run(self, **options: t.Any) -> dict[str, t.Any]:
        """Return what the module prints, in which no PEM may be."""
        arguments = {
            "certificate": str(self.certificate),
            "certificate_key": str(self.key),
            "socket": str(self.certificate.with_name("admin.sock")),
        }
        with patch_module_args(arguments | options), pytest.raises(SystemExit):
            ws_haproxy_certificate.main()
        printed = self._capsys.readouterr().out
        for file in (self.certificate, self.key):
            lines = file.read_text(errors="replace").splitlines() if file.exists() else []
            assert not [line for line in lines if line in printed]
        result: dict[str, t.Any] = json.loads(printed)
        return result


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path, capsys)


@pytest.fixture
def path(haproxy: Haproxy, host: Host) -> str:
    """Path of a file that HAProxy has read."""
    path = str(host.certificate)
    haproxy.certificates[path] = host.certificate.read_text() + host.key.read_text()
    return path


def state(result: dict[str, t.Any]) -> tuple[bool, bool, bool]:
    return result["changed"], result["running"], result["known"]


def test_what_is_served_already_stays(haproxy: Haproxy, host: Host, path: str) -> None:
    served = haproxy.certificates[path]
    assert state(host.run()) == (False, True, True)
    assert haproxy.certificates[path] == served


def test_a_renewed_certificate_is_served_with_its_chain_and_key(
    haproxy: Haproxy, host: Host, path: str
) -> None:
    before = sha1(host.certificate.read_text())
    after = sha1(host.renew())
    result = host.run()
    assert state(result) == (True, True, True)
    assert before in result["diff"]["before"]
    assert after in result["diff"]["after"]
    assert haproxy.certificates[path] == host.certificate.read_text() + host.key.read_text()
    assert state(host.run()) == (False, True, True)


def test_a_corrected_chain_is_served(haproxy: Haproxy, host: Host, path: str) -> None:
    leaf, _chain = host.certificate.read_text().split("-----END CERTIFICATE-----\n", 1)
    host.certificate.write_text(f"{leaf}-----END CERTIFICATE-----\n{make_certificate('Another CA')[0]}")
    assert state(host.run(_ansible_check_mode=True)) == (True, True, True)
    assert state(host.run()) == (True, True, True)
    assert haproxy.certificates[path] == host.certificate.read_text() + host.key.read_text()
    assert state(host.run()) == (False, True, True)


def test_a_chain_that_looks_the_same_is_served(haproxy: Haproxy, host: Host, path: str) -> None:
    leaf, _chain = host.certificate.read_text().split("-----END CERTIFICATE-----\n", 1)
    host.certificate.write_text(f"{leaf}-----END CERTIFICATE-----\n{make_certificate('CA')[0]}")
    assert state(host.run()) == (False, True, True)
    assert haproxy.certificates[path] == host.certificate.read_text() + host.key.read_text()


def test_an_edwards_key(haproxy: Haproxy, host: Host, path: str) -> None:
    host.renew(edwards=True)
    assert state(host.run()) == (True, True, True)
    assert state(host.run()) == (False, True, True)
    host.renew(edwards=True)
    assert state(host.run()) == (True, True, True)


def test_check_mode_says_so_and_reads_no_key(haproxy: Haproxy, host: Host, path: str) -> None:
    served = haproxy.certificates[path]
    assert state(host.run(_ansible_check_mode=True)) == (False, True, True)
    host.renew()
    host.key.unlink()
    assert state(host.run(_ansible_check_mode=True)) == (True, True, True)
    assert "commit" not in {command.split()[0] for command in haproxy.commands}
    assert (haproxy.certificates[path], haproxy.transaction) == (served, None)


def test_haproxy_that_does_not_run_reads_the_file_when_it_starts(host: Host) -> None:
    assert state(host.run()) == (False, False, False)


def test_a_file_that_haproxy_does_not_have_yet(haproxy: Haproxy, host: Host) -> None:
    assert state(host.run()) == (False, True, False)
    assert haproxy.commands == [f"show ssl cert {host.certificate}"]


def test_a_key_that_does_not_fit(haproxy: Haproxy, host: Host, path: str) -> None:
    served = haproxy.certificates[path]
    host.renew()
    host.key.write_text(make_certificate()[1])
    assert host.run()["msg"] == (
        f"HAProxy refused `commit ssl cert {path}`: inconsistencies between private key and certificate loaded "
        f"'{path}'. Can't commit {path}!"
    )
    assert (haproxy.certificates[path], haproxy.transaction) == (served, None)


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_a_file_that_is_not_there(host: Host, path: str, which: str) -> None:
    host.renew()
    file: Path = getattr(host, which)
    file.unlink()
    assert host.run()["msg"] == f"{file} can't be read: No such file or directory."


def test_a_file_without_a_certificate(host: Host, path: str) -> None:
    host.certificate.write_bytes(b"\xff\x00")
    assert "refused `set ssl cert" in host.run()["msg"]
