"""A simulated AWS account: Batch jobs that are arithmetic on a clock, and S3 in memory; no processes, no files, no threads.

How a job stands follows from when it was submitted: it is RUNNABLE for `Pace.start_s`, then RUNNING, then over. What its
container would have done in S3 (fetch the manifest, claim the run, put the result) is done when somebody first sees that it is
over. So a job costs no more than its entry, and hours pass as fast as the clock is moved.

The methods of `Batch` and `S3` are those of boto3's clients, with the same shapes (botocore's service model), and raise
`ApiError`. `Client` stands in for a boto3 client of the same process; endpoint.py serves the account over HTTP.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import functools
import gzip
import hashlib
import io
import itertools
import json
import re
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

QUEUE, DEFINITION, BUCKET, REGION = "bench-queue", "bench-definition", "bench-bucket", "us-east-1"
EXITED = "Essential container in task exited"
OUTPUT = b"It was a simulation.\n"
_GOLDEN = 0.6180339887498949
_DESCRIBE, _BULK = 100, 50
_ACTIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


class ApiError(Exception):
    """What AWS would answer instead: HTTP status, code, message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long jobs take, in seconds. Of jobs with a `spread` one takes up to so much longer than another."""

    start_s: float = 0.0
    run_s: float = 0.0
    spread_s: float = 0.0

    def end(self, begin: float, number: int) -> float:
        return begin + self.run_s + self.spread_s * (number * _GOLDEN % 1.0)


class Limit:
    """So many calls a second for the whole account, as a token bucket that holds a second's worth."""

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = per_second, clock
        self._tokens, self._at = per_second, clock()

    def take(self) -> bool:
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Job:
    """A single job, or an array with its children in it."""

    __slots__ = ("begin", "created", "end", "ends", "environment", "id", "name", "number", "ran", "seen", "size", "stopped")

    def __init__(
        self, job_id: str, name: str, number: int, size: int, environment: dict[str, str], now: float, pace: Pace
    ) -> None:
        self.id, self.name, self.number, self.size, self.environment = job_id, name, number, size, environment
        self.created, self.begin = now, now + pace.start_s
        self.end = pace.end(self.begin, number)
        # Of an array: when each child ends; the same in order, so that counting is a bisection; and whose end each of those is.
        self.ends: tuple[list[float], list[float], list[int]] | None = None
        self.seen = 0  # so many of them, in order, have been counted as over
        if size:
            ends = [pace.end(self.begin, index) for index in range(size)]
            self.ends = ends, sorted(ends), sorted(range(size), key=ends.__getitem__)
        self.stopped: dict[int, tuple[float, str]] = {}  # by index (-1: the job itself): when, why
        self.ran: set[int] | bool = set() if size else False


