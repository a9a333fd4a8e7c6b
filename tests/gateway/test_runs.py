"""Runs against a Batch and an S3 that fail on order: what cannot be brought about with the embedded AWS, or only by waiting."""

import sqlite3
import threading
import time
from concurrent.futures import Future

import pytest

from gahp import journal as journal_module
from gahp.batch import BatchJob, Throttled, Unsure
from gahp.gateway import news, upkeep
from gahp.gateway import runs as runs_module
from gahp.gateway.attention import PERIOD_S
from gahp.gateway.runs import Runs
from gahp.journal import Journal, JournalProblem
from gahp.model import HoldCode, JobRequest, JobState, Refused, Transient
from gahp.run import Run, RunState, Wanted
from gahp.sandbox import Outcome


class FakeBatch:
    """Jobs by name; `fail` maps a verb to the exceptions of its next calls."""

    def __init__(self):
        self.jobs = {}
        self.calls = []
        self.fail = {}
        self.lost = []
        self.hidden = set()

    def _called(self, verb, *arguments):
        self.calls.append((verb, *arguments))
        if self.fail.get(verb):
            raise self.fail[verb].pop(0)

    def submit(self, request, *, name, queue, environment, size=1):
        lose = self.lost.pop(0) if self.lost else None
        if lose == "before":
            raise Unsure("nothing arrived")
        self._called("submit", name)
        self.jobs[f"id-{name}"] = BatchJob(id=f"id-{name}", name=name, status="RUNNABLE" if size == 1 else "PENDING")
        for index in range(size if size > 1 else 0):
            self.jobs[f"id-{name}:{index}"] = BatchJob(id=f"id-{name}:{index}", name=f"{name}:{index}", status="RUNNABLE")
        if lose == "after":
            raise Unsure("the reply is lost")
        return f"id-{name}"

    def find(self, name, queue):
        self._called("find", name)
        return next((job.id for job in self.jobs.values() if job.name == name and job.id not in self.hidden), "")

    def named(self, pattern, queue):
        self._called("named", pattern)
        return [(job.name, job.id) for job in self.jobs.values() if job.name == pattern]

    def describe(self, ids):
        ids = list(ids)
        if ids:
            self._called("describe")
            yield ids, {name: self.jobs[name] for name in ids if name in self.jobs}

    def terminate(self, job_id, reason):
        self._called("terminate", job_id)
        self.set(job_id, status="FAILED", terminated=True, status_reason=reason)

    def terminate_many(self, ids, reason):
        for job_id in ids:
            self.terminate(job_id, reason)
        return {}

    def cancel(self, job_id, reason):
        self._called("cancel", job_id)

    def set(self, job_id, **fields):
        self.jobs[job_id] = BatchJob(id=job_id, name=job_id.removeprefix("id-"), **fields)

    def count(self, verb):
        return sum(call[0] == verb for call in self.calls)


class FakeSandbox:
    region = "us-west-2"

    def __init__(self):
        self.outcome = Outcome(exit_code=0)
        self.fail = []
        self.fail_pack = []
        self.packs = {}
        self.collected = 0
        self.discarded = []
        self.claims = {}

    def run_url(self, run):
        return f"s3://b/runs/{run}"

    def manifest_url(self, run):
        return f"s3://b/runs/{run}/manifest"

    def claimant(self, run, submission):
        return self.claims.get((run, submission), "")

    def revoke(self, run, submission):
        return self.claims.setdefault((run, submission), "")

    def prepare(self, run, request, record, submission, sends):
        if self.fail:
            raise self.fail.pop(0)
        return run.encode()

    def put(self, run, part):
        assert part == run.encode()

    def put_pack(self, pack, parts):
        if self.fail_pack:
            raise self.fail_pack.pop(0)
        self.packs[pack] = [part.decode() for part in parts]

    def discard(self, *runs):
        self.discarded += runs

    def collect(self, run, submission, request, believe):
        self.collected += 1
        return self.outcome if self.outcome and believe(self.outcome) else None


class World:
    def __init__(self, directory, now=1000.0, **knobs):
        self.batch, self.sandbox, self.now = FakeBatch(), FakeSandbox(), now
        self.journal = Journal(str(directory), clock=lambda: self.now)
        self.runs = Runs(
            self.journal,
            self.sandbox,
            self.batch,
            poll_interval_s=0.02,
            lookup_settle_s=1.2,
            keep_runs_s=1e9,
            keep_sandbox_s=3600.0,
            transfer_threads=2,
            submit_threads=2,
            clock=lambda: self.now,
            **knobs,
        )
        self.runs.start()

    def add(self, name="1-0-a", **more):
        run = Run(name=name, directory=name, digest="", generation=0, queue="q", created=self.now, **more)
        self.journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
        self.runs.add(run)
        return run

    def until(self, condition):
        until = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < until, self.batch.calls
            time.sleep(0.01)

    def close(self):
        self.runs.close()
        self.journal.close()


@pytest.fixture
def world(tmp_path, monkeypatch):
    for module in (runs_module, news):
        monkeypatch.setattr(module, "backoff", lambda tries: 0.01)
    world = World(tmp_path)
    yield world
    world.close()


def test_a_lost_reply_is_looked_up_and_never_sent_again(world):
    world.batch.lost = ["after"]
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    assert (world.batch.count("submit"), run.native_id) == (1, "id-1-0-a")


def test_a_request_that_never_arrived_is_sent_again_when_the_name_stays_unlisted(world):
    world.batch.lost = ["before"]
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    order = [call[0] for call in world.batch.calls if call[0] in ("find", "submit")]
    assert order.count("submit") == 1
    assert order.index("submit") == order.count("find") >= 2


def test_a_job_that_is_listed_late_is_found_all_the_same(world):
    world.batch.lost = ["after"]
    world.batch.hidden = {"id-1-0-a"}
    run = world.add()
    world.until(lambda: world.batch.count("find") >= 2)
    world.batch.hidden = set()
    world.until(lambda: run.state is RunState.SUBMITTED)
    assert world.batch.count("submit") == 1


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_clock_that_jumps_does_not_shorten_the_wait_for_the_listing(world, jump):
    world.batch.lost = ["after"]
    world.batch.hidden = {"id-1-0-a"}
    run = world.add()
    world.until(lambda: world.batch.count("find") >= 1)
    world.now += jump
    seen = world.batch.count("find")
    world.until(lambda: world.batch.count("find") > seen)
    world.batch.hidden = set()
    world.until(lambda: run.state is RunState.SUBMITTED)
    assert world.batch.count("submit") == 1


