"""`condor_awsbatch create`, `delete`, `update`, `image` and `doctor` as a person meets them."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from gahp.cli import create, doctor, image, main
from gahp.local import LocalAws
from gahp.model import Refused
from gahp.provision.image import Step

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "tests" / "data" / "pegasus-example" / "README.md"
VERBS = ("create", "delete", "update", "image", "doctor")
ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    with LocalAws(tmp_path_factory.mktemp("aws"), vcpus=8) as aws:
        yield aws
        assert aws.violations() == []


@pytest.fixture
def desk(aws, tmp_path, monkeypatch):
    """A folder with conf/ in it, as somebody would sit in who follows the manual, with credentials in the environment."""
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setattr(main, "VERBS", tuple(dict.fromkeys((*main.VERBS, *VERBS))))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    yield tmp_path
    aws.reset()


def run(*words: str) -> int:
    return main.main([str(word) for word in words])


def edit(path: Path, *pairs: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@pytest.fixture
def edited(desk, aws):
    """The edits that the example's README names, for a network that is there, and the roles that it has one make."""
    from gahp.local import site

    state = aws.state
    ec2, iam = (site.client(name, state.endpoint, state.access_key, state.secret_key) for name in ("ec2", "iam"))
    west = create_client(aws, "ec2")
    subnet, group = west.describe_subnets()["Subnets"][0], west.describe_security_groups()["SecurityGroups"][0]
    assert ec2 is not None
    for role in ("AWSBatchServiceRole", "ecsInstanceRole", "batchJobRole"):
        iam.create_role(RoleName=role, AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="ecsInstanceRole")
    edit(desk / "conf/sample-job-definition.json", ("ACCOUNT.dkr.ecr.REGION", f"{ACCOUNT}.dkr.ecr.us-west-2"))
    edit(desk / "conf/sample-compute-env.json", ("subnet-XXXXXXXX", subnet["SubnetId"]), ("sg-XXXXXXXX", group["GroupId"]))
    edit(desk / "conf/pegasusrc", ("[your aws account id - digits]", ACCOUNT))
    return desk


def create_client(aws, service):
    import boto3

    environment = aws.environment()
    return boto3.client(
        service,
        endpoint_url=aws.endpoint,
        region_name="us-west-2",
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )


def words_of_the_readme() -> list[str]:
    """The command of the example's README, less the name of Pegasus's program."""
    (line,) = re.findall(r"^\$  (pegasus-aws-batch .*--create.*)$", README.read_text(), re.M)
    return shlex.split(line)[1:]


def test_the_readme_of_the_example_can_be_followed_word_for_word(edited, capsys):
    assert run("create", *words_of_the_readme()) == 0
    said = capsys.readouterr().out
    name = "pegasus-awsbatch-example"
    arn = f"arn:aws:batch:us-west-2:{ACCOUNT}"
    assert f"Created the job definition {arn}:job-definition/{name}-job-definition:1\n" in said
    assert f"{arn}:compute-environment/{name}-compute-env\n" in said
    assert f"{arn}:job-queue/{name}-job-queue\n" in said
    assert re.search(r"^Time taken is [0-9.]+ seconds$", said, re.M)
    assert run("create", *words_of_the_readme()) == 0
    assert "Nothing had to be changed." in capsys.readouterr().out


