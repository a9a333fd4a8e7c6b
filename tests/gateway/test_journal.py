"""The journal on real files: what is written is there for the next process, whatever became of the last one."""

import contextlib
import dataclasses
import errno
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import pytest

from gahp import statedir
from gahp.database import FILE_NAME, replace
from gahp.journal import Conflict, Damaged, Journal, JournalProblem
from gahp.model import JobReport, JobRequest, JobState, Refused, Resources, encode
from gahp.run import MOVES, Run, RunState, Wanted
from gahp.statedir import file_system, trouble

FIRST_VERSION = """
CREATE TABLE runs (
    name TEXT PRIMARY KEY, directory TEXT NOT NULL, digest TEXT NOT NULL, generation INTEGER NOT NULL, state TEXT NOT NULL,
    wanted TEXT NOT NULL, submission INTEGER NOT NULL, native_id TEXT NOT NULL, queue TEXT NOT NULL, sent REAL NOT NULL,
    started INTEGER NOT NULL, confirmed INTEGER NOT NULL, predecessor TEXT NOT NULL, report TEXT, owner TEXT NOT NULL,
    created REAL NOT NULL, changed REAL NOT NULL, request TEXT NOT NULL);
CREATE UNIQUE INDEX one_generation ON runs (directory, generation) WHERE directory <> '';
CREATE INDEX live ON runs (owner) WHERE state NOT IN ('COMPLETED', 'HELD', 'REMOVED');
CREATE INDEX asked ON runs (owner) WHERE wanted <> 'RUN' AND state NOT IN ('COMPLETED', 'HELD', 'REMOVED');
CREATE INDEX over ON runs (changed) WHERE state IN ('COMPLETED', 'HELD', 'REMOVED');
PRAGMA user_version = 1;
"""

REQUEST = JobRequest(
    executable="/bin/ech\udcff",
    iwd="/tmp",
    arguments=("a b", "\udcfe", ""),
    environment=(("A", "1\n2"),),
    outputs=("x",),
    remaps=(("a", "b"),),
    resources=Resources(cpus=2, memory_mib=512),
)


def a_run(name="1-0-aaaa", directory="home_bl_x_1.0_5", generation=0, **more):
    return Run(name=name, directory=directory, digest="d", generation=generation, created=1795000000.0, **more)


@pytest.fixture
def journal(tmp_path):
    journal = Journal(str(tmp_path / "state"))
    yield journal
    journal.close()


def test_a_request_comes_back_as_it_was_with_every_byte(journal):
    journal.insert(a_run(), REQUEST).result()
    journal._lately.clear()  # from the file
    assert journal.request("1-0-aaaa") == REQUEST


def test_the_requests_recorded_last_are_remembered_so_many_and_no_large_ones(journal, monkeypatch):
    monkeypatch.setattr("gahp.journal._LATELY", 3)
    large = dataclasses.replace(REQUEST, arguments=("x" * 10_000,))
    runs = [a_run(f"1-{number}-a", f"home_bl_x_1.{number}_5") for number in range(5)]
    for run in runs:
        written = journal.insert(run, large if run is runs[4] else REQUEST)
    written.result()
    assert list(journal._lately) == [run.name for run in runs[1:4]]
    records = [journal.sealed(run, REQUEST) for run in runs[:4]]
    assert [journal.request(run.name) for run in runs] == [REQUEST] * 4 + [large]
    journal._lately.clear()
    assert [journal.sealed(run, REQUEST) for run in runs[:4]] == records


def test_a_run_comes_back_with_its_report(journal):
    run = a_run()
    journal.insert(run, REQUEST).result()
    for state in (RunState.STAGED, RunState.SUBMITTING, RunState.SUBMITTED, RunState.COLLECTING):
        journal.update(run, state=state)
    report = JobReport(JobState.COMPLETED, exit_code=7, user_cpu_s=1.5, native_id="x")
    journal.update(run, state=RunState.COMPLETED, report=report, native_id="x", started=True).result()
    assert journal.find("1-0-aaaa") == run
    assert journal.find("1-0-aaaa").report == report
    assert journal.find("nobody") is None


def test_the_job_id_has_batch_system_day_and_run(journal):
    assert a_run().job_id == "awsbatch/20261118/1-0-aaaa"