def test_the_wait_for_the_listing_begins_anew_for_a_gahp_that_takes_over(world):
    """The dead one may have sent its request a moment before its death, whenever its row was written."""
    run = Run(name="1-0-a", directory="d", digest="", generation=0, queue="q", created=1.0)
    world.journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    world.journal.update(run, state=RunState.STAGED)
    world.journal.update(run, state=RunState.SUBMITTING, sent=world.now - 1e6).result()
    world.runs.add(run)
    world.until(lambda: world.batch.count("submit") == 1)
    assert world.batch.count("find") >= 2


def no_room_for(world, monkeypatch, **value):
    """The disk takes no write of that value until the event that is returned is set."""
    transact, room = world.journal._transact, threading.Event()

    def refuse(group):
        if not room.is_set() and any(value.items() <= write.values.items() for write in group):
            raise sqlite3.OperationalError("database or disk is full")
        transact(group)

    monkeypatch.setattr(world.journal, "_transact", refuse)
    return room


def test_the_end_of_a_run_is_told_only_when_it_is_on_disk(world, monkeypatch):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    room = no_room_for(world, monkeypatch, state="COMPLETED")
    world.batch.set("id-1-0-a", status="SUCCEEDED", started=5.0)
    world.until(lambda: world.journal._problem)
    assert not world.runs.lives.stands(run.name)[1].state.final
    room.set()
    world.until(lambda: world.runs.lives.stands(run.name)[1].state is JobState.COMPLETED)
    assert world.journal.find(run.name).state is RunState.COMPLETED


def test_a_hold_is_told_only_when_it_is_on_disk(world, monkeypatch):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    room = no_room_for(world, monkeypatch, state="SUSPENDED")
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    world.until(lambda: world.batch.count("cancel") == 1)
    world.batch.set("id-1-0-a", status="FAILED", status_reason="Held by HTCondor", cancelled=True)
    world.until(lambda: world.journal._problem)
    assert not hold.done()
    room.set()
    hold.result(10)
    assert world.journal.find(run.name).state is RunState.SUSPENDED


def test_a_hold_that_comes_during_submitjob_is_carried_out_only_when_it_is_on_disk(world, monkeypatch):
    """Else the next GAHP finds a job that somebody has cancelled, and reports it as removed."""
    begun, go_on, submit = threading.Event(), threading.Event(), world.batch.submit

    def slow(*arguments, **keywords):
        begun.set()
        assert go_on.wait(10)
        return submit(*arguments, **keywords)

    monkeypatch.setattr(world.batch, "submit", slow)
    run = world.add()
    assert begun.wait(10)
    room = no_room_for(world, monkeypatch, wanted="HOLD")
    world.runs.wishes.want(run.name, Wanted.HOLD)
    go_on.set()
    world.until(lambda: run.state is RunState.SUBMITTED)
    seen = world.batch.count("describe")
    world.until(lambda: world.batch.count("describe") > seen + 10)
    assert world.batch.count("cancel") == 0
    room.set()
    world.until(lambda: world.batch.count("cancel") == 1)
    assert world.journal.find(run.name).wanted is Wanted.HOLD


def test_a_submission_is_claimed_for_nobody_only_when_the_hold_is_on_disk(world, monkeypatch):
    """Else the next GAHP sends it again, and the job ends without running."""
    found, wanted, revoke = world.batch.find, [], world.sandbox.revoke
    world.batch.lost = ["before"]
    run = world.add()
    world.until(lambda: world.batch.count("find"))
    room = no_room_for(world, monkeypatch, wanted="HOLD")
    holds = []

    def find(name, queue):
        if not holds and time.monotonic() - world.runs.lives.by_name[run.name].unsure_since > 1.2:
            holds.append(world.runs.wishes.want(run.name, Wanted.HOLD))  # at the last look
        return found(name, queue)

    def look(name, submission):
        wanted.append(world.journal.find(name).wanted)
        return revoke(name, submission)

    monkeypatch.setattr(world.batch, "find", find)
    monkeypatch.setattr(world.sandbox, "revoke", look)
    world.until(lambda: holds)
    world.until(lambda: world.journal._problem)
    world.until(lambda: wanted or not world.runs.lives.by_name[run.name].busy)
    room.set()
    holds[0].result(10)
    assert set(wanted) == {Wanted.HOLD}


@pytest.mark.parametrize("why", ["AccessDeniedException", "has started"])
def test_a_hold_is_refused_only_when_it_is_off_the_disk(world, monkeypatch, why):
    """Else the next GAHP holds a job of which HTCondor has been told that it runs on."""
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    room = no_room_for(world, monkeypatch, wanted="RUN")
    world.batch.fail["cancel"] = [Refused("AccessDeniedException: batch:CancelJob")] * (why == "AccessDeniedException")
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    world.until(lambda: world.batch.count("cancel") == 1)
    if why == "has started":
        world.batch.set("id-1-0-a", status="STARTING")
    world.until(lambda: world.journal._problem)
    assert not hold.done()
    room.set()
    with pytest.raises(Refused, match=why):
        hold.result(10)
    assert world.journal.find(run.name).wanted is Wanted.RUN


def test_a_removal_outlives_the_refusal_of_the_hold_before_it(world, monkeypatch):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    entered, go_on = threading.Event(), threading.Event()

    def cancel(job_id, reason):
        entered.set()
        go_on.wait(10)
        raise Refused("AccessDeniedException: batch:CancelJob")

    monkeypatch.setattr(world.batch, "cancel", cancel)
    world.runs.wishes.want(run.name, Wanted.HOLD)
    assert entered.wait(10)
    removal = world.runs.wishes.want(run.name, Wanted.REMOVE)
    go_on.set()
    removal.result(10)
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.count("terminate") == 1


