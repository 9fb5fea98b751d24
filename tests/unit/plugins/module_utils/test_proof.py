# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the verdict on a proof, and of the page that shows it."""

from __future__ import annotations

import html.parser
import random
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.proof import judge
from ansible_collections.wsfleet.websockets.plugins.module_utils.proof_page import STYLE, page

BEGIN = 1_795_262_400  # 12:00:00 UTC


def second(moment: int, **seen: Any) -> dict[str, Any]:
    return {
        "time": moment,
        "attempts": 10,
        "failures": {},
        "handshakes_ms": [float(value) for value in range(1, 11)],
        "closes": {},
        "open": [5, 5],
        **seen,
    }


def made(seconds: int = 30, **totals: Any) -> dict[str, Any]:
    """Return what ws_prove records in `seconds` in which nothing happens, but for these totals."""
    return {
        "begin": BEGIN + 0.2,
        "end": BEGIN + seconds - 0.1,
        "servers": ["ws1.test", "ws2.test"],
        "rate": 10,
        "held": 10,
        "interval": 1,
        "echo": True,
        "totals": {
            "attempts": 10 * seconds,
            "failed": 0,
            "failures": {},
            "closes": [],
            "messages": 100,
            "echoes": 100,
            "unanswered": {"closed": 0, "cut": 0, "open": 0},
            "wrong": 0,
            "doubled": 0,
            "reordered": 0,
            "reconnects": 0,
            "handshake_ms": {"p50": 5.0, "p99": 10.0, "max": 10.0},
            "echo_ms": {"p50": 1.0, "p99": 2.0, "max": 3.0},
            "reconnect_ms": None,
            "longest_wait_ms": 10.0,
            "first_problems": [],
            "late": {"max_ms": 2.0, "seconds": 0, "skipped": 0},
            "cpu_seconds": 1.0,
            **totals,
        },
        "series": [second(BEGIN + index) for index in range(seconds)],
    }


def mark(seconds: float, kind: str = "note", host: str | None = None, text: str = "") -> dict[str, Any]:
    return {"time": BEGIN + seconds, "kind": kind, "host": host, "text": text}


CHANGE = [mark(10, "begin"), mark(20, "end")]


def problem(kind: str) -> dict[str, Any]:
    return {"time": BEGIN + 12.5, "server": "ws2.test", "problem": kind}


def close(code: int, count: int) -> dict[str, Any]:
    return {"code": code, "reason": "", "count": count}


def test_all_promises_kept() -> None:
    proof = made(closes=[close(1001, 10)], unanswered={"closed": 2, "cut": 0, "open": 0})
    verdict = judge(proof, CHANGE, [1001])
    told = "2 were on the way when the server closed the connection, of which the client was told."
    assert verdict["broken"] == verdict["notes"] == []
    assert [(promise["promise"], promise["kept"], promise["detail"]) for promise in verdict["promises"]] == [
        ("Clients tried all the time", True, "Clients tried for 30 s."),
        ("No handshake fails", True, "300 handshakes, none failed."),
        ("No connection is cut", True, "No connection was cut."),
        ("Connections are closed with 1001 only", True, "Closed connections: 1001 (10)."),
        ("Every message comes back right", True, "100 messages came back, each once and in order."),
        (
            "No message is lost with its connection",
            True,
            f"100 messages sent, none lost with its connection. {told}",
        ),
    ]


