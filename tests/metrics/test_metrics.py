"""Numbers for monitoring: real parsers take the text, names are documented, calls are counted, files come into place safely."""

import json
import os
import re
import stat
import threading
from pathlib import Path

import boto3
import pytest
from botocore.config import Config as ClientConfig
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

import gahp
from gahp import config, history, meter
from gahp.journal import Journal
from gahp.metrics import BUCKETS, BY_NAME, COUNTS, FAMILIES, PREFIX, Counts, outcome, render
from gahp.model import HoldCode, JobReport, JobRequest, JobState
from gahp.run import Run, RunState

ROOT = Path(gahp.__file__).parent.parent
AWKWARD = 'a "b"\\\n\udcff'


def full():
    """Counts and gauges that have something of every family."""
    counts, gauges = Counts(), {}
    for family in FAMILIES:
        for labels in ([f"x-{name}" for name in family.labels], [AWKWARD for _ in family.labels]):
            if family.kind == "counter":
                counts.add(family.name, *labels)
                counts.add(family.name, *labels)
            elif family.kind == "histogram":
                for value in (0.001, 0.01, 3.0, 1e9):
                    counts.observe(family.name, value, *labels)
            else:
                gauges.setdefault(family.name, {})[tuple(labels)] = 2.5
    return counts, {name: list(values.items()) for name, values in gauges.items()}


def settings(tmp_path, **knobs):
    values = {"AWSBATCH_STATE_DIR": str(tmp_path / "state"), **knobs}
    os.makedirs(values["AWSBATCH_STATE_DIR"], mode=0o700, exist_ok=True)
    return config.load(values.get)


def samples(text, name):
    return {
        tuple(sorted((key, value) for key, value in sample.labels.items() if key != "user")): sample.value
        for family in openmetrics(text)
        for sample in family.samples
        if sample.name == PREFIX + name
    }


def test_a_real_openmetrics_parser_and_prometheus_own_take_every_family():
    text = render(*full(), user=AWKWARD)
    found = {family.name: family for family in openmetrics(text)}
    assert set(found) == {PREFIX + family.name for family in FAMILIES}
    for family in FAMILIES:
        told = found[PREFIX + family.name]
        assert (told.type, told.documentation) == (family.kind, f"{family.about}.")
        assert told.samples
        for sample in told.samples:
            assert set(sample.labels) - {"le"} == {"user", *family.labels}
            assert sample.labels["user"] == 'a "b"\\\n?'
    names = {sample.name for family in prometheus(text) for sample in family.samples}
    assert {sample.name for family in found.values() for sample in family.samples} == names


def test_with_nothing_counted_the_text_is_valid_too():
    assert all(not family.samples for family in openmetrics(render(Counts(), {}, "u")))


def test_a_histogram_counts_each_size_once_and_up():
    counts = Counts()
    for value in (0.01, 0.011, 61.0):  # a bound belongs to its bucket
        counts.observe("call_duration_seconds", value, "batch", "SubmitJob")
    text = render(counts, {}, "u")
    found = samples(text, "call_duration_seconds_bucket")
    by_bound = {dict(labels)["le"]: value for labels, value in found.items()}
    assert (by_bound["0.01"], by_bound["0.025"], by_bound["60.0"], by_bound["+Inf"]) == (1, 2, 2, 3)
    assert len(by_bound) == len(BUCKETS) + 1
    [total] = samples(text, "call_duration_seconds_sum").values()
    assert total == pytest.approx(61.021)


def test_counts_of_many_threads_are_all_there():
    counts = Counts()

    def work():
        for _ in range(2000):
            counts.add("step_retries", "stage")
            counts.observe("call_duration_seconds", 1.0, "s3", "PutObject")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.counters("step_retries") == {("stage",): 16000}
    assert sum(counts.histograms("call_duration_seconds")["s3", "PutObject"][:-1]) == 16000


def test_what_one_process_dumps_another_loads_and_anything_else_is_left_out():
    counts, _ = full()
    other = Counts()
    other.load(counts.dump())
    assert json.loads(other.dump()) == json.loads(counts.dump())
    wrong = (
        "",
        "[]",
        "{}",
        '{"counters": [["no_such", 1]], "histograms": []}',
        '{"counters": [["calls", "a", 1]], "histograms": []}',
        '{"counters": [["job_holds", "1", NaN]], "histograms": [["call_duration_seconds", "a", "b", [1]]]}',
        "[" * 100000,
    )
    for bad in wrong:
        other = Counts()
        other.load(bad)
        assert json.loads(other.dump()) == {"counters": [], "histograms": []}


