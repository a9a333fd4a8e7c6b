"""What why says of every state and every kind of trouble, by value."""

import dataclasses

import pytest

from gahp.batch.insight import Environment, Line, Queue
from gahp.cli.diagnosis import Facts, Size, explain, needs_queue
from gahp.history import Attempt, History
from gahp.model import HoldCode
from gahp.run import RunState, Wanted

NOW = 1_795_000_000.0
RUN = History(
    name="12-0-a",
    job_id="awsbatch/20261118/12-0-a",
    condor_id="12.0",
    state=RunState.SUBMITTED,
    native_id="id",
    queue="q",
    accepted=NOW - 500,
    submitted=NOW - 400,
    status="RUNNABLE",
    since=NOW - 300,
    cpus=4,
    memory_mib=1000,
    moves={"ACCEPTED": NOW - 500, "STAGED": NOW - 450, "SUBMITTED": NOW - 400},
)
VALID = Environment("ce", max_vcpus=16, types=("m5",))
BAD = Environment("bad", status="INVALID", reason="no such subnet")
OPEN = Queue("q", environments=(VALID,))


def told(queue=None, line=None, hosts=(), problem="", unasked="", asked=True, **run):
    return " ".join(
        explain(Facts(dataclasses.replace(RUN, **run), NOW, asked, queue, line, dict(hosts), problem, unasked)),
    )


def held(reason, **more):
    return told(state=RunState.HELD, status="FAILED", hold_reason=reason, over=NOW, **more)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"queue": None}, "The job queue q does not exist"),
        (
            {"queue": Queue("q", state="DISABLED", environments=(VALID,)), "line": Line(0, 1, 1.0)},
            "q is DISABLED: it takes no new jobs, and those that it has can still start. Enable it in AWS Batch to submit"
            " more. The queue q has room (1 of 16",
        ),
        ({"queue": Queue("q", status="INVALID", reason="its environment is gone")}, "is INVALID: its environment is gone."),
        ({"queue": Queue("q")}, "has no compute environment"),
        ({"queue": Queue("q", environments=(Environment("ce", state="DISABLED"),))}, "environment ce is DISABLED: enable it"),
        ({"queue": Queue("q", environments=(BAD,))}, "bad is INVALID: no such subnet. Name subnets"),
        ({"queue": Queue("q", environments=(Environment("ce", status="UPDATING"),))}, "is UPDATING: AWS Batch needs some"),
        (
            {"queue": Queue("q", environments=(VALID, BAD)), "status_reason": "CAPACITY:NEWS"},
            "AWS Batch says: CAPACITY:NEWS. Its compute environment bad is INVALID",
        ),
        ({"queue": Queue("q", environments=(Environment("ce", status="INVALID"),))}, "AWS Batch gives no reason. Mend what"),
        ({"queue": OPEN, "cpus": 17}, "asks for 17 vCPUs, and no compute environment"),
        (
            {"queue": Queue("q", environments=(VALID, BAD)), "line": Line()},
            "Its compute environment bad is INVALID: no such subnet. Name subnets and security groups of the Region that"
            " exist. The queue q has room",
        ),
        ({"queue": OPEN, "hosts": {"ce": (Size("m5.large", 2, 8192),)}}, "No instance type fits 4 vCPUs: the largest of ce"),
        (
            {"queue": OPEN, "hosts": {"ce": (Size("m5.large", 96, 500),)}},
            "No instance type fits 1000 MiB of memory: the largest of ce (m5) is m5.large with 500, 458 of them for jobs. Lower"
            " request_memory",
        ),
        (
            {"queue": OPEN, "memory_mib": 8192, "hosts": {"ce": (Size("m5.large", 96, 8192),)}},
            "No instance type fits 8192 MiB of memory: the largest of ce (m5) is m5.large with 8192, 7996 of them for jobs.",
        ),
        ({"queue": OPEN, "gpus": 1, "hosts": {"ce": (Size("m5.large", 96, 5000),)}}, "fits 1 GPUs"),
        (
            {"queue": OPEN, "hosts": {"ce": (Size("c5.xlarge", 4, 512), Size("r5.large", 2, 16384))}},
            "No instance type has 4 vCPUs and 1000 MiB of memory together (ce: m5). Lower request_cpus or request_memory, or",
        ),
        (
            {"queue": OPEN, "line": Line(7, 3, 14.0)},
            "asks for 4 vCPUs, and 14 of the 16 that the queue q may have (maxvCpus) are in use by 3 jobs, with 7 jobs in front",
        ),
        (
            {"queue": OPEN, "line": Line(500, 200, 14.0, complete=False)},
            "at least 14 of the 16 that the queue q may have (maxvCpus) are in use by 200 jobs, with at least 500 jobs in front",
        ),
        ({"queue": OPEN, "line": Line(0, 1, 1.0)}, "has room (1 of 16 vCPUs are in use, no job in front of it): AWS Batch is"),
        ({"queue": OPEN, "line": Line(1, 1, 1.0)}, "which takes minutes, or what is in front asks for more than is free."),
        (
            {"queue": OPEN, "line": Line(0, 1, 1.0), "since": NOW - 1000},
            "has room (1 of 16 vCPUs are in use, no job in front of it), and the job has waited longer than a host takes",
        ),
        (
            {
                "queue": Queue("q", environments=(dataclasses.replace(VALID, desired_vcpus=14),)),
                "line": Line(2, 1, 1.0),
                "hosts": {"ce": (Size("m5.xlarge", 4, 16384),)},
            },
            "asks for 4 vCPUs, with 2 jobs in front of it. Jobs of the queue q use 1 of the 16 that its compute environments"
            " may have (maxvCpus), but 14 are taken: jobs of other queues fill them,",
        ),
        (
            {"queue": Queue("q", environments=(VALID,), policy="p"), "line": Line()},
            "by the policy p: this job counts for the share default",
        ),
        (
            {
                "queue": Queue("q", environments=(VALID,), policy="p", shares=(("phy*", 0.5),)),
                "project": "physics",
                "line": Line(),
            },
            "counts for the share physics (weight 0.5)",
        ),
        (
            {"queue": OPEN, "status_reason": "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no m5"},
            "AWS Batch says: CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no m5. AWS has no such hosts free",
        ),
        ({"queue": OPEN, "status_reason": "MISCONFIGURATION:NEWS - x"}, "Jobs stuck in a RUNNABLE status"),
        (
            {"queue": OPEN, "line": Line(), "status_reason": "Something new"},
            "AWS Batch says: Something new. The queue q has room",
        ),
        (
            {"problem": "no network", "asked": False, "status_reason": "Something new"},
            "RUNNABLE in AWS Batch as the GAHP last saw it; AWS could not be asked now: no network. AWS Batch says: Something"
            " new.",
        ),
        (
            {"unasked": "AccessDenied", "asked": False, "status_reason": "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no m5"},
            "AWS Batch says: CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no m5. AWS has no such hosts free in these zones now",
        ),
        ({"unasked": "AccessDenied", "asked": False}, "What its queue q has could not be asked: AccessDenied."),
    ],
)
def test_why_a_job_waits(facts, words):
    assert words in told(**facts)


