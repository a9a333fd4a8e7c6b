"""The AWS Batch calls of this program, each with its errors told apart.

Knows Batch and the model; nothing of S3 and nothing of the journal. The client must not retry by itself: botocore would send a
SubmitJob whose reply was lost a second time, and Batch has no token that tells the two apart.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from gahp.batch.errors import Throttled, Unsure, translate
from gahp.batch.jobs import BatchJob, from_detail, from_summary
from gahp.batch.overrides import submit_parameters
from gahp.limits import Kind, Limiter
from gahp.model import JobRequest, Refused, Transient, one_line

log = logging.getLogger(__name__)

DESCRIBE_PAGE = 100
LIST_PAGE = 1000
BULK = 50

_KINDS = {"SubmitJob": Kind.SUBMIT, "TerminateJob": Kind.END, "TerminateJobs": Kind.END, "CancelJob": Kind.END}
# A thread that submits or ends has only the like to do, so it may wait for its turn; one that asks may be needed elsewhere.
_PATIENCE_S = {Kind.END: 2.0, Kind.SUBMIT: 2.0, Kind.STATUS: 0.25}
_PERSIST_S = 120.0
_QUEUE_FACTS_S = 300.0
_ACTIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


class BatchClient(Protocol):
    """The calls of boto3's Batch client that are used, and with it the seam for another implementation."""

    def submit_job(self, **parameters: Any) -> Mapping[str, Any]: ...
    def describe_jobs(self, *, jobs: list[str]) -> Mapping[str, Any]: ...
    def list_jobs(self, **parameters: Any) -> Mapping[str, Any]: ...
    def terminate_job(self, *, jobId: str, reason: str) -> Mapping[str, Any]: ...
    def terminate_jobs(self, *, jobs: list[str], reason: str) -> Mapping[str, Any]: ...  # older boto3 lacks it
    def cancel_job(self, *, jobId: str, reason: str) -> Mapping[str, Any]: ...
    def describe_job_queues(self, *, jobQueues: list[str]) -> Mapping[str, Any]: ...
    def describe_job_definitions(self, **parameters: Any) -> Mapping[str, Any]: ...


