"""From the histories of jobs to the figures of a report: phases, states over time, retries, memory, cost. Values in, values out.

Times are seconds since the epoch, durations seconds, memory MiB, unless a name says otherwise. What nobody recorded is None or
0.0, and is left out of a sum rather than guessed.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence

from gahp.history import Attempt, History
from gahp.report.prices import Prices, cost
from gahp.run import RunState

PHASES = ("staging", "waiting", "starting", "running", "collecting")
ABOUT = {
    "staging": "inputs into S3, and SubmitJob",
    "waiting": "in AWS Batch's queue, for a host",
    "starting": "the host pulls the image and starts the container",
    "running": "the container runs: inputs fetched, the program, outputs sent",
    "collecting": "outputs are brought back to the submit host",
}
ENDINGS = ("succeeded", "failed", "held", "removed", "live")
# More rows than this would make the page slow and large; the figures are always of all jobs.
MOST_ROWS = 10_000
_BINS = 240
# What a job is advised to ask for: a quarter more than the most that any of its kind used, in steps that are easy to read.
_ROOM = 1.25
_STEP_MIB = 64
_LEAST_MIB = 128
_WORTH_IT = 0.9  # asking for a tenth less is not worth a change


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A job was in `phase` (a place in PHASES) from `begin` to `end`; `attempt` counts from 1, 0 before the first."""

    phase: int
    begin: float
    end: float
    attempt: int


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One job with its phases. `cost` is None without a price; `wasted_s`: what attempts ran that had to be started again;
    `sends`: the SubmitJob calls that were made for it, of an array's calls its part."""

    history: History
    spans: tuple[Span, ...]
    ending: str
    running_s: float
    wasted_s: float
    cost: float | None
    sends: float

    @property
    def label(self) -> str:
        """What a person calls it: its DAG node, else its id in HTCondor, else the run's name."""
        return self.history.dag_node or self.history.condor_id or self.history.name

    @property
    def kind(self) -> str:
        """The program's file name: jobs of one program are compared with each other."""
        return self.history.executable.rpartition("/")[2] or "(not recorded)"

    @property
    def whole_s(self) -> float:
        return self.spans[-1].end - self.spans[0].begin if self.spans else 0.0

    def seconds(self, phase: int) -> float:
        return sum(span.end - span.begin for span in self.spans if span.phase == phase)