@pytest.mark.parametrize("submitted", [False, True])
def test_a_removal_that_comes_while_a_hold_is_written_is_not_told_with_it(world, monkeypatch, submitted):
    """Else the next GAHP may find the run as held, and HTCondor never speaks of it again."""
    world.sandbox.fail = [] if submitted else [Transient("S3 is away")] * 1_000_000
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED or not submitted)
    room = no_room_for(world, monkeypatch, wanted="REMOVE")
    transact, writing, go_on = world.journal._transact, threading.Event(), threading.Event()

    def slow(group):
        if any(write.values.get("state") == "SUSPENDED" for write in group):
            writing.set()
            assert go_on.wait(10)
        transact(group)

    monkeypatch.setattr(world.journal, "_transact", slow)
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    world.until(lambda: writing.is_set() or world.batch.count("cancel") == 1)
    if submitted:
        world.batch.set("id-1-0-a", status="FAILED", cancelled=True)
    assert writing.wait(10)
    removal = world.runs.wishes.want(run.name, Wanted.REMOVE)
    go_on.set()
    hold.result(10)
    world.until(lambda: world.journal._problem)
    assert not removal.done()
    room.set()
    removal.result(10)
    world.until(lambda: run.state is RunState.REMOVED)


def test_a_removal_of_a_held_run_outlives_a_resume_behind_it(world, monkeypatch):
    world.sandbox.fail = [Transient("S3 is away")] * 1_000_000
    run = world.add()
    world.runs.wishes.want(run.name, Wanted.HOLD).result(10)
    room = no_room_for(world, monkeypatch, wanted="REMOVE")
    removal = world.runs.wishes.want(run.name, Wanted.REMOVE)
    with pytest.raises(Refused, match="is ending and cannot be resumed"):
        world.runs.wishes.want(run.name, Wanted.RUN)
    room.set()
    removal.result(10)
    world.until(lambda: run.state is RunState.REMOVED)


def test_the_run_whose_place_another_takes_is_ended_also_if_nobody_lived_to_ask_for_it(world):
    first = world.add()
    world.until(lambda: first.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0)
    second = world.add(name="1-0-b", predecessor="1-0-a")
    world.until(lambda: second.state is RunState.SUBMITTED)
    order = [call for call in world.batch.calls if call[0] in ("submit", "terminate")]
    assert order == [("submit", "1-0-a"), ("terminate", "id-1-0-a"), ("submit", "1-0-b")]
    assert first.state is RunState.REMOVED


def test_a_throttled_submit_is_sent_again_without_a_look_up(world):
    world.batch.fail["submit"] = [Throttled("slow down")] * 3
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    assert (world.batch.count("submit"), world.batch.count("find")) == (4, 0)


def test_a_refused_submit_holds_the_job_with_the_reason(world):
    world.batch.fail["submit"] = [Refused("no such queue")]
    run = world.add()
    world.until(lambda: run.state is RunState.HELD)
    assert (run.report.state, run.report.hold_reason) == (JobState.HELD, "no such queue")


def test_staging_is_tried_again_after_a_transient_fault(world):
    world.sandbox.fail = [Transient("S3 is away"), RuntimeError("a bug"), Transient("S3 is away")]
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)


def test_a_job_that_batch_forgot_is_settled_by_its_record(world, monkeypatch):
    monkeypatch.setattr(news, "FORGOTTEN_AFTER_S", 0.2)
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.jobs.clear()
    world.until(lambda: run.state is RunState.COMPLETED)
    assert run.report.exit_code == 0


def test_a_job_that_batch_forgot_without_a_record_is_held(world, monkeypatch):
    monkeypatch.setattr(news, "FORGOTTEN_AFTER_S", 0.2)
    world.sandbox.outcome = None
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.jobs.clear()
    world.until(lambda: run.state is RunState.HELD)
    assert "no longer knows the job" in run.report.hold_reason


def test_a_job_that_is_only_slow_to_be_shown_is_not_given_up(world):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    shown = dict(world.batch.jobs)
    world.batch.jobs.clear()
    seen = world.batch.count("describe")
    world.until(lambda: world.batch.count("describe") > seen + 3)
    assert run.state is RunState.SUBMITTED
    world.batch.jobs.update(shown)
    world.batch.set("id-1-0-a", status="SUCCEEDED")
    world.until(lambda: run.state is RunState.COMPLETED)


def test_a_removal_that_is_refused_is_told_and_goes_on_being_tried(world):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.fail["terminate"] = [Refused("AccessDeniedException: batch:TerminateJob")] * 3
    with pytest.raises(Refused, match="AccessDenied"):
        world.runs.wishes.want(run.name, Wanted.REMOVE).result(10)
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.count("terminate") == 4


def test_a_removal_while_the_submit_is_unsure_ends_the_job_when_it_shows_up(world):
    world.batch.lost = ["after"]
    world.batch.hidden = {"id-1-0-a"}
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTING)
    removal = world.runs.wishes.want(run.name, Wanted.REMOVE)
    world.batch.hidden = set()
    removal.result(10)
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.count("terminate") == 1


def test_a_removal_before_the_submit_reaches_batch_never(world):
    world.sandbox.fail = [Transient("S3 is away")] * 1000
    run = world.add()
    world.runs.wishes.want(run.name, Wanted.REMOVE).result(10)
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.calls == []


def test_a_removal_while_the_input_is_being_uploaded_waits_for_no_upload(world, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def upload(run, request, record, submission, sends):
        begun.set()
        assert go_on.wait(60)
        return run.encode()

    monkeypatch.setattr(world.sandbox, "prepare", upload)
    run = world.add()
    assert begun.wait(10)
    world.runs.wishes.want(run.name, Wanted.REMOVE).result(10)
    go_on.set()
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.calls == []


def test_a_hold_that_comes_too_late_is_refused_and_the_job_runs_on(world):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0)
    with pytest.raises(Refused, match="has started on AWS Batch and cannot be held"):
        hold.result(10)
    assert run.wanted is Wanted.RUN
    world.batch.set("id-1-0-a", status="SUCCEEDED", started=5.0)
    world.until(lambda: run.state is RunState.COMPLETED)


def test_a_late_event_of_an_attempt_before_does_not_refuse_the_hold_that_batch_has_taken(world):
    """Else the job is reported as removed, which HTCondor knows as running on."""
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    world.until(lambda: world.runs.lives.by_name[run.name].ending_asked and not world.runs.lives.by_name[run.name].busy)
    assert world.runs.follower.hear(BatchJob("id-1-0-a", "", "STARTING", attempts=1, described=False))
    world.batch.set("id-1-0-a", status="FAILED", attempts=1, cancelled=True)
    hold.result(10)
    assert run.state is RunState.SUSPENDED


