"""Reads what journals tell of their runs, for people and reports, without disturbing the GAHPs that write them.

Nothing is created, changed or locked: it works while GAHPs run, when none does, on what a dead one left, and on a directory that
may only be read. Knows the journal's columns and the text of a story; nothing of AWS.

    read(directory)                every run of a user, oldest first; or of a cluster, or those that are not over, or lately
    find(directory, words)         the runs that `words` may mean: 12.0, 12, a run's name, a job id, an id of AWS Batch
    request(directory, name)       all that one run asked for
    exists(directory)              whether there is a journal at all
    condor_id(name)                HTCondor's id in the name of a run
    neighbours(directory)          the journals of all users that may be read here

All of them raise Refused with one sentence when a journal is there but cannot be read; where there is none, there are no runs.
Times are seconds since the epoch, 0.0 where there is none; figures nobody gave are None; texts nobody gave are "".
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import pwd
import re
import shutil
import sqlite3
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gahp import story
from gahp.database import FILE_NAME, SCHEMA_VERSION, is_damage, newer, open_here
from gahp.model import JobRequest, Refused, decode_request
from gahp.run import RunState, Wanted, day

_OVER = "('COMPLETED', 'HELD', 'REMOVED')"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(:[0-9]{1,5})?")
_ID_BEGINS = re.compile(r"[0-9a-f]{8}(-[0-9a-f-]{0,26})?")
_CONDOR = re.compile(r"([0-9]{1,10})-([0-9]{1,10})-")
_STATES = {state.value: state for state in RunState}
_WANTED = {wanted.value: wanted for wanted in Wanted}
_TRIES = 100
_PAUSE_S = 0.05
# The step in which a run of that state is: trouble with another one is past.
_STEPS = {
    RunState.ACCEPTED: {"stage"},
    RunState.STAGED: {"submit"},
    RunState.SUBMITTING: {"submit", "look up"},
    RunState.SUBMITTED: {"terminate", "cancel"},
    RunState.COLLECTING: {"collect"},
}


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One start of the container. `stopped` is 0.0 while it runs; `waited` and `starting` are when Batch was first seen to have
    the job RUNNABLE and STARTING before this start (to the poll interval; 0.0 if that was never seen)."""

    started: float = 0.0
    stopped: float = 0.0
    waited: float = 0.0
    starting: float = 0.0
    exit_code: int | None = None
    status_reason: str = ""
    container_reason: str = ""
    log_stream: str = ""
    worker: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """One run, from its acceptance on.

    `owner` is the job's owner where the schedd passes it on, `user` whose journal this is read from. `status` is Batch's last
    word for the job as the GAHP saw it, `since` when it began. `moves` says when the run last came into each of its states.
    `attempts` are those that are over and the one that runs, oldest first. `cpus` and `memory_mib` are what the job asked, or,
    when it did not, what the job definition gave it. `trouble` is what keeps the run from its next step just now.
    """

    name: str
    job_id: str
    condor_id: str
    state: RunState
    wanted: Wanted = Wanted.RUN
    native_id: str = ""
    batch_name: str = ""
    queue: str = ""
    queue_arn: str = ""
    generation: int = 0
    submission: int = 0
    sends: int = 0
    confirmed: bool = False
    user: str = ""
    owner: str = ""
    global_job_id: str = ""
    dag: int | None = None
    dag_node: str = ""
    condor_batch_name: str = ""
    executable: str = ""
    project: str = ""
    accepted: float = 0.0
    staged: float = 0.0
    sent: float = 0.0
    submitted: float = 0.0
    created: float = 0.0
    started: float = 0.0
    stopped: float = 0.0
    collecting: float = 0.0
    over: float = 0.0
    changed: float = 0.0
    moves: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seen: tuple[tuple[str, float], ...] = ()
    status: str = ""
    since: float = 0.0
    status_reason: str = ""
    container_reason: str = ""
    attempts: tuple[Attempt, ...] = ()
    cpus: int | None = None
    memory_mib: int | None = None
    gpus: int | None = None
    runtime_s: int | None = None
    peak_memory_mib: int | None = None
    disk_kib: int | None = None
    user_cpu_s: float | None = None
    system_cpu_s: float | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None
    program_started: float = 0.0
    program_finished: float = 0.0
    exit_code: int | None = None
    exit_signal: int | None = None
    out_of_memory: bool = False
    phase: str = ""
    hold_reason: str = ""
    hold_code: int = 0
    worker: str = ""
    log_stream: str = ""
    trouble: str = ""
    trouble_step: str = ""
    trouble_since: float = 0.0

    @property
    def final(self) -> bool:
        return self.state.final

    @property
    def cluster(self) -> int:
        """0 when HTCondor's id is not known."""
        return int(self.condor_id.partition(".")[0] or 0)

    @property
    def proc(self) -> int:
        return int(self.condor_id.partition(".")[2] or 0)

    @property
    def restarts(self) -> int:
        return max(0, len(self.attempts) - 1)


