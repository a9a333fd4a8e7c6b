"""Ends a pool whose tests have died: a process of its own that waits for the end of whoever started it.

A pool's daemons are in sessions of their own, and outlive a pytest that is killed. The guard reads from a pipe which the kernel
closes with that process, however it ends.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.condor.pool import Pool

_DONE = b"done"


@contextlib.contextmanager
def guarded(pool: Pool, folder: Path) -> Iterator[None]:
    """If this process dies inside the block, the pool is stopped and `folder`, which it lies in, deleted all the same."""
    words = [sys.executable, str(Path(__file__).resolve()), str(pool.prefix), str(pool.folder), str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, cwd="/", start_new_session=True) as process:
        assert process.stdin is not None
        try:
            yield
        finally:
            process.stdin.write(_DONE)
            process.stdin.close()


def main() -> int:
    prefix, pool, folder = map(Path, sys.argv[1:])
    if sys.stdin.buffer.read() != _DONE:
        Pool(prefix, pool).down()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