def test_a_hold_that_the_end_of_the_job_overtakes_is_refused(world):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    world.batch.set("id-1-0-a", status="SUCCEEDED", started=5.0)
    with pytest.raises(Refused, match="has ended and cannot be held"):
        hold.result(10)
    world.until(lambda: run.state is RunState.COMPLETED)


def test_a_hold_of_a_run_that_cannot_be_staged_is_refused_since_it_cannot_be_resumed(world, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def fail(run, request, record, submission, sends):
        begun.set()
        assert go_on.wait(10)
        raise Refused("its input is gone")

    monkeypatch.setattr(world.sandbox, "prepare", fail)
    run = world.add()
    assert begun.wait(10)
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    go_on.set()
    with pytest.raises(Refused, match="has ended and cannot be held"):
        hold.result(10)
    assert (run.state, run.report.hold_reason) == (RunState.HELD, "its input is gone")


def test_a_hold_that_the_end_of_the_job_overtakes_is_refused_only_when_it_is_off_the_disk(world, monkeypatch):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    room = no_room_for(world, monkeypatch, state="COLLECTING")
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    world.batch.set("id-1-0-a", status="SUCCEEDED", started=5.0)
    world.until(lambda: world.journal._problem)
    assert not hold.done()
    room.set()
    with pytest.raises(Refused, match="has ended and cannot be held"):
        hold.result(10)
    assert world.journal.find(run.name).wanted is Wanted.RUN


def test_a_hold_that_was_refused_is_not_carried_out_when_the_job_turns_out_not_to_have_ended(world):
    world.sandbox.outcome = None
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.fail["cancel"] = [Transient("no network")] * 1_000_000
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    assert world.runs.follower.hear(BatchJob("id-1-0-a", "", "SUCCEEDED", attempts=None, described=False))
    with pytest.raises(Refused, match="has ended and cannot be held"):
        hold.result(10)
    world.until(lambda: world.sandbox.collected and run.state is RunState.SUBMITTED)
    asked = world.batch.count("cancel")
    seen = world.batch.count("describe")
    world.until(lambda: world.batch.count("describe") > seen + 3)
    assert (run.wanted, world.batch.count("cancel")) == (Wanted.RUN, asked)


def test_a_removal_after_a_hold_that_batch_has_taken_still_terminates(world):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.runs.wishes.want(run.name, Wanted.HOLD)
    world.until(lambda: world.batch.count("cancel") == 1)
    world.runs.wishes.want(run.name, Wanted.REMOVE).result(10)
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.count("terminate") == 1


def test_a_run_is_idle_again_when_its_host_went_away(world):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0, attempts=1)
    world.until(lambda: world.runs.lives.stands(run.name)[1].state is JobState.RUNNING)
    world.batch.set("id-1-0-a", status="RUNNABLE", attempts=1)
    world.until(lambda: world.runs.lives.stands(run.name)[1].state is JobState.IDLE)


def test_a_run_that_waits_again_after_its_host_went_away_can_be_held(world):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="RUNNABLE", started=5.0, attempts=1)
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    world.until(lambda: world.batch.count("cancel") == 1)
    world.batch.set("id-1-0-a", status="FAILED", started=5.0, attempts=1, cancelled=True)
    hold.result(10)
    assert run.state is RunState.SUSPENDED


@pytest.mark.parametrize(("attempts", "state"), [(1, RunState.COMPLETED), (2, RunState.HELD)])
def test_what_an_attempt_left_that_was_told_to_end_is_no_result_once_there_has_been_another(world, attempts, state):
    world.sandbox.outcome = Outcome(exit_signal=15, terminated=True, attempt=1)
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="FAILED", started=5.0, attempts=attempts, container_reason="OutOfMemoryError: killed")
    world.until(lambda: run.state.final)
    assert run.state is state
    assert state is RunState.COMPLETED or run.report.hold_code == HoldCode.OUT_OF_RESOURCES


