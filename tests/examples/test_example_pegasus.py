"""The Pegasus example: what its generator writes is what the planner has taken, in each configuration and for both versions."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "blackdiamond-pegasus"
PLANNED = ROOT / "tests" / "data" / "pegasus" / "planned.tar.xz"


def generate(folder, *options):
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "workflow.py"), *options], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_text() for path in folder.iterdir()}


def site_of(text):
    (site,) = (site for site in yaml.safe_load(text)["sites"] if site["name"] == "awsbatch")
    return site


def recorded_site(name):
    with tarfile.open(PLANNED) as tar:
        text = tar.extractfile(f"{name}/catalogs/sites.yml").read().decode()
    return site_of(re.sub("@([A-Z_]+)@", r"/\1", text))


@pytest.mark.parametrize(
    ("recorded", "options"),
    [
        ("5.1.2/condorio", ("--data=condorio", "--pegasus=5.1.2", "--scratch=/DATA_DIR/scratch")),
        ("5.1.3/condorio-glite", ("--data=condorio", "--scratch=/DATA_DIR/scratch")),
        ("5.1.3/nonsharedfs", ("--data=nonsharedfs", "--scratch=/DATA_DIR/scratch")),
        ("5.1.3/nonsharedfs-s3", ("--data=nonsharedfs", "--scratch=s3://user@amazon/my-bucket/scratch")),
        ("5.1.3/sharedfs", ("--data=sharedfs", "--scratch=/DATA_DIR/scratch", "--pegasus-home=/PEGASUS_HOME")),
    ],
)
def test_the_site_is_written_as_the_planner_has_taken_it(tmp_path, recorded, options):
    written = site_of(generate(tmp_path, "--queue=pegasus-queue", *options)["sites.yml"])
    assert written == recorded_site(recorded)


def test_the_workflow_has_four_jobs_whose_files_tell_their_order_and_programs_that_are_there(tmp_path):
    files = generate(tmp_path)
    workflow = yaml.safe_load(files["workflow.yml"])
    order = {entry["id"]: entry["children"] for entry in workflow["jobDependencies"]}
    names = {job["id"]: job["name"] for job in workflow["jobs"]}
    (first,) = (job for job, name in names.items() if name == "preprocess")
    assert {names[child] for child in order[first]} == {"findrange"}
    assert [names[child] for middle in order[first] for child in order[middle]] == ["analyze", "analyze"]
    programs = [entry["sites"][0]["pfn"] for entry in yaml.safe_load(files["transformations.yml"])["transformations"]]
    assert sorted(Path(program).name for program in programs) == ["analyze", "findrange", "preprocess"]
    assert all(Path(program).is_file() for program in programs)


def test_without_a_planner_the_script_says_so_and_leaves_what_it_wrote(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    run = tmp_path / "run"
    run.mkdir()
    done = subprocess.run(
        [str(EXAMPLE / "plan-and-submit")], cwd=run, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 127
    assert "pegasus-plan" in done.stderr
    assert (run / "workflow.yml").exists()


def test_a_scratch_directory_is_taken_from_here_and_a_url_without_a_bucket_is_refused(tmp_path):
    (directory,) = site_of(generate(tmp_path, "--data=sharedfs", "--scratch=lab")["sites.yml"])["directories"]
    assert directory["path"] == f"{tmp_path}/lab"
    words = [sys.executable, str(EXAMPLE / "workflow.py"), "--scratch=s3://alice@amazon"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "give s3://USER@SITE/BUCKET/KEY" in done.stderr


def test_help_plans_nothing_and_a_missing_pegasus_is_one_sentence(tmp_path):
    def run(*words):
        environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)} if "-S" not in words else None
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert "--scratch" in run(str(EXAMPLE / "plan-and-submit"), "--help").stdout
    said = run(sys.executable, "-S", str(EXAMPLE / "workflow.py")).stderr
    assert said.startswith("workflow.py: Pegasus's Python API is not installed") and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