@pytest.mark.parametrize(
    ("promise", "totals", "sentence"),
    [
        (
            "No handshake fails",
            {
                "failed": 3,
                "failures": {"HTTP 502": 2, "timeout": 1},
                "first_problems": [problem("wrong echo"), problem("HTTP 502")],
            },
            "3 of 300 handshakes failed: HTTP 502 (2), timeout (1); the first at 12:00:12 UTC, ws2.test.",
        ),
        (
            "No connection is cut",
            {"closes": [close(1001, 9), close(1006, 1)], "first_problems": [problem("cut connection")]},
            "1 connection was cut without a close frame (1006); the first at 12:00:12 UTC, ws2.test.",
        ),
        (
            "Connections are closed with 1001 only",
            {"closes": [close(1000, 2), close(1001, 9), close(1012, 1)]},
            "Connections were closed with another code than 1001: 1000 (2), 1012 (1).",
        ),
        (
            "Every message comes back right",
            {"wrong": 1, "first_problems": [problem("wrong echo")]},
            "Messages came back not as they were sent: wrong (1); the first at 12:00:12 UTC, ws2.test.",
        ),
        (
            "Every message comes back right",
            {"doubled": 2, "reordered": 3},
            "Messages came back not as they were sent: doubled (2), reordered (3).",
        ),
        (
            "No message is lost with its connection",
            {
                "unanswered": {"closed": 5, "cut": 1, "open": 0},
                "first_problems": [problem("unanswered message, connection cut")],
            },
            "1 message was never answered: connection cut (1); the first at 12:00:12 UTC, ws2.test.",
        ),
        (
            "No message is lost with its connection",
            {"unanswered": {"closed": 0, "cut": 1, "open": 2}},
            "3 messages were never answered: connection cut (1), open (2).",
        ),
        (
            "Clients tried all the time",
            {"attempts": 0},
            "No client attempted anything, so nothing is proved.",
        ),
    ],
)
def test_broken_promise(promise: str, totals: dict[str, Any], sentence: str) -> None:
    verdict = judge(made(**totals), CHANGE, [1001])
    assert verdict["broken"] == [sentence]
    assert [found["promise"] for found in verdict["promises"] if not found["kept"]] == [promise]


def test_codes_that_were_announced() -> None:
    proof = made(closes=[close(1001, 1), close(1012, 1)])
    assert judge(proof, [], [1001, 1012])["broken"] == []
    assert judge(proof, [], [1012])["broken"] == [
        "Connections were closed with another code than 1012: 1001 (1)."
    ]


@pytest.mark.parametrize(
    ("marks", "sentence"),
    [
        ([mark(-60, "begin"), mark(20, "end")], "The change began 60 s before the clients did."),
        (
            [mark(10, "begin"), mark(200, "end")],
            "The change went on for 2 min 50 s after the clients had stopped.",
        ),
    ],
)
def test_change_that_nobody_watched(marks: list[dict[str, Any]], sentence: str) -> None:
    assert judge(made(), marks, [1001])["broken"] == [sentence]


def test_gap_in_which_nobody_tried() -> None:
    proof = made()
    for moment in range(12, 18):
        proof["series"][moment]["attempts"] = 0
    assert judge(proof, CHANGE, [1001])["broken"] == ["No client tried for 7.0 s from 12:00:11 UTC on."]
    proof["rate"] = 0  # held connections attempt nothing as long as all is well
    assert judge(proof, CHANGE, [1001])["broken"] == []


def test_gap_at_the_end() -> None:
    proof = made()
    del proof["series"][20:]
    assert judge(proof, CHANGE, [1001])["broken"] == ["No client tried for 11 s from 12:00:19 UTC on."]


def test_phases() -> None:
    proof = made()
    proof["series"][15].update(failures={"timeout": 1}, handshakes_ms=[500.0])
    proof["series"][25].update(attempts=0, handshakes_ms=[])
    phases = judge(proof, [mark(9.5, "begin"), mark(20.5, "end")], [1001])["phases"]
    assert [(phase["phase"], phase["attempts"], phase["failed"]) for phase in phases] == [
        ("before", 90, 0),
        ("during", 120, 1),
        ("after", 80, 0),
    ]
    assert [phase["handshake_ms"] for phase in phases] == [
        {"p50": 5.0, "p99": 10.0, "max": 10.0},
        {"p50": 6.0, "p99": 10.0, "max": 500.0},
        {"p50": 5.0, "p99": 10.0, "max": 10.0},
    ]
    whole = judge(proof, CHANGE[:1], [1001])["phases"]
    assert [(phase["phase"], phase["attempts"]) for phase in whole] == [("all the time", 290)]


def test_notes() -> None:
    late = made(late={"max_ms": 1500.0, "seconds": 1, "skipped": 90})
    busy = "The clients' own machine was too busy: they were up to 1,500 ms late in 1 second"
    assert judge(late, [], [1001])["notes"] == [
        f"{busy}, and 90 handshakes were skipped. What they measured includes that."
    ]
    verdict = judge({**made(messages=0, echoes=0, wrong=1), "echo": False}, [], [1001])
    assert verdict["notes"] == ["The app doesn't echo, so whether messages were answered isn't known."]
    assert (len(verdict["promises"]), verdict["broken"]) == (4, [])