def read(
    directory: str,
    *,
    cluster: int | None = None,
    proc: int | None = None,
    live: bool = False,
    since: float = 0.0,
    names: Iterable[str] | None = None,
    user: str = "",
) -> Iterator[History]:
    """The runs of the journal in `directory`, in the order of their acceptance.

    `cluster`, `proc`: those of that HTCondor job. `live`: those that are not over. `since`: those that changed after that moment.
    `live` and `since`: those that are not over and those that changed. `names`: those runs, some hundreds at most. They are
    all read before the first comes out: the journal is not kept open.
    """
    where: list[str] = ["1"]
    values: list[str | float] = []
    if cluster is not None:
        where.append("name GLOB ?")
        values.append(f"{cluster:d}-{'*' if proc is None else f'{proc:d}-*'}")
    either = [f"state NOT IN {_OVER}"] if live else []
    if since:
        either.append("changed > ?")
        values.append(since)
    if either:
        where.append(f"({' OR '.join(either)})")
    if names is not None:
        wanted = list(names)
        where.append(f"name IN ({', '.join('?' * len(wanted))})")
        values += wanted
    for row in _rows(directory, f"WHERE {' AND '.join(where)}", values):
        yield _history(row, user)


def find(directory: str, words: str, user: str = "") -> list[History]:
    """The runs that `words` may mean, of each job the oldest first.

    They are CLUSTER or CLUSTER.PROC of HTCondor, a GlobalJobId, a job id of the GAHP, the name of a run, the id of a job of
    AWS Batch or its first 8 characters or more.
    """
    words = words.strip()
    if not words.isascii():
        return []  # no id is; nor can SQLite be asked for what is no text at all
    # Eight digits may be both.
    if (found := re.fullmatch(r"([0-9]{1,10})(?:\.([0-9]{1,10}))?", words)) and (
        same := list(read(directory, cluster=int(found[1]), proc=int(found[2]) if found[2] else None, user=user))
    ):
        return sorted(same, key=lambda run: run.proc)
    if found := re.fullmatch(r"[^#]+#([0-9]{1,10})\.([0-9]{1,10})#[0-9]+", words):
        runs = read(directory, cluster=int(found[1]), proc=int(found[2]), user=user)
        return [history for history in runs if history.global_job_id in ("", words)]
    if _ID_BEGINS.fullmatch(words):
        rows = _rows(directory, "WHERE native_id GLOB ?", [words + "*"])
    elif _ID.fullmatch(words):
        rows = _rows(directory, "WHERE native_id = ? OR substr(native_id, 1, 37) = ? || ':'", [words, words])
    else:
        rows = _rows(directory, "WHERE name = ?", [words.rpartition("/")[2]])
    return [_history(row, user) for row in rows]


def request(directory: str, name: str) -> JobRequest:
    """All that the run of that name asked for. Raises Refused if it is not there."""
    sql = "SELECT request FROM runs WHERE name = ?"
    rows = _look(directory, lambda connection, _: connection.execute(sql, (name,)).fetchall())
    if not rows:
        raise Refused(f"There is no run {name} in the journal in {directory}.")
    return decode_request(rows[0][0])


def exists(directory: str) -> bool:
    """Whether a journal lies there, sound or not."""
    return _marks(os.path.join(directory, FILE_NAME)) is not None


