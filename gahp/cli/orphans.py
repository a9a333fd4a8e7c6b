"""`condor_awsbatch orphans`: what AWS Batch still runs for this user's journal although nobody wants it; `--end` ends it."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Mapping

from gahp import config
from gahp.batch import Batch, BatchJob
from gahp.journal import Journal, Run, RunState, Wanted
from gahp.site import clients, limiter

SUMMARY = "list, and end, what AWS Batch still runs although nobody wants it"
EXAMPLE = "condor_awsbatch orphans --end"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--end", action="store_true", help="end them in AWS Batch")
    parser.add_argument(
        "--unasked",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="count as orphans also runs that HTCondor has not asked about since they were accepted so long ago (default: 24)",
    )


def run(options: argparse.Namespace) -> int:
    settings = config.load()
    settings.require()
    client, _ = clients(settings)
    batch = Batch(client, definition=settings.job_definition, limiter=limiter(settings), persistent=True)
    journal = Journal(settings.state_dir)
    try:
        found = list(orphans(journal, batch, (settings.job_queue, *settings.allowed_queues), options.unasked * 3600))
        for job, reason in found:
            print(f"{job.id}  {job.name}  {job.status}  {reason}")
            if options.end:
                end(journal, batch, job)
    finally:
        journal.close()
    print(f"{len(found)} orphans{', ended' if options.end and found else ''}")
    return 0


def orphans(journal: Journal, batch: Batch, queues: tuple[str, ...], unasked_s: float) -> Iterator[tuple[BatchJob, str]]:
    """Jobs that are not over and were submitted from this very journal, and why nobody wants them."""
    unasked = {run.name for run in journal.unasked(unasked_s)}
    for queue in dict.fromkeys(queues):
        for job, environment in batch.active(queue):
            if environment.get("GAHP_JOURNAL") != journal.identity:
                continue
            known = _run_of(journal, job, environment)
            if known is None:
                yield job, "the journal does not know it"
            elif known.state.final:
                yield job, f"its run is over ({known.state.name})"
            elif known.wanted is Wanted.REMOVE:
                yield job, "HTCondor has removed it, and no GAHP of this user has ended it yet"
            elif known.state is RunState.SUSPENDED:
                yield job, "its run is held"
            elif job.id != known.native_id and _earlier(known, job, environment):
                yield job, f"of an earlier submission: its run goes on as {known.batch_name}"
            elif known.native_id and known.native_id != job.id and job.name in (known.batch_name, *dict(known.packs)):
                yield job, f"a second copy: its run goes on as {known.native_id}"
            elif known.name in unasked:
                since = time.strftime("%Y-%m-%d %H:%M", time.localtime(known.created))
                yield job, f"HTCondor has never asked about it since it was accepted at {since}"


def _earlier(known: Run, job: BatchJob, environment: Mapping[str, str]) -> bool:
    """Whether the job was submitted before its run was held and released. A child of an array says so by another name only."""
    if "GAHP_PACK_URL" in environment:
        return known.submission > 0 and job.name in dict(known.packs) and job.name != known.pack
    return environment.get("GAHP_SUBMISSION", str(known.submission)) != str(known.submission)


def _run_of(journal: Journal, job: BatchJob, environment: Mapping[str, str]) -> Run | None:
    """The run of a Batch job; of a child of an array job by its index, since its environment is the parent's."""
    pack = environment.get("GAHP_PACK_URL", "").rpartition("/")[2]
    if not pack:
        return journal.find(environment.get("GAHP_RUN_URL", "").rpartition("/")[2])
    index = job.id.rpartition(":")[2]
    return journal.member(pack, int(index)) if index.isdigit() else None


def end(journal: Journal, batch: Batch, job: BatchJob) -> None:
    """End the job; its run, if it is live yet, hears of it first, so that no GAHP reports it as failed."""
    parent, _, index = job.id.rpartition(":")
    known = (
        journal.member(job.name, int(index))
        if parent and index.isdigit()
        else journal.find(job.name) or journal.find(re.sub(r"-[0-9]+$", "", job.name))
    )
    if (
        known is not None
        and not known.state.final
        and known.state is not RunState.SUSPENDED
        and job.name in (known.batch_name, known.pack)
        and known.native_id in ("", job.id)
    ):
        journal.ask(known.name, Wanted.REMOVE).result()
    batch.terminate(job.id, "Ended by condor_awsbatch orphans")
