"""Bytes to lines, lines to tokens, and back: every byte string survives."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gahp.model import to_text
from gahp.protocol.lines import LineSplitter, TooLong, escape, join, split

nasty_byte = st.sampled_from([b"\\", b" ", b"\r", b"\n", b"\0", b"\xff", b"\xc3", b"a", b'"'])
nasty_bytes = st.lists(nasty_byte, max_size=12).map(b"".join)
any_bytes = st.one_of(st.binary(max_size=30), nasty_bytes)
tokens_of_bytes = st.lists(any_bytes.filter(len).map(to_text), min_size=1, max_size=6)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def reference_lines(data: bytes) -> list[bytes]:
    """The lines of `data`, taken apart byte by byte: slow and obvious."""
    lines, line, escaped, last_cr_plain = [], b"", False, False
    for value in data:
        byte = bytes([value])
        if byte == b"\n" and not escaped:
            lines.append(line[:-1] if last_cr_plain else line)
            line, last_cr_plain = b"", False
            continue
        line += byte
        last_cr_plain = byte == b"\r" and not escaped
        escaped = byte == b"\\" and not escaped
    return lines


@given(tokens_of_bytes)
def test_every_list_of_non_empty_byte_strings_comes_back_from_its_line(tokens):
    assert split(join(tokens)) == tokens


@given(st.lists(tokens_of_bytes, max_size=4), st.lists(st.integers(0, 10**6), max_size=8), st.sampled_from([b"\n", b"\r\n"]))
def test_lines_come_back_whole_whatever_the_pieces_and_the_line_end(messages, cuts, end):
    splitter = LineSplitter()
    stream = b"".join(join(tokens) + end for tokens in messages)
    lines = [line for piece in pieces_of(stream, cuts) for line in splitter.feed(piece)]
    assert [split(line) for line in lines] == messages


@given(nasty_bytes, st.lists(st.integers(0, 10**6), max_size=5))
def test_cutting_into_lines_agrees_with_reading_byte_by_byte(data, cuts):
    splitter = LineSplitter()
    assert [line for piece in pieces_of(data, cuts) for line in splitter.feed(piece)] == reference_lines(data)


@given(nasty_bytes)
def test_tokens_agree_with_the_grammar_read_by_a_regular_expression(data):
    line = data.replace(b"\n", b"")
    found = [re.sub(rb"\\(.?)", rb"\1", token, flags=re.S) for token in re.findall(rb"(?:[^ \\]|\\.|\\\Z)+", line, re.S)]
    assert split(line) == [to_text(token) for token in found if token]


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        (b"BLAH_PING  9   noop", ["BLAH_PING", "9", "noop"]),
        (b" VERSION ", ["VERSION"]),
        (b"", []),
        (b"     ", []),
        (b"a\\ b c\\\\ d", ["a b", "c\\", "d"]),
        (b"noop\\", ["noop"]),
        (b"x \\", ["x"]),
        (b"\\a\\\nb", ["a\nb"]),
        (b"a\tb\x0bc", ["a\tb\x0bc"]),
        (b"n\0ul \xff", ["n\0ul", "\udcff"]),
        ("h\u00e9 \u3000".encode(), ["h\u00e9", "\u3000"]),
    ],
)
def test_tokens_are_parted_by_spaces_alone_and_a_backslash_frees_the_next_character(line, tokens):
    assert split(line) == tokens


def test_exactly_space_backslash_cr_and_lf_are_escaped():
    assert escape('a b\\c\rd\ne"\tf') == 'a\\ b\\\\c\\\rd\\\ne"\tf'


def test_an_empty_value_is_written_as_null():
    assert join(["2", "", "x"]) == b"2 NULL x"


def test_an_unfinished_last_line_is_never_reported():
    splitter = LineSplitter()
    assert splitter.feed(b"VERSION\nVERS") == [b"VERSION"]
    assert splitter.feed(b"") == []


def test_a_carriage_return_is_dropped_only_in_front_of_the_line_feed_and_only_unescaped():
    assert LineSplitter().feed(b"a\rb\r\nc\\\r\nd\\\\\r\n\r\r\n") == [b"a\rb", b"c\\\r", b"d\\\\", b"\r"]


def test_a_line_at_the_limit_is_kept_and_one_byte_more_is_reported_once_and_discarded():
    splitter = LineSplitter(limit=8)
    assert splitter.feed(b"12345678\n123456789\nnext\n") == [b"12345678", TooLong(8), b"next"]


def test_an_overlong_line_in_pieces_holds_no_memory_and_the_next_line_is_read():
    splitter = LineSplitter(limit=100)
    for _ in range(1000):
        assert splitter.feed(b"x" * 99) == []
        assert len(splitter._unfinished) <= 100
    assert splitter.feed(b"\nVERSION\n") == [TooLong(100), b"VERSION"]


def test_an_escaped_line_feed_inside_an_overlong_line_does_not_let_its_rest_pass_as_a_command():
    splitter = LineSplitter(limit=4)
    events = [line for piece in (b"123456\\", b"\nQUIT\\", b"\\\\", b"\nQUIT\nVER\n") for line in splitter.feed(piece)]
    assert events == [TooLong(4), b"VER"]
