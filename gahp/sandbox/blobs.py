"""Large inputs, stored once by content at blobs/<sha256>, whoever needs them.

Knows the store and local files. A blob is looked for before it is uploaded, uploaded once however many jobs of this process want
it at the same time, and written anew when it is old, so that a lifecycle rule that expires old blobs takes none that a job needs.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import hashlib
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import IO

from gahp.model import Transient
from gahp.sandbox.inputs import LocalFile
from gahp.sandbox.manifest import Stored, open_unchanged, require_unchanged, write_pack
from gahp.sandbox.store import Store

TRUST_S = 3600.0
"""How long a blob that was seen in S3 counts as being there."""
RENEW = datetime.timedelta(days=7)
"""The age at which a blob is written again: lifecycle rules must keep objects longer than this and the longest job."""
_REMEMBERED = 100_000
_SETTLED_NS = 2_000_000_000
_CHUNK = 1024 * 1024


class Blobs:
    """Uploads files and packs of files. Safe to share among threads; `threads` uploads at a time."""

    def __init__(
        self,
        store: Store,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._clock = clock
        self._wall = wall
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, "blob")
        self._lock = threading.Lock()
        self._digests: dict[Hashable, tuple[str, int]] = {}
        self._there: dict[str, float] = {}
        self._uploading: dict[str, concurrent.futures.Future[None]] = {}
        self._reading: dict[Hashable, concurrent.futures.Future[str]] = {}

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def store(self, files: Sequence[LocalFile], packs: Sequence[Sequence[LocalFile]]) -> list[Stored]:
        """Have every file and pack in S3; the first failure is raised once all have ended."""
        work = [self._threads.submit(self._store_pack, pack) for pack in packs]
        work += [self._threads.submit(self._store_file, file) for file in files]
        concurrent.futures.wait(work)
        return [future.result() for future in work]

    def _store_file(self, file: LocalFile) -> Stored:
        with open_unchanged(file) as content:
            digest = self._digest_of(file, content)
            self._have(digest, file.size, lambda: self._upload_file(file, content, digest))
        return Stored("blob", digest, file.size, file.mode, file.place)

    def _digest_of(self, file: LocalFile, content: IO[bytes]) -> str:
        """The digest of `file`, open as `content`: one thread reads it, the others that want it meanwhile wait for that."""
        if not self._settled(file):
            digest = _digest(content)
            require_unchanged(file, content)
            return digest
        with self._lock:
            if known := self._digests.get(file.identity):
                return known[0]
            mine = concurrent.futures.Future[str]()
            running = self._reading.setdefault(file.identity, mine)
        if running is not mine:
            return running.result()
        try:
            digest = _digest(content)
            require_unchanged(file, content)
            self._remember(file.identity, (digest, file.size), [file])
        except BaseException as error:
            with self._lock:
                del self._reading[file.identity]
            mine.set_exception(error if isinstance(error, Exception) else Transient("The upload was interrupted."))
            raise
        with self._lock:
            del self._reading[file.identity]
        mine.set_result(digest)
        return digest

    def _upload_file(self, file: LocalFile, content: IO[bytes], digest: str) -> None:
        def require() -> None:
            open_unchanged(file).close()

        content.seek(0)
        self._store.put_blob(f"blobs/{digest}", content, file.size, digest, require)
        require()  # what has changed since is read again; the blob is what its name says, and may be needed by others

    def _store_pack(self, files: Sequence[LocalFile]) -> Stored:
        key = tuple((file.place, file.mode, *file.identity) for file in files)
        known = self._recall(key)
        if known and self._trusted(known[0]):
            return Stored("pack", *known)
        with tempfile.TemporaryFile(prefix="awsbatch-pack-") as pack:
            write_pack(files, pack)
            size = pack.tell()
            pack.seek(0)
            digest = _digest(pack)
            pack.seek(0)
            self._have(digest, size, lambda: self._store.put_blob(f"blobs/{digest}", pack, size, digest))
        self._remember(key, (digest, size), files)
        return Stored("pack", digest, size)

    def _have(self, digest: str, size: int, upload: Callable[[], None]) -> None:
        """Make sure that the blob is there: one thread looks and uploads, the others wait for it."""
        with self._lock:
            if self._trusted(digest):
                return
            mine = concurrent.futures.Future[None]()
            running = self._uploading.setdefault(digest, mine)
        if running is not mine:
            running.result()
            return
        try:
            if not self._fresh(digest, size):
                upload()
        except BaseException as error:
            with self._lock:
                del self._uploading[digest]
            mine.set_exception(error if isinstance(error, Exception) else Transient("The upload was interrupted."))
            raise
        with self._lock:
            _trim(self._there)
            self._there[digest] = self._clock()
            del self._uploading[digest]
        mine.set_result(None)

    def _fresh(self, digest: str, size: int) -> bool:
        found = self._store.stat(f"blobs/{digest}")
        if found is None or found[0] != size:
            return False
        return found[1] + RENEW > datetime.datetime.fromtimestamp(self._wall(), datetime.timezone.utc)

    def _trusted(self, digest: str) -> bool:
        seen = self._there.get(digest)
        return seen is not None and self._clock() - seen < TRUST_S

    def _recall(self, key: Hashable) -> tuple[str, int] | None:
        with self._lock:
            return self._digests.get(key)

    def _settled(self, file: LocalFile) -> bool:
        """Whether its time is so long ago that the next change will change it."""
        return self._wall() * 1e9 - file.mtime_ns >= _SETTLED_NS

    def _remember(self, key: Hashable, value: tuple[str, int], files: Sequence[LocalFile]) -> None:
        """Remember a digest, unless a file is so new that it could change again without its time changing."""
        if not all(map(self._settled, files)):
            return
        with self._lock:
            _trim(self._digests)
            self._digests[key] = value


def _digest(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := content.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _trim(table: dict[Hashable, tuple[str, int]] | dict[str, float]) -> None:
    """Forget the oldest entries of a table that has grown large."""
    while len(table) >= _REMEMBERED:
        del table[next(iter(table))]  # type: ignore[arg-type]
