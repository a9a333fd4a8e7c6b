"""docs/messages.md is the list of every sentence in the code, and every sentence says what to do or has a line that does."""

import subprocess
import sys

from tools import messages


def test_the_list_is_what_the_code_says():
    assert messages.TARGET.read_text(encoding="utf-8") == messages.page(), "run `make docs`"


def test_every_sentence_says_what_to_do_or_has_a_line_that_does():
    alone = [s for s in messages.sentences() if s.path not in messages.PARAGRAPHS and not s.path.endswith("#report")]
    silent = [s for s in alone if not (s.mend or messages.note(s.text) or messages.tells_what_to_do(s.text))]
    assert not silent, "say it in the sentence, or in tools/message_notes.py"


def test_sentences_are_found_wherever_they_are_told():
    texts = {sentence.text for sentence in messages.sentences()}
    for text in (
        "The job needed <more than it had> and was killed: raise request_memory.",  # put together in a variable
        "The job queue <queue> is <state>: enable it in AWS Batch.",  # in braces
        "The journal <path> cannot be written: <reason>. See AWSBATCH_STATE_DIR.",  # kept in an attribute
        "This GAHP has no log parser, so no host and port",  # outside any function
        "… is not a number from <low> to <high> …",  # a piece of a sentence
        "The program <name> does not exist in the container: correct the name, or let it be transferred.",  # in bash
        "There is no job queue <name> in <region>.",  # with its advice beside it
        "the job has not started yet (<state>)",  # beside what was asked for
        "<subject> has been running for <since><on a host>: nothing is in its way.",  # yielded into a paragraph
        "The queue <queue> has room (<used>, <front>): AWS Batch is bringing up a host, which takes minutes.",  # in a variable
        "There is no such image or tag: push it, or correct the image in the job definition. Then condor_release.",  # given back
        "Nothing was deleted.",  # on standard output
        "It can never start so: lower request_cpus, or raise the environment's maxvCpus.",  # in a table
    ):
        assert text in texts


def test_hold_reasons_of_the_container_are_whole_sentences_with_what_to_do():
    told = [s.text for s in messages.sentences() if s.path == "gahp/sandbox/runner.sh"]
    assert len(told) > 20
    for text in told:
        assert text[0].isupper() or text.startswith("<"), text
        assert text.endswith("."), text
        assert messages.tells_what_to_do(text), text


def test_a_new_sentence_is_seen(tmp_path):
    source = 'def f(name):\n    why = f"it is {name}"\n    raise Refused(f"The thing {name!r} broke: {why}. Mend it.")\n'
    found = list(messages._in_python("gahp/model.py", source))
    assert [sentence.text for sentence in found] == ["The thing <name> broke: it is <name>. Mend it."]


def test_the_command_writes_the_file_it_is_compared_with():
    made = subprocess.run(
        [sys.executable, "-c", "from tools import messages; print(messages.page(), end='')"],
        cwd=messages.ROOT,
        capture_output=True,
        check=True,
    )
    assert made.stdout == messages.TARGET.read_bytes()
