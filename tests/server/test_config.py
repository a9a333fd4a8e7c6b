"""The knobs: every one checked, every problem a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gahp import config
from gahp.cli.config import manual
from gahp.model import Refused

GOOD = {"AWSBATCH_JOB_QUEUE": "q", "AWSBATCH_JOB_DEFINITION": "d:3", "AWSBATCH_S3_URL": "s3://bucket/a/b/"}


def test_the_three_knobs_that_have_to_be_set_are_enough():
    loaded = config.load(GOOD.get)
    loaded.require()
    assert (loaded.bucket, loaded.prefix, loaded.poll_interval, loaded.attempts) == ("bucket", "a/b", 5.0, 3)


@pytest.mark.parametrize("name", GOOD)
def test_a_knob_that_has_to_be_set_is_named_when_it_is_not(name):
    values = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(Refused, match=f"^{name} is not set"):
        config.load(values.get).require()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("AWSBATCH_S3_URL", "https://bucket", "is not of the form s3://BUCKET/PREFIX"),
        ("AWSBATCH_JOB_QUEUE", "no blanks", "is not the name or ARN"),
        ("AWSBATCH_POLL_INTERVAL", "soon", "is not a number from 0.05 to 3600"),
        ("AWSBATCH_PACK_SIZE", "-1", "is not a whole number from 1 to 10000"),
        ("AWSBATCH_PACK_SIZE", "9" * 30, "is not a whole number from 1 to 10000"),
        ("AWSBATCH_POLL_INTERVAL", "0", "is not a number from 0.05 to 3600"),
        ("AWSBATCH_ATTEMPTS", "11", "is not a whole number from 1 to 10"),
        ("AWSBATCH_ATTEMPTS", "2.5", "is not a whole number from 1 to 10"),
        ("AWSBATCH_STATE_DIR", "relative/dir", "is not an absolute path"),
        ("AWSBATCH_LOG_LEVEL", "LOUD", "is none of DEBUG"),
        ("AWSBATCH_ENDPOINT_URL", "ftp://x", "is not an http or https URL"),
        ("AWSBATCH_ALLOWED_QUEUES", "a, b c, d$", "is not the name or ARN"),
        ("AWSBATCH_SHARED_DIRECTORIES", "/efs, home", "is not a list of absolute directories"),
        ("AWSBATCH_SHARED_DIRECTORIES", "/", "is not a list of absolute directories"),
    ],
)
def test_a_wrong_value_is_named_with_its_reason(name, value, reason):
    problems = config.load({**GOOD, name: value}.get).problems
    assert len(problems) == 1
    assert problems[0].startswith(f"{name} = {value!r} {reason}")


def test_shared_directories_are_a_list_in_one_form():
    loaded = config.load({**GOOD, "AWSBATCH_SHARED_DIRECTORIES": "/efs/, /fsx//a b,"}.get)
    assert (loaded.shared_directories, loaded.problems) == (("/efs", "/fsx/a b"), ())


def test_every_default_passes_its_own_check():
    for knob in config.KNOBS:
        if knob.default is not None:
            knob.check(knob.default)


def test_the_readme_has_the_table_of_knobs_as_the_program_has_it():
    assert manual() in (Path(__file__).parents[2] / "README.md").read_text()


def test_htcondors_own_lookup_reads_the_environment_and_expands_macros():
    program = "from gahp import config; print(config.load().job_queue)"
    environment = {
        "PATH": os.environ["PATH"],
        "CONDOR_CONFIG": "ONLY_ENV",
        "_CONDOR_AWSBATCH_JOB_QUEUE": "$(SITE)-q",
        "_CONDOR_SITE": "x",
    }
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "x-q\n"
