"""The verbs where the disk fails in the midst of one."""

from gahp import config
from gahp.gateway import Gateway
from gahp.gateway import gateway as module
from gahp.journal import Journal, JournalProblem
from gahp.model import JobRequest
from gahp.run import Run, RunState
from tests.gateway.world import FakeBatch, FakeSandbox


def test_a_cancel_that_finds_the_journal_unreadable_for_a_moment_is_carried_out_when_it_can_be_read(tmp_path, monkeypatch):
    """The gridmanager takes a failed BLAH_JOB_CANCEL for the last word."""
    monkeypatch.setattr(module, "_ASK_EVERY_S", 0.01)
    journal = Journal(str(tmp_path))
    run = Run(name="a", directory="a", digest="", generation=0, state=RunState.REMOVED, created=1.0)
    journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    problems, find = [JournalProblem("disk I/O error")] * 3, journal.find

    def fail(name):
        if problems:
            raise problems.pop()
        return find(name)

    monkeypatch.setattr(journal, "find", fail)
    knobs = {"AWSBATCH_JOB_QUEUE": "q", "AWSBATCH_JOB_DEFINITION": "d", "AWSBATCH_S3_URL": "s3://bucket/x"}
    gateway = Gateway(config.load(knobs.get), journal, FakeSandbox(), FakeBatch())
    assert gateway.cancel(run.job_id).result(20) is None
    assert problems == []
    gateway.close()
