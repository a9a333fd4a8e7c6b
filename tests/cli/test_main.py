"""condor_awsbatch as a person meets it: help, wrong words, missing extras, interruptions; never a traceback."""

import os
import signal
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
        (KeyError("\x1b"), 70, r"condor_awsbatch: this is a fault of condor_awsbatch itself (KeyError: '\x1b'): report it"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code, words):
    def fail(_):
        raise error

    monkeypatch.setattr("gahp.cli.config.run", fail)
    assert main.main(["config"]) == code
    assert capsys.readouterr().err.startswith(words)


def test_a_fault_of_ours_shows_where_to_who_looks_for_it(monkeypatch):
    def fail(_):
        raise KeyError("a")

    monkeypatch.setattr("gahp.cli.config.run", fail)
    monkeypatch.setenv("AWSBATCH_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main.main(["config"])


def test_config_prints_every_knob_and_what_is_missing():
    ran = call("config", environment={"_CONDOR_AWSBATCH_JOB_QUEUE": "my-queue"})
    assert ran.returncode == 1
    assert "AWSBATCH_JOB_QUEUE = my-queue\n" in ran.stdout
    assert "# AWSBATCH_POLL_INTERVAL = 5\n" in ran.stdout
    assert "condor_awsbatch: AWSBATCH_S3_URL is not set" in ran.stderr


@pytest.mark.parametrize("module", ["", "gahp.model", "gahp.cli.main", "gahp.server"])
@pytest.mark.parametrize("program", ["condor_awsbatch", "awsbatch_gahp"])
def test_ctrl_c_while_a_program_is_being_loaded_ends_it_without_a_word(program, module):
    """At any of its imports; what Python does before the first of them is not ours."""
    text = f"""
import builtins, os, signal, sys
real = builtins.__import__
def interrupted(name, *more, **others):
    if name == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *more, **others)
builtins.__import__ = interrupted
import gahp.start
if not {module!r}:
    os.kill(os.getpid(), signal.SIGINT)
sys.argv = ["program", "config"]
sys.exit(gahp.start.{program}())
"""
    environment = {"PATH": "/usr/bin:/bin", "CONDOR_CONFIG": "ONLY_ENV"}
    ran = subprocess.run(
        [sys.executable, "-c", text],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ran.stderr and "KeyboardInterrupt" not in ran.stderr
    others = {"condor_awsbatch": "gahp.server", "awsbatch_gahp": "gahp.cli.main"}
    assert ran.returncode in (-signal.SIGINT, 130) or module == others[program], ran


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
