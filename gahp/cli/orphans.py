"""`condor_awsbatch orphans`: what AWS Batch still runs for this user's journal although nobody wants it; `--end` ends it.

What HTCondor passes over for a day while it asks about others is forgotten. What it may only not have come to yet, as after days
in which the machine was down, is listed as in doubt, and ended by name only.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from gahp import config, history
from gahp.batch import Batch, BatchJob
from gahp.cli.explain import printable
from gahp.journal import Journal, JournalProblem
from gahp.model import Refused
from gahp.run import Run, RunState, Wanted
from gahp.sandbox import Sandbox
from gahp.site import clients, limiter

SUMMARY = "list, and end, what AWS Batch still runs although nobody wants it"
EXAMPLE = "condor_awsbatch orphans --end"
LEAST_H = 1.0  # so that it takes several periods of what a GAHP counts


class Orphan(NamedTuple):
    """A job, the name of its run ("" if that is not known), why nobody wants it, and whether that is only so as far as can be
    seen."""

    job: BatchJob
    run: str
    reason: str
    doubtful: bool = False

    def __str__(self) -> str:
        run = self.run or "-"
        columns = (self.job.id, history.condor_id(self.run) or run, run, self.job.status, self.reason)
        return printable("  ".join(columns))

    @property
    def names(self) -> set[str]:
        """What a person may call it."""
        return {self.job.id, self.run, history.condor_id(self.run)} - {""}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ids", nargs="*", metavar="ID", help="end these only, by one of the first three columns; also what is in doubt"
    )
    parser.add_argument("--end", action="store_true", help="end them in AWS Batch, but for what is in doubt")
    parser.add_argument(
        "--unasked",
        type=_hours,
        default=24.0,
        metavar="HOURS",
        help="count a run as forgotten when HTCondor has asked about others for so long, not about it (default: 24; at least 1)",
    )


def _hours(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(hours := float(text)) and hours >= LEAST_H:
            return hours
    raise argparse.ArgumentTypeError(f"{text!r} is too short or no number of hours: use {LEAST_H:g} or more")


def run(options: argparse.Namespace) -> int:
    if options.ids and not options.end:
        raise Refused("To end the jobs that you name add --end; without it all are listed: name none.")
    settings = config.load()
    settings.require()
    if not history.exists(settings.state_dir):
        raise Refused(
            f"There is no journal in {settings.state_dir}: run this as the user whose jobs they are, or set AWSBATCH_STATE_DIR."
        )
    client, s3, _ = clients(settings)
    batch = Batch(client, definition=settings.job_definition, limiter=limiter(settings), persistent=True)
    sandbox = Sandbox(s3, settings.bucket, settings.prefix, 1)
    journal = Journal(settings.state_dir)
    try:
        with contextlib.suppress(JournalProblem):
            journal.check()  # the removals that were noted beside it are written before this
        queues = (settings.job_queue, *settings.allowed_queues)  # one may be there by name and by ARN
        listed = orphans(journal, batch, queues, options.unasked * 3600, sandbox.claimant)
        found = list({each.job.id: each for each in listed}.values())
        chosen = named(options.ids, found, options.unasked)
        ended = 0
        for orphan in found:
            print(orphan)
            if options.end and (orphan.job.id in chosen if options.ids else not orphan.doubtful):
                end(journal, batch, orphan.job)
                ended += 1
    finally:
        journal.close()
        sandbox.close()
    doubtful = sum(orphan.doubtful for orphan in found)
    sure = len(found) - doubtful
    print(f"{sure} orphan{'' if sure == 1 else 's'}, {doubtful} in doubt{f', {ended} ended' if options.end else ''}")
    return 0


def named(words: Sequence[str], found: Sequence[Orphan], hours: float) -> set[str]:
    """The ids in AWS Batch of those that `words` mean. Raises Refused for a word that means none, or more than one."""
    meant = {word: {orphan.job.id for orphan in found if word in orphan.names} for word in words}
    if strangers := sorted(word for word, ids in meant.items() if not ids):
        raise Refused(
            f"Not among what is listed without --end: {', '.join(strangers)}. Nothing was ended; what HTCondor may have"
            f" forgotten is listed after {hours:g} h (--unasked)."
        )
    for word, ids in meant.items():
        if len(ids) > 1:
            raise Refused(f"{word} means {len(ids)} jobs, nothing was ended: name the one by its id, {' or '.join(sorted(ids))}.")
    return set().union(*meant.values())


def orphans(
    journal: Journal,
    batch: Batch,
    queues: tuple[str, ...],
    unasked_s: float,
    claimant: Callable[[str, int], str],
    *,
    now: float | None = None,
) -> Iterator[Orphan]:
    """Jobs that are not over and were submitted from this very journal, and why nobody wants them. `claimant`: as Sandbox has
    it."""
    unwanted, unasked = journal.unwanted(), journal.unasked()
    before = (time.time() if now is None else now) - unasked_s
    for queue in dict.fromkeys(queues):
        for job, environment in batch.active(queue):
            if environment.get("GAHP_JOURNAL") != journal.identity:
                continue
            known = _run_of(journal, job, environment)
            name = known.name if known is not None else _run_name(environment)
            if reason := _unwanted(known, unwanted, job, environment):
                yield Orphan(job, name, reason)
            elif known is not None and _is_copy(known, job):
                # The one that has the claim runs the program: the run goes on as that, once its own job has found the claim.
                if claimant(known.name, known.submission) != job.id:
                    yield Orphan(job, name, f"a second copy: its run goes on as {known.native_id}")
            elif known is not None and name in unasked and unasked[name] >= unasked_s:
                hours = f"{unasked[name] / 3600:.1f} h"
                yield Orphan(job, name, f"forgotten: HTCondor has asked about others for {hours} and not about it")
            elif known is not None and known.created < before and (doubt := _doubt(journal, known)):
                yield Orphan(job, name, f"in doubt: {doubt}", doubtful=True)


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
    return ""


def _is_copy(known: Run, job: BatchJob) -> bool:
    """Whether the job is of the submission that its run follows by another one."""
    return known.native_id not in ("", job.id) and job.name in (known.batch_name, *dict(known.packs))


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
        return journal.find(_run_name(environment))
    index = job.id.rpartition(":")[2]
    return journal.member(pack, int(index)) if index.isdigit() else None


def _run_name(environment: Mapping[str, str]) -> str:
    """The empty text for a child of an array job."""
    return environment.get("GAHP_RUN_URL", "").rpartition("/")[2]


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
