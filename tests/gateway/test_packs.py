"""Packs against a Batch and an S3 that fail on order: what becomes of the members one by one."""

import concurrent.futures
import contextlib
import threading

import pytest

from gahp.batch import BatchJob, Throttled
from gahp.gateway import news, packs, rebuild, runs, work
from gahp.gateway.parents import Parents
from gahp.journal import Journal
from gahp.model import JobReport, JobRequest, JobState, Refused, Transient
from gahp.run import Run, RunState, Wanted
from gahp.sandbox import Outcome
from gahp.sandbox.facade import Record
from tests.gateway.world import World


@pytest.fixture
def world(tmp_path, monkeypatch):
    for module in (packs, runs, news):
        monkeypatch.setattr(module, "backoff", lambda tries: 0.01)
    world = World(tmp_path, pack_size=10_000, pack_quiet_s=0.3, pack_wait_s=5.0)
    yield world
    world.close()


def add_all(world, count=3):
    return [world.add(f"{n}-0-a") for n in range(count)]


def submitted(world, many):
    world.until(lambda: all(run.state is RunState.SUBMITTED for run in many))


def submits(world):
    return [call[1] for call in world.batch.calls if call[0] == "submit"]


def test_runs_that_come_together_are_one_submit_and_one_write_each_way(world):
    many = add_all(world, 50)
    submitted(world, many)
    (pack,) = submits(world)
    names = world.sandbox.packs[pack]  # as they were staged, by two threads
    assert sorted(names) == sorted(run.name for run in many)
    many.sort(key=lambda run: names.index(run.name))
    assert [(run.pack, run.child, run.native_id, run.sends) for run in many] == [
        (pack, n, f"id-{pack}:{n}", 1) for n in range(50)
    ]
    assert world.runs._packs._held == 0
    world.until(lambda: world.journal.find(many[49].name).native_id == f"id-{pack}:49")


def test_a_run_that_is_alone_is_submitted_under_its_own_name(world):
    run = world.add()
    submitted(world, [run])
    assert (submits(world), run.pack, run.native_id) == (["1-0-a"], "", "id-1-0-a")


def test_a_lost_reply_is_looked_up_once_for_all_and_never_sent_again(world):
    world.batch.lost = ["after"]
    many = add_all(world, 20)
    submitted(world, many)
    assert len(submits(world)) == 1
    assert world.batch.count("find") == 1
    assert {run.native_id for run in many} == {f"id-{many[0].pack}:{n}" for n in range(20)}


def test_a_pack_that_never_arrived_is_packed_anew_without_whoever_is_removed_meanwhile(world):
    world.batch.lost = ["before"]
    many = add_all(world)
    world.until(lambda: world.batch.count("find"))
    first = many[0].pack
    world.runs.wishes.want(many[1].name, Wanted.REMOVE).result(10)
    submitted(world, [many[0], many[2]])
    assert many[1].state is RunState.REMOVED
    (second,) = submits(world)
    assert second != first
    assert sorted(world.sandbox.packs[second]) == [many[0].name, many[2].name]
    assert [(run.sends, run.earlier) for run in (many[0], many[2])] == [(2, f"{first}:0"), (2, f"{first}:2")]


def test_the_array_that_arrives_late_all_the_same_is_ended_child_by_child(world):
    world.batch.lost = ["before"]
    many = add_all(world)
    submitted(world, many)
    world.runs._work._parents._good_for_s = 0.0
    late = many[0].earlier.rpartition(":")[0]
    world.batch.jobs["late"] = BatchJob(id="late", name=late, status="PENDING")
    for index, run in enumerate(many):
        world.batch.jobs[f"late:{index}"] = BatchJob(id=f"late:{index}", name="", status="RUNNABLE")
        world.batch.set(run.native_id, status="SUCCEEDED", started=5.0)
    world.until(lambda: all(run.state is RunState.COMPLETED for run in many))
    assert sorted(call[1] for call in world.batch.calls if call[0] == "terminate") == ["late:0", "late:1", "late:2"]


