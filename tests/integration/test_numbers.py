"""What a GAHP counts while it works, and what a report says of its jobs afterwards: the whole way, with the embedded AWS."""

import json
import os
import subprocess
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gahp.model import JobState

PROGRAM = os.path.join(os.path.dirname(sys.executable), "condor_awsbatch")


def test_numbers_and_report_of_jobs_that_ran(start, script, tmp_path):
    (tmp_path / "textfiles").mkdir()
    gahp = start(metrics_file=tmp_path / "textfiles", metrics_interval=1)
    for code in (0, 3):
        assert gahp.run(Cmd=script(f"exit {code}"), RequestMemory=64)[0] == JobState.COMPLETED
    assert gahp.run(TransferInput="http://127.0.0.1:9/nothing/here.dat")[0] == JobState.HELD
    environment = gahp.environment
    gahp.close()

    [path] = (tmp_path / "textfiles").iterdir()
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key != "user"}
            found[(sample.name.removeprefix("awsbatch_gahp_"), *labels.values())] = sample.value
    assert found["jobs", "completed"] == 2
    assert found["jobs", "held"] == 1
    assert found["job_moves_total", "accepted"] == 3
    assert found["job_moves_total", "submitted"] == 3
    assert found["job_holds_total", "13"] == 1
    assert found["calls_total", "batch", "SubmitJob", "ok"] == 3
    assert found["call_duration_seconds_count", "batch", "SubmitJob"] == 3
    assert found["calls_total", "s3", "PutObject", "ok"] >= 3  # one manifest each
    assert found["calls_total", "s3", "GetObject", "ok"] >= 3  # one result each
    assert found[("up",)] == 0

    def condor_awsbatch(*words):
        return subprocess.run([PROGRAM, *words], env=environment, capture_output=True, text=True, check=True).stdout

    assert 'operation="SubmitJob",outcome="ok"} 3.0' in condor_awsbatch("metrics")
    report = json.loads(condor_awsbatch("report", "-json"))
    assert report["endings"] == {"succeeded": 1, "failed": 1, "held": 1, "removed": 0, "live": 0}
    assert report["calls"]["submit"] == 3
    assert report["calls"]["counted"]["batch SubmitJob"] == 3
    assert report["calls"]["counted"]["jobs ended"] == 3
    for job in report["jobs"][:2]:
        assert job["running_s"] > 0
        assert job["attempts"] == 1
