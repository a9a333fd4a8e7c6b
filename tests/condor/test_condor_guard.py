"""A pool whose tests are killed does not outlive them. Needs no HTCondor: any process with the pool's configuration is of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.condor.pool import Pool

TESTS = """
import os, subprocess, sys, time
from pathlib import Path
from tests.condor.guard import guarded
from tests.condor.pool import Pool
folder = Path(sys.argv[1])
pool = Pool(folder / "prefix", folder / "pool")
pool.folder.mkdir(parents=True)
with guarded(pool, folder):
    subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, env={"CONDOR_CONFIG": str(pool.config)}, start_new_session=True)
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_pool_is_ended_when_its_tests_are_killed_and_else_left_to_them(tmp_path, killed):
    folder = tmp_path / "site"
    folder.mkdir()
    command = [sys.executable, "-c", TESTS, str(folder)]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pool = Pool(folder / "prefix", folder / "pool")
    try:
        assert process.stdout.readline() == b"up\n"
        assert len(pool.processes()) == 1
        if killed:
            os.kill(process.pid, signal.SIGKILL)
        process.stdin.close()
        process.wait(60)
        until = time.monotonic() + 60
        while killed and (pool.processes() or folder.exists()) and time.monotonic() < until:
            time.sleep(0.1)
        assert (len(pool.processes()), folder.exists()) == ((0, False) if killed else (1, True))
    finally:
        for left in pool.processes():
            left.kill()
