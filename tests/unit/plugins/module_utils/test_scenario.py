# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenarios are read as they are written, or refused in one sentence."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.scenario import (
    ECHO,
    Expect,
    Say,
    ScenarioError,
    Think,
    frame,
    parse,
)
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader


def read(data: bytes) -> Frame:
    """What the library reads of a client's frame."""
    reader = StreamReader()
    reader.feed_data(data)
    parsing = Frame.parse(reader.read_exact, mask=True, max_size=None)
    with pytest.raises(StopIteration) as found:
        next(parsing)
    result: Frame = found.value.value
    return result


@given(st.one_of(st.binary(max_size=300), st.integers(0, 70_000).map(bytes)))
def test_frames_are_what_the_library_reads(payload: bytes) -> None:
    found = read(frame(0x81, payload))
    assert (found.opcode, found.data, found.fin, found.rsv1) == (Opcode.TEXT, payload, True, False)


@given(st.text(max_size=2000))
def test_compressed_messages_are_read_in_the_smallest_window(text: str) -> None:
    data = Say(text).frame(True, 1, 1)
    assert data[0] == 0xC1
    found = read(b"\x81" + data[1:])
    assert zlib.decompressobj(-9).decompress(bytes(found.data) + b"\x00\x00\xff\xff") == text.encode()


@given(st.binary(max_size=300))
def test_binary_messages_are_sent_as_they_are_and_expected(data: bytes) -> None:
    encoded = base64.b64encode(data).decode()
    say, expect = parse([{"say": {"base64": encoded}}, {"expect": {"base64": encoded}}]).steps
    assert isinstance(say, Say)
    assert isinstance(expect, Expect)
    found = read(say.frame(False, 1, 1))
    assert (found.opcode, found.data) == (Opcode.BINARY, data)
    assert say.frame(True, 1, 1)[0] == 0xC2
    assert expect.found(b"before" + data + b"after")
    assert not data or not expect.found(data[1:])


def test_the_default_is_an_echo() -> None:
    scenario = parse(ECHO)
    assert [type(step) for step in scenario.steps] == [Say, Expect, Think]
    assert (scenario.path, scenario.again, scenario.pace) == ("/", 0, 0.1)


def test_a_scenario_of_everything() -> None:
    scenario = parse(
        [
            {
                "connect": {
                    "path": "/chat?room=1",
                    "headers": {"X-Id": 5},
                    "subprotocols": ["v1"],
                    "compression": False,
                }
            },
            {"say": "login {client}"},
            {"expect": "welcome"},
            "repeat",
            {"say": "message {count} of {client}"},
            {"expect": {"regex": "^message [0-9]+ of"}},
            {"think": {"seconds": 2, "jitter": 0.5}},
            {"think": 1},
        ]
    )
    assert (scenario.path, scenario.headers, scenario.subprotocols) == ("/chat?room=1", {"X-Id": "5"}, ["v1"])
    assert not scenario.compression
    assert (scenario.again, scenario.pace) == (2, 3)
    say, expect, think = scenario.steps[2:5]
    assert isinstance(say, Say)
    assert isinstance(expect, Expect)
    assert isinstance(think, Think)
    message = bytes(read(say.frame(False, 7, 3)).data)
    assert message == b"message 3 of 7"
    assert expect.found(message)
    assert not expect.found(b"a message 3 of 7")
    assert all(1 <= think.delay() <= 3 for _n in range(100))


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        (
            [{"shout": "hello"}],
            "Step 1 of the scenario is {'shout': 'hello'}: allowed is one of connect, say",
        ),
        ([{"say": "a", "expect": "a"}], "Step 1 .* allowed is one of"),
        ([*ECHO, {"connect": {}}], "Step 4 of the scenario is connect: allowed is connect as the first"),
        ([{"connect": {"paht": "/"}}, *ECHO], "connect of the scenario has .*paht"),
        ([{"connect": {"path": "chat"}}, *ECHO], "path of the scenario is 'chat'"),
        ([{"connect": {"headers": {"A": "b\r\nC: d"}}}, *ECHO], "line break"),
        ([{"say": 5}, {"think": 1}], "Step 1 of the scenario says 5"),
        (
            [{"say": {"base64": "AA="}}, {"think": 1}],
            "Step 1 of the scenario says .*AA=.*allowed is a text, or base64",
        ),
        ([{"say": {"hex": "00"}}, {"think": 1}], "Step 1 of the scenario says"),
        ([{"expect": {"base64": "ä"}}], "Step 1 of the scenario expects"),
        ([{"expect": {"regex": "("}}], "Step 1 of the scenario expects '\\('"),
        ([{"expect": {"pattern": "a"}}], "Step 1 of the scenario expects"),
        ([{"think": "long"}], "Step 1 of the scenario thinks 'long'"),
        ([{"think": {"seconds": 1, "jitter": 2}}], "a jitter of 0 to 1"),
        ([{"say": "a"}, {"think": 0}], "neither expects nor thinks"),
        ([{"expect": "a"}, "repeat", {"say": "a"}], "neither expects nor thinks in what it repeats"),
        ([], "neither expects nor thinks"),
    ],
)
def test_what_cannot_be_played_is_said(steps: list[Any], sentence: str) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        parse(steps)