def condor_id(name: str) -> str:
    """HTCondor's id of the run of that name, as 12.3; "" if it has none."""
    found = _CONDOR.match(name)
    return f"{found[1]}.{found[2]}" if found else ""


def neighbours(directory: str) -> list[tuple[str, str]]:
    """User and directory of every journal of this host that may be read, this one among them.

    `directory` is this user's AWSBATCH_STATE_DIR: the others are looked for in the same place of their homes, or, where the
    user's name is a part of it, beside it. A user whom the system does not know, as in a container, has neither.
    """
    name, home = _me()
    if home and directory.startswith(home + "/"):
        places = {os.path.join(entry.pw_dir, directory[len(home) + 1 :]) for entry in pwd.getpwall()}
    else:
        parts = ["*" if name and part == name else glob.escape(part) for part in directory.split("/")]
        places = set(glob.glob("/".join(parts)))
    found = []
    for place in {*places, directory}:
        path = os.path.join(place, FILE_NAME)
        with contextlib.suppress(OSError):
            owner = os.stat(path).st_uid
            if os.access(path, os.R_OK):
                found.append((_user(owner), place))
    return sorted(found)


def tally(directory: str) -> dict[str, int]:
    """How many runs are in each state, by its word in small letters; SUBMITTED ones are `running` or `waiting` in AWS Batch."""
    sql = "SELECT state, started, COUNT(*) FROM runs GROUP BY state, started"
    counts = {state.value.lower(): 0 for state in RunState if state is not RunState.SUBMITTED} | {"waiting": 0, "running": 0}
    for state, started, count in _look(directory, lambda connection, _: connection.execute(sql).fetchall()):
        word = ("running" if started else "waiting") if state == RunState.SUBMITTED.value else state.lower()
        counts[word] = counts.get(word, 0) + count
    return counts


def size(directory: str) -> int:
    """Bytes of the journal's files."""
    total = 0
    for end in ("", "-wal"):
        with contextlib.suppress(OSError):
            total += os.stat(os.path.join(directory, FILE_NAME + end)).st_size
    return total


def _me() -> tuple[str, str]:
    """This user's name and home."""
    try:
        me = pwd.getpwuid(os.getuid())
    except KeyError:
        return "", ""
    return me.pw_name, me.pw_dir.rstrip("/")


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


# Reading

_Rows = list[tuple[Any, ...]]
_COLUMNS = (
    "name, state, wanted, native_id, queue, generation, submission, {sends}, confirmed, created, changed, sent, report, {story},"
    " CASE WHEN {story} = '' THEN request ELSE '' END"
)


def _rows(directory: str, where: str, values: Sequence[str | float]) -> _Rows:
    def look(connection: sqlite3.Connection, version: int) -> _Rows:
        # A journal that no newer GAHP has opened yet has its older form.
        columns = _COLUMNS.format(story="story" if version >= 3 else "''", sends="sends" if version >= 2 else "0")
        return connection.execute(f"SELECT {columns} FROM runs {where} ORDER BY created, name", values).fetchall()

    return _look(directory, look)


def _look(directory: str, look: Callable[[sqlite3.Connection, int], _Rows]) -> _Rows:
    """What `look` finds with a connection that only reads, and the version of the schema; nothing where there is no journal.

    With SQLite's log beside it (a GAHP runs, or died) the journal is read through it, with a look at its index and no more
    (sqlite.org/wal.html, "Read-Only Databases"). Without one nobody has it open, and it is read as a file that does not change;
    should it change all the same, the look is taken again.
    """
    path = os.path.join(directory, FILE_NAME)
    problem: sqlite3.Error | None = None
    for _ in range(_TRIES):
        before = _marks(path)
        if before is None:
            return []
        try:
            with contextlib.ExitStack() as stack:
                if os.path.realpath(path) in open_here:
                    # To copy the file, or to read it without locks, would take the locks away from who works with it here.
                    place, how = path, "mode=ro&readonly_shm=1"
                elif before.logged and not before.indexed:
                    # As a GAHP leaves it for a moment when it comes or goes, or for good if it dies then.
                    place, how = _copy(path, stack.enter_context(tempfile.TemporaryDirectory(prefix="awsbatch-"))), "mode=rw"
                else:
                    place, how = path, "mode=ro&readonly_shm=1" if before.logged else "mode=ro&immutable=1"
                connection = sqlite3.connect(f"file:{urllib.parse.quote(place)}?{how}", uri=True, timeout=10)
                stack.callback(connection.close)
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version > SCHEMA_VERSION:
                    raise newer(directory, version)
                rows = look(connection, version) if version else []
            if before.indexed or before == _marks(path):
                return rows
        except (sqlite3.Error, FileNotFoundError) as error:
            problem = error if isinstance(error, sqlite3.Error) else None
            lasting = problem is not None and (is_damage(problem) or not os.access(path, os.R_OK))
            if lasting and before == _marks(path):
                break
        time.sleep(_PAUSE_S)  # a GAHP is just making or removing its log
    if problem is not None:
        raise _unreadable(path, problem) from problem
    raise Refused(f"The journal {path} is being written all the time: try again.")


