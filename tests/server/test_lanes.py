"""Lanes: tasks when they are due, in few threads."""

import threading
import time
from concurrent.futures import Future

import pytest

from gahp import lanes
from gahp.lanes import Lane, after, backoff


def test_tasks_run_when_due_and_a_delayed_one_takes_no_thread():
    lane, order, done = Lane("t", 1), [], threading.Event()
    lane.put(lambda: (order.append("late"), done.set()), 0.2)
    lane.put(lambda: order.append("first"))
    lane.put(lambda: order.append("second"))
    assert done.wait(10)
    assert order == ["first", "second", "late"]
    lane.close()


def test_a_lane_is_as_late_as_the_task_that_has_been_due_for_longest():
    lane, begun, end = Lane("t", 1), threading.Event(), threading.Event()
    lane.put(lambda: (begun.set(), end.wait(10)))
    assert begun.wait(10)
    lane.put(lambda: None, 100.0)
    assert lane.late_s() == 0.0
    lane.put(lambda: None)
    time.sleep(0.05)
    assert 0.05 <= lane.late_s() < 10
    end.set()
    lane.close()


def test_a_task_that_fails_takes_nothing_with_it():
    lane, done = Lane("t", 1), threading.Event()
    lane.put(lambda: 1 / 0)
    lane.put(done.set)
    assert done.wait(10)
    lane.close()


def test_no_more_threads_than_asked_for_run_at_once():
    lane, lock, now, most = Lane("t", 3), threading.Lock(), [0], [0]
    left = threading.Semaphore(0)

    def task():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        left.release()

    for _ in range(30):
        lane.put(task)
    for _ in range(30):
        assert left.acquire(timeout=10)
    assert most[0] <= 3
    lane.close()


def test_a_burst_that_finds_one_idle_thread_gets_all_the_threads_it_may_have():
    lane, all_there, done = Lane("t", 6), threading.Barrier(6), threading.Event()
    lane.put(done.set)
    assert done.wait(10)
    met = threading.Semaphore(0)
    for _ in range(6):
        lane.put(lambda: (all_there.wait(10), met.release()))
    for _ in range(6):
        assert met.acquire(timeout=15)
    lane.close()


def test_a_task_behind_one_that_waits_is_taken_by_another_thread_soon():
    lane, blocked, done = Lane("t", 2), threading.Event(), threading.Event()
    lane.put(lambda: blocked.wait(10))
    lane.put(done.set)
    assert done.wait(5)
    again = threading.Event()
    lane.put(again.set)
    assert again.wait(5)
    blocked.set()
    lane.close()


def test_tasks_that_wait_for_nothing_are_carried_out_one_at_a_time(monkeypatch):
    monkeypatch.setattr(lanes, "_PATIENCE_S", 60.0)
    lane, now, most, left = Lane("t", 8), [], [0], threading.Semaphore(0)

    def task():
        now.append(1)
        most[0] = max(most[0], len(now))
        time.sleep(0.001)
        now.pop()
        left.release()

    for _ in range(200):
        lane.put(task)
    for _ in range(200):
        assert left.acquire(timeout=10)
    assert most[0] == 1
    lane.close()


def test_a_closed_lane_drops_what_has_not_begun():
    lane, ran = Lane("t", 1), threading.Event()
    lane.put(ran.set, 0.2)
    lane.close()
    assert not ran.wait(0.5)


def test_waits_grow_to_their_bound_and_never_beyond():
    waits = [backoff(tries) for tries in range(100)]
    assert max(waits) <= 60.0
    assert min(waits[20:]) >= 30.0


def test_a_thread_that_cannot_be_started_leaves_the_task_to_those_that_are_there(monkeypatch):
    lane, begun, go_on, done = Lane("t", 2), threading.Event(), threading.Event(), threading.Event()
    lane.put(lambda: (begun.set(), go_on.wait(10)))
    assert begun.wait(10)

    def fail(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    lane.put(done.set)
    go_on.set()
    assert done.wait(10)
    monkeypatch.undo()
    both, met = threading.Barrier(2), threading.Semaphore(0)
    for _ in range(2):  # the place of the one that failed is still free
        lane.put(lambda: (both.wait(10), met.release()))
    assert met.acquire(timeout=10) and met.acquire(timeout=10)
    lane.close()


def test_memory_that_runs_out_in_a_task_ends_the_thread_and_with_it_the_program(monkeypatch):
    died = []
    ended = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda what: (died.append(what.exc_type), ended.set()))
    lane = Lane("t", 1)

    def put_back():
        with monkeypatch.context() as patch:
            patch.setattr(lanes._thread, "start_new_thread", no_thread)
            other.put(lambda: None)

    def no_thread(*_):
        raise RuntimeError("can't start new thread")

    other = Lane("other", 1)
    lane.put(put_back)
    assert ended.wait(10)
    assert died == [MemoryError]
    lane.close()


def test_a_thread_that_finds_no_memory_to_begin_with_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(lanes, "_BEGIN_S", 0.1)
    monkeypatch.setattr(lanes._thread, "start_new_thread", lambda *_: None)
    with pytest.raises(MemoryError, match="the thread t-0 does not begin"):
        Lane("t", 1).put(lambda: None)


def test_what_follows_a_future_and_finds_no_memory_ends_the_program_and_another_fault_does_not(monkeypatch):
    died, future = [], Future()
    monkeypatch.setattr(threading, "excepthook", lambda what: died.append(what.exc_type))
    monkeypatch.setattr(lanes, "_reserve", [bytearray(1)])

    def no_memory(done):
        raise MemoryError(done.result())

    for work in (lambda done: 1 / 0, no_memory):
        after(future, work)
    future.set_result("x")
    assert (died, lanes._reserve) == ([MemoryError], [])
