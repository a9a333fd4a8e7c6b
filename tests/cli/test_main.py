"""condor_awsbatch as a person meets it: help, wrong words, missing extras, interruptions; never a traceback."""

import os
import subprocess
import sys

import pytest

from gahp.cli import main
from gahp.model import Refused

PROGRAM = os.path.join(os.path.dirname(sys.executable), "condor_awsbatch")


def call(*words, **more):
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "CONDOR_CONFIG": "ONLY_ENV", **more.pop("environment", {})}
    return subprocess.run([PROGRAM, *words], env=environment, capture_output=True, text=True, timeout=60, check=False, **more)


def test_help_names_every_verb_with_its_sentence():
    ran = call("--help")
    assert ran.returncode == 0
    for verb in main.VERBS:
        assert f"\n    {verb}" in ran.stdout


@pytest.mark.parametrize("verb", main.VERBS)
def test_each_verb_has_help_of_its_own(verb):
    ran = call(verb, "--help")
    assert ran.returncode == 0
    assert ran.stdout.startswith(f"usage: condor_awsbatch {verb}")


def test_an_unknown_verb_is_a_usage_error_of_one_line():
    ran = call("frobnicate")
    assert ran.returncode == 2
    assert "invalid choice: 'frobnicate'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_no_verb_at_all_says_that_one_is_needed():
    ran = call()
    assert ran.returncode == 2
    assert "VERB" in ran.stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Refused("The thing is wrong: mend it."), 1, "condor_awsbatch: The thing is wrong: mend it.\n"),
        (ModuleNotFoundError("No module named 'rich'", name="rich"), 1, "condor_awsbatch: rich is not installed: pip install"),
        (KeyboardInterrupt(), 130, "condor_awsbatch: interrupted\n"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code, words):
    def fail(_):
        raise error

    monkeypatch.setattr("gahp.cli.config.run", fail)
    assert main.main(["config"]) == code
    assert capsys.readouterr().err.startswith(words)


def test_config_prints_every_knob_and_what_is_missing():
    ran = call("config", environment={"_CONDOR_AWSBATCH_JOB_QUEUE": "my-queue"})
    assert ran.returncode == 1
    assert "AWSBATCH_JOB_QUEUE = my-queue\n" in ran.stdout
    assert "# AWSBATCH_POLL_INTERVAL = 5\n" in ran.stdout
    assert "condor_awsbatch: AWSBATCH_S3_URL is not set" in ran.stderr


def test_a_reader_that_goes_away_leaves_no_traceback():
    ran = subprocess.run(
        f"'{PROGRAM}' config --manual | head -n 1", shell=True, env={"PATH": "/usr/bin:/bin", "CONDOR_CONFIG": "ONLY_ENV"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.stdout.startswith("| knob |")
    assert ran.stderr == ""


def test_closed_standard_streams_leave_no_traceback():
    ran = subprocess.run(
        f"'{PROGRAM}' doctor --no-probe 1>&-; '{PROGRAM}' config 1>&- 2>&-", shell=True,
        env={"PATH": "/usr/bin:/bin", "CONDOR_CONFIG": "ONLY_ENV"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (1, "")
