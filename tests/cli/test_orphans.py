"""condor_awsbatch orphans, against a Batch and a journal that disagree."""

import pytest

from gahp.batch import BatchJob
from gahp.cli.orphans import end, orphans
from gahp.journal import Journal, Run, RunState, Wanted
from gahp.model import JobReport, JobRequest, JobState


class FakeBatch:
    def __init__(self, journal):
        self.journal, self.jobs, self.terminated = journal.identity, [], []

    def add(self, job_id, name, run, journal=None):
        environment = {"GAHP_JOURNAL": journal or self.journal, "GAHP_RUN_URL": f"s3://b/runs/{run}"}
        self.jobs.append((BatchJob(job_id, name, "RUNNING"), environment))

    def active(self, queue):
        return iter(self.jobs)

    def terminate(self, job_id, reason):
        self.terminated.append(job_id)


@pytest.fixture
def journal(tmp_path):
    journal = Journal(str(tmp_path), clock=lambda: 1_000_000.0)
    yield journal
    journal.close()


def add(journal, name, created=999_000.0, **more):
    run = Run(name=name, directory=name, digest="", generation=0, created=created, **more)
    journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    return run


def test_what_nobody_wants_is_listed_with_the_reason_and_what_is_wanted_or_somebody_elses_is_not(journal):
    batch = FakeBatch(journal)
    add(journal, "fine", state=RunState.SUBMITTED, native_id="1", confirmed=True)
    add(journal, "over", state=RunState.REMOVED, report=JobReport(JobState.REMOVED))
    add(journal, "asked", state=RunState.SUBMITTED, native_id="3", wanted=Wanted.REMOVE)
    add(journal, "twice", state=RunState.SUBMITTED, native_id="4", confirmed=True)
    add(journal, "old", state=RunState.SUBMITTED, native_id="6", created=1.0)
    add(journal, "again", state=RunState.SUBMITTED, native_id="7", submission=1, confirmed=True)
    for job_id, name in (("1", "fine"), ("2", "over"), ("3", "asked"), ("4", "twice"), ("5", "twice"), ("6", "old")):
        batch.add(job_id, name, name)
    batch.add("7", "again-1", "again")
    batch.add("8", "nobody", "nobody")
    batch.add("9", "others", "others", journal="another")
    found = {job.id: reason for job, reason in orphans(journal, batch, ("q", "q"), 3600.0)}
    assert set(found) == {"2", "3", "5", "6", "8"}
    assert found["2"] == "its run is over (REMOVED)"
    assert found["5"] == "a second copy: its run goes on as 4"
    assert found["6"].startswith("HTCondor has never asked about it since")


def test_what_comes_late_for_a_held_run_or_an_earlier_submission_is_listed_and_its_end_leaves_the_run_alone(journal):
    batch = FakeBatch(journal)
    add(journal, "held", state=RunState.SUSPENDED, confirmed=True)
    add(journal, "released", state=RunState.SUBMITTING, submission=1, confirmed=True)
    batch.add("1", "held", "held")
    batch.add("2", "released", "released")
    batch.add("3", "released-1", "released")
    for (_, environment), submission in zip(batch.jobs, ("0", "0", "1"), strict=True):
        environment["GAHP_SUBMISSION"] = submission
    found = {job.id: reason for job, reason in orphans(journal, batch, ("q",), 3600.0)}
    assert found == {"1": "its run is held", "2": "of an earlier submission: its run goes on as released-1"}
    for job, _ in batch.jobs[:2]:
        end(journal, batch, job)
    assert batch.terminated == ["1", "2"]
    assert journal.wanted_changes() == []


def test_ending_one_tells_its_run_first_and_leaves_the_run_of_a_second_copy_alone(journal):
    batch = FakeBatch(journal)
    add(journal, "old", state=RunState.SUBMITTED, native_id="6", created=1.0)
    add(journal, "twice", state=RunState.SUBMITTED, native_id="4")
    end(journal, batch, BatchJob("6", "old", "RUNNING"))
    end(journal, batch, BatchJob("5", "twice", "RUNNING"))
    assert batch.terminated == ["6", "5"]
    assert journal.wanted_changes() == [("old", Wanted.REMOVE)]


def test_children_of_array_jobs_are_told_apart_by_their_index(journal):
    batch = FakeBatch(journal)
    add(journal, "fine", state=RunState.SUBMITTED, native_id="x:0", confirmed=True, pack="p", child=0)
    add(journal, "over", state=RunState.REMOVED, report=JobReport(JobState.REMOVED), pack="p", child=1)
    add(journal, "again", state=RunState.SUBMITTED, native_id="y:0", confirmed=True, pack="q", child=0, earlier="p:2")
    for index in range(4):
        batch.add(f"x:{index}", "p", "")
    for _, environment in batch.jobs:
        del environment["GAHP_RUN_URL"]
        environment["GAHP_PACK_URL"] = "s3://b/runs/p"
    found = {job.id: reason for job, reason in orphans(journal, batch, ("q",), 3600.0)}
    assert found == {
        "x:1": "its run is over (REMOVED)",
        "x:2": "a second copy: its run goes on as y:0",
        "x:3": "the journal does not know it",
    }
    end(journal, batch, BatchJob("x:2", "p", "RUNNING"))
    assert journal.wanted_changes() == []
    end(journal, batch, BatchJob("x:0", "p", "RUNNING"))
    assert batch.terminated == ["x:2", "x:0"]
    assert journal.wanted_changes() == [("fine", Wanted.REMOVE)]