def test_many_wants_at_once_are_all_answered(world):
    many = [world.add(name=f"r{n}") for n in range(20)]
    world.until(lambda: all(run.state is RunState.SUBMITTED for run in many))
    futures: list[Future] = []
    threads = [
        threading.Thread(target=lambda run=run: futures.append(world.runs.wishes.want(run.name, Wanted.REMOVE)))
        for run in many
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for future in futures:
        assert future is None or future.result(10) is None
    world.until(lambda: all(run.state is RunState.REMOVED for run in many))


def test_a_second_copy_that_came_through_late_is_ended_with_the_run(world):
    world.batch.lost = ["before"]
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.jobs["late"] = BatchJob(id="late", name="1-0-a", status="RUNNABLE")
    world.batch.set("id-1-0-a", status="SUCCEEDED", started=5.0)
    world.until(lambda: run.state is RunState.COMPLETED)
    assert [call for call in world.batch.calls if call[0] == "terminate"] == [("terminate", "late")]


def test_finished_runs_are_cleaned_up_in_s3_when_they_have_been_over_for_a_while_and_live_ones_never(world, monkeypatch):
    monkeypatch.setattr(upkeep, "_CLEAN_EVERY_S", 0.05)
    asked, unasked, live = world.add("1-0-a"), world.add("1-0-b"), world.add("1-0-c")
    world.until(lambda: all(run.state is RunState.SUBMITTED for run in (asked, unasked, live)))
    world.journal.update(asked, confirmed=True)
    for name in ("1-0-a", "1-0-b"):
        world.batch.set(f"id-{name}", status="SUCCEEDED", started=5.0)
    world.until(lambda: asked.state is RunState.COMPLETED and unasked.state is RunState.COMPLETED)
    world.runs._upkeep._clean()
    assert world.sandbox.discarded == []
    world.now += 3601
    world.until(lambda: world.sandbox.discarded)
    world.until(lambda: world.journal.find("1-0-a").discarded)
    world.now += 1e9
    world.until(lambda: world.journal.find("1-0-b").discarded)
    assert world.sandbox.discarded == ["1-0-a", "1-0-b"]


def test_a_run_whose_copy_has_the_claim_follows_that_copy(world):
    world.sandbox.outcome = None
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.jobs["other"] = BatchJob(id="other", name="1-0-a", status="RUNNING", started=5.0)
    world.sandbox.claims[("1-0-a", 0)] = "other"
    world.batch.set("id-1-0-a", status="FAILED", exit_code=125, started=5.0)
    world.until(lambda: run.native_id == "other" and run.state is RunState.SUBMITTED)
    world.sandbox.outcome = Outcome(exit_code=0)
    world.batch.jobs["other"] = BatchJob(id="other", name="1-0-a", status="SUCCEEDED", started=5.0)
    world.until(lambda: run.state is RunState.COMPLETED)
    assert world.batch.count("submit") == 1


def test_what_has_been_claimed_is_not_sent_again_although_batch_lists_it_no_more(world, monkeypatch):
    monkeypatch.setattr(news, "FORGOTTEN_AFTER_S", 0.2)
    world.sandbox.claims[("1-0-a", 0)] = "long-ago"
    run = Run(name="1-0-a", directory="d", digest="", generation=0, queue="q", created=1.0, state=RunState.REBUILT)
    world.journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    world.runs.add(run)
    world.runs.wishes.revive("1-0-a")
    world.until(lambda: run.state is RunState.COMPLETED)
    assert world.batch.count("submit") == 0


def test_a_rebuilt_run_is_left_alone_until_it_is_spoken_of(world):
    run = Run(name="1-0-a", directory="d", digest="", generation=0, queue="q", created=1.0, state=RunState.REBUILT)
    world.journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    world.runs.add(run)
    other = world.add("1-0-b")
    world.until(lambda: other.state is RunState.SUBMITTED)
    assert not [call for call in world.batch.calls if "1-0-a" in call]
    world.runs.wishes.want("1-0-a", Wanted.REMOVE).add_done_callback(lambda done: None)
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.count("submit") == 1


def test_hundreds_of_removals_go_together_and_a_refused_one_keeps_no_other_back(world):
    many = [world.add(name=f"r{n}") for n in range(300)]
    world.until(lambda: all(run.state is RunState.SUBMITTED for run in many))
    sizes, end = [], world.batch.terminate_many

    def terminate_many(ids, reason):
        sizes.append(len(ids))
        time.sleep(0.02)  # while others come
        if "id-r7" in ids and len(sizes) < 20:
            rest = [native_id for native_id in ids if native_id != "id-r7"]
            return {**end(rest, reason), "id-r7": Refused("not this one")}
        return end(ids, reason)

    world.batch.terminate_many = terminate_many
    futures = [world.runs.wishes.want(run.name, Wanted.REMOVE) for run in many]
    with pytest.raises(Refused, match="not this one"):
        futures.pop(7).result(20)
    for future in futures:
        future.result(20)
    world.until(lambda: all(run.state is RunState.REMOVED for run in many if run.name != "r7"))
    assert max(sizes) == 50


def array_of(world, size):
    """Runs that are the children of one array, as a GAHP finds them that takes them over."""
    states = {f"p:{index}": "RUNNING" for index in range(size)}

    def describe(ids):
        found = {i: BatchJob(i, "", states[i], terminated=states[i] == "FAILED") for i in ids if i in states}
        if "p" in ids:
            counts = {status: sum(state == status for state in states.values()) for status in ("RUNNING", "FAILED", "SUCCEEDED")}
            found["p"] = BatchJob("p", "", "PENDING", size=size, counts=counts)
        yield list(ids), found

    def terminate(job_id, reason):
        world.batch.calls.append(("terminate", job_id))
        for child in states if job_id == "p" else [job_id]:
            states[child] = "FAILED"

    def children(parent, status, token):
        return [BatchJob(i, "", status, attempts=None, described=False) for i, state in states.items() if state == status], ""

    world.batch.describe, world.batch.terminate, world.batch.children = describe, terminate, children
    runs = []
    for index in range(size):
        run = Run(name=f"c{index}", directory=f"c{index}", digest="", generation=0, queue="q", created=1.0)
        run.state, run.native_id = RunState.SUBMITTED, f"p:{index}"
        world.journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
        runs.append(run)
    for run in runs:
        world.runs.add(run)
    world.until(lambda: all(run.started for run in runs))
    return runs


def test_an_array_of_which_nothing_is_wanted_is_ended_by_its_parent(world):
    runs = array_of(world, 200)
    end_some = world.runs._ending._end_some
    world.runs._ending._end_some = lambda: None  # as if the limiter had no room meanwhile
    futures = [world.runs.wishes.want(run.name, Wanted.REMOVE) for run in runs]
    world.until(lambda: len(world.runs._ending._to_end) == 200)
    end_some()
    for future in futures:
        future.result(20)
    world.until(lambda: all(run.state is RunState.REMOVED for run in runs))
    assert [call for call in world.batch.calls if call[0] == "terminate"] == [("terminate", "p")]


def test_an_array_of_which_one_child_is_wanted_is_never_ended_by_its_parent(world):
    *runs, kept = array_of(world, 200)
    for future in [world.runs.wishes.want(run.name, Wanted.REMOVE) for run in runs]:
        future.result(20)
    world.until(lambda: all(run.state is RunState.REMOVED for run in runs))
    assert ("terminate", "p") not in world.batch.calls
    assert world.batch.count("terminate") == 199
    assert kept.state is RunState.SUBMITTED


def seems_over(world, monkeypatch, run, job_id):
    """As a list leads the sweep to think, of a child that waited for a moment; S3 does not answer meanwhile."""

    def unreachable(*_):
        raise Transient("S3 cannot be reached")

    monkeypatch.setattr(world.sandbox, "collect", unreachable)
    world.runs._news.look_at([(job_id, BatchJob(job_id, "", "SUCCEEDED", attempts=None, described=False))])
    world.until(lambda: run.state is RunState.COLLECTING)


def test_a_removal_of_what_only_seems_to_have_ended_ends_it_in_batch(world, monkeypatch):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0)
    world.until(lambda: run.started)
    seems_over(world, monkeypatch, run, "id-1-0-a")
    world.runs.wishes.want(run.name, Wanted.REMOVE).result(10)
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.jobs["id-1-0-a"].over


