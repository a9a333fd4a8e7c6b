"""The manual pages are those of the parsers, complete, and groff takes them without a warning."""

import re
import shutil
import subprocess

import pytest

from gahp import config
from gahp.cli import main
from tools import manual


def test_the_pages_are_what_the_parsers_say():
    there = {path.name: path.read_text(encoding="utf-8") for path in manual.TARGET.glob("*")}
    assert there == manual.pages(), "run `make docs`"


def test_every_program_and_every_verb_has_a_page():
    names = set(manual.pages())
    assert {"awsbatch_gahp.1", "condor_awsbatch.1", "pegasus-aws-batch.1"} <= names
    assert {f"condor_awsbatch-{verb}.1" for verb in main.VERBS} <= names


def test_a_page_names_every_option_of_its_verb():
    for verb, parser in manual._verbs(main.parser_of(main.VERBS)).items():
        page = manual.pages()[f"condor_awsbatch-{verb}.1"].replace("\\-", "-")
        for sub in (parser, *manual._verbs(parser).values()):
            for option in (name for action in manual._shown(sub) for name in action.option_strings):
                assert f"\\fB{option}\\fR" in page, (verb, option)


def test_the_page_of_the_gahp_names_every_knob():
    page = manual.pages()["awsbatch_gahp.1"]
    for knob in config.KNOBS:
        assert f"\\fB{knob.name}\\fR" in page


def test_nothing_of_this_machine_is_in_a_page():
    for name, page in manual.pages().items():
        assert not re.search(r"/(home|root|tmp/wt)/", page), name


@pytest.mark.skipif(not shutil.which("groff"), reason="needs groff")
def test_groff_has_no_warning():
    for name in manual.pages():
        ran = subprocess.run(
            ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", str(manual.TARGET / name)], capture_output=True, text=True, check=True
        )
        assert ran.stderr == "", name
        assert "SEE ALSO" in re.sub(".\x08", "", ran.stdout), name


@pytest.mark.skipif(not shutil.which("man"), reason="needs man")
def test_man_shows_a_page():
    ran = subprocess.run(["man", "-l", str(manual.TARGET / "condor_awsbatch.1")], capture_output=True, text=True, check=True)
    assert "condor_awsbatch VERB [ARGUMENT ...]" in re.sub(r".\x08", "", ran.stdout)


def test_text_cannot_become_a_request_or_an_escape():
    assert manual._escape(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert manual._escape("'x") == "\\(aqx"
    assert manual._escape("a\\fB") == "a\\efB"


def test_every_verb_has_an_example_in_its_help_and_on_its_page():
    for verb, parser in manual._verbs(main.parser_of(main.VERBS)).items():
        example = (parser.epilog or "").partition("example:\n")[2].strip()
        assert f"condor_awsbatch {verb}" in example, verb
        assert manual._escape(example.splitlines()[0]) in manual.pages()[f"condor_awsbatch-{verb}.1"]