class S3:
    """One bucket's objects by key. Every method counts as one request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.objects: dict[str, bytes] = {}
        self.calls: collections.Counter[str] = collections.Counter()
        self._clock = clock
        self._parts: dict[str, dict[int, bytes]] = {}

    def put_object(self, Bucket: str, Key: str, Body: Any = b"", **_: Any) -> dict[str, Any]:
        self.calls["PutObject"] += 1
        self.objects[Key] = bytes(Body) if isinstance(Body, (bytes, bytearray)) else Body.read()
        return {"ETag": '"simulated"'}

    def get_object(self, Bucket: str, Key: str, Range: str = "", **_: Any) -> dict[str, Any]:
        self.calls["GetObject"] += 1
        data = self._there(Key)
        if Range:
            first, _, last = Range.removeprefix("bytes=").partition("-")
            data = data[int(first) : int(last) + 1 if last else None]
        return {"ContentLength": len(data), "Body": io.BytesIO(data), "ETag": '"simulated"'}

    def head_object(self, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        self.calls["HeadObject"] += 1
        import datetime  # noqa: PLC0415

        moment = datetime.datetime.fromtimestamp(self._clock(), datetime.timezone.utc)
        return {"ContentLength": len(self._there(Key, "404")), "LastModified": moment, "ETag": '"simulated"'}

    def delete_object(self, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        self.calls["DeleteObject"] += 1
        self.objects.pop(Key, None)
        return {}

    def delete_objects(self, Bucket: str, Delete: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.calls["DeleteObjects"] += 1
        for entry in Delete["Objects"]:
            self.objects.pop(entry["Key"], None)
        return {}

    def list_objects_v2(self, Bucket: str, Prefix: str = "", Delimiter: str = "", **_: Any) -> dict[str, Any]:
        self.calls["ListObjectsV2"] += 1
        keys = [key for key in self.objects if key.startswith(Prefix)]
        if not Delimiter:
            return {"Contents": [{"Key": key, "Size": len(self.objects[key])} for key in keys], "IsTruncated": False}
        rest = [(key, key[len(Prefix) :].partition(Delimiter)) for key in keys]
        folders = sorted({Prefix + before + Delimiter for _, (before, slash, _) in rest if slash})
        plain = [{"Key": key, "Size": len(self.objects[key])} for key, (_, slash, _) in rest if not slash]
        return {"Contents": plain, "CommonPrefixes": [{"Prefix": folder} for folder in folders], "IsTruncated": False}

    def head_bucket(self, Bucket: str) -> dict[str, Any]:
        self.calls["HeadBucket"] += 1
        return {}

    def create_multipart_upload(self, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        self.calls["CreateMultipartUpload"] += 1
        upload = uuid.uuid4().hex
        self._parts[upload] = {}
        return {"UploadId": upload}

    def upload_part(self, Bucket: str, Key: str, UploadId: str, PartNumber: int, Body: bytes, **_: Any) -> dict[str, Any]:
        self.calls["UploadPart"] += 1
        self._parts[UploadId][PartNumber] = Body
        return {"ETag": '"simulated"'}

    def complete_multipart_upload(self, Bucket: str, Key: str, UploadId: str, **_: Any) -> dict[str, Any]:
        self.calls["CompleteMultipartUpload"] += 1
        parts = self._parts.pop(UploadId)
        self.objects[Key] = b"".join(parts[number] for number in sorted(parts))
        return {"ETag": '"simulated"'}

    def abort_multipart_upload(self, Bucket: str, Key: str, UploadId: str, **_: Any) -> dict[str, Any]:
        self.calls["AbortMultipartUpload"] += 1
        self._parts.pop(UploadId, None)
        return {}

    def _there(self, key: str, code: str = "NoSuchKey") -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise ApiError(404, code, "The specified key does not exist.") from None


class Batch:
    """All jobs of the account, in one queue. Not for several threads at once: whoever calls holds `lock`."""

    def __init__(self, s3: S3, clock: Callable[[], float], pace: Pace, submit_limit: float = 0.0) -> None:
        self.pace = pace
        self.lock = threading.RLock()
        self.calls: collections.Counter[str] = collections.Counter()
        self.throttled = 0
        self.taken = 0  # jobs, children counted
        self.log: list[tuple[float, int]] = []  # when, how many are taken by then
        self._clock = clock
        self._limit = Limit(submit_limit, clock) if submit_limit else None
        self._s3 = s3
        self._jobs: dict[str, _Job] = {}
        self._names: dict[str, list[str]] = {}
        self._pages: dict[str, Iterator[dict[str, Any]]] = {}
        self._numbers = itertools.count()

    # What boto3's client has

    def submit_job(self, **asked: Any) -> dict[str, Any]:
        self.calls["SubmitJob"] += 1
        if self._limit is not None and not self._limit.take():
            self.throttled += 1
            raise ApiError(429, "TooManyRequestsException", "Too Many Requests")
        overrides = asked.get("containerOverrides") or {}
        environment = {pair["name"]: pair["value"] for pair in overrides.get("environment") or ()}
        size = (asked.get("arrayProperties") or {}).get("size") or 0
        job = self.add(asked["jobName"], size, environment)
        return {"jobArn": f"arn:aws:batch:{REGION}:000000000000:job/{job}", "jobName": asked["jobName"], "jobId": job}

    def add(self, name: str, size: int, environment: dict[str, str]) -> str:
        """A new job, or an array of `size`; its id."""
        job_id, number = str(uuid.uuid4()), next(self._numbers)
        self._jobs[job_id] = _Job(job_id, name, number, size, environment, self._clock(), self.pace)
        self._names.setdefault(name.lower(), []).append(job_id)
        self.taken += size or 1
        self.log.append((self._clock(), self.taken))
        return job_id

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        self.calls["DescribeJobs"] += 1
        if len(jobs) > _DESCRIBE:
            raise ApiError(400, "ClientException", f"DescribeJobs takes up to {_DESCRIBE} job IDs, got {len(jobs)}")
        found = (self._find(job_id) for job_id in jobs)
        return {"jobs": [self._detail(job, index) for job, index in found if job is not None]}

    def list_jobs(self, **asked: Any) -> dict[str, Any]:
        self.calls["ListJobs"] += 1
        if token := asked.get("nextToken"):
            rows = self._pages.pop(token)
        elif "arrayJobId" in asked:
            rows = self._listed_children(asked["arrayJobId"], asked.get("jobStatus") or "RUNNING")
        elif asked.get("filters"):
            (only,) = asked["filters"]
            rows = self._listed_names(only["values"][0])
        else:
            rows = self._listed(asked.get("jobStatus") or "RUNNING")
        most = 100 if asked.get("filters") else 1000
        page = list(itertools.islice(rows, min(most, asked.get("maxResults") or most)))
        answer: dict[str, Any] = {"jobSummaryList": page}
        after = next(rows, None)
        if after is not None:
            answer["nextToken"] = uuid.uuid4().hex
            self._pages[answer["nextToken"]] = itertools.chain([after], rows)
        return answer

    def terminate_job(self, jobId: str, reason: str) -> dict[str, Any]:
        self.calls["TerminateJob"] += 1
        self._stop(jobId, reason)
        return {}

    def cancel_job(self, jobId: str, reason: str) -> dict[str, Any]:
        self.calls["CancelJob"] += 1
        job, index = self._find(jobId)
        if job is not None and self._status(job, index) in ("SUBMITTED", "PENDING", "RUNNABLE"):
            self._stop(jobId, reason)
        return {}

    def terminate_jobs(self, jobs: list[str], reason: str) -> dict[str, Any]:
        self.calls["TerminateJobs"] += 1
        if not 1 <= len(jobs) <= _BULK:
            raise ApiError(400, "ClientException", f"jobs must have 1 to {_BULK} job IDs, got {len(jobs)}")
        for job_id in jobs:
            self._stop(job_id, reason)
        return {"successful": list(jobs), "errors": []}

    def cancel_jobs(self, jobs: list[str], reason: str) -> dict[str, Any]:
        for job_id in jobs:
            self.cancel_job(job_id, reason)
        self.calls["CancelJob"] -= len(jobs)
        self.calls["CancelJobs"] += 1
        return {"successful": list(jobs), "errors": []}

    def describe_job_queues(self, jobQueues: list[str], **_: Any) -> dict[str, Any]:
        self.calls["DescribeJobQueues"] += 1
        arn = f"arn:aws:batch:{REGION}:000000000000:job-queue/{QUEUE}"
        row = {"jobQueueName": QUEUE, "jobQueueArn": arn, "state": "ENABLED", "status": "VALID", "priority": 1}
        return {"jobQueues": [{**row, "computeEnvironmentOrder": []}]}

    def describe_job_definitions(self, **_: Any) -> dict[str, Any]:
        self.calls["DescribeJobDefinitions"] += 1
        arn = f"arn:aws:batch:{REGION}:000000000000:job-definition/{DEFINITION}:1"
        row = {"jobDefinitionName": DEFINITION, "jobDefinitionArn": arn, "revision": 1, "status": "ACTIVE", "type": "container"}
        return {"jobDefinitions": [row]}

    # For those who measure

    def ended_at(self, job_id: str) -> float:
        """When Batch showed the end of a job, or will."""
        job, index = self._find(job_id)
        assert job is not None
        return self._times(job, index)[1]

    def unfinished(self) -> int:
        """Jobs that are not over, children counted."""
        return sum(sum(self._counts(job).get(s, 0) for s in _ACTIVE) for job in self._jobs.values())

    def _find(self, job_id: str) -> tuple[_Job | None, int]:
        """The job and the index of the child that is meant, -1 for the job itself."""
        name, _, index = job_id.partition(":")
        return self._jobs.get(name), int(index) if index else -1

    def _times(self, job: _Job, index: int) -> tuple[float, float]:
        """When the job, or the child, began and ended or will."""
        end = job.ends[0][index] if job.ends and index >= 0 else job.end
        return job.begin, min(end, job.stopped[index][0]) if index in job.stopped else end

    def _status(self, job: _Job, index: int) -> str:
        if job.size and index < 0:
            counts = self._counts(job)
            if any(counts.get(status) for status in _ACTIVE):
                return "PENDING"
            return "FAILED" if counts.get("FAILED") else "SUCCEEDED"
        now, (begin, end) = self._clock(), self._times(job, index)
        if index in job.stopped and job.stopped[index][0] <= end and now >= end:
            return "FAILED"
        return "RUNNABLE" if now < min(begin, end) else "RUNNING" if now < end else "SUCCEEDED"

    def _counts(self, job: _Job) -> dict[str, int]:
        if job.ends is None:
            return {self._status(job, -1): 1}
        now = self._clock()
        if now < job.begin:
            counts = collections.Counter({"RUNNABLE": job.size})
        else:
            over = bisect.bisect_right(job.ends[1], now)
            # Whoever is told of an end may look for its result without asking about the child.
            for index in job.ends[2][job.seen : over]:
                if index not in job.stopped:
                    self._run(job, index)
            job.seen = max(job.seen, over)
            counts = collections.Counter({"RUNNING": job.size - over, "SUCCEEDED": over})
        for index in job.stopped:
            end = job.ends[0][index]
            counts["RUNNABLE" if now < job.begin else "RUNNING" if now < end else "SUCCEEDED"] -= 1
            counts[self._status(job, index)] += 1
        return {status: count for status, count in counts.items() if count}

    def _stop(self, job_id: str, reason: str) -> None:
        job, index = self._find(job_id)
        if job is None:
            return
        for each in range(job.size) if job.size and index < 0 else (index,):
            if self._status(job, each) in _ACTIVE:
                job.stopped.setdefault(each, (self._clock(), reason))

    def _common(self, job: _Job, index: int) -> dict[str, Any]:
        """What JobDetail and JobSummary have in common."""
        status = self._status(job, index)
        row: dict[str, Any] = {
            "jobId": job.id if index < 0 else f"{job.id}:{index}",
            "jobArn": f"arn:aws:batch:{REGION}:000000000000:job/{job.id}",
            "jobName": job.name,
            "status": status,
            "createdAt": int(job.created * 1000),
        }
        if job.size:
            row["arrayProperties"] = {"index": index} if index >= 0 else {"size": job.size}
        begin, end = self._times(job, index)
        if status in ("RUNNING", "SUCCEEDED") or (status == "FAILED" and begin < end):
            row["startedAt"] = int(begin * 1000)
        if status in ("SUCCEEDED", "FAILED"):
            row["stoppedAt"] = int(end * 1000)
            row["statusReason"] = job.stopped[index][1] if status == "FAILED" and index in job.stopped else EXITED
            if status == "SUCCEEDED" and not (job.size and index < 0):
                row["container"] = {"exitCode": 0}
                self._run(job, index)
        return row

    def _detail(self, job: _Job, index: int) -> dict[str, Any]:
        row = self._common(job, index)
        row |= {"jobQueue": f"arn:aws:batch:{REGION}:000000000000:job-queue/{QUEUE}", "jobDefinition": DEFINITION}
        row.setdefault("startedAt", 0)
        container = row.setdefault("container", {})
        container["environment"] = [{"name": name, "value": value} for name, value in job.environment.items()]
        container["resourceRequirements"] = [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "128"}]
        if row["status"] in ("SUCCEEDED", "FAILED") and row["startedAt"]:
            times = {"startedAt": row["startedAt"], "stoppedAt": row["stoppedAt"], "statusReason": row["statusReason"]}
            row["attempts"] = [{"container": {"exitCode": container.get("exitCode", 143)}, **times}]
        if job.size and index < 0:
            row["arrayProperties"]["statusSummary"] = self._counts(job)
        return row

    def _listed_children(self, job_id: str, status: str) -> Iterator[dict[str, Any]]:
        job, _ = self._find(job_id)
        if job is None or not job.size:
            raise ApiError(400, "ClientException", f"Job {job_id} has no children of that kind")
        return iter([self._common(job, index) for index in range(job.size) if self._status(job, index) == status])

    def _listed_names(self, wanted: str) -> Iterator[dict[str, Any]]:
        wanted = wanted.lower()
        names = [name for name in self._names if name.startswith(wanted[:-1])] if wanted.endswith("*") else [wanted]
        return iter([self._common(self._jobs[each], -1) for name in names for each in self._names.get(name, ())])

    def _listed(self, status: str) -> Iterator[dict[str, Any]]:
        found = [job for job in self._jobs.values() if self._status(job, -1) == status]
        return (self._common(job, -1) for job in reversed(found))

    def _run(self, job: _Job, index: int) -> None:
        """Do in S3, once, what the container has done by now."""
        if isinstance(job.ran, bool):
            if job.ran:
                return
            job.ran = True
        elif index in job.ran:
            return
        else:
            job.ran.add(index)
        if job.environment:
            run_container(self._s3, job.environment, job.id if index < 0 else f"{job.id}:{index}", index)


def run_container(s3: S3, environment: dict[str, str], job_id: str, index: int = -1) -> None:
    """The requests of the entry point and the runner for a job with small inputs and outputs, in an image that has curl."""
    script = _object(s3, _key(environment["BATCH_FILE_S3_URL"]))
    if "GAHP_PACK_URL" in environment and index >= 0:
        run, submission = _identity(s3, script, _key(environment["GAHP_PACK_URL"]), index)
        where = f"{_key(environment['GAHP_PACK_URL']).rpartition('/')[0]}/{run}/{submission}"
    else:
        where = f"{_key(environment['GAHP_RUN_URL'])}/{environment['GAHP_SUBMISSION']}"
    s3.put_object(BUCKET, f"{where}/claim", job_id.encode())
    s3.put_object(BUCKET, f"{where}/result", RESULT)


def _identity(s3: S3, script: bytes, pack: str, index: int) -> tuple[str, str]:
    """Run and submission of a child, out of its part of the pack: see gahp/sandbox/manifest.py."""
    head = script[:400]
    payload, size = (re.search(rb"^%b=([0-9]+)" % name, head, re.MULTILINE) for name in (b"PAYLOAD", b"PACK"))
    if payload is None or size is None:
        raise RuntimeError(f"{pack} has no manifest of a pack")
    offset = int(payload[1]) - 1
    rows = script[offset : offset + int(size[1])].split(b"\n")
    row = rows[bisect.bisect_right(rows, b"%06d~" % index, hi=len(rows) - 1) - 1]
    first, count, number, begin, length = map(int, row.split())
    file, offset = (_object(s3, f"{pack}/shard/{number}"), 0) if number else (script, offset)
    members = _members(file[offset + begin - 1 : offset + begin - 1 + length], count)
    return members[index - first]


@functools.lru_cache(maxsize=512)
def _members(block: bytes, count: int) -> list[tuple[str, str]]:
    """Run and submission of every child of a block. Each container unpacks it by itself; here one does for its neighbours."""
    unpacked, begin, found = gzip.decompress(block), 11 * count, []
    for child in range(count):
        end = begin + int(unpacked[11 * child : 11 * child + 10])
        said = re.search(rb"\0run=([A-Za-z0-9_-]+)\0submission=([0-9]+)\0", unpacked[begin:end])
        if said is None:
            raise RuntimeError(f"child {child} of a block of {count} does not say whose it is")
        found.append((said[1].decode(), said[2].decode()))
        begin = end
    return found


def _object(s3: S3, key: str) -> bytes:
    return bytes(s3.get_object(BUCKET, key)["Body"].getbuffer())


def _key(url: str) -> str:
    return url.removeprefix(f"s3://{BUCKET}/")


def _result() -> bytes:
    """A result object (see gahp/sandbox/result.py) of a job that wrote OUTPUT and ended well."""
    digest = hashlib.sha256(OUTPUT).hexdigest()
    record = ["o", "-", "r", str(len(OUTPUT)), digest, "600", "stdout"]
    ending = {"version": 1, "exit_code": 0, "phase": "", "message": "", "oom": False, "terminated": False, "attempt": 1}
    content = {
        "exit.json": json.dumps({**ending, "bytes_sent": len(OUTPUT), "bytes_received": 0}).encode(),
        "files": "".join(item + "\0" for item in record).encode(),
        "stdout": OUTPUT,
    }
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return target.getvalue()


RESULT = _result()


class Client:
    """`Batch` or `S3` in the place of a boto3 client of this process: ClientError instead of ApiError, and a call takes a while.

    `latency_s`: seconds by operation (boto3's method names), passed to `sleep`.
    """

    def __init__(self, service: Batch | S3, lock: Any, sleep: Callable[[float], None], latency_s: dict[str, float]) -> None:
        self._service, self._lock, self._sleep, self._latency_s = service, lock, sleep, latency_s

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._service, name)
        latency = self._latency_s.get(name, self._latency_s.get("*", 0.0))

        def call(**arguments: Any) -> Any:
            if latency:
                self._sleep(latency)
            try:
                with self._lock:
                    return method(**arguments)
            except ApiError as error:
                import botocore.exceptions  # noqa: PLC0415

                about = {"Code": error.code, "Message": str(error)}
                answer = {"Error": about, "ResponseMetadata": {"HTTPStatusCode": error.status}}
                raise botocore.exceptions.ClientError(answer, name) from None

        return call