def test_a_child_that_runs_in_the_late_array_is_followed_there(world):
    world.batch.lost = ["before"]
    many = add_all(world)
    submitted(world, many)
    world.sandbox.outcome = None
    world.sandbox.claims[(many[1].name, 0)] = "late:1"
    world.batch.jobs["late:1"] = BatchJob(id="late:1", name="", status="RUNNING", started=5.0)
    world.batch.set(many[1].native_id, status="FAILED", exit_code=125, started=5.0)
    world.until(lambda: many[1].native_id == "late:1" and many[1].state is RunState.SUBMITTED)
    world.sandbox.outcome = Outcome(exit_code=0)
    world.batch.set("late:1", status="SUCCEEDED", started=5.0)
    world.until(lambda: many[1].state is RunState.COMPLETED)
    assert many[0].state is RunState.SUBMITTED


def test_what_was_claimed_in_a_pack_that_batch_does_not_list_is_not_sent_again(world):
    world.batch.lost = ["before"]
    world.sandbox.claims[("1-0-a", 0)] = "long-ago:1"
    many = add_all(world)
    submitted(world, many)
    assert many[1].native_id == "long-ago:1"
    (second,) = submits(world)
    assert sorted(world.sandbox.packs[second]) == [many[0].name, many[2].name]


def test_a_throttled_pack_is_sent_again_without_a_look_up_under_its_name_and_without_writing_the_manifest_again(world):
    world.batch.fail["submit"] = [Throttled("slow down")] * 3
    written = []
    put = world.sandbox.put_pack
    world.sandbox.put_pack = lambda pack, parts: (written.append(pack), put(pack, parts))
    many = add_all(world)
    submitted(world, many)
    assert submits(world) == [many[0].pack] * 4
    assert written == [many[0].pack]
    assert world.batch.count("find") == 0
    assert {run.sends for run in many} == {1}


def test_who_is_removed_or_held_before_the_submit_is_left_out_and_the_manifest_is_written_again(world):
    world.sandbox.fail_pack = [Transient("S3 is away")] * 1_000_000
    many = add_all(world, 5)
    world.until(lambda: len(world.sandbox.fail_pack) < 999_999)
    world.runs.wishes.want(many[1].name, Wanted.REMOVE).result(10)
    world.runs.wishes.want(many[3].name, Wanted.HOLD).result(10)
    assert (many[1].state, many[3].state) == (RunState.REMOVED, RunState.SUSPENDED)
    world.sandbox.fail_pack = []
    submitted(world, [many[0], many[2], many[4]])
    assert list(world.sandbox.packs.values()) == [[many[n].name for n in (0, 2, 4)]]
    world.runs.wishes.want(many[3].name, Wanted.RUN).result(10)
    submitted(world, [many[3]])
    assert (many[3].pack, many[3].submission) == ("", 0)


def test_who_is_removed_while_submitjob_is_under_way_is_ended_when_batch_has_it(world, monkeypatch):
    go, under_way = threading.Event(), threading.Event()
    submit = world.batch.submit

    def slow(*arguments, **keywords):
        under_way.set()
        go.wait(10)
        return submit(*arguments, **keywords)

    monkeypatch.setattr(world.batch, "submit", slow)
    many = add_all(world)
    assert under_way.wait(10)
    removal = world.runs.wishes.want(many[1].name, Wanted.REMOVE)
    assert not removal.done()
    go.set()
    removal.result(10)
    world.until(lambda: many[1].state is RunState.REMOVED)
    assert [call for call in world.batch.calls if call[0] == "terminate"] == [("terminate", f"id-{many[0].pack}:1")]
    submitted(world, [many[0], many[2]])


