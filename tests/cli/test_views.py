"""The views on journals of every kind: none, one run in each state, 10,000, damaged, newer; and a reader that leaves."""

import argparse
import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from gahp import history
from gahp.batch import BatchJob
from gahp.cli import dashboard, screen, views, why
from gahp.database import FILE_NAME
from gahp.gateway.telling import of_batch
from gahp.history import Attempt, History
from gahp.journal import Journal
from gahp.model import JobReport, JobRequest, JobState, Resources
from gahp.run import Run, RunState, Wanted
from tests.terminal import Terminal

PROGRAM = os.path.join(os.path.dirname(sys.executable), "condor_awsbatch")
NOW = time.time()
REPORTS = {
    RunState.COMPLETED: JobReport(JobState.COMPLETED, exit_code=0),
    RunState.HELD: JobReport(JobState.HELD, hold_reason="The input \x1b[2J is not there.", hold_code=13),
    RunState.REMOVED: JobReport(JobState.REMOVED),
}


@pytest.fixture
def look(tmp_path):
    def look(*words, code=0, shell="", **environment):
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "CONDOR_CONFIG": "ONLY_ENV",
            "_CONDOR_AWSBATCH_STATE_DIR": str(tmp_path / "state"),
            **environment,
        }
        command = f"exec 2>&1; {PROGRAM} {' '.join(words)} {shell}" if shell else [PROGRAM, *words]
        ran = subprocess.run(
            command, shell=bool(shell), env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert "Traceback" not in ran.stdout + ran.stderr
        assert ran.returncode == code, (ran.stdout, ran.stderr)
        look.stderr = ran.stderr
        return ran.stdout

    return look


def add(journal, number, state=RunState.SUBMITTED, **more):
    request = JobRequest("/bin/x", "/", resources=Resources(1, 64), dag_node=f"n{number}", dag=5, owner="alice")
    run = Run(f"9-{number}-a", f"9.{number}", "d", 0, state, created=NOW - 100 + number / 1000, queue="q", **more)
    return run, journal.insert(run, request)


def fill(directory, count):
    """A journal with the states one after another, as often as it takes."""
    journal = Journal(str(directory))
    states = itertools.cycle(RunState)
    for number in range(count):
        state = next(states)
        run, done = add(journal, number, state, report=REPORTS.get(state), native_id="id" if state is RunState.SUBMITTED else "")
        if state is RunState.SUBMITTED:
            done = journal.update(run, news=of_batch(BatchJob("id", "n", "RUNNING", started=NOW - 50), NOW), started=True)
    done.result()
    return journal


@pytest.mark.parametrize("verb", [("q",), ("q", "-history"), ("q", "-all"), ("q", "-dag", "5"), ("q", "-json"), ("top",)])
def test_no_journal_and_no_configuration_is_no_jobs(look, verb):
    assert look(*verb).strip() in (
        "0 jobs; 0 completed, 0 removed, 0 idle, 0 running, 0 held",
        "[]",
    ) or "none that are not over" in look(*verb)
    assert look.stderr == ""


@pytest.mark.parametrize("verb", ["why", "logs"])
def test_a_job_that_no_journal_has_is_one_line(look, verb):
    look(verb, "1.0", code=1)
    assert look.stderr.startswith("condor_awsbatch: There is no job 1.0 in ")


def test_each_state_is_listed_explained_and_pictured(look, tmp_path):
    journal = fill(tmp_path / "state", len(RunState))
    table = look("q", "9", "-journal")
    for number, state in enumerate(RunState):
        [line] = [line for line in table.splitlines() if line.split()[:1] == [f"9.{number}"]]
        assert line.split()[2] == ("RUNNING" if state is RunState.SUBMITTED else state.value)
        assert look("why", f"9.{number}").startswith(f"Job 9.{number} ")
    assert "10 jobs; 1 completed, 1 removed, 5 idle, 1 running, 2 held" in table
    assert [line.split()[0] for line in table.splitlines()[1:11]] == [f"9.{number}" for number in range(10)]
    picture = look("top")
    assert "1 RUNNING" in picture and "1 SUSPENDED" in picture and "1 completed, 1 held, 1 removed" in picture
    assert "1 × " in picture and "\x1b" not in picture + table
    journal.close()


def test_the_list_has_what_is_not_over_and_what_was_held_and_not_submitted_again(look, tmp_path):
    journal = Journal(str(tmp_path / "state"))
    add(journal, 0, RunState.COMPLETED, report=REPORTS[RunState.COMPLETED])
    add(journal, 1, RunState.HELD, report=REPORTS[RunState.HELD])
    add(journal, 2, RunState.HELD, report=REPORTS[RunState.HELD])
    again = Run("9-2-b", "9.2", "d", 1, RunState.ACCEPTED, created=NOW)
    journal.insert(again, JobRequest("/bin/x", "/")).result()
    assert look("q", "-journal", "-af", "ProcId", "State") == "1 HELD\n2 ACCEPTED\n"
    assert look("q", "-history", "-limit", "1", "-af", "ProcId") == "2\n"
    assert look("why", "9.2").count("Job 9.2") == 1
    journal.close()


def test_a_run_that_htcondor_removed_is_shown_as_being_removed(look, tmp_path):
    journal = Journal(str(tmp_path / "state"))
    add(journal, 0, wanted=Wanted.REMOVE)[1].result()
    assert look("q", "-journal", "-af", "State") == "REMOVING\n"
    journal.close()


def test_jobs_that_run_with_no_aws_configured_are_listed_with_a_note(look, tmp_path):
    journal = Journal(str(tmp_path / "state"))
    add(journal, 0, native_id="id")[1].result()
    assert "9.0" in look("q")
    assert "AWS Batch could not be asked, shown is what the GAHP saw last: AWSBATCH_JOB_QUEUE is not set" in look.stderr
    journal.close()


def test_attributes_by_name_in_any_case_and_an_unknown_one_is_refused(look, tmp_path):
    journal = Journal(str(tmp_path / "state"))
    add(journal, 3)[1].result()
    assert look("q", "9.3", "-journal", "-af", "clusterid", "OWNER", "ExitCode", "BatchQueue") == "9 alice undefined q\n"
    [job] = json.loads(look("q", "-journal", "-json", "-af", "DAGNodeName", "RequestMemory"))
    assert job == {"DAGNodeName": "n3", "RequestMemory": 64}
    look("q", "-af", "Nonsense", code=1)
    assert look.stderr == "condor_awsbatch: There is no attribute Nonsense: condor_awsbatch q -help lists them.\n"
    journal.close()


def test_text_that_the_terminals_encoding_lacks_and_bytes_that_are_no_text_are_shown(look, tmp_path):
    journal = Journal(str(tmp_path / "state"))
    run = Run("9-1-a", "9.1", "d", 0, RunState.SUBMITTED, created=NOW, queue="q")
    journal.insert(run, JobRequest("/bin/\udcff☃", "/", dag_node="☃")).result()
    look("q", "-journal", "-af", "Cmd", shell="| od -An -tx1 | grep -q '2f ff e2 98 83 0a'", LC_ALL="C.UTF-8")
    look("q", "-journal", "-af", "Cmd", shell="| od -An -tx1 | grep -q '2f ff e2 98 83 0a'", PYTHONIOENCODING="utf-8:strict")
    assert "\\u2603" in look("q", "-journal", PYTHONIOENCODING="latin-1")
    assert "9.1" in look("top", PYTHONIOENCODING="latin-1")
    assert "9.1" in look("why", "9.1", PYTHONIOENCODING="latin-1")
    journal.close()


@pytest.mark.parametrize("verb", ["q", "why", "logs", "report"])
@pytest.mark.parametrize("name", [b"\xff", "☃".encode(), b"9.\xb2", b"a\x1b[2J"])
def test_a_job_of_a_name_that_none_can_have_is_one_harmless_line(look, tmp_path, verb, name):
    fill(tmp_path / "state", 1).close()
    look(verb, name, code=1)
    assert look.stderr.count("\n") == 1 and "\x1b" not in look.stderr


def test_why_is_told_on_the_narrowest_terminal(tmp_path, monkeypatch, capsys):
    fill(tmp_path / "state", 1).close()
    monkeypatch.setattr(views, "Site", lambda: SimpleNamespace(settings=SimpleNamespace(state_dir=str(tmp_path / "state"))))
    monkeypatch.setattr(screen, "columns", lambda stream: 1)
    assert why.run(argparse.Namespace(ids=["9.0"])) == 0
    assert "Job 9.0 is not" in capsys.readouterr().out


def test_a_dag_of_no_name_has_no_jobs(look, tmp_path):
    fill(tmp_path / "state", 1).close()
    assert look("q", "-dag", "").startswith("0 jobs;")


def test_options_are_taken_with_one_dash_and_with_two(look):
    for words in (("q", "--history"), ("q", "-history"), ("q", "-help"), ("q", "--help"), ("top", "--count", "1")):
        look(*words)
    look("q", "-nonsense", code=2)
    look("top", "-delay", "0", code=2)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"nonsense" * 4000), "is damaged"),
        (lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 99").connection.close(), "newer version"),
    ],
)
@pytest.mark.parametrize("verb", [("q",), ("why", "9.0"), ("logs", "9.0"), ("top",)])
def test_a_journal_that_cannot_be_read_is_one_line(look, tmp_path, damage, words, verb):
    fill(tmp_path / "state", 20).close()
    damage(tmp_path / "state" / FILE_NAME)
    look(*verb, code=1)
    assert words in look.stderr and look.stderr.count("\n") == 1


