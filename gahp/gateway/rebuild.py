"""Makes a damaged journal anew from what S3 and AWS Batch know of this user's runs.

Every manifest in S3 carries a sealed record of its run. What is found comes back in the state REBUILT: nothing is done for such a
run until HTCondor speaks of it, by its id or by a submit with its JobDirectory; then it is looked up in Batch by name before
anything is sent. So no run begins a second time, and outputs that the user has had long since are not written again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time

from gahp.batch import Batch
from gahp.journal import Run, identity_of, note_damage, opened, replace, use
from gahp.sandbox import Sandbox

log = logging.getLogger(__name__)


def rebuild(directory: str, sandbox: Sandbox, batch: Batch) -> int:
    """Set the damaged journal in `directory` aside and put a new one in its place; how many runs it has.

    Raises Refused when another GAHP has it open, Transient when S3 or Batch cannot be asked: then it stays damaged.
    """
    lock = use(directory, fcntl.LOCK_EX)
    try:
        note_damage(directory)
        _, secret = identity_of(directory)
        runs = []
        for record in sandbox.records():
            found = opened(record, secret)
            if found is not None:
                run, request = found
                run.submission = _last_submission(run, batch)
                run.sent = run.created
                runs.append((run, request))
        aside = replace(directory, runs, time.time())
    finally:
        os.close(lock)
    log.error("the journal was damaged and made anew with %d runs from S3 and AWS Batch; the old one is %s", len(runs), aside)
    return len(runs)


def _last_submission(run: Run, batch: Batch) -> int:
    numbers = [0]
    for name, _ in batch.named(f"{run.name}*", run.queue):
        if found := re.fullmatch(re.escape(run.name) + r"-([0-9]{1,6})", name):
            numbers.append(int(found[1]))
    return max(numbers)
