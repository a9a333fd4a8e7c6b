"""A run: its row in the journal, the steps that it goes through, and what HTCondor wants of it."""

from __future__ import annotations

import dataclasses
import enum
import functools
import time
from typing import Any

from gahp.model import JobReport


class RunState(enum.Enum):
    """The steps of a run. What may follow what is in MOVES."""

    ACCEPTED = "ACCEPTED"  # in the journal; the gridmanager has, or will get, the id
    STAGED = "STAGED"  # manifest and inputs lie in S3
    SUBMITTING = "SUBMITTING"  # SubmitJob may or may not have reached Batch
    SUBMITTED = "SUBMITTED"  # Batch has it; native_id is known
    COLLECTING = "COLLECTING"  # its container has ended; outputs are being brought back
    SUSPENDED = "SUSPENDED"  # held by BLAH_JOB_HOLD before it started
    REBUILT = "REBUILT"  # found in S3 after the journal was lost; goes on when HTCondor speaks of it
    COMPLETED = "COMPLETED"
    HELD = "HELD"
    REMOVED = "REMOVED"

    @property
    def final(self) -> bool:
        return not MOVES[self]


MOVES: dict[RunState, frozenset[RunState]] = {
    # Straight to SUBMITTING: in a pack.
    RunState.ACCEPTED: frozenset({RunState.STAGED, RunState.SUBMITTING, RunState.SUSPENDED, RunState.HELD, RunState.REMOVED}),
    RunState.STAGED: frozenset({RunState.SUBMITTING, RunState.SUSPENDED, RunState.HELD, RunState.REMOVED}),
    # Back to ACCEPTED: its pack was not made, and it is packed anew with whom it finds then.
    RunState.SUBMITTING: frozenset({RunState.ACCEPTED, RunState.STAGED, RunState.SUBMITTED, RunState.HELD, RunState.REMOVED}),
    RunState.SUBMITTED: frozenset({RunState.COLLECTING, RunState.SUSPENDED, RunState.HELD, RunState.REMOVED}),
    RunState.COLLECTING: frozenset({RunState.SUBMITTED, RunState.COMPLETED, RunState.HELD, RunState.REMOVED}),
    RunState.SUSPENDED: frozenset({RunState.ACCEPTED, RunState.STAGED, RunState.REMOVED}),
    RunState.REBUILT: frozenset({RunState.SUBMITTING, RunState.REMOVED}),
    RunState.COMPLETED: frozenset(),
    RunState.HELD: frozenset(),
    RunState.REMOVED: frozenset(),
}


class Wanted(enum.Enum):
    """What HTCondor wants of a run."""

    RUN = "RUN"
    HOLD = "HOLD"
    REMOVE = "REMOVE"


@dataclasses.dataclass(slots=True)
class Run:
    """One row, without its request: that is read when it is needed (`Journal.request`), so that many runs fit in memory."""

    name: str
    directory: str
    digest: str
    generation: int
    state: RunState = RunState.ACCEPTED
    wanted: Wanted = Wanted.RUN
    submission: int = 0
    native_id: str = ""
    queue: str = ""
    sent: float = 0.0
    started: bool = False
    confirmed: bool = False
    predecessor: str = ""
    report: JobReport | None = None
    owner: str = ""
    created: float = 0.0
    sends: int = 0  # SubmitJob calls that may have arrived, of this submission
    discarded: bool = False  # its objects in S3 are gone
    pack: str = ""  # the name of the array job that it is a child of, and of the manifest that it shares; "": a single job
    child: int = 0  # its index there
    earlier: str = ""  # PACK:CHILD for each array job that it was sent in before and that was not seen, blanks between

    @property
    def job_id(self) -> str:
        """What BLAH_JOB_SUBMIT answered: awsbatch/YYYYMMDD/RUN, the day in UTC."""
        return f"awsbatch/{day(self.created)}/{self.name}"

    @property
    def batch_name(self) -> str:
        """The name of the Batch job: unique for each submission."""
        return self.name if self.submission == 0 else f"{self.name}-{self.submission}"

    @property
    def packs(self) -> list[tuple[str, int]]:
        """Name and index of every array job that it was or may have been sent in, the present one last."""
        earlier = (entry.rpartition(":") for entry in self.earlier.split())
        return [(name, int(index)) for name, _, index in earlier] + [(self.pack, self.child)] * bool(self.pack)

    @property
    def unpacked(self) -> dict[str, Any]:
        """What changes in it when it leaves its pack for good."""
        return {"pack": "", "child": 0, "earlier": " ".join(f"{name}:{child}" for name, child in self.packs)}


def day(when: float) -> str:
    """YYYYMMDD in UTC of seconds since the epoch."""
    return _day(int(when // 86400))


@functools.lru_cache(maxsize=1000)
def _day(number: int) -> str:
    return time.strftime("%Y%m%d", time.gmtime(number * 86400))
