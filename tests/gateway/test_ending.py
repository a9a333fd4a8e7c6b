"""Jobs that are ended together, and arrays that are ended by their parents."""

import time

import pytest

from gahp.batch import BatchJob
from gahp.model import JobRequest, Refused
from gahp.run import Run, RunState, Wanted
from tests.gateway.world import no_room_for, seems_over


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
