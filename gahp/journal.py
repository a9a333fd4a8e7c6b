"""The durable record of every run: one SQLite file for each user, shared safely by all GAHPs of that user.

Knows the model; nothing of AWS, ClassAds or lines. A run's row is written before the thing it speaks of is done, so that a GAHP
that starts can go on from whatever step the last one reached.

Writes are gathered: whoever writes gets a future, one thread puts all that has come meanwhile into one transaction (group
commit), and the futures end when it is on disk. What the disk refuses for now (full, locked) is told to whoever records a new
run, since nothing has been done for that yet; all that concerns runs which are there is kept, in order, and written when it can
be.

Every run has an owner, the GAHP that works on it. An owner lives as long as it holds the lock on its file `owner-TOKEN.lock`;
the kernel drops that lock however the process ends. Runs of a dead owner are adopted by whoever looks first.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import functools
import os
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from concurrent.futures import Future
from typing import Any, NamedTuple

from gahp import database, story
from gahp.lanes import after, mortal
from gahp.metrics import COUNTS
from gahp.model import JobRequest, Refused, Transient, decode_request, encode
from gahp.run import MOVES, Run, RunState, Wanted
from gahp.seal import seal
from gahp.statedir import (
    DAMAGE_FILE,
    drop_removal,
    identity_of,
    if_dead,
    note_damage,
    noted_removals,
    require_local,
    take_lock,
    trouble,
    use,
)

_TRY_AGAIN_S = 0.5
_END_S = 5.0
# So many requests, each of so many characters at the most, are remembered until they are staged.
_LATELY, _LATELY_BYTES = 1000, 8192
_LIVE = "state NOT IN ('COMPLETED', 'HELD', 'REMOVED')"


class JournalProblem(Transient):
    """The journal cannot be written just now: disk full, locked, read-only. Nothing that needed the write has been done."""


class Damaged(Refused):
    """The journal's file can no longer be read. It has to be set aside and made anew from what S3 and Batch know."""


class Conflict(Exception):
    """Another run of the same JobDirectory and generation was recorded first."""


def _require_move(run: Run, changes: dict[str, Any]) -> None:
    state = changes.get("state", run.state)
    if state is not run.state and state not in MOVES[run.state]:
        raise ValueError(f"run {run.name}: {run.state.name} cannot become {state.name}")


def _count(changes: Mapping[str, Any]) -> None:
    if "state" in changes:
        COUNTS.add("job_moves", changes["state"].value.lower())
        if changes["state"] is RunState.HELD and changes.get("report") is not None:
            COUNTS.add("job_holds", str(int(changes["report"].hold_code)))


def _update(name: str, changes: Mapping[str, Any], news: story.News | None, now: float) -> tuple[str, dict[str, Any]]:
    """The statement that changes a run, and its values. The time of a move goes into the run's story, and so does `news`."""
    sets = [f"{column} = :{column}" for column in changes]
    values = {**changes, "changed": now, "name": name}
    if "state" in changes:
        news = {**(news or {}), "at": {changes["state"].value: round(now, 3)}}
    if news:
        sets.append(f"story = {story.APPEND}")
        values["news"] = story.write(news)
    return f"UPDATE runs SET {', '.join(sets)}, changed = :changed WHERE name = :name", values


class _Write(NamedTuple):
    """One statement, for one row of values or for several. `keep`: tried until it is written; else whoever waits is told that it
    was not."""

    sql: str
    values: dict[str, Any] | list[dict[str, Any]]
    keep: bool
    future: Future[None]