def test_who_is_removed_at_the_last_moment_is_not_told_so_and_then_submitted(world, monkeypatch):
    removals, told, submit = [], [], world.batch.submit

    def removed_now():
        thread = threading.Thread(target=lambda: removals.append(world.runs.wishes.want("1-0-a", Wanted.REMOVE)))
        thread.start()
        thread.join(1)
        with contextlib.suppress(IndexError, concurrent.futures.TimeoutError):
            removals[0].result(1)
        return world.now

    def look(*arguments, **keywords):
        told.append(any(removal.done() for removal in removals))
        return submit(*arguments, **keywords)

    monkeypatch.setattr(world.runs._packs, "_clock", removed_now)  # it is asked the time when the pack is about to be submitted
    monkeypatch.setattr(world.batch, "submit", look)
    many = add_all(world)
    world.until(lambda: many[1].state is RunState.REMOVED)
    assert told == [False]
    submitted(world, [many[0], many[2]])


def test_if_the_array_is_refused_each_is_submitted_by_itself_and_only_the_bad_one_is_held(world):
    world.batch.fail["submit"] = [Refused("no arrays here")]
    refused = world.batch.submit

    def submit(request, *, name, queue, environment, size=1):
        if name == "1-0-a":
            raise Refused("not this one")
        return refused(request, name=name, queue=queue, environment=environment, size=size)

    world.batch.submit = submit
    many = add_all(world)
    world.until(lambda: many[1].state is RunState.HELD)
    submitted(world, [many[0], many[2]])
    assert many[1].report.hold_reason == "not this one"
    assert [(run.pack, run.native_id) for run in (many[0], many[2])] == [("", "id-0-0-a"), ("", "id-2-0-a")]


def test_an_s3_that_refuses_the_pack_is_asked_for_each_by_itself(world):
    world.sandbox.fail_pack = [Refused("AccessDenied")]
    many = add_all(world)
    submitted(world, many)
    assert sorted(submits(world)) == sorted(run.name for run in many)


def test_a_fault_of_this_program_while_packing_is_tried_again(world):
    world.sandbox.fail_pack = [RuntimeError("a bug")]
    many = add_all(world)
    submitted(world, many)
    assert len(submits(world)) == 1


def test_one_that_cannot_be_staged_takes_nobody_with_it(world, monkeypatch):
    prepare = world.sandbox.prepare

    def one_bad(run, *arguments, **keywords):
        if run == "1-0-a":
            raise Refused("its input is gone")
        return prepare(run, *arguments, **keywords)

    monkeypatch.setattr(world.sandbox, "prepare", one_bad)
    many = add_all(world)
    world.until(lambda: many[1].state is RunState.HELD)
    submitted(world, [many[0], many[2]])
    assert many[1].report.hold_reason == "its input is gone"


def test_memory_for_what_waits_to_be_packed_is_bounded(world, monkeypatch):
    monkeypatch.setattr(packs, "_MOST_HELD", 12)
    monkeypatch.setattr(work, "_NO_ROOM_S", 0.01)
    world.sandbox.fail_pack = [Transient("S3 is away")] * 1_000_000
    many = add_all(world, 10)
    world.until(lambda: len(world.sandbox.fail_pack) < 999_990)
    # Two threads stage: each may have looked when there was room yet.
    assert world.runs._packs._held <= 12 + 2 * len("0-0-a")
    world.sandbox.fail_pack = []
    submitted(world, many)
    assert world.runs._packs._held == 0


def test_a_pack_in_s3_goes_with_the_last_of_its_runs_and_no_earlier(world, monkeypatch):
    many = add_all(world)
    submitted(world, many)
    pack = many[0].pack
    for run in many[:2]:
        world.journal.update(run, confirmed=True)
        world.batch.set(run.native_id, status="SUCCEEDED", started=5.0)
    world.until(lambda: all(run.state is RunState.COMPLETED for run in many[:2]))
    world.now += 3601
    world.runs._upkeep._clean()
    assert sorted(world.sandbox.discarded) == [many[0].name, many[1].name]
    world.batch.set(many[2].native_id, status="SUCCEEDED", started=5.0)
    world.journal.update(many[2], confirmed=True)
    world.until(lambda: many[2].state is RunState.COMPLETED)
    world.now += 3601
    world.runs._upkeep._clean()
    assert sorted(world.sandbox.discarded[2:]) == sorted([many[2].name, pack])


