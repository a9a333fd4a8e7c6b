"""Where a pool cannot be had, one line says so, and nothing else of the run fails."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.condor.prefix import SUITES

ROOT = Path(__file__).resolve().parents[2]
A_TEST = "tests/condor/test_condor_jobs.py::test_the_pool_is_of_the_version_that_is_asked_for"


@pytest.fixture
def run(tmp_path):
    """Runs one test that needs a pool, on a person's machine whose cache of prefixes is `cache`; what pytest prints."""

    def run(cache, path, *options):
        environment = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST")}
        environment |= {"AWSBATCH_POOL_CACHE": str(cache), "PATH": path}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    return run


def test_a_machine_without_apt_is_told_in_one_line_also_by_several_processes(run, tmp_path):
    lines = run(tmp_path / "cache", "/nowhere", "-n", "1", A_TEST)
    assert lines.count("no HTCondor pool: apt-get is missing (Debian or one of its kin is needed)") == 1


@pytest.fixture
def cache():
    """A folder that the account of root's pool can read, too."""
    with tempfile.TemporaryDirectory(prefix="awsbatch-told-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_pool_that_does_not_come_up_is_told_in_one_line_with_its_last_words(run, cache):
    suite = next(iter(SUITES))
    for name, text in (("usr/sbin/condor_master", "echo no such luck; exit 1"), ("bin/condor_q", "exit 1")):
        path = cache / suite / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (cache / suite / "complete").touch()
    lines = run(cache, os.environ["PATH"], A_TEST, "-k", suite)
    (told,) = (line for line in lines if line.startswith("no HTCondor pool: "))
    assert told.endswith("does not come up: no such luck")
