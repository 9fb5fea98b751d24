# SPDX-License-Identifier: Apache-2.0
"""The settings: defined once, read from flags and environment variables of the same names."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, NoReturn, TypeVar

from . import __version__

T = TypeVar("T")

# Set by the deployment for people and scripts; no settings.
FOREIGN = {"WS_RELEASE", "WS_GENERATION"}


class SettingError(ValueError):
    """A setting that can't be used. The text is a sentence for the operator."""


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What a setting may be: `parse` makes a value of text or raises ValueError or KeyError."""

    allowed: str
    parse: Callable[[str], T]


def whole(low: int, high: int, unit: str = "") -> Kind[int]:
    """Whole numbers from `low` to `high`; `unit` is for people."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Kind(f"a whole number {f'of {unit} ' if unit else ''}from {low} to {high}", parse)


def decimal(low: float, high: float, unit: str = "") -> Kind[float]:
    """Decimal numbers from `low` to `high`; `unit` is for people."""

    def parse(text: str) -> float:
        if not low <= float(text) <= high:  # nan is refused here too
            raise ValueError
        return float(text)

    return Kind(f"a number {f'of {unit} ' if unit else ''}from {low:.8g} to {high:.8g}", parse)


def one_of(*values: T) -> Kind[T]:
    """One of `values`, as they are written."""
    return Kind(" or ".join(map(str, values)), {str(value): value for value in values}.__getitem__)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """Like `kind`; empty means None."""
    return Kind(f"{kind.allowed}, or empty", lambda text: kind.parse(text) if text else None)


def matching(pattern: str, allowed: str) -> Kind[str]:
    """Text that is matched as a whole by `pattern`."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return Kind(allowed, parse)


def short(what: str, limit: int) -> Kind[str]:
    """Text of at most `limit` bytes; `what` is for people."""

    def parse(text: str) -> str:
        if len(text.encode()) > limit:
            raise ValueError
        return text

    return Kind(f"{what} of at most {limit} bytes, or empty", parse)


def many(kind: Kind[str]) -> Kind[tuple[str, ...]]:
    """Any number of `kind`, separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        return tuple(kind.parse(item.strip()) for item in text.split(",")) if text.strip() else ()

    return Kind(f"a comma-separated list, each {kind.allowed}", parse)


def parse_origin(text: str) -> str:
    """Check one acceptable origin; a regular expression follows `~`."""
    if text.startswith("~"):
        try:
            re.compile(text[1:])
        except re.error as error:
            raise ValueError from error
    elif not re.fullmatch(r"none|null|[a-z][a-z0-9+.-]*://[^/\s]+", text):
        raise ValueError
    return text


