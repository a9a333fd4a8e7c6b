"""Part a: commands of the protocol, ours against HTCondor's own blahpd, 1, 50 and 500 in flight."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import peers
from bench.driver import Burst, Gahp, submit_ads
from bench.report import Curve, Found, Row
from tests.condor.prefix import NoPool, build

# So many jobs at so many in flight. blahpd takes a second for a command that has no neighbour, and slows down at 500.
OURS = ((1, 300), (50, 3000), (500, 3000))
BLAHPD = ((1, 12), (50, 1000), (500, 1000))
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
    again: Burst | None = None  # STATUS of jobs whose ids are confirmed: from memory alone
    ping: Burst | None = None
    version_rate: float = 0.0

    @property
    def cpu_per_1000_s(self) -> float:
        """Seconds of CPU for 1,000 commands, a third of each kind."""
        bursts = (self.submit, self.status, self.cancel)
        return 1000 * sum(burst.cpu_s for burst in bursts) / sum(burst.count for burst in bursts)


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
            again = gahp.burst(STATUS, submit.values, in_flight)
            ping = gahp.burst("BLAH_PING", ["awsbatch"] * count, in_flight)
            begin = time.monotonic()
            for _ in range(count):
                gahp.call(b"VERSION")
            version_rate = count / (time.monotonic() - begin)
            cancel = gahp.burst(CANCEL, submit.values, in_flight)
            rate = count / (taken["at"] - submit.begun)
            return Round(in_flight, submit, status, cancel, rate, again, ping, version_rate)


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
    mine: dict[int, Round] = {}
    theirs: dict[int, Round] = {}
    rows: list[Row] = []
    for in_flight, count in ours_rounds:
        mine[in_flight] = ours(in_flight, count)
        try:
            theirs[in_flight] = blahpd(in_flight, dict(blahpd_rounds)[in_flight])
        except NoPool as error:
            missing.append(f"a: blahpd was not measured: {error}")
    goals = {1: (10.0, 0.0), 50: (5.0, 20.0), 500: (0.0, 0.0)}
    for in_flight, we in mine.items():
        they = theirs.get(in_flight)
        taken_goal, status_goal = goals.get(in_flight, (0.0, 0.0))
        where = f"{in_flight} in flight"
        rows.append(_more(f"jobs taken into Batch, {where}", we.taken_rate, they and they.taken_rate, "/s", taken_goal))
        rows.append(_more(f"submits answered, {where}", we.submit.rate, they and they.submit.rate, "/s", 0))
        rows.append(_more(f"status, {where}", we.status.rate, they and they.status.rate, "/s", status_goal))
        rows += _from_memory(we, where)
        rows.append(_more(f"cancels, {where}", we.cancel.rate, they and they.cancel.rate, "/s", 0))
        goal = 0.1 if in_flight == 50 else 0
        for name, share, times in (("p50", 0.5, 0), ("p99", 0.99, goal)):
            ours_ms, theirs_ms = we.submit.percentile(share), they and they.submit.percentile(share)
            rows.append(_less(f"submit's result, {name}, {where}", ours_ms, theirs_ms, "ms", times))
        goal = 0.5 if in_flight == 50 else 0
        rows.append(_less(f"CPU for 1,000 commands, {where}", we.cpu_per_1000_s, they and they.cpu_per_1000_s, "s", goal))
        memory, their_memory = _memory(we), they and _memory(they)
        rows.append(_less(f"memory, {where}, {we.submit.count} jobs", memory, their_memory, "MB", 0))
    curves = [
        Curve("a", f"{verb}-a-second", who, "in flight", "a second", tuple((n, pick(each)) for n, each in rounds.items()))
        for verb, pick in (
            ("jobs-taken-into-Batch", lambda each: each.taken_rate),
            ("status", lambda each: each.status.rate),
        )
        for who, rounds in (("awsbatch_gahp", mine), ("blahpd", theirs))
        if rounds
    ]
    return Found(rows, curves, missing)


def _from_memory(we: Round, where: str) -> list[Row]:
    """What waits for no disk; VERSION is one at a time, as a command without a result is."""
    if we.again is None or we.ping is None:
        return []
    goal = 5000.0 if we.in_flight >= 50 else 0.0
    words = f"{goal:,.0f} a second" if goal else ""
    rates = {f"status from memory, {where}": we.again.rate, f"pings, {where}": we.ping.rate}
    if we.in_flight == 1:
        return [Row("a", name, rate, "/s") for name, rate in rates.items()]
    rates["VERSION, one after the other"] = we.version_rate
    return [Row("a", name, rate, "/s", goal=words, met=rate >= goal) for name, rate in rates.items()]


def _memory(each: Round) -> float:
    return max(each.submit.memory, each.status.memory, each.cancel.memory) / 1e6


def _more(name: str, ours: float, peer: float | None, unit: str, times: float) -> Row:
    met = ours >= times * peer if times and peer else None
    return Row("a", name, ours, unit, peer, "blahpd" if peer else "", f"{times:g} times blahpd" if times else "", met)


def _less(name: str, ours: float, peer: float | None, unit: str, share: float) -> Row:
    met = ours <= share * peer if share and peer else None
    goal = {0.1: "a tenth of blahpd's", 0.5: "half of blahpd's"}.get(share, "")
    return Row("a", name, ours, unit, peer, "blahpd" if peer else "", goal, met)
