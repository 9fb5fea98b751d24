# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client does, as a list of steps: connect, say, expect, think. The steps after `repeat` go on and on."""

from __future__ import annotations

import base64
import binascii
import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MESSAGE = '{"id": 12345, "text": "a message of some length"}'
ECHO: list[Any] = [{"say": MESSAGE}, {"expect": MESSAGE}, {"think": {"seconds": 0.1, "jitter": 0.5}}]
MAX_THINK = 3600.0

TEXT, BINARY, PONG, CLOSE = 0x81, 0x82, 0x8A, 0x88
COMPRESSED = 0x40


class ScenarioError(Exception):
    """The scenario can't be played; the text is one sentence."""


def frame(first: int, payload: bytes) -> bytes:
    """Return a client's frame. Its mask is zero, which costs nothing and which servers can't tell from others."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


def deflate(payload: bytes) -> bytes:
    """Compress a message by itself, in a window that every server has."""
    compressor = zlib.compressobj(wbits=-9)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Say:
    """A message: bytes, or a text, in which C({client}) and C({count}) are the client's number and the message's."""

    def __init__(self, message: str | bytes) -> None:
        self.text = message if isinstance(message, str) else ""
        self.varies = "{client}" in self.text or "{count}" in self.text
        self.plain, self.compressed = self._frames(message)

    def frame(self, compressed: bool, client: int, count: int) -> bytes:
        if not self.varies:
            return self.compressed if compressed else self.plain
        text = self.text.replace("{client}", str(client)).replace("{count}", str(count))
        return self._frames(text)[compressed]

    @staticmethod
    def _frames(message: str | bytes) -> tuple[bytes, bytes]:
        first, data = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        return frame(first, data), frame(first | COMPRESSED, deflate(data))


class Expect:
    """A message to wait for; others that come before are passed over."""

    def __init__(self, part: bytes, pattern: re.Pattern[bytes] | None = None) -> None:
        self.found: Callable[[bytes], Any] = pattern.search if pattern else lambda message: part in message


@dataclass(frozen=True)
class Think:
    """A pause of some seconds, by up to `jitter` of it longer or shorter."""

    seconds: float
    jitter: float

    def delay(self) -> float:
        return self.seconds * (1 + self.jitter * random.uniform(-1, 1))  # noqa: S311 - spreads messages


@dataclass
class Scenario:
    """The steps, and what the opening handshake asks for."""

    path: str = "/"
    headers: dict[str, str] = field(default_factory=dict)
    subprotocols: list[str] = field(default_factory=list)
    compression: bool = True
    steps: list[Say | Expect | Think] = field(default_factory=list)
    again: int = 0  # index of the step that follows the last

    @property
    def pace(self) -> float:
        """Seconds of thinking in a round."""
        return sum(step.seconds for step in self.steps[self.again :] if isinstance(step, Think))


def parse(steps: Sequence[Any]) -> Scenario:
    """Return the scenario, or raise ScenarioError."""
    scenario = Scenario()
    for number, step in enumerate(steps, 1):
        name, value = _read(number, step)
        if name == "connect":
            if number > 1:
                raise ScenarioError(
                    f"Step {number} of the scenario is connect: allowed is connect as the first."
                )
            _connect(scenario, value)
        elif name == "repeat":
            scenario.again = len(scenario.steps)
        else:
            scenario.steps.append(_STEPS[name](number, value))
    rounds = scenario.steps[scenario.again :]
    if not any(isinstance(step, Expect) or (isinstance(step, Think) and step.seconds) for step in rounds):
        raise ScenarioError(
            "The scenario neither expects nor thinks in what it repeats: allowed is what waits for something."
        )
    return scenario


def _read(number: int, step: Any) -> tuple[str, Any]:
    if step == "repeat":
        return "repeat", None
    if isinstance(step, Mapping) and len(step) == 1:
        ((name, value),) = step.items()
        if name in ("connect", "say", "expect", "think"):
            return str(name), value
    raise ScenarioError(
        f"Step {number} of the scenario is {step!r}: allowed is one of connect, say, expect, think and repeat."
    )


def _connect(scenario: Scenario, value: Any) -> None:
    value = value or {}
    unknown = [] if not isinstance(value, Mapping) else sorted(set(value) - {*_CONNECT})
    if not isinstance(value, Mapping) or unknown:
        raise ScenarioError(
            f"connect of the scenario has {unknown or value!r}: allowed are {', '.join(_CONNECT)}."
        )
    scenario.path = str(value.get("path", "/"))
    scenario.headers = {str(name): str(text) for name, text in (value.get("headers") or {}).items()}
    scenario.subprotocols = [str(name) for name in value.get("subprotocols") or []]
    scenario.compression = bool(value.get("compression", True))
    if not re.fullmatch(r"/[!-~]*", scenario.path):
        raise ScenarioError(f"path of the scenario is {scenario.path!r}: allowed is one that begins with /.")
    if any(re.search(r"[\r\n]", text) for pair in scenario.headers.items() for text in pair):
        raise ScenarioError("headers of the scenario have a line break: allowed are single lines.")


_CONNECT = ("path", "headers", "subprotocols", "compression")


def _say(number: int, value: Any) -> Say:
    if isinstance(value, str):
        return Say(value)
    if (data := _binary(value)) is not None:
        return Say(data)
    raise ScenarioError(f"Step {number} of the scenario says {value!r}: allowed is a text, or base64.")


def _binary(value: Any) -> bytes | None:
    """Return the bytes of {base64: …}; None if it isn't that."""
    if not isinstance(value, Mapping) or set(value) != {"base64"}:
        return None
    try:
        return base64.b64decode(str(value["base64"]), validate=True)
    except (binascii.Error, ValueError):
        return None


def _expect(number: int, value: Any) -> Expect:
    if isinstance(value, str):
        return Expect(value.encode())
    if (data := _binary(value)) is not None:
        return Expect(data)
    if isinstance(value, Mapping) and set(value) == {"regex"}:
        try:
            return Expect(b"", re.compile(str(value["regex"]).encode()))
        except re.error as error:
            raise ScenarioError(
                f"Step {number} of the scenario expects {value['regex']!r}: allowed are regular expressions, "
                f"got {error}."
            ) from error
    raise ScenarioError(
        f"Step {number} of the scenario expects {value!r}: allowed is a text or base64 that the message contains, or a "
        "regex."
    )


def _think(number: int, value: Any) -> Think:
    given = value if isinstance(value, Mapping) else {"seconds": value}
    try:
        think = Think(float(given["seconds"]), float(given.get("jitter", 0)))
    except (LookupError, TypeError, ValueError):
        think = Think(-1, 0)
    if not (
        0 <= think.seconds <= MAX_THINK and 0 <= think.jitter <= 1 and set(given) <= {"seconds", "jitter"}
    ):
        raise ScenarioError(
            f"Step {number} of the scenario thinks {value!r}: allowed are 0 to {MAX_THINK:g} seconds, "
            "and a jitter of 0 to 1."
        )
    return think


_STEPS: dict[str, Callable[[int, Any], Say | Expect | Think]] = {
    "say": _say,
    "expect": _expect,
    "think": _think,
}
