"""The verbs of the GAHP: submit, status, cancel, hold, resume, refresh proxy, ping; each request gets a future.

Knows what a replayed submit is and who may be asked about which job; the way of a run from step to step is in runs.
"""

from __future__ import annotations

import base64
import collections
import concurrent.futures
import contextlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from gahp.batch import Batch, CredentialsProblem, EventQueue, check_resources, choose_queue
from gahp.config import Config
from gahp.gateway.live import report_of
from gahp.gateway.runs import Runs
from gahp.journal import Conflict, Journal, JournalProblem
from gahp.lanes import Lane, after, backoff
from gahp.model import JobReport, JobRequest, Refused, Transient
from gahp.run import Run, RunState, Wanted
from gahp.sandbox import Sandbox, check
from gahp.statedir import note_removal

log = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")

# How long a BLAH_PING's answer is good for: a burst of them costs AWS one look. A bad one is looked at again sooner.
_PING_GOOD_S = 60.0
_PING_BAD_S = 5.0
_PING_PATIENCE_S = 20.0
_ASK_EVERY_S = 0.5
_ASK_FOR_S = 240.0
_PATIENCE_S = 2.0  # with a disk that takes no write
_RECORD_FOR_S = 240.0  # a new run, whose submit has 300 s


class Gateway:
    """All verbs return futures that raise Refused or Transient with a sentence. Made by `gahp.site`; `start` comes first."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        sandbox: Sandbox,
        batch: Batch,
        *,
        events: EventQueue | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self._config = config
        self._journal = journal
        self._sandbox = sandbox
        self._batch = batch
        self._events = events
        self._clock = clock
        self._accept = Lane("accept", 4)  # they compute, mostly: more would only take turns from the thread that talks
        self._proxies = Lane("proxy", 4)
        self._check = Lane("ping", 1)
        self._pinging = threading.Lock()
        self._ping: Future[None] | None = None
        self._ping_until = 0.0
        # A disk that takes no confirmation now takes it when it can; the client need not wait for that.
        self._confirming = Patience(self._accept, _PATIENCE_S)
        # The gridmanager waits for 300 s. What is wanted is in the journal by then, and is carried out all the same.
        self._asking = Patience(self._accept, _ASK_FOR_S)
        self._runs = Runs(
            journal,
            sandbox,
            batch,
            poll_interval_s=config.poll_interval,
            lookup_settle_s=config.lookup_settle,
            keep_runs_s=config.keep_runs * 86400,
            keep_sandbox_s=config.keep_sandbox * 3600,
            transfer_threads=config.transfer_threads,
            submit_threads=config.submit_threads,
            pack_size=config.pack_size,
            pack_quiet_s=config.pack_quiet / 1000,
            pack_wait_s=config.pack_wait / 1000,
            pack_longest_s=config.pack_longest / 1000,
            clock=clock,
        )

    def start(self) -> None:
        """Take over what earlier GAHPs of this user left unfinished."""
        self._runs.start()
        if self._events:
            self._events.start(self._runs.follower.hear, self._runs.follower.flowing)

    def stop(self) -> None:
        """Begin nothing more; what is unfinished is in the journal for the next GAHP."""
        self._accept.close()
        self._proxies.close()
        self._check.close()
        if self._events:
            self._events.close()
        self._runs.close()

    def close(self) -> None:
        """Stop, and let other GAHPs have the runs."""
        self.stop()
        self._journal.close()

    def submit(self, request: JobRequest) -> Future[str]:
        """Check the request, record the run, answer with its job id. Staging and SubmitJob follow by themselves."""
        accepted = self._in_lane(self._accept, lambda: self._accepted(request), until=time.monotonic() + _RECORD_FOR_S)
        self._runs.expect(accepted)
        return accepted

    def at_once(self, job_id: str) -> JobReport | None:
        """How a job stands, where it is live here and its id is confirmed; None: ask `status`."""
        run, report = self._runs.lives.stands(job_id.rpartition("/")[2])
        known = run is not None and run.confirmed and run.job_id == job_id and run.state is not RunState.REBUILT
        return report if known else None

    def status(self, job_id: str) -> Future[JobReport]:
        """How a job stands, from memory where it is live here, else from the journal. The first one confirms the id."""
        run, report = self._runs.lives.stands(job_id.rpartition("/")[2])
        if run is None or report is None or run.job_id != job_id or run.state is RunState.REBUILT:
            return self._in_lane(self._accept, lambda: self._look(job_id))
        if run.confirmed:
            done: Future[JobReport] = Future()
            done.set_result(report)
            return done
        # On disk before the answer, as in _known, but without a thread that waits for it.
        confirmed = _then(self._journal.update(run, confirmed=True), lambda _: report)
        self._confirming.wait_for(confirmed, lambda: confirmed.set_result(report))
        return confirmed

    def cancel(self, job_id: str) -> Future[None]:
        """Have a job end. The future ends when AWS Batch has taken it, or never had the job; a job that is over is no error."""
        return self._want(job_id, Wanted.REMOVE)

    def hold(self, job_id: str) -> Future[None]:
        """End a job's stay in AWS Batch and keep its run. Only for one that has not started; else Refused."""
        return self._want(job_id, Wanted.HOLD)

    def resume(self, job_id: str) -> Future[None]:
        """Submit a held job again, under the same id."""
        return self._want(job_id, Wanted.RUN)

    def refresh_proxy(self, job_id: str, path: str) -> Future[None]:
        """Send a newer X.509 proxy after a job."""

        def refresh() -> None:
            run = self._known(job_id)
            if not run.state.final:
                self._sandbox.refresh_proxy(run.name, path)

        return self._in_lane(self._proxies, refresh)

    def ping(self) -> Future[None]:
        """Whether jobs can be run now: configuration, queue, job definition, bucket. One look serves all that ask in a while."""
        with self._pinging:
            if self._ping is None or (self._ping.done() and time.monotonic() >= self._ping_until):
                self._ping = self._in_lane(self._check, self._look_around)
                after(self._ping, self._pinged)
            return self._ping

    def _pinged(self, ping: Future[None]) -> None:
        self._ping_until = time.monotonic() + (_PING_BAD_S if ping.exception() else _PING_GOOD_S)

    def _look_around(self) -> None:
        self._config.require()
        self._journal.check()
        until, tries = time.monotonic() + _PING_PATIENCE_S, 0
        while True:
            try:
                self._batch.check(self._config.job_queue)
                self._sandbox.probe()
                return
            except CredentialsProblem:
                raise
            except Transient:
                # A bad answer stops all submits for minutes: one lost reply is no reason for it.
                if time.monotonic() >= until:
                    raise
                tries += 1
                time.sleep(backoff(tries, 0.25, 5.0))

    @staticmethod
    def _in_lane(lane: Lane, work: Callable[[], T | Future[T]], until: float = 0.0) -> Future[T]:
        """Do `work` in `lane`; again and again up to `until` (monotonic) as long as the journal cannot be written. What it has to
        wait for it returns as a future, so that no thread of the lane waits."""
        future: Future[T] = Future()

        def task() -> None:
            try:
                result = work()
            except MemoryError:
                raise  # the client asks the next GAHP again; an answer that something failed would hold the job
            except Exception as error:
                fail(error)
            else:
                if isinstance(result, Future):
                    after(result, lambda done: fail(error) if (error := done.exception()) else succeed(done.result()))
                else:
                    succeed(result)

        succeed = future.set_result

        def fail(error: BaseException) -> None:
            if isinstance(error, Conflict) or (isinstance(error, JournalProblem) and time.monotonic() < until):
                lane.put(task, 0.0 if isinstance(error, Conflict) else _ASK_EVERY_S)
            elif isinstance(error, (Refused, Transient)):
                future.set_exception(error)
            else:
                log.error("a request failed", exc_info=error)
                future.set_exception(Refused(f"A fault of this program ({type(error).__name__}): see its log."))

        lane.put(task)
        return future

    # Submit

    def _accepted(self, request: JobRequest) -> str | Future[str]:
        """The job id, or a future that has it when the run is on disk; the future raises Conflict when another was quicker."""
        self._config.require()
        check_resources(request.resources)
        queue = choose_queue(request.queue, self._config.job_queue, self._config.allowed_queues)
        check(request, self._config.shared_directories)
        earlier = self._journal.newest(request.directory) if request.directory else None
        if earlier is not None and not earlier.confirmed and earlier.digest == request.digest:
            # The gridmanager never learnt the id, or it would have asked about it: the same submit, sent again.
            log.info("%s: submitted again before its id was known; the same run goes on", earlier.name)
            self._runs.wishes.revive(earlier.name)
            return earlier.job_id
        run = Run(
            name=run_name(request),
            directory=request.directory,
            digest=request.digest,
            generation=earlier.generation + 1 if earlier else 0,
            queue=queue,
            predecessor=self._runs.unfinished(earlier.name) if earlier else "",
            created=self._clock(),
        )
        return _then(self._journal.insert(run, request), lambda _: self._begin(run))

    def _begin(self, run: Run) -> str:
        """Follow a run that has been recorded; its id. Waits for nothing: the journal's own thread comes here."""
        if run.predecessor:
            # Two copies must never write one output: the new run waits until the old one has ended, and sees to it.
            log.info("%s: takes the place of %s, which is ended first", run.name, run.predecessor)
        self._runs.add(run)
        log.info("%s: accepted, JobDirectory %s", run.name, run.directory)
        return run.job_id

    # Jobs that are there

    def _known(self, job_id: str) -> Run:
        """The run of a job id, confirmed: whoever names an id has learnt it."""
        name = job_id.rpartition("/")[2]
        run = self._runs.lives.get(name) or self._journal.find(name)
        if run is None or run.job_id != job_id:
            raise Refused(f"There is no job {job_id} in this user's journal ({self._config.state_dir}).")
        self._runs.wishes.revive(run.name)
        if not run.confirmed:
            # On disk before the answer, unless the disk is full: then it is written when it can be, and the client need not wait.
            with contextlib.suppress(concurrent.futures.TimeoutError):
                self._journal.update(run, confirmed=True).result(_PATIENCE_S)
        return run

    def _look(self, job_id: str) -> JobReport:
        run = self._known(job_id)
        _, report = self._runs.lives.stands(run.name)
        if report is not None:
            return report
        # Over, or followed by another GAHP of this user that is about to end: the journal has what it recorded.
        return report_of(self._journal.find(run.name) or run)

    def _want(self, job_id: str, wanted: Wanted) -> Future[None]:
        done: Future[None] = Future()
        self._accept.put(lambda: self._try_want(job_id, wanted, done, time.monotonic() + _ASK_FOR_S))
        self._asking.wait_for(done, lambda: _answer(done, self._late(job_id, wanted)))
        return done

    def _late(self, job_id: str, wanted: Wanted) -> Transient:
        """What to say of a wish that nobody has taken in time. The gridmanager forgets a removal that it is told this of: so that
        is noted where the journal takes no write, for the next GAHP, should this one not live to see it written."""
        problem = self._journal.problem
        if not problem:
            return Transient(
                f"AWS Batch has not taken this for {_ASK_FOR_S:g} s; it is recorded and done when that is possible: {job_id}."
            )
        if wanted is Wanted.REMOVE:
            with contextlib.suppress(OSError):
                note_removal(self._config.state_dir, job_id.rpartition("/")[2])
                return Transient(
                    f"AWS Batch has not taken the removal of {job_id} for {_ASK_FOR_S:g} s; it is noted beside the journal and"
                    f" done when that is possible. {problem}"
                )
        return Transient(f"AWS Batch has not taken this for {_ASK_FOR_S:g} s, and it is not recorded: {job_id}. {problem}")

    def _try_want(self, job_id: str, wanted: Wanted, done: Future[None], until: float) -> None:
        try:
            run = self._known(job_id)
            taken = self._runs.wishes.want(run.name, wanted)
            if taken is not None:
                after(taken, lambda future: _answer(done, future.exception()))
                return
            run = self._journal.find(run.name) or run
            if run.state.final:
                if wanted is not Wanted.REMOVE:
                    raise Refused(f"The job {job_id} is over ({run.state.name}).")
                _answer(done, None)
                return
            # Another GAHP of this user follows the run: it hears of this within a poll interval, or is dead and leaves it to us.
            if wanted is not Wanted.REMOVE:
                raise Refused(f"The job {job_id} is in the hands of another GAHP of this user: try again when that has ended.")
            if run.wanted is not wanted:
                with contextlib.suppress(concurrent.futures.TimeoutError):
                    self._journal.ask(run.name, wanted).result(_PATIENCE_S)
            if time.monotonic() > until:
                raise Transient(f"The job {job_id} is in the hands of another GAHP of this user, which has not ended it yet.")
            self._accept.put(lambda: self._try_want(job_id, wanted, done, until), _ASK_EVERY_S)
        except (Refused, Transient) as error:
            if isinstance(error, JournalProblem) and time.monotonic() < until:
                self._accept.put(lambda: self._try_want(job_id, wanted, done, until), _ASK_EVERY_S)
            else:
                _answer(done, error)
        except MemoryError:
            raise
        except Exception as error:
            log.exception("a request failed")
            _answer(done, Refused(f"A fault of this program ({type(error).__name__}): see its log."))


