"""The AWS Batch calls of this program, each with its errors told apart.

Knows Batch and the model; nothing of S3 and nothing of the journal. The client must not retry by itself: botocore would send a
SubmitJob whose reply was lost a second time, and Batch has no token that tells the two apart.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from gahp.batch.errors import translate
from gahp.batch.jobs import BatchJob, from_detail
from gahp.batch.overrides import submit_parameters
from gahp.model import JobRequest, Refused

DESCRIBE_PAGE = 100
_QUEUE_FACTS_S = 300.0
_ACTIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


class BatchClient(Protocol):
    """The calls of boto3's Batch client that are used, and with it the seam for another implementation."""

    def submit_job(self, **parameters: Any) -> Mapping[str, Any]: ...
    def describe_jobs(self, *, jobs: list[str]) -> Mapping[str, Any]: ...
    def list_jobs(self, **parameters: Any) -> Mapping[str, Any]: ...
    def terminate_job(self, *, jobId: str, reason: str) -> Mapping[str, Any]: ...
    def cancel_job(self, *, jobId: str, reason: str) -> Mapping[str, Any]: ...
    def describe_job_queues(self, *, jobQueues: list[str]) -> Mapping[str, Any]: ...
    def describe_job_definitions(self, **parameters: Any) -> Mapping[str, Any]: ...


