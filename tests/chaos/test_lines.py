"""The short form of `lines.py`."""

from tests.chaos.lines import fuzz, wrong


def test_random_and_mutated_lines_are_all_answered_in_their_form_and_the_gahp_lives():
    counted = fuzz(10_000, seed=5)
    assert wrong(counted) == {}
    assert counted["lines"] == 10_000
    assert counted["results"] > 300