def _copy(path: str, folder: str) -> str:
    place = os.path.join(folder, FILE_NAME)
    for end in ("", "-wal"):
        shutil.copyfile(path + end, place + end)
    return place


class _Marks(NamedTuple):
    """What changes when somebody writes a journal that nobody had open; whether SQLite's log and its index are there."""

    inode: int
    changed: int
    size: int
    logged: bool
    indexed: bool


def _marks(path: str) -> _Marks | None:
    try:
        found = os.stat(path)
        log, index = os.path.exists(path + "-wal"), os.path.exists(path + "-shm")
        return _Marks(found.st_ino, found.st_mtime_ns, found.st_size, log, log and index)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"The journal {path} cannot be read: {error.strerror}.") from error


def _unreadable(path: str, error: sqlite3.Error) -> Refused:
    if is_damage(error):
        return Refused(f"The journal {path} is damaged ({error}): the next GAHP of its user makes it anew from S3 and AWS Batch.")
    if not os.access(path, os.R_OK):
        return Refused(f"The journal {path} cannot be read: it belongs to {_user(os.stat(path).st_uid)}.")
    return Refused(f"The journal {path} cannot be read: {error}.")


# From a row to a History


def _history(row: tuple[Any, ...], user: str) -> History:
    name, state, wanted, native_id, queue, generation, submission, sends, confirmed = row[:9]
    created, changed, sent, report_text, told_text, request_text = row[9:]
    told = _told(told_text, request_text, state, created)
    job, at, batch, record = (_part(told, key) for key in ("job", "at", "batch", "record"))
    report: dict[str, Any] = json.loads(report_text) if report_text else {}
    state, wanted = _STATES[state], _WANTED[wanted]
    seen = tuple((str(word), float(when)) for word, when in told.get("seen") or ())
    # A new submission has a Batch job of its own: what was said of the one before is not about it.
    if batch.get("id") != native_id:
        batch, seen = {}, ()
    step, trouble, since = "", "", 0.0
    if told.get("trouble") and told["trouble"][1] in _STEPS.get(state, ()):
        since, step, trouble = told["trouble"]
    return History(
        name=name,
        job_id=f"awsbatch/{day(created)}/{name}",
        condor_id=condor_id(name),
        state=state,
        wanted=wanted,
        native_id=native_id,
        batch_name=name if submission == 0 else f"{name}-{submission}",
        queue=queue.rpartition("/")[2],
        queue_arn=queue if queue.startswith("arn:") else "",
        generation=generation,
        submission=submission,
        sends=sends,
        confirmed=bool(confirmed),
        user=user,
        owner=job.get("owner", ""),
        global_job_id=job.get("id", ""),
        dag=job.get("dag"),
        dag_node=job.get("node", ""),
        condor_batch_name=job.get("batch_name", ""),
        executable=job.get("executable", ""),
        project=job.get("project", ""),
        accepted=created,
        staged=at.get("STAGED", 0.0),
        sent=at.get("SUBMITTING", sent),
        submitted=at.get("SUBMITTED", 0.0),
        created=batch.get("created", 0.0),
        started=batch.get("started", 0.0),
        stopped=batch.get("stopped", 0.0),
        collecting=at.get("COLLECTING", 0.0),
        over=at.get(state.value, changed) if state.final else 0.0,
        changed=changed,
        moves=at,
        seen=seen,
        status=batch.get("status", ""),
        since=seen[-1][1] if seen else 0.0,
        status_reason=batch.get("status_reason", ""),
        container_reason=batch.get("container_reason", ""),
        attempts=_attempts(batch, seen, record),
        cpus=job.get("cpus", batch.get("cpus")),
        memory_mib=job.get("memory_mib", batch.get("memory_mib")),
        gpus=job.get("gpus"),
        runtime_s=job.get("runtime_s"),
        peak_memory_mib=record.get("peak_memory_mib"),
        disk_kib=record.get("disk_kib"),
        user_cpu_s=record.get("user_cpu_s", report.get("user_cpu_s")),
        system_cpu_s=record.get("system_cpu_s", report.get("system_cpu_s")),
        bytes_sent=record.get("bytes_sent", report.get("bytes_sent")),
        bytes_received=record.get("bytes_received", report.get("bytes_received")),
        program_started=record.get("started", 0.0),
        program_finished=record.get("finished", 0.0),
        exit_code=report.get("exit_code") if report else record.get("exit_code"),
        exit_signal=report.get("exit_signal") if report else record.get("exit_signal"),
        out_of_memory=bool(record.get("oom")) or batch.get("container_reason", "").startswith("OutOfMemory"),
        phase=record.get("phase", ""),
        hold_reason=report.get("hold_reason", ""),
        hold_code=report.get("hold_code", 0),
        worker=batch.get("worker", report.get("worker", "")),
        log_stream=batch.get("log_stream", ""),
        trouble=trouble,
        trouble_step=step,
        trouble_since=since,
    )


