"""condor_awsbatch orphans, against a Batch and a journal that disagree."""

import argparse
import contextlib
import sqlite3
import time

import pytest

from gahp.batch import BatchJob
from gahp.cli import orphans as verb
from gahp.cli.orphans import end, orphans
from gahp.journal import Journal
from gahp.model import JobReport, JobRequest, JobState, Refused
from gahp.run import Run, RunState, Wanted
from gahp.site import Clients
from gahp.statedir import note_removal, noted_removals


class FakeBatch:
    def __init__(self, journal):
        self.journal, self.jobs, self.terminated = journal.identity, [], []

    def add(self, job_id, name, run, journal=None):
        environment = {"GAHP_JOURNAL": journal or self.journal, "GAHP_RUN_URL": f"s3://b/runs/{run}"}
        self.jobs.append((BatchJob(job_id, name, "RUNNING"), environment))

    def active(self, queue):
        return iter(self.jobs)

    def terminate(self, job_id, reason):
        self.terminated.append(job_id)


NOW, HOUR = 1_000_000.0, 3600.0


def told(journal, batch, unasked_s=HOUR, claimant=lambda run, submission: ""):
    """The reasons, and of each whether it is in doubt, by the job's id."""
    found = orphans(journal, batch, ("q", "q"), unasked_s, claimant, now=NOW)
    return {each.job.id: (each.reason, each.doubtful) for each in found}


@pytest.fixture
def journal(tmp_path):
    journal = Journal(str(tmp_path), clock=lambda: NOW)
    yield journal
    journal.close()


def add(journal, name, created=999_000.0, **more):
    run = Run(name=name, directory=name, digest="", generation=0, created=created, **more)
    journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    return run


def test_what_nobody_wants_is_listed_with_the_reason_and_what_is_wanted_or_somebody_elses_is_not(journal):
    batch = FakeBatch(journal)
    add(journal, "fine", state=RunState.SUBMITTED, native_id="1", confirmed=True)
    add(journal, "over", state=RunState.REMOVED, report=JobReport(JobState.REMOVED))
    add(journal, "asked", state=RunState.SUBMITTED, native_id="3", wanted=Wanted.REMOVE)
    add(journal, "twice", state=RunState.SUBMITTED, native_id="4", confirmed=True)
    add(journal, "old", state=RunState.SUBMITTED, native_id="6", created=1.0)
    add(journal, "again", state=RunState.SUBMITTED, native_id="7", submission=1, confirmed=True)
    for job_id, name in (("1", "fine"), ("2", "over"), ("3", "asked"), ("4", "twice"), ("5", "twice"), ("6", "old")):
        batch.add(job_id, name, name)
    batch.add("7", "again-1", "again")
    batch.add("8", "nobody", "nobody")
    batch.add("9", "others", "others", journal="another")
    journal.heed(set(), ["over"], 2 * HOUR)  # what has been counted of a run that is over changes nothing
    journal.check()
    found = told(journal, batch)
    assert set(found) == {"2", "3", "5", "6", "8"}
    assert found["2"] == ("its run is over (REMOVED)", False)
    assert found["5"] == ("a second copy: its run goes on as 4", False)
    assert found["6"][0].startswith("in doubt: HTCondor has never asked about it since") and found["6"][1]


def test_what_htcondor_passes_over_while_it_asks_about_others_is_forgotten_after_that_time_and_not_before(journal):
    batch = FakeBatch(journal)
    for job_id, name in (("1", "asked"), ("2", "passed"), ("3", "lately"), ("4", "again")):
        add(journal, name, state=RunState.SUBMITTED, native_id=job_id, confirmed=True)
        batch.add(job_id, name, name)
    for asked, passed_over in (((), ("passed", "again")), ((), ("passed", "again", "lately")), (("again", "asked"), ())):
        journal.heed(set(asked), passed_over, HOUR / 2)
        journal.check()  # it is written
    assert told(journal, batch) == {"2": ("forgotten: HTCondor has asked about others for 1.0 h and not about it", False)}
    end(journal, batch, batch.jobs[1][0])
    assert batch.terminated == ["2"] and journal.wanted_changes() == [("passed", Wanted.REMOVE)]


