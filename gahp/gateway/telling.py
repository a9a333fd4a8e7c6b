"""What goes into a run's story from Batch and from the run's own record: values in, news out."""

from __future__ import annotations

import dataclasses
from typing import Any

from gahp.batch import BatchAttempt, BatchJob
from gahp.sandbox import Outcome
from gahp.story import News, said

_LEFT_OUT = ("name", "attempts", "past", "described", "size", "counts")
_JOB = tuple(field.name for field in dataclasses.fields(BatchJob) if field.name not in _LEFT_OUT)
_ATTEMPT = tuple(field.name for field in dataclasses.fields(BatchAttempt))


def has_news(before: BatchJob | None, now: BatchJob, *, started: bool) -> bool:
    """Whether a sweep found what is worth writing down. `started`: what the journal knows already."""
    if before is None:
        # Of a run that was taken over: that it runs, and no more, is nothing new.
        return now.described or not (started and now.running)
    return (before.status, before.attempts, before.log_stream) != (now.status, now.attempts, now.log_stream)


def of_batch(job: BatchJob, now: float) -> News:
    """What Batch says of a run's job at `now`, in the form that gahp.story.begin lists."""
    since = {"RUNNING": job.started, "SUCCEEDED": job.stopped, "FAILED": job.stopped}.get(job.status) or now
    seen = [[job.status, round(since, 3)]]
    if job.status in ("SUCCEEDED", "FAILED") and job.started:
        # Between two sweeps it may have run unseen.
        seen.insert(0, ["RUNNING", round(job.started, 3)])
    told = ((name, getattr(job, name)) for name in _JOB)
    batch: dict[str, Any] = {name: value for name, value in told if value or (value == 0 and name == "exit_code")}
    if job.described or job.past:
        # A row of a list says less: what was said before stays.
        batch["attempts"] = [said({name: getattr(attempt, name) for name in _ATTEMPT}) for attempt in job.past]
    return {"seen": seen, "batch": batch}


def of_record(outcome: Outcome | None) -> News:
    """What the run's own exit.json says."""
    return {} if outcome is None else {"record": said(dataclasses.asdict(outcome))}