def _told(text: str, request_text: str, state: str, created: float) -> Mapping[str, Any]:
    """The story; for a run that an older program recorded, what its request would have begun it with."""
    if text:
        return story.told(text)
    if request_text:
        value = story.told(story.begin(decode_request(request_text), state, created))
        value["at"] = {"ACCEPTED": created}
        return value
    return {}


def _part(told: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = told.get(key)
    return value if isinstance(value, dict) else {}


def _end_of(attempt: Mapping[str, Any]) -> float:
    return float(attempt.get("stopped") or attempt.get("started") or 0.0)


def _attempts(batch: Mapping[str, Any], seen: tuple[tuple[str, float], ...], record: Mapping[str, Any]) -> tuple[Attempt, ...]:
    """Batch's attempts with what the sweeps saw before each; the one that runs is the last.

    Where Batch was only asked for lists, the last one has the times that it, the sweeps or the run's own record give: it began
    after those before it, of which an older answer told, had ended.
    """
    found = [dict(entry) for entry in batch.get("attempts") or ()]
    status = batch.get("status")
    ran = next((when for word, when in reversed(seen) if word == "RUNNING"), 0.0)
    untold = batch.get("started", 0.0) > _end_of(found[-1]) if found else bool(ran or record.get("started"))
    if status == "RUNNING" or (status in ("SUCCEEDED", "FAILED") and untold):
        # A list tells no log and no host: these may be those of the attempt before.
        old = found[-1] if found and status != "RUNNING" else {}
        last = {key: batch[key] for key in ("started", "log_stream", "worker") if key in batch and batch[key] != old.get(key)}
        last.setdefault("started", record.get("started") or ran)
        if status != "RUNNING":
            keys = ("stopped", "exit_code", "status_reason", "container_reason")
            last.update((key, batch[key]) for key in keys if key in batch)
            last.setdefault("stopped", record.get("finished") or seen[-1][1])
        found.append(last)
    before = 0.0
    attempts = []
    for entry in found:
        until = entry.get("started") or entry.get("stopped") or float("inf")
        for word, key in (("RUNNABLE", "waited"), ("STARTING", "starting")):
            entry[key] = next((when for known, when in seen if known == word and before <= when <= until), 0.0)
        attempts.append(Attempt(**entry))
        before = entry.get("stopped") or until
    return tuple(attempts)
