# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of HAProxy's runtime API against one that answers as HAProxy does."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils import haproxy as haproxy_utils
from ansible_collections.wsfleet.websockets.plugins.module_utils.haproxy import (
    HaproxyError,
    NotRunningError,
    Runtime,
    Server,
)

from tests.unit.plugins.module_utils.fake_haproxy import (
    RISE,
    FakeServer,
    Haproxy,
    Transaction,
    make_certificate,
    sha1,
)

FILE = "/etc/wsfleet/chat/tls/fullchain.pem"


@pytest.fixture
def runtime(haproxy: Haproxy) -> Runtime:
    haproxy.backends = {
        "chat": {"web1": FakeServer(sessions=3), "web2": FakeServer(operation=0, health=0)},
        "echo": {"web1": FakeServer(bits=0x08)},
    }
    return Runtime(str(haproxy.path))


def test_servers_of_a_backend(runtime: Runtime) -> None:
    assert runtime.servers("chat") == {
        "web1": Server("web1", "ready", up=True, checked=True, sessions=3),
        "web2": Server("web2", "ready", up=False, checked=False, sessions=0),
    }
    assert runtime.server("echo", "web1") == Server("web1", "drain", up=True, checked=True, sessions=0)


def test_backups_are_not_servers_of_their_own(haproxy: Haproxy, runtime: Runtime) -> None:
    haproxy.backends["chat"]["web1-unchecked"] = FakeServer(backup=True)
    assert list(runtime.servers("chat")) == ["web1", "web2"]


@pytest.mark.parametrize(
    ("bits", "admin"),
    [
        (0x00, "ready"),
        (0x04, "ready"),  # disabled in the configuration, and made ready since
        (0x40, "ready"),  # its name was set at run time
        (0x08, "drain"),
        (0x10, "drain"),
        (0x01, "maint"),
        (0x05, "maint"),
        (0x02, "maint"),
        (0x20, "maint"),
        (0x21 | 0x08, "maint"),
    ],
)
def test_bits_of_the_administrative_state(haproxy: Haproxy, runtime: Runtime, bits: int, admin: str) -> None:
    haproxy.backends["chat"]["web1"].bits = bits
    assert runtime.server("chat", "web1").admin == admin


@pytest.mark.parametrize(("operation", "up"), [(0, False), (1, True), (2, True), (3, False)])
def test_who_is_up(haproxy: Haproxy, runtime: Runtime, operation: int, up: bool) -> None:
    haproxy.backends["chat"]["web1"].operation = operation
    server = runtime.server("chat", "web1")
    assert (server.up, server.checked, server.is_done()) == (up, True, up)


def test_one_that_left_maintenance_is_not_done_before_a_check_has_passed(
    haproxy: Haproxy, runtime: Runtime
) -> None:
    runtime.set_state("chat", "web1", "maint")
    runtime.set_state("chat", "web1", "ready")
    server = runtime.server("chat", "web1")
    assert (server.up, server.checked, server.is_done()) == (True, False, False)
    haproxy.backends["chat"]["web1"].health += RISE
    assert runtime.server("chat", "web1").is_done()


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_one_taken_out_is_done_without_sessions(haproxy: Haproxy, runtime: Runtime, state: str) -> None:
    runtime.set_state("chat", "web1", state)
    assert not runtime.server("chat", "web1").is_done()
    haproxy.backends["chat"]["web1"].sessions = 0
    assert runtime.server("chat", "web1").is_done()


@pytest.mark.parametrize("state", ["ready", "drain", "maint"])
def test_state_is_set(haproxy: Haproxy, runtime: Runtime, state: str) -> None:
    runtime.set_state("chat", "web1", state)
    assert haproxy.commands == [f"set server chat/web1 state {state}"]
    assert runtime.server("chat", "web1").admin == state


def test_refusal_is_in_haproxys_words(haproxy: Haproxy, runtime: Runtime) -> None:
    haproxy.refusal = "Permission denied\n"
    with pytest.raises(
        HaproxyError, match=r"^HAProxy refused `set server chat/web1 state drain`: Permission denied$"
    ):
        runtime.set_state("chat", "web1", "drain")


def test_what_there_is_not_is_answered_with_what_there_is(runtime: Runtime) -> None:
    with pytest.raises(HaproxyError, match=r"^HAProxy has no backend chess, only chat, echo\.$"):
        runtime.servers("chess")
    with pytest.raises(HaproxyError, match=r"^The backend chat has no server web3, only web1, web2\.$"):
        runtime.server("chat", "web3")


def test_haproxy_without_backends(haproxy: Haproxy) -> None:
    with pytest.raises(HaproxyError, match=r"^HAProxy has no backend chat, only none\.$"):
        Runtime(str(haproxy.path)).servers("chat")


def test_an_answer_that_is_no_table(
    haproxy: Haproxy, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy, "_show_state", lambda: "Permission denied\n")
    with pytest.raises(HaproxyError, match=r"^HAProxy refused `show servers state`: Permission denied$"):
        runtime.servers("chat")