def test_a_job_runs_on_what_the_readme_has_made(edited, capsys, monkeypatch):
    assert run("create", *words_of_the_readme(), "--write-config", "50-site.conf") == 0
    knobs = dict(line.split(" = ") for line in Path("50-site.conf").read_text().splitlines()[1:])
    assert sorted(knobs) == ["AWSBATCH_JOB_DEFINITION", "AWSBATCH_JOB_QUEUE", "AWSBATCH_REGION", "AWSBATCH_S3_URL"]
    for name, value in knobs.items():
        monkeypatch.setenv(f"_CONDOR_{name}", value)
    monkeypatch.setenv("CONDOR_CONFIG", "ONLY_ENV")
    capsys.readouterr()
    assert run("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert "all its output came back" in found["checks"][-1]["text"]


@pytest.mark.parametrize(("asked", "written"), [("site-job", "site-job"), ("site-job:1", "site-job:1")])
def test_a_revision_that_was_asked_for_is_written_and_no_other(desk, aws, asked, written):
    container = {"image": "x", "vcpus": 1, "memory": 64}
    batch = create_client(aws, "batch")
    for _ in range(2):
        batch.register_job_definition(jobDefinitionName="site-job", type="container", containerProperties=container)
    place = ("--prefix", "revisions", "--region", "us-west-2")
    assert run("create", *place, "--job-definition", asked, "--write-config", "site.conf") == 0
    assert f"AWSBATCH_JOB_DEFINITION = {written}\n" in Path("site.conf").read_text()


def test_help_names_every_verb(desk, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(f"\n    {verb} " in said for verb in VERBS)


def test_what_is_wrong_is_one_line_and_the_exit_code_1(desk, capsys):
    assert run("create", *words_of_the_readme()) == 1
    assert capsys.readouterr().err.splitlines() == [
        "condor_awsbatch: The AWS account '[your aws account id - digits]' is not a number of 12 digits: edit "
        "pegasus.aws.account in the properties file, or give --account."
    ]


def test_interrupted_it_says_that_another_run_goes_on(edited, capsys, monkeypatch):
    from gahp.provision import entities

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(entities, "ensure", interrupt)
        assert run("create", *words_of_the_readme()) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err
    assert run("create", *words_of_the_readme()) == 0


def test_delete_asks_and_takes_no_for_an_answer(edited, capsys, monkeypatch):
    run("create", *words_of_the_readme())
    place = ("--conf", "conf/pegasusrc", "--prefix", "pegasus-awsbatch-example")
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("delete", *place) == 1
    assert "Nobody is there to ask: give --yes" in capsys.readouterr().err
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    for answer in ("n", "", "what?"):
        monkeypatch.setattr("builtins.input", lambda text, answer=answer: answer)
        assert run("delete", *place) == 1
        assert "Nothing was deleted." in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda text: "y")
    assert run("delete", *place) == 0
    said = capsys.readouterr().out
    assert "Deleted the job queue pegasus-awsbatch-example-job-queue" in said and "role" not in said
    assert run("delete", *place) == 0
    assert "There is nothing of the prefix pegasus-awsbatch-example in us-west-2." in capsys.readouterr().out


def test_update_needs_something_to_do(desk, capsys):
    assert run("update", "--prefix", "p", "--region", "us-west-2") == 1
    assert "Nothing is asked for" in capsys.readouterr().err


def test_update_changes_what_create_made(edited, aws, capsys):
    run("create", *words_of_the_readme())
    place = ("--conf", "conf/pegasusrc", "--prefix", "pegasus-awsbatch-example")
    assert run("update", *place, "--max-vcpus", "64", "--state", "DISABLED") == 0
    assert "maxvCpus 2 -> 64" in capsys.readouterr().out
    (queue,) = create_client(aws, "batch").describe_job_queues()["jobQueues"]
    assert queue["state"] == "DISABLED"


def test_a_configuration_file_of_somebody_else_is_left_alone(edited, capsys):
    Path("site.conf").write_text("AWSBATCH_REGION = mine\n")
    assert run("create", *words_of_the_readme(), "--write-config", "site.conf") == 1
    assert "which this command has not written" in capsys.readouterr().err
    assert Path("site.conf").read_text() == "AWSBATCH_REGION = mine\n"
    assert run("create", *words_of_the_readme(), "--write-config", "nowhere/site.conf") == 1
    assert "the folder is not there" in capsys.readouterr().err


def test_a_dry_run_prints_calls_and_configuration_and_does_nothing(edited, aws, capsys):
    assert run("create", *words_of_the_readme(), "--dry-run", "--write-config", "site.conf") == 0
    said = capsys.readouterr().out
    assert "would call batch:CreateComputeEnvironment {" in said
    assert "AWSBATCH_JOB_QUEUE = pegasus-awsbatch-example-job-queue" in said
    assert not Path("site.conf").exists()
    assert create_client(aws, "batch").describe_job_queues()["jobQueues"] == []


def test_the_steps_of_the_image_are_printed(desk, capsys):
    assert run("image", "build", "--folder", str(ROOT / "image"), "--platform", "linux/arm64") == 0
    assert capsys.readouterr().out == (
        f"docker build --platform linux/arm64 --tag awsbatch/fetch_and_run {shlex.quote(str(ROOT / 'image'))}\n"
    )
    assert run("image", "push", "--region", "eu-west-1", "--account", ACCOUNT, "--name", "awsbatch/mine:7") == 0
    registry = f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com"
    assert capsys.readouterr().out.splitlines() == [
        f"# The image will be {registry}/awsbatch/mine:7",
        "aws ecr create-repository --region eu-west-1 --repository-name awsbatch/mine",
        "aws ecr get-login-password --region eu-west-1 | docker login --username AWS --password-stdin " + registry,
        f"docker tag awsbatch/mine:7 {registry}/awsbatch/mine:7",
        f"docker push {registry}/awsbatch/mine:7",
    ]


def test_the_account_of_the_image_is_that_of_the_credentials(desk, capsys):
    assert run("image", "push", "--region", "eu-west-1") == 0
    assert f"docker push {ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/awsbatch/fetch_and_run:latest" in capsys.readouterr().out


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Programs docker and aws that write down how they were called; aws finds the repository there."""
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    (folder / "docker").write_text(f'#!/bin/sh\necho "docker $*" >> {log}\n[ "$1" != login ] || cat >> {log}\n')
    (folder / "aws").write_text(
        '#!/bin/sh\ncase "$2" in\nget-login-password) echo secret;;\n'
        "create-repository) echo 'An error occurred (RepositoryAlreadyExistsException)' >&2; exit 254;;\nesac\n"
    )
    for program in folder.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return log


def test_the_steps_are_run_and_a_repository_that_is_there_is_no_error(desk, programs):
    assert run("image", "push", "--region", "eu-west-1", "--account", ACCOUNT, "--run") == 0
    registry = f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com"
    assert programs.read_text().splitlines() == [
        f"docker login --username AWS --password-stdin {registry}",
        "secret",
        f"docker tag awsbatch/fetch_and_run {registry}/awsbatch/fetch_and_run:latest",
        f"docker push {registry}/awsbatch/fetch_and_run:latest",
    ]


def test_a_step_that_fails_or_is_missing_ends_with_a_sentence(desk, programs, monkeypatch):
    with pytest.raises(Refused, match="false a failed: exit code 1"):
        image._run(Step(("false", "a")))
    with pytest.raises(Refused, match="none-such is not installed here"):
        image._run(Step(("none-such",)))
    with pytest.raises(Refused, match="false failed"):
        image._run(Step(("true",), stdin=("false",)))
    assert run("image", "build", "--folder", "nowhere", "--run") == 1
    assert run("image", "build", "--name", "A B") == 1


def test_without_utf_8_the_doctor_speaks_ascii(desk):
    """In a process of its own, as a terminal would have it."""
    code = "import sys; from gahp.cli import main; main.VERBS += ('doctor',); sys.exit(main.main(['doctor', '--no-probe']))"
    found = {}
    for encoding in ("ascii", "utf-8"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "_CONDOR_AWSBATCH_S3_URL": "none"}
        done = subprocess.run([os.sys.executable, "-c", code], capture_output=True, env=environment, check=False)
        assert done.returncode == 1, done.stderr
        found[encoding] = done.stdout.decode()
    assert found["ascii"].isascii() and "[FAIL] configuration: AWSBATCH_S3_URL" in found["ascii"]
    assert "✗ configuration: AWSBATCH_S3_URL" in found["utf-8"] and "✓ versions: " in found["utf-8"]


def test_marks_are_for_encodings_that_have_them():
    assert doctor.speaks_unicode("utf-8")
    assert not doctor.speaks_unicode("latin-1") and not doctor.speaks_unicode(None) and not doctor.speaks_unicode("none-such")


def test_progress_replaces_itself_on_a_terminal_and_is_a_line_elsewhere(monkeypatch, capsys):
    console = create.Console()
    console.progress("the job queue x is CREATING, 0 s")
    console.progress("the job queue x is CREATING, 5 s")
    console.progress("")
    console.say("done")
    said = capsys.readouterr()
    assert said.err == "the job queue x is CREATING, 0 s\n" and said.out == "done\n"