@pytest.mark.parametrize(
    ("status", "code", "how"),
    [
        (200, "", "ok"),
        (429, "TooManyRequestsException", "throttled"),
        (503, "SlowDown", "throttled"),
        (400, "ThrottlingException", "throttled"),
        (403, "ExpiredTokenException", "credentials"),
        (403, "AccessDenied", "refused"),
        (500, "InternalError", "failed"),
    ],
)
def test_how_a_call_ended_is_told_apart(status, code, how):
    assert outcome(status, code) == how


def test_every_name_is_documented_as_it_is():
    document = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [line for line in document.splitlines() if line.startswith(f"| {PREFIX}")]
    assert rows == [
        f"| {PREFIX}{family.name}{'_total' if family.kind == 'counter' else ''} | {family.kind} | {', '.join(family.labels)}"
        f" | {family.about} |"
        for family in FAMILIES
    ]
    for name in re.findall(PREFIX + r"[a-z_]+", document):
        if not name.startswith(f"{PREFIX}USER"):
            known(name.rstrip("_"))


ENDS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count", "")}


def known(name):
    """The family that a sample of this name belongs to."""
    bare = name.removeprefix(PREFIX)
    for family in FAMILIES:
        if bare in [family.name + end for end in ENDS[family.kind]]:
            return family
    raise AssertionError(f"there is no {name}")


def test_the_dashboard_asks_for_names_and_labels_that_there_are():
    board = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    asked = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            found = re.findall(PREFIX + r"[a-z_]+", text)
            assert found, text
            for name, inner in re.findall(rf"({PREFIX}[a-z_]+)\{{(.*?)\}}", text):
                family = known(name)
                asked.add(family.name)
                labels = set(re.findall(r"([a-z_]+)(?:=|!)", inner))
                labels |= {one for group in re.findall(r"by \(([^)]*)\)", text) for one in re.split(r"[ ,]+", group)} - {"le"}
                assert labels <= {"user", *family.labels}, text
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in text
    assert asked >= set(BY_NAME) - {"start_time_seconds"}
    states = set(re.findall(r"[a-z]+", "|".join(re.findall(r'state=~"([^"]*)"', json.dumps(board).replace("\\", "")))))
    assert states <= {state.value.lower() for state in RunState} | {"waiting", "running"}
    places = [panel["gridPos"] for panel in board["panels"]]
    assert len({panel["id"] for panel in board["panels"]}) == len(places)
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_calls_of_a_real_client_are_counted_with_how_they_ended():
    counts = Counts()
    once = ClientConfig(retries={"total_max_attempts": 1}, connect_timeout=2)
    client = boto3.client("batch", region_name="us-west-2", endpoint_url="http://127.0.0.1:9", aws_access_key_id="a",
                          aws_secret_access_key="b", config=once)  # fmt: skip
    meter.watch(client, "batch", counts)
    with pytest.raises(Exception, match="Could not connect"):
        client.describe_jobs(jobs=["x"])
    assert counts.counters("calls") == {("batch", "DescribeJobs", "lost"): 1}
    assert list(counts.histograms("call_duration_seconds")) == [("batch", "DescribeJobs")]


@pytest.fixture
def journal(tmp_path):
    journal = Journal(str(tmp_path / "state"))
    yield journal
    journal.close()


def test_jobs_are_counted_as_they_move_and_told_by_state(journal, tmp_path):
    before = dict(COUNTS.counters("job_moves")), dict(COUNTS.counters("job_holds"))
    for number, last in enumerate((None, "running", "held")):
        run = Run(name=f"1-{number}-a", directory=f"d{number}", digest="", generation=0, created=1.0, queue="q")
        journal.insert(run, JobRequest(executable="/bin/x", iwd="/tmp")).result()
        if last:
            for state in (RunState.STAGED, RunState.SUBMITTING, RunState.SUBMITTED):
                journal.update(run, state=state)
            journal.update(run, started=True).result()
        if last == "held":
            report = JobReport(JobState.HELD, hold_reason="x", hold_code=HoldCode.TRANSFER_INPUT)
            journal.record(run, state=RunState.HELD, report=report).result()
    moved = {key[0]: int(count - before[0].get(key, 0)) for key, count in COUNTS.counters("job_moves").items()}
    assert {state: moved.get(state, 0) for state in ("accepted", "staged", "submitted", "held")} == {
        "accepted": 3, "staged": 2, "submitted": 2, "held": 1,
    }  # fmt: skip
    assert COUNTS.counters("job_holds")[("13",)] - before[1].get(("13",), 0) == 1
    tally = history.tally(str(tmp_path / "state"))
    assert {state: count for state, count in tally.items() if count} == {"accepted": 1, "running": 1, "held": 1}
    assert tally["waiting"] == 0


