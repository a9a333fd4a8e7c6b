"""Every Batch job of a test, a child in place of its array job: whose child it is stands in the pack's manifest."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from typing import Any

from gahp.batch.service import DESCRIBE_PAGE
from gahp.local import LocalAws
from gahp.sandbox import Sandbox

STATUSES = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")


def batch_rows(aws: LocalAws, pattern: str = "*", queue: str = "") -> list[dict[str, Any]]:
    """Rows of ListJobs for all jobs whose name fits. A child's has the name that its run would have had alone, and its parent's
    id as `arrayJobId`."""
    client, queue = aws.client("batch"), queue or aws.environment()["_CONDOR_AWSBATCH_JOB_QUEUE"]
    rows = []
    for row in _pages(client, jobQueue=queue, filters=[{"name": "JOB_NAME", "values": [pattern]}]):
        if "size" not in row.get("arrayProperties", {}):
            rows.append(row)
            continue
        names = members(aws, row["jobName"])
        for status in STATUSES:
            for child in _pages(client, arrayJobId=row["jobId"], jobStatus=status):
                name = names[child["arrayProperties"]["index"]]
                rows.append({**child, "jobName": name, "arrayJobId": row["jobId"]})
    # A child that changed its status between two pages may have come twice.
    return list({row["jobId"]: row for row in rows}.values())


def batch_jobs(aws: LocalAws, run: str, queue: str = "") -> list[dict[str, Any]]:
    """Details of all jobs whose names begin with `run`, oldest first; children of array jobs by the names of their runs."""
    # A pack has the cluster of its first run, which need not be this one's.
    rows = batch_rows(aws, run + "*", queue) + [row for row in batch_rows(aws, "*", queue) if "arrayJobId" in row]
    names = {row["jobId"]: row["jobName"] for row in rows if row["jobName"].startswith(run)}
    ids, client = list(names), aws.client("batch")
    pages = [ids[start : start + DESCRIBE_PAGE] for start in range(0, len(ids), DESCRIBE_PAGE)]
    found = [{**job, "jobName": names[job["jobId"]]} for page in pages for job in client.describe_jobs(jobs=page)["jobs"]]
    return sorted(found, key=lambda job: job["createdAt"])


def members(aws: LocalAws, pack: str) -> list[str]:
    """The names of the children's runs, as Batch would have them if each were a job of its own, by index."""
    bucket, _, prefix = aws.environment()["_CONDOR_AWSBATCH_S3_URL"].removeprefix("s3://").partition("/")
    sandbox = Sandbox(aws.client("s3"), bucket, prefix, threads=1)
    try:
        records = [json.loads(record.text.partition(" ")[2]) for record in sandbox.records_of(pack)]
    finally:
        sandbox.close()
    return [record["name"] + (f"-{record['submission']}" if record["submission"] else "") for record in records]


def _pages(client: Any, **asked: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    token: dict[str, str] = {}
    while True:
        page = client.list_jobs(**asked, **token)
        rows += page["jobSummaryList"]
        if not page.get("nextToken"):
            return rows
        token = {"nextToken": page["nextToken"]}


@functools.cache
def curl_signs() -> bool:
    """Whether jobs here have a curl that can sign requests, and so ask S3 for less."""
    if shutil.which("curl") is None:
        return False
    return "--aws-sigv4" in subprocess.run(["curl", "--help", "all"], capture_output=True, text=True, check=False).stdout
