"""What both the embedded AWS and the simulated account do alike: the same cases against either."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from botocore.exceptions import ClientError

from bench import peers
from bench.driver import Gahp, submit_ads
from tests.bench.conftest import KINDS, gahp_environment

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def test_describe_jobs_takes_100_ids_and_leaves_unknown_ones_out(account):
    known = account.submit("described")
    ids = [known, *(UNKNOWN[:-3] + f"{number:03}" for number in range(99))]
    assert [job["jobId"] for job in account.batch.describe_jobs(jobs=ids)["jobs"]] == [known]
    with pytest.raises(ClientError) as refused:
        account.batch.describe_jobs(jobs=[*ids, UNKNOWN.replace("4", "5")])
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_jobs_are_listed_by_name_whatever_their_status_and_by_the_beginning_of_it(account):
    first, second = account.submit("named-1"), account.submit("named-2")

    def listed(pattern):
        filters = [{"name": "JOB_NAME", "values": [pattern]}]
        return {row["jobId"] for row in account.batch.list_jobs(jobQueue=account.queue, filters=filters)["jobSummaryList"]}

    assert listed("named-1") == {first}
    assert listed("named-*") == {first, second}
    assert listed("named") == set()


def test_the_pages_of_a_list_join_to_the_whole(account):
    parent = account.submit("paged", arrayProperties={"size": 5})
    account.batch.terminate_job(jobId=parent, reason="no more")
    account.until(lambda: account.describe(parent), lambda job: job["status"] == "FAILED")
    found, token = [], {}
    while True:
        page = account.batch.list_jobs(arrayJobId=parent, jobStatus="FAILED", maxResults=2, **token)
        found.append([row["jobId"] for row in page["jobSummaryList"]])
        if not page.get("nextToken"):
            break
        token = {"nextToken": page["nextToken"]}
    assert all(len(page) <= 2 for page in found)
    assert sorted(itertools.chain.from_iterable(found)) == [f"{parent}:{index}" for index in range(5)]


def test_an_array_counts_its_children_and_stays_pending_while_any_is_not_over(account):
    parent = account.submit("counted", arrayProperties={"size": 3})
    account.until(lambda: account.describe(f"{parent}:1"), lambda job: job["status"] == "RUNNING")
    account.batch.terminate_job(jobId=f"{parent}:1", reason="one of three")
    child = account.until(lambda: account.describe(f"{parent}:1"), lambda job: job["status"] == "FAILED")
    assert child["statusReason"] == "one of three"
    assert child["arrayProperties"]["index"] == 1
    array = account.until(lambda: account.describe(parent), lambda job: job["arrayProperties"]["statusSummary"].get("FAILED"))
    assert array["status"] == "PENDING"
    assert array["arrayProperties"]["size"] == 3
    assert sum(array["arrayProperties"]["statusSummary"].values()) == 3
    account.batch.terminate_job(jobId=parent, reason="all of them")
    array = account.until(lambda: account.describe(parent), lambda job: job["status"] == "FAILED")
    assert array["arrayProperties"]["statusSummary"]["FAILED"] == 3
    assert account.describe(f"{parent}:1")["statusReason"] == "one of three"


def test_ending_a_job_that_is_over_succeeds_and_changes_nothing(account):
    job = account.submit("ended")
    account.batch.terminate_job(jobId=job, reason="the first")
    ended = account.until(lambda: account.describe(job), lambda each: each["status"] == "FAILED")
    account.batch.terminate_job(jobId=job, reason="the second")
    account.batch.terminate_job(jobId=UNKNOWN, reason="nobody")
    assert account.describe(job)["statusReason"] == ended["statusReason"] == "the first"


def test_a_running_job_is_not_cancelled(account):
    job = account.submit("running")
    account.until(lambda: account.describe(job), lambda each: each["status"] == "RUNNING")
    account.batch.cancel_job(jobId=job, reason="too late")
    assert account.describe(job)["status"] == "RUNNING"
    account.batch.terminate_job(jobId=job, reason="clean up")


SINGLE = {"PACK_SIZE": "1"}
ONE_PACK = {"PACK_QUIET": "1000", "PACK_WAIT": "10000"}


@pytest.mark.parametrize("knobs", [SINGLE, ONE_PACK], ids=["single", "packed"])
def test_jobs_of_the_gahp_come_back_with_their_output_and_cost_the_same_requests(tmp_path_factory, knobs):
    """The simulated container makes the requests of S3 that the real runner makes, so what is counted with it holds."""
    counted: dict[str, Counter[str]] = {}
    for kind, made in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        with made(folder) as account:
            account.hurry()
            jobs = [ad.replace("/bin/true", "/bin/date") for ad in submit_ads(4, str(folder), "awsbatch", "out.%d")]
            environment = gahp_environment(account, folder, POLL_INTERVAL="0.1", **knobs)
            with Gahp(peers.ours(), environment, str(folder)) as gahp:
                gahp.burst("BLAH_PING", ["awsbatch"], 1)
                before = account.calls()
                gahp.burst("BLAH_JOB_SUBMIT", jobs, 4)
                account.until(lambda folder=folder: list(folder.glob("out.[0-9]")), lambda found: len(found) == 4)
                counted[kind] = account.calls() - before
    assert counted["simulated"] == counted["embedded"]
