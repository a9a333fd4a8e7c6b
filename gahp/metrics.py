"""What this process counts, and the text that Prometheus and its kin read: OpenMetrics, which is also Prometheus's text format.

Knows names and numbers only. Counting takes a lock and a dictionary's entry; whoever counts need not know whether anybody reads.
docs/metrics.md explains every family of FAMILIES; the text is that of OpenMetrics 1.0 in the part that Prometheus's text
format 0.0.4 shares (no info, no timestamps), since node_exporter's textfile collector reads that.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import math
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PREFIX = "awsbatch_gahp_"
# Seconds: a call to AWS takes some tens of milliseconds; beyond a minute it is given up.
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """One name: what kind of number it is, and by what it is told apart."""

    name: str
    kind: str  # counter, gauge or histogram
    labels: tuple[str, ...]
    about: str


FAMILIES = (
    Family("jobs", "gauge", ("state",), "Jobs in the journal by state; those that are over until they are forgotten"),
    Family("job_moves", "counter", ("state",), "Jobs that came into a state: accepted, submitted, completed and so on"),
    Family("job_holds", "counter", ("code",), "Jobs held, by HoldReasonCode"),
    Family("step_retries", "counter", ("step",), "Steps of jobs that could not be done and are tried again"),
    Family("calls", "counter", ("service", "operation", "outcome"), "Calls to AWS by how they ended"),
    Family("call_duration_seconds", "histogram", ("service", "operation"), "How long calls to AWS took, with repeats of S3's"),
    Family("call_rate_limit", "gauge", ("kind",), "Calls a second to AWS Batch that the host's GAHPs allow themselves"),
    Family("call_rate", "gauge", ("kind",), "Calls a second to AWS Batch that the host's GAHPs made lately"),
    Family("calls_throttled_lately", "gauge", ("kind",), "Calls to AWS Batch refused with 429 in the last minute or so"),
    Family("journal_bytes", "gauge", (), "Size of the journal and its log"),
    Family("start_time_seconds", "gauge", (), "When the GAHP that counted began, in seconds since the epoch"),
    Family("written_time_seconds", "gauge", (), "When these numbers were taken, in seconds since the epoch"),
    Family("up", "gauge", (), "1 while the GAHP works, 0 after it has ended in good order"),
)  # fmt: skip
BY_NAME = {family.name: family for family in FAMILIES}

Sample = tuple[tuple[str, ...], float]
Gauges = Mapping[str, Iterable[Sample]]


class Counts:
    """Counters and histograms by name and label values. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, ...], float] = {}
        self._histograms: dict[tuple[str, ...], list[float]] = {}  # how many in each bucket, beyond all, and the sum

    def add(self, name: str, *labels: str) -> None:
        """One more."""
        key = (name, *labels)
        with self._lock:
            self._counters[key] = self._counters.get(key, 0.0) + 1.0

    def observe(self, name: str, value: float, *labels: str) -> None:
        """One more of this size."""
        key = (name, *labels)
        place = bisect.bisect_left(BUCKETS, value)
        with self._lock:
            row = self._histograms.get(key)
            if row is None:
                row = self._histograms[key] = [0.0] * (len(BUCKETS) + 2)
            row[place] += 1.0
            row[-1] += value

    def dump(self) -> str:
        """All of it as JSON, for another process to `load`."""
        with self._lock:
            value = {
                "counters": [[*key, count] for key, count in self._counters.items()],
                "histograms": [[*key, row] for key, row in self._histograms.items()],
            }
            return json.dumps(value)

    def load(self, text: str) -> None:
        """Take over what another process dumped; what is no such thing is left out."""
        try:
            value: dict[str, Any] = json.loads(text)
            counters = {tuple(map(str, key)): float(count) for *key, count in value["counters"]}
            histograms = {tuple(map(str, key)): [float(one) for one in row] for *key, row in value["histograms"]}
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        with self._lock:
            self._counters = {key: one for key, one in counters.items() if _fits(key, "counter") and 0 <= one < math.inf}
            rows = {key: row for key, row in histograms.items() if _fits(key, "histogram")}
            self._histograms = {key: row for key, row in rows.items() if len(row) == len(BUCKETS) + 2}

    def counters(self, name: str) -> dict[tuple[str, ...], float]:
        """A counter's values by their labels."""
        with self._lock:
            return {key[1:]: count for key, count in self._counters.items() if key[0] == name}

    def histograms(self, name: str) -> dict[tuple[str, ...], list[float]]:
        with self._lock:
            return {key[1:]: list(row) for key, row in self._histograms.items() if key[0] == name}


COUNTS = Counts()
"""Those of this process."""


def render(counts: Counts, gauges: Gauges, user: str) -> str:
    """The text of all families. Every line bears the user's name, so that the files of many users can lie side by side."""
    lines: list[str] = []
    for family in FAMILIES:
        name = PREFIX + family.name
        lines += [f"# TYPE {name} {family.kind}"]
        if family.name.endswith(("_seconds", "_bytes")):
            lines.append(f"# UNIT {name} {family.name.rpartition('_')[2]}")
        lines.append(f"# HELP {name} {family.about}.")
        if family.kind == "gauge":
            lines += [_line(name, family, labels, user, value) for labels, value in sorted(gauges.get(family.name, ()))]
        elif family.kind == "counter":
            found = counts.counters(family.name)
            lines += [_line(f"{name}_total", family, labels, user, value) for labels, value in sorted(found.items())]
        else:
            for labels, row in sorted(counts.histograms(family.name).items()):
                total = 0.0
                for bound, count in zip((*BUCKETS, math.inf), row, strict=False):
                    total += count
                    most = "+Inf" if bound == math.inf else str(float(bound))
                    lines.append(_line(f"{name}_bucket", family, labels, user, total, more=f',le="{most}"'))
                lines.append(_line(f"{name}_sum", family, labels, user, row[-1]))
                lines.append(_line(f"{name}_count", family, labels, user, total))
    return "\n".join([*lines, "# EOF", ""])


def _line(name: str, family: Family, labels: Sequence[str], user: str, value: float, *, more: str = "") -> str:
    pairs = "".join(f',{label}="{_escape(text)}"' for label, text in zip(family.labels, labels, strict=True))
    return f'{name}{{user="{_escape(user)}"{pairs}{more}}} {value!r}'


def _escape(text: str) -> str:
    plain = text.encode("utf-8", "replace").decode()
    return plain.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _fits(key: tuple[str, ...], kind: str) -> bool:
    family = BY_NAME.get(key[0]) if key else None
    return family is not None and family.kind == kind and len(key) == len(family.labels) + 1


# How a call ended

_THROTTLED = re.compile(r"Throttl|TooManyRequests|RequestLimitExceeded|SlowDown")
_CREDENTIALS = re.compile(r"ExpiredToken|RequestExpired|UnrecognizedClient|InvalidClientToken|InvalidAccessKey|SignatureDoes")


def outcome(status: int, code: str) -> str:
    """How a call ended, by HTTP status and AWS's error code: ok, throttled, credentials, failed (in AWS) or refused."""
    if _THROTTLED.search(code) or status == 429:
        return "throttled"
    if _CREDENTIALS.search(code):
        return "credentials"
    if status >= 500:
        return "failed"
    return "refused" if status >= 400 else "ok"
