"""What a run puts into S3: input files by base name below the key prefix, and objects of its own. Knows files and the store."""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
from collections.abc import Iterable

from gahp.model import Refused
from gahp.sandbox.store import Store


def parse_url(url: str) -> tuple[str, str]:
    """Bucket and key prefix (without slashes around it) of s3://BUCKET/KEY. Raises Refused."""
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url)
    if match is None:
        raise Refused(f"{url} is no place in S3: use s3://BUCKET/KEY.")
    return match[1], (match[2] or "").strip("/")


class Uploads:
    """The bucket of a run, below its key prefix; nothing else in it is ever touched."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._written: set[str] = set()

    @staticmethod
    def distinct(paths: Iterable[str]) -> list[str]:
        """Each file once. Raises Refused: one cannot be read, or two that differ would get the same name in S3."""
        by_name: dict[str, str] = {}
        for path in dict.fromkeys(paths):
            name = os.path.basename(path)
            if not os.path.isfile(path) or not os.access(path, os.R_OK):
                raise Refused(f"The input file {path} is not there, or cannot be read.")
            other = by_name.setdefault(name, path)
            if other != path and not os.path.samefile(other, path) and not filecmp.cmp(other, path, shallow=False):
                raise Refused(f"The input files {other} and {path} differ, and would both be {name} in S3: rename one of them.")
        return list(by_name.values())

    def file(self, path: str) -> None:
        """Upload a file under its base name. Raises Refused or Transient."""
        try:
            with open(path, "rb") as file:
                digest = hashlib.sha256()
                while block := file.read(1 << 20):
                    digest.update(block)
                size = file.seek(0, os.SEEK_CUR)
                file.seek(0)
                name = os.path.basename(path)
                self._store.put_blob(name, file, size, digest.hexdigest())
                self._written.add(name)
        except OSError as error:
            raise Refused(f"The input file {path} cannot be read: {error.strerror}.") from error

    def content(self, key: str, body: bytes) -> None:
        """Store an object of the run's own. Raises Refused or Transient."""
        self._store.put(key, body)

    def clean(self, key: str) -> None:
        """Delete the run's own objects. Raises Refused or Transient."""
        self._store.delete_below(f"{key}/")

    def clean_files(self) -> None:
        """Delete the files that were uploaded, for a bucket that goes with the run."""
        for name in sorted(self._written):
            self._store.delete(name)