def test_a_move_that_the_table_does_not_allow_is_an_error_and_changes_nothing(journal):
    run = a_run()
    journal.insert(run, REQUEST).result()
    with pytest.raises(ValueError, match="ACCEPTED cannot become COMPLETED"):
        journal.update(run, state=RunState.COMPLETED)
    assert run.state is RunState.ACCEPTED


def test_every_state_but_the_final_ones_leads_to_a_final_one():
    for state in RunState:
        reached, edge = {state}, {state}
        while edge:
            edge = {after for before in edge for after in MOVES[before]} - reached
            reached |= edge
        assert any(each.final for each in reached)


def test_one_generation_of_a_job_directory_is_recorded_once(journal):
    journal.insert(a_run(), REQUEST).result()
    others = [journal.insert(a_run(name=f"other{n}", generation=n % 2), REQUEST) for n in range(4)]
    assert [isinstance(other.exception(), Conflict) for other in others] == [True, False, True, True]
    assert journal.newest("home_bl_x_1.0_5").name == "other1"


def test_runs_without_a_job_directory_are_all_their_own(journal):
    for n in range(3):
        journal.insert(a_run(name=f"n{n}", directory=""), REQUEST).result()
    assert journal.newest("") is None


def test_many_threads_write_at_once_and_nothing_is_lost(journal):
    def write(thread):
        for n in range(50):
            journal.insert(a_run(name=f"{thread}-{n}", directory=f"{thread}-{n}"), REQUEST).result()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.mine()) == 400


def test_file_and_folder_are_for_their_user_alone(tmp_path, journal):
    journal.insert(a_run(), REQUEST).result()
    state = tmp_path / "state"
    assert state.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {0o600}


def test_runs_of_a_gahp_that_was_killed_are_adopted_by_one_other_only(tmp_path):
    state = str(tmp_path / "state")
    program = f"""
        import os, signal
        from gahp.journal import Journal
        from gahp.model import JobRequest
        from gahp.run import Run
        journal = Journal({state!r})
        for n in range(3):
            run = Run(name=f"run{{n}}", directory=str(n), digest="", generation=0, created=1.0)
            journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
        print(journal.owner, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, stdout=subprocess.PIPE)
    first, second = Journal(state), Journal(state)
    try:
        assert {run.name for run in first.adopt()} == {"run0", "run1", "run2"}
        assert second.adopt() == []
        assert {run.name for run in first.mine()} == {"run0", "run1", "run2"}
    finally:
        first.close()
        second.close()
    assert [name for name in os.listdir(state) if name.startswith("owner-")] == []


LIVE_GAHP = """
    import os, signal, sys
    from gahp import history
    from gahp.journal import Journal
    from gahp.model import JobRequest
    from gahp.run import Run
    journal = Journal({state!r})
    def add(name):
        run = Run(name=name, directory=name, digest="", generation=0, created=1.0)
        journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
    add("before")
    history.tally({state!r})
    print("open", flush=True)
    sys.stdin.readline()
    add("after")
    os.kill(os.getpid(), signal.SIGKILL)