def test_an_array_is_not_ended_by_its_parent_while_a_child_that_is_wanted_only_seems_to_have_ended(world, monkeypatch):
    *runs, kept = array_of(world, 51)
    end_some = world.runs._ending._end_some
    world.runs._ending._end_some = lambda: None
    seems_over(world, monkeypatch, kept, "p:50")
    monkeypatch.setattr(world.runs.follower, "whole", lambda parent, ids: True)
    futures = [world.runs.wishes.want(run.name, Wanted.REMOVE) for run in runs]
    world.until(lambda: len(world.runs._ending._to_end) == 50)
    end_some()
    for future in futures:
        future.result(20)
    assert ("terminate", "p") not in world.batch.calls
    assert world.batch.count("terminate") == 50


def test_an_array_is_not_ended_by_its_parent_before_the_removal_of_each_child_is_on_disk(world, monkeypatch):
    """A removal that comes while a step is under way waits in the same row as those that are recorded."""
    *runs, last = array_of(world, 51)
    end_some = world.runs._ending._end_some
    world.runs._ending._end_some = lambda: None
    futures = [world.runs.wishes.want(run.name, Wanted.REMOVE) for run in runs]
    world.until(lambda: len(world.runs._ending._to_end) == 50)
    room = no_room_for(world, monkeypatch, name=last.name, wanted="REMOVE")
    futures.append(world.runs.wishes.want(last.name, Wanted.REMOVE))
    world.runs._let_go(world.runs.lives.by_name[last.name])
    world.until(lambda: len(world.runs._ending._to_end) == 51)
    end_some()
    assert ("terminate", "p") not in world.batch.calls
    world.runs._ending._end_some = end_some
    room.set()
    for future in futures:
        future.result(20)


def test_an_end_that_an_event_tells_is_collected_at_once_and_a_false_one_is_not_believed(world):
    world.sandbox.outcome = None
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0)
    world.until(lambda: run.started)
    early = BatchJob("id-1-0-a", "", "SUCCEEDED", attempts=None, described=False)
    assert world.runs.follower.hear(early)
    world.until(lambda: world.sandbox.collected == 1)
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.sandbox.outcome = Outcome(exit_code=0)
    world.batch.set("id-1-0-a", status="SUCCEEDED", started=5.0)
    world.until(lambda: run.state is RunState.COMPLETED)
    assert not world.runs.follower.hear(BatchJob("somebody else's", "", "SUCCEEDED", described=False))
    world.until(lambda: world.runs.follower.hear(early))  # late, and known for ours
    assert run.state is RunState.COMPLETED


def test_news_that_come_while_a_step_is_under_way_are_not_lost(world):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0)
    world.until(lambda: run.started)
    live = world.runs.lives.by_name[run.name]
    live.busy = True
    world.runs._news.look_at([("id-1-0-a", BatchJob("id-1-0-a", "", "SUCCEEDED", started=5.0))])
    assert run.state is RunState.SUBMITTED
    world.runs._let_go(live)
    world.until(lambda: run.state is RunState.COMPLETED)


def test_a_late_event_does_not_hide_the_end_that_came_before_it(world):
    """A queue does not keep the order, and of a child that the sweep knows as over nobody asks again."""
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0)
    world.until(lambda: run.started)
    live = world.runs.lives.by_name[run.name]
    live.busy = True
    for status in ("SUCCEEDED", "RUNNING"):
        world.runs._news.look_at([("id-1-0-a", BatchJob("id-1-0-a", "", status, started=5.0))])
    assert live.news[1].status == "SUCCEEDED"
    world.runs._let_go(live)
    world.until(lambda: run.state is RunState.COMPLETED)


def test_a_journal_that_cannot_be_read_for_a_moment_leaves_no_run_standing(world, monkeypatch):
    first = world.add()
    world.until(lambda: first.state is RunState.SUBMITTED)
    unfinished, faults = world.runs.unfinished, [JournalProblem("disk I/O error")] * 2

    def fail(name):
        if name and faults:
            raise faults.pop()
        return unfinished(name)

    monkeypatch.setattr(world.runs, "unfinished", fail)
    second = world.add(name="1-0-b", predecessor="1-0-a")
    world.until(lambda: second.state is RunState.SUBMITTED)
    assert first.state is RunState.REMOVED


def no_room(*_):
    raise Refused("no room for the output")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("fault", [Transient("no network"), Refused("AccessDenied")])
def test_whether_a_second_copy_is_there_is_asked_with_pauses_until_it_is_known(world, monkeypatch, fault, full):
    pauses = []
    for module in (runs_module, news):
        monkeypatch.setattr(module, "backoff", lambda tries: pauses.append(tries) or 0.01)
    world.batch.lost = ["before"]
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    assert run.sends == 2
    if full:
        monkeypatch.setattr(world.sandbox, "collect", no_room)
    world.batch.fail["named"] = [fault] * 3
    world.batch.set("id-1-0-a", status="SUCCEEDED")
    world.until(lambda: run.state.final)
    assert run.state is (RunState.HELD if full else RunState.COMPLETED)
    assert len(pauses) == 3


def test_to_ask_again_and_again_for_the_end_of_a_run_leaves_one_question(world):
    """While AWS cannot be reached, who waits for the end of an earlier run asks twice a second, for hours."""
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.terminate_many = lambda ids, reason: dict.fromkeys(ids, Transient("no network"))
    for _ in range(50):
        world.runs._end(run.name)
    assert len(world.runs.lives.by_name[run.name].waiters) == 1


def test_a_removal_that_comes_while_an_array_is_ended_as_a_whole_is_carried_out_too(world, monkeypatch):
    runs = array_of(world, 51)
    end_some = world.runs._ending._end_some
    world.runs._ending._end_some = lambda: None
    futures = [world.runs.wishes.want(run.name, Wanted.REMOVE) for run in runs[:50]]
    world.until(lambda: len(world.runs._ending._to_end) == 50)

    def whole(parent, ids):
        futures.append(world.runs.wishes.want(runs[50].name, Wanted.REMOVE))
        world.until(lambda: len(world.runs._ending._to_end) == 1)
        return True

    monkeypatch.setattr(world.runs.follower, "whole", whole)
    monkeypatch.setattr(world.runs.follower, "_tell", lambda news: None)  # the sweep is not what answers
    end_some()
    for future in futures:
        future.result(20)


