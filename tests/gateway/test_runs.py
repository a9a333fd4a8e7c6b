"""Runs from step to step, against a Batch and an S3 that fail on order or only after a long wait."""

import threading
from concurrent.futures import Future

import pytest

from gahp import journal as journal_module
from gahp.batch import BatchJob, Throttled, Unsure
from gahp.gateway import news
from gahp.gateway import runs as runs_module
from gahp.journal import JournalProblem
from gahp.model import HoldCode, JobRequest, JobState, Refused, Transient
from gahp.run import Run, RunState, Wanted
from gahp.sandbox import Outcome
from tests.gateway.world import World, no_room_for


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


def test_a_run_is_idle_again_when_its_host_went_away(world):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0, attempts=1)
    world.until(lambda: world.runs.lives.stands(run.name)[1].state is JobState.RUNNING)
    world.batch.set("id-1-0-a", status="RUNNABLE", attempts=1)
    world.until(lambda: world.runs.lives.stands(run.name)[1].state is JobState.IDLE)


@pytest.mark.parametrize(("attempts", "state"), [(1, RunState.COMPLETED), (2, RunState.HELD)])
def test_what_an_attempt_left_that_was_told_to_end_is_no_result_once_there_has_been_another(world, attempts, state):
    world.sandbox.outcome = Outcome(exit_signal=15, terminated=True, attempt=1)
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="FAILED", started=5.0, attempts=attempts, container_reason="OutOfMemoryError: killed")
    world.until(lambda: run.state.final)
    assert run.state is state
    assert state is RunState.COMPLETED or run.report.hold_code == HoldCode.OUT_OF_RESOURCES


def test_a_second_copy_that_came_through_late_is_ended_with_the_run(world):
    world.batch.lost = ["before"]
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.jobs["late"] = BatchJob(id="late", name="1-0-a", status="RUNNABLE")
    world.batch.set("id-1-0-a", status="SUCCEEDED", started=5.0)
    world.until(lambda: run.state is RunState.COMPLETED)
    assert [call for call in world.batch.calls if call[0] == "terminate"] == [("terminate", "late")]


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
