"""The life of a job as AWS Batch has it: states, attempts, retries, arrays, dependencies, termination."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from botocore.exceptions import ClientError

EXITED = "Essential container in task exited"
WAIT = "trap 'exit 9' TERM; while :; do sleep 0.05; done"


def test_a_job_that_exits_with_0_succeeds_with_one_attempt(account: Any) -> None:
    job = account.run("exit 0")
    assert (job["status"], job["statusReason"], job["container"]["exitCode"]) == ("SUCCEEDED", EXITED, 0)
    (attempt,) = job["attempts"]
    assert attempt["container"]["exitCode"] == 0
    assert attempt["container"]["logStreamName"] == job["container"]["logStreamName"]


def test_times_are_milliseconds_in_the_order_of_the_states(account: Any) -> None:
    job = account.run("exit 0")
    assert 1_600_000_000_000 < job["createdAt"] <= job["startedAt"] <= job["stoppedAt"]
    assert job["attempts"][0]["startedAt"] == job["startedAt"]


def test_a_job_that_exits_with_7_fails_with_that_code(account: Any) -> None:
    job = account.run("exit 7")
    assert (job["status"], job["statusReason"], job["container"]["exitCode"]) == ("FAILED", EXITED, 7)


def test_a_job_killed_by_a_signal_has_the_code_128_and_the_signal(account: Any) -> None:
    job = account.run("bash -c 'kill -9 $$'; exit $?")
    assert (job["status"], job["container"]["exitCode"]) == ("FAILED", 137)


def test_overrides_are_shown_joined_with_the_definition(account: Any) -> None:
    job = account.run("exit 0", "one", environment={"COLOUR": "blue"}, resources={"MEMORY": "256"})
    needs = {entry["type"]: entry["value"] for entry in job["container"]["resourceRequirements"]}
    assert needs == {"VCPU": "1", "MEMORY": "256"}
    assert job["container"]["command"] == ["one"]
    assert {"name": "COLOUR", "value": "blue"} in job["container"]["environment"]


def test_describing_a_job_again_shows_the_same(account: Any) -> None:
    job = account.run("exit 0", environment={"COLOUR": "blue"})
    assert account.describe(job["jobId"]) == job


def test_timeout_tags_retry_strategy_and_arns_are_shown(account: Any) -> None:
    job = account.run(
        "exit 0", tags={"who": "me"}, timeout={"attemptDurationSeconds": 77}, retryStrategy={"attempts": 2}, propagateTags=True
    )
    assert (job["tags"], job["timeout"], job["retryStrategy"]) == ({"who": "me"}, {"attemptDurationSeconds": 77}, {"attempts": 2})
    assert job["jobQueue"].endswith(":job-queue/awsbatch-local-queue")
    assert job["jobDefinition"].endswith(":job-definition/awsbatch-local-job:1")
    assert job["jobArn"].endswith(f":job/{job['jobId']}")


def test_the_tools_of_the_definition_are_used_without_overrides_and_parameters_fill_its_references(account: Any) -> None:
    environment = account.script('echo "$1-$2"')
    account.batch.register_job_definition(
        jobDefinitionName="with-parameters",
        type="container",
        parameters={"first": "a", "second": "b"},
        containerProperties={
            "image": "any",
            "command": ["Ref::first", "Ref::second"],
            "environment": environment,
            "vcpus": 1,
            "memory": 64,
        },
    )
    job_id = account.batch.submit_job(
        jobName=account.name(), jobQueue="awsbatch-local-queue", jobDefinition="with-parameters", parameters={"second": "c"}
    )["jobId"]
    assert account.output(account.wait(job_id)) == ["a-c"]


# -- retries


def test_a_failed_attempt_is_retried_until_attempts_are_used_up(account: Any) -> None:
    job = account.run('echo "attempt $AWS_BATCH_JOB_ATTEMPT"; exit 3', retryStrategy={"attempts": 3})
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [3, 3, 3]
    assert job["status"] == "FAILED"
    assert account.output(job) == ["attempt 3"]
    assert len({attempt["container"]["logStreamName"] for attempt in job["attempts"]}) == 3


def test_an_attempt_that_succeeds_ends_the_retries(account: Any) -> None:
    job = account.run("exit $((AWS_BATCH_JOB_ATTEMPT == 2 ? 0 : 1))", retryStrategy={"attempts": 5})
    assert (job["status"], len(job["attempts"])) == ("SUCCEEDED", 2)


def test_a_rule_that_says_exit_ends_the_retries(account: Any) -> None:
    rules = [{"onExitCode": "4*", "action": "RETRY"}, {"onReason": "*", "action": "EXIT"}]
    job = account.run("exit $((AWS_BATCH_JOB_ATTEMPT == 1 ? 42 : 5))", retryStrategy={"attempts": 5, "evaluateOnExit": rules})
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [42, 5]


def test_without_a_matching_rule_an_attempt_is_retried(account: Any) -> None:
    strategy = {"attempts": 2, "evaluateOnExit": [{"onExitCode": "99", "action": "EXIT"}]}
    assert len(account.run("exit 1", retryStrategy=strategy)["attempts"]) == 2


# -- arrays


def test_an_array_runs_every_child_with_its_index(account: Any) -> None:
    parent = account.run('echo "$AWS_BATCH_JOB_ARRAY_INDEX of $AWS_BATCH_JOB_ARRAY_SIZE"', arrayProperties={"size": 3})
    assert parent["status"] == "SUCCEEDED"
    assert parent["arrayProperties"]["size"] == 3
    assert parent["arrayProperties"]["statusSummary"]["SUCCEEDED"] == 3
    children = account.batch.describe_jobs(jobs=[f"{parent['jobId']}:{index}" for index in range(3)])["jobs"]
    assert [child["arrayProperties"] for child in children] == [{"index": index} for index in range(3)]
    assert [account.output(child) for child in children] == [[f"{index} of 3"] for index in range(3)]


def test_an_array_is_pending_while_its_children_run(account: Any) -> None:
    parent = account.submit(WAIT, arrayProperties={"size": 2})
    account.wait(f"{parent}:1", "RUNNING")
    account.wait(f"{parent}:0", "RUNNING")
    job = account.describe(parent)
    assert (job["status"], job["arrayProperties"]["statusSummary"]["RUNNING"]) == ("PENDING", 2)
    account.batch.terminate_job(jobId=parent, reason="enough")
    account.wait(parent)


def test_a_child_that_fails_fails_the_array_after_the_others_have_ended(account: Any) -> None:
    parent = account.run("exit $AWS_BATCH_JOB_ARRAY_INDEX", arrayProperties={"size": 3})
    assert (parent["status"], parent["statusReason"]) == ("FAILED", "Array Child Job failed")
    summary = parent["arrayProperties"]["statusSummary"]
    assert (summary["SUCCEEDED"], summary["FAILED"]) == (1, 2)


def test_one_child_of_an_array_can_be_terminated(account: Any) -> None:
    parent = account.submit('[ "$AWS_BATCH_JOB_ARRAY_INDEX" = 0 ] || ' + f"{{ {WAIT}; }}", arrayProperties={"size": 2})
    account.wait(f"{parent}:1", "RUNNING")
    account.batch.terminate_job(jobId=f"{parent}:1", reason="this one")
    assert account.wait(parent)["arrayProperties"]["statusSummary"]["FAILED"] == 1
    assert account.describe(f"{parent}:0")["status"] == "SUCCEEDED"
    assert account.describe(f"{parent}:1")["statusReason"] == "this one"


def test_one_child_of_an_array_can_be_cancelled_before_it_starts(account: Any) -> None:
    account.aws.faults.stuck(name="waits-*")
    parent = account.submit(name="waits-array", arrayProperties={"size": 3})
    account.batch.cancel_job(jobId=f"{parent}:1", reason="not this one")
    child = account.wait(f"{parent}:1")
    assert (child["status"], child["statusReason"], child["attempts"]) == ("FAILED", "not this one", [])
    account.aws.faults.clear()
    assert account.wait(parent)["arrayProperties"]["statusSummary"]["SUCCEEDED"] == 2


def test_a_child_whose_host_goes_away_is_retried_alone_with_the_same_id(account: Any) -> None:
    script = 'echo "$AWS_BATCH_JOB_ID $AWS_BATCH_JOB_ATTEMPT"; [ "$AWS_BATCH_JOB_ARRAY_INDEX$AWS_BATCH_JOB_ATTEMPT" != 11 ] || '
    parent = account.submit(script + f"{{ {WAIT}; }}", arrayProperties={"size": 2}, retryStrategy={"attempts": 2})
    account.wait(f"{parent}:1", "RUNNING")
    assert account.aws.faults.vanish(f"{parent}:1")
    account.wait(parent)
    children = [account.describe(f"{parent}:{index}") for index in range(2)]
    assert [(child["status"], len(child["attempts"])) for child in children] == [("SUCCEEDED", 1), ("SUCCEEDED", 2)]
    assert account.output(children[1]) == [f"{parent}:1 2"]


def test_terminating_an_array_terminates_all_its_children(account: Any) -> None:
    account.aws.faults.stuck(name="held-*")
    parent = account.submit(name="held-array", arrayProperties={"size": 50})
    account.batch.terminate_job(jobId=parent, reason="all of it")
    job = account.wait(parent)
    assert (job["status"], job["statusReason"], job["arrayProperties"]["statusSummary"]["FAILED"]) == ("FAILED", "all of it", 50)


def test_an_array_of_10000_is_taken_and_ends(account: Any) -> None:
    account.aws.faults.stuck(name="large-*")
    parent = account.submit(name="large-array", arrayProperties={"size": 10000})
    assert account.describe(f"{parent}:9999")["status"] == "RUNNABLE"
    account.batch.cancel_job(jobId=parent, reason="too many")
    assert account.wait(parent)["arrayProperties"]["statusSummary"]["FAILED"] == 10000


# -- dependencies


def test_a_job_waits_in_pending_for_the_jobs_it_depends_on(account: Any) -> None:
    account.aws.faults.stuck(name="first-*")
    first = account.submit(name="first-1")
    second = account.submit(dependsOn=[{"jobId": first}])
    assert account.describe(second)["status"] == "PENDING"
    account.aws.faults.clear()
    assert account.wait(second)["startedAt"] >= account.describe(first)["stoppedAt"]


def test_a_job_whose_dependency_fails_fails_without_an_attempt(account: Any) -> None:
    first = account.submit("sleep 0.2; exit 1")
    second = account.wait(account.submit(dependsOn=[{"jobId": first}]))
    third = account.wait(account.submit(dependsOn=[{"jobId": second["jobId"]}]))
    for job in (second, third):
        assert (job["status"], job["statusReason"], job["attempts"]) == ("FAILED", "Dependent Job failed", [])


def test_a_sequential_array_runs_one_child_after_the_other(account: Any) -> None:
    parent = account.run("exit 0", arrayProperties={"size": 3}, dependsOn=[{"type": "SEQUENTIAL"}])["jobId"]
    children = [account.describe(f"{parent}:{index}") for index in range(3)]
    assert all(one["stoppedAt"] <= next_one["startedAt"] for one, next_one in itertools.pairwise(children))


def test_a_long_sequential_array_fails_as_a_whole_when_its_first_child_fails(account: Any) -> None:
    parent = account.run("exit 1", arrayProperties={"size": 3000}, dependsOn=[{"type": "SEQUENTIAL"}])
    assert parent["arrayProperties"]["statusSummary"]["FAILED"] == 3000
    assert account.describe(f"{parent['jobId']}:2999")["statusReason"] == "Dependent Job failed"


def test_n_to_n_lets_each_child_wait_for_its_own_number_only(account: Any) -> None:
    first = account.submit("exit $AWS_BATCH_JOB_ARRAY_INDEX", arrayProperties={"size": 2})
    second = account.run("exit 0", arrayProperties={"size": 2}, dependsOn=[{"jobId": first, "type": "N_TO_N"}])
    children = [account.describe(f"{second['jobId']}:{index}") for index in range(2)]
    assert [child["status"] for child in children] == ["SUCCEEDED", "FAILED"]


# -- ending jobs


def test_terminating_a_running_job_sends_sigterm_and_keeps_the_reason(account: Any) -> None:
    job_id = account.submit(WAIT, retryStrategy={"attempts": 3})
    account.wait(job_id, "RUNNING")
    account.batch.terminate_job(jobId=job_id, reason="condor_rm")
    job = account.wait(job_id)
    assert (job["status"], job["statusReason"], job["isTerminated"]) == ("FAILED", "condor_rm", True)
    assert len(job["attempts"]) == 1


def test_a_handler_for_sigterm_is_run(account: Any) -> None:
    job_id = account.submit("trap 'echo saved; exit 9' TERM; echo ready; while :; do sleep 0.02; done")
    account.wait_for_line(job_id, "ready")
    account.batch.terminate_job(jobId=job_id, reason="x")
    job = account.wait(job_id)
    assert job["container"]["exitCode"] == 9
    assert account.output(job) == ["ready", "saved"]


def test_a_job_that_ignores_sigterm_is_killed_after_the_grace_time(account: Any) -> None:
    job_id = account.submit("trap '' TERM; echo ready; while :; do sleep 0.02; done")
    account.wait_for_line(job_id, "ready")
    account.batch.terminate_job(jobId=job_id, reason="x")
    assert account.wait(job_id)["container"]["exitCode"] == 137


def test_a_terminated_job_fails_even_if_it_exits_with_0(account: Any) -> None:
    job_id = account.submit("trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done")
    account.wait_for_line(job_id, "ready")
    account.batch.terminate_job(jobId=job_id, reason="stop")
    job = account.wait(job_id)
    assert (job["status"], job["container"]["exitCode"], job["statusReason"]) == ("FAILED", 0, "stop")


@pytest.mark.parametrize("call", ["terminate_job", "cancel_job"])
def test_a_job_that_has_not_started_fails_at_once_without_an_attempt(account: Any, call: str) -> None:
    account.aws.faults.stuck(name="waiting-*")
    job_id = account.submit(name="waiting-1")
    getattr(account.batch, call)(jobId=job_id, reason="not needed")
    job = account.describe(job_id)
    assert (job["status"], job["statusReason"], job["attempts"]) == ("FAILED", "not needed", [])
    assert "exitCode" not in job["container"]
    assert (job["isTerminated"], job["isCancelled"]) == (call == "terminate_job", call == "cancel_job")


def test_cancelling_a_running_job_succeeds_and_changes_nothing(account: Any) -> None:
    job_id = account.submit("sleep 0.5")
    account.wait(job_id, "RUNNING")
    account.batch.cancel_job(jobId=job_id, reason="too late")
    job = account.wait(job_id)
    assert (job["status"], job["isCancelled"]) == ("SUCCEEDED", False)


def test_a_cancelled_job_that_waits_for_others_fails_when_they_are_done(account: Any) -> None:
    account.aws.faults.stuck(name="before-*")
    first = account.submit(name="before-1")
    second = account.submit(dependsOn=[{"jobId": first}])
    account.batch.cancel_job(jobId=second, reason="not needed")
    job = account.describe(second)
    assert (job["status"], job["isCancelled"]) == ("PENDING", True)
    account.aws.faults.clear()
    assert account.wait(second)["statusReason"] == "not needed"


def test_ending_a_finished_job_changes_nothing(account: Any) -> None:
    before = account.run("exit 0")
    account.batch.terminate_job(jobId=before["jobId"], reason="late")
    account.batch.cancel_job(jobId=before["jobId"], reason="late")
    assert account.describe(before["jobId"]) == before


@pytest.mark.parametrize("call", ["terminate_jobs", "cancel_jobs"])
def test_the_bulk_calls_take_50_jobs_and_report_each(account: Any, call: str) -> None:
    account.aws.faults.stuck(name="many-*")
    ids = [account.submit(name=f"many-{number}") for number in range(3)]
    unknown = "00000000-0000-0000-0000-000000000000"
    answer = getattr(account.batch, call)(jobs=[*ids, unknown, "no id"], reason="all")
    assert answer["successful"] == [*ids, unknown]
    assert [(error["job"], error["code"]) for error in answer["errors"]] == [("no id", "ValidationException")]
    assert {account.describe(job_id)["statusReason"] for job_id in ids} == {"all"}
    with pytest.raises(ClientError, match="50"):
        getattr(account.batch, call)(jobs=[unknown] * 51, reason="all")


# -- placement


def test_no_more_jobs_run_at_once_than_vcpus_allow(account: Any) -> None:
    queue = account.queue(vcpus=2)
    ids = [account.submit(WAIT, queue=queue) for _ in range(3)]
    for job_id in ids[:2]:
        account.wait(job_id, "RUNNING")
    assert account.describe(ids[2])["status"] == "RUNNABLE"
    account.batch.terminate_job(jobId=ids[0], reason="room")
    account.wait(ids[2], "RUNNING")
    account.batch.terminate_jobs(jobs=ids, reason="over")


def test_no_more_jobs_run_at_once_than_memory_allows(account: Any) -> None:
    ids = [account.submit(WAIT, resources={"MEMORY": "9000"}) for _ in range(2)]
    account.wait(ids[0], "RUNNING")
    assert account.describe(ids[1])["status"] == "RUNNABLE"
    account.batch.terminate_jobs(jobs=ids, reason="over")
    for job_id in ids:
        account.wait(job_id)


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        ({"MEMORY": "99999999"}, "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - "),
        ({"GPU": "1"}, "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - "),
        ({"VCPU": "5000"}, "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - "),
    ],
)
def test_a_job_that_asks_for_more_than_there_can_be_stays_runnable_with_a_reason(
    account: Any, resources: dict[str, str], reason: str
) -> None:
    job_id = account.submit(resources=resources)
    behind = account.run("exit 0")
    job = account.describe(job_id)
    assert (job["status"], behind["status"]) == ("RUNNABLE", "SUCCEEDED")
    assert job["statusReason"].startswith(reason)
    account.batch.terminate_job(jobId=job_id, reason="over")


def test_more_vcpus_for_the_environment_let_a_job_that_was_too_large_run(account: Any) -> None:
    queue = account.queue(vcpus=1)
    job_id = account.submit(queue=queue, resources={"VCPU": "2"})
    account.batch.update_compute_environment(computeEnvironment=f"{queue}-environment", computeResources={"maxvCpus": 2})
    assert account.wait(job_id)["status"] == "SUCCEEDED"


def test_a_disabled_queue_takes_no_new_jobs_but_finishes_its_own(account: Any) -> None:
    queue = account.queue(vcpus=1)
    first, second = account.submit(WAIT, queue=queue), account.submit(queue=queue)
    account.wait(first, "RUNNING")
    account.batch.update_job_queue(jobQueue=queue, state="DISABLED")
    with pytest.raises(ClientError, match="ENABLED"):
        account.submit(queue=queue)
    account.batch.terminate_job(jobId=first, reason="room")
    assert account.wait(second)["status"] == "SUCCEEDED"


def test_a_fair_share_queue_demands_a_share_identifier_and_shows_it(account: Any) -> None:
    queue = account.queue(fair_share=True)
    with pytest.raises(ClientError, match="shareIdentifier"):
        account.submit(queue=queue)
    job = account.run("exit 0", queue=queue, shareIdentifier="physics", schedulingPriorityOverride=5)
    assert (job["shareIdentifier"], job["schedulingPriority"]) == ("physics", 5)


def test_a_plain_queue_refuses_a_share_identifier(account: Any) -> None:
    with pytest.raises(ClientError, match="shareIdentifier"):
        account.submit(shareIdentifier="physics")