"""
OTHERS = {
    "an older GAHP that ends in good order": """
        from gahp.journal import Journal
        journal = Journal({state!r})
        print("open", flush=True)
        sys.stdin.readline()
        journal.close()
    """,
    "a command that looks into the journal": """
        print("open", flush=True)
        sys.stdin.readline()
        from gahp.journal import Journal
        journal = Journal({state!r})
        journal.find("before")
        journal.close()
    """,
    "a person with SQLite's shell": """
        print("open", flush=True)
        sys.stdin.readline()
        import sqlite3
        connection = sqlite3.connect({state!r} + "/journal.sqlite")
        connection.execute("SELECT * FROM runs").fetchall()
        connection.close()
    """,
}


def start(program, state):
    text = "import sys\n" + textwrap.dedent(program).format(state=state)
    process = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.parametrize("other", OTHERS)
def test_what_a_gahp_writes_behind_the_end_of_another_user_of_its_journal_is_not_lost(tmp_path, other):
    """Who closes a database last deletes its log: nobody may take himself for the last while a GAHP lives."""
    state = str(tmp_path)
    second = start(OTHERS[other], state)
    gahp = start(LIVE_GAHP, state)
    second.communicate("end\n")
    assert second.returncode == 0
    gahp.communicate("go on\n")
    journal = Journal(state)
    try:
        assert {run.name for run in journal.adopt()} == {"before", "after"}
    finally:
        journal.close()


def test_runs_that_two_gahps_find_at_the_same_time_go_to_one_of_them(tmp_path):
    """The dead one ended in good order, so no lock of its own decides between its heirs."""
    dead = Journal(str(tmp_path))
    for n in range(20):
        dead.insert(a_run(name=f"r{n}", directory=str(n)), REQUEST).result()
    dead.close()
    heirs = [Journal(str(tmp_path)) for _ in range(4)]
    meet, found = threading.Barrier(4), []
    for heir in heirs:
        select = heir._select

        def together(where, parameters, select=select):
            rows = select(where, parameters)
            if rows and parameters == (dead.owner,):
                meet.wait(10)
            return rows

        heir._select = together
    threads = [threading.Thread(target=lambda heir=heir: found.append([run.name for run in heir.adopt()])) for heir in heirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for heir in heirs:
        heir.close()
    assert sorted(name for names in found for name in names) == sorted(f"r{n}" for n in range(20))


def test_what_concerns_a_run_that_is_there_is_kept_in_order_until_the_disk_takes_it(journal, monkeypatch):
    run = a_run()
    journal.insert(run, REQUEST).result()
    transact, full = journal._transact, [True]

    def refuse(group):
        if full[0]:
            raise sqlite3.OperationalError("database or disk is full")
        transact(group)

    monkeypatch.setattr(journal, "_transact", refuse)
    moves = [journal.update(run, state=state) for state in (RunState.STAGED, RunState.SUBMITTING, RunState.SUBMITTED)]
    with pytest.raises(JournalProblem, match=r"cannot be written: database or disk is full\. See AWSBATCH_STATE_DIR"):
        journal.insert(a_run(name="new", directory="new"), REQUEST).result()
    with pytest.raises(JournalProblem, match="disk is full"):
        journal.check()
    assert not any(move.done() for move in moves)
    full[0] = False
    for move in moves:
        move.result(10)
    journal.check()
    assert journal.find(run.name).state is RunState.SUBMITTED
    assert journal.find("new") is None


def test_runs_of_a_gahp_that_lives_are_left_to_it_and_asked_for_through_the_journal(tmp_path):
    first, second = Journal(str(tmp_path)), Journal(str(tmp_path))
    try:
        run = a_run()
        first.insert(run, REQUEST).result()
        assert second.adopt() == []
        second.ask(run.name, Wanted.REMOVE).result()
        assert second.wanted_changes() == []
        assert first.wanted_changes() == [(run.name, Wanted.REMOVE)]
        first.update(run, wanted=Wanted.REMOVE).result()
        assert first.wanted_changes() == []
    finally:
        first.close()
        second.close()


def test_runs_that_were_taken_over_before_the_disk_was_full_are_told_when_it_is_not(tmp_path, monkeypatch):
    for n in range(3):
        dead = Journal(str(tmp_path))
        dead.insert(a_run(name=f"r{n}", directory=str(n)), REQUEST).result()
        dead.close()
    heir = Journal(str(tmp_path))
    write, told = heir._write, []

    def fill(sql, values, *, keep=True):
        if len(told) == 1:
            told.append(sql)
            raise JournalProblem("database or disk is full")
        told.append(sql)
        return write(sql, values, keep=keep)

    monkeypatch.setattr(heir, "_write", fill)
    with pytest.raises(JournalProblem):
        heir.adopt()
    assert sorted(run.name for run in heir.adopt()) == ["r0", "r1", "r2"]
    assert heir.adopt() == []
    heir.close()


def test_a_removal_that_another_gahp_has_asked_for_is_told_until_it_is_on_disk_as_wanted(tmp_path):
    """It was heard, and a hold refused at the same moment: whoever dies then leaves it to the next."""
    first, second = Journal(str(tmp_path)), Journal(str(tmp_path))
    run = a_run()
    first.insert(run, REQUEST).result()
    second.ask(run.name, Wanted.REMOVE).result()
    first.wanted_changes()
    first.update(run, wanted=Wanted.RUN).result()
    first.close()
    try:
        assert [adopted.name for adopted in second.adopt()] == [run.name]
        assert second.wanted_changes() == [(run.name, Wanted.REMOVE)]
    finally:
        second.close()


def test_only_finished_runs_are_forgotten(tmp_path):
    now = [1000.0]
    journal = Journal(str(tmp_path), clock=lambda: now[0])
    try:
        done, live = a_run(name="done", directory="1"), a_run(name="live", directory="2")
        for run in (done, live):
            journal.insert(run, REQUEST)
        journal.update(done, state=RunState.REMOVED).result()
        now[0] = 2000.0
        assert journal.forget(500.0)
        journal.check()  # behind what was written before
        assert journal.find("done") is not None  # something of it is in S3 still
        now[0] = 1000.0
        journal.update(done, discarded=True).result()
        now[0] = 2000.0
        assert journal.forget(2000.0)
        journal.check()  # behind what was written before
        assert journal.find("done") is not None
        assert journal.forget(500.0)
        journal.check()  # behind what was written before
        assert journal.find("done") is None
        assert journal.find("live") is not None
    finally:
        journal.close()


def test_very_many_runs_are_forgotten_a_bounded_number_at_a_time(tmp_path):
    journal = Journal(str(tmp_path))
    try:
        for n in range(5):
            journal.insert(a_run(name=f"r{n}", directory=str(n), state=RunState.REMOVED, discarded=True), REQUEST).result()
        assert [(journal.forget(-60.0, at_once=2), journal.check())[0] for _ in range(3)] == [False, False, True]
        assert [journal.find(f"r{n}") for n in range(5)] == [None] * 5
    finally:
        journal.close()


def test_a_journal_of_a_newer_version_is_refused_with_a_sentence(tmp_path):
    Journal(str(tmp_path)).close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(Refused, match=r"newer version of this program \(schema 99, .*\): use that version\.$"):
        Journal(str(tmp_path))


def test_a_journal_of_the_first_version_is_brought_up_to_date(tmp_path):
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.executescript(FIRST_VERSION)
    row = ("old", "dir", "d", 0, "SUBMITTED", "RUN", 0, "id", "q", 5.0, 1, 1, "", None, "gone", 1.0, 2.0, encode(REQUEST))
    connection.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(row))})", row)
    connection.commit()
    connection.close()
    journal = Journal(str(tmp_path))
    try:
        (run,) = journal.adopt()
        assert (run.name, run.state, run.native_id, run.sends, run.discarded) == ("old", RunState.SUBMITTED, "id", 0, False)
        assert (run.pack, run.child, run.earlier, run.packs) == ("", 0, "", [])
        assert journal.request("old") == REQUEST
        new = a_run(name="new")
        journal.insert(new, REQUEST).result()
        assert journal.find("new") == new
    finally:
        journal.close()
    Journal(str(tmp_path)).close()


def test_a_journal_from_before_it_was_counted_whom_htcondor_passes_over_counts_from_now_on(tmp_path):
    journal = Journal(str(tmp_path))
    run = a_run()
    journal.insert(run, REQUEST).result()
    journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.executescript("DROP TABLE unasked; PRAGMA user_version = 3;")
    journal = Journal(str(tmp_path))
    try:
        assert (journal.find(run.name), journal.unasked()) == (run, {})
        journal.heed(set(), [run.name], 600.0)
        journal.check()
        assert journal.unasked() == {run.name: 600.0}
    finally:
        journal.close()


def test_what_htcondor_passes_over_is_counted_on_by_the_next_gahp_and_one_question_to_any_gahp_ends_it(tmp_path):
    one, other = Journal(str(tmp_path)), Journal(str(tmp_path))
    try:
        for journal in (one, other, one):
            journal.heed({"x"}, ["a", "b"], 600.0)
            journal.check()
        assert one.unasked() == {"a": 1800.0, "b": 1800.0}
        other.heed({"a"}, [], 600.0)
        other.check()
        one.heed({"x"}, ["a", "b"], 600.0)
        one.check()
        assert other.unasked() == {"a": 600.0, "b": 2400.0}
    finally:
        one.close()
        other.close()


def test_of_a_run_that_is_over_nothing_is_counted_for_ever(tmp_path):
    journal = Journal(str(tmp_path))
    try:
        live, over = a_run(), a_run(name="over", directory="d", state=RunState.REMOVED)
        for run in (live, over):
            journal.insert(run, REQUEST).result()
        journal.heed(set(), [live.name, over.name], 600.0)
        journal.check()
        assert journal.forget(1e12)
        journal.check()
        assert set(journal.unasked()) == {live.name}
    finally:
        journal.close()


def test_a_hundred_thousand_runs_that_are_passed_over_are_one_write_and_none_when_all_are_asked_about(tmp_path):
    journal = Journal(str(tmp_path))
    try:
        written = []
        transact = journal._transact
        journal._transact = lambda group: (written.append(len(group)), transact(group))
        names = [f"{n}-0-abcdefghijklmnop" for n in range(100_000)]
        journal.heed(set(names), [], 600.0)
        journal.check()
        journal.heed(set(), names, 600.0)
        journal.check()
        assert sum(written) == 3  # two of them are the checks'
        assert len(journal.unasked()) == 100_000
    finally:
        journal.close()


def test_a_journal_that_is_no_database_is_damaged_and_stays_so_until_it_is_made_anew(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"this is no database at all, but it is long enough to be one" * 100)
    with pytest.raises(Damaged, match="is damaged: file is not a database"):
        Journal(str(tmp_path))
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(Damaged, match="is damaged"):
        Journal(str(tmp_path))


def test_that_a_journal_is_damaged_and_that_it_is_not_any_more_is_on_disk(tmp_path, monkeypatch):
    """Else a power cut brings the mark back, and what has been recorded since in the new one is taken for damaged."""
    synced = []
    monkeypatch.setattr(statedir, "sync", lambda directory: synced.append(statedir.DAMAGE_FILE in os.listdir(directory)))
    statedir.note_damage(str(tmp_path))
    replace(str(tmp_path), [], 0.0)
    assert synced == [True, False]
    Journal(str(tmp_path)).close()


def test_damage_that_turns_up_later_is_told_once_and_noted(tmp_path):
    told = []
    journal = Journal(str(tmp_path), on_damage=told.append)
    try:
        for n in range(200):
            journal.insert(a_run(name=f"r{n}", directory=str(n)), REQUEST)
        journal.check()
        journal._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = (tmp_path / FILE_NAME).stat().st_size
        with open(tmp_path / FILE_NAME, "r+b") as file:
            file.seek(4096)
            file.write(os.urandom(size - 4096))
        for _ in range(2):
            with pytest.raises(JournalProblem, match="malformed"):
                journal.adopt()
                journal.mine()
                journal.find("r1")
    finally:
        journal.close()
    (sentence,) = told
    assert sentence.startswith(f"The journal {tmp_path / FILE_NAME} is damaged (database disk image is malformed)")
    with pytest.raises(Damaged):
        Journal(str(tmp_path))


def test_nobody_is_answered_by_what_fails_of_damage_before_that_is_told(tmp_path, monkeypatch):
    """Who is told ends the program; what was answered before would be taken at its word."""
    answered, written = [], threading.Event()

    def told(_):
        journal.update(run, confirmed=True).add_done_callback(lambda done: written.set())
        answered.append(written.wait(0.5))

    def malformed(*_):
        raise sqlite3.DatabaseError("database disk image is malformed")

    journal, run = Journal(str(tmp_path), on_damage=told), a_run()
    try:
        journal.insert(run, REQUEST).result()
        monkeypatch.setattr(journal, "_transact", malformed)
        monkeypatch.setattr(journal, "_reader", SimpleNamespace(execute=malformed, close=journal._reader.close))
        with pytest.raises(JournalProblem):
            journal.find(run.name)
        assert written.wait(10)
    finally:
        journal.close()
    assert answered == [False]


def test_damage_that_cannot_be_noted_is_told_when_it_can(tmp_path, monkeypatch):
    """Until then this GAHP stays: the next one might take the file for sound."""
    told = []
    journal = Journal(str(tmp_path), on_damage=told.append)
    try:
        journal._writer.execute("DROP TABLE runs")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(
                JournalProblem, match=r"is damaged \(no such table: runs\), and that cannot be noted: .* \(No space left"
            ):
                journal.mine()
            with pytest.raises(JournalProblem, match="cannot be noted"):
                journal.insert(a_run(), REQUEST).result()
        assert told == []
        with pytest.raises(JournalProblem, match="cannot be read: no such table"):
            journal.mine()
        assert len(told) == 1
    finally:
        journal.close()
    with pytest.raises(Damaged):
        Journal(str(tmp_path))


def full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_no_file_behind_and_the_sentence_names_the_directory(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                Journal(str(tmp_path))
    assert f"cannot be used: the directory {tmp_path} cannot be written (No space left on device). See" in str(refused.value)
    assert os.listdir(tmp_path) == ["journal.lock"]


def test_the_identity_is_made_once_and_only_read_from_then_on(tmp_path, monkeypatch):
    Journal(str(tmp_path)).close()
    before = (tmp_path / "journal.id").read_bytes()
    made = []
    monkeypatch.setattr("gahp.statedir._make_identity", made.append)
    journal = Journal(str(tmp_path))
    journal.close()
    assert (made, (tmp_path / "journal.id").read_bytes()) == ([], before)


@pytest.mark.parametrize(
    ("directory", "name", "clause"),
    [
        ("file", None, "{0}/file is not a directory"),
        ("file/below", "file/below", "{0}/file is not a directory"),
        ("there", "there/journal.id.7dbd0350", "the directory {0}/there cannot be written (Permission denied)"),
        ("there", None, "the directory {0}/there cannot be written (Permission denied)"),
        ("there", "there/journal.lock", "{0}/there/journal.lock cannot be opened (Permission denied)"),
        ("there/not", "there/not", "the directory {0}/there/not cannot be made (Permission denied)"),
    ],
)
def test_what_is_wrong_with_the_directory_is_said_without_names_that_are_gone(tmp_path, directory, name, clause):
    (tmp_path / "file").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/journal.lock").touch()
    error = OSError(errno.EACCES, os.strerror(errno.EACCES), *([str(tmp_path / name)] if name else []))
    assert trouble(str(tmp_path / directory), error) == clause.format(tmp_path)


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.glusterfs", "virtiofs"])
def test_a_journal_on_a_network_file_system_is_refused_with_what_to_set(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("gahp.statedir.file_system", lambda path, mounts: kind)
    with pytest.raises(Refused, match=rf"network file system \({kind}\): set AWSBATCH_STATE_DIR"):
        Journal(str(tmp_path))
    assert not (tmp_path / FILE_NAME).exists()


def test_the_file_system_of_a_path_is_that_of_the_innermost_and_latest_mount():
    text = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw shared:2 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/with\\040blank rw - xfs /dev/sdb rw
32 22 0:42 / /home2 rw - btrfs /dev/sdc rw
33 22 0:43 / /home2 rw - cifs //server/x rw
nonsense
"""
    asked = ["/etc", "/home", "/home/u/.local", "/home/with blank/x", "/home2/x", "/homely"]
    assert [file_system(path, text) for path in asked] == ["ext4", "nfs4", "nfs4", "xfs", "cifs", "ext4"]


