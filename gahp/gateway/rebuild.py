"""Makes a damaged journal anew from what S3 and AWS Batch know of this user's runs.

Every manifest in S3 carries a sealed record of its run, or of each run in the pack. What is found comes back in the state
REBUILT: nothing is done for such a run until HTCondor speaks of it, by its id or by a submit with its JobDirectory; then it is
looked up in Batch by name before anything is sent. So no run begins a second time, and outputs that the user has had long since
are not written again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time

from gahp.batch import Batch
from gahp.database import replace
from gahp.model import JobRequest
from gahp.run import Run
from gahp.sandbox import Sandbox
from gahp.seal import opened
from gahp.statedir import identity_of, note_damage, use

log = logging.getLogger(__name__)


def rebuild(directory: str, sandbox: Sandbox, batch: Batch) -> int:
    """Set the damaged journal in `directory` aside and put a new one in its place; how many runs it has.

    Raises Refused when another GAHP has it open, Transient when S3 or Batch cannot be asked: then it stays damaged.
    """
    lock = use(directory, fcntl.LOCK_EX)
    try:
        note_damage(directory)
        _, secret = identity_of(directory)
        found: dict[str, list[tuple[Run, JobRequest]]] = {}
        for record in sandbox.records():
            made = opened(record.text, secret)
            if made is not None:
                run, request = made
                run.pack, run.child = record.pack, record.child
                run.sent = run.created
                if not run.pack:
                    run.submission = max(run.submission, _last_submission(run, batch))
                found.setdefault(run.name, []).append((run, request))
        runs = [_latest(made, batch) for made in found.values()]
        aside = replace(directory, runs, time.time())
    finally:
        os.close(lock)
    log.error("the journal was damaged and made anew with %d runs from S3 and AWS Batch; the old one is %s", len(runs), aside)
    return len(runs)


def _latest(made: list[tuple[Run, JobRequest]], batch: Batch) -> tuple[Run, JobRequest]:
    """Of the manifests of one run the one that was submitted last; the packs among the others may come late yet."""
    last = max((run.submission, run.sends) for run, _ in made)
    # Manifests of one number were written one after the other because the one before was not sent: Batch knows which one was.
    among = [(run, request) for run, request in made if (run.submission, run.sends) == last]
    among.sort(key=lambda entry: not entry[0].pack)
    known = (entry for entry in among if len(among) > 1 and batch.find(entry[0].pack or entry[0].batch_name, entry[0].queue))
    run, request = next(known, among[-1])
    if run.pack:
        run.sends += 1  # the record is from before it was sent
    run.earlier = " ".join(f"{other.pack}:{other.child}" for other, _ in made if other.pack and other is not run)
    return run, request


def _last_submission(run: Run, batch: Batch) -> int:
    numbers = [0]
    for name, _ in batch.named(f"{run.name}*", run.queue):
        if found := re.fullmatch(re.escape(run.name) + r"-([0-9]{1,6})", name):
            numbers.append(int(found[1]))
    return max(numbers)
