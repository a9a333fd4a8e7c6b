"""The status table of docs/architecture.md, row by row."""

import dataclasses

import pytest

from gahp.batch import BatchJob
from gahp.gateway.steps import Step, next_step
from gahp.gateway.verdict import decide, ended_by_somebody
from gahp.model import HoldCode, JobRequest, JobState, Resources
from gahp.run import RunState, Wanted
from gahp.sandbox import Outcome

REQUEST = JobRequest(executable="/bin/true", iwd="/", resources=Resources(memory_mib=64))
SUCCEEDED = BatchJob(id="id", name="n", status="SUCCEEDED", exit_code=0, attempts=1, cpus=2, memory_mib=64)
FAILED = BatchJob(id="id", name="n", status="FAILED", status_reason="Essential container in task exited", exit_code=7, attempts=3)
ENDED_WELL = Outcome(exit_code=0, user_cpu_s=1.5, system_cpu_s=0.5)


def but(value, **changes):
    return dataclasses.replace(value, **changes)


@pytest.mark.parametrize("job", [SUCCEEDED, FAILED, None])
def test_with_a_record_the_programs_own_end_counts_whatever_the_container_is_called(job):
    report = decide(REQUEST, job, but(ENDED_WELL, exit_code=7))
    assert (report.state, report.exit_code, report.exit_signal) == (JobState.COMPLETED, 7, None)
    assert (report.user_cpu_s, report.system_cpu_s) == (1.5, 0.5)


def test_a_signal_is_reported_as_a_signal():
    report = decide(REQUEST, FAILED, but(ENDED_WELL, exit_code=None, exit_signal=9))
    assert (report.state, report.exit_code, report.exit_signal) == (JobState.COMPLETED, None, 9)


def test_restarts_are_the_attempts_behind_the_first():
    assert decide(REQUEST, FAILED, ENDED_WELL).restarts == 2
    assert decide(REQUEST, SUCCEEDED, ENDED_WELL).restarts == 0


def test_a_missing_output_holds_the_job_and_is_named():
    report = decide(REQUEST, SUCCEEDED, but(ENDED_WELL, missing=("f.out", "g.out")))
    assert (report.state, report.hold_code) == (JobState.HELD, HoldCode.TRANSFER_OUTPUT)
    assert "(exit code 0) without making its output f.out, g.out" in report.hold_reason


@pytest.mark.parametrize(
    ("phase", "code"),
    [("stage_in", HoldCode.TRANSFER_INPUT), ("stage_out", HoldCode.TRANSFER_OUTPUT), ("start", HoldCode.CANNOT_START)],
)
def test_a_failure_around_the_program_holds_the_job_with_the_runners_words(phase, code):
    report = decide(REQUEST, FAILED, Outcome(exit_code=125, phase=phase, message="http://x/y: 404"))
    assert (report.state, report.hold_code, report.hold_reason) == (JobState.HELD, code, "http://x/y: 404")


@pytest.mark.parametrize(
    ("job", "outcome"),
    [
        (
            but(FAILED, container_reason="OutOfMemoryError: Container killed due to memory usage", exit_code=137, memory_mib=64),
            None,
        ),
        (but(FAILED, memory_mib=64), Outcome(exit_code=None, exit_signal=9, oom=True)),
    ],
)
def test_out_of_memory_holds_the_job_and_says_how_much_it_had(job, outcome):
    report = decide(REQUEST, job, outcome)
    assert (report.state, report.hold_code) == (JobState.HELD, HoldCode.OUT_OF_RESOURCES)
    assert report.hold_reason == "The job needed more than the 64 MB it had and was killed: raise request_memory."