def test_a_journal_that_somebody_keeps_locked_is_told_as_such(tmp_path, monkeypatch):
    journal = Journal(str(tmp_path))
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    try:
        journal._writer.execute("PRAGMA busy_timeout = 50")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalProblem, match="cannot be written: database is locked"):
            journal.check()
        other.execute("ROLLBACK")
        journal.check()
    finally:
        other.close()
        journal.close()


def test_a_journal_that_has_become_read_only_is_told_as_such(tmp_path):
    """SQLite's own switch stands for a file system that was remounted: the same error."""
    journal = Journal(str(tmp_path))
    try:
        journal._writer.execute("PRAGMA query_only = 1")
        with pytest.raises(JournalProblem, match="cannot be written: attempt to write a readonly database"):
            journal.insert(a_run(), REQUEST).result()
        journal._writer.execute("PRAGMA query_only = 0")
        journal.insert(a_run(), REQUEST).result()
    finally:
        journal.close()


def test_a_write_that_the_disk_refuses_fails_alone_and_says_so(tmp_path):
    journal = Journal(str(tmp_path))
    try:
        journal.insert(a_run(name="before", directory="1"), REQUEST).result()
        # SQLite's own limit stands for a full disk: the same error, "database or disk is full".
        pages = journal._writer.execute("PRAGMA page_count").fetchone()[0]
        journal._writer.execute(f"PRAGMA max_page_count = {pages}")
        big = JobRequest(executable="/bin/true", iwd="/", arguments=("x" * 500_000,))
        with pytest.raises(JournalProblem, match="disk is full"):
            journal.insert(a_run(name="big", directory="2"), big).result()
        journal._writer.execute("PRAGMA max_page_count = 1000000")
        journal.insert(a_run(name="after", directory="3"), REQUEST).result()
        assert {run.name for run in journal.mine()} == {"before", "after"}
    finally:
        journal.close()