class Guarded(Future):
    """A write's future that nobody may wait for on the journal's own thread, or with the lock of all runs."""

    runs, faults = None, []

    def result(self, timeout=None):
        if not self.done():
            if threading.current_thread().name == "journal":
                Guarded.faults.append("waited for on the journal's thread")
            if Guarded.runs is not None and Guarded.runs.lives.lock._is_owned():
                Guarded.faults.append("waited for with the lock")
        return super().result(timeout)


@pytest.mark.parametrize("size", [1, 10_000])
def test_nobody_waits_for_the_journal_on_its_own_thread_or_with_the_lock(tmp_path, monkeypatch, size):
    """The journal's thread calls back into the runs: one such wait would be the last."""
    for module in (runs_module, news):
        monkeypatch.setattr(module, "backoff", lambda tries: 0.01)
    monkeypatch.setattr(journal_module, "Future", Guarded)
    monkeypatch.setattr(Guarded, "faults", [])
    world = World(tmp_path, pack_size=size)
    monkeypatch.setattr(Guarded, "runs", world.runs)
    threads = set()

    def record(run):
        """As the gateway does: what follows a write happens on the thread that made it."""

        def begin(done):
            threads.add(threading.current_thread().name)
            world.runs.add(run)

        world.journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).add_done_callback(begin)
        return run

    def made(name, **more):
        return record(Run(name=name, directory=name, digest="", generation=0, queue="q", created=world.now, **more))

    try:
        world.batch.fail["submit"] = [Throttled("slow down"), Unsure("lost"), Refused("bad")]
        many = [made(f"1-{n}-a") for n in range(30)]
        world.until(lambda: sum(run.state is RunState.SUBMITTED for run in many) >= 29)
        live = [run for run in many if not run.state.final]
        heirs = [made(f"2-{n}-a", predecessor=run.name) for n, run in enumerate(live[:10])]
        removed = [world.runs.wishes.want(run.name, Wanted.REMOVE) for run in live[10:15]]
        held = [world.runs.wishes.want(run.name, Wanted.HOLD) for run in live[15:18]]
        for run in live[15:18]:
            world.batch.set(run.native_id, status="FAILED", cancelled=True)
        for future in removed + held:
            future.result(20)
        resumed = [world.runs.wishes.want(run.name, Wanted.RUN) for run in live[15:18]]
        for future in resumed:
            future.result(20)
        world.until(lambda: all(run.state is RunState.SUBMITTED for run in heirs + live[15:18]))
        rest = [run for run in [*many, *heirs] if not run.state.final]
        for run in rest:
            world.batch.set(run.native_id, status="SUCCEEDED")
        world.until(lambda: all(run.state.final for run in rest))
        assert "journal" in threads
        assert Guarded.faults == []
    finally:
        world.close()


def test_a_start_at_which_the_disk_fails_half_way_still_goes_on_with_the_runs_that_it_took_over(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "_ADOPT_EVERY_S", 0.05)
    left = Journal(str(tmp_path))
    run = Run(name="1-0-a", directory="d", digest="", generation=0, queue="q", created=1.0)
    left.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    left.close()
    asked, mine = [JournalProblem("disk I/O error")], Journal.mine

    def fail_once(journal):
        if asked:
            raise asked.pop()
        return mine(journal)

    monkeypatch.setattr(Journal, "mine", fail_once)
    world = World(tmp_path)
    world.until(lambda: world.batch.count("submit") == 1)
    assert asked == []
    world.close()


def come_late(world, job_id, name, submission=0):
    """A request that was given up arrives: its job runs, unless its claim is taken."""
    claimed = world.sandbox.claims.setdefault((name, submission), job_id)
    world.batch.set(job_id, **({"status": "RUNNING", "started": 5.0} if claimed == job_id else {"status": "FAILED"}))


def lost_and_unlisted(world, way, wanted):
    """A run whose SubmitJob is not seen to arrive, and of which HTCondor wants something else meanwhile."""
    world.batch.lost = [way]
    world.batch.hidden = {"id-1-0-a"}
    run = world.add()
    world.until(lambda: world.batch.count("find") >= 1)
    return run, world.runs.wishes.want(run.name, wanted)


def test_a_removed_run_whose_request_arrives_after_all_does_not_run(world):
    run, removed = lost_and_unlisted(world, "before", Wanted.REMOVE)
    world.until(lambda: run.state is RunState.REMOVED)
    assert removed.result(10) is None
    come_late(world, "late", "1-0-a")
    assert world.batch.jobs["late"].status == "FAILED"


def test_a_removed_run_that_batch_lists_too_late_is_ended_by_its_claim(world):
    run, removed = lost_and_unlisted(world, "after", Wanted.REMOVE)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0)
    world.sandbox.claims[("1-0-a", 0)] = "id-1-0-a"
    world.until(lambda: run.state is RunState.REMOVED)
    assert removed.result(10) is None
    assert world.batch.jobs["id-1-0-a"].terminated


def test_a_removal_that_comes_when_the_name_has_been_given_up_ends_what_has_the_claim(world, monkeypatch):
    gate, put = threading.Event(), world.batch.submit
    world.batch.lost = ["after"]
    world.batch.hidden = {"id-1-0-a"}
    monkeypatch.setattr(world.batch, "submit", lambda *a, **k: put(*a, **k) if gate.is_set() or world.batch.lost else throttle())

    def throttle():
        raise Throttled("slow down")

    run = world.add()
    world.until(lambda: run.state is RunState.STAGED and run.sends == 1)
    come_late(world, "id-1-0-a", "1-0-a")
    world.runs.wishes.want(run.name, Wanted.REMOVE)
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.jobs["id-1-0-a"].terminated


def test_a_removal_of_a_pack_that_was_given_up_is_answered_when_its_late_copy_cannot_run_any_more(world):
    run = Run(name="1-0-a", directory="d", digest="", generation=0, queue="q", created=1.0, sends=1, earlier="p:0")
    world.journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    refuse, answered = [Transient("S3 is away")] * 3, []
    revoke = world.sandbox.revoke

    def fail(name, submission):
        answered.append(removed.done())
        if refuse:
            raise refuse.pop()
        return revoke(name, submission)

    world.sandbox.revoke = fail
    world.sandbox.fail = [Transient("no upload yet")] * 10_000
    world.runs.add(run)
    removed = world.runs.wishes.want(run.name, Wanted.REMOVE)
    removed.result(20)
    assert answered == [False] * 4
    come_late(world, "p:0", "1-0-a")
    assert world.batch.jobs["p:0"].status == "FAILED"


