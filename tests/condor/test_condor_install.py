"""`condor_awsbatch install` and `uninstall` with HTCondor's own condor_config_val. Needs no pool that runs."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gahp.cli.install import FILE_NAME

ROOT = Path(__file__).resolve().parents[2]
SITE = ["--queue", "q", "--definition", "d", "--s3", "s3://bucket/prefix", "--region", "eu-central-1"]


@pytest.fixture
def folders(tmp_path):
    """The folders that this machine's HTCondor reads, in their order."""
    folders = [tmp_path / "first.d", tmp_path / "last.d"]
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.fixture
def local():
    """LOCAL_DIR: what is this host's, where all users can come to."""
    path = Path(tempfile.mkdtemp(prefix="awsbatch-local-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def verb(prefix, tmp_path, folders, local):
    """Runs a verb of condor_awsbatch on a machine with this HTCondor."""
    config = tmp_path / "condor_config"
    names = ", ".join(map(str, folders))
    config.write_text(f"RELEASE_DIR = {prefix}/usr\nLOCAL_DIR = {local}\nLOCAL_CONFIG_DIR = {names}\n")
    environment = {**os.environ, "CONDOR_CONFIG": str(config), "PATH": f"{prefix}/bin:/usr/bin:/bin"}

    def verb(*words):
        command = [sys.executable, "-m", "gahp.cli.main", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return verb


def test_install_finds_the_last_folder_and_htcondor_has_every_setting_until_uninstall(verb, folders, local):
    path = folders[-1] / FILE_NAME
    done = verb("install", *SITE)
    assert (done.returncode, done.stderr) == (0, "")
    limits = local / "lib/awsbatch_gahp/limits"
    by_root = os.geteuid() == 0
    assert done.stdout.splitlines() == [
        *([f"All users of this host share in {limits} what is learnt of AWS's limits."] if by_root else []),
        f"{path} was written.",
        "HTCondor has every setting of it (condor_config_val). For running daemons: condor_reconfig.",
    ]
    assert limits.exists() == by_root
    done = verb("uninstall")
    assert done.returncode == 0
    assert f"{path} was removed." in done.stdout
    assert not path.exists() and not limits.exists()


def test_install_names_the_file_that_has_another_transform_of_that_name(verb, folders):
    other = folders[-1] / "99-local.conf"
    other.write_text("JOB_TRANSFORM_AwsBatch @=end\n   NAME AwsBatch\n   SET Mine 1\n@end\n")
    done = verb("install", *SITE)
    assert done.returncode == 1
    assert f"JOB_TRANSFORM_AwsBatch is not the one of this file: see {other}" in done.stderr
