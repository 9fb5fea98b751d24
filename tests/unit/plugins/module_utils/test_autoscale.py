# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What autoscale decides for servers that exist for the test only, up to a day of a thousand of them."""

from __future__ import annotations

import itertools
import json
import math
import random
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils.autoscale import (
    Band,
    Decision,
    Load,
    Process,
    Rules,
    Server,
    decide,
)


def load(processes: int, cpu: float, connections: int = 10, lag: float | None = 5.0, **more: t.Any) -> Load:
    """The load of a server whose processes have the same to do."""
    return Load(**{"cores": 8, "processes": (Process(cpu, connections, lag),) * processes, **more})


def one(seen: Load | None, problem: str = "", **rules: t.Any) -> Decision:
    [decision] = decide([Server("ws1", Rules(**rules), seen, problem)])
    return decision


def changes(*servers: Server) -> list[str]:
    return [decision.change for decision in decide(servers)]


@pytest.mark.parametrize("cpu", [30, 50, 70])
def test_between_the_bounds_nothing_changes(cpu: float) -> None:
    decision = one(load(4, cpu))
    assert (decision.change, decision.processes) == ("stay", 4)
    assert str(decision) == f"ws1: stays at 4 processes: CPU {cpu} %; event-loop lag 5 ms"


def test_above_it_gets_as_many_as_make_it_the_middle() -> None:
    decision = one(load(4, 90))
    assert (decision.change, decision.processes) == ("scale", 8)
    assert str(decision) == "ws1: 4 -> 8 processes: CPU 90 % is above 70 %"
    assert one(load(4, 71)).processes == 6
    assert one(load(1, 71)).processes == 2


def test_memory_that_has_no_room_for_more() -> None:
    assert one(load(4, 90, room=6)).processes == 6
    full = one(load(4, 90, room=4))
    assert str(full) == (
        "ws1: stays at 4 processes: CPU 90 % is above 70 %; 4 processes is the most its memory has room for"
    )
    assert one(load(4, 50, room=2)).change == "stay", "those that run have found room"
    assert one(load(4, 50, room=2), maximum=3).processes == 3
    assert one(load(4, 90, room=20)).processes == 8


def test_connections_count_where_they_have_bounds() -> None:
    band = Band(1000, 3000)
    assert one(load(4, 50, 9000)).processes == 4
    decision = one(load(2, 10, 4000), connections=band)
    assert decision.processes == 4
    assert "connections per process 4000 is above 3000" in str(decision)
    assert one(load(4, 10, 1500), connections=band).processes == 4, "within bounds although CPU is below"
    assert one(load(4, 10, 900), connections=band).processes == 3


def test_a_late_event_loop_takes_more_processes_and_keeps_those_that_are_there() -> None:
    decision = one(load(4, 50, lag=150.0))
    assert str(decision) == "ws1: 4 -> 5 processes: event-loop lag 150 ms is above 100 ms"
    assert one(load(4, 10, lag=50.0)).change == "stay"
    worst = Load(8, (Process(50, 1, 1.0), Process(50, 1, 101.0)))
    assert one(worst).processes == 3, "the worst process counts"


def test_a_lag_that_nobody_tells_is_said_and_no_hindrance() -> None:
    assert str(one(load(4, 50, lag=None))) == "ws1: stays at 4 processes: CPU 50 %; event-loop lag unknown"
    down = one(load(4, 10, lag=None))
    assert str(down) == "ws1: 4 -> 3 processes: CPU 10 % is below 30 %; event-loop lag unknown"


def test_below_up_to_a_quarter_goes() -> None:
    assert [one(load(n, 5), maximum=99).processes for n in (2, 4, 8, 16)] == [1, 3, 6, 12]


def test_below_none_goes_where_the_others_would_be_above() -> None:
    rules = {"cpu": Band(60, 70)}
    decision = one(load(4, 58), **rules)
    assert decision.change == "stay"
    assert "one process fewer would bring it above its upper bound" in str(decision)
    assert one(load(8, 50), **rules).processes == 6
    assert one(load(8, 59), **rules).processes == 7, "fewer than a quarter"


