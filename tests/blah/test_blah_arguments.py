import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gahp import model
from gahp.blah import arguments

relaxed = settings(deadline=None, database=None)
any_string = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20).map(model.to_text),
    st.text(alphabet=" \t\r\n'\"\\ab;", max_size=20),
)
names = st.text(min_size=1, max_size=8).filter(lambda name: "=" not in name)


@relaxed
@given(st.lists(any_string))
def test_every_list_of_strings_comes_back_from_v2(words):
    assert arguments.split_v2(arguments.join_v2(words)) == tuple(words)


@relaxed
@given(st.dictionaries(names, any_string))
def test_every_environment_comes_back_from_v2(environment):
    pairs = tuple(environment.items())
    assert arguments.split_environment_v2(arguments.join_environment_v2(pairs)) == pairs


@relaxed
@given(st.lists(any_string))
def test_v1_says_a_list_of_strings_exactly_or_not_at_all(words):
    if any(not word or set(word) & set(" \t\r\n") for word in words):
        with pytest.raises(ValueError, match="old syntax"):
            arguments.join_v1(words)
    else:
        assert arguments.split_v1(arguments.join_v1(words)) == tuple(words)


@relaxed
@given(st.dictionaries(names, any_string), st.sampled_from(";|"))
def test_v1_says_an_environment_exactly_or_not_at_all(environment, delimiter):
    pairs = tuple(environment.items())
    if any(delimiter in name + value or "\n" in name + value or name[0] in " \t\r" for name, value in pairs):
        with pytest.raises(ValueError, match="old syntax"):
            arguments.join_environment_v1(pairs, delimiter)
    else:
        assert arguments.split_environment_v1(arguments.join_environment_v1(pairs, delimiter)) == pairs


@relaxed
@given(st.text(alphabet=" '\"ab=", max_size=30))
def test_v2_refuses_a_string_exactly_if_a_quote_is_left_open(text):
    if text.count("'") % 2:
        with pytest.raises(ValueError, match="quote that is not closed"):
            arguments.split_v2(text)
    else:
        assert arguments.split_v2(arguments.join_v2(arguments.split_v2(text))) == arguments.split_v2(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", ()),
        ("  a\t b\r\nc ", ("a", "b", "c")),
        ("two' 'words ''", ("two words", "")),
        ("it''''s '''' ''''''", ("it's", "'", "''")),
        ("'it''s'", ("it's",)),
        ("a'b c'd'e f'", ("ab cde f",)),
        ('"a b" \\"c\\"', ('"a', 'b"', '\\"c\\"')),
        ("no\u00a0blank \u2003either", ("no\u00a0blank", "\u2003either")),
    ],
)
def test_v2_groups_with_single_quotes_and_nothing_else(text, meant):
    assert arguments.split_v2(text) == meant


def test_v1_leaves_quotes_and_backslashes_alone():
    assert arguments.split_v1('one "two three" back\\slash \'x y\'') == ("one", '"two', 'three"', "back\\slash", "'x", "y'")


@pytest.mark.parametrize(
    ("text", "delimiter", "meant"),
    [
        ("A=1;B=x y;C=3", ";", (("A", "1"), ("B", "x y"), ("C", "3"))),
        (" A=1 ; B=2;;", ";", (("A", "1 "), ("B", "2"))),
        ("A=1\nB=2", ";", (("A", "1"), ("B", "2"))),
        ("A=1;2|B=3", "|", (("A", "1;2"), ("B", "3"))),
        ("|A=1;2|B=3", ";", (("A", "1;2"), ("B", "3"))),
        ("A='1 2'", ";", (("A", "'1 2'"),)),
        ("A=b=c;A=2", ";", (("A", "2"),)),
        ("", ";", ()),
    ],
)
def test_a_v1_environment_is_split_at_its_delimiter(text, delimiter, meant):
    assert arguments.split_environment_v1(text, delimiter) == meant


def test_a_name_said_twice_has_its_later_value():
    assert arguments.split_environment_v2("A=1 B=2 A=3") == (("A", "3"), ("B", "2"))


@pytest.mark.parametrize(("text", "clause"), [("A=1 secret", "has no '=' in entry 2"), ("=x", "has no name .* in entry 1")])
def test_an_entry_that_is_no_assignment_is_named_by_its_place_and_not_by_its_text(text, clause):
    with pytest.raises(ValueError, match=clause) as caught:
        arguments.split_environment_v2(text)
    assert "secret" not in str(caught.value)
