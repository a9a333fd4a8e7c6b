"""When a group of jobs is complete, on a clock that the test turns."""

import re

import pytest

from gahp.gateway import packer as module
from gahp.gateway.packer import Packer, Part, pack_name


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def packer(clock):
    return Packer(size=5, quiet_s=0.025, wait_s=0.25, longest_s=0.25, clock=clock)


def offer(packer, name, shape="a", body=b"x"):
    return packer.offer(name, Part(body, shape), name)


def test_a_group_is_complete_when_none_came_for_the_quiet_time(packer, clock):
    group, new = offer(packer, "1-0-a")
    assert new
    assert packer.left(group) == pytest.approx(0.025)
    clock.now += 0.02
    assert offer(packer, "1-1-a") == (group, False)
    clock.now += 0.02
    assert packer.left(group) == pytest.approx(0.005)
    clock.now += 0.0051
    assert packer.left(group) == 0.0
    assert [member for member, _ in group.members] == ["1-0-a", "1-1-a"]


def test_a_group_is_complete_after_the_longest_wait_although_more_come(packer, clock):
    group, _ = offer(packer, "0")
    packer._size = 1000
    for number in range(1, 16):
        assert packer.left(group) > 0
        clock.now += 0.0166
        assert offer(packer, str(number))[0] is group
    clock.now += 0.002
    assert packer.left(group) == 0.0


def come(packer, clock, seconds, shape="a", every_s=0.01):
    """Jobs of a shape one after the other for so long; how many are in each group."""
    groups = {}
    for number in range(round(seconds / every_s)):
        for group in list(groups):
            packer.left(group)
        group, _ = offer(packer, str(number), shape)
        groups[group] = len(group.members)
        clock.now += every_s
    return list(groups.values())


def test_groups_of_a_burst_wait_twice_as_long_as_it_has_lasted_up_to_the_longest_wait(clock):
    packer = Packer(size=10_000, quiet_s=0.025, wait_s=0.25, longest_s=5.0, clock=clock)
    sizes = come(packer, clock, 25.0)
    assert sizes[:4] == pytest.approx([25, 50, 150, 450], abs=8)
    assert sizes[4:-1] == pytest.approx([500] * (len(sizes) - 5), abs=2)


def test_a_burst_may_pause_for_a_tenth_of_what_it_has_lasted(clock):
    packer = Packer(size=10_000, quiet_s=0.025, wait_s=5.0, longest_s=5.0, clock=clock)
    (before,) = come(packer, clock, 1.0)
    group, new = offer(packer, "0")
    assert (new, len(group.members)) == (False, before + 1)
    clock.now += 0.09
    assert packer.left(group) > 0
    clock.now += 0.02
    assert packer.left(group) == 0.0


def test_what_is_being_accepted_is_waited_for(clock):
    packer = Packer(size=10_000, quiet_s=0.025, wait_s=0.25, longest_s=0.25, clock=clock)
    packer.accepting(2)
    packer.accepting(-1)
    group, _ = offer(packer, "0")
    clock.now += 0.1
    assert packer.left(group) > 0
    packer.accepting(-1)
    assert packer.left(group) == 0.0


def test_who_finds_nobody_is_not_kept_by_what_is_accepted_of_other_shapes(clock):
    packer = Packer(size=5, quiet_s=0.025, wait_s=2.0, longest_s=5.0, clock=clock)
    packer.accepting(1)
    alone, _ = offer(packer, "1-0-a")
    two, _ = offer(packer, "2-0-a", "b")
    offer(packer, "2-1-a", "b")
    clock.now += 0.251
    assert packer.left(alone) == 0.0 and packer.left(two) > 0.0


def test_jobs_that_come_now_and_then_wait_no_longer_however_long_they_come(clock):
    packer = Packer(size=10_000, quiet_s=0.025, wait_s=0.25, longest_s=5.0, clock=clock)
    assert come(packer, clock, 60.0, every_s=0.2) == [1] * 300


