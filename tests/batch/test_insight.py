"""The line in front of a job: who counts, and who does not."""

from gahp.batch.insight import Crowd, line

CROWD = Crowd(waiting=(("a", 10.0), ("b", 20.0), ("c", 30.0)), running=2, using=3.0)


def test_the_older_ones_are_in_front_and_not_the_job_itself():
    assert [line(CROWD, job_id, created).ahead for job_id, created in (("a", 10.0), ("b", 20.0), ("c", 30.0))] == [0, 1, 2]
    # Its time may be the journal's, when Batch has not told its own.
    assert line(CROWD, "b", 21.0).ahead == 1
    assert (line(CROWD, "b", 20.0).running, line(CROWD, "b", 20.0).using) == (2, 3.0)


def test_of_an_older_array_all_that_wait_are_in_front_and_of_its_own_those_with_a_lower_index():
    crowd = Crowd(arrays=(("old", 10.0, 50), ("own", 20.0, 8), ("new", 30.0, 70)))
    assert line(crowd, "own:0", 20.5).ahead == 50
    assert line(crowd, "own:3", 20.5).ahead == 53
    assert line(crowd, "own:900", 20.5).ahead == 57  # no more than wait beside it