def test_what_came_up_doesnt_go_down_under_the_same_load_and_the_other_way_round() -> None:
    for total in range(1, 1600, 13):
        for low, high in ((30, 70), (45, 70), (60, 70)):
            for now in (1, 2, 3, 5, 8, 13):
                rules: dict[str, t.Any] = {"cpu": Band(low, high), "maximum": 99}
                then = one(load(now, total / now), **rules).processes
                if then > now:
                    assert one(load(then, total / then), **rules).processes >= then - 1
                if then < now:
                    assert one(load(then, total / then), **rules).processes <= then, (total, now, then)


def test_more_load_never_takes_fewer_processes() -> None:
    for now in (1, 2, 4, 8, 16):
        wanted = [one(load(now, cpu), maximum=99).processes for cpu in range(101)]
        assert wanted == sorted(wanted)
        assert wanted[0] < now or now == 1
        assert wanted[-1] > now


def test_bounds_of_the_number() -> None:
    assert one(load(4, 100), maximum=5).processes == 5
    assert one(load(4, 100, cores=4)).processes == 4, "one per core where there is no maximum"
    assert one(load(4, 100, cores=4), maximum=6).processes == 6, "which allows more"
    at_most = one(load(4, 100), maximum=4)
    assert str(at_most).endswith("CPU 100 % is above 70 %; 4 processes is the most it may have")
    assert one(load(8, 1), minimum=7).processes == 7
    assert "2 processes is the least it may have" in str(one(load(2, 1), minimum=2))
    assert one(load(1, 1, calm=0), minimum=3).processes == 3
    assert one(load(9, 100, calm=0)).processes == 8
    assert one(load(2, 1, cores=2), minimum=4).processes == 2, "a small host among bigger ones"


def test_cool_down_is_shorter_upwards() -> None:
    assert [one(load(4, 90, calm=calm)).processes for calm in (59, 60)] == [4, 8]
    assert [one(load(4, 10, calm=calm)).processes for calm in (60, 599, 600)] == [4, 4, 3]
    assert "the last change was 20 s ago, of 60 s to wait" in str(one(load(4, 90, calm=20)))


def test_a_server_that_wasnt_seen_isnt_scaled() -> None:
    decision = one(None, "it doesn't answer")
    assert str(decision) == "ws1: isn't scaled: it doesn't answer"
    assert str(one(load(0, 0))) == "ws1: isn't scaled: no process serves"


def test_a_server_that_an_operator_took_out_stays_out() -> None:
    out = Server("ws2", Rules(spare=True), load(2, 0, out="operator"))
    full = Server("ws1", Rules(), load(8, 100))
    assert changes(full, out) == ["stay", "stay"]
    assert str(decide([full, out])[1]) == "ws2: stays at 2 processes: it was taken out of service by hand"


def spare(name: str, **more: t.Any) -> Server:
    return Server(name, Rules(spare=True), load(2, 0, out="autoscale", **more))


def test_spares_come_when_the_others_are_at_their_most() -> None:
    full = [Server(f"ws{n}", Rules(), load(8, 80)) for n in range(4)]
    spares = [spare("s1"), spare("s2"), spare("s3"), spare("s4")]
    decisions = decide([*full, *spares])
    # 4 servers at 80 % are 6.4 at 50 %.
    assert [decision.change for decision in decisions[4:]] == ["in", "in", "in", "stay"]
    assert str(decisions[4]) == (
        "s1: goes into service: ws0, ws1, ws2 and others can't grow, and the others have no room"
    )
    assert str(decisions[7]) == "s4: stays at 2 processes: it is a spare, and not needed"


def test_spares_wait_while_the_others_can_grow_or_have_just_changed() -> None:
    assert changes(Server("ws1", Rules(), load(4, 80)), spare("s1")) == ["scale", "stay"]
    full = Server("ws1", Rules(), load(8, 80))
    assert changes(full, spare("s1", at_post=59)) == ["stay", "stay"]
    assert changes(full, spare("s1", at_post=60)) == ["stay", "in"]