@dataclasses.dataclass(frozen=True, slots=True)
class PhaseFigures:
    """Where the time of all jobs went: the sum, and for one job the middle, the 95th of a hundred, and the most."""

    phase: str
    total_s: float
    median_s: float
    p95_s: float
    most_s: float
    slowest: str


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Jobs of one program that asked for the same. `advised_mib` is None when it is well as it is, or nothing was measured."""

    kind: str
    asked_mib: int | None
    jobs: int
    measured: int
    most_mib: int | None
    median_mib: int | None
    killed: int
    advised_mib: int | None
    saved_gb_hours: float
    saved_cost: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """All figures. `series` has one row a phase: how many jobs were in it, averaged over each of the equal parts of the time."""

    made: float
    begin: float
    end: float
    jobs: tuple[Job, ...]
    endings: Mapping[str, int]
    series: tuple[tuple[float, ...], ...]
    phases: tuple[PhaseFigures, ...]
    reasons: tuple[tuple[str, int], ...]
    restarted: int
    restarts: int
    memory: tuple[Memory, ...]
    cpu_hours: float
    gb_hours: float
    cpu_used: float | None
    currency: str
    cost: float | None
    wasted_cost: float | None
    unpriced: tuple[str, ...]
    sends: int
    calls: Mapping[str, float]

    @property
    def bin_s(self) -> float:
        return (self.end - self.begin) / _BINS if self.end > self.begin else 0.0


def examine(
    histories: Iterable[History], now: float, prices: Prices | None = None, calls: Mapping[str, float] | None = None
) -> Report:
    """The figures of these jobs at `now`. `calls`: calls to AWS that a GAHP counted, by their name."""
    histories = list(histories)
    arrays = _arrays(histories)
    jobs = tuple(_job(history, now, prices, arrays[_array_of(history)]) for history in histories)
    spans = [span for job in jobs for span in job.spans]
    begin = min((span.begin for span in spans), default=now)
    end = max((span.end for span in spans), default=now)
    costs = [job.cost for job in jobs if job.cost is not None]
    hours = [(job.history, job.running_s / 3600) for job in jobs]
    return Report(
        made=now,
        begin=begin,
        end=end,
        jobs=jobs,
        endings={ending: sum(job.ending == ending for job in jobs) for ending in ENDINGS},
        series=_series(spans, begin, end),
        phases=tuple(_phase(number, jobs) for number in range(len(PHASES))),
        reasons=_reasons(jobs),
        restarted=sum(job.history.restarts > 0 for job in jobs),
        restarts=sum(job.history.restarts for job in jobs),
        memory=_memory(jobs, prices),
        cpu_hours=sum(one * (history.cpus or 0) for history, one in hours),
        gb_hours=sum(one * (history.memory_mib or 0) / 1024 for history, one in hours),
        cpu_used=_cpu_used(jobs),
        currency=prices.currency if prices else "",
        cost=sum(costs) if prices else None,
        wasted_cost=sum(_priced(job.history, job.wasted_s, prices) or 0.0 for job in jobs) if prices else None,
        unpriced=tuple(sorted({job.history.queue for job in jobs if job.cost is None})) if prices else (),
        sends=sum(max(sends) for sends in arrays.values()),
        calls=calls or {},
    )


def _array_of(history: History) -> str:
    """What stands for the SubmitJob calls of this job: the array that it is a child of, else it alone."""
    parent, colon, _ = history.native_id.partition(":")
    return parent if colon else history.name


def _arrays(histories: Iterable[History]) -> dict[str, list[int]]:
    """How often each job of an array was sent. One call sends them all: the most of them is the number of calls."""
    arrays: dict[str, list[int]] = {}
    for history in histories:
        arrays.setdefault(_array_of(history), []).append(history.sends)
    return arrays


# One job


def _job(history: History, now: float, prices: Prices | None, sends: Sequence[int]) -> Job:
    until = 0.0 if history.final else now
    ran = [max(0.0, (one.stopped or until) - one.started) for one in history.attempts if one.started]
    return Job(
        history=history,
        spans=spans_of(history, now),
        ending=ending_of(history),
        running_s=sum(ran),
        wasted_s=sum(ran[:-1]),
        cost=_priced(history, sum(ran), prices),
        sends=max(sends) / len(sends),
    )


def ending_of(history: History) -> str:
    """One of ENDINGS."""
    if history.state is RunState.COMPLETED:
        return "succeeded" if history.exit_code == 0 and history.exit_signal is None else "failed"
    return {RunState.HELD: "held", RunState.REMOVED: "removed"}.get(history.state, "live")


def spans_of(history: History, now: float) -> tuple[Span, ...]:
    """The job's phases one after another without a gap; the last ends at its end, or at `now`."""
    end = max(history.accepted, history.over or now)
    marks = sorted(_marks(history), key=lambda mark: mark[0])
    spans: list[Span] = []
    for number, (told, phase, attempt) in enumerate(marks):
        begin = min(max(told, history.accepted), end)
        until = min(max(marks[number + 1][0], begin), end) if number + 1 < len(marks) else end
        if until > begin:
            if spans and (spans[-1].phase, spans[-1].attempt) == (phase, attempt):
                spans[-1] = dataclasses.replace(spans[-1], end=until)
            else:
                spans.append(Span(phase, begin, until, attempt))
    return tuple(spans) or (Span(0, history.accepted, end, 0),)


def _marks(history: History) -> Iterable[tuple[float, int, int]]:
    """When a phase began, which, and of which attempt. Clocks differ: AWS's times may lie before or behind our own."""
    staging, waiting, starting, running, collecting = range(len(PHASES))
    yield history.accepted, staging, 0
    handed = history.created or history.submitted
    if not handed and not history.attempts:
        return
    if handed:
        yield handed, waiting, 1
    last = Attempt()
    for number, attempt in enumerate(history.attempts, 1):
        if number > 1:
            yield last.stopped or attempt.waited or attempt.started, waiting, number
        if attempt.starting:
            yield attempt.starting, starting, number
        if attempt.started:
            yield attempt.started, running, number
        last = attempt
    done = last.stopped or history.stopped
    if done and (history.final or history.state is RunState.COLLECTING or history.status in ("SUCCEEDED", "FAILED")):
        yield done, collecting, len(history.attempts)
    elif not history.final and history.status == "STARTING":
        if last.stopped:
            yield last.stopped, waiting, len(history.attempts) + 1
        yield history.since, starting, len(history.attempts) + 1
    elif not history.final and last.stopped:
        yield last.stopped, waiting, len(history.attempts) + 1


def _priced(history: History, seconds: float, prices: Prices | None) -> float | None:
    price = prices.of(history.queue) if prices else None
    return None if price is None else cost(price, seconds / 3600, history.cpus, history.memory_mib, history.gpus)


# All of them


