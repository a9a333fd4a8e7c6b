"""condor_awsbatch report as a person meets it, on a journal that a GAHP wrote."""

import json
import os
import subprocess
import sys
import time

import pytest

from gahp.batch import BatchJob
from gahp.batch.jobs import BatchAttempt
from gahp.cli import report
from gahp.gateway.telling import of_batch
from gahp.journal import Journal
from gahp.model import JobReport, JobRequest, JobState, Refused, Resources
from gahp.run import Run, RunState

PROGRAM = os.path.join(os.path.dirname(sys.executable), "condor_awsbatch")


@pytest.fixture
def state(tmp_path):
    """A journal with jobs 7.0 and 7.1 of a DAG, done, and 8.0, which is not over."""
    now = time.time()
    journal = Journal(str(tmp_path / "state"))
    for cluster, proc, node in ((7, 0, "A"), (7, 1, "</script>"), (8, 0, "")):
        request = JobRequest(
            executable="/bin/sim", iwd="/tmp", resources=Resources(cpus=1, memory_mib=2048), dag=6 if cluster == 7 else None,
            dag_node=node, batch_name="d.dag+6" if cluster == 7 else "", global_job_id=f"h#{cluster}.{proc}#1",
        )  # fmt: skip
        run = Run(
            name=f"{cluster}-{proc}-a", directory=f"d{cluster}{proc}", digest="", generation=0, created=now - 100, queue="q"
        )
        journal.insert(run, request).result()
        for following in (RunState.STAGED, RunState.SUBMITTING, RunState.SUBMITTED):
            journal.update(run, state=following, native_id="id")
        if cluster == 7:
            past = BatchAttempt(now - 60, now - 20, 0)
            job = BatchJob("id", "n", "SUCCEEDED", started=now - 60, stopped=now - 20, attempts=1, created=now - 90, past=(past,))
            journal.update(run, state=RunState.COLLECTING)
            done = JobReport(JobState.COMPLETED, exit_code=0)
            journal.record(run, news=of_batch(job, now), state=RunState.COMPLETED, report=done).result()
    journal.close()
    return tmp_path / "state"


def call(state, *words, cwd=None):
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "CONDOR_CONFIG": "ONLY_ENV"}
    environment["_CONDOR_AWSBATCH_STATE_DIR"] = str(state)
    return subprocess.run([PROGRAM, "report", *words], env=environment, capture_output=True, text=True, check=False, cwd=cwd)


def chosen(state, *words):
    ran = call(state, "-json", *words)
    assert ran.returncode == 0, ran.stderr
    return [job["condor_id"] for job in json.loads(ran.stdout)["jobs"]]


def test_the_page_is_put_in_place_and_said(state, tmp_path):
    ran = call(state, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("report.html: 3 jobs, ")
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("<script") == 2
    assert [entry for entry in os.listdir(tmp_path) if entry.startswith(".report")] == []


def test_a_device_or_a_pipe_is_written_to_and_stays_what_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    report.write(str(pipe), "a page")
    assert os.read(reader, 100) == b"a page" and pipe.is_fifo()
    os.close(reader)


def test_a_link_to_a_page_stays_a_link(tmp_path):
    (tmp_path / "real.html").write_text("old")
    (tmp_path / "link.html").symlink_to("real.html")
    report.write(str(tmp_path / "link.html"), "new")
    assert (tmp_path / "link.html").is_symlink() and (tmp_path / "real.html").read_text() == "new"


def test_jobs_are_chosen_by_cluster_dag_and_time(state):
    assert chosen(state) == ["7.0", "7.1", "8.0"]
    assert chosen(state, "7") == ["7.0", "7.1"]
    assert chosen(state, "8.0", "7.1") == ["7.1", "8.0"]
    assert chosen(state, "-dag", "/some/where/d.dag") == ["7.0", "7.1"]
    assert chosen(state, "-dag", "6") == ["7.0", "7.1"]
    assert chosen(state, "-since", "1h") == ["7.0", "7.1", "8.0"]
    assert chosen(state, "-since", "2100-01-01") == ["8.0"]  # what is not over is never past


def test_csv_and_json_go_beside_the_page_that_is_named(state, tmp_path):
    ran = call(state, "-o", "week.html", "-csv", "-json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert [line.partition(":")[0] for line in ran.stdout.splitlines()] == ["week.html", "week.csv", "week.json"]
    assert (tmp_path / "week.html").read_text().startswith("<!DOCTYPE html>")
    assert len((tmp_path / "week.csv").read_text().splitlines()) == 4
    assert len(json.loads((tmp_path / "week.json").read_text())["jobs"]) == 3


def test_csv_alone_goes_where_it_is_sent(state, tmp_path):
    assert call(state, "-csv", "7.0").stdout.startswith("condor_id,")
    call(state, "-csv", "-o", "week.txt", cwd=tmp_path)
    assert (tmp_path / "week.txt").read_text().startswith("condor_id,")


def test_prices_make_costs(state, tmp_path):
    (tmp_path / "prices.csv").write_text("queue,vcpu_hour,gb_hour\n*,0.09,0\n")
    value = json.loads(call(state, "-json", "-prices", str(tmp_path / "prices.csv"), "7").stdout)
    assert value["cost"]["total"] == pytest.approx(2 * 40 / 3600 * 0.09, rel=0.01)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("99",), "has no such jobs"),
        (("-dag", "none.dag"), "has no such jobs"),
        (("-csv", "-json"), "-csv and -json together go beside a page: name it with -o PAGE.html."),
        (("-since", "yesterday"), "-since yesterday: give a length such as 90m"),
        (("-prices", "/no/such/list"), "The price list /no/such/list cannot be read"),
        (("-o", "/no/such/folder/r.html"), "cannot be written: No such file or directory. Give another place"),
    ],
)
def test_what_cannot_be_done_is_one_line(state, words, told):
    ran = call(state, *words)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert told in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_price_list_with_a_field_of_any_length_is_one_line(state, tmp_path):
    (tmp_path / "prices.csv").write_text(f"queue,vcpu_hour\n{'q' * 200_000},1\n")
    ran = call(state, "-prices", str(tmp_path / "prices.csv"))
    assert ran.returncode == 1
    assert "prices.csv cannot be understood: field larger than field limit" in ran.stderr and ran.stderr.count("\n") == 1


def test_without_a_journal_there_is_an_empty_page(tmp_path):
    ran = call(tmp_path / "nothing", "-o", "-")
    assert ran.returncode == 0
    assert "There is no job here." in ran.stdout


def test_a_gahp_that_runs_is_not_disturbed(state, tmp_path):
    journal = Journal(str(state))
    try:
        before = sorted(os.listdir(state))
        assert call(state, "-csv").returncode == 0
        assert sorted(os.listdir(state)) == before
    finally:
        journal.close()


def test_refused_is_what_a_time_nobody_understands_is():
    from gahp.cli.report import moment

    with pytest.raises(Refused):
        moment("1e400d", 0)
    assert moment("2h", 7200) == 0
