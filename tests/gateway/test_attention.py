"""Whom HTCondor passes over: by value."""

import pytest

from gahp.gateway.attention import passed_over

ONE, OTHER = "home_bl_pool_9618_one.host", "home_bl_pool_9618_other.host"
LIVE = {
    "a": f"{ONE}_1.0_1795000000",
    "b": f"{ONE}_12.34_1795000001",
    "c": f"{OTHER}_1.0_1795000000",
    "d": "",
}


@pytest.mark.parametrize(
    ("asked", "before", "expected"),
    [
        ({"a"}, {"a", "b"}, ["b"]),  # it asks about one and not about the other
        ({"a", "b"}, {"a", "b"}, []),
        (set(), {"a", "b", "c", "d"}, []),  # HTCondor is away, or AWS is down for it: that says nothing
        ({"a"}, {"a"}, []),  # b came in the middle of the period
        ({"c"}, {"a", "b", "c"}, []),  # another schedd asks, and that of a and b may be down
        ({"d"}, set(LIVE), []),  # somebody talks to it by hand
        ({"over"}, set(LIVE), []),  # about what is not live here
    ],
)
def test_a_run_is_passed_over_when_its_schedd_asks_about_others_in_a_whole_period_of_its_life(asked, before, expected):
    assert passed_over(asked, before, LIVE) == expected
