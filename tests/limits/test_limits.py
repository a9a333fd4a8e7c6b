"""The limiter: what it learns in simulated time, and what it makes of a directory that others share."""

import fcntl
import heapq
import multiprocessing
import os
import random
import stat
import struct
import threading
import time

import pytest

from gahp.limits import FILE, FLOOR, Kind, Later, Limiter, Rates, Tops, snapshot


class Account:
    """AWS's side: a bucket of `rate` calls a second with room for one second's worth."""

    def __init__(self, rate):
        self.rate, self.level, self.at = rate, rate, 0.0

    def takes(self, now):
        self.level = min(self.rate, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


def simulate(clients, account, seconds, begin=()):
    """Clients with endless work against one account; eight calls at once each. When each one's went through, and refusals."""
    through, refused = [[] for _ in clients], 0
    events = [(begin[n] if begin else 0.0, random.random(), n) for n in range(len(clients)) for _ in range(8)]
    heapq.heapify(events)
    while events[0][0] < seconds:
        now, _, n = heapq.heappop(events)
        delay = clients[n].take(Kind.SUBMIT, 1000 + now)
        if delay <= 0:
            if account.takes(now):
                through[n].append(now)
            else:
                refused += 1
                clients[n].refuse(Kind.SUBMIT, 1000 + now)
            delay = random.uniform(0.02, 0.06)  # the round trip
        heapq.heappush(events, (now + delay + random.uniform(0, 0.005), random.random(), n))
    return through, refused


@pytest.mark.parametrize("seed", range(5))
def test_three_hosts_share_the_accounts_fifty_a_second_fairly_and_use_most_of_it(seed):
    random.seed(seed)
    clients = [Rates(Tops()) for _ in range(3)]
    through, refused = simulate(clients, Account(50), 120)
    late = [sum(at > 30 for at in times) for times in through]
    assert max(late) < 1.6 * min(late)
    assert sum(late) > 0.75 * 50 * 90
    assert refused < 0.15 * sum(map(len, through))


def test_a_host_that_comes_late_gets_its_share_from_those_that_are_there():
    random.seed(7)
    clients = [Rates(Tops()) for _ in range(3)]
    through, _ = simulate(clients, Account(50), 180, begin=(0.0, 0.0, 60.0))
    late = [sum(at > 120 for at in times) for times in through]
    assert max(late) < 2 * min(late)


def test_a_host_alone_comes_up_to_the_top_rate_and_not_beyond():
    random.seed(1)
    through, refused = simulate([Rates(Tops())], Account(1000), 60)
    assert sum(at > 40 for at in through[0]) == pytest.approx(50 * 20, rel=0.03)
    assert refused == 0


def test_refusals_that_come_together_count_as_one_and_the_floor_is_kept():
    rates = Rates(Tops())
    for n in range(20):
        rates.refuse(Kind.SUBMIT, 10.0 + n / 1000)
    assert rates.rows[Kind.SUBMIT].rate == pytest.approx(25 * 0.7)
    for n in range(100):
        rates.refuse(Kind.SUBMIT, 20.0 + n)
    assert rates.rows[Kind.SUBMIT].rate == FLOOR
    assert rates.rows[Kind.END].rate == rates.rows[Kind.STATUS].rate == 25


def test_ends_go_before_submits_and_submits_before_status_where_all_calls_together_are_too_many():
    rates = Rates(Tops(end=40, submit=40, status=40, all=60, start=1.0))
    made = dict.fromkeys(Kind, 0)
    for tick in range(20000):
        for kind in reversed(Kind):  # who asks first gains nothing
            made[kind] += rates.take(kind, 100 + tick / 1000) == 0.0
    assert made[Kind.END] == pytest.approx(800, rel=0.05)
    assert made[Kind.SUBMIT] == pytest.approx(400, rel=0.1)
    assert made[Kind.STATUS] < 40


def test_the_defaults_leave_room_for_status_whatever_the_others_do():
    rates = Rates(Tops(start=1.0))
    made = dict.fromkeys(Kind, 0)
    for tick in range(20000):
        for kind in Kind:
            made[kind] += rates.take(kind, 100 + tick / 1000) == 0.0
    assert made[Kind.STATUS] > 200


def test_what_one_gahp_learns_the_others_of_the_directory_know(tmp_path):
    first, second = Limiter(str(tmp_path)), Limiter(str(tmp_path))
    first.throttled(Kind.SUBMIT)
    second.wait(Kind.SUBMIT)
    pace = snapshot(str(tmp_path)).paces[Kind.SUBMIT]
    assert pace.kind == "submit"
    assert pace.rate == pytest.approx(25 * 0.7, rel=0.1)
    assert pace.throttled_lately == pytest.approx(1, abs=0.1)
    assert pace.in_use > 0
    assert second._rates.rows[Kind.SUBMIT].throttled == 1


def _use_up(directory, ready, done):
    limiter, count = Limiter(directory, Tops(end=100, submit=100, status=100, all=1000, start=1.0)), 0
    ready.wait(60)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        try:
            limiter.wait(Kind.SUBMIT, 0.05)
            count += 1
        except Later as later:
            time.sleep(later.wait_s)
    done.put(count)


def test_processes_of_one_host_together_keep_to_one_rate(tmp_path):
    context = multiprocessing.get_context("spawn")
    done, ready = context.Queue(), context.Barrier(3)
    several = [context.Process(target=_use_up, args=(str(tmp_path), ready, done)) for _ in range(3)]
    for process in several:
        process.start()
    total = sum(done.get(timeout=60) for _ in several)
    for process in several:
        process.join(60)
    # Each by itself would make 420; a machine that stands still for a while lets one go alone for some seconds.
    assert 0 < total < 1.5 * 420


def test_a_wait_beyond_patience_is_told_and_not_sat_out():
    limiter = Limiter(tops=Tops(status=1, start=1.0))
    limiter.wait(Kind.STATUS, 0.0)
    with pytest.raises(Later) as told:
        for _ in range(3):
            limiter.wait(Kind.STATUS, 0.01)
    assert 0.01 < told.value.wait_s < 2


def test_who_has_patience_waits_in_turn():
    slept = []
    limiter = Limiter(tops=Tops(status=1, start=1.0), clock=lambda: 100 + sum(slept), sleep=slept.append)
    for _ in range(5):
        limiter.wait(Kind.STATUS)
    assert 3 < sum(slept) < 8


def test_a_limiter_with_patience_of_its_own_waits_so_long_and_no_longer():
    slept = []
    limiter = Limiter(tops=Tops(status=1, start=1.0), clock=lambda: 100 + sum(slept), sleep=slept.append, patience_s=10.0)
    for _ in range(5):
        limiter.wait(Kind.STATUS, 0.25)
    assert 3 < sum(slept) < 8
    impatient = Limiter(tops=Tops(status=1, start=1.0), clock=lambda: 100.0, sleep=slept.append, patience_s=0.5)
    impatient.wait(Kind.STATUS, 0.25)
    with pytest.raises(Later):
        for _ in range(3):
            impatient.wait(Kind.STATUS, 0.25)


HARM = {
    "garbage": b"x" * 5000,
    "short": b"rates 1\n",
    "not numbers": b"rates 1\n" + struct.pack("<28d", *[float("nan")] * 28),
    "endless": b"rates 1\n" + struct.pack("<28d", *[float("inf")] * 28),
    "negative": b"rates 1\n" + struct.pack("<28d", *[-1e300] * 28),
    "far ahead": b"rates 1\n" + struct.pack("<28d", *[1e300] * 28),
}


@pytest.mark.parametrize("content", HARM.values(), ids=HARM)
def test_whatever_stands_in_the_file_delays_by_no_more_than_the_lowest_rate(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    limiter = Limiter(str(tmp_path))
    waited = []
    limiter._sleep = waited.append
    delays = []
    for kind in Kind:
        try:
            limiter.wait(kind, 0.0)
        except Later as later:
            delays.append(later.wait_s)
    assert all(delay <= 1.0 / FLOOR + 1.0 for delay in delays)
    snapshot(str(tmp_path))
    with limiter._lock, limiter._shared() as now:
        assert all(0 <= row.due - now <= 2 or row.due <= now for row in limiter._rates.rows)


def test_a_lock_that_somebody_keeps_holds_nobody_up(tmp_path):
    Limiter(str(tmp_path)).wait(Kind.END)
    with open(tmp_path / FILE, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = threading.Event()
        threading.Thread(target=lambda: (Limiter(str(tmp_path)).wait(Kind.END), done.set()), daemon=True).start()
        assert done.wait(20)


@pytest.mark.parametrize("thing", ["link", "pipe", "folder", "second name", "no folder"])
def test_what_is_no_plain_file_is_done_without(tmp_path, thing):
    place, elsewhere = tmp_path / "limits", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    if thing == "no folder":
        place.write_bytes(b"")
    else:
        place.mkdir()
    if thing == "link":
        (place / FILE).symlink_to(elsewhere)
    elif thing == "pipe":
        os.mkfifo(place / FILE)
    elif thing == "folder":
        (place / FILE).mkdir()
    elif thing == "second name":
        os.link(elsewhere, place / FILE)
    limiter = Limiter(str(place))
    limiter.wait(Kind.SUBMIT)
    limiter.throttled(Kind.SUBMIT)
    assert elsewhere.read_bytes() == b"precious"
    assert limiter._rates.rows[Kind.SUBMIT].throttled == 1
    assert snapshot(str(place)).paces == ()


def test_the_file_is_its_owners_alone_unless_the_directory_is_for_all(tmp_path):
    own, common = tmp_path / "own", tmp_path / "common"
    common.mkdir()
    common.chmod(0o1777)
    for place in (own, common):
        Limiter(str(place)).wait(Kind.STATUS)
    assert stat.S_IMODE((own / FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert stat.S_IMODE((common / FILE).stat().st_mode) == 0o666


def test_nothing_is_known_where_nobody_has_called(tmp_path):
    assert snapshot(str(tmp_path)).paces == ()