def test_a_held_run_whose_request_arrives_after_all_does_not_run_and_its_next_submission_does(world):
    run, held = lost_and_unlisted(world, "before", Wanted.HOLD)
    held.result(20)
    assert (run.state, run.sends) == (RunState.SUSPENDED, 1)
    come_late(world, "late", "1-0-a")
    assert world.batch.jobs["late"].status == "FAILED"
    world.runs.wishes.want(run.name, Wanted.RUN).result(10)
    world.until(lambda: run.state is RunState.SUBMITTED)
    assert (run.submission, run.native_id) == (1, "id-1-0-a-1")
    assert ("1-0-a", 1) not in world.sandbox.claims


def test_a_hold_of_a_run_that_batch_runs_without_listing_it_is_refused(world):
    run, held = lost_and_unlisted(world, "after", Wanted.HOLD)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0)
    world.sandbox.claims[("1-0-a", 0)] = "id-1-0-a"
    with pytest.raises(Refused, match="has started on AWS Batch and cannot be held"):
        held.result(20)
    assert (run.state, run.wanted) == (RunState.SUBMITTED, Wanted.RUN)
    assert not world.batch.jobs["id-1-0-a"].terminated


@pytest.mark.parametrize("fault", [None, Transient("no network")])
def test_the_other_copy_of_a_run_is_ended_before_the_run_is_held(world, fault):
    world.batch.lost = ["before"]
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.fail["named"] = [fault] if fault else []
    world.batch.jobs["late"] = BatchJob(id="late", name="1-0-a", status="RUNNABLE")
    world.batch.cancel = lambda job_id, reason: world.batch.set(job_id, status="FAILED", cancelled=True)
    world.runs.wishes.want(run.name, Wanted.HOLD).result(20)
    assert run.state is RunState.SUSPENDED
    assert world.batch.jobs["late"].terminated
    assert world.sandbox.claims == {("1-0-a", 0): ""}


def test_a_removal_that_comes_while_canceljob_is_under_way_ends_the_job_that_started_meanwhile(world):
    gate, begun = threading.Event(), threading.Event()
    world.batch.cancel = lambda job_id, reason: (begun.set(), gate.wait(10))
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.runs.wishes.want(run.name, Wanted.HOLD)
    assert begun.wait(10)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0)  # which CancelJob leaves alone
    removed = world.runs.wishes.want(run.name, Wanted.REMOVE)
    gate.set()
    assert removed.result(10) is None
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.jobs["id-1-0-a"].terminated


@pytest.mark.parametrize("trouble", [JournalProblem("disk full"), Transient("throttled")])
def test_a_job_that_never_fits_is_held_with_the_reason_also_by_who_finds_it_ended_already(world, monkeypatch, trouble):
    """As the next GAHP does, when this one dies between TerminateJob and its last write."""
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    finish = world.runs._work.finish

    def fail(*arguments):
        monkeypatch.setattr(world.runs._work, "finish", finish)
        raise trouble

    monkeypatch.setattr(world.runs._work, "finish", fail)
    why = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job asks for more than any host has."
    world.batch.set("id-1-0-a", status="RUNNABLE", status_reason=why)
    world.until(lambda: run.state.final)
    assert run.state is RunState.HELD
    assert run.report.hold_code is HoldCode.OUT_OF_RESOURCES
    assert run.report.hold_reason == (
        f"AWS Batch can never start the job: {why} Change request_memory, request_cpus or request_gpus."
    )


def test_finished_runs_are_cleaned_up_batch_after_batch_without_a_pause_between_full_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "_CLEAN_AT_ONCE", 2)
    monkeypatch.setattr(upkeep, "_CLEAN_FIRST_S", 0.0)
    left = Journal(str(tmp_path), clock=lambda: 1.0)
    for name in "abcde":
        run = Run(name=name, directory=name, digest="", generation=0, state=RunState.REMOVED, confirmed=True, created=1.0)
        left.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    left.close()
    world = World(tmp_path, now=1e6)
    world.until(lambda: len(world.sandbox.discarded) == 5)
    world.close()


def test_what_was_over_long_ago_is_forgotten_at_the_start_and_not_after_hours_only(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "_ADOPT_EVERY_S", 0.05)
    left = Journal(str(tmp_path), clock=lambda: 1.0)
    run = Run(name="a", directory="a", digest="", generation=0, state=RunState.REMOVED, discarded=True, created=1.0)
    left.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    left.close()
    world = World(tmp_path, now=2e9)
    world.until(lambda: world.journal.find("a") is None)
    world.close()


def test_whom_htcondor_does_not_ask_about_while_it_asks_about_others_is_counted_by_the_period(world):
    asked, passed, removed = world.add("1-0-a"), world.add("1-0-b"), world.add("1-0-c")
    for run in (asked, passed, removed):
        run.directory = "home_bl_p_s_1.0_5"
    world.runs.wishes.want(removed.name, Wanted.REMOVE)
    late = []
    for number in range(4):
        world.runs.lives.stands(asked.name)  # as STATUS does
        if number == 1:
            late.append(world.add("1-0-d"))
        world.now += 1e7  # a clock that jumps changes nothing
        world.runs._upkeep._heed()
        world.journal.check()
    # What came in the middle of the first period, and of the second, is counted from the next one on.
    assert world.journal.unasked() == {passed.name: 3 * PERIOD_S}
    late[0].directory = "home_bl_p_s_2.0_5"
    world.runs.lives.stands(asked.name)
    world.runs.wishes.revive(passed.name)  # as CANCEL and the like do, and what another GAHP has is asked about here
    world.runs._upkeep._heed()
    world.journal.check()
    assert world.journal.unasked() == {late[0].name: PERIOD_S}
    world.runs._upkeep._heed()  # nobody asks
    world.journal.check()
    assert world.journal.unasked() == {late[0].name: PERIOD_S}