def test_one_busy_server_brings_spares_only_where_the_others_have_no_room() -> None:
    busy = Server("ws1", Rules(), load(8, 90))
    assert changes(busy, Server("ws2", Rules(), load(8, 40)), spare("s1")) == ["stay", "stay", "in"]
    assert changes(busy, Server("ws2", Rules(), load(2, 35)), spare("s1")) == ["stay", "stay", "stay"]


def test_a_late_event_loop_everywhere_brings_one_spare() -> None:
    late = load(8, 50, lag=500.0)
    some = [Server("ws1", Rules(), late), spare("s1"), spare("s2")]
    assert changes(*some) == ["stay", "in", "stay"]
    assert changes(*some, Server("ws2", Rules(), load(8, 50))) == ["stay"] * 4, "the other has room"


def test_a_spare_goes_when_the_others_can_do_without_it() -> None:
    def fleet(cpu: float, **more: t.Any) -> list[Server]:
        serving = load(4, cpu, **more)
        return [Server("ws1", Rules(), serving)] + [
            Server(name, Rules(spare=True), replace(serving, processes=(Process(cpu, held, 5.0),) * 4))
            for name, held in (("s1", 20), ("s2", 5))
        ]

    assert changes(*fleet(40)) == ["stay", "stay", "out"], "the one with the fewest connections"
    assert changes(*fleet(50)) == ["stay", "stay", "stay"], "75 % would be above"
    assert changes(*fleet(40, at_post=599)) == ["stay", "stay", "stay"]
    unseen = Server("ws2", Rules(), None, "it doesn't answer")
    assert changes(*fleet(40), unseen) == ["stay"] * 4, "who doesn't answer isn't idle"


def test_what_isnt_spare_and_what_is_alone_stays_in_service() -> None:
    idle = load(1, 0)
    assert changes(Server("ws1", Rules(), idle), Server("ws2", Rules(), idle)) == ["stay", "stay"]
    assert changes(Server("s1", Rules(spare=True), idle)) == ["stay"]
    assert changes(*[Server(f"s{n}", Rules(spare=True), idle) for n in range(30)]).count("out") == 3


# A day of one process, recorded from a real one by `make bench BENCH=day`: quiet at night, busy in the evening, with a
# spike at noon and one that lasts.
DAY = 24 * 60
RECORD = json.loads((Path(__file__).parents[4] / "bench" / "day.json").read_text())
SEEN = sorted((one["connections"], one["cpu_percent"], one["lag_ms"]) for one in RECORD)


def day(minute: float) -> float:
    """How many connections there were."""
    before, after = (RECORD[math.floor(minute / DAY * len(RECORD) + more) % len(RECORD)] for more in (0, 1))
    part = minute / DAY * len(RECORD) % 1
    return t.cast("float", (1 - part) * before["connections"] + part * after["connections"])


def response(connections: float) -> tuple[float, float]:
    """The CPU and the lag that a process had with so many; with more than any had, CPU in proportion, up to a core."""
    highest = SEEN[-1]
    if connections > highest[0]:
        cpu = min(100.0, highest[1] * connections / highest[0])
        return cpu, 200.0 if cpu > 95 else highest[2]
    # Of the moments with about so many, those next to it.
    above = next(index for index, one in enumerate(SEEN) if one[0] >= connections)
    (least, *low), (most, *high) = SEEN[max(0, above - 1)], SEEN[above]
    part = (connections - least) / (most - least) if most > least else 1.0
    cpu, lag = (a + (b - a) * max(0.0, part) for a, b in zip(low, high, strict=True))
    return cpu, lag


def test_the_record_is_of_a_day_that_asks_for_something() -> None:
    connections = [one["connections"] for one in RECORD]
    assert len(RECORD) == 48 and max(connections) > 10 * min(connections) > 0
    assert max(one["cpu_percent"] for one in RECORD) > 40
    # Ten a second each, but in spikes, which were more than the machine that had both sides could do.
    messages = [one["messages_per_second"] / one["connections"] for one in RECORD]
    assert max(messages) < 11 and sum(rate < 9 for rate in messages) <= 3


