"""The SQLite database of a journal: its schema in all versions, how it is opened and made anew, and how a run becomes a row."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from gahp import story
from gahp.model import JobReport, JobRequest, Refused, decode_report, encode
from gahp.run import Run, RunState, Wanted
from gahp.statedir import drop_damage, sync

SCHEMA_VERSION = 4
APPLICATION_ID = 0x41574247  # "AWBG"
FILE_NAME = "journal.sqlite"

COLUMNS = tuple(field.name for field in dataclasses.fields(Run))
# The same for many runs: one copy in memory for all of a large journal's.
_SHARED = {"owner", "queue", "pack"}
# Seconds for which HTCondor has passed a run over while it asked about others. Not a column of the run: many are written at once.
_UNASKED = "CREATE TABLE unasked (name TEXT PRIMARY KEY, seconds REAL NOT NULL) WITHOUT ROWID;"
_SCHEMA = f"""
CREATE TABLE runs (
    name TEXT PRIMARY KEY, directory TEXT NOT NULL, digest TEXT NOT NULL, generation INTEGER NOT NULL, state TEXT NOT NULL,
    wanted TEXT NOT NULL, submission INTEGER NOT NULL, native_id TEXT NOT NULL, queue TEXT NOT NULL, sent REAL NOT NULL,
    started INTEGER NOT NULL, confirmed INTEGER NOT NULL, predecessor TEXT NOT NULL, report TEXT, owner TEXT NOT NULL,
    created REAL NOT NULL, sends INTEGER NOT NULL, discarded INTEGER NOT NULL, changed REAL NOT NULL, request TEXT NOT NULL,
    asked TEXT NOT NULL DEFAULT '', pack TEXT NOT NULL DEFAULT '', child INTEGER NOT NULL DEFAULT 0,
    earlier TEXT NOT NULL DEFAULT '', story TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX one_generation ON runs (directory, generation) WHERE directory <> '';
CREATE INDEX live ON runs (owner) WHERE state NOT IN ('COMPLETED', 'HELD', 'REMOVED');
CREATE INDEX asked ON runs (owner) WHERE asked <> '';
CREATE INDEX over ON runs (changed) WHERE state IN ('COMPLETED', 'HELD', 'REMOVED');
CREATE INDEX littered ON runs (changed) WHERE state IN ('COMPLETED', 'HELD', 'REMOVED') AND discarded = 0;
CREATE INDEX packed ON runs (pack, child) WHERE pack <> '' AND discarded = 0;
CREATE INDEX packed_before ON runs (name) WHERE earlier <> '' AND discarded = 0;
{_UNASKED}
PRAGMA user_version = {SCHEMA_VERSION};
"""
# From each version to the next: what a journal needs that an older program wrote.
_MIGRATIONS = {
    1: """
ALTER TABLE runs ADD COLUMN sends INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN discarded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN asked TEXT NOT NULL DEFAULT '';
DROP INDEX asked;
CREATE INDEX asked ON runs (owner) WHERE asked <> '';
CREATE INDEX littered ON runs (changed) WHERE state IN ('COMPLETED', 'HELD', 'REMOVED') AND discarded = 0;
PRAGMA user_version = 2;
""",
    2: """
ALTER TABLE runs ADD COLUMN pack TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN child INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN earlier TEXT NOT NULL DEFAULT '';
CREATE INDEX packed ON runs (pack, child) WHERE pack <> '' AND discarded = 0;
CREATE INDEX packed_before ON runs (name) WHERE earlier <> '' AND discarded = 0;
ALTER TABLE runs ADD COLUMN story TEXT NOT NULL DEFAULT '';
PRAGMA user_version = 3;
""",
    3: f"{_UNASKED} PRAGMA user_version = 4;",
}
_NEW = (*COLUMNS, "changed", "request", "story")
NEW_ROW = f"({', '.join(_NEW)}) VALUES ({', '.join(':' + column for column in _NEW)})"
# The real paths of the journals that this process has open: only SQLite may open them, and only with locks (see `connect`).
open_here: list[str] = []


def to_row(values: dict[str, Any]) -> dict[str, Any]:
    row = dict(values)
    for column, value in values.items():
        if isinstance(value, enum.Enum):
            row[column] = value.value
        elif isinstance(value, JobReport):
            row[column] = encode(value)
    return row


def new_row(run: Run, request: JobRequest, now: float) -> dict[str, Any]:
    """All columns of a run that is not in the journal yet, but `asked`."""
    values = {column: getattr(run, column) for column in COLUMNS}
    return {**values, "changed": now, "request": encode(request), "story": story.begin(request, run.state.value, run.created)}


def from_row(row: tuple[Any, ...]) -> Run:
    values = dict(zip(COLUMNS, row, strict=True))
    values["state"] = RunState(values["state"])
    values["wanted"] = Wanted(values["wanted"])
    values["started"] = bool(values["started"])
    values["confirmed"] = bool(values["confirmed"])
    values["discarded"] = bool(values["discarded"])
    values["report"] = decode_report(values["report"]) if values["report"] else None
    for column in _SHARED & values.keys():
        values[column] = sys.intern(values[column])
    return Run(**values)


def connect(path: str) -> sqlite3.Connection:
    """The database at `path`, made or brought up to date where need be. Raises OSError, sqlite3.Error, or Refused for one of a
    newer version."""
    # The file exists with its narrow mode before SQLite, which would make it with the umask's, opens it. One that is there is not
    # touched: to close any descriptor of it takes all of this process's locks on it away (POSIX), and with them the word that
    # somebody uses it; whoever closes it next would then delete the log that this process goes on to write.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.create_function("retell", 2, story.retell, deterministic=True)
    connection.execute("BEGIN IMMEDIATE")
    with ending(connection):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise newer(os.path.dirname(path), version)
        while version < SCHEMA_VERSION:
            for statement in (_MIGRATIONS[version] if version else _SCHEMA).split(";"):
                connection.execute(statement)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
    return connection


def newer(directory: str, version: int) -> Refused:
    return Refused(
        f"The journal in {directory} was written by a newer version of this program (schema {version}, this one knows"
        f" {SCHEMA_VERSION}): use that version."
    )


def is_damage(error: Exception) -> bool:
    """Whether SQLite found the file itself to be wrong (SQLITE_CORRUPT, SQLITE_NOTADB)."""
    return isinstance(error, sqlite3.DatabaseError) and any(
        words in str(error) for words in ("malformed", "not a database", "no such table", "no such column")
    )


def replace(directory: str, runs: Iterable[tuple[Run, JobRequest]], now: float) -> str:
    """Set the damaged database aside and put one with `runs` in its place; the name that the old one has now.

    The caller holds the lock of `use` exclusively. May be repeated from whatever point a death left it at.
    """
    path = os.path.join(directory, FILE_NAME)
    new, aside = f"{path}.new", f"{path}.damaged-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new + end)
    connection = connect(new)
    connection.execute("BEGIN")
    with ending(connection):
        for run, request in runs:
            connection.execute(f"INSERT OR IGNORE INTO runs {NEW_ROW}", to_row(new_row(run, request, now)))
    connection.execute("PRAGMA journal_mode = DELETE")  # all of it in the one file
    connection.close()
    with contextlib.suppress(FileNotFoundError):
        os.link(path, aside)
    for end in ("-wal", "-shm"):  # a log of the old database must not be played into the new one
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + end, aside + end)
    os.replace(new, path)
    sync(directory)
    drop_damage(directory)
    return aside


@contextlib.contextmanager
def ending(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what was begun, or roll it back if anything went wrong."""
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
