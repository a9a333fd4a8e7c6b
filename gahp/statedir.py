"""The directory that a journal lies in: whether it can lie there, whose it is, who works with it, that it is damaged, and which
removals are to be recorded in it when it can be opened again.

Knows files and locks; nothing of the database in it or of runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator

from gahp.model import Refused

IDENTITY_FILE = "journal.id"
DAMAGE_FILE = "journal.damaged"
_REMOVAL = "remove-"
# SQLite: "WAL does not work over a network filesystem" (sqlite.org/wal.html).
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "virtiofs", "vboxsf", "lustre", "gpfs", "beegfs", "ceph", "gfs2"),
    *("ocfs2", "orangefs", "panfs", "wekafs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.s3fs"),
    *("fuse.mount-s3", "fuse.gcsfuse", "fuse.rclone", "fuse.goofys", "fuse.juicefs"),
}


def note_damage(directory: str) -> None:
    """From now on, until it has been made anew, nobody works with this journal: it may look sound again without being so."""
    _note(directory, DAMAGE_FILE)


def drop_damage(directory: str) -> None:
    """It has been made anew. On disk when this returns: what is recorded from now on must not be taken for damaged again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, DAMAGE_FILE))
    sync(directory)


def trouble(directory: str, error: OSError) -> str:
    """What keeps a journal from being kept in `directory`, as a clause; no names of files that are there for a moment."""
    place = directory
    while not os.path.lexists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        return f"{place} is not a directory"
    if error.filename not in (None, directory) and os.path.lexists(error.filename):
        return f"{os.fsdecode(error.filename)} cannot be opened ({error.strerror})"
    return f"the directory {directory} cannot be {'written' if place == directory else 'made'} ({error.strerror})"


def note_removal(directory: str, run: str) -> None:
    """Note that HTCondor has removed a run, for whoever opens the journal next: a file of that name, on disk when this returns.

    Made and taken away as a whole, and no matter how often: there is nothing to be torn by a death, or to be locked. Raises
    OSError when it cannot be noted; also where no journal has ever been, or `run` is the name of none.
    """
    if not re.fullmatch(r"[a-z0-9-]{1,100}", run):
        raise FileNotFoundError(f"no run is called {run!r}")
    os.stat(os.path.join(directory, IDENTITY_FILE))
    _note(directory, _REMOVAL + run)


def _note(directory: str, name: str) -> None:
    """An empty file, on disk when this returns."""
    descriptor = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync(directory)


def noted_removals(directory: str) -> list[str]:
    """The runs whose removal is noted."""
    return [name.removeprefix(_REMOVAL) for name in os.listdir(directory) if name.startswith(_REMOVAL)]


def drop_removal(directory: str, run: str) -> None:
    """It is recorded: the note has done its work."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, _REMOVAL + run))


def use(directory: str, how: int) -> int:
    """A lock on the journal as a whole: shared by those who work with it, exclusive for who makes it anew. Its descriptor."""
    descriptor = os.open(os.path.join(directory, "journal.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Refused(
            f"The journal in {directory} is damaged, and another GAHP of this user has it open: it is made anew when that ends."
        ) from None
    return descriptor


def require_local(directory: str) -> None:
    """Raise Refused for a directory on a network file system, where SQLite's log and locks cannot be trusted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        kind = file_system(os.path.realpath(directory), mounts.read())
    if kind in _NETWORK:
        raise Refused(
            f"The journal cannot be kept in {directory}, which is on a network file system ({kind}): set AWSBATCH_STATE_DIR"
            " to a directory of a local disk, one for each user, such as /var/lib/awsbatch_gahp/$ENV(LOGNAME)."
        )


def file_system(path: str, mountinfo: str) -> str:
    """The type of the file system that the absolute `path` lies on, from the text of /proc/self/mountinfo (see proc(5))."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        before, _, behind = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not behind:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # a later mount covers an earlier one
            best, kind = point, behind.split()[0]
    return kind


def identity_of(directory: str) -> tuple[str, bytes]:
    """A name of this journal, and a secret with which it knows its own records in S3 again; both outlive its database."""
    path = os.path.join(directory, IDENTITY_FILE)
    if not os.path.exists(path):
        _make_identity(path)
    with open(path, encoding="ascii", errors="replace") as file:
        name, _, secret = file.read().strip().partition(" ")
    return name, secret.encode()


def _make_identity(path: str) -> None:
    """Whole, on disk, and once: of two who make it at the same time both have that of the first."""
    made = f"{path}.{secrets.token_hex(4)}"
    try:
        with open(made, "w", opener=lambda name, flags: os.open(name, flags | os.O_EXCL | os.O_CLOEXEC, 0o600)) as file:
            file.write(f"{secrets.token_hex(8)} {secrets.token_hex(32)}")
            file.flush()
            os.fsync(file.fileno())  # without it no record in S3 could ever be known again
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
        sync(os.path.dirname(path))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)


def sync(directory: str) -> None:
    """Have the names in a directory on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fsync(descriptor)
    os.close(descriptor)


def take_lock(path: str) -> int:
    """Make an owner's lock file and hold it; its descriptor. The kernel drops the lock with this process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


@contextlib.contextmanager
def if_dead(path: str) -> Iterator[bool]:
    """True within the block if the owner whose lock file this is lives no more; the file is gone after it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    try:
        yield True
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    finally:
        os.close(descriptor)
