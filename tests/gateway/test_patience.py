"""Who waits for a future is answered in time, by the future or otherwise."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from gahp.gateway.gateway import Patience
from gahp.lanes import Lane


def test_whoever_is_not_answered_in_time_is_answered_otherwise_and_nobody_twice():
    patience = Patience(Lane("test", 1), 0.05)
    answered, waiting = Future(), [Future() for _ in range(20)]
    answered.set_result("at once")
    for future in [answered, *waiting]:
        patience.wait_for(future, lambda future=future: future.set_result("late"))
    assert [future.result(60) for future in waiting] == ["late"] * 20
    assert answered.result() == "at once"


def test_one_that_comes_after_all_others_were_answered_is_not_forgotten():
    patience, lane_is_idle = Patience(Lane("test", 1), 0.02), threading.Event()
    first = Future()
    first.add_done_callback(lambda _: lane_is_idle.set())
    patience.wait_for(first, lambda: first.set_result("late"))
    assert lane_is_idle.wait(60)
    second = Future()
    patience.wait_for(second, lambda: second.set_result("late"))
    assert second.result(60) == "late"
