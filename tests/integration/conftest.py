"""The whole program, started as the gridmanager starts it, against the embedded AWS."""

import contextlib
import os
import signal
import sys
import time
import uuid
from pathlib import Path

import classad2
import pytest

from gahp.cli.client import Client
from gahp.local import LocalAws
from gahp.model import JobState
from tests.packs import batch_jobs

GAHP = os.path.join(os.path.dirname(sys.executable), "awsbatch_gahp")
WAIT_S = 60.0


@pytest.fixture(scope="session")
def aws(tmp_path_factory):
    """One embedded AWS for all tests of a worker; its time limits run twenty times as fast."""
    with LocalAws(tmp_path_factory.mktemp("aws"), vcpus=8, time_scale=0.05) as aws:
        yield aws
        assert aws.violations() == []


@pytest.fixture
def fault(aws):
    """`with fault(kind, ...)`: a fault of the embedded AWS, ended with the block."""

    @contextlib.contextmanager
    def fault(kind, **fields):
        aws.faults.add(kind=kind, **fields)
        try:
            yield
        finally:
            aws.faults.clear(kind)

    return fault


class Gahp(Client):
    """A GAHP with a journal of its own in `home`, and words for what the tests do with it."""

    def __init__(self, aws, home: Path, environment=None, **knobs):
        self.home = home
        self.environment = environment or {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            **aws.environment(),
            "CONDOR_CONFIG": "ONLY_ENV",
            "_CONDOR_AWSBATCH_STATE_DIR": str(home / "state"),
            "_CONDOR_AWSBATCH_LOG": str(home / "gahp.log"),
            "_CONDOR_AWSBATCH_LOG_LEVEL": "DEBUG",
            "_CONDOR_AWSBATCH_POLL_INTERVAL": "0.1",
            "_CONDOR_AWSBATCH_LOOKUP_SETTLE": "1",
            **{f"_CONDOR_AWSBATCH_{name.upper()}": str(value) for name, value in knobs.items()},
        }
        super().__init__([GAHP], self.environment)

    def submit(self, **ad) -> str:
        code, message, job_id = self.try_submit(**ad)
        assert code == "0", message
        return job_id

    def try_submit(self, **ad) -> list[str]:
        return self.perform("BLAH_JOB_SUBMIT", submit_ad(self.home, **ad), wait_s=WAIT_S)

    def status(self, job_id: str) -> tuple[JobState, dict]:
        code, message, state, ad = self.perform("BLAH_JOB_STATUS", job_id, wait_s=WAIT_S)
        assert code == "0", message
        parsed = classad2.ClassAd(ad)
        return JobState(int(state)), {key: parsed[key] for key in parsed}

    def until(self, job_id: str, *states: JobState) -> tuple[JobState, dict]:
        """Poll until the job is in one of `states`; a final state that is not asked for fails at once."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            state, ad = self.status(job_id)
            if state in states:
                return state, ad
            assert not state.final, (state, ad)
            time.sleep(0.05)
        raise AssertionError(f"{job_id} did not come to {states}: {self.status(job_id)}\n{self.log()}")

    def finish(self, job_id: str) -> tuple[JobState, dict]:
        return self.until(job_id, JobState.REMOVED, JobState.COMPLETED, JobState.HELD)

    def run(self, **ad) -> tuple[JobState, dict]:
        return self.finish(self.submit(**ad))

    def cancel(self, job_id: str) -> None:
        code, message, *_ = self.perform("BLAH_JOB_CANCEL", job_id, wait_s=WAIT_S)
        assert code == "0", message

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.close()

    def log(self) -> str:
        path = self.home / "gahp.log"
        return path.read_text() if path.exists() else ""


def submit_ad(iwd: Path, **ad) -> str:
    """A submit ad as the gridmanager writes it. A Cmd that is not given is /bin/true; raw text goes in by `raw`."""
    raw = ad.pop("raw", "")
    fields = {
        "Cmd": "/bin/true",
        "Iwd": str(iwd),
        "In": "/dev/null",
        "Out": "/dev/null",
        "Err": "/dev/null",
        "Environment": "",
        "Arguments": "",
        "gridtype": "awsbatch",
        "GridResource": "batch awsbatch",
        "JobDirectory": f"home_bl_test_7.0_{uuid.uuid4().int % 10**9}",
        **ad,
    }
    quoted = [
        f"{key} = {classad2.quote(value) if isinstance(value, str) else str(value).lower()}" for key, value in fields.items()
    ]
    return f"[ {'; '.join(quoted + ([raw] if raw else []))} ]"


@pytest.fixture(name="submit_ad")
def submit_ad_fixture():
    return submit_ad


@pytest.fixture
def start(aws, tmp_path):
    """Starts GAHPs of one user; they are ended when the test is."""
    started = []

    def start(**knobs):
        gahp = Gahp(aws, tmp_path, **knobs)
        started.append(gahp)
        return gahp

    yield start
    for gahp in started:
        gahp.close()


@pytest.fixture
def gahp(start):
    return start()


@pytest.fixture
def script(tmp_path):
    """Writes an executable script into Iwd and gives its path."""

    def script(text, name="job.sh"):
        path = tmp_path / name
        path.write_text("#!/bin/bash\n" + text)
        path.chmod(0o755)
        return str(path)

    return script


@pytest.fixture
def jobs_of(aws):
    """The Batch jobs of a run, by its job id: every submission that Batch ever saw."""

    def jobs_of(job_id):
        return batch_jobs(aws, job_id.rpartition("/")[2])

    return jobs_of
