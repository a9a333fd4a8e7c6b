"""The Batch job calls: from a request's JSON to the engine, and back to the answer's JSON.

Takes the place of moto for SubmitJob, DescribeJobs, ListJobs, CancelJob, TerminateJob, their bulk forms, and
DescribeJobDefinitions. Every request is checked against botocore's service model first; every answer is checked too, and what is
wrong with one is kept as a bug of this program. Knows nothing of HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gahp.local import jobs, validate
from gahp.local.engine import Engine
from gahp.local.entities import Entities, definitions
from gahp.local.jobs import Job
from gahp.local.submission import ClientError, refusal, specify

_DESCRIBE_LIMIT = 100
_BULK_LIMIT = 50
_REASON_LIMIT = 1024
_PAGE, _FILTERED_PAGE = 1000, 100
_JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(:[0-9]{1,4})?")


class Lag(Protocol):
    """The fault that ListJobs looks at."""

    def list_lag_s(self) -> float: ...


class BatchApi:
    """The calls by name; `violations` keeps what was wrong with answers of this program or of moto."""

    def __init__(self, engine: Engine, entities: Entities, lag: Lag) -> None:
        self._engine = engine
        self._entities = entities
        self._lag = lag
        self.violations: list[str] = []
        self._calls: dict[str, Callable[[str, dict[str, Any], int], dict[str, Any]]] = {
            "SubmitJob": self._submit,
            "DescribeJobs": self._describe,
            "ListJobs": self._list,
            "CancelJob": self._cancel,
            "TerminateJob": self._terminate,
            "CancelJobs": self._cancel_many,
            "TerminateJobs": self._terminate_many,
            "DescribeJobDefinitions": self._describe_definitions,
        }

    def handles(self, operation: str) -> bool:
        return operation in self._calls

    def call(self, operation: str, region: str, body: bytes) -> dict[str, Any]:
        """Carry out one call. Raises ClientError."""
        request = parse(operation, body)
        answer = self._calls[operation](region, request, len(body))
        self.check_answer(operation, answer)
        return answer

    def check_answer(self, operation: str, answer: Mapping[str, Any]) -> None:
        found = validate.violations(validate.service("batch").operation_model(operation).output_shape, answer)
        self.violations += [f"answer to {operation}: {text}" for text in found]

    def _submit(self, region: str, request: dict[str, Any], size: int) -> dict[str, Any]:
        spec = specify(
            request,
            size=size,
            queue=self._entities.queue(region, request["jobQueue"]),
            definition=self._entities.definition(region, request["jobDefinition"]),
            find=self._engine.find,
        )
        job = self._engine.submit(spec)
        return {"jobArn": job.arn, "jobName": spec.name, "jobId": job.id}

    def _describe(self, _region: str, request: dict[str, Any], _size: int) -> dict[str, Any]:
        ids = list(dict.fromkeys(request["jobs"]))
        if len(ids) > _DESCRIBE_LIMIT:
            raise refusal(f"DescribeJobs takes up to {_DESCRIBE_LIMIT} job IDs, got {len(ids)}")
        found = (self._engine.find(job_id) for job_id in ids)
        return {"jobs": self._engine.view([job for job in found if job is not None], jobs.detail)}

    def _list(self, region: str, request: dict[str, Any], _size: int) -> dict[str, Any]:
        if sum(request.get(key) is not None for key in ("jobQueue", "arrayJobId", "multiNodeJobId")) != 1:
            raise refusal("Exactly one of jobQueue, arrayJobId and multiNodeJobId must be specified")
        filters = request.get("filters") or []
        if len(filters) > 1:
            raise refusal("Only one filter can be used at a time")
        found = self._in_queue(region, request, filters) if "jobQueue" in request else self._children(request)
        largest = _FILTERED_PAGE if filters else _PAGE
        page, token = _page(found, request, largest, lambda job: job.number, descending="jobQueue" in request)
        answer: dict[str, Any] = {"jobSummaryList": self._engine.view(page, jobs.summary)}
        return {**answer, "nextToken": token} if token else answer

    def _in_queue(self, region: str, request: dict[str, Any], filters: Sequence[Mapping[str, Any]]) -> list[Job]:
        queue = self._entities.queue(region, request["jobQueue"])
        if queue is None:
            raise ClientError(f"JobQueue {request['jobQueue']} not found.")
        status = request.get("jobStatus") or "RUNNING"
        if not filters:
            found = self._engine.listed(queue.arn, status=status)
        else:
            name, values = filters[0].get("name"), filters[0].get("values") or []
            if len(values) != 1:
                raise refusal("A filter takes exactly one value")
            if name == "JOB_NAME":
                found = self._engine.listed(queue.arn, name=values[0])
            else:
                # The status counts together with a share identifier only.
                wanted = request.get("jobStatus") if name == "SHARE_IDENTIFIER" else None
                keep = _filter(str(name), values[0])
                found = [job for job in self._engine.listed(queue.arn, status=wanted) if keep(job)]
        youngest = (time.time() - self._lag.list_lag_s()) * 1000
        return [job for job in found if job.created <= youngest]

    def _children(self, request: dict[str, Any]) -> list[Job]:
        parent = self._engine.find(request.get("arrayJobId") or request["multiNodeJobId"])
        if parent is None:
            return []
        if "arrayJobId" not in request or not parent.is_array:
            raise refusal(f"Job {parent.id} has no children of that kind")
        status = request.get("jobStatus") or "RUNNING"
        return [child for child in parent.children if child.status == status]

    def _cancel(self, _region: str, request: dict[str, Any], _size: int) -> dict[str, Any]:
        return self._end(request, self._engine.cancel)

    def _terminate(self, _region: str, request: dict[str, Any], _size: int) -> dict[str, Any]:
        return self._end(request, self._engine.terminate)

    def _end(self, request: dict[str, Any], act: Callable[[Job, str], None]) -> dict[str, Any]:
        _check_reason(request["reason"])
        if not _JOB_ID.fullmatch(request["jobId"]):
            raise refusal(f"jobId '{request['jobId']}' is not a valid job identifier")
        if job := self._engine.find(request["jobId"]):
            act(job, request["reason"])
        return {}

    def _cancel_many(self, _region: str, request: dict[str, Any], _size: int) -> dict[str, Any]:
        return self._end_many(request, self._engine.cancel)

    def _terminate_many(self, _region: str, request: dict[str, Any], _size: int) -> dict[str, Any]:
        return self._end_many(request, self._engine.terminate)

    def _end_many(self, request: dict[str, Any], act: Callable[[Job, str], None]) -> dict[str, Any]:
        _check_reason(request["reason"])
        if not 1 <= len(request["jobs"]) <= _BULK_LIMIT:
            raise refusal(f"jobs must have 1 to {_BULK_LIMIT} job IDs, got {len(request['jobs'])}")
        successful, errors = [], []
        for job_id in dict.fromkeys(request["jobs"]):
            if not _JOB_ID.fullmatch(job_id):
                message = f"'{job_id}' is not a valid job identifier"
                errors.append({"job": job_id, "code": "ValidationException", "message": message})
                continue
            if job := self._engine.find(job_id):
                act(job, request["reason"])
            successful.append(job_id)
        return {"successful": successful, "errors": errors}

    def _describe_definitions(self, region: str, request: dict[str, Any], _size: int) -> dict[str, Any]:
        asked = {"identifiers": request.get("jobDefinitions"), "name": request.get("jobDefinitionName")}
        found = tidy(definitions(region, **asked, status=request.get("status")))
        page, token = _page(found, request, 100, found.index, descending=False)
        return {"jobDefinitions": page, **({"nextToken": token} if token else {})}


def parse(operation: str, body: bytes) -> dict[str, Any]:
    """The request, checked against the service model. null members are left out. Raises ClientError."""
    try:
        request = json.loads(body or b"{}")
    except ValueError as error:
        raise ClientError(f"The request is not JSON: {error}", "SerializationException") from None
    found = validate.violations(validate.service("batch").operation_model(operation).input_shape, request)
    if found:
        raise refusal("; ".join(found))
    return {key: value for key, value in request.items() if value is not None}


def tidy(value: Any) -> Any:
    """moto's answer as the service model has it: no null members, and no map of tags without a tag."""
    if isinstance(value, Mapping):
        return {key: tidy(entry) for key, entry in value.items() if entry is not None and not (key == "tags" and not entry)}
    return [tidy(entry) for entry in value] if isinstance(value, list) else value


