"""Pegasus's properties files mean here what they mean to Java."""

from __future__ import annotations

import pytest

from gahp.model import Refused
from gahp.provision import pegasusrc


@pytest.mark.parametrize(
    ("text", "properties"),
    [
        ("pegasus.aws.region=us-west-2\npegasus.aws.account=123456789012\n",
         {"pegasus.aws.region": "us-west-2", "pegasus.aws.account": "123456789012"}),
        ("pegasus.aws.region us-west-2", {"pegasus.aws.region": "us-west-2"}),
        ("  region\t:  us-west-2", {"region": "us-west-2"}),
        ("a = b = c", {"a": "b = c"}),
        ("a=b  ", {"a": "b  "}),
        ("# a comment\n  ! another\n\n \t\na=1", {"a": "1"}),
        ("a=1 # no comment", {"a": "1 # no comment"}),
        ("a=1\na=2", {"a": "2"}),
        ("alone", {"alone": ""}),
        ("alone=", {"alone": ""}),
        ("=value", {"": "value"}),
        ("url=s3\\://bucket/key", {"url": "s3://bucket/key"}),
        ("a\\ b\\=c=d", {"a b=c": "d"}),
        ("list=one,\\\n     two", {"list": "one,two"}),
        ("list=one\\\\\ntwo=2", {"list": "one\\", "two": "2"}),
        ("a=1\\\n# part of it", {"a": "1# part of it"}),
        ("a=1\\", {"a": "1"}),
        ("a=\\t\\n\\u00e9\\q", {"a": "\t\n\u00e9q"}),
        ("a=1\r\nb=2\rc=3", {"a": "1", "b": "2", "c": "3"}),
        ("", {}),
    ],
)  # fmt: skip
def test_a_properties_file_means_what_it_means_to_java(text: str, properties: dict[str, str]) -> None:
    assert pegasusrc.parse(text) == properties


def test_a_wrong_escape_is_named_with_file_and_line(tmp_path):
    path = tmp_path / "pegasusrc"
    path.write_text("a=1\nb=\\u12")
    with pytest.raises(Refused, match=rf"{path} cannot be understood: line 2: "):
        pegasusrc.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Refused, match="none cannot be read: No such file or directory"):
        pegasusrc.read(tmp_path / "none")


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "pegasusrc"
    path.write_bytes(b"a=\xff")
    with pytest.raises(Refused, match="is not text in UTF-8"):
        pegasusrc.read(path)