# Ansible makes True and False of the booleans in a dictionary of variables.
SWITCH = Kind("true or false", lambda text: {"true": True, "false": False}[text.lower()])
TOKEN = matching(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", "an HTTP token")
ORIGIN = Kind(
    "scheme://host[:port], null, none (no Origin header) or ~ and a regular expression", parse_origin
)


def setting(default: T, kind: Kind[T], about: str) -> T:
    """Define a field of Settings."""
    return field(  # pylint: disable=invalid-field-call # it is used in a dataclass, below
        default=default, metadata={"kind": kind, "about": about}
    )


@dataclass(frozen=True)
class Settings:
    """How a server process runs. `max_size` is --max-size and WS_MAX_SIZE; a flag wins over the environment."""

    handler: str = setting(
        "wsfleet.echo:handler",
        matching(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", "package.module:function"),
        "async function that serves one connection",
    )
    loop: str = setting(
        "auto",
        one_of("auto", "asyncio", "uvloop"),
        "event loop; auto is uvloop if it is installed, as by the extra `wsfleet[uvloop]`",
    )

    unix_socket: str = setting(
        "",
        short("a path", 107),
        "path of a unix socket to listen on, instead of host and port; its mode is 0777 less the umask",
    )
    slot: str = setting(
        "",
        short("a path", 107),
        "symlink that leads to `unix_socket` while clients are to reach this process",
    )
    host: str = setting(
        "127.0.0.1", matching(r"\S+", "an address or host name"), "address to listen on; `*` is every one"
    )
    port: int = setting(8000, whole(0, 65535), "TCP port to listen on; 0 takes a free one")
    reuse_port: bool = setting(False, SWITCH, "let several processes listen on the same TCP port")
    shared_port: int = setting(
        0,
        whole(0, 65535),
        "TCP port to listen on beside `unix_socket`, with processes of other slots, while `slot` leads here; 0 is none",
    )
    tls_certificate: str = setting(
        "", short("a path", 4095), "PEM file with the chain to serve on TCP; one that changes is loaded again"
    )
    tls_key: str = setting("", short("a path", 4095), "PEM file with its private key")
    metrics_socket: str = setting(
        "",
        short("a path", 107),
        "path of a unix socket that answers /metrics, for Prometheus, until the process ends; empty is none",
    )
    backlog: int = setting(
        4096, whole(1, 65535, "connections"), "connections that the kernel holds until they are accepted"
    )

    max_connections: int = setting(
        0,
        whole(0, 10_000_000, "connections"),
        "open connections above which handshakes get 503; 0 is no limit",
    )
    origins: tuple[str, ...] = setting((), many(ORIGIN), "acceptable Origin headers; empty accepts all")
    subprotocols: tuple[str, ...] = setting((), many(TOKEN), "subprotocols, in order of preference")
    server_header: bool = setting(
        False, SWITCH, "send a Server header with the versions of Python and websockets"
    )
    open_timeout: float = setting(10.0, decimal(0.1, 3600, "seconds"), "time for a handshake")

    max_size: int = setting(
        2**20, whole(1, 2**31 - 1, "bytes"), "largest message accepted, both as it is sent and uncompressed"
    )
    max_queue: int = setting(
        16, whole(1, 65535, "frames"), "frames received ahead of the handler, per connection"
    )
    write_limit: int = setting(
        2**15,
        whole(1, 2**31 - 1, "bytes"),
        "bytes buffered for a client before sending waits, per connection",
    )
    compression: str = setting(
        "balanced",
        one_of("off", "memory", "balanced", "ratio"),
        "permessage-deflate with window bits and memory level 11, 4 (memory), 12, 5 (balanced) or 15, 8 (ratio)",
    )
    server_window_bits: int | None = setting(
        None, optional(whole(9, 15)), "window for messages sent, instead of the one of `compression`"
    )
    client_window_bits: int | None = setting(
        None, optional(whole(8, 15)), "window for messages received, instead of the one of `compression`"
    )
    mem_level: int | None = setting(
        None, optional(whole(1, 9)), "memory level of zlib, instead of the one of `compression`"
    )

    ping_interval: float = setting(
        20.0, decimal(0, 86400, "seconds"), "time between keepalive pings; 0 sends none"
    )
    ping_timeout: float = setting(
        20.0, decimal(0, 86400, "seconds"), "time to answer a ping before the connection is cut; 0 never cuts"
    )
    close_timeout: float = setting(
        10.0, decimal(0.1, 3600, "seconds"), "time for a closing handshake before the connection is cut"
    )

    drain_seconds: float = setting(
        30.0, decimal(0, 3600, "seconds"), "time over which SIGTERM closes the open connections"
    )
    drain_rate: float = setting(
        50.0,
        decimal(0.01, 100_000, "connections per second"),
        "pace at which the drain closes them",
    )
    drain_growth: bool = setting(
        True,
        SWITCH,
        "close faster where `drain_seconds` demands it; otherwise those left after it are closed at once",
    )
    drain_jitter: float = setting(
        0.2, decimal(0, 1), "proportion by which each pause between closes varies, up or down, at random"
    )
    drain_code: int = setting(1001, one_of(1001, 1012), "close code: going away or service restart")
    drain_reason: str = setting(
        "server is restarting", short("text", 123), "reason that clients get with the close code"
    )
    max_age: float = setting(
        0.0,
        decimal(0, 2_592_000, "seconds"),
        "age at which a connection is closed, with `drain_code`; 0 is no limit",
    )
    max_age_jitter: float = setting(
        0.2, decimal(0, 1), "proportion of `max_age` by which it is less, at random for each connection"
    )

    handover: bool = setting(
        False,
        SWITCH,
        "at SIGTERM, move connections to where `slot` leads then; those with TLS of ours are closed",
    )
    handover_seconds: float = setting(
        5.0,
        decimal(0.1, 3600, "seconds"),
        "time to wait for connections that aren't quiet enough to move, while none moves; then they are closed",
    )

    log_format: str = setting("plain", one_of("plain", "json"), "lines on stderr")
    log_level: str = setting(
        "info", one_of("debug", "info", "warning", "error"), "least level logged; debug includes every frame"
    )

    def changed(self) -> dict[str, object]:
        """The settings that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


def flag(name: str) -> str:
    """The command-line flag of a setting: max_size → --max-size."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a setting: max_size → WS_MAX_SIZE."""
    return "WS_" + name.upper()


def shown(value: object) -> str:
    """A value as it is written in a flag or variable."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def refusal(name: str, value: str, allowed: str) -> SettingError:
    """The error for a setting's `value` that isn't `allowed`."""
    return SettingError(f"{flag(name)} ({variable(name)}) is {value!r}, allowed is {allowed}")


class Parser(argparse.ArgumentParser):
    """A parser that answers a bad command line with an exception instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message}; --help lists what is allowed")


def make_parser() -> Parser:
    """The command line, one flag per setting; values stay text."""
    parser = Parser(
        prog="wsfleet",
        allow_abbrev=False,
        description="Serve WebSocket connections with a handler, by default an echo.",
        epilog="Each flag is also an environment variable: --max-size is WS_MAX_SIZE. Flags win.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--settings-table", action="store_true", help="print the settings as a Markdown table"
    )
    for f in fields(Settings):
        kind, about = f.metadata["kind"], f.metadata["about"]
        bare: dict[str, Any] = {"nargs": "?", "const": "true"} if kind is SWITCH else {}
        text = f"{about} ({kind.allowed}; default {shown(f.default) or 'empty'})".replace("%", "%%")
        parser.add_argument(flag(f.name), metavar="VALUE", help=text, **bare)
    return parser


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the settings; raise SettingError for the first one that is bad or unknown.

    --help, --version and --settings-table print and raise SystemExit.
    """
    flags = vars(make_parser().parse_args(arguments))
    if flags["settings_table"]:
        sys.stdout.write(table())
        raise SystemExit
    known = {variable(f.name) for f in fields(Settings)}
    for name in sorted(environment):
        if name.startswith("WS_") and name not in known | FOREIGN:  # its value may be a secret: not shown
            guess = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {guess[0]}?" if guess else "names that begin with WS_ are the runner's"
            raise SettingError(f"{name} is no setting, {hint} (--help lists all)")
    values = {}
    for f in fields(Settings):
        text = flags[f.name] if flags[f.name] is not None else environment.get(variable(f.name))
        if text is not None:
            kind = f.metadata["kind"]
            try:
                values[f.name] = kind.parse(text)
            except (ValueError, KeyError):
                raise refusal(f.name, text, kind.allowed) from None
    return Settings(**values)


def table() -> str:
    """The settings as a Markdown table."""
    lines = ["| flag | variable | default | allowed | what it is |", "|---|---|---|---|---|"]
    for f in fields(Settings):
        default = f"`{shown(f.default)}`" if shown(f.default) else "empty"
        lines.append(
            f"| `{flag(f.name)}` | `{variable(f.name)}` | {default} "
            f"| {f.metadata['kind'].allowed} | {f.metadata['about']} |"
        )
    return "\n".join(lines) + "\n"
