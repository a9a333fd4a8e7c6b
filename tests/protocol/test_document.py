"""docs/protocol.md tells what the code does."""

import datetime
import re
from pathlib import Path

import pytest

from gahp.protocol import Session, done, status, submitted, version_text
from gahp.protocol.commands import COMMANDS
from gahp.protocol.lines import split

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
EXAMPLES = [block for block in re.findall(r"^```\n(.*?)^```", TEXT, re.M | re.S) if "<< " in block]
RESULTS = {
    "BLAH_JOB_SUBMIT": submitted("awsbatch/20261123/12-0-4k7q2mzt5wjd6hxa"),
    "BLAH_JOB_STATUS": status(4, "[ JobStatus = 4 ]"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_described_with_its_parameters(name):
    described = " ".join(re.escape(f"*{parameter}*") for parameter in COMMANDS[name].parameters)
    assert re.search(rf"{name}\**,? {described}" if described else rf"\b{name}\b", TEXT)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.splitlines()[-1][:40])
def test_every_example_is_what_the_server_answers(example):
    session = Session(version_text("0.1.0", datetime.date(2026, 11, 23)))
    said = session.greeting() if example.startswith(">> $") else b""
    expected, asked = [], {}
    for line in example.splitlines():
        if line.startswith(">> "):
            expected.append(line[3:])
        elif line.startswith("<< "):
            out, requests = session.receive(line[3:].encode() + b"\r\n")
            asked |= {request.request_id: request.command for request in requests}
            said += out + b"".join(session.finish(request, RESULTS.get(request.command, done())) for request in requests)
        else:
            assert re.match(r"   \d", line), line  # a result line, shown where it becomes ready
            shown = split(line.strip().encode())
            assert len(shown) == 3 + len(COMMANDS[asked[shown[0]]].values)
    answers = said.decode().split("\r\n")[:-1]
    assert len(answers) == len(expected)
    for answer, line in zip(answers, expected, strict=True):
        assert answer == line or (line.endswith("...") and answer.startswith(line[:-3]))