class Batch:
    """One account's Batch, one job definition. Every method raises Refused or Transient, and nothing else.

    `limiter` sets the pace of all calls; a call that cannot be made soon raises limits.Later. With `persistent`, which is for
    those who have nothing else to do, calls wait instead, and what is throttled is called again.
    """

    def __init__(
        self,
        client: BatchClient,
        *,
        definition: str,
        attempts: int = 1,
        default_runtime_s: int = 0,
        limiter: Limiter | None = None,
        persistent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._definition = definition
        self._attempts = attempts
        self._default_runtime_s = default_runtime_s
        self._limiter = limiter
        self._persistent = persistent
        self._bulk = hasattr(client, "terminate_jobs")
        self._clock = clock
        self._fair_share: dict[str, tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def submit(self, request: JobRequest, *, name: str, queue: str, environment: dict[str, str], size: int = 1) -> str:
        """SubmitJob, once, for one job or an array of `size` jobs of one shape. Returns the job's id; children are ID:INDEX.

        Raises errors.Unsure when Batch may have it although no reply came.
        """
        parameters = submit_parameters(
            request,
            name=name,
            queue=queue,
            definition=self._definition,
            environment=environment,
            attempts=self._attempts,
            default_runtime_s=self._default_runtime_s,
            fair_share=self._has_fair_share(queue),
            size=size,
        )
        job_id = self._call("SubmitJob", self._client.submit_job, **parameters).get("jobId")
        if not isinstance(job_id, str) or not job_id:
            raise Unsure(f"AWS Batch, SubmitJob: the reply for {name} has no job id; it is looked up.")
        return job_id

    def find(self, name: str, queue: str) -> str:
        """The id of the job of that name in that queue, whatever its status; "" when Batch lists none (yet)."""
        return next((job_id for found, job_id in self.named(name, queue) if found == name), "")

    def named(self, pattern: str, queue: str) -> Iterator[tuple[str, str]]:
        """Name and id of every job whose name fits (`*` at the end for any end), whatever its status."""
        for row in self._list(jobQueue=queue, filters=[{"name": "JOB_NAME", "values": [pattern]}]):
            yield row["jobName"], row["jobId"]

    def active(self, queue: str) -> Iterator[tuple[BatchJob, dict[str, str]]]:
        """Every job of that queue that is not over, children of array jobs one by one, with the environment that it was submitted
        with."""
        rows = [row for status in _ACTIVE for row in self._list(jobQueue=queue, jobStatus=status)]
        ids = [row["jobId"] for row in rows if "arrayProperties" not in row]
        for row in rows:
            if "arrayProperties" in row:
                for status in _ACTIVE:
                    ids += [child["jobId"] for child in self._list(arrayJobId=row["jobId"], jobStatus=status)]
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
            page = self._call("ListJobs", self._client.list_jobs, patient=bool(token), **what, **token)
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

    def children(self, parent: str, status: str, token: str = "") -> tuple[list[BatchJob], str]:
        """One page of an array's children in that status, and the token of the next page; "" if this is the last."""
        return self._page(arrayJobId=parent, jobStatus=status, token=token)

    def listed(self, queue: str, status: str, token: str = "") -> tuple[list[BatchJob], str]:
        """One page of a queue's jobs in that status, without array children, and the token of the next page."""
        return self._page(jobQueue=queue, jobStatus=status, token=token)

    def _page(self, *, token: str, **what: Any) -> tuple[list[BatchJob], str]:
        more: dict[str, Any] = {"nextToken": token} if token else {}
        page = self._call("ListJobs", self._client.list_jobs, maxResults=LIST_PAGE, **what, **more)
        return [from_summary(row) for row in page["jobSummaryList"]], page.get("nextToken") or ""

    def terminate_many(self, ids: Sequence[str], reason: str) -> dict[str, Refused | Transient]:
        """End up to 50 jobs: by one call where the installed boto3 has it. What stood in the way of which; {} if nothing did."""
        failed: dict[str, Refused | Transient] = {}
        if self._bulk and len(ids) > 1:
            # It needs no other permission than TerminateJob, and a job that is not found counts as ended.
            try:
                answer = self._call("TerminateJobs", self._client.terminate_jobs, jobs=list(ids), reason=reason)
            except Refused as error:
                # As where a Region or another AWS does not have it: what is wrong with single jobs is in its answer.
                log.warning("%s Jobs are ended one by one from now on.", error)
                self._bulk = False
                return self.terminate_many(ids, reason)
            for entry in answer.get("errors") or []:
                code = str(entry.get("code", ""))
                text = one_line(f"AWS Batch, TerminateJobs: {code}: {entry.get('message', '')}", 600)
                if code.startswith("Throttl") or code == "TooManyRequestsException":
                    failed[entry["job"]] = Throttled(text)
                else:
                    failed[entry["job"]] = Transient(text) if code == "ServerException" else Refused(text)
            if self._limiter and any(isinstance(error, Throttled) for error in failed.values()):
                self._limiter.throttled(Kind.END)
            return failed
        for number, job_id in enumerate(ids):
            try:
                self.terminate(job_id, reason)
            except Refused as error:
                failed[job_id] = error
            except Transient as error:
                # The next would fare no better.
                failed.update(dict.fromkeys(ids[number:], error))
                break
        return failed

    def terminate(self, job_id: str, reason: str) -> None:
        """End a job in whatever state. A job that is over or forgotten already is no error."""
        self._ending("TerminateJob", self._client.terminate_job, job_id, reason)

    def cancel(self, job_id: str, reason: str) -> None:
        """End a job that has not come as far as STARTING; one that has is left alone, and Batch does not say so."""
        self._ending("CancelJob", self._client.cancel_job, job_id, reason)

    def check(self, queue: str) -> None:
        """Raise Refused with what an administrator has to mend about queue or job definition."""
        queues = self._call("DescribeJobQueues", self._client.describe_job_queues, patient=True, jobQueues=[queue])["jobQueues"]
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
        answer = self._call("DescribeJobDefinitions", self._client.describe_job_definitions, patient=True, **asked)
        definitions = answer["jobDefinitions"]
        if not any(definition.get("status") == "ACTIVE" for definition in definitions):
            raise Refused(
                f"There is no active job definition {self._definition} in this account and Region: see AWSBATCH_JOB_DEFINITION."
            )

    def _has_fair_share(self, queue: str) -> bool:
        known = self._fair_share.get(queue)
        if known is None or self._clock() - known[0] > _QUEUE_FACTS_S:
            with self._lock:  # who comes meanwhile waits for the answer and does not ask as well
                if self._fair_share.get(queue) is known:
                    self._fair_share[queue] = (self._clock(), self._ask_fair_share(queue))
                known = self._fair_share[queue]
        return known[1]

    def _ask_fair_share(self, queue: str) -> bool:
        try:
            queues = self._call("DescribeJobQueues", self._client.describe_job_queues, jobQueues=[queue])["jobQueues"]
        except Unsure as error:
            raise Transient(str(error)) from error  # nothing has been submitted: there is nothing to look up
        return bool(queues and queues[0].get("schedulingPolicyArn"))

    def _ending(self, action: str, call: Callable[..., Mapping[str, Any]], job_id: str, reason: str) -> None:
        try:
            self._call(action, call, jobId=job_id, reason=reason)
        except Refused as error:
            # Batch forgets jobs some days after their end; what is not there does not run.
            if "not found" not in str(error).lower() and "does not exist" not in str(error).lower():
                raise

    def _call(
        self, action: str, call: Callable[..., Mapping[str, Any]], *, patient: bool = False, **parameters: Any
    ) -> Mapping[str, Any]:
        """`patient`: wait for the limiter as long as it takes, as one of several calls that make one answer."""
        patient |= self._persistent
        until = self._clock() + _PERSIST_S
        while True:
            try:
                return self._call_once(action, call, parameters, patient=patient)
            except Throttled:
                if not self._persistent or self._clock() > until:
                    raise
                time.sleep(0.5)

    def _call_once(
        self, action: str, call: Callable[..., Mapping[str, Any]], parameters: Mapping[str, Any], *, patient: bool
    ) -> Mapping[str, Any]:
        kind = _KINDS.get(action, Kind.STATUS)
        if self._limiter:
            self._limiter.wait(kind, float("inf") if patient else _PATIENCE_S[kind])
        try:
            return call(**parameters)
        except Exception as error:
            raised = translate(error, action)
            if self._limiter and isinstance(raised, Throttled):
                self._limiter.throttled(kind)
            raise raised from error
