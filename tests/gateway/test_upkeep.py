"""What is done from time to time: runs taken over, cleaned up in S3, forgotten, and whom HTCondor passes over."""

from gahp.gateway import upkeep
from gahp.gateway.attention import PERIOD_S
from gahp.journal import Journal, JournalProblem
from gahp.model import JobRequest
from gahp.run import Run, RunState, Wanted
from tests.gateway.world import World


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