def simulate(hosts: int, spares: int, peak: float, step: int) -> dict[str, list[list[t.Any]]]:
    """Run autoscale through the day, every `step` minutes, over servers of 8 cores.

    If all serve, they have `peak` times the connections of the process that was recorded.

    Returns each server's history: processes, percent of a core per process, and whether it served.
    """
    chance = random.Random(20261122)
    names = [f"ws{n}" for n in range(hosts)]
    size = {name: chance.uniform(0.6, 1.2) for name in names}  # balancers aren't perfect
    count, calm, at_post = dict.fromkeys(names, 2), dict.fromkeys(names, 1e6), dict.fromkeys(names, 1e6)
    out: dict[str, str] = dict.fromkeys(names, "")
    rules = {name: Rules(spare=n >= hosts - spares) for n, name in enumerate(names)}
    history: dict[str, list[list[t.Any]]] = {name: [] for name in names}
    for minute in range(0, DAY, step):
        demand = day(minute) * peak * hosts
        serving = sum(size[name] for name in names if not out[name])
        servers = []
        for name in names:
            share = (
                0.0 if out[name] else demand * size[name] / serving * chance.uniform(0.9, 1.1) / count[name]
            )
            cpu, lag = response(share)
            history[name].append([count[name], cpu, not out[name]])
            process = Process(cpu, round(share), lag)
            seen = Load(8, (process,) * count[name], calm[name], at_post[name], out[name])
            # Now and then, one doesn't answer.
            servers.append(Server(name, rules[name], seen if chance.random() > 0.0001 else None))
            calm[name] += step * 60
            at_post[name] += step * 60
        for decision in decide(servers):
            if decision.change == "scale":
                count[decision.name], calm[decision.name] = decision.processes, step * 60
            elif decision.change in ("in", "out"):
                out[decision.name] = "autoscale" if decision.change == "out" else ""
                at_post[decision.name] = step * 60
    return history


def test_a_day_of_a_thousand_servers() -> None:
    # An hour is longer than any time to wait: what keeps them from flapping is the bounds.
    history = simulate(hosts=1000, spares=0, peak=2.4, step=60)
    numbers = [[now for now, _cpu, _serving in days] for days in history.values()]
    steps = [[b - a for a, b in itertools.pairwise(days)] for days in numbers]
    assert max(sum(step != 0 for step in host) for host in steps) <= 10, "few changes"
    assert max(turns([step for step in host if step]) for host in steps) <= 3, "no flapping"
    highs = [[cpu > 70 for _now, cpu, _serving in days] for days in history.values()]
    assert max(longest(host) for host in highs) <= 3, "above for at most so many runs"
    assert sum(map(sum, highs)) < 4 * 1000, "of 24 runs, so few for each"
    assert max(map(max, numbers)) > 2 * min(map(min, numbers)) > 0, "it followed the load"


def test_a_day_of_a_fleet_with_spares() -> None:
    history = simulate(hosts=100, spares=40, peak=2.4, step=10)
    serving = [sum(runs[run][2] for runs in history.values()) for run in range(DAY // 10)]
    assert serving[0] == 100
    assert 60 <= min(serving) < 90, "spares were sent away at night"
    assert all(runs[-1][2] for name, runs in history.items() if int(name[2:]) < 60)
    moves = [b - a for a, b in itertools.pairwise(serving) if a != b]
    assert turns(moves) <= 6, "and didn't come and go"
    highs = [[served and cpu > 70 for _now, cpu, served in runs] for runs in history.values()]
    assert max(longest(host) for host in highs) <= 4


def longest(values: list[bool]) -> int:
    """How many are true in a row at most."""
    best = run = 0
    for value in values:
        run = run + 1 if value else 0
        best = max(best, run)
    return best


def turns(changes: list[int]) -> int:
    """How often the direction changes."""
    return sum(a * b < 0 for a, b in itertools.pairwise(changes))