def _check_reason(reason: str) -> None:
    if not reason:
        raise ClientError("'reason' is a required field (cannot be an empty string)")
    if len(reason) > _REASON_LIMIT:
        raise refusal(f"reason must have up to {_REASON_LIMIT} characters, got {len(reason)}")


def _filter(name: str, value: str) -> Callable[[Job], bool]:
    if name == "JOB_DEFINITION":
        if value.startswith("arn:"):
            return lambda job: job.spec.definition_arn == value
        if value.endswith("*"):
            return lambda job: job.spec.definition_name.startswith(value[:-1])
        return lambda job: job.spec.definition_name == value
    if name == "SHARE_IDENTIFIER":
        return lambda job: job.spec.share == value
    if name in ("BEFORE_CREATED_AT", "AFTER_CREATED_AT"):
        try:
            moment = int(value)
        except ValueError:
            raise refusal(f"Filter {name} takes milliseconds since the epoch, got '{value}'") from None
        return (lambda job: job.created < moment) if name == "BEFORE_CREATED_AT" else (lambda job: job.created > moment)
    raise refusal(f"Filter name '{name}' is not valid")


def _page(
    found: list[Any], request: Mapping[str, Any], largest: int, position: Callable[[Any], int], *, descending: bool
) -> tuple[list[Any], str]:
    """One page and the token of the next ("" if there is none). The token says where this page ended, and of what."""
    question = {key: value for key, value in request.items() if key not in ("nextToken", "maxResults")}
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]
    size = min(request.get("maxResults") or largest, largest)
    if request.get("maxResults", 1) < 1:
        raise refusal("maxResults must be at least 1")
    if token := request.get("nextToken"):
        try:
            of, last = json.loads(base64.urlsafe_b64decode(token))
        except ValueError:
            of, last = "", 0
        if of != digest:
            raise refusal("nextToken is not valid")
        found = [entry for entry in found if (position(entry) < last if descending else position(entry) > last)]
    page = found[:size]
    if len(found) <= size:
        return page, ""
    return page, base64.urlsafe_b64encode(json.dumps([digest, position(page[-1])]).encode()).decode()
