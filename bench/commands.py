"""Part a: commands of the protocol, ours against HTCondor's own blahpd, 1, 50 and 500 in flight."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import peers
from bench.driver import Burst, Gahp, submit_ads
from bench.report import Curve, Found, Row, shown
from tests.condor.prefix import NoPool, build

# So many jobs at so many in flight. blahpd slows down at 500. Now and then it takes a second for a command that has no neighbour,
# so that some commands in a row say nothing: with 1 in flight each has several turns.
OURS = ((1, 100), (50, 3000), (500, 3000))
BLAHPD = ((1, 12), (50, 1000), (500, 1000))
TURNS = {1: 3}
_TAKEN_LIMIT_S = 120.0
SUBMIT, STATUS, CANCEL = "BLAH_JOB_SUBMIT", "BLAH_JOB_STATUS", "BLAH_JOB_CANCEL"


@dataclasses.dataclass(frozen=True)
class Round:
    """One number in flight: the three verbs, and how many submits a second Batch had."""

    in_flight: int
    submit: Burst
    status: Burst
    cancel: Burst
    taken_rate: float
    from_memory: dict[str, float] = dataclasses.field(default_factory=dict)  # rates of what waits for no disk


@dataclasses.dataclass(frozen=True)
class Turns:
    """The rounds of one number in flight, ours and blahpd's in turns; a figure is that of the median turn."""

    ours: Sequence[Round]
    theirs: Sequence[Round]

    def medians(self, pick: Callable[[Round], float]) -> tuple[float, float | None, str]:
        return _medians([pick(each) for each in self.ours], [pick(each) for each in self.theirs])


def _medians(ours: Sequence[float], theirs: Sequence[float] = ()) -> tuple[float, float | None, str]:
    """Ours, blahpd's if it was measured, and the least and the most of each if there were several turns."""
    sides = {"ours": ours, "blahpd": theirs}
    told = ", ".join(f"{who} {shown(min(found))} to {shown(max(found))}" for who, found in sides.items() if found)
    note = f"{len(ours)} turns: {told}" if len(ours) > 1 else ""
    return statistics.median(ours), statistics.median(theirs) if theirs else None, note


def ours(in_flight: int, count: int, **knobs: str) -> Round:
    """With a GAHP and an account of their own; the jobs do not end by themselves."""
    with tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as name, peers.endpoint("--run", "86400") as aws:
        folder = Path(name)
        with Gahp(peers.ours(), peers.our_environment(aws, folder, **knobs), name) as gahp:
            gahp.burst("BLAH_PING", ["awsbatch"], 1)
            cpu = gahp.cpu_s()
            submit = gahp.burst(SUBMIT, submit_ads(count, name, "awsbatch"), in_flight)
            limit = time.monotonic() + _TAKEN_LIMIT_S
            while (taken := aws.order("taken"))["taken"] < count and time.monotonic() < limit:
                time.sleep(0.05)
            if taken["taken"] != count:
                raise RuntimeError(f"AWS Batch has {taken['taken']} jobs of {count}")
            # All that a submit costs: also what was done for it behind its result.
            submit = dataclasses.replace(submit, cpu_s=gahp.cpu_s() - cpu)
            status = gahp.burst(STATUS, submit.values, in_flight)
            # Again: now their ids are confirmed.
            memory = {"status from memory": gahp.burst(STATUS, submit.values, in_flight).rate}
            memory["pings"] = gahp.burst("BLAH_PING", ["awsbatch"] * count, in_flight).rate
            if in_flight > 1:  # it is one at a time anyway, as a command without a result is
                begin = time.monotonic()
                for _ in range(count):
                    gahp.call(b"VERSION")
                memory["VERSION, one after the other"] = count / (time.monotonic() - begin)
            cancel = gahp.burst(CANCEL, submit.values, in_flight)
            rate = count / (taken["at"] - submit.begun)
            return Round(in_flight, submit, status, cancel, rate, memory)


def blahpd(in_flight: int, count: int) -> Round:
    """With a batch system that does nothing. Raises NoPool when Debian's package cannot be had."""
    prefix = build(peers.SUITE)
    with tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as name:
        command, environment = peers.blahpd(prefix, Path(name))
        with Gahp(command, environment, name) as gahp:
            submit = gahp.burst(SUBMIT, submit_ads(count, name, "noop"), in_flight)
            status = gahp.burst(STATUS, submit.values, in_flight)
            cancel = gahp.burst(CANCEL, submit.values, in_flight)
            return Round(in_flight, submit, status, cancel, submit.rate)


