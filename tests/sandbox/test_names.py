"""The rules of names, by value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gahp.model import Refused
from gahp.sandbox.names import is_user_log, landing, output_name, plain_url, remap, rules, runner_remaps, target_of, url_name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("a", "a"), ("./a", "a"), ("a/./b", "a/b"), ("a//b", "a/b"), ("a/../b", "b"), ("a/", "a/"), ("a/.", "a/"), (".", "/"),
        ("./", "/"), ("", "/"), ("a/..", "/"), ("...", "..."), ("..a", "..a"),
    ],
)  # fmt: skip
def test_output_names_have_one_form(written: str, name: str) -> None:
    assert output_name(written) == name


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b"])).map("/".join))
def test_an_output_name_stays_inside_or_is_refused(written: str) -> None:
    try:
        name = output_name(written)
    except Refused:
        return
    assert name == "/" or (not name.startswith("/") and ".." not in name.split("/"))


@pytest.mark.parametrize(
    ("output", "name", "lands"),
    [
        ("a", "a", "a"), ("b/c", "b/c", "c"), ("x/d", "x/d", "d"), ("x/d", "x/d/e/f", "d/e/f"), ("x/d/", "x/d", ""),
        ("x/d/", "x/d/e", "e"), ("/", "a/b", "a/b"), ("/", "", ""), ("a", "ab", None), ("a", "b", None), ("d/", "dd", None),
    ],
)  # fmt: skip
def test_where_an_output_lands(output: str, name: str, lands: str | None) -> None:
    assert landing(output, name) == lands


@pytest.mark.parametrize(
    ("remaps", "name", "lands", "goal"),
    [
        ((), "a", "a", "a"),
        ((("a", "b"),), "a", "a", "b"),
        ((("b/c", "x"),), "b/c", "c", "x"),
        ((("c", "x"),), "b/c", "c", "x"),
        ((("b/c", "x"), ("c", "y")), "b/c", "c", "x"),
        ((("d", "out/d"),), "d/e/f", "d/e/f", "out/d/e/f"),
        ((("d", "/abs/"),), "d/e", "d/e", "/abs/e"),
        ((("a", "/abs/"),), "a", "a", "/abs/a"),
        ((("a", "b"), ("b", "c")), "a", "a", "c"),
        ((("a", "b"), ("b", "a")), "a", "a", "b"),
        ((("a", "a"),), "a", "a", "a"),
        ((("d", "d/x"),), "d", "d", "d/x"),
        ((("a", "first"), ("a", "second")), "a", "a", "first"),
        ((("./a", "b"),), "a", "a", "b"),
        ((("d", "s3://b/k"),), "d/e", "d/e", "s3://b/k/e"),
    ],
)
def test_what_remaps_make_of_a_name(remaps: tuple[tuple[str, str], ...], name: str, lands: str, goal: str) -> None:
    assert target_of(rules(remaps), name, lands) == goal


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c/d", "c"]), st.sampled_from(["a", "b", "c/d", "c", "a/b", "d/"]))))
def test_remaps_in_a_circle_come_to_an_end(remaps: list[tuple[str, str]]) -> None:
    for name in ("a", "b", "c/d", "c/d/e"):
        remap(rules(remaps), name)


def test_the_runner_is_told_of_all_remaps_and_serves_those_to_s3() -> None:
    remaps = (("a", "s3://b/k"), ("c", "a"), ("d", "here"))
    assert runner_remaps(remaps) == [("a", "s3://b/k"), ("c", "s3://b/k"), ("d", "-")]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket/a b", "a b"), ("s3://bucket/my dir/x", "x"),
        ("http://h/a/b.txt", "b.txt"), ("https://h/b%20c?q=1#f", "b c"), ("http://h/a%2Fb", "a%2Fb"), ("http://h/%E9", "\udce9"),
        ("s3://bucket/a%20b?c", "a%20b?c"), ("HTTP://h/x", "x"),
    ],
)  # fmt: skip
def test_the_file_that_a_url_becomes(url: str, name: str) -> None:
    assert url_name(url) == name


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("s3://b/k/l", "s3://b/k/l"), ("S3://b/K", "s3://b/K"), ("s3://b.s3.us-west-2.amazonaws.com/k/l", "s3://b/k/l"),
        ("s3://my.b.s3.eu-central-1.amazonaws.com/k", "s3://my.b/k"), ("s3://b.s3.amazonaws.com/k", "s3://b/k"),
        ("s3://b.s3-us-west-2.amazonaws.com/k", "s3://b/k"), ("s3://s3.us-west-2.amazonaws.com/b/k", "s3://b/k"),
        ("s3://b.s3.cn-north-1.amazonaws.com.cn/k", "s3://b/k"), ("s3://my-s3.bucket/k", "s3://my-s3.bucket/k"),
        ("s3://b/b.s3.us-west-2.amazonaws.com/k", "s3://b/b.s3.us-west-2.amazonaws.com/k"),
        ("https://b.s3.us-west-2.amazonaws.com/k", "https://b.s3.us-west-2.amazonaws.com/k"), ("a/b", "a/b"),
    ],
)  # fmt: skip
def test_both_of_htcondors_forms_of_an_s3_url_are_one(written: str, url: str) -> None:
    assert plain_url(written) == url
    assert rules((("out", written),)) == {"out": url}


@pytest.mark.parametrize(
    "start", [b"", b"123", b"000 apples", b"001 (1.2) x", b"<?xml version='1.0'?><a/>", b'{"Event": 1}', b"\xff" * 99]
)
def test_other_files_are_no_user_logs(start: bytes) -> None:
    assert not is_user_log(start)
