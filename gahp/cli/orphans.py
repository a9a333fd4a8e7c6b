"""`condor_awsbatch orphans`: what AWS Batch still runs for this user's journal although nobody wants it; `--end` ends it.

What HTCondor passes over for a day while it asks about others is forgotten. What it may only not have come to yet, as after days
in which the machine was down, is listed as in doubt, and ended by name only.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

from gahp import config
from gahp.batch import Batch, BatchJob
from gahp.journal import Journal, JournalProblem, Run, RunState, Wanted
from gahp.model import Refused
from gahp.site import clients, limiter

SUMMARY = "list, and end, what AWS Batch still runs although nobody wants it"
EXAMPLE = "condor_awsbatch orphans --end"


class Orphan(NamedTuple):
    """A job, why nobody wants it, and whether that is only so as far as can be seen."""

    job: BatchJob
    reason: str
    doubtful: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="end these only, by the first column; also what is in doubt")
    parser.add_argument("--end", action="store_true", help="end them in AWS Batch, but for what is in doubt")
    parser.add_argument(
        "--unasked",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="count a run as forgotten when HTCondor has asked about others for so long and not about it (default: 24)",
    )


def run(options: argparse.Namespace) -> int:
    if options.ids and not options.end:
        raise Refused("To end the jobs that you name add --end; without it all are listed: name none.")
    settings = config.load()
    settings.require()
    client, _ = clients(settings)
    batch = Batch(client, definition=settings.job_definition, limiter=limiter(settings), persistent=True)
    journal = Journal(settings.state_dir)
    try:
        with contextlib.suppress(JournalProblem):
            journal.check()  # the removals that were noted beside it are written before this
        found = list(orphans(journal, batch, (settings.job_queue, *settings.allowed_queues), options.unasked * 3600))
        strangers = set(options.ids) - {orphan.job.id for orphan in found}
        if strangers:
            raise Refused(f"Not among the orphans: {', '.join(sorted(strangers))}. Without --end they are listed.")
        ended = 0
        for orphan in found:
            print(f"{orphan.job.id}  {orphan.job.name}  {orphan.job.status}  {orphan.reason}")
            if options.end and (orphan.job.id in options.ids if options.ids else not orphan.doubtful):
                end(journal, batch, orphan.job)
                ended += 1
    finally:
        journal.close()
    doubtful = sum(orphan.doubtful for orphan in found)
    print(f"{len(found) - doubtful} orphans, {doubtful} in doubt{f', {ended} ended' if options.end else ''}")
    return 0


def orphans(
    journal: Journal, batch: Batch, queues: tuple[str, ...], unasked_s: float, now: float | None = None
) -> Iterator[Orphan]:
    """Jobs that are not over and were submitted from this very journal, and why nobody wants them."""
    unwanted, unasked = journal.unwanted(), journal.unasked()
    before = (time.time() if now is None else now) - unasked_s
    for queue in dict.fromkeys(queues):
        for job, environment in batch.active(queue):
            if environment.get("GAHP_JOURNAL") != journal.identity:
                continue
            known = _run_of(journal, job, environment)
            if reason := _unwanted(known, unwanted, job, environment):
                yield Orphan(job, reason)
            elif known is not None and unasked.get(known.name, -1.0) >= unasked_s:
                hours = f"{unasked[known.name] / 3600:.1f} h"
                yield Orphan(job, f"forgotten: HTCondor has asked about others for {hours} and not about it")
            elif known is not None and known.created < before and (doubt := _doubt(journal, known)):
                yield Orphan(job, f"in doubt: {doubt}", doubtful=True)


def _unwanted(known: Run | None, unwanted: Set[str], job: BatchJob, environment: Mapping[str, str]) -> str:
    """Why the journal says that nobody wants a job; "" if it does not."""
    if known is None:
        return "the journal does not know it"
    if known.state.final:
        return f"its run is over ({known.state.name})"
    if known.name in unwanted:
        return "HTCondor has removed it, and no GAHP of this user has ended it yet"
    if known.state is RunState.SUSPENDED:
        return "its run is held"
    if job.id != known.native_id and _earlier(known, job, environment):
        return f"of an earlier submission: its run goes on as {known.batch_name}"
    if known.native_id and known.native_id != job.id and job.name in (known.batch_name, *dict(known.packs)):
        return f"a second copy: its run goes on as {known.native_id}"
    return ""


def _doubt(journal: Journal, known: Run) -> str:
    """Why it may be that HTCondor has forgotten an old run, or only was not there to ask about it."""
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(known.created))
    if not known.confirmed:
        return f"HTCondor has never asked about it since it was accepted at {since}"
    if not journal.served(known):
        return f"accepted at {since}, and no GAHP lives that HTCondor could ask about it"
    return ""


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