def test_ten_thousand_runs_are_listed_and_pictured_and_a_reader_may_leave(look, tmp_path):
    fill(tmp_path / "state", 10_000).close()
    assert look("q", "-history").splitlines()[-1] == "3000 jobs; 1000 completed, 1000 removed, 0 idle, 0 running, 1000 held"
    assert look("q", "-journal").splitlines()[-1] == "8000 jobs; 0 completed, 0 removed, 5000 idle, 1000 running, 2000 held"
    assert "1000 RUNNING" in look("top")
    assert len(look("q", "-journal", shell="| head -n 2").splitlines()) == 2
    assert "too many to ask AWS Batch about" in (look("q", "9"), look.stderr)[1]
    assert "these were 20 of 10000 jobs" in (look("why", "9"), look.stderr)[1]


@pytest.mark.parametrize("verb", [("top", "-count", "1000"), ("logs", "9.0", "-f")])
def test_ctrl_c_ends_what_goes_on_with_one_word(tmp_path, verb):
    journal = Journal(str(tmp_path / "state"))
    add(journal, 0)[1].result()
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "CONDOR_CONFIG": "ONLY_ENV",
        "_CONDOR_AWSBATCH_STATE_DIR": str(tmp_path / "state"),
    }
    process = subprocess.Popen([PROGRAM, *verb], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.readline()  # it is at work
    process.send_signal(signal.SIGINT)
    complaint, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in complaint and complaint.endswith(b"condor_awsbatch: interrupted\n")
    journal.close()


# On a terminal of 80 by 24


def on_terminal(tmp_path, *words, **environment):
    """What a verb shows on a terminal once it has ended by itself."""
    told = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CONDOR_CONFIG": "ONLY_ENV", "LANG": "C.UTF-8"}
    told["_CONDOR_AWSBATCH_STATE_DIR"] = str(tmp_path / "state")
    terminal = Terminal({**told, **environment}, *words)
    assert terminal.end() == 0, terminal.text
    assert b"Traceback" not in terminal.text and b"\x1b[2J" not in terminal.text
    return terminal.text.decode().replace("\r\n", "\n")


def bare(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_on_a_terminal_every_state_is_listed_in_its_colour_within_the_width(tmp_path):
    fill(tmp_path / "state", len(RunState)).close()
    shown = on_terminal(tmp_path, "q", "9", "-journal")
    for word, colour in (("RUNNING", 34), ("COMPLETED", 32), ("HELD", 31), ("SUSPENDED", 33), ("REMOVED", 2)):
        assert f"\x1b[{colour}m{word}\x1b[0m" in shown
    assert len(RunState) == sum(line.startswith("9.") for line in bare(shown).splitlines())
    assert all(len(line) <= 80 for line in bare(shown).splitlines())
    assert "\x1b" not in on_terminal(tmp_path, "q", "9", "-journal", NO_COLOR="1")


def test_on_a_terminal_why_is_wrapped_and_harmless_for_every_state(tmp_path):
    fill(tmp_path / "state", len(RunState)).close()
    for number, state in enumerate(RunState):
        shown = on_terminal(tmp_path, "why", f"9.{number}")
        assert shown.startswith(f"Job 9.{number} ") and "\x1b" not in shown
        assert all(len(line) < 80 for line in shown.splitlines())
        if state is RunState.HELD:
            assert "The input \\x1b[2J is not" in " ".join(shown.split())


def test_on_a_terminal_numbers_and_reports_are_plain_and_harmless(tmp_path):
    fill(tmp_path / "state", len(RunState)).close()
    metrics = on_terminal(tmp_path, "metrics")
    assert metrics.endswith("# EOF\n") and "\x1b" not in metrics
    listed = on_terminal(tmp_path, "report", "-csv")
    assert listed.startswith("condor_id,") and "The input \\x1b[2J is not there." in listed
    made = on_terminal(tmp_path, "report", "-o", str(tmp_path / "r.html"))
    assert made == f"{tmp_path}/r.html: 10 jobs, {(tmp_path / 'r.html').stat().st_size / 1e6:.1f} MB\n"


@pytest.mark.parametrize("count", [0, 1, 10_000])
def test_on_a_terminal_none_one_and_ten_thousand_jobs_are_shown_within_it(tmp_path, count):
    if count:
        fill(tmp_path / "state", count).close()
    jobs = [line for line in bare(on_terminal(tmp_path, "q", "-journal")).splitlines() if line]
    assert len(jobs) == (2 + count - 2 * (count // 10) if count else 1)
    assert max(map(len, jobs)) <= 80
    full = on_terminal(tmp_path, "top", "-count", "1", "-delay", "0.2")
    assert full.startswith("\x1b[?1049h") and full.endswith("\x1b[?25h\x1b[?1049l")
    told = {0: "none that are not over", 1: "1 ACCEPTED", 10_000: "1000 RUNNING"}[count]
    rows = bare(full.partition("\x1b[?25l\x1b[H")[2].partition("\x1b[?25h")[0]).splitlines()
    assert len(rows) == 24 and max(map(len, rows)) <= 80
    assert told in "\n".join(rows) and "q leaves" in "\n".join(rows)


def test_on_a_terminal_top_has_no_colours_with_no_color(tmp_path):
    fill(tmp_path / "state", len(RunState)).close()
    colours = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|38)[0-9;]*m")
    assert colours.search(on_terminal(tmp_path, "top", "-count", "1", "-delay", "0.2"))
    assert not colours.search(on_terminal(tmp_path, "top", "-count", "1", "-delay", "0.2", NO_COLOR="1"))


def test_a_report_of_ten_thousand_runs_is_written(look, tmp_path):
    fill(tmp_path / "state", 10_000).close()
    assert look("report", "-o", f"{tmp_path}/r.html", "-csv", "-json").count(": 10,000 jobs, ") == 3
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 10_001
    assert len(json.loads((tmp_path / "r.json").read_text())["jobs"]) == 10_000
    assert "awsbatch_" in look("metrics")


# Dashboard and tables, by value


def run(number, begin, end=0.0, state=RunState.COMPLETED, **more):
    attempts = (Attempt(begin, end),) if begin else ()
    return History(f"1-{number}-a", "", f"1.{number}", state, accepted=100.0, over=end, attempts=attempts, **more)


def test_states_over_time_are_counted_at_each_moment():
    runs = [run(0, 200.0, 300.0), run(1, 250.0, state=RunState.SUBMITTED), run(2, 0.0, state=RunState.ACCEPTED)]
    assert dashboard.over_time(runs, 400.0, 300.0, dashboard._ran, points=7) == (0, 0, 1, 2, 1, 1, 1)
    assert dashboard.over_time(runs, 400.0, 300.0, dashboard._waited, points=7) == (3, 3, 2, 1, 1, 1, 1)
    assert dashboard.over_time([], 400.0, 300.0, dashboard._ran, points=3) == (0, 0, 0)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("height", [5, 24, None])
def test_the_picture_stays_within_its_screen(width, height):
    limit = dashboard.Limit("submit", 50.0, 49.0, 12.0)
    runs = [run(n, 200.0, state=RunState.SUBMITTED, status="RUNNING", dag_node="n" * 50, worker="w" * 50) for n in range(300)]
    runs += [run(n, 0.0, 390.0, RunState.HELD, hold_reason=f"reason {n} " * 30) for n in range(300, 330)]
    frame = dashboard.look(runs, 400.0, title="t" * 300, limits=[limit] * 3)
    drawn = ["".join(text for text, _ in line) for line in dashboard.lines(frame, width, height)]
    assert height is None or len(drawn) <= height
    if width >= 80:
        assert max(map(len, drawn)) <= width
    if width >= 80 and (height is None or height > 20):
        text = "\n".join(drawn)
        assert "Running" in text and "SLOWEST" in text and "ERRORS" in text and "1.0" in text


def test_rates_limits_and_errors_are_of_the_last_minutes():
    runs = [run(n, 200.0, 395.0, submitted=390.0) for n in range(30)]
    held = run(99, 0.0, 390.0, RunState.HELD, hold_reason="no such file")
    old = run(98, 0.0, -9000.0, RunState.HELD, hold_reason="long ago")
    frame = dashboard.look([*runs, held, old], 400.0, title="", limits=[dashboard.Limit("submit", 50.0, 25.0, 3.0)])
    assert (frame.submit_rate, frame.end_rate) == (0.5, 31 / 60)
    assert frame.errors == (("no such file", 1, 390.0),)
    text = "\n".join("".join(piece for piece, _ in line) for line in dashboard.lines(frame, 80, 24))
    assert "submit    25.0 of  50.0/s ██████████··········  3 throttled" in text


def test_a_table_gives_way_where_it_may_and_shows_no_control_characters():
    lines = screen.table(("A", "LONG"), [["x\x1b[2Jy", "l" * 50]], width=30, shrink=("LONG",))
    assert lines == ["A          LONG", "x\\x1b[2Jy  " + "l" * 18 + "…"]


def test_a_table_leaves_columns_out_where_even_its_least_is_too_wide():
    def narrow(width, *drop):
        cells = (("ID", "QUEUE", "WHERE"), [["1.0", "my-queue", "a-host"]])
        return screen.table(*cells, width=width, shrink=("WHERE", "QUEUE"), drop=drop)

    assert narrow(17, "WHERE") == ["ID   QUEUE  WHERE", "1.0  my-q…  a-ho…"]
    assert narrow(13, "WHERE", "QUEUE") == ["ID   QUEUE", "1.0  my-queue"]
    assert narrow(9, "WHERE", "QUEUE") == ["ID", "1.0"]


def test_a_figure_is_written_out_however_large():
    assert [views.figure(value) for value in (1_000_000, 0.25, 2.0, None)] == ["1000000", "0.25", "2", "-"]


def test_what_batch_says_now_takes_the_place_of_what_the_journal_has():
    known = History("1-0-a", "", "1.0", RunState.SUBMITTED, native_id="id", status="RUNNABLE", since=5.0, accepted=1.0)
    running = views.updated(known, BatchJob("id", "n", "RUNNING", started=9.0, log_stream="s", cpus=2), 20.0)
    assert (running.status, running.since, running.cpus, running.attempts) == ("RUNNING", 9.0, 2, (Attempt(9.0, log_stream="s"),))
    same = views.updated(known, BatchJob("id", "n", "RUNNABLE"), 20.0)
    assert same.since == 5.0
    assert history.History is type(same)
