# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role ws_haproxy keeps of servers over a reload, by a HAProxy that answers as the real one."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.plugins.module_utils.fake_haproxy import FakeServer, Haproxy

FILE = Path(__file__).resolve().parents[3] / "roles/ws_haproxy/files/states.py"

spec = importlib.util.spec_from_file_location("states", FILE)
assert spec and spec.loader
states: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(states)

CONFIGURATION = """\
frontend wsfleet_chat from wsfleet_chat
    bind 0.0.0.0:443
backend wsfleet_chat from wsfleet_chat
    server web1 192.0.2.1:8443 tcp-ut 10s
    server web1-unchecked 192.0.2.1:8443 tcp-ut 10s no-check backup
    server web3 2001:db8::3:8443 tcp-ut 10s
backend wsfleet_local from wsfleet_local
    server slot_00 unix@/run/local/local_00.sock
"""


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Haproxy]:
    with Haproxy(tmp_path / "admin.sock", "3.0") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is written, beside the configuration."""
    (tmp_path / "wsfleet-chat.cfg").write_text(CONFIGURATION)
    monkeypatch.setattr(states, "SOCKET", str(tmp_path / "admin.sock"))
    file = tmp_path / "servers.state"
    monkeypatch.setattr(sys, "argv", ["states.py", str(file), str(tmp_path)])
    return file


def test_states_are_kept_and_the_configuration_decides_on_ports_and_tls(haproxy: Haproxy, file: Path) -> None:
    haproxy.backends = {
        "wsfleet_chat": {"web1": FakeServer(), "web2": FakeServer(), "web3": FakeServer()},
        "wsfleet_local": {"slot_00": FakeServer()},
        "another": {"web1": FakeServer()},
    }
    haproxy.backends["wsfleet_chat"]["web1"].set_state("drain")
    states.main()
    assert file.read_text().splitlines() == [
        "1",
        "3 wsfleet_chat 1 web1 192.0.2.1 2 8 1 1 77 15 3 4 6 0 0 0 - 8443 -",
        "3 wsfleet_chat 3 web3 192.0.2.3 2 0 1 1 77 15 3 4 6 0 0 0 - 8443 -",
    ], "neither web2, which is no more, nor TLS"


def test_what_an_earlier_reload_kept_does_not_stay_behind(file: Path) -> None:
    file.write_text("1\nwrong by now\n")
    with pytest.raises(FileNotFoundError):
        states.main()
    assert not file.exists()