def measure(ours_rounds: Sequence[tuple[int, int]] = OURS, blahpd_rounds: Sequence[tuple[int, int]] = BLAHPD) -> Found:
    missing: list[str] = []
    measured: dict[int, Turns] = {}
    for in_flight, count in ours_rounds:
        mine: list[Round] = []
        theirs: list[Round] = []
        for _ in range(TURNS.get(in_flight, 1)):
            mine.append(ours(in_flight, count))
            try:
                theirs.append(blahpd(in_flight, dict(blahpd_rounds)[in_flight]))
            except NoPool as error:
                missing = [f"a: blahpd was not measured: {error}"]
        measured[in_flight] = Turns(mine, theirs)
    rows = [row for in_flight, turns in measured.items() for row in _rows(in_flight, turns)]
    curves = []
    for verb, pick in (("jobs-taken-into-Batch", _taken), ("status", _status)):
        lines: dict[str, list[tuple[float, float]]] = {"awsbatch_gahp": [], "blahpd": []}
        for in_flight, turns in measured.items():
            we, they, _ = turns.medians(pick)
            lines["awsbatch_gahp"].append((in_flight, we))
            if they is not None:
                lines["blahpd"].append((in_flight, they))
        curves += [
            Curve("a", f"{verb}-a-second", who, "in flight", "a second", tuple(points)) for who, points in lines.items() if points
        ]
    return Found(rows, curves, missing)


def _rows(in_flight: int, turns: Turns) -> list[Row]:
    taken, status = {1: (10.0, 0.0), 50: (5.0, 20.0)}.get(in_flight, (0.0, 0.0))
    p99, cpu = (0.1, 0.5) if in_flight == 50 else (0.0, 0.0)
    where = f"{in_flight} in flight"
    return [
        _more(f"jobs taken into Batch, {where}", turns.medians(_taken), taken),
        _more(f"submits answered, {where}", turns.medians(lambda each: each.submit.rate)),
        _more(f"status, {where}", turns.medians(_status), status),
        *_from_memory(turns, where, 5000.0 if in_flight >= 50 else 0.0),
        _more(f"cancels, {where}", turns.medians(lambda each: each.cancel.rate)),
        _less(f"submit's result, p50, {where}", turns.medians(lambda each: each.submit.percentile(0.5)), "ms"),
        _less(f"submit's result, p99, {where}", turns.medians(lambda each: each.submit.percentile(0.99)), "ms", p99),
        _less(f"CPU for 1,000 commands, {where}", _cpu(turns), "s", cpu),
        _less(f"memory, {where}, {turns.ours[0].submit.count} jobs", turns.medians(_memory), "MB"),
    ]


def _from_memory(turns: Turns, where: str, goal: float) -> list[Row]:
    rows = []
    for name in turns.ours[0].from_memory:
        rate, _, note = _medians([each.from_memory[name] for each in turns.ours])
        what = name if name.startswith("VERSION") else f"{name}, {where}"
        met = rate >= goal if goal else None
        rows.append(Row("a", what, rate, "/s", goal=f"{goal:,.0f} a second" if goal else "", met=met, note=note))
    return rows


def _taken(each: Round) -> float:
    return each.taken_rate


def _status(each: Round) -> float:
    return each.status.rate


def _memory(each: Round) -> float:
    return max(each.submit.memory, each.status.memory, each.cancel.memory) / 1e6


def _cpu(turns: Turns) -> tuple[float, float | None, str]:
    """Seconds of CPU for 1,000 commands, a third of each kind; of all turns together, since it is counted in hundredths."""

    def mean(rounds: Sequence[Round]) -> float:
        bursts = [burst for each in rounds for burst in (each.submit, each.status, each.cancel)]
        return 1000 * sum(burst.cpu_s for burst in bursts) / sum(burst.count for burst in bursts)

    note = f"{len(turns.ours)} turns together" if len(turns.ours) > 1 else ""
    return mean(turns.ours), mean(turns.theirs) if turns.theirs else None, note


def _more(name: str, found: tuple[float, float | None, str], times: float = 0) -> Row:
    ours, peer, note = found
    met = ours >= times * peer if times and peer else None
    return Row("a", name, ours, "/s", peer, "blahpd", f"{times:g} times blahpd" if times else "", met, note)


def _less(name: str, found: tuple[float, float | None, str], unit: str, share: float = 0) -> Row:
    ours, peer, note = found
    met = ours <= share * peer if share and peer else None
    goal = {0.1: "a tenth of blahpd's", 0.5: "half of blahpd's"}.get(share, "")
    return Row("a", name, ours, unit, peer, "blahpd", goal, met, note)
