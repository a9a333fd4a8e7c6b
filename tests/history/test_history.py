"""What the journal tells of its runs, on real files: with a GAHP at work, with none, after a crash, old, newer, damaged."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest

from gahp import history, story
from gahp.batch import BatchJob
from gahp.batch.jobs import BatchAttempt, from_detail
from gahp.database import FILE_NAME
from gahp.gateway.telling import of_batch, of_record
from gahp.journal import Journal
from gahp.model import JobReport, JobRequest, JobState, Refused, Resources
from gahp.run import Run, RunState
from gahp.sandbox import Outcome

T = 1_795_000_000.0
REQUEST = JobRequest(
    executable="/bin/sim",
    iwd="/tmp",
    resources=Resources(cpus=2, memory_mib=512),
    global_job_id="host#12.3#1795000000",
    dag=11,
    dag_node="B1",
    batch_name="d.dag+11",
    owner="alice",
)


class Clock:
    def __init__(self, now=T):
        self.now = now

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def journal(tmp_path):
    journal = Journal(str(tmp_path / "state"), clock=Clock())
    yield journal
    journal.close()


def add(journal, name="12-3-aaaa", request=REQUEST, **more):
    run = Run(name=name, directory=name, digest="d", generation=0, created=T, queue="arn:aws:batch:r:1:job-queue/q", **more)
    journal.insert(run, request).result()
    return run


def only(directory, **how):
    [found] = history.read(str(directory), **how)
    return found


def listing(directory):
    return sorted((name, os.stat(directory / name).st_mtime_ns) for name in os.listdir(directory))


def test_a_run_tells_its_whole_story(journal, tmp_path):
    run = add(journal)
    journal.update(run, state=RunState.STAGED)
    journal.update(run, state=RunState.SUBMITTING, sent=T + 2)
    journal.update(run, state=RunState.SUBMITTED, native_id="id")
    first = BatchAttempt(T + 10, T + 20, None, "Host EC2 (instance i-1) terminated.", "", "stream/1", "host1")
    second = BatchAttempt(T + 40, T + 60, 0, "Essential container in task exited", "", "stream/2", "host2")
    waiting = BatchJob("id", "12-3-aaaa", "RUNNABLE", created=T + 4)
    journal.update(run, news=of_batch(waiting, T + 5))
    running = BatchJob("id", "12-3-aaaa", "RUNNING", started=T + 10, created=T + 4, log_stream="stream/1", worker="host1")
    journal.update(run, news=of_batch(running, T + 11), started=True)
    journal.update(run, news=of_batch(BatchJob("id", "n", "RUNNABLE", attempts=1, past=(first,)), T + 21), started=False)
    journal.update(run, news=of_batch(BatchJob("id", "n", "STARTING", attempts=1, past=(first,)), T + 31))
    journal.update(run, state=RunState.COLLECTING)
    ended = BatchJob(
        "id", "n", "SUCCEEDED", "Essential container in task exited", exit_code=0, started=T + 40, stopped=T + 60, attempts=2,
        cpus=2, memory_mib=512, log_stream="stream/2", worker="host2", created=T + 4, past=(first, second),
    )  # fmt: skip
    record = Outcome(exit_code=0, user_cpu_s=1.5, system_cpu_s=0.5, peak_memory_mib=300, bytes_sent=7, bytes_received=8)
    report = JobReport(JobState.COMPLETED, exit_code=0)
    journal.record(run, news={**of_batch(ended, T + 62), **of_record(record)}, state=RunState.COMPLETED, report=report).result()

    told = only(tmp_path / "state", user="bob")
    assert (told.condor_id, told.cluster, told.proc, told.job_id) == ("12.3", 12, 3, run.job_id)
    assert (told.dag, told.dag_node, told.condor_batch_name, told.owner, told.user) == (11, "B1", "d.dag+11", "alice", "bob")
    assert (told.accepted, told.state, told.final, told.queue, told.native_id) == (T, RunState.COMPLETED, True, "q", "id")
    assert told.accepted < told.staged < told.sent < told.submitted < told.collecting < told.over
    assert (told.created, told.status, told.since, told.restarts) == (T + 4, "SUCCEEDED", T + 60, 1)
    assert told.attempts == (
        history.Attempt(T + 10, T + 20, T + 5, 0.0, None, "Host EC2 (instance i-1) terminated.", "", "stream/1", "host1"),
        history.Attempt(T + 40, T + 60, T + 21, T + 31, 0, "Essential container in task exited", "", "stream/2", "host2"),
    )
    assert (told.cpus, told.memory_mib, told.peak_memory_mib, told.user_cpu_s, told.bytes_sent) == (2, 512, 300, 1.5, 7)
    assert (told.exit_code, told.hold_reason, told.trouble) == (0, "", "")


def test_what_runs_now_is_the_last_attempt(journal, tmp_path):
    run = add(journal, state=RunState.SUBMITTED, native_id="p:7")
    journal.update(run, news=of_batch(BatchJob("p:7", "n", "RUNNING", started=T + 9, log_stream="s"), T + 10)).result()
    told = only(tmp_path / "state")
    assert told.attempts == (history.Attempt(started=T + 9, log_stream="s"),)
    assert (told.status, told.since) == ("RUNNING", T + 9)


def test_the_attempt_that_only_a_list_told_of_comes_after_those_that_were_described(journal, tmp_path):
    run = add(journal, state=RunState.SUBMITTED, native_id="p:7")
    lost = BatchAttempt(T + 10, T + 20, None, "Host EC2 (instance i-1) terminated.", "", "stream/1", "host1")
    waiting = BatchJob("p:7", "n", "RUNNABLE", started=T + 10, log_stream="stream/1", worker="host1", attempts=1, past=(lost,))
    journal.update(run, news=of_batch(waiting, T + 21))
    row = BatchJob("p:7", "n", "SUCCEEDED", exit_code=0, started=T + 40, stopped=T + 60, attempts=None, described=False)
    journal.update(run, news=of_batch(row, T + 62)).result()
    first, second = only(tmp_path / "state").attempts
    assert (first.started, first.stopped, first.log_stream) == (T + 10, T + 20, "stream/1")
    assert (second.started, second.stopped, second.exit_code, second.log_stream, second.worker) == (T + 40, T + 60, 0, "", "")


def test_what_batch_said_of_an_earlier_submission_is_not_said_of_the_next(journal, tmp_path):
    run = add(journal, state=RunState.SUBMITTED, native_id="first")
    journal.update(run, news=of_batch(BatchJob("first", "n", "FAILED", stopped=T + 9), T + 10))
    journal.update(run, submission=1, native_id="second").result()
    told = only(tmp_path / "state")
    assert (told.status, told.attempts, told.batch_name) == ("", (), "12-3-aaaa-1")


def test_trouble_is_told_as_long_as_the_run_is_at_that_step(journal, tmp_path):
    run = add(journal)
    journal.update(run, news=story.trouble("stage", "S3 is\x1b[31m slow", T + 5)).result()
    told = only(tmp_path / "state")
    assert (told.trouble, told.trouble_step, told.trouble_since) == ("S3 is [31m slow", "stage", T + 5)
    journal.update(run, state=RunState.STAGED).result()
    assert only(tmp_path / "state").trouble == ""


def test_a_story_stays_short_however_often_batch_changes_its_mind():
    told = story.begin(REQUEST, "ACCEPTED", T)
    for number in range(500):
        word = ("RUNNABLE", "STARTING")[number % 2]
        told = story.retell(told, story.write({"seen": [[word, T + number]], "at": {"SUBMITTING": T + number}}))
    assert len(told) < 2000
    assert story.retell(told, story.write({"seen": [["STARTING", T + 900]]})) == told  # the same word again is no news


def test_a_story_in_the_journal_stays_short_and_whole(journal, tmp_path):
    run = add(journal)
    for number in range(500):
        written = journal.update(run, news={"seen": [[("RUNNABLE", "STARTING")[number % 2], T + number]]})
    written.result()
    with sqlite3.connect(tmp_path / "state" / FILE_NAME) as connection:
        [(text,)] = connection.execute("SELECT story FROM runs").fetchall()
    assert len(text) < 5000
    assert only(tmp_path / "state").cpus == REQUEST.resources.cpus
    assert story.told(text)["seen"][-2:] == [["RUNNABLE", T + 498], ["STARTING", T + 499]]


def test_a_story_that_cannot_be_read_does_not_stop_its_run(journal, tmp_path):
    run = add(journal)
    with sqlite3.connect(tmp_path / "state" / FILE_NAME) as connection:
        connection.execute("UPDATE runs SET story = '{\"at'")
    assert only(tmp_path / "state").state is RunState.ACCEPTED
    journal.update(run, state=RunState.STAGED).result()
    assert only(tmp_path / "state").staged > 0


def test_runs_are_found_by_every_name_they_have(journal, tmp_path):
    directory = str(tmp_path / "state")
    one = add(journal, native_id="0f0e0d0c-0000-4000-8000-000000000001", state=RunState.SUBMITTED)
    add(journal, "12-4-bbbb", native_id="0f0e0d0c-0000-4000-8000-000000000002:7", state=RunState.SUBMITTED)
    add(journal, "112-3-cccc")
    for words in ("12.3", one.name, one.job_id, one.native_id, "host#12.3#1795000000", f" {one.name} "):
        assert [found.name for found in history.find(directory, words)] == [one.name], words
    assert [found.name for found in history.find(directory, "12")] == ["12-3-aaaa", "12-4-bbbb"]
    add(journal, "12-1-dddd")  # taken in last, as jobs of a cluster come in any order
    assert [found.name for found in history.find(directory, "12")] == ["12-1-dddd", "12-3-aaaa", "12-4-bbbb"]
    for words in ("0f0e0d0c-0000-4000-8000-000000000002:7", "0f0e0d0c-0000-4000-8000-000000000002"):
        assert [found.name for found in history.find(directory, words)] == ["12-4-bbbb"]
    for words in ("99", "12.30", "nobody", "x#1.2#3", "", "0f0e0d0c-0000-4000-8000-000000000009", "'; DROP TABLE runs"):
        assert history.find(directory, words) == []


def test_what_is_read_can_be_narrowed(journal, tmp_path):
    directory = tmp_path / "state"
    add(journal, "1-0-a", state=RunState.SUBMITTED)
    over = add(journal, "1-1-b", state=RunState.COLLECTING)
    journal.update(over, state=RunState.REMOVED, report=JobReport(JobState.REMOVED)).result()
    changed = only(directory, names=["1-1-b"]).changed
    assert [found.name for found in history.read(str(directory))] == ["1-0-a", "1-1-b"]
    assert [found.name for found in history.read(str(directory), live=True)] == ["1-0-a"]
    assert [found.name for found in history.read(str(directory), since=changed - 0.5)] == ["1-1-b"]
    assert [found.name for found in history.read(str(directory), live=True, since=changed - 0.5)] == ["1-0-a", "1-1-b"]
    assert [found.name for found in history.read(str(directory), live=True, since=changed + 0.5)] == ["1-0-a"]
    assert [found.name for found in history.read(str(directory), cluster=1, proc=0)] == ["1-0-a"]


def test_a_request_is_read_whole_and_a_run_that_is_not_there_is_refused(journal, tmp_path):
    add(journal)
    assert history.request(str(tmp_path / "state"), "12-3-aaaa") == REQUEST
    with pytest.raises(Refused, match="There is no run nobody"):
        history.request(str(tmp_path / "state"), "nobody")


def test_reading_while_a_gahp_writes_changes_nothing_in_its_directory(journal, tmp_path):
    add(journal)
    before = listing(tmp_path / "state")
    assert only(tmp_path / "state").name == "12-3-aaaa"
    assert listing(tmp_path / "state") == before


def test_reading_with_no_gahp_there_makes_no_file(tmp_path):
    journal = Journal(str(tmp_path / "state"))
    add(journal)
    journal.close()
    before = listing(tmp_path / "state")
    assert FILE_NAME + "-wal" not in os.listdir(tmp_path / "state")
    assert only(tmp_path / "state").name == "12-3-aaaa"
    assert listing(tmp_path / "state") == before


def test_what_a_killed_gahp_left_is_read_from_its_log_as_it_lies_there(tmp_path):
    program = f"""
        import os
        from gahp.journal import Journal
        from gahp.model import JobRequest
        from gahp.run import Run
        journal = Journal({str(tmp_path / "state")!r})
        journal.insert(Run("1-0-a", "d", "d", 0), JobRequest("/bin/true", "/")).result()
        os._exit(1)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    before = listing(tmp_path / "state")
    assert FILE_NAME + "-wal" in os.listdir(tmp_path / "state")
    assert only(tmp_path / "state").name == "1-0-a"
    assert listing(tmp_path / "state") == before


