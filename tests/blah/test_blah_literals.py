import classad2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gahp import model
from gahp.blah import literals

relaxed = settings(deadline=None, database=None)
any_bytes = st.binary(max_size=60).map(lambda data: data.replace(b"\0", b""))


@relaxed
@given(any_bytes)
def test_a_quoted_string_of_any_bytes_comes_back_from_classad2_and_from_unquote(data):
    text = model.to_text(data)
    literal = literals.quote(text)
    assert literal.isascii() and literal.isprintable()
    assert literals.unquote(literal) == text
    written = str(classad2.ClassAd(f"[ a = {literal} ]").lookup("a"))
    assert literals.unquote(written) == text


@relaxed
@given(st.text().map(lambda text: text.replace("\0", "")))
def test_classad2_reads_a_quoted_text_as_that_text(text):
    assert classad2.ClassAd(f"[ a = {literals.quote(text)} ]").get("a") == text


def test_every_byte_that_a_string_can_hold_survives_classad2s_way_to_write_it():
    every = bytes(range(1, 256))
    source = "".join(f"\\{byte:03o}" for byte in every)
    written = str(classad2.ClassAd(f'[ a = "{source}" ]').lookup("a"))
    assert model.to_bytes(literals.unquote(written)) == every


def test_what_no_string_can_hold_becomes_a_space_when_quoted():
    assert literals.quote("a\0b\ud800c") == '"a b c"'


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        (b'"x\xffy"', b"x\xffy"),
        (b'"\xff1"', b"\xff1"),
        (b'"\\\\\xff"', b"\\\xff"),
        (b'"\\\xff"', b"\xff"),
        ("é".encode(), None),
    ],
)
def test_a_byte_that_is_not_utf_8_reaches_classad2_as_an_octal_escape(raw, meant):
    text = literals.escape_stray_bytes(model.to_text(raw))
    if meant is None:
        assert text == "é"
    else:
        assert model.to_bytes(literals.unquote(str(classad2.ClassAd(f"[ a = {text} ]").lookup("a")))) == meant
