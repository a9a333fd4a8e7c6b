"""What q, why, logs and top share: whose journals are looked at, which runs are meant, and what Batch says of them just now."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NewType

from gahp import config, history
from gahp.config import Config
from gahp.history import History
from gahp.model import Refused, Transient
from gahp.run import RunState, Wanted

if TYPE_CHECKING:
    from gahp.batch import Batch, BatchJob

_ASK_AT_MOST = 500  # jobs: five calls
_PATIENCE_S = 10.0  # for room among the calls of busy GAHPs

Problem = NewType("Problem", str)  # a sentence on what AWS could not be asked; "" if there is none


class Site:
    """The configuration, and AWS behind it as far as it can be had. Raises Refused from whatever needs what is missing."""

    def __init__(self) -> None:
        self.settings: Config = config.load()
        self._batch: Batch | None = None
        self._session: dict[str, Any] = {}

    @property
    def batch(self) -> Batch:
        """Batch, behind the same pace as the GAHP's own calls; a person waits a while for room."""
        if self._batch is None:
            self.settings.require()
            from gahp.batch import Batch  # noqa: PLC0415  boto3 is slow to load, and many a look needs no AWS
            from gahp.site import clients, limiter  # noqa: PLC0415

            client = clients(self.settings).batch
            self._batch = Batch(client, definition=self.settings.job_definition, limiter=limiter(self.settings, _PATIENCE_S))
        return self._batch

    def client(self, service: str) -> Any:
        """A client of another AWS service. Raises Refused when Region or profile are not to be had."""
        if service not in self._session:
            from gahp.site import other_client  # noqa: PLC0415

            self._session[service] = other_client(self.settings, service)
        return self._session[service]


def note(sentence: str) -> None:
    """Something a person should know beside what was asked for."""
    print(f"condor_awsbatch: {sentence}", file=sys.stderr)


IDENTIFIERS = "CLUSTER.PROC of HTCondor, a run's name, a job id of the GAHP, or AWS Batch's own id (its first 8 characters do)"


def pick(settings: Config, words: Sequence[str], everybody: bool = False) -> list[History]:
    """The runs that `words` mean, oldest first. Raises Refused for one that is no run's."""
    places = journals(settings, everybody)
    found: dict[tuple[str, str], History] = {}
    for word in words:
        same = [run for user, directory in places for run in history.find(directory, word, user)]
        if not same:
            where = settings.state_dir if len(places) == 1 else "the journals that can be read here"
            raise Refused(
                f"There is no job {word} in {where}: condor_awsbatch q -history lists what is known, and condor_q -hold "
                "has the reason of a job that was refused before it reached AWS Batch."
            )
        found.update({(run.user, run.name): run for run in same})
    return list(found.values())


def newest(settings: Config, word: str) -> History:
    """The one run that `word` means: the latest of a job that was submitted more than once."""
    found = pick(settings, [word], everybody=False)
    jobs = {run.condor_id or run.name for run in found}
    if len(jobs) > 1:
        some = ", ".join(sorted(jobs, key=_by_number)[:3])
        raise Refused(f"{word} has {len(jobs)} jobs: name one of them, such as {some}.")
    return max(found, key=lambda run: (run.generation, run.accepted))


def _by_number(condor_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in condor_id.split(".") if part.isdigit())


def journals(settings: Config, everybody: bool = False) -> list[tuple[str, str]]:
    """User and directory of each journal to look at: one's own, or all that can be read."""
    return history.neighbours(settings.state_dir) if everybody else [("", settings.state_dir)]


def refresh(site: Site, runs: Sequence[History], at_most: int = _ASK_AT_MOST) -> tuple[list[History], Problem]:
    """The runs with what Batch says of them now, and a sentence if it could not be asked about all of them."""
    waiting = [run for run in runs if run.state is RunState.SUBMITTED and run.native_id]
    if not waiting:
        return list(runs), Problem("")
    if len(waiting) > at_most:
        return list(runs), Problem(f"{len(waiting)} jobs are too many to ask AWS Batch about: shown is what the GAHP saw last")
    try:
        said = {
            native_id: job
            for _, jobs in site.batch.describe(dict.fromkeys(run.native_id for run in waiting))
            for native_id, job in jobs.items()
        }
    except (Refused, Transient) as error:
        return list(runs), Problem(f"AWS Batch could not be asked, shown is what the GAHP saw last: {error}")
    now = time.time()
    return [updated(run, said[run.native_id], now) if run.native_id in said else run for run in runs], Problem("")


def asked(site: Site, run: History) -> History:
    """The run with all that Batch says of its job, also of one that is over; as it is where Batch cannot say.

    Of a job that went well the GAHP need not have asked how often it was started, and where it logged.
    """
    if run.native_id:
        try:
            for _, jobs in site.batch.describe([run.native_id]):
                if run.native_id in jobs:
                    return updated(run, jobs[run.native_id], time.time())
        except (Refused, Transient):
            pass
    return run


def updated(run: History, job: BatchJob, now: float) -> History:
    """The run as Batch has it now. Since when: Batch's own word, else when the GAHP first saw it so, else from its making on."""
    since = {"RUNNING": job.started, "SUCCEEDED": job.stopped, "FAILED": job.stopped}.get(job.status) or (
        run.since if run.status == job.status else now if run.status else job.created
    )
    past = [history.Attempt(**{field.name: getattr(each, field.name) for field in dataclasses.fields(each)}) for each in job.past]
    if job.running:
        past.append(history.Attempt(started=job.started, log_stream=job.log_stream, worker=job.worker))
    return dataclasses.replace(
        run,
        status=job.status,
        since=since,
        status_reason=job.status_reason,
        container_reason=job.container_reason,
        created=job.created or run.created,
        started=job.started or run.started,
        stopped=job.stopped or run.stopped,
        attempts=tuple(past) or run.attempts,
        cpus=run.cpus if run.cpus is not None else job.cpus,
        memory_mib=run.memory_mib if run.memory_mib is not None else job.memory_mib,
        log_stream=job.log_stream or run.log_stream,
        worker=job.worker or run.worker,
    )


def superseded(runs: Iterable[History]) -> set[str]:
    """The names of runs whose job has a later run: HTCondor submitted it anew."""
    latest: dict[str, History] = {}
    old = set()
    for run in runs:
        key = run.global_job_id or run.condor_id
        if not key:
            continue
        before = latest.get(key)
        if before is None or (run.generation, run.accepted) > (before.generation, before.accepted):
            if before is not None:
                old.add(before.name)
            latest[key] = run
        else:
            old.add(run.name)
    return old


def state_of(run: History) -> str:
    """One word for how a run stands: AWS Batch's where Batch has it, else the run's own state."""
    if run.wanted is Wanted.REMOVE and not run.final:
        return "REMOVING"
    if run.state is RunState.SUBMITTED:
        return run.status or "SUBMITTED"
    return str(run.state.value)


def since_of(run: History) -> float:
    """When the run came into the state that `state_of` names."""
    if run.state is RunState.SUBMITTED and run.status:
        return run.since or run.submitted or run.accepted
    return run.over or run.moves.get(run.state.value) or run.changed or run.accepted


def style_of(state: str) -> str:
    styles = {
        "RUNNING": "busy",
        "STARTING": "busy",
        "SUCCEEDED": "good",
        "COMPLETED": "good",
        "COLLECTING": "good",
        "FAILED": "bad",
        "HELD": "bad",
        "REMOVED": "quiet",
        "REMOVING": "quiet",
    }
    return styles.get(state, "waiting")


def figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.12g}"