def test_after_days_in_which_the_machine_was_down_what_nobody_has_asked_about_yet_is_only_in_doubt(tmp_path):
    """Its GAHP is dead, its last word is old, and everything is wanted."""
    dead = Journal(str(tmp_path), clock=lambda: 1.0)
    add(dead, "known", created=1.0, state=RunState.SUBMITTED, native_id="1", confirmed=True)
    add(dead, "unknown", created=1.0, state=RunState.SUBMITTED, native_id="2")
    dead.close()
    journal = Journal(str(tmp_path), clock=lambda: NOW)
    batch = FakeBatch(journal)
    batch.add("1", "known", "known")
    batch.add("2", "unknown", "unknown")
    found = told(journal, batch)
    assert [doubtful for _, doubtful in found.values()] == [True, True]
    assert found["1"][0].endswith("and no GAHP lives that HTCondor could ask about it")
    journal.adopt()  # as the GAHP does that HTCondor starts next
    assert set(told(journal, batch)) == {"2"}
    journal.close()


@pytest.fixture
def command(journal, monkeypatch, tmp_path):
    """`condor_awsbatch orphans ...` with this journal and a Batch of "sure" (1) and "doubted" (2)."""
    batch = FakeBatch(journal)
    add(journal, "sure", state=RunState.REMOVED, report=JobReport(JobState.REMOVED))
    add(journal, "doubted", state=RunState.SUBMITTED, native_id="2", created=1.0)
    batch.add("1", "sure", "sure")
    batch.add("2", "doubted", "doubted")
    for name, value in (
        ("Journal", lambda directory: journal),
        ("Batch", lambda *_, **__: batch),
        ("clients", lambda settings: Clients(None, None)),
        ("limiter", lambda settings: None),
    ):
        monkeypatch.setattr(verb, name, value)
    monkeypatch.setattr(journal, "close", lambda: None)
    for name, value in (("JOB_QUEUE", "q"), ("JOB_DEFINITION", "d"), ("S3_URL", "s3://bucket/p"), ("STATE_DIR", str(tmp_path))):
        monkeypatch.setenv(f"_CONDOR_AWSBATCH_{name}", value)
    monkeypatch.setenv("CONDOR_CONFIG", "ONLY_ENV")

    def command(*words):
        parser = argparse.ArgumentParser()
        verb.add_arguments(parser)
        assert verb.run(parser.parse_args(words)) == 0
        return batch.terminated

    yield command
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("words", "ended"), [([], []), (["--end"], ["1"]), (["--end", "2"], ["2"]), (["--end", "1", "2"], ["1", "2"])]
)
def test_what_is_in_doubt_is_ended_by_name_only(command, capsys, words, ended):
    assert command(*words) == ended
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "1 orphan, 1 in doubt" + (f", {len(ended)} ended" if words else "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--end", "1", "3"], "^Not among what is listed without --end: 3. .* is listed after 24 h"),
        (["--end", "1", ""], "^Not among what is listed"),
        (["--end", "1", "-"], "^Not among what is listed"),
        (["1"], "add --end"),
    ],
)
def test_a_name_that_is_not_listed_or_without_the_wish_to_end_it_ends_nothing(command, words, sentence):
    verb.Batch().add("5", "12-0-pack", "")  # a line without a name
    with pytest.raises(Refused, match=sentence):
        command(*words)
    assert command() == []


def test_what_is_in_doubt_and_too_young_to_be_listed_is_refused_with_when_it_is(journal, command, capsys):
    add(journal, "young", created=time.time() - HOUR, state=RunState.SUBMITTED, native_id="3")
    verb.Batch().add("3", "young", "young")
    with pytest.raises(Refused, match=r"^Not among what is listed without --end: young\. .* is listed after 2\.5 h"):
        command("--unasked", "2.5", "--end", "young")
    command("--unasked", "2.5")
    assert "young" not in capsys.readouterr().out
    command("--unasked", "1", "--end", "young")
    assert verb.Batch().terminated == ["3"]


