"""What to do next with a run: a decision from its state and from what HTCondor wants of it, by value."""

from __future__ import annotations

import enum

from gahp.run import RunState, Wanted


class Step(enum.Enum):
    """A step is carried out in the lane of its name."""

    STAGE = "stage"  # inputs and manifest into S3
    SUBMIT = "submit"  # SubmitJob, once
    LOOK_UP = "look up"  # did an earlier SubmitJob arrive?
    TERMINATE = "terminate"  # end the Batch job
    CANCEL = "cancel"  # end the Batch job unless it has started
    COLLECT = "collect"  # outputs onto the submit host
    DROP = "drop"  # removed before Batch had it, or with nothing left to end
    SUSPEND = "suspend"  # held before Batch had it


_NEXT: dict[tuple[Wanted, RunState], Step] = {
    (Wanted.RUN, RunState.ACCEPTED): Step.STAGE,
    (Wanted.RUN, RunState.STAGED): Step.SUBMIT,
    (Wanted.RUN, RunState.SUBMITTING): Step.LOOK_UP,
    (Wanted.RUN, RunState.COLLECTING): Step.COLLECT,
    (Wanted.HOLD, RunState.ACCEPTED): Step.SUSPEND,
    (Wanted.HOLD, RunState.STAGED): Step.SUSPEND,
    (Wanted.HOLD, RunState.SUBMITTING): Step.LOOK_UP,
    (Wanted.HOLD, RunState.SUBMITTED): Step.CANCEL,
    (Wanted.HOLD, RunState.COLLECTING): Step.COLLECT,
    (Wanted.REMOVE, RunState.ACCEPTED): Step.DROP,
    (Wanted.REMOVE, RunState.STAGED): Step.DROP,
    (Wanted.REMOVE, RunState.SUBMITTING): Step.LOOK_UP,
    (Wanted.REMOVE, RunState.SUBMITTED): Step.TERMINATE,
    (Wanted.REMOVE, RunState.COLLECTING): Step.DROP,
    (Wanted.REMOVE, RunState.SUSPENDED): Step.DROP,
}


def next_step(state: RunState, wanted: Wanted, ending_asked: bool, proven: bool = True) -> Step | None:
    """The step to take, or None when there is only to wait for Batch, or nothing at all.

    `ending_asked`: Batch has taken this process's TerminateJob or CancelJob already. `proven`: DescribeJobs has said how its job
    stands; one that only seems to have ended may run, and is ended before it is dropped.
    """
    step = _NEXT.get((wanted, state))
    if step is Step.DROP and state is RunState.COLLECTING and not (ending_asked or proven):
        return Step.TERMINATE
    return None if ending_asked and step in (Step.TERMINATE, Step.CANCEL) else step
