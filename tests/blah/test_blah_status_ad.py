import dataclasses
import math

import classad2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gahp import model
from gahp.blah import format_status
from gahp.model import JobReport, JobState

relaxed = settings(deadline=None, database=None)
ID = "awsbatch/20261122/77-0-k3f9q2"


def read(report, job_id=ID):
    """The status ad of a report as classad2 reads it: a dict of values."""
    text = format_status(job_id, report)
    assert text.isascii() and text.isprintable()
    ad = classad2.ClassAd(text)
    return {name: ad.get(name) for name in ad}


def test_a_job_that_ended_well_reports_all_that_reaches_a_job():
    report = JobReport(
        JobState.COMPLETED,
        exit_code=0,
        exit_reason="because",
        bytes_sent=11,
        bytes_received=22,
        system_cpu_s=3,
        user_cpu_s=5.25,
        restarts=2,
        cpus=4,
        memory_mib=512,
        disk_kib=1024,
        worker="i-0fake",
        native_id="0d1f:3",
    )
    assert format_status(ID, report) == (
        f'[ BatchJobId = "{ID}"; JobStatus = 4; WorkerNode = "i-0fake"; AwsJobId = "0d1f:3"; ExitBySignal = false; ExitCode = 0;'
        ' ExitReason = "because"; BytesSent = 11.0; BytesRecvd = 22.0; RemoteSysCpu = 3.0; RemoteUserCpu = 5.25;'
        " NumRestarts = 2; CpusProvisioned = 4; MemoryProvisioned = 512; DiskProvisioned = 1024 ]"
    )
    assert read(report) == {
        "BatchJobId": ID,
        "JobStatus": 4,
        "WorkerNode": "i-0fake",
        "AwsJobId": "0d1f:3",
        "ExitBySignal": False,
        "ExitCode": 0,
        "ExitReason": "because",
        "BytesSent": 11.0,
        "BytesRecvd": 22.0,
        "RemoteSysCpu": 3.0,
        "RemoteUserCpu": 5.25,
        "NumRestarts": 2,
        "CpusProvisioned": 4,
        "MemoryProvisioned": 512,
        "DiskProvisioned": 1024,
    }


def test_a_job_that_a_signal_ended_reports_the_signal_and_no_code():
    ad = read(JobReport(JobState.COMPLETED, exit_signal=9, exit_code=137))
    assert ad == {"BatchJobId": ID, "JobStatus": 4, "ExitBySignal": True, "ExitSignal": 9}


def test_a_completed_job_without_an_exit_is_never_written_down_as_a_success():
    with pytest.raises(ValueError, match="neither exit_code nor exit_signal"):
        format_status(ID, JobReport(JobState.COMPLETED))


@pytest.mark.parametrize("state", [JobState.IDLE, JobState.RUNNING])
def test_a_job_that_is_not_over_reports_neither_exit_nor_hold(state):
    report = JobReport(state, exit_code=1, exit_reason="x", hold_reason="y", hold_code=3)
    assert read(report) == {"BatchJobId": ID, "JobStatus": int(state)}


def test_a_removed_job_reports_an_exit_if_it_has_one():
    assert read(JobReport(JobState.REMOVED)) == {"BatchJobId": ID, "JobStatus": 3}
    assert read(JobReport(JobState.REMOVED, exit_code=143))["ExitCode"] == 143


def test_a_held_job_reports_its_reason_and_codes():
    report = JobReport(JobState.HELD, exit_code=0, hold_reason='no "a\\b"\nthere', hold_code=12, hold_subcode=2)
    assert read(report) == {
        "BatchJobId": ID,
        "JobStatus": 5,
        "ExitBySignal": False,
        "ExitCode": 0,
        "HoldReason": 'no "a\\b" there',
        "HoldReasonCode": 12,
        "HoldReasonSubCode": 2,
    }


def test_a_hold_always_has_a_reason_of_one_line_and_at_most_1000_characters():
    assert read(JobReport(JobState.HELD, hold_reason=" \n"))["HoldReason"] == "The batch system gave no reason."
    long = read(JobReport(JobState.HELD, hold_reason="é\n" * 5000))["HoldReason"]
    assert (len(long), long[:4], long[-1]) == (1000, "é é ", "…")


def test_the_wall_clock_time_which_the_gridmanager_counts_itself_is_never_sent():
    names = {field.name: 1 for field in dataclasses.fields(JobReport) if field.type != "str"}
    assert "RemoteWallClockTime" not in read(JobReport(**{**names, "state": JobState.COMPLETED}))


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_number_is_left_out(seconds):
    assert "RemoteUserCpu" not in read(JobReport(JobState.RUNNING, user_cpu_s=seconds))


texts = st.one_of(st.text(), st.binary().map(model.to_text), st.text(alphabet='"\\;[]\n\r\t\0 é\ud800'))
counts = st.none() | st.integers(0, 2**62)
times = st.none() | st.floats(min_value=0, allow_infinity=False)
reports = st.builds(
    JobReport,
    state=st.sampled_from(JobState),
    exit_code=st.integers(0, 255),
    exit_signal=st.none() | st.integers(1, 64),
    exit_reason=texts,
    hold_reason=texts,
    hold_code=st.integers(0, 60),
    hold_subcode=st.integers(-(2**31), 2**31),
    bytes_sent=counts,
    bytes_received=counts,
    user_cpu_s=times,
    system_cpu_s=times,
    restarts=counts,
    cpus=counts,
    memory_mib=counts,
    disk_kib=counts,
    worker=texts,
    native_id=texts,
)


@settings(relaxed, max_examples=200)
@given(reports)
def test_every_report_is_an_ad_that_classad2_reads_back(report):
    ad = classad2.ClassAd(format_status(ID, report))
    assert ad["JobStatus"] == report.state
    expected = {
        "BytesSent": report.bytes_sent,
        "BytesRecvd": report.bytes_received,
        "RemoteUserCpu": report.user_cpu_s,
        "RemoteSysCpu": report.system_cpu_s,
        "NumRestarts": report.restarts,
        "CpusProvisioned": report.cpus,
        "MemoryProvisioned": report.memory_mib,
        "DiskProvisioned": report.disk_kib,
        "HoldReasonCode": report.hold_code if report.state is JobState.HELD else None,
        "ExitSignal": report.exit_signal if report.state.final else None,
        "ExitCode": report.exit_code if report.state.final and report.exit_signal is None else None,
    }
    for name, value in expected.items():
        assert ad.get(name) == (value if not isinstance(value, int) or not name.startswith("Bytes") else float(value)), name
        assert (name in ad) == (value is not None)
    assert isinstance(ad.get("BytesSent", 1.0), float)
    assert ("HoldReason" in ad) == (report.state is JobState.HELD)


@relaxed
@given(st.text().map(lambda text: text.replace("\0", "")))
def test_every_text_comes_back_as_it_was(text):
    ad = classad2.ClassAd(format_status(text, JobReport(JobState.RUNNING, worker=text, native_id=text)))
    assert ad["BatchJobId"] == text
    assert (ad.get("WorkerNode", ""), ad.get("AwsJobId", "")) == (text, text)