@pytest.fixture
def children(journal, command):
    """Children of a pack with jobs of two clusters, another run of the second, and two jobs that the journal does not know."""
    over = {"state": RunState.REMOVED, "report": JobReport(JobState.REMOVED)}
    add(journal, "12-0-aa", pack="12-0-pack", child=0, **over)
    add(journal, "13-4-bb", pack="12-0-pack", child=1, **over)
    add(journal, "13-4-cc", **over)
    batch = verb.Batch()
    for job_id, run in (("x:0", ""), ("x:1", ""), ("5", "13-4-cc"), ("6", "14-0-n"), ("x:7", "")):
        batch.add(job_id, run or "12-0-pack", run)
    for job, environment in batch.jobs:
        if ":" in job.id:
            environment["GAHP_PACK_URL"], environment["GAHP_RUN_URL"] = "s3://b/runs/12-0-pack", ""


def test_each_line_has_the_job_of_htcondor_and_the_run_also_of_a_child_of_a_pack(children, command, capsys):
    command()
    assert [line.split("  ")[:4] for line in capsys.readouterr().out.splitlines()[:-1]] == [
        ["1", "sure", "sure", "RUNNING"],
        ["2", "doubted", "doubted", "RUNNING"],
        ["x:0", "12.0", "12-0-aa", "RUNNING"],
        ["x:1", "13.4", "13-4-bb", "RUNNING"],
        ["5", "13.4", "13-4-cc", "RUNNING"],
        ["6", "14.0", "14-0-n", "RUNNING"],
        ["x:7", "-", "-", "RUNNING"],
    ]


@pytest.mark.parametrize(
    ("words", "ended"),
    [(["12.0"], ["x:0"]), (["13-4-bb"], ["x:1"]), (["13-4-cc", "x:7", "14.0"], ["5", "6", "x:7"]), (["12.0", "x:0"], ["x:0"])],
)
def test_one_is_ended_by_the_id_in_htcondor_or_the_name_of_its_run(children, command, words, ended):
    assert command("--end", *words) == ended


def test_what_is_listed_twice_since_its_queue_is_named_twice_is_one(children, command, monkeypatch, capsys):
    monkeypatch.setenv("_CONDOR_AWSBATCH_ALLOWED_QUEUES", "arn:aws:batch:eu-central-1:1:job-queue/q")
    assert command("--end", "12.0") == ["x:0"]
    assert capsys.readouterr().out.count("x:0") == 1


def test_an_id_that_means_two_of_them_ends_none(children, command):
    with pytest.raises(Refused, match=r"^13\.4 means 2 jobs, nothing was ended: name the one by its id, 5 or x:1\.$"):
        command("--end", "12.0", "13.4")
    assert verb.Batch().terminated == []


@pytest.mark.parametrize("hours", ["-1", "0", "0.99", "nan", "inf", "1e999", "a day"])
def test_a_time_that_would_end_what_is_wanted_or_is_none_is_refused(command, capsys, hours):
    with pytest.raises(SystemExit) as refused:
        command("--end", "--unasked", hours)
    assert refused.value.code == 2
    assert f"--unasked: '{hours}' is too short or no number of hours: use 1 or more" in capsys.readouterr().err


def test_a_run_that_nothing_was_counted_of_is_not_forgotten_however_short_the_time(journal):
    batch = FakeBatch(journal)
    add(journal, "fine", state=RunState.SUBMITTED, native_id="1", confirmed=True)
    batch.add("1", "fine", "fine")
    assert told(journal, batch, -HOUR) == {}


@pytest.mark.parametrize("there", [True, False])
def test_where_there_is_no_journal_it_says_so_and_makes_none(command, monkeypatch, tmp_path, there):
    place = tmp_path / "elsewhere"
    if there:
        place.mkdir()
    monkeypatch.setenv("_CONDOR_AWSBATCH_STATE_DIR", str(place))
    monkeypatch.setattr(verb, "Journal", Journal)
    with pytest.raises(Refused, match=f"^There is no journal in {place}: "):
        command()
    assert place.exists() == there and not list(tmp_path.glob("elsewhere/*"))


def test_a_journal_that_is_damaged_or_of_a_newer_version_is_told_as_such(command, monkeypatch, tmp_path):
    monkeypatch.setattr(verb, "Journal", Journal)
    for name, content in (("newer", None), ("damaged", "no database" * 100)):
        place = tmp_path / name
        place.mkdir()
        monkeypatch.setenv("_CONDOR_AWSBATCH_STATE_DIR", str(place))
        if content:
            (place / "journal.sqlite").write_text(content)
        else:
            with contextlib.closing(sqlite3.connect(place / "journal.sqlite")) as connection:
                connection.execute("PRAGMA user_version = 99")
        with pytest.raises(Refused, match="is damaged" if content else "written by a newer version"):
            command()