class Patience:
    """Bounds a wait: who is not answered in `wait_s` seconds is answered otherwise. One task in `lane` for all that wait."""

    def __init__(self, lane: Lane, wait_s: float) -> None:
        self._lane, self._wait_s = lane, wait_s
        self._waiting: collections.deque[tuple[float, Future[Any], Callable[[], None]]] = collections.deque()
        self._lock = threading.Lock()
        self._due = False

    def wait_for(self, future: Future[Any], give_up: Callable[[], None]) -> None:
        """Call `give_up` when `future` has no result in time. What it raises because there is one after all is dropped."""
        with self._lock:
            self._waiting.append((time.monotonic() + self._wait_s, future, give_up))
            if not self._due:
                self._due = True
                self._lane.put(self._look, self._wait_s)

    def _look(self) -> None:
        late = []
        with self._lock:
            while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= time.monotonic()):
                late.append(self._waiting.popleft()[2])
            self._due = bool(self._waiting)
            if self._due:
                self._lane.put(self._look, max(0.0, self._waiting[0][0] - time.monotonic()))
        for give_up in late:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                give_up()


def _answer(waiting: Future[None], error: BaseException | None) -> None:
    """Answer who still waits: the bound on the wait may have come first."""
    with contextlib.suppress(concurrent.futures.InvalidStateError):
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)


def _then(first: Future[S], work: Callable[[S], T]) -> Future[T]:
    """A future of what `work` makes of the result of `first`, or of the error of either."""
    second: Future[T] = Future()

    def follow(done: Future[S]) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # it may have been answered before
            try:
                second.set_result(work(done.result()))
            except MemoryError:
                raise
            except Exception as error:
                second.set_exception(error)

    after(first, follow)
    return second


def run_name(request: JobRequest) -> str:
    """A name no run has had: cluster and proc where known (JobDirectory ends with CLUSTER.PROC_TIME), then 80 random bits."""
    found = re.search(r"[_#]([0-9]{1,10})\.([0-9]{1,10})[_#][0-9]+$", request.global_job_id or request.directory)
    random = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    return f"{found[1]}-{found[2]}-{random}" if found else f"job-{random}"