def test_a_log_without_its_index_is_read_from_a_copy(tmp_path):
    journal = Journal(str(tmp_path / "state"))
    add(journal)
    (tmp_path / "moved").mkdir()
    for end in ("", "-wal"):
        (tmp_path / "moved" / (FILE_NAME + end)).write_bytes((tmp_path / "state" / (FILE_NAME + end)).read_bytes())
    journal.close()
    before = listing(tmp_path / "moved")
    assert only(tmp_path / "moved").name == "12-3-aaaa"
    assert listing(tmp_path / "moved") == before


def test_who_has_the_journal_open_itself_keeps_its_locks_while_it_reads(journal, tmp_path):
    """As the meter of a GAHP does. Another process that could lock the file for itself alone would delete its log."""
    add(journal)
    state = tmp_path / "state"
    (state / "journal.sqlite-shm").rename(state / "hidden")
    with contextlib.suppress(Refused):
        history.tally(str(state))
    lock_alone = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)"
    tried = subprocess.run(
        [sys.executable, "-c", lock_alone, state / "journal.sqlite"], check=False, stderr=subprocess.PIPE, text=True
    )
    (state / "hidden").replace(state / "journal.sqlite-shm")
    assert "BlockingIOError" in tried.stderr


def test_readers_see_whole_states_while_gahps_come_and_go(tmp_path):
    """A journal that opens and closes all the time: read through its log, or as a file, or again."""
    program = f"""
        from gahp.journal import Journal
        from gahp.model import JobRequest
        from gahp.run import Run
        for number in range(40):
            journal = Journal({str(tmp_path / "state")!r})
            for proc in range(5):
                journal.insert(Run(f"{{number}}-{{proc}}-a", f"{{number}}-{{proc}}", "d", 0), JobRequest("/bin/true", "/"))
            journal.close()
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    counts = [0]
    while writer.poll() is None:
        counts.append(len(list(history.read(str(tmp_path / "state")))))
    assert writer.returncode == 0
    counts.append(len(list(history.read(str(tmp_path / "state")))))
    assert counts == sorted(counts)
    assert counts[-1] == 200


def test_no_journal_is_no_runs(tmp_path):
    assert list(history.read(str(tmp_path / "nowhere"))) == []
    assert history.find(str(tmp_path / "nowhere"), "1.0") == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 100), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000] + os.urandom(20000)), "is damaged"),
        (lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 99").connection.close(), "written by a newer version"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(tmp_path, damage, words):
    journal = Journal(str(tmp_path / "state"))
    for number in range(50):
        add(journal, f"{number}-0-a")
    journal.close()
    damage(tmp_path / "state" / FILE_NAME)
    with pytest.raises(Refused, match=words):
        list(history.read(str(tmp_path / "state")))


def test_a_journal_of_an_older_program_is_read_as_it_is(tmp_path):
    directory = tmp_path / "state"
    journal = Journal(str(directory))
    add(journal, state=RunState.SUBMITTED, native_id="id", sent=T + 1)
    journal.close()
    now = only(directory)
    with sqlite3.connect(directory / FILE_NAME) as connection:
        connection.executescript("DROP TABLE unasked; PRAGMA user_version = 3;")
    connection.close()
    assert only(directory) == now
    with sqlite3.connect(directory / FILE_NAME) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)  # as it was
        connection.executescript("DROP INDEX packed; DROP INDEX packed_before; PRAGMA user_version = 2;")
        for column in ("pack", "child", "earlier", "story"):
            connection.execute(f"ALTER TABLE runs DROP COLUMN {column}")
    connection.close()
    told = only(directory)
    assert (told.dag_node, told.cpus, told.accepted, told.sent, told.native_id) == ("B1", 2, T, T + 1, "id")
    journal = Journal(str(directory))  # which brings it up to date
    assert only(directory) == told
    journal.close()


def test_the_journals_of_all_users_are_found_where_the_users_name_is_a_part_of_the_place(tmp_path):
    import getpass

    places = [str(tmp_path / user / "state") for user in (getpass.getuser(), "nobody")]
    for place in places:
        Journal(place).close()
    found = history.neighbours(places[0])
    assert [directory for _, directory in found] == sorted(places)
    assert {user for user, _ in found} == {getpass.getuser()}  # whose files they are


def test_a_user_whom_the_system_does_not_know_looks_at_the_journal_he_names(tmp_path, monkeypatch):
    Journal(str(tmp_path / "state")).close()
    monkeypatch.setattr(history.os, "getuid", lambda: 3_999_999_999)
    [(_, directory)] = history.neighbours(str(tmp_path / "state"))
    assert directory == str(tmp_path / "state")


def test_batchs_own_answer_becomes_attempts():
    job = from_detail(
        {
            "jobId": "id",
            "jobName": "n",
            "status": "FAILED",
            "createdAt": 1000,
            "attempts": [
                {
                    "startedAt": 2000,
                    "stoppedAt": 3000,
                    "statusReason": "Host EC2 (instance i-1) terminated.",
                    "container": {
                        "containerInstanceArn": "a/b/host",
                        "logStreamName": "s",
                        "exitCode": 137,
                        "reason": "OutOfMemoryError",
                    },
                }
            ],
        }
    )
    assert job.created == 1.0
    assert job.past == (BatchAttempt(2.0, 3.0, 137, "Host EC2 (instance i-1) terminated.", "OutOfMemoryError", "s", "host"),)


def test_ten_thousand_runs_are_read(tmp_path):
    journal = Journal(str(tmp_path / "state"))
    news = of_batch(BatchJob("id", "n", "SUCCEEDED", started=T, stopped=T + 1, past=(BatchAttempt(T, T + 1),)), T + 2)
    for number in range(10_000):
        run = Run(f"1-{number}-a", str(number), "d", 0, RunState.COLLECTING, native_id="id", created=T + number)
        journal.insert(run, REQUEST)
        journal.update(run, news=news, state=RunState.COMPLETED, report=JobReport(JobState.COMPLETED, exit_code=0))
    journal.close()
    began = time.perf_counter()
    assert [told.proc for told in history.read(str(tmp_path / "state"))] == list(range(10_000))
    print(f"10,000 runs read in {time.perf_counter() - began:.2f} s")
