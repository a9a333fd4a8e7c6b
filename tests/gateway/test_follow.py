"""The thread that asks: what it leaves time for."""

import time
from types import SimpleNamespace

import pytest

from gahp.batch import BatchJob
from gahp.gateway import follow as module
from gahp.gateway.follow import Followed, Follower
from gahp.gateway.sweep import Children
from gahp.model import Transient

SIZE = 600


class Arrays:
    """Arrays of which half has ended once `over` is set. Keeps what was asked."""

    def __init__(self):
        self.over = False
        self.lists = []

    def describe(self, ids):
        done = SIZE // 2 if self.over else 0
        yield ids, {i: BatchJob(i, "", "PENDING", size=SIZE, counts={"RUNNING": SIZE - done, "SUCCEEDED": done}) for i in ids}

    def children(self, parent, status, token):
        self.lists.append(parent)
        return [BatchJob(f"{parent}:{n}", "", status, described=False) for n in range(SIZE // 2)], ""


def follower(arrays, late_s, interval_s, told):
    ids = {f"{parent}:{n}": "queue" for parent in "abc" for n in range(SIZE)}
    found = Follower(arrays, interval_s=interval_s, followed=lambda: Followed(ids), tell=told.extend, late_s=late_s)
    found.round()
    arrays.over = True
    return found


def test_the_next_array_is_listed_when_what_was_told_of_the_last_one_is_worked_on():
    arrays, told, late = Arrays(), [], [0.0, 0.5, 0.5, 0.0, 0.5, 0.0]
    seen = []

    def late_s():
        seen.append(len(arrays.lists))
        return late.pop(0)

    follower(arrays, late_s, 60.0, told).round()
    assert seen == [0, 1, 1, 1, 2, 2]
    assert sorted(arrays.lists) == ["a", "b", "c"]
    assert sum(job.over for _, job in told) == 3 * SIZE // 2


def test_who_is_late_all_the_time_holds_a_round_up_for_less_than_an_interval(monkeypatch):
    now, arrays, told = [1000.0], Arrays(), []

    class Waiting:
        def wait(self, seconds):
            now[0] += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    found = follower(arrays, lambda: 60.0, 40.0, told)
    found._stop = Waiting()
    found.round()
    assert len(arrays.lists) == 3
    assert 1030.0 <= now[0] < 1040.0


def test_a_list_of_what_runs_is_read_in_one_go_once_it_is_begun():
    """Who started again while it was read would be missed by it, and be taken for ended."""
    arrays, told = Arrays(), []
    found = follower(arrays, lambda: 60.0, 60.0, told)
    found.close()  # what would wait raises
    found._leave_time(Children("a", "RUNNING", "page 2"), time.monotonic() + 60.0)
    with pytest.raises(Transient):
        found._leave_time(Children("a", "RUNNING"), time.monotonic() + 60.0)
    with pytest.raises(Transient):
        found._leave_time(Children("a", "SUCCEEDED", "page 2"), time.monotonic() + 60.0)


def test_when_events_cease_jobs_are_asked_about_within_an_interval():
    arrays, rounds = Arrays(), []

    class Clock:
        """The follower's thread, run here: its waits are the clock, and what happens at which round."""

        now, waited = 1000.0, 0

        def wait(self, seconds):
            self.now += seconds
            self.waited += 1
            if self.waited == 4:
                found.flowing(False)
            return self.waited > 6

        def monotonic(self):
            return self.now

    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", clock)
        found = follower(arrays, lambda: 0.0, 10.0, [])
        ask, found._stop, arrays.over = found.round, clock, False
        found.flowing(True)
        patch.setattr(found, "round", lambda: rounds.append(clock.now) or ask())
        found._work()
    assert rounds == [1010.0, 1040.0, 1057.5]  # nothing moves, so the pace is a slow one