def test_haproxy_that_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with pytest.raises(
        NotRunningError, match=r"HAProxy doesn't run, or not with the socket .*/admin\.sock\.$"
    ):
        Runtime(str(path)).servers("chat")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(NotRunningError):
        Runtime(str(path)).servers("chat")


def test_a_path_that_is_too_long_is_no_sign_that_it_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(HaproxyError, match=r"^HAProxy can't be reached on .*too long") as raised:
        Runtime(f"{tmp_path}/{'x' * 200}").servers("chat")
    assert not isinstance(raised.value, NotRunningError)


def test_haproxy_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy_utils, "TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "admin.sock"))
        mute.listen()
        with pytest.raises(HaproxyError, match=r"^HAProxy doesn't answer on .*/admin\.sock: timed out$"):
            Runtime(str(tmp_path / "admin.sock")).servers("chat")


def test_what_is_served_is_described_with_its_chain(haproxy: Haproxy, runtime: Runtime) -> None:
    leaf, _key = make_certificate()
    chain, _key = make_certificate("CA")
    haproxy.certificates[FILE] = leaf + chain
    lines = (runtime.certificate(FILE) or "").splitlines()
    assert lines[0].startswith("Serial: ")
    assert {f"SHA1 FingerPrint: {sha1(leaf)}", "Chain Subject: /CN=CA"} <= set(lines)


def test_a_certificate_with_an_edwards_key_is_described(haproxy: Haproxy, runtime: Runtime) -> None:
    haproxy.certificates[FILE], _key = make_certificate(edwards=True)
    first = runtime.certificate(FILE)
    haproxy.certificates[FILE], _key = make_certificate(edwards=True)
    assert None is not first != runtime.certificate(FILE)


def test_certificates_that_haproxy_can_not_show(haproxy: Haproxy, runtime: Runtime) -> None:
    assert runtime.certificate(FILE) is None
    haproxy.certificates[FILE] = None
    assert runtime.certificate(FILE) is None


def test_certificates_that_are_locked_are_not_unknown(
    haproxy: Haproxy, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "Can't show!\nOperations on certificates are currently locked!\n"
    monkeypatch.setattr(haproxy, "_show_cert", lambda *_: answer)
    with pytest.raises(
        HaproxyError,
        match=r"doesn't show the certificate .*: Can't show! Operations .* are currently locked!$",
    ):
        runtime.certificate(FILE)


def test_certificate_chain_and_key_are_replaced_together(haproxy: Haproxy, runtime: Runtime) -> None:
    haproxy.certificates[FILE] = make_certificate()[0]
    leaf, key = make_certificate()
    chain, _key = make_certificate("CA")
    windows = f"{leaf}\n\n \n{chain}".replace("\n", "\r\n")
    runtime.replace_certificate(FILE, windows, f"\n{key}\n\n")
    assert haproxy.certificates[FILE] == leaf + chain + key
    assert haproxy.commands == [
        f"set ssl cert {FILE}",
        f"show ssl cert *{FILE}",
        f"commit ssl cert {FILE}",
    ]


def test_what_is_not_committed_is_described_and_forgotten(haproxy: Haproxy, runtime: Runtime) -> None:
    old, _key = make_certificate()
    haproxy.certificates[FILE] = old
    new, _key = make_certificate()
    assert sha1(new) in (runtime.replace_certificate(FILE, new, commit=False) or "")
    assert (haproxy.certificates[FILE], haproxy.transaction) == (old, None)


def test_a_key_that_does_not_fit_changes_nothing(haproxy: Haproxy, runtime: Runtime) -> None:
    old, _key = make_certificate()
    haproxy.certificates[FILE] = old
    (leaf, _key), (_leaf, other) = make_certificate(), make_certificate()
    with pytest.raises(HaproxyError) as raised:
        runtime.replace_certificate(FILE, leaf, other)
    assert str(raised.value) == (
        f"HAProxy refused `commit ssl cert {FILE}`: inconsistencies between private key and certificate loaded "
        f"'{FILE}'. Can't commit {FILE}!"
    )
    assert (haproxy.certificates[FILE], haproxy.transaction) == (old, None)


def test_what_is_no_certificate_changes_nothing(haproxy: Haproxy, runtime: Runtime) -> None:
    haproxy.certificates[FILE] = "old"
    with pytest.raises(HaproxyError) as raised:
        runtime.replace_certificate(FILE, "no certificate", "SECRET")
    assert str(raised.value) == (
        f"HAProxy refused `set ssl cert {FILE}`: unable to load certificate from file '{FILE}'. Can't load the "
        f"payload Can't update {FILE}!"
    )
    assert (haproxy.certificates[FILE], haproxy.transaction) == ("old", None)


def test_the_transaction_of_somebody_else_is_left_alone(haproxy: Haproxy, runtime: Runtime) -> None:
    haproxy.certificates[FILE] = "old"
    haproxy.transaction = Transaction("/other.pem", "PEM")
    with pytest.raises(HaproxyError, match=r"The ongoing transaction is about '/other\.pem'"):
        runtime.replace_certificate(FILE, *make_certificate())
    assert haproxy.transaction == Transaction("/other.pem", "PEM")