def test_the_file_is_put_in_place_for_others_to_read_and_for_nobody_to_write(journal, tmp_path):
    (tmp_path / "textfiles").mkdir()
    (tmp_path / "textfiles" / "other.prom").symlink_to("/etc/passwd")
    knobs = settings(tmp_path, AWSBATCH_METRICS_FILE=str(tmp_path / "textfiles"))
    counts = Counts()
    counts.add("calls", "batch", "SubmitJob", "ok")
    one = meter.Meter(knobs, counts)
    one.start()
    one.close()
    path = tmp_path / "textfiles" / f"awsbatch_gahp_{meter.user_name()}.prom"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "state" / meter.FILE).stat().st_mode) == 0o600
    text = path.read_text()
    assert samples(text, "calls_total") == {(("operation", "SubmitJob"), ("outcome", "ok"), ("service", "batch")): 1}
    assert list(samples(text, "up").values()) == [0]
    assert min(samples(text, "journal_bytes").values()) > 0
    assert sorted(os.listdir(tmp_path / "textfiles")) == [path.name, "other.prom"]


def test_one_gahp_of_a_user_writes_and_the_next_takes_over(journal, tmp_path):
    knobs = settings(tmp_path, AWSBATCH_METRICS_FILE=str(tmp_path / "m.prom"))
    first, second = Counts(), Counts()
    first.add("step_retries", "stage")
    second.add("step_retries", "collect")
    one, two = meter.Meter(knobs, first), meter.Meter(knobs, second)
    one.write(up=True)
    two.write(up=True)
    assert list(samples((tmp_path / "m.prom").read_text(), "step_retries_total")) == [(("step", "stage"),)]
    os.close(one._lock)  # as the kernel does when the process ends
    two.write(up=True)
    assert list(samples((tmp_path / "m.prom").read_text(), "step_retries_total")) == [(("step", "collect"),)]
    os.close(two._lock)


def test_a_place_that_cannot_be_written_is_said_once_and_stops_nothing(journal, tmp_path, caplog):
    knobs = settings(tmp_path, AWSBATCH_METRICS_FILE="/no/such/folder/m.prom")
    one = meter.Meter(knobs, Counts())
    for _ in range(3):
        one.write(up=True)
    assert [record.getMessage() for record in caplog.records] == [
        "the metrics cannot be written: [Errno 2] No such file or directory: '/no/such/folder/m.prom':"
        " see AWSBATCH_METRICS_FILE and AWSBATCH_STATE_DIR"
    ]
    os.close(one._lock)


def test_a_place_that_is_no_regular_file_is_left_as_it_is(journal, tmp_path, caplog):
    os.mkfifo(tmp_path / "pipe")
    one = meter.Meter(settings(tmp_path, AWSBATCH_METRICS_FILE=str(tmp_path / "pipe")), Counts())
    one.write(up=True)
    assert (tmp_path / "pipe").is_fifo()
    assert "It is no regular file" in caplog.text and "see AWSBATCH_METRICS_FILE" in caplog.text
    os.close(one._lock)


def test_what_was_counted_last_is_read_again_by_another_process(journal, tmp_path):
    knobs = settings(tmp_path)
    counts = Counts()
    counts.add("calls", "s3", "PutObject", "ok")
    one = meter.Meter(knobs, counts)
    one.write(up=True)
    found, started, written, up = meter.last(knobs.state_dir)
    assert (found.counters("calls"), up) == ({("s3", "PutObject", "ok"): 1}, True)
    assert 0 < started <= written
    os.close(one._lock)
    assert meter.last(knobs.state_dir)[3] is False
    assert meter.last(str(tmp_path / "nothing"))[1:] == (0.0, 0.0, False)


def test_condor_awsbatch_metrics_prints_valid_text_with_and_without_a_journal(journal, tmp_path):
    import subprocess
    import sys

    program = os.path.join(os.path.dirname(sys.executable), "condor_awsbatch")
    for folder, jobs in ((tmp_path / "state", 1), (tmp_path / "none", 0)):
        if jobs:
            run = Run(name="1-0-a", directory="d", digest="", generation=0, created=1.0, queue="q")
            journal.insert(run, JobRequest(executable="/bin/x", iwd="/tmp")).result()
        environment = {"PATH": "/usr/bin:/bin", "CONDOR_CONFIG": "ONLY_ENV", "_CONDOR_AWSBATCH_STATE_DIR": str(folder)}
        ran = subprocess.run([program, "metrics"], env=environment, capture_output=True, text=True, check=True)
        assert ran.stderr == ""
        assert samples(ran.stdout, "jobs")[(("state", "accepted"),)] == jobs