class Reader(html.parser.HTMLParser):
    """What a browser finds in a page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


MARKS = [
    *CHANGE,
    mark(11, "switch", "ws1.test", "slot 00 to generation 8"),
    mark(11.1, "drain", "ws1.test", "slot 00 of generation 7"),
    mark(13, "note", "ws2.test", "nginx reloaded"),
    mark(14, "note", None, "lunch"),
]


def shown(proof: dict[str, Any], marks: list[dict[str, Any]], title: str = "Upgrade") -> str:
    text: str = page(title, proof, marks, judge(proof, marks, [1001]))
    return text


def test_page_of_kept_promises() -> None:
    reader = Reader(shown(made(), MARKS))
    assert "Every promise was kept." in reader.text
    assert "300 handshakes, none failed." in reader.text
    for text in (
        "Handshakes a second",
        "slot switched",
        "drain begins",
        "the change",
        "nginx reloaded",
        "lunch",
    ):
        assert text in reader.text
    assert ("body", {"class": "kept"}) in reader.tags
    assert "failed" not in re.findall(r"<text[^>]*>([^<]*)</text>", shown(made(), MARKS))


def test_page_of_broken_promises() -> None:
    proof = made(
        closes=[close(1006, 1)], failed=1, failures={"HTTP 502": 1}, first_problems=[problem("HTTP 502")]
    )
    proof["series"][15].update(failures={"HTTP 502": 1}, closes={"1006": 1})
    text = shown(proof, [])
    reader = Reader(text)
    assert "2 promises were broken." in reader.text
    assert "1 of 300 handshakes failed" in reader.text
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert "failed" in labels  # one in three hundred is still seen
    assert "1006, cut" in labels
    assert ("body", {"class": "broken"}) in reader.tags


def test_page_needs_nothing_else() -> None:
    reader = Reader(shown(made(), MARKS))
    assert not {"script", "link", "img", "iframe", "object", "image"} & {
        tag for tag, _attributes in reader.tags
    }
    for _tag, attributes in reader.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith("#")
            assert "url(http" not in (value or "")
    assert "@import" not in reader.text
    policy = dict(reader.tags)["meta"]
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_page_is_accessible_and_takes_its_colours_from_the_style() -> None:
    text = shown(made(), MARKS)
    svg = text[text.index("<svg") : text.index("</svg>") + 6]
    assert ET.fromstring(svg).get("role") == "img"  # noqa: S314 - our own
    identifiers = re.search(r'aria-labelledby="([^"]*)"', svg)
    assert identifiers
    for identifier in identifiers.group(1).split():
        assert f'id="{identifier}"' in svg
    assert re.findall(r"#[0-9a-f]{6}", svg) == []
    for name in re.findall(r"var\(--(\w+)\)", text):
        assert text.count(f" --{name}: ") == 2, name  # light and dark
        assert name in STYLE


def test_page_escapes_what_others_wrote() -> None:
    proof = made(
        failed=1, failures={"<script>x": 1}, closes=[{"code": 1001, "reason": "<script>r", "count": 1}],
        first_problems=[problem("<script>x")],
    )  # fmt: skip
    proof["servers"] = ["<script>a", "$x^$"]
    text = shown(proof, [mark(1, "switch", "<script>h", "<script>t")], title="<script>")
    assert "<script>" not in text
    ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])  # noqa: S314 - our own
    assert "$x^$" in text  # not a formula


def test_same_proof_gives_same_page() -> None:
    assert shown(made(), MARKS) == shown(made(), MARKS)


@pytest.mark.parametrize("seconds", [0, 1, 2])
def test_page_of_a_short_proof(seconds: int) -> None:
    assert "<svg" in shown(made(seconds), [])


def test_page_of_half_an_hour_stays_small() -> None:
    randomness = random.Random(0)
    proof = made(1800)
    proof["servers"] = [f"ws{index}.test" for index in range(12)]
    for moment in proof["series"]:
        moment.update(
            attempts=randomness.randrange(180, 220),
            handshakes_ms=[randomness.lognormvariate(2, 1) for _n in range(200)],
            open=[randomness.randrange(50, 100) for _server in range(12)],
            closes={code: randomness.randrange(20) for code in ("1001", "1006", "1011")},
            failures={"timeout": randomness.randrange(2)},
        )
    marks = [mark(index * 20, "switch", f"ws{index % 12}.test", "slot") for index in range(80)]
    assert len(shown(proof, marks)) < 1_000_000