def _series(spans: Sequence[Span], begin: float, end: float) -> tuple[tuple[float, ...], ...]:
    """Averages over _BINS equal parts, exact whatever the number of jobs: each span adds its ends, the rest is a running sum."""
    width = (end - begin) / _BINS
    if width <= 0:
        return tuple((0.0,) * _BINS for _ in PHASES)
    steps = [[0.0] * (_BINS + 2) for _ in PHASES]
    parts = [[0.0] * (_BINS + 2) for _ in PHASES]
    for span in spans:
        low, high = (span.begin - begin) / width, (span.end - begin) / width
        first, last = min(int(low), _BINS - 1), min(int(high), _BINS - 1)
        if first == last:
            parts[span.phase][first] += high - low
            continue
        parts[span.phase][first] += first + 1 - low
        parts[span.phase][last] += high - last
        steps[span.phase][first + 1] += 1
        steps[span.phase][last] -= 1
    series = []
    for phase in range(len(PHASES)):
        whole, row = 0.0, []
        for number in range(_BINS):
            whole += steps[phase][number]
            row.append(round(whole + parts[phase][number], 4))
        series.append(tuple(row))
    return tuple(series)


def _phase(number: int, jobs: Sequence[Job]) -> PhaseFigures:
    found = sorted(((job.seconds(number), job.label) for job in jobs), key=lambda pair: pair[0])
    seconds = [one for one, _ in found]
    return PhaseFigures(
        phase=PHASES[number],
        total_s=sum(seconds),
        median_s=statistics.median(seconds) if seconds else 0.0,
        p95_s=seconds[max(0, math.ceil(len(seconds) * 0.95) - 1)] if seconds else 0.0,
        most_s=seconds[-1] if seconds else 0.0,
        slowest=found[-1][1] if seconds and seconds[-1] > 0 else "",
    )


def _reasons(jobs: Sequence[Job]) -> tuple[tuple[str, int], ...]:
    """Why attempts were followed by another one, most frequent first; what names one host only counts for all hosts."""
    count: dict[str, int] = {}
    for job in jobs:
        for attempt in job.history.attempts[:-1]:
            told = attempt.status_reason or attempt.container_reason or "no reason given"
            reason = re.sub(r"\bi-[0-9a-f]{6,17}\b|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "…", told)
            count[reason] = count.get(reason, 0) + 1
    return tuple(sorted(count.items(), key=lambda pair: (-pair[1], pair[0])))


def _memory(jobs: Sequence[Job], prices: Prices | None) -> tuple[Memory, ...]:
    groups: dict[tuple[str, int | None], list[Job]] = {}
    for job in jobs:
        if job.running_s > 0 or job.history.peak_memory_mib is not None:
            groups.setdefault((job.kind, job.history.memory_mib), []).append(job)
    found = [_memory_of(kind, asked, group, prices) for (kind, asked), group in groups.items()]
    return tuple(sorted(found, key=lambda row: (-row.saved_gb_hours, row.kind, row.asked_mib or 0)))


def _memory_of(kind: str, asked: int | None, jobs: list[Job], prices: Prices | None) -> Memory:
    peaks = [job.history.peak_memory_mib for job in jobs if job.history.peak_memory_mib is not None]
    killed = sum(job.history.out_of_memory for job in jobs)
    most = max(peaks, default=None)
    advised = None
    if killed and asked:
        advised = _rounded(max(asked, most or 0) * 1.5)
    elif asked and most is not None and (fits := _rounded(most * _ROOM)) < asked * _WORTH_IT:
        advised = fits
    saved_hours, saved_cost = 0.0, 0.0
    if advised is not None and asked and advised < asked:
        for job in jobs:
            saved_hours += job.running_s / 3600 * (asked - advised) / 1024
            price = prices.of(job.history.queue) if prices else None
            saved_cost += cost(price, job.running_s / 3600, 0, asked - advised, 0) if price else 0.0
    return Memory(
        kind=kind,
        asked_mib=asked,
        jobs=len(jobs),
        measured=len(peaks),
        most_mib=most,
        median_mib=round(statistics.median(peaks)) if peaks else None,
        killed=killed,
        advised_mib=advised,
        saved_gb_hours=saved_hours,
        saved_cost=saved_cost if prices else None,
    )


def _rounded(mib: float) -> int:
    return max(_LEAST_MIB, math.ceil(mib / _STEP_MIB) * _STEP_MIB)


def _cpu_used(jobs: Sequence[Job]) -> float | None:
    """The part of the vCPU time asked for that the programs used, of the jobs that tell."""
    used = had = 0.0
    for job in jobs:
        last = job.history.attempts[-1] if job.history.attempts else Attempt()
        if job.history.user_cpu_s is not None and job.history.cpus and last.started and last.stopped > last.started:
            used += job.history.user_cpu_s + (job.history.system_cpu_s or 0.0)
            had += (last.stopped - last.started) * job.history.cpus
    return used / had if had else None