@pytest.mark.parametrize(
    "ending",
    [
        {"exit_code": 0},
        {"exit_code": 0, "missing": ("f.out",)},
        {"exit_signal": 9, "oom": True},
        {"exit_code": 0, "phase": "stage_out", "message": "The output could not be uploaded."},
    ],
)
def test_what_a_job_used_is_told_however_it_ended(ending):
    outcome = Outcome(user_cpu_s=1.5, system_cpu_s=0.5, bytes_sent=10, bytes_received=20, **ending)
    asked = but(REQUEST, resources=Resources(memory_mib=64, disk_kib=7))
    report = decide(asked, but(SUCCEEDED, attempts=2, worker="host"), outcome)
    used = (report.user_cpu_s, report.system_cpu_s, report.bytes_sent, report.bytes_received)
    had = (report.restarts, report.cpus, report.memory_mib, report.disk_kib, report.worker)
    assert (used, had) == ((1.5, 0.5, 10, 20), (1, 2, 64, 7, "host"))


def test_a_job_that_left_no_record_tells_what_it_had():
    report = decide(REQUEST, but(FAILED, cpus=2, memory_mib=64), None)
    assert (report.restarts, report.cpus, report.memory_mib, report.user_cpu_s) == (2, 2, 64, None)


def test_a_program_that_ended_well_although_a_child_of_it_ran_out_of_memory_is_completed():
    assert decide(REQUEST, SUCCEEDED, but(ENDED_WELL, oom=True)).state is JobState.COMPLETED


def test_a_container_that_could_not_start_holds_the_job_with_batchs_own_reason():
    job = but(
        FAILED, status_reason="Task failed to start", container_reason="CannotPullContainerError: no such image", exit_code=None
    )
    report = decide(REQUEST, job, None)
    assert (report.state, report.hold_code) == (JobState.HELD, HoldCode.BATCH_SYSTEM)
    assert "Task failed to start; CannotPullContainerError: no such image" in report.hold_reason


def test_a_container_that_succeeded_without_a_record_is_no_success():
    assert decide(REQUEST, SUCCEEDED, None).state is JobState.HELD


def test_a_job_that_batch_forgot_is_settled_by_its_record_and_held_without_one():
    assert decide(REQUEST, None, ENDED_WELL).state is JobState.COMPLETED
    report = decide(REQUEST, None, None)
    assert report.state is JobState.HELD
    assert "no longer knows the job" in report.hold_reason


def test_only_a_failed_job_with_batchs_mark_was_ended_by_somebody():
    assert ended_by_somebody(but(FAILED, terminated=True))
    assert ended_by_somebody(but(FAILED, cancelled=True))
    assert not ended_by_somebody(FAILED)
    assert not ended_by_somebody(but(SUCCEEDED, terminated=True))


def test_a_removed_run_is_never_staged_submitted_or_collected():
    for state in RunState:
        assert next_step(state, Wanted.REMOVE, False) not in (Step.STAGE, Step.SUBMIT, Step.COLLECT)


def test_a_run_that_is_over_has_no_next_step():
    for state in RunState:
        for wanted in Wanted:
            if state.final:
                assert next_step(state, wanted, False) is None


def test_what_may_be_in_batch_is_looked_up_before_anything_else_whatever_is_wanted():
    assert {next_step(RunState.SUBMITTING, wanted, False) for wanted in Wanted} == {Step.LOOK_UP}


def test_an_ending_that_batch_has_taken_is_not_asked_for_again():
    assert next_step(RunState.SUBMITTED, Wanted.REMOVE, False) is Step.TERMINATE
    assert next_step(RunState.SUBMITTED, Wanted.REMOVE, True) is None
    assert next_step(RunState.SUBMITTED, Wanted.HOLD, True) is None


def test_what_only_seems_to_have_ended_is_ended_before_it_is_dropped():
    assert next_step(RunState.COLLECTING, Wanted.REMOVE, False, False) is Step.TERMINATE
    assert next_step(RunState.COLLECTING, Wanted.REMOVE, True, False) is Step.DROP
    assert next_step(RunState.COLLECTING, Wanted.REMOVE, False, True) is Step.DROP
    assert next_step(RunState.ACCEPTED, Wanted.REMOVE, False, False) is Step.DROP