class Journal:
    """Opens (and makes) the journal in `directory`, and records the removals that are noted beside it.

    Raises Refused with one sentence when that cannot be done, Damaged when the file is no journal any more. `on_damage` is called
    once, with a sentence, when that turns out later: end the process, the next one mends it.
    """

    def __init__(
        self, directory: str, clock: Callable[[], float] = time.time, on_damage: Callable[[str], None] = lambda _: None
    ) -> None:
        self._directory = directory
        self._path = os.path.join(directory, database.FILE_NAME)
        self._clock = clock
        self._on_damage = on_damage
        self.owner = secrets.token_hex(8)
        self._reading = threading.Lock()
        self._noting = threading.Lock()
        # The requests recorded last, and their text: each is asked for again in a moment, to be staged.
        self._lately: collections.OrderedDict[str, tuple[JobRequest, str]] = collections.OrderedDict()
        self._taken: set[str] = set()  # the names of runs taken over that `adopt` has not returned yet
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        with contextlib.ExitStack() as undo:  # what was taken before something goes wrong is given back
            try:
                os.makedirs(directory, mode=0o700, exist_ok=True)
                require_local(directory)
                self._used = use(directory, fcntl.LOCK_SH)
                undo.callback(os.close, self._used)
                if os.path.exists(os.path.join(directory, DAMAGE_FILE)):
                    raise Damaged(f"The journal {self._path} is damaged.")
                self.identity, self._secret = identity_of(directory)
                self._lock = take_lock(self._lock_path(self.owner))
                undo.callback(os.close, self._lock)
                undo.callback(os.unlink, self._lock_path(self.owner))
                self._reader = database.connect(self._path)
                undo.callback(self._reader.close)
                self._writer = database.connect(self._path)
            except (OSError, sqlite3.Error) as error:
                if database.is_damage(error):
                    with contextlib.suppress(OSError):  # who makes it anew notes it first, or does not begin
                        note_damage(directory)
                    raise Damaged(f"The journal {self._path} is damaged: {error}.") from error
                why = trouble(directory, error) if isinstance(error, OSError) else error
                raise Refused(f"The journal {self._path} cannot be used: {why}. See AWSBATCH_STATE_DIR.") from error
            undo.pop_all()
        database.open_here.append(os.path.realpath(self._path))
        self._problem = ""
        self._damaged = False
        self._thread = threading.Thread(target=self._write_all, name="journal", daemon=True)
        self._thread.start()
        for name in noted_removals(directory):
            after(self.ask(name, Wanted.REMOVE), functools.partial(self._asked, name))

    def _asked(self, name: str, written: Future[None]) -> None:
        if written.exception() is None:
            drop_removal(self._directory, name)

    def close(self) -> None:
        """Write what is waiting, then let go of file and ownership. A disk that hangs is not waited for: the process ends anyway,
        and what the kernel drops with it is enough."""
        self._writes.put(None)
        self._thread.join(_END_S)
        if self._thread.is_alive():
            return
        with self._reading:
            self._reader.close()
        self._writer.close()
        database.open_here.remove(os.path.realpath(self._path))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._lock_path(self.owner))
        os.close(self._lock)
        os.close(self._used)

    # Reading

    def find(self, name: str) -> Run | None:
        """The run of that name."""
        return next(iter(self._select("WHERE name = ?", (name,))), None)

    def newest(self, directory: str) -> Run | None:
        """The run of the highest generation for a JobDirectory."""
        return next(
            iter(self._select("WHERE directory = ? AND directory <> '' ORDER BY generation DESC LIMIT 1", (directory,))), None
        )

    def request(self, name: str) -> JobRequest:
        """The request of a run that is in the journal."""
        known = self._lately.get(name)
        return known[0] if known else decode_request(self._read("SELECT request FROM runs WHERE name = ?", (name,))[0][0])

    def mine(self) -> list[Run]:
        """The runs of this owner that are not over."""
        return self._select(f"WHERE owner = ? AND {_LIVE}", (self.owner,))

    def wanted_changes(self) -> list[tuple[str, Wanted]]:
        """What other GAHPs of the user have asked of this owner's live runs: told until it is recorded as wanted."""
        where = f"owner = ? AND asked <> '' AND asked <> wanted AND {_LIVE}"
        return self._read(f"SELECT name, asked FROM runs WHERE {where}", (self.owner,), lambda row: (row[0], Wanted(row[1])))

    def _select(self, where: str, parameters: tuple[Any, ...]) -> list[Run]:
        # Row by row: there may be very many.
        return self._read(f"SELECT {', '.join(database.COLUMNS)} FROM runs {where}", parameters, database.from_row)

    def _read(self, sql: str, parameters: tuple[Any, ...] = (), make: Callable[[tuple[Any, ...]], Any] = tuple) -> list[Any]:
        try:
            with self._reading:
                return [make(row) for row in self._reader.execute(sql, parameters)]
        except sqlite3.Error as error:
            if doubt := self._look_at_damage(error):
                raise doubt from error
            raise JournalProblem(f"The journal {self._path} cannot be read: {error}. See AWSBATCH_STATE_DIR.") from error

    def _look_at_damage(self, error: sqlite3.Error) -> JournalProblem | None:
        """Note damage and tell of it, once. What to say as long as it cannot be noted: who opens the file next might find it
        sound. So nobody is told, and with the next error it is tried again."""
        with self._noting:
            if self._damaged or not database.is_damage(error):
                return None
            try:
                note_damage(self._directory)
            except OSError as refused:
                why = trouble(self._directory, refused)
                return JournalProblem(
                    f"The journal {self._path} is damaged ({error}), and that cannot be noted: {why}. Mend that first."
                )
            self._damaged = True
            # Before another thread answers anybody by what fails of it.
            self._on_damage(
                f"The journal {self._path} is damaged ({error}): this GAHP ends, and the next one makes it anew from S3 and AWS"
                " Batch."
            )
        return None

    # Writing

    def insert(self, run: Run, request: JobRequest) -> Future[None]:
        """Record a new run, owned by this GAHP. The future raises Conflict if its generation is taken."""
        COUNTS.add("job_moves", run.state.value.lower())
        run.owner = self.owner
        values = database.new_row(run, request, self._clock())
        if len(values["request"]) <= _LATELY_BYTES:
            with self._reading:
                self._lately[run.name] = request, values["request"]
                if len(self._lately) > _LATELY:
                    self._lately.popitem(last=False)
        return self._write(f"INSERT INTO runs {database.NEW_ROW}", values, keep=False)

    def sealed(self, run: Run, request: JobRequest) -> str:
        """What goes into S3 with a run, for `opened` to make it again: one line, with a seal that only this journal can make."""
        known = self._lately.get(run.name)
        return seal(run, known[1] if known else encode(request), self._secret)

    def update(self, run: Run, news: story.News | None = None, **changes: Any) -> Future[None]:
        """Change `run`, in memory now and in the file when the future ends. A move that MOVES does not allow is an error.

        `news` goes into the run's story, and so does the time of a move.
        """
        _require_move(run, changes)
        written = self._change(run.name, changes, news)  # first: it may find no memory, and then nothing has changed
        for column, value in changes.items():
            setattr(run, column, value)
        return written

    def record(self, run: Run, news: story.News | None = None, **changes: Any) -> Future[None]:
        """As `update`, but memory follows the file: nobody hears of it before it is on disk. The future ends after both."""
        _require_move(run, changes)
        done: Future[None] = Future()

        def follow(written: Future[None]) -> None:
            error = written.exception()
            if error is not None:
                done.set_exception(error)
                return
            for column, value in changes.items():
                setattr(run, column, value)
            done.set_result(None)

        after(self._change(run.name, changes, news), follow)
        return done

    def update_all(self, changed: Iterable[tuple[Run, dict[str, Any]]]) -> Future[None]:
        """As `update`, for many runs at once: all or none of it is in the file. The changes are of the same columns."""
        now = self._clock()
        sql, rows = "", []
        changed = list(changed)
        for run, changes in changed:
            _require_move(run, changes)
        for run, changes in changed:
            _count(changes)
            sql, values = _update(run.name, changes, None, now)
            rows.append(database.to_row(values))
        written = self._write(sql or "UPDATE runs SET name = name WHERE 0", rows)
        for run, changes in changed:
            for column, value in changes.items():
                setattr(run, column, value)
        return written

    def _change(self, name: str, changes: dict[str, Any], news: story.News | None) -> Future[None]:
        _count(changes)
        return self._write(*_update(name, changes, news, self._clock()))

    def ask(self, name: str, wanted: Wanted) -> Future[None]:
        """Tell the owner of a run, another GAHP, what is wanted of it. In a column of its own: the owner writes all others."""
        sql = f"UPDATE runs SET asked = :asked, confirmed = 1 WHERE name = :name AND {_LIVE}"
        return self._write(sql, {"asked": wanted, "name": name})

    def adopt(self) -> list[Run]:
        """Take over the live runs of owners that are no more, and return them; after an error by the next call that has none."""
        owners = [row[0] for row in self._read(f"SELECT DISTINCT owner FROM runs WHERE {_LIVE}")]
        for owner in owners:
            if owner == self.owner:
                continue
            with if_dead(self._lock_path(owner)) as dead:
                if dead:
                    names = {row[0] for row in self._read(f"SELECT name FROM runs WHERE owner = ? AND {_LIVE}", (owner,))}
                    sql = "UPDATE runs SET owner = :me WHERE owner = :dead"
                    self._write(sql, {"me": self.owner, "dead": owner}, keep=False).result()
                    self._taken |= names
        if not self._taken:
            return []
        # Another GAHP may have been quicker: only what bears our name now is ours.
        adopted = [run for run in self.mine() if run.name in self._taken]
        self._taken.clear()
        return adopted

    def littered(self, older_than_s: float, unasked_s: float, limit: int) -> list[Run]:
        """Runs that have been over for so long, or for `unasked_s` if HTCondor has never asked about them, and still have objects
        in S3."""
        now = self._clock()
        where = (
            "WHERE state IN ('COMPLETED', 'HELD', 'REMOVED') AND discarded = 0"
            " AND (confirmed = 1 AND changed < ? OR changed < ?) ORDER BY changed LIMIT ?"
        )
        return self._select(where, (now - older_than_s, now - unasked_s, limit))

    def needed(self, pack: str, without: Collection[str]) -> bool:
        """Whether a run still has a use for the objects of this pack, those named in `without` left out of account."""
        of_it = "SELECT name FROM runs WHERE pack = ? AND pack <> '' AND discarded = 0 LIMIT ?"
        before = "SELECT name FROM runs WHERE earlier <> '' AND discarded = 0 AND instr(' ' || earlier, ' ' || ? || ':') LIMIT ?"
        most = len(without) + 1
        names = {row[0] for sql in (of_it, before) for row in self._read(sql, (pack, most))}
        return not names <= set(without)

    def member(self, pack: str, child: int) -> Run | None:
        """The run that is, or was sent before as, this child of an array job."""
        where = "WHERE pack = ? AND pack <> '' AND child = ? AND discarded = 0"
        before = "WHERE earlier <> '' AND discarded = 0 AND instr(' ' || earlier || ' ', ?)"
        found = self._select(where, (pack, child)) or self._select(before, (f" {pack}:{child} ",))
        return next(iter(found), None)

    def heed(self, asked: Set[str], passed_over: Collection[str], seconds: float) -> None:
        """Record that HTCondor has asked about the runs `asked`, and has for `seconds` more passed over the others. In one write
        each, which nobody waits for: what the disk refuses is a period less. Raises JournalProblem when nothing can be read."""
        again = [{"name": name} for (name,) in self._read("SELECT name FROM unasked") if name in asked]
        if again:
            self._write("DELETE FROM unasked WHERE name = :name", again, keep=False)
        if passed_over:
            # Added to what is there: another GAHP, which was asked about the run, may have taken that away meanwhile.
            sql = (
                "INSERT INTO unasked (name, seconds) VALUES (:name, :seconds)"
                " ON CONFLICT (name) DO UPDATE SET seconds = seconds + excluded.seconds"
            )
            self._write(sql, [{"name": name, "seconds": seconds} for name in passed_over], keep=False)

    def unwanted(self) -> set[str]:
        """The names of live runs that HTCondor has removed, also by way of a GAHP that they do not belong to."""
        sql = f"SELECT name FROM runs WHERE 'REMOVE' IN (wanted, asked) AND {_LIVE}"
        return {name for (name,) in self._read(sql)}

    def unasked(self) -> dict[str, float]:
        """For how many seconds HTCondor has passed runs over, by name. Of runs that are not over nothing else counts."""
        return dict(self._read("SELECT name, seconds FROM unasked"))

    def served(self, run: Run) -> bool:
        """Whether the GAHP that a run belongs to lives."""
        with if_dead(self._lock_path(run.owner)) as dead:
            return not dead

    def forget(self, older_than_s: float, at_once: int = 2000) -> bool:
        """Drop finished runs that have not changed for so long, and have nothing in S3 any more; whether these are all."""
        where = "state IN ('COMPLETED', 'HELD', 'REMOVED') AND discarded = 1 AND changed < ? LIMIT ?"
        names = self._read(f"SELECT name FROM runs WHERE {where}", (self._clock() - older_than_s, at_once))
        if names:  # by their names, a bounded number at once: others wait for each commit
            self._write("DELETE FROM runs WHERE name = :name", [{"name": name} for (name,) in names], keep=False)
        over = self._read(f"SELECT name FROM unasked WHERE name NOT IN (SELECT name FROM runs WHERE {_LIVE})")
        if over:
            self._write("DELETE FROM unasked WHERE name = :name", [{"name": name} for (name,) in over], keep=False)
        return len(names) < at_once

    @property
    def problem(self) -> str:
        """The sentence that says why what was written last is not in the file yet; "" if it is."""
        return self._problem

    def check(self) -> None:
        """Raise JournalProblem with a sentence when the journal cannot be written just now."""
        # It has to be a write: what changes no page succeeds on a full disk. To set this number to what it is dirties the first.
        self._write(f"PRAGMA application_id = {database.APPLICATION_ID}", {}, keep=False).result()
        if self._problem:
            raise JournalProblem(self._problem)

    def _write(self, sql: str, values: dict[str, Any] | list[dict[str, Any]], *, keep: bool = True) -> Future[None]:
        """`values`: one row, or many that `to_row` has been over already."""
        future: Future[None] = Future()
        self._writes.put(_Write(sql, values if isinstance(values, list) else database.to_row(values), keep, future))
        return future

    @mortal()
    def _write_all(self) -> None:
        waiting: list[_Write] = []
        last = False
        while not last:
            group: list[_Write | None] = []
            with contextlib.suppress(queue.Empty):
                group.append(self._writes.get(timeout=_TRY_AGAIN_S if waiting else None))
                while True:
                    group.append(self._writes.get_nowait())
            last = None in group
            waiting = self._commit(waiting + [write for write in group if write is not None])
        for write in waiting:
            write.future.set_exception(JournalProblem(self._problem))

    def _commit(self, group: list[_Write]) -> list[_Write]:
        """One transaction for all; if that fails, one for each, so that one bad write takes no other with it.

        Returns what has to be tried again: from the first write that was refused and is to be kept on, all such, in order.
        """
        try:
            self._transact(group)
        except sqlite3.Error:
            return self._commit_each(group)
        self._problem = ""
        for write in group:
            write.future.set_result(None)
        return []

    def _commit_each(self, group: list[_Write]) -> list[_Write]:
        waiting: list[_Write] = []
        self._problem = ""
        for write in group:
            if waiting and write.keep:
                waiting.append(write)
                continue
            try:
                self._transact([write])
            except sqlite3.IntegrityError as error:
                write.future.set_exception(Conflict(str(error)))
            except sqlite3.Error as error:
                self._problem = f"The journal {self._path} cannot be written: {error}. See AWSBATCH_STATE_DIR."
                if doubt := self._look_at_damage(error):
                    self._problem = str(doubt)
                if write.keep and not self._damaged:
                    waiting.append(write)
                else:
                    write.future.set_exception(JournalProblem(self._problem))
            else:
                write.future.set_result(None)
        return waiting

    def _transact(self, group: Iterable[_Write]) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        with database.ending(self._writer):
            for write in group:
                if isinstance(write.values, list):
                    self._writer.executemany(write.sql, write.values)
                else:
                    self._writer.execute(write.sql, write.values)

    def _lock_path(self, owner: str) -> str:
        return os.path.join(self._directory, f"owner-{owner}.lock")