def test_a_pack_that_a_run_was_sent_in_before_is_kept_as_long_as_the_run_is(tmp_path):
    journal = Journal(str(tmp_path))
    try:
        request = JobRequest(executable="/bin/true", iwd="/")
        over = {"state": RunState.COMPLETED, "report": JobReport(JobState.COMPLETED)}
        for name, more in (("a", {"pack": "p", "child": 0}), ("b", {"pack": "q", "child": 1, "earlier": "p:1 r:2"})):
            journal.insert(Run(name=name, directory=name, digest="", generation=0, **over, **more), request).result()
        assert journal.needed("p", {"a"})
        assert not journal.needed("p", {"a", "b"})
        assert journal.needed("r", {"a"})
        assert not journal.needed("rr", set())
        assert (journal.member("p", 0).name, journal.member("p", 1).name, journal.member("r", 2).name) == ("a", "b", "b")
        assert journal.member("p", 2) is None
    finally:
        journal.close()


def test_a_write_of_many_is_in_the_file_for_all_or_for_none(tmp_path):
    journal = Journal(str(tmp_path))
    try:
        runs = [Run(name=f"r{n}", directory=f"r{n}", digest="", generation=0) for n in range(3)]
        for run in runs:
            journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
        journal.update_all((run, {"state": RunState.SUBMITTING, "child": n}) for n, run in enumerate(runs)).result()
        assert [(journal.find(run.name).state, journal.find(run.name).child) for run in runs] == [
            (RunState.SUBMITTING, n) for n in range(3)
        ]
        with pytest.raises(ValueError, match="cannot become"):
            journal.update_all([(runs[0], {"state": RunState.SUBMITTED}), (runs[1], {"state": RunState.COLLECTING})])
        assert {run.state for run in runs} == {RunState.SUBMITTING}
    finally:
        journal.close()


@pytest.mark.parametrize("listed", [False, True])
def test_a_run_with_several_manifests_comes_back_as_what_was_sent_last(tmp_path, listed):
    journal = Journal(str(tmp_path))
    request = JobRequest(executable="/bin/true", iwd="/")

    def record(name, pack="", child=0, **more):
        run = Run(name=name, directory=name, digest="", generation=0, queue="q", **more)
        return Record(journal.sealed(run, request), pack, child)

    class Sandbox:
        def records(self):
            yield record("lost", "p", 0)
            yield record("lost", "q", 3, sends=1)
            yield record("resumed", "p", 1)
            yield record("resumed", submission=1)
            yield record("packed", "p", 4)
            yield record("packed")
            yield Record("another journal's", "p", 5)

    class Batch:
        def find(self, name, queue):
            return "id-p" if name == "p" and listed else ""

        def named(self, pattern, queue):
            return []

    made = {
        name: (run.pack, run.child, run.submission, run.sends, run.earlier)
        for name, run in _rebuilt(journal, Sandbox(), Batch(), tmp_path).items()
    }
    assert made["lost"] == ("q", 3, 0, 2, "p:0")
    assert made["resumed"] == ("", 0, 1, 0, "p:1")
    assert made["packed"] == (("p", 4, 0, 1, "") if listed else ("", 0, 0, 0, "p:4"))
    assert len(made) == 3


def _rebuilt(journal, sandbox, batch, directory):
    journal.close()
    rebuild(str(directory), sandbox, batch)
    journal = Journal(str(directory))
    try:
        return {run.name: run for run in journal._select("", ())}
    finally:
        journal.close()


def test_children_ask_for_their_parent_once_in_a_while_until_it_is_listed():
    class Batch:
        asked, listed = 0, ""

        def find(self, name, queue):
            self.asked += 1
            return self.listed

    batch, now = Batch(), [0.0]
    parents = Parents(batch, 1.0, clock=lambda: now[0])
    assert [parents.find("p", "q") for _ in range(3)] == [(0.0, "")] * 3
    assert batch.asked == 1
    batch.listed, now[0] = "id", 1.0
    assert [parents.find("p", "q") for _ in range(3)] == [(1.0, "id")] * 3
    now[0] = 1000.0
    assert parents.find("p", "q") == (1.0, "id")
    assert batch.asked == 2