def test_a_removal_that_is_noted_beside_the_journal_is_recorded_before_it_looks(journal, command, monkeypatch, tmp_path):
    class Slow(Journal):
        def _transact(self, group):
            time.sleep(0.3)
            super()._transact(group)

    add(journal, "removed", state=RunState.SUBMITTED, native_id="3", confirmed=True)
    verb.Batch().add("3", "removed", "removed")
    monkeypatch.setattr(verb, "Journal", lambda directory: Slow(str(tmp_path)))
    assert command("--end") == ["1"]
    note_removal(str(tmp_path), "removed")
    assert command("--end") == ["1", "1", "3"]
    assert noted_removals(str(tmp_path)) == []


def test_what_comes_late_for_a_held_run_or_an_earlier_submission_is_listed_and_its_end_leaves_the_run_alone(journal):
    batch = FakeBatch(journal)
    add(journal, "held", state=RunState.SUSPENDED, confirmed=True)
    add(journal, "released", state=RunState.SUBMITTING, submission=1, confirmed=True)
    batch.add("1", "held", "held")
    batch.add("2", "released", "released")
    batch.add("3", "released-1", "released")
    for (_, environment), submission in zip(batch.jobs, ("0", "0", "1"), strict=True):
        environment["GAHP_SUBMISSION"] = submission
    found = {job_id: reason for job_id, (reason, _) in told(journal, batch).items()}
    assert found == {"1": "its run is held", "2": "of an earlier submission: its run goes on as released-1"}
    for job, _ in batch.jobs[:2]:
        end(journal, batch, job)
    assert batch.terminated == ["1", "2"]
    assert journal.wanted_changes() == []


def test_a_second_copy_that_runs_the_program_is_wanted(journal):
    """It was listed too late and came to its turn before the one that its run follows, which will find its claim."""
    batch = FakeBatch(journal)
    add(journal, "twice", state=RunState.SUBMITTED, native_id="4", sends=2, confirmed=True, created=1.0)
    for job_id in ("4", "5", "6"):
        batch.add(job_id, "twice", "twice")
    found = told(journal, batch, claimant=lambda run, submission: "5" if (run, submission) == ("twice", 0) else "")
    assert found == {"6": ("a second copy: its run goes on as 4", False)}


def test_ending_one_tells_its_run_first_and_leaves_the_run_of_a_second_copy_alone(journal):
    batch = FakeBatch(journal)
    add(journal, "old", state=RunState.SUBMITTED, native_id="6", created=1.0)
    add(journal, "twice", state=RunState.SUBMITTED, native_id="4")
    end(journal, batch, BatchJob("6", "old", "RUNNING"))
    end(journal, batch, BatchJob("5", "twice", "RUNNING"))
    assert batch.terminated == ["6", "5"]
    assert journal.wanted_changes() == [("old", Wanted.REMOVE)]


def test_children_of_array_jobs_are_told_apart_by_their_index(journal):
    batch = FakeBatch(journal)
    add(journal, "fine", state=RunState.SUBMITTED, native_id="x:0", confirmed=True, pack="p", child=0)
    add(journal, "over", state=RunState.REMOVED, report=JobReport(JobState.REMOVED), pack="p", child=1)
    add(journal, "again", state=RunState.SUBMITTED, native_id="y:0", confirmed=True, pack="q", child=0, earlier="p:2")
    for index in range(4):
        batch.add(f"x:{index}", "p", "")
    for _, environment in batch.jobs:
        del environment["GAHP_RUN_URL"]
        environment["GAHP_PACK_URL"] = "s3://b/runs/p"
    found = {job_id: reason for job_id, (reason, _) in told(journal, batch).items()}
    assert found == {
        "x:1": "its run is over (REMOVED)",
        "x:2": "a second copy: its run goes on as y:0",
        "x:3": "the journal does not know it",
    }
    end(journal, batch, BatchJob("x:2", "p", "RUNNING"))
    assert journal.wanted_changes() == []
    end(journal, batch, BatchJob("x:0", "p", "RUNNING"))
    assert batch.terminated == ["x:2", "x:0"]
    assert journal.wanted_changes() == [("fine", Wanted.REMOVE)]
