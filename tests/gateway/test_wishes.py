"""What HTCondor wants of a run: on disk before anything is done, told when it is so, whatever it meets on the way."""

import threading
import time
from concurrent.futures import Future

import pytest

from gahp.batch import BatchJob, Throttled
from gahp.model import JobRequest, Refused, Transient
from gahp.run import Run, RunState, Wanted
from tests.gateway.world import no_room_for, seems_over


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


def test_a_run_that_waits_again_after_its_host_went_away_can_be_held(world):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="RUNNABLE", started=5.0, attempts=1)
    hold = world.runs.wishes.want(run.name, Wanted.HOLD)
    world.until(lambda: world.batch.count("cancel") == 1)
    world.batch.set("id-1-0-a", status="FAILED", started=5.0, attempts=1, cancelled=True)
    hold.result(10)
    assert run.state is RunState.SUSPENDED


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


def test_a_removal_of_what_only_seems_to_have_ended_ends_it_in_batch(world, monkeypatch):
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.set("id-1-0-a", status="RUNNING", started=5.0)
    world.until(lambda: run.started)
    seems_over(world, monkeypatch, run, "id-1-0-a")
    world.runs.wishes.want(run.name, Wanted.REMOVE).result(10)
    world.until(lambda: run.state is RunState.REMOVED)
    assert world.batch.jobs["id-1-0-a"].over


def test_to_ask_again_and_again_for_the_end_of_a_run_leaves_one_question(world):
    """While AWS cannot be reached, who waits for the end of an earlier run asks twice a second, for hours."""
    run = world.add()
    world.until(lambda: run.state is RunState.SUBMITTED)
    world.batch.terminate_many = lambda ids, reason: dict.fromkeys(ids, Transient("no network"))
    for _ in range(50):
        world.runs._end(run.name)
    assert len(world.runs.lives.by_name[run.name].waiters) == 1


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