def test_a_burst_that_has_ended_makes_nobody_wait_longer(clock):
    packer = Packer(size=10_000, quiet_s=0.025, wait_s=0.25, longest_s=5.0, clock=clock)
    come(packer, clock, 10.0)
    group, _ = offer(packer, "last of it")
    assert packer.left(group) <= 0.25  # of a pause, however long its group may wait
    clock.now += 1.3
    assert packer.left(group) == 0.0
    group, _ = offer(packer, "the next day")
    assert packer.left(group) == pytest.approx(0.025)


def test_a_burst_of_one_shape_is_none_of_another(clock):
    packer = Packer(size=10_000, quiet_s=0.025, wait_s=0.25, longest_s=5.0, clock=clock)
    come(packer, clock, 10.0, "a")
    group, _ = offer(packer, "0", "b")
    assert packer.left(group) == pytest.approx(0.025)


def test_bursts_that_are_over_are_forgotten(clock):
    packer = Packer(size=10_000, quiet_s=0.025, wait_s=0.25, longest_s=5.0, clock=clock)
    for number in range(100):
        offer(packer, str(number), shape=number)
        clock.now += 0.1
    assert len(packer._bursts) < 25


def test_where_there_is_no_room_for_more_nothing_waits_for_more(clock):
    packer = Packer(size=10_000, quiet_s=0.025, wait_s=0.25, longest_s=5.0, clock=clock)
    come(packer, clock, 3.0)
    packer.expect("one more")
    group, _ = offer(packer, "0")
    clock.now += 0.26
    assert packer.left(group) > 0
    packer.hurry()
    assert packer.left(group) == 0.0


def test_what_is_complete_takes_no_more(packer, clock):
    group, _ = offer(packer, "0")
    clock.now += 1
    assert packer.left(group) == 0.0
    other, new = offer(packer, "1")
    assert new
    assert other is not group
    assert other.name != group.name


def test_a_full_group_is_complete_at_once_and_the_next_one_begins_another(packer):
    groups = [offer(packer, str(number)) for number in range(7)]
    assert [new for _, new in groups] == [True, False, False, False, False, True, False]
    assert packer.left(groups[0][0]) == 0.0
    assert packer.left(groups[5][0]) > 0


def test_a_group_holds_so_many_bytes_and_no_more(packer, monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 100)
    first, _ = offer(packer, "0", body=b"x" * 60)
    assert offer(packer, "1", body=b"x" * 60)[0] is first
    assert packer.left(first) == 0.0
    assert offer(packer, "2")[1]


def test_jobs_of_different_shapes_are_kept_apart(packer):
    one, two = offer(packer, "0", shape="a")[0], offer(packer, "1", shape="b")[0]
    assert one is not two
    assert offer(packer, "2", shape="b") == (two, False)


def test_a_run_that_is_about_to_be_staged_is_waited_for_but_no_longer_than_the_longest_wait(packer, clock):
    group, _ = offer(packer, "0")
    packer.expect("1")
    clock.now += 0.1
    assert 0 < packer.left(group) <= 0.025
    packer.staging("1")
    clock.now += 0.1
    assert packer.left(group) > 0
    clock.now += 0.051
    assert packer.left(group) == 0.0


def test_a_run_that_comes_or_fails_is_no_longer_waited_for(packer, clock):
    group, _ = offer(packer, "0")
    packer.expect("1")
    packer.staging("1")
    clock.now += 0.1
    packer.staged("1")
    assert packer.left(group) == 0.0


def test_a_run_that_has_been_uploading_for_long_holds_nobody_up(packer, clock):
    packer.staging("huge")
    clock.now += 60
    group, _ = offer(packer, "0")
    clock.now += 0.026
    assert packer.left(group) == 0.0


def test_the_name_of_an_array_has_the_cluster_of_its_first_run():
    assert re.fullmatch("1234-pack-[a-z2-7]{16}", pack_name("1234-0-abcdefg"))
    assert re.fullmatch("job-pack-[a-z2-7]{16}", pack_name("job-abcdefg"))
    assert pack_name("1-0-a") != pack_name("1-0-a")