def test_the_reason_of_an_attempt_before_is_not_taken_for_why_it_waits():
    lost = Attempt(1.0, 2.0, status_reason="Host EC2 (instance i-1) terminated.")
    said = told(
        OPEN, Line(), status_reason="Host EC2 (instance i-1) terminated.", attempts=(lost,)
    )  # fmt: skip
    assert "It was started once before; the last time: Host EC2 (instance i-1) terminated." in said
    assert "AWS Batch says" not in said and "has room" in said


@pytest.mark.parametrize(
    ("reason", "more", "words"),
    [
        ("The job needed more than the 1000 MB it had and was killed: raise request_memory.", {}, "request_memory = 1536 into"),
        ("x", {"out_of_memory": True, "peak_memory_mib": 3000}, "had used 3000 when it was killed: put request_memory = 3840"),
        ("x", {"out_of_memory": True, "memory_mib": None}, "the job definition's memory was not enough"),
        ("AWS Batch ended", {"container_reason": "CannotPullContainerError: manifest unknown"}, "no such image or tag"),
        ("AWS Batch ended", {"container_reason": "CannotPullContainerError: denied"}, "may not read the image"),
        ("AWS Batch ended", {"container_reason": "CannotPullContainerError: i/o timeout"}, "does not reach the image's registry"),
        ("AWS Batch ended", {"container_reason": "CannotPullContainerError: ?"}, "Check the image in the job definition"),
        ("x: ECS was unable to assume the role 'r'", {}, "check its jobRoleArn and executionRoleArn"),
        ("x", {"status_reason": "Host EC2 (i) terminated.", "attempts": (Attempt(), Attempt(), Attempt())}, "went away 3 times"),
        (
            "x",
            {"status_reason": "Job attempt duration exceeded timeout", "runtime_s": 60},
            "reached its time limit of 60 s: raise batch_runtime, and release it to run it again.",
        ),
        ("x", {"status_reason": "Job attempt duration exceeded timeout"}, "time limit of AWSBATCH_DEFAULT_RUNTIME"),
        ("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - x", {}, "No instance type of its environments fits"),
        ("The input in.txt is not there.", {"hold_code": HoldCode.TRANSFER_INPUT}, "Mend the input it names"),
        ("no output", {"hold_code": HoldCode.TRANSFER_OUTPUT}, "condor_awsbatch logs 12.0"),
        ("x", {"container_reason": "CannotStartContainerError: x"}, "could not be made on its host"),
        ("refused", {"native_id": ""}, "AWS Batch never had it"),
        ("", {}, "no reason was recorded"),
        ("gone: release it to run it again.", {}, "was held: gone: release it to run it again."),
    ],
)
def test_why_a_job_was_held_and_what_to_do(reason, more, words):
    assert words in held(reason, **more)


