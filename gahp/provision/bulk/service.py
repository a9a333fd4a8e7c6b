"""The AWS calls of a bulk run, each with its errors told apart, and the patience to repeat them.

Knows boto3's clients and the model; nothing of tasks. Every method raises Refused (a person has to mend it) or Transient (it will
pass). No client repeats a SubmitJob by itself: whether a lost one arrived is asked of Batch, by the job's unique name.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gahp.batch import Batch, CredentialsProblem, Throttled, Unsure
from gahp.batch.errors import translate
from gahp.batch.service import DESCRIBE_PAGE
from gahp.lanes import backoff
from gahp.model import Refused, Transient, one_line

log = logging.getLogger(__name__)
T = TypeVar("T")

# Of compute environments: where jobs run, or soon will.
_USABLE = ("VALID", "CREATING", "UPDATING")


class Interrupted(Exception):
    """The run is to end now: SIGTERM or its like came."""


class Clients:
    """boto3 clients for one run, made when they are first used. `region` empty: what the AWS profile or environment says."""

    def __init__(self, region: str = "") -> None:
        try:
            self._session = boto3.Session(region_name=region or None)
        except BotoCoreError as error:
            raise Refused(one_line(f"AWS cannot be used: {error}.")) from error
        if self._session.region_name is None:
            raise Refused("No AWS Region is known: give --region, or set pegasus.aws.region in the properties file.")
        self.region: str = self._session.region_name
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, service: str) -> Any:
        """The client of a service; Batch's repeats nothing, the others' calls can all be repeated without harm."""
        attempts = 1 if service == "batch" else 8
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=32,
        )
        with self._lock:
            if service not in self._made:
                self._made[service] = self._session.client(service, config=config)
            return self._made[service]


class Patience:
    """Repeats what fails for a while, until it is given up after `limit_s` seconds, or `stop` is set.

    Never repeated: an Unsure call, which has to be looked up first, and what is in `final`.
    """

    def __init__(self, limit_s: float, stop: threading.Event, final: tuple[type[Transient], ...] = ()) -> None:
        self._limit_s, self._stop = limit_s, stop
        self._final: tuple[type[Transient], ...] = (Unsure, *final)

    def __call__(self, call: Callable[[], T]) -> T:
        """What `call` returns. Raises Interrupted, Refused, or the last Transient when the time is up."""
        begun = time.monotonic()
        tries = 0
        while True:
            try:
                return call()
            except Transient as error:
                if isinstance(error, self._final) or time.monotonic() - begun > self._limit_s:
                    raise
                log.warning("%s; it is tried again", error)
            if self._stop.wait(backoff(tries, most=15.0)):
                raise Interrupted
            tries += 1

    def repeat(self, call: Callable[[], T]) -> T:
        """The same for a call that may be repeated whatever became of it."""

        def repeatable() -> T:
            try:
                return call()
            except Unsure as error:
                raise Transient(str(error)) from error

        return self(repeatable)


class Cloud:
    """Batch and CloudWatch Logs for one run."""

    def __init__(self, clients: Callable[[str], Any]) -> None:
        self._batch, self._logs = clients("batch"), clients("logs")
        self._jobs = Batch(self._batch, definition="")

    def check_queue(self, queue: str, *, submitting: bool) -> bool:
        """Whether it has a fair-share policy. Raises Refused: nothing that waits there can ever run.

        `submitting`: more is to be sent there, which a DISABLED queue does not take; what it has it finishes.
        """
        queues = self._call("DescribeJobQueues", self._batch.describe_job_queues, jobQueues=[queue])["jobQueues"]
        if not queues:
            raise Refused(f"The job queue {queue} does not exist in this account and Region.")
        found = queues[0]
        if submitting and found["state"] != "ENABLED":
            raise Refused(f"The job queue {queue} is {found['state']}: enable it in AWS Batch.")
        if found.get("status") in ("INVALID", "DELETING", "DELETED"):
            raise Refused(f"The job queue {queue} is {found['status']}: {_reason(found)}.")
        names = [entry["computeEnvironment"] for entry in found.get("computeEnvironmentOrder", ())]
        # Without a name it would be all there are.
        environments = (
            self._call("DescribeComputeEnvironments", self._batch.describe_compute_environments, computeEnvironments=names)[
                "computeEnvironments"
            ]
            if names
            else []
        )
        if not any(entry.get("state") == "ENABLED" and entry.get("status") in _USABLE for entry in environments):
            told = [
                f"{entry['computeEnvironmentName']} is {entry.get('status')} and {entry.get('state')}: {_reason(entry)}"
                for entry in environments
            ]
            raise Refused(f"No compute environment of the job queue {queue} can run a job: {'; '.join(told) or 'it has none'}.")
        return bool(found.get("schedulingPolicyArn"))

    def submit(self, parameters: Mapping[str, Any]) -> str:
        """SubmitJob, once. Returns the job's id. Raises Unsure when Batch may have it although no reply came."""
        return str(self._call("SubmitJob", self._batch.submit_job, **parameters)["jobId"])

    def find(self, name: str, queue: str) -> str:
        """The id of the job of that name, whatever its status; "" when Batch lists none (yet)."""
        return self._jobs.find(name, queue)

    def describe(self, ids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """JobDetails by id, 100 a call; what Batch does not know is absent."""
        wanted = list(ids)
        found: dict[str, Mapping[str, Any]] = {}
        for start in range(0, len(wanted), DESCRIBE_PAGE):
            page = self._call("DescribeJobs", self._batch.describe_jobs, jobs=wanted[start : start + DESCRIBE_PAGE])
            found.update((job["jobId"], job) for job in page["jobs"])
        return found

    def terminate(self, job_id: str, reason: str) -> None:
        """End a job, and with an array job its children. One that is over is no error."""
        self._jobs.terminate(job_id, reason)

    def messages(self, group: str, stream: str) -> Iterator[str]:
        """The events of a log stream, oldest first. Raises Refused or Transient; a stream that is not there yet is Transient."""
        token: dict[str, str] = {}
        while True:
            try:
                page = self._logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True, **token)
            except (ClientError, BotoCoreError, OSError) as error:
                raise _meaning(error, f"CloudWatch Logs, stream {stream} of {group}") from error
            yield from (event["message"] for event in page["events"])
            # The end is where the token stays the same; a page without events alone is not.
            if page["nextForwardToken"] == token.get("nextToken"):
                return
            token = {"nextToken": page["nextForwardToken"]}

    @staticmethod
    def _call(action: str, call: Callable[..., Mapping[str, Any]], **parameters: Any) -> Mapping[str, Any]:
        try:
            return call(**parameters)
        except Exception as error:
            raise translate(error, action) from error


def _reason(entity: Mapping[str, Any]) -> str:
    return str(entity.get("statusReason") or "AWS Batch gives no reason").rstrip(".")


def _meaning(error: Exception, what: str) -> Refused | Transient:
    text = one_line(f"{what}: {error}", 600)
    code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
    # Logs arrive some seconds behind the job: a stream may not be there yet.
    passes = isinstance(translate(error, ""), Transient) or code == "ResourceNotFoundException"
    return Transient(text) if passes else Refused(text)


__all__ = ["Clients", "Cloud", "CredentialsProblem", "Interrupted", "Patience", "Throttled", "Unsure"]
