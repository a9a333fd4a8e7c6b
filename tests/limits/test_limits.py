"""The limiter: what it learns in simulated time, and what it makes of a directory that others share."""

import fcntl
import heapq
import multiprocessing
import os
import random
import shutil
import stat
import struct
import tempfile
import threading
import time
from pathlib import Path

import pytest

from gahp.limits import FILE, FLOOR, Kind, Later, Limiter, Rates, Tops, provide, snapshot, trouble, withdraw


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
        place.chmod(0o1777)
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


def test_in_a_directory_of_a_group_the_file_is_for_the_group_whatever_the_umask(tmp_path):
    group, other = tmp_path / "group", tmp_path / "other"
    for place, mode in ((group, 0o2770), (other, 0o0770)):
        place.mkdir()
        place.chmod(mode)
        Limiter(str(place)).wait(Kind.STATUS)
    assert stat.S_IMODE((group / FILE).stat().st_mode) == 0o660
    # Its group would be whatever group its maker happens to be of.
    assert stat.S_IMODE((other / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("how", ["taken away", "exchanged"])
def test_a_file_that_is_gone_is_let_go_of_and_the_one_that_is_there_is_used(tmp_path, how):
    old, new = Limiter(str(tmp_path)), Limiter(str(tmp_path))
    old.wait(Kind.SUBMIT)
    (tmp_path / FILE).unlink()
    if how == "exchanged":
        new.wait(Kind.SUBMIT)
    old.throttled(Kind.SUBMIT)
    new.wait(Kind.SUBMIT)
    assert new._rates.rows[Kind.SUBMIT].throttled == 1


def test_what_keeps_a_process_from_sharing_is_told_in_words(tmp_path):
    assert trouble(str(tmp_path)) == ""
    assert trouble(str(tmp_path / "missing")) == "No such file or directory"
    assert trouble(str(tmp_path / FILE)) == "it is no directory"
    assert not (tmp_path / "missing").exists()
    (tmp_path / FILE).unlink()
    os.mkfifo(tmp_path / FILE)
    assert "is no plain file" in trouble(str(tmp_path))


# Two users who need no account.
ONE, OTHER = 3_000_000_001, 3_000_000_002
by_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users, and make what all users share")


@pytest.fixture
def common():
    """A folder of root's that other users can come into, as tmp_path is not."""
    folder = Path(tempfile.mkdtemp(prefix="awsbatch-limits-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _become(user):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def _do_as(user, work, arguments, told):
    _become(user)
    try:
        told.put(work(*arguments))
    except OSError as error:
        told.put(type(error))


def as_user(user, work, *arguments):
    """What `work` gives when `user` does it, or the kind of OSError."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=_do_as, args=(user, work, arguments, told))
    process.start()
    found = told.get(timeout=60)
    process.join(60)
    return found


def _refused_call(directory):
    limiter = Limiter(directory)
    limiter.throttled(Kind.SUBMIT)
    return limiter._descriptor >= 0


def _known_refusals(directory):
    limiter = Limiter(directory)
    limiter.wait(Kind.SUBMIT)
    return limiter._rates.rows[Kind.SUBMIT].throttled


def _use_up_as(user, *arguments):
    _become(user)
    _use_up(*arguments)


def made(common, how):
    """A directory for all users: as `install` makes it, or as administrators may by hand."""
    place = common / "limits"
    if how == "provided":
        provide(str(place))
    else:
        place.mkdir()
        place.chmod(0o1777)
    return str(place)


@by_root
@pytest.mark.parametrize("how", ["provided", "like /tmp"])
def test_what_one_user_learns_another_knows(common, how):
    place = made(common, how)
    assert as_user(ONE, _refused_call, place)
    assert as_user(OTHER, _known_refusals, place) == pytest.approx(1, abs=0.1)
    assert as_user(OTHER, trouble, place) == as_user(ONE, trouble, place) == ""


@by_root
@pytest.mark.parametrize("how", ["provided", "like /tmp"])
def test_two_users_together_keep_to_one_rate(common, how):
    place = made(common, how)
    context = multiprocessing.get_context("spawn")
    done, ready = context.Queue(), context.Barrier(4)
    several = [context.Process(target=_use_up_as, args=(user, place, ready, done)) for user in (ONE, OTHER) * 2]
    for process in several:
        process.start()
    total = sum(done.get(timeout=60) for _ in several)
    for process in several:
        process.join(60)
    # Each by itself would make 420; a machine that stands still for a while lets one go alone for some seconds.
    assert 0 < total < 2.5 * 420


@by_root
def test_no_user_can_take_the_file_from_the_others(common):
    place = made(common, "provided")
    path = f"{place}/{FILE}"
    (common / "theirs").mkdir()
    os.chown(common / "theirs", ONE, ONE)
    for work, arguments in (
        (os.unlink, (path,)),
        (os.chmod, (path, 0o600)),
        (os.rename, (path, str(common / "theirs" / "taken"))),
        (os.symlink, ("/elsewhere", f"{place}/more")),
    ):
        assert as_user(ONE, work, *arguments) is PermissionError, work
    # fs.protected_hardlinks lets whoever may write to a file give it a second name.
    assert as_user(ONE, os.link, path, str(common / "theirs" / "second")) is None
    assert as_user(ONE, _refused_call, place)
    assert as_user(OTHER, _known_refusals, place) == pytest.approx(1, abs=0.1)


@by_root
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_is_provided_is_roots_and_its_file_everybodys_and_once_more_changes_nothing(common, umask):
    place = common / "lib" / "awsbatch_gahp" / "limits"
    before = os.umask(umask)
    try:
        provide(str(place))
        first = (place / FILE).stat()
        Limiter(str(place)).throttled(Kind.END)
        provide(str(place))
    finally:
        os.umask(before)
    assert (place / FILE).stat().st_ino == first.st_ino
    assert snapshot(str(place)).paces[Kind.END].throttled_lately > 0
    assert stat.S_IMODE(first.st_mode) == 0o666 and first.st_uid == 0
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (place, place.parent, place.parent.parent)} == {0o755}


@by_root
@pytest.mark.parametrize("thing", ["link", "pipe", "second name", "file"])
def test_what_a_user_had_put_there_is_taken_away_and_what_it_leads_to_stays(common, thing):
    place, elsewhere = common / "limits", common / "elsewhere"
    made(common, "like /tmp")
    elsewhere.write_bytes(b"precious")
    elsewhere.chmod(0o600)
    if thing == "link":
        (place / FILE).symlink_to(elsewhere)
    elif thing == "pipe":
        os.mkfifo(place / FILE)
    elif thing == "second name":
        os.link(elsewhere, place / FILE)
    else:
        (place / FILE).write_bytes(b"")
        os.chown(place / FILE, ONE, ONE)
    provide(str(place))
    found = (place / FILE).lstat()
    assert stat.S_ISREG(found.st_mode) and (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o666)
    assert elsewhere.read_bytes() == b"precious" and stat.S_IMODE(elsewhere.stat().st_mode) == 0o600


@by_root
def test_a_place_that_others_cannot_come_to_or_that_is_another_users_is_refused(common):
    (common / "closed").mkdir(mode=0o700)
    with pytest.raises(PermissionError, match=r"closed is closed to other users"):
        provide(str(common / "closed" / "limits"))
    assert os.listdir(common / "closed") == []
    (common / "theirs").mkdir()
    os.chown(common / "theirs", ONE, ONE)
    with pytest.raises(PermissionError, match="belongs to another user"):
        provide(str(common / "theirs"))
    assert os.listdir(common / "theirs") == []
    (common / "linked").symlink_to(common)
    with pytest.raises(NotADirectoryError):
        provide(str(common / "linked"))


@by_root
def test_only_what_was_provided_is_withdrawn(common):
    place = common / "awsbatch_gahp" / "limits"
    provide(str(place))
    (place / "strange").touch()
    with pytest.raises(OSError, match="not empty"):
        withdraw(str(place))
    assert os.listdir(place) == ["strange"]
    (place / "strange").unlink()
    (place.parent / "journals").mkdir()
    withdraw(str(place))
    assert os.listdir(place.parent) == ["journals"]
    (place.parent / "journals").rmdir()
    withdraw(str(place))
    assert not place.parent.exists()


def test_nothing_is_known_where_nobody_has_called(tmp_path):
    assert snapshot(str(tmp_path)).paces == ()
