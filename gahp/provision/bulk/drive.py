"""From options to an exit code: puts a bulk run together, and clears up behind it whatever became of it.

Knows the other modules of this package and their order. A run that is killed leaves its state file, and the next one with the
same job file goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gahp.model import Refused, Transient
from gahp.provision.bulk import report
from gahp.provision.bulk.entities import Entities
from gahp.provision.bulk.jobfile import Task
from gahp.provision.bulk.options import Options, read_tasks
from gahp.provision.bulk.run import Limits, Run, Site, end_job, run_key
from gahp.provision.bulk.service import Clients, Cloud, Interrupted, Patience
from gahp.provision.bulk.state import State
from gahp.provision.bulk.uploads import Uploads, parse_url
from gahp.sandbox.store import Store

log = logging.getLogger(__name__)


def prepare(asked: Options, stop: threading.Event, limits: Limits | None = None) -> Callable[[], int]:
    """Check what was asked for without AWS, and give what carries it out. Raises Refused."""
    entities = Entities(asked, stop)
    entities.check()
    if asked.create:
        return entities.create_only
    if asked.delete:
        return entities.delete_only
    entities.require()
    tasks, content = read_tasks(asked.job_files)
    Uploads.distinct([*asked.files, *(path for task in tasks for path in task.inputs)])
    return _Bulk(asked, entities, tasks, content, stop=stop, limits=limits or Limits()).carry_out


class _Bulk:
    """One run with its state, its entities and its output."""

    def __init__(
        self,
        asked: Options,
        entities: Entities,
        tasks: Sequence[Task],
        content: bytes,
        *,
        stop: threading.Event,
        limits: Limits,
    ) -> None:
        self._asked, self._entities, self._tasks, self._stop, self._limits = asked, entities, tasks, stop, limits
        what = (asked.prefix, asked.region, asked.job_definition, asked.compute_environment, asked.job_queue, asked.s3)
        self._digest = hashlib.sha256(repr(what).encode() + content).hexdigest()
        self._problems: list[str] = []

    def carry_out(self) -> int:
        """Exit code 0, 1 or 2. Raises Refused, Transient or Interrupted, with everything cleared up that can be."""
        self._started = time.time()
        clients = Clients(self._asked.region)
        cloud = Cloud(clients)
        state = State(Path(f"{self._asked.job_files[0]}.state"), self._digest)
        keep, run = True, None
        try:
            if state.changed:
                self._end_stale(cloud, state)
            keep = False
            with self._made(clients, state) as site:
                bucket, key = parse_url(site.bucket_url)
                uploads = Uploads(Store(clients("s3"), bucket, key))
                run = Run(
                    *(cloud, uploads, state, site, self._tasks),
                    common=self._asked.files,
                    stop=self._stop,
                    limits=self._limits,
                )
                # Whatever ends this process from here on, its jobs can be taken up again.
                keep = True
                try:
                    run.go()
                finally:
                    keep = run.left_running
                    self._problems += run.problems
                    if not keep:
                        self._clean(uploads, state)
        except (Refused, Transient) as error:
            self._problems.append(str(error))
            raise
        finally:
            # Last: whatever went wrong, with the removal too, stands in the merged log.
            if run is not None:
                self._write(run)
            state.close(remove=not keep)
        if self._problems:
            return 2
        failed = [follow for follow in run.follows if not follow.succeeded]
        log.info("%d tasks, %d failed", len(run.follows), len(failed))
        return 1 if failed else 0

    def _end_stale(self, cloud: Cloud, state: State) -> None:
        """The job file is not what it was when its run was interrupted: the jobs of then are of no use any more."""
        log.warning("The job file or the options have changed since the run was interrupted: its jobs are ended")
        patience = Patience(self._limits.end, self._stop)
        until = time.monotonic() + self._limits.settle
        for name in list(state.sent):
            end_job(cloud, patience, state, name, reason="The job file has changed", until=until)
        state.restart(self._digest)

    @contextlib.contextmanager
    def _made(self, clients: Clients, state: State) -> Iterator[Site]:
        """The site of the run; what has to be made for it goes with it."""
        try:
            yield self._entities.make(clients, state)
        finally:
            if state.made:
                self._problems += self._entities.remove(state.made)

    def _write(self, run: Run) -> None:
        if not self._asked.merge_logs:
            return
        last = report.summary_record(run.follows, self._started, time.time())
        try:
            report.merge(run.follows, self._asked.merge_logs, last, self._problems)
        except Refused as error:
            self._problems.append(str(error))
            log.error("%s", error)

    def _clean(self, uploads: Uploads, state: State) -> None:
        try:
            Patience(self._limits.end, threading.Event())(lambda: uploads.clean(run_key(state.run)))
            if self._entities.makes_bucket(state):
                uploads.clean_files()
        except (Refused, Transient) as error:
            # The results are there: that some small objects are left is no reason to fail a workflow.
            log.warning("Objects of the run are left in S3: %s", error)


__all__ = ["Interrupted", "prepare"]