def test_a_reason_that_says_itself_to_release_the_job_is_not_said_twice():
    reason = "The input in.txt could not be fetched. Mend what it says, and release the job."
    assert held(reason, hold_code=HoldCode.TRANSFER_INPUT).rstrip().endswith(reason)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"state": RunState.ACCEPTED}, "Job 12.0 is not staged yet: its input is on the way to S3 (for 8 min 20 s)."),
        ({"state": RunState.STAGED}, "not submitted to AWS Batch yet (for 7 min 30 s)."),
        ({"state": RunState.STAGED, "trouble": "TooManyRequestsException", "trouble_step": "submit"}, "takes no more calls"),
        ({"state": RunState.ACCEPTED, "trouble": "ExpiredToken: x", "trouble_step": "stage"}, "Renew the credentials"),
        ({"state": RunState.ACCEPTED, "trouble": "S3 is away", "trouble_step": "stage"}, "tried again until it can be done"),
        ({"state": RunState.COLLECTING}, "its output is being brought back"),
        ({"state": RunState.SUSPENDED}, "BLAH_JOB_RESUME"),
        ({"state": RunState.REBUILT}, "found in S3"),
        ({"wanted": Wanted.REMOVE}, "is being ended in AWS Batch"),
        ({"status": "RUNNING", "since": NOW - 90061, "worker": "h"}, "has been running for 1 d 1 h on h: nothing is in its way."),
        ({"status": "RUNNING", "runtime_s": 100, "started": NOW - 95}, "Its time limit of 100 s is near: 5 s left."),
        ({"status": "STARTING"}, "its container is starting"),
        ({"status": "STARTING", "since": NOW - 2000}, "That is long"),
        ({"status": "FAILED"}, "is collected when the GAHP looks next"),
        ({"state": RunState.COMPLETED, "exit_code": 0}, "Job 12.0 ended with exit code 0."),
        ({"state": RunState.COMPLETED, "exit_signal": 9, "attempts": (Attempt(), Attempt())}, "by signal 9 in its attempt 2."),
        (
            {
                "state": RunState.COMPLETED,
                "exit_code": 143,
                "status_reason": "Job attempt duration exceeded timeout",
                "runtime_s": 60,
            },
            "ended with exit code 143. It reached its time limit of 60 s: raise batch_runtime, and submit it again.",
        ),
        ({"state": RunState.REMOVED, "wanted": Wanted.REMOVE, "status_reason": "Held by HTCondor"}, "was removed by HTCondor."),
        ({"state": RunState.REMOVED}, "somebody ended it in AWS Batch"),
        ({"state": RunState.COMPLETED, "exit_code": 0, "condor_id": ""}, "The run 12-0-a ended"),
    ],
)
def test_every_state_has_its_sentence(run, words):
    assert words in told(**run)


def test_a_job_that_ended_well_at_its_time_limit_ended_well():
    ended = told(state=RunState.COMPLETED, exit_code=0, status_reason="Job attempt duration exceeded timeout")
    assert ended == "Job 12.0 ended with exit code 0."


def test_every_sentence_ends_and_none_is_said_for_nothing():
    for state in RunState:
        for status in ("", "RUNNABLE", "STARTING", "RUNNING", "FAILED"):
            sentences = explain(Facts(dataclasses.replace(RUN, state=state, status=status), NOW))
            assert sentences and all(text.endswith((".", "?", "-err.")) for text in sentences), sentences


def test_only_a_job_that_waits_needs_the_queue_asked():
    assert needs_queue(RUN) and needs_queue(dataclasses.replace(RUN, state=RunState.STAGED))
    assert not needs_queue(dataclasses.replace(RUN, status="RUNNING"))
    assert not needs_queue(dataclasses.replace(RUN, state=RunState.HELD))
