"""Faults on demand: which call goes wrong, and how; which job is held back. Seeded, so that a test can be repeated.

Decides only; the front and the engine carry it out. A fault is a JSON object; the keys are those of `Fault`.
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

KINDS = ("throttle", "lost_reply", "error", "delay", "reset", "expired", "stuck", "list_lag", "pull_error", "entity")


@dataclasses.dataclass(slots=True)
class Fault:
    """One fault. Of calls: `action` is a name or pattern, `SubmitJob`, `s3:*`, `batch:Describe*` or `*`.

    throttle     calls beyond `per_second` are refused as throttled
    lost_reply   the call is carried out, and the connection closed without an answer
    error        `status`, `code` and `message` instead of the call
    delay        the call waits for `seconds`
    reset        the connection is reset instead of the call
    expired      the credentials have expired, for `seconds` from now (0: until cleared)
    Of jobs: `queue` and `name` are patterns of the queue's and the job's name.
    stuck        the job stays RUNNABLE
    pull_error   the attempt fails with `message` as its container's reason
    list_lag     ListJobs does not show jobs younger than `seconds`
    Of compute environments and job queues: `name` is a pattern of theirs.
    entity       its status is `code`, such as CREATING or INVALID, with `message` as the reason
    Each strikes with `probability`, at most `count` times (None: no limit), and lets the first `skip` chances pass.
    """

    kind: str
    action: str = "*"
    probability: float = 1.0
    count: int | None = None
    skip: int = 0
    per_second: float = 0.0
    seconds: float = 0.0
    status: int = 500
    code: str = ""
    message: str = ""
    queue: str = "*"
    name: str = "*"
    since: float = dataclasses.field(default_factory=time.monotonic, compare=False)

    def concerns(self, service: str, action: str) -> bool:
        return fnmatch.fnmatchcase(action, self.action) or fnmatch.fnmatchcase(f"{service}:{action}", self.action)


def parse(fields: Mapping[str, Any]) -> Fault:
    """A Fault from JSON. Raises ValueError with a sentence."""
    known = {field.name: field for field in dataclasses.fields(Fault) if field.name != "since"}
    for key in fields:
        if key not in known:
            raise ValueError(f"A fault has no '{key}': it has {', '.join(known)}")
    if fields.get("kind") not in KINDS:
        raise ValueError(f"'{fields.get('kind')}' is no kind of fault: use one of {', '.join(KINDS)}")
    return Fault(**fields)


@dataclasses.dataclass(slots=True)
class Verdict:
    """What happens to one call. `refusal` is a status, a code (empty: as the service words it) and a message."""

    delay_s: float = 0.0
    refusal: tuple[int, str, str] | None = None
    throttled: bool = False
    expired: bool = False
    reset: bool = False
    lose_reply: bool = False


class Faults:
    """The faults now in force."""

    def __init__(self, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._faults: list[Fault] = []
        self._recent: dict[int, collections.deque[float]] = {}
        self._random = random.Random(seed)  # noqa: S311  repeatable on purpose
        self._clock = clock
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            fault.since = self._clock()
            self._faults.append(fault)

    def clear(self, kind: str = "") -> None:
        """End all faults, or those of one kind."""
        with self._lock:
            self._faults = [fault for fault in self._faults if kind and fault.kind != kind]

    def seed(self, number: int) -> None:
        with self._lock:
            self._random.seed(number)

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [dataclasses.asdict(fault) for fault in self._faults]

    def judge(self, service: str, action: str) -> Verdict:
        """What happens to this call. Asking counts as a chance."""
        verdict = Verdict()
        with self._lock:
            for fault in self._faults:
                if not fault.concerns(service, action):
                    continue
                if fault.kind == "throttle":
                    verdict.throttled |= self._too_fast(fault)
                elif fault.kind == "expired":
                    verdict.expired |= not fault.seconds or self._clock() - fault.since < fault.seconds
                elif fault.kind in ("delay", "error", "reset", "lost_reply") and self._strikes(fault):
                    self._apply(fault, verdict)
        return verdict

    @staticmethod
    def _apply(fault: Fault, verdict: Verdict) -> None:
        if fault.kind == "delay":
            verdict.delay_s += fault.seconds
        elif fault.kind == "error":
            verdict.refusal = (fault.status, fault.code, fault.message or "An internal error occurred.")
        elif fault.kind == "reset":
            verdict.reset = True
        else:
            verdict.lose_reply = True

    def stuck(self, queue: str, name: str) -> bool:
        with self._lock:
            return any(self._holds(fault, "stuck", queue, name) for fault in self._faults)

    def pull_error(self, name: str) -> str:
        """The reason why the image of this job cannot be pulled, or ""."""
        with self._lock:
            for fault in self._faults:
                if self._holds(fault, "pull_error", "*", name) and self._strikes(fault):
                    return fault.message or "CannotPullContainerError: Error response from daemon: manifest unknown"
            return ""

    def entity_status(self, name: str) -> tuple[str, str] | None:
        """The status and the reason that this compute environment or job queue shows instead of its own."""
        with self._lock:
            for fault in self._faults:
                if self._holds(fault, "entity", "*", name) and self._strikes(fault):
                    return fault.code, fault.message
            return None

    def list_lag_s(self) -> float:
        with self._lock:
            return max((fault.seconds for fault in self._faults if fault.kind == "list_lag"), default=0.0)

    @staticmethod
    def _holds(fault: Fault, kind: str, queue: str, name: str) -> bool:
        matches = fnmatch.fnmatchcase(name, fault.name) and (queue == "*" or fnmatch.fnmatchcase(queue, fault.queue))
        return fault.kind == kind and matches

    def _strikes(self, fault: Fault) -> bool:
        if fault.skip:
            fault.skip -= 1
            return False
        if fault.count == 0 or self._random.random() >= fault.probability:
            return False
        if fault.count is not None:
            fault.count -= 1
        return True

    def _too_fast(self, fault: Fault) -> bool:
        """Whether this call is beyond `per_second` within the last second. Refused calls do not use the rate up."""
        now = self._clock()
        recent = self._recent.setdefault(id(fault), collections.deque())
        while recent and now - recent[0] >= 1.0:
            recent.popleft()
        if len(recent) >= fault.per_second:
            return True
        recent.append(now)
        return False
