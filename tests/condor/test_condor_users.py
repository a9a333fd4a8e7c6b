"""A site's pool, its daemons started by root: each user has a GAHP, a journal and an AWS account of their own."""

import pwd
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from gahp.limits import snapshot
from gahp.local import LocalAws
from tests.condor import pool as pools
from tests.condor.guard import guarded
from tests.condor.jobs import GRID, KNOBS, TERMINATED, no_pool_is_told, read_log, until

# Accounts that every Debian has and nobody uses.
NAMES = ("games", "news")


def account(name):
    entry = pwd.getpwnam(name)
    return pools.Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


@pytest.fixture
def shared_pool(prefix):
    """A pool of two users, each with an embedded AWS that knows the credentials of that user only; the two of them by name."""
    folder = Path(tempfile.mkdtemp(prefix="awsbatch-users-"))
    folder.chmod(0o755)
    users = [account(name) for name in NAMES]
    try:
        with no_pool_is_told():
            pool = pools.Pool(prefix, folder / "pool", users)
        with guarded(pool, folder), LocalAws(folder / "one") as one, LocalAws(folder / "two") as two:
            pool.prepare()
            for user, aws in zip(users, (one, two), strict=True):
                pool.credentials(aws.environment(), user, endpoint_url=aws.endpoint)
            pools.install(pool, one.environment(), **KNOBS)
            pool.set(pools.TEST_KNOBS)
            try:
                with no_pool_is_told():
                    pool.up()
                yield pool, dict(zip(users, (one, two), strict=True))
            finally:
                left = pool.down()
            assert not [words for words in left if pools.is_gahp(words)], "a GAHP did not end by itself"
            assert pool.processes() == []
    finally:
        shutil.rmtree(folder)


def test_two_users_have_gahps_of_their_own_and_cannot_read_each_others_journal_log_or_sandbox(shared_pool):
    pool, users = shared_pool
    for user in users:
        folder = pool.own(pool.folder / "work" / user.name, user)
        folder.chmod(0o700)
        (folder / "program").write_text("#!/bin/bash\ncat secret; sleep 3\n")
        (folder / "program").chmod(0o755)
        pool.own(folder / "program", user)
        (folder / "secret").write_text(f"of {user.name}\n")
        pool.own(folder / "secret", user).chmod(0o600)
        (folder / "sub").write_text(
            f"{GRID}executable = program\noutput = out\nlog = log\ntransfer_input_files = secret\nqueue\n"
        )
        pool.run("condor_submit", "sub", folder=folder, account=user)
    owners = set()

    def over():
        for process in pool.processes("gahp.server") + pool.processes("awsbatch_gahp"):
            owners.add(process.username())
        logs = [read_log(pool.folder / "work" / user.name / "log") for user in users]
        return all(any(event.number == TERMINATED for event in log) for log in logs)

    until(over, lambda: f"the jobs do not end: {pool.run('condor_q', '-allusers', '-nobatch', check=False).stdout}")
    assert owners == set(NAMES)
    # Of the directory that root's installation has made.
    limits = pool.run("condor_config_val", "AWSBATCH_LIMITS_DIR").stdout.strip()
    assert Path(limits).stat().st_uid == 0 and [pace.kind for pace in snapshot(limits).paces] == ["end", "submit", "status"]
    assert not [user for user in users if (pool.home_of(user) / ".local/state/awsbatch_gahp/limits").exists()]
    for user, aws in users.items():
        (other,) = (each for each in users if each != user)
        folder = pool.folder / "work" / user.name
        assert (folder / "out").read_text() == f"of {user.name}\n"
        assert (folder / "out").owner() == user.name
        state = pool.home_of(user) / ".local/state/awsbatch_gahp"
        assert len(list(state.rglob("*"))) >= 2
        # SQLite's own files beside the journal go when the GAHP ends, which it may do just now.
        for path in [state, *(path for path in state.rglob("*") if not path.name.endswith(("-shm", "-wal", ".lock")))]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
            assert path.owner() == user.name
            command = ("ls" if path.is_dir() else "cat", str(path))
            seen = [pool.run(*command, check=False, account=each).returncode == 0 for each in (user, other)]
            assert seen == [True, False], path
        batch = aws.client("batch")
        queue = aws.environment()["_CONDOR_AWSBATCH_JOB_QUEUE"]
        filters = [{"name": "JOB_NAME", "values": ["*"]}]
        (row,) = batch.list_jobs(jobQueue=queue, filters=filters)["jobSummaryList"]
        (job,) = batch.describe_jobs(jobs=[row["jobId"]])["jobs"]
        assert job["tags"]["HTCondorOwner"] == user.name
