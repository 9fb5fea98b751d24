# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory a connection to the runner takes on its host, by the settings that the process was started with.

It is what is allocated for an open connection whose buffers are empty. A fresh one uses less, and grows to this with
the messages that go through it, so this is what to plan with. The figures were measured with websockets 17.4, Python
3.11, nginx 1.22, HAProxy 2.6 and Linux 6.18 on x86-64; `make bench BENCH=memory` measures them again.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

_KIB = 1024

# What a new process takes before its first connection, 26 MiB for a small app, and a little more.
PROCESS_BYTES = 30 * 2**20

# As in the runner: window bits and memory level.
COMPRESSION = {"memory": (11, 4), "balanced": (12, 5), "ratio": (15, 8)}

# websockets' objects; the documentation of websockets says 14 KiB.
_CONNECTION = 16 * _KIB
# What zlib has beside windows and hash tables, for both directions; zlib.h speaks of a few KiB, and of about 7.
_ZLIB = 13 * _KIB
# Where the process ends TLS itself: objects of OpenSSL and of the event loop, and on asyncio 256 KiB to read into.
_TLS, _TLS_ASYNCIO = 50 * _KIB, 300 * _KIB
# By router, without and with TLS, after messages have gone through: `make bench BENCH=speed`. Of fresh ones it is less.
_PROXY = {"nginx": (24 * _KIB, 66 * _KIB), "haproxy": (23 * _KIB, 50 * _KIB)}
# The kernel's objects of an idle socket, its file and its entry in epoll; behind a proxy there are a pair of unix ones.
_TCP_SOCKET = 4 * _KIB
_UNIX_PAIR = 5 * _KIB
# On an edge, a connection to the client and one to the server, each with TLS.
EDGE_BYTES = {router: 2 * tls - plain + 2 * _TCP_SOCKET for router, (plain, tls) in _PROXY.items()}


@dataclass(frozen=True)
class Estimate:
    """Bytes for one connection: in the process, in the proxy of the same host, in the kernel.

    `buffer_bytes` come on top for a client that sends as many and as long messages as are accepted while the handler
    reads none, and reads nothing itself.
    """

    process_bytes: int
    proxy_bytes: int
    kernel_bytes: int
    buffer_bytes: int

    @property
    def connection_bytes(self) -> int:
        return self.process_bytes + self.proxy_bytes + self.kernel_bytes

    @property
    def worst_bytes(self) -> int:
        return self.connection_bytes + self.buffer_bytes


def estimate(
    variables: t.Mapping[str, object], router: str, tls: bool, handover: bool = False
) -> Estimate | None:
    """The estimate for a process with this environment; None where it isn't the runner's.

    `tls` says whether the proxy ends TLS; without one, the environment says it of the process. With `handover`, the
    process keeps what was inflated last, so that the connection can move.
    """
    if "WS_COMPRESSION" not in variables:
        return None
    process = _CONNECTION + compression_bytes(variables, handover)
    proxied = router in _PROXY
    own_tls = 0
    if variables.get("WS_TLS_KEY") and not proxied:
        own_tls = _TLS_ASYNCIO if variables.get("WS_LOOP") == "asyncio" else _TLS
    max_size = _whole(variables, "WS_MAX_SIZE", 2**20, 1, 2**31 - 1)
    max_queue = _whole(variables, "WS_MAX_QUEUE", 16, 1, 65535)
    return Estimate(
        process_bytes=process + own_tls,
        proxy_bytes=_PROXY[router][tls] if proxied else 0,
        kernel_bytes=_TCP_SOCKET + (_UNIX_PAIR if proxied else 0),
        buffer_bytes=(max_queue + 1) * max_size  # reading ends when more than max_queue wait
        + _whole(variables, "WS_WRITE_LIMIT", 2**15, 1, 2**31 - 1),
    )


def compression_bytes(variables: t.Mapping[str, object], handover: bool = False) -> int:
    """What compression takes, by the formulas of zlib.h."""
    name = str(variables.get("WS_COMPRESSION"))
    if name == "off":
        return 0
    bits, level = COMPRESSION.get(name, COMPRESSION["balanced"])
    sent = _whole(variables, "WS_SERVER_WINDOW_BITS", bits, 9, 15)
    received = _whole(variables, "WS_CLIENT_WINDOW_BITS", bits, 8, 15)
    level = _whole(variables, "WS_MEM_LEVEL", level, 1, 9)
    return _ZLIB + (1 << (sent + 2)) + (1 << (level + 9)) + (1 << received) * (2 if handover else 1)


def max_connections(variables: t.Mapping[str, object]) -> int:
    """Connections above which a process refuses more; 0 is no limit."""
    return _whole(variables, "WS_MAX_CONNECTIONS", 0, 0, 10_000_000)


def problem(
    variables: t.Mapping[str, object],
    router: str,
    tls: bool,
    handover: bool,
    processes: int,
    memory_bytes: int,
    connections: int = 0,
) -> str:
    """Why a host with so much memory can't hold the connections that are promised; empty where it can or none are.

    Promised is what each process accepts at most, or else that there will be so many `connections` on the host.
    """
    each, limit = estimate(variables, router, tls, handover), max_connections(variables)
    if each is None or not (limit or connections):
        return ""
    all_of_them = processes * limit or connections
    needed = processes * PROCESS_BYTES + all_of_them * each.connection_bytes
    if needed <= memory_bytes:
        return ""
    fitting = max(0, memory_bytes - processes * PROCESS_BYTES) // each.connection_bytes
    if limit:
        fitting //= processes
    each_of = f"{limit} for each of" if limit else f"{connections} connections over"
    return (
        f"{each_of} {processes} processes, which take {size(needed)} at about "
        f"{size(each.connection_bytes)} per connection, where the host has {size(memory_bytes)}; "
        f"allowed is {fitting} or less"
    )


def most_processes(
    variables: t.Mapping[str, object], router: str, tls: bool, handover: bool, memory_bytes: int
) -> int | None:
    """How many processes a host with so much memory can have, by the same rule; None where no number is too many."""
    each, limit = estimate(variables, router, tls, handover), max_connections(variables)
    if each is None or not limit:
        return None
    return memory_bytes // (PROCESS_BYTES + limit * each.connection_bytes)


def size(number: int) -> str:
    """Bytes as people say them: 64 KiB, 17 MiB, 3.2 GiB."""
    for unit, exponent in (("GiB", 30), ("MiB", 20)):
        if number >= 2**exponent:
            value = number / 2**exponent
            return f"{value:.1f} {unit}" if exponent == 30 and value < 10 else f"{value:.0f} {unit}"
    return f"{number / _KIB:.0f} KiB"


def _whole(variables: t.Mapping[str, object], name: str, default: int, low: int, high: int) -> int:
    """A setting, or its default where it is empty or one that the runner refuses."""
    text = str(variables.get(name, ""))
    return int(text) if text.isdecimal() and len(text) < 13 and low <= int(text) <= high else default