class Batch:
    """One account's Batch, one job definition. Every method raises Refused or Transient, and nothing else."""

    def __init__(
        self,
        client: BatchClient,
        *,
        definition: str,
        attempts: int = 1,
        default_runtime_s: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._definition = definition
        self._attempts = attempts
        self._default_runtime_s = default_runtime_s
        self._clock = clock
        self._fair_share: dict[str, tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def submit(self, request: JobRequest, *, name: str, queue: str, environment: dict[str, str]) -> str:
        """SubmitJob, once. Returns the job's id. Raises errors.Unsure when Batch may have it although no reply came."""
        parameters = submit_parameters(
            request,
            name=name,
            queue=queue,
            definition=self._definition,
            environment=environment,
            attempts=self._attempts,
            default_runtime_s=self._default_runtime_s,
            fair_share=self._has_fair_share(queue),
        )
        return str(self._call("SubmitJob", self._client.submit_job, **parameters)["jobId"])

    def find(self, name: str, queue: str) -> str:
        """The id of the job of that name in that queue, whatever its status; "" when Batch lists none (yet)."""
        return next((job_id for found, job_id in self.named(name, queue) if found == name), "")

    def named(self, pattern: str, queue: str) -> Iterator[tuple[str, str]]:
        """Name and id of every job whose name fits (`*` at the end for any end), whatever its status."""
        for row in self._list(jobQueue=queue, filters=[{"name": "JOB_NAME", "values": [pattern]}]):
            yield row["jobName"], row["jobId"]

    def active(self, queue: str) -> Iterator[tuple[BatchJob, dict[str, str]]]:
        """Every job of that queue that is not over, with the environment that it was submitted with."""
        ids = [row["jobId"] for status in _ACTIVE for row in self._list(jobQueue=queue, jobStatus=status)]
        for start in range(0, len(ids), DESCRIBE_PAGE):
            page = ids[start : start + DESCRIBE_PAGE]
            for detail in self._call("DescribeJobs", self._client.describe_jobs, jobs=page)["jobs"]:
                container: Mapping[str, Any] = detail.get("container") or {}
                job = from_detail(detail)
                if not job.over:
                    yield job, {pair["name"]: pair.get("value", "") for pair in container.get("environment") or []}

    def _list(self, **what: Any) -> Iterator[Mapping[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._call("ListJobs", self._client.list_jobs, **what, **token)
            yield from page["jobSummaryList"]
            if not page.get("nextToken"):
                return
            token = {"nextToken": page["nextToken"]}

    def describe(self, ids: Iterable[str]) -> Iterator[tuple[list[str], dict[str, BatchJob]]]:
        """Ask about all `ids`, 100 a call. Yields each page's ids and what Batch knows of them; unknown ids are absent."""
        wanted = list(ids)
        for start in range(0, len(wanted), DESCRIBE_PAGE):
            page = wanted[start : start + DESCRIBE_PAGE]
            details = self._call("DescribeJobs", self._client.describe_jobs, jobs=page)["jobs"]
            yield page, {job.id: job for job in map(from_detail, details)}

    def first_listed(self, queue: str, status: str, at_most: int) -> tuple[list[Mapping[str, Any]], bool]:
        """The newest rows of a queue in one status, and whether these are all."""
        rows: list[Mapping[str, Any]] = []
        for row in self._list(jobQueue=queue, jobStatus=status):
            if len(rows) == at_most:
                return rows, False
            rows.append(row)
        return rows, True

    def ask(self, action: str, **parameters: Any) -> Mapping[str, Any]:
        """Any call of Batch that only looks, by the name of its action, for who asks what no method here does."""
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", action).lower()
        return self._call(action, getattr(self._client, method), **parameters)

    def terminate(self, job_id: str, reason: str) -> None:
        """End a job in whatever state. A job that is over or forgotten already is no error."""
        self._ending("TerminateJob", self._client.terminate_job, job_id, reason)

    def cancel(self, job_id: str, reason: str) -> None:
        """End a job that has not come as far as STARTING; one that has is left alone, and Batch does not say so."""
        self._ending("CancelJob", self._client.cancel_job, job_id, reason)

    def check(self, queue: str) -> None:
        """Raise Refused with what an administrator has to mend about queue or job definition."""
        queues = self._call("DescribeJobQueues", self._client.describe_job_queues, jobQueues=[queue])["jobQueues"]
        if not queues:
            raise Refused(
                f"The job queue {queue} does not exist in this account and Region: see AWSBATCH_JOB_QUEUE and AWSBATCH_REGION."
            )
        found = queues[0]
        if found["state"] != "ENABLED":
            raise Refused(f"The job queue {queue} is {found['state']}: enable it in AWS Batch.")
        if found.get("status", "VALID") != "VALID":
            raise Refused(
                f"The job queue {queue} is {found['status']}: {found.get('statusReason', 'AWS Batch gives no reason')}."
            )
        name, _, revision = self._definition.rpartition("/")[2].partition(":")
        exact = bool(revision)
        asked: dict[str, Any] = (
            {"jobDefinitions": [self._definition if self._definition.startswith("arn:") else f"{name}:{revision}"]}
            if exact
            else {"jobDefinitionName": name, "status": "ACTIVE"}
        )
        definitions = self._call("DescribeJobDefinitions", self._client.describe_job_definitions, **asked)["jobDefinitions"]
        if not any(definition.get("status") == "ACTIVE" for definition in definitions):
            raise Refused(
                f"There is no active job definition {self._definition} in this account and Region: see AWSBATCH_JOB_DEFINITION."
            )

    def _has_fair_share(self, queue: str) -> bool:
        with self._lock:
            known = self._fair_share.get(queue)
        if known is None or self._clock() - known[0] > _QUEUE_FACTS_S:
            queues = self._call("DescribeJobQueues", self._client.describe_job_queues, jobQueues=[queue])["jobQueues"]
            known = (self._clock(), bool(queues and queues[0].get("schedulingPolicyArn")))
            with self._lock:
                self._fair_share[queue] = known
        return known[1]

    def _ending(self, action: str, call: Callable[..., Mapping[str, Any]], job_id: str, reason: str) -> None:
        try:
            self._call(action, call, jobId=job_id, reason=reason)
        except Refused as error:
            # Batch forgets jobs some days after their end; what is not there does not run.
            if "not found" not in str(error).lower() and "does not exist" not in str(error).lower():
                raise

    @staticmethod
    def _call(action: str, call: Callable[..., Mapping[str, Any]], **parameters: Any) -> Mapping[str, Any]:
        try:
            return call(**parameters)
        except Exception as error:
            raise translate(error, action) from error
