"""The embedded AWS from outside: start it, ask it, order faults, stop it. Python's side of `condor_awsbatch local`.

Knows the server process and its files; imports neither moto nor boto3 until a client is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

from gahp.model import Refused

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """How to reach a running server; what server.py wrote into its directory."""

    pid: int
    created: float
    endpoint: str
    access_key: str
    secret_key: str

    @property
    def alive(self) -> bool:
        """Whether that very process still runs, not another one with its number."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def read_state(directory: Path) -> State | None:
    """The server that runs in `directory`, or None."""
    try:
        state = State(**json.loads((directory / "server.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return state if state.alive else None


def default_vcpus() -> int:
    """Jobs mostly wait: more of them than cores may run at once."""
    return max(8, 4 * (os.cpu_count() or 1))


def default_memory_mib() -> int:
    return psutil.virtual_memory().total >> 20


def launch(directory: Path, words: list[str], *, log: IO[bytes] | int, detached: bool) -> subprocess.Popen[bytes]:
    """Start a server and wait until it answers. Raises Refused with what went wrong; then nothing is left of it."""
    for module in ("moto", "flask", "psutil"):
        if importlib.util.find_spec(module) is None:
            raise Refused(f"{module} is not installed, which the embedded AWS needs: pip install 'awsbatch-gahp[local]'")
    ready, told = os.pipe()
    command = [sys.executable, "-m", "gahp.local.server", "--directory", str(directory), "--ready-fd", str(told), *words]
    # The server's own boto3 must not pick up the settings of whoever starts it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    try:
        process = subprocess.Popen(
            [*command, *([] if detached else ["--watch-stdin"])],
            env=environment,
            stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(told,),
            start_new_session=True,
        )
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(told)
    done = False
    try:
        with os.fdopen(ready) as file, _deadline(process, _START_LIMIT_S):
            answer = file.readline()
        if answer == "":
            raise Refused(f"The embedded AWS did not start: see {directory / 'log'}")
        if answer != "\n":
            raise Refused(f"The embedded AWS did not start: {answer.strip()}")
        done = True
        return process
    finally:
        if not done:
            end(process)


@contextlib.contextmanager
def _deadline(process: subprocess.Popen[bytes], limit_s: float) -> Iterator[None]:
    """Whoever waits for the process inside waits no longer than this."""
    timer = threading.Timer(limit_s, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a server that we started, jobs and all."""
    if process.stdin is not None:
        process.stdin.close()
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def order(state: State, method: str, path: str, content: object = None) -> Any:
    """One request to the control endpoint. Raises Refused."""
    connection = http.client.HTTPConnection(state.endpoint.removeprefix("http://"), timeout=60)
    try:
        body = None if content is None else json.dumps(content)
        connection.request(method, f"/_local/{path}", body, {"X-Local-Secret": state.secret_key})
        reply = connection.getresponse()
        answer = json.loads(reply.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Refused(f"The embedded AWS at {state.endpoint} does not answer: {error}") from error
    finally:
        connection.close()
    if reply.status != 200:
        raise Refused(f"The embedded AWS refused {method} {path}: {answer.get('error')}")
    return answer


class Faults:
    """Faults of a running server; see faults.Fault for what each does. `options`: probability, count, skip."""

    def __init__(self, state: State) -> None:
        self._state = state

    def add(self, kind: str, **fields: Any) -> None:
        order(self._state, "POST", "faults", {"kind": kind, **fields})

    def throttle(self, action: str, per_second: float) -> None:
        """Calls of `action` beyond that many a second: 429 (Batch) or 503 SlowDown (S3)."""
        self.add("throttle", action=action, per_second=per_second)

    def lose_reply(self, action: str, **options: Any) -> None:
        """The call is carried out, and its connection closed without an answer."""
        self.add("lost_reply", action=action, **options)

    def fail(self, action: str, status: int = 500, code: str = "", message: str = "", **options: Any) -> None:
        """An error instead of the call."""
        self.add("error", action=action, status=status, code=code, message=message, **options)

    def delay(self, action: str, seconds: float, **options: Any) -> None:
        self.add("delay", action=action, seconds=seconds, **options)

    def reset_connection(self, action: str, **options: Any) -> None:
        """The connection is reset, and nothing is carried out."""
        self.add("reset", action=action, **options)

    def expire_credentials(self, seconds: float = 0.0, action: str = "*") -> None:
        """The credentials have expired, for so long; 0: until cleared."""
        self.add("expired", action=action, seconds=seconds)

    def stuck(self, queue: str = "*", name: str = "*") -> None:
        """Jobs of that queue and name stay RUNNABLE."""
        self.add("stuck", queue=queue, name=name)

    def pull_error(self, name: str = "*", message: str = "", **options: Any) -> None:
        """The image of jobs of that name cannot be pulled."""
        self.add("pull_error", name=name, message=message, **options)

    def entity_status(self, name: str, status: str, reason: str = "", **options: Any) -> None:
        """Compute environments and job queues of that name show that status, such as INVALID, with that reason."""
        self.add("entity", name=name, code=status, message=reason, **options)

    def list_lag(self, seconds: float) -> None:
        """ListJobs does not show jobs younger than that."""
        self.add("list_lag", seconds=seconds)

    def vanish(self, job_id: str) -> bool:
        """The host under that job goes away now. False if the job does not run."""
        return bool(order(self._state, "POST", "vanish", {"jobId": job_id})["found"])

    def seed(self, number: int) -> None:
        """Faults with a probability strike alike after the same seed."""
        order(self._state, "POST", "seed", {"seed": number})

    def listed(self) -> list[dict[str, Any]]:
        return list(order(self._state, "GET", "faults"))

    def clear(self, kind: str = "") -> None:
        order(self._state, "DELETE", "faults", {"kind": kind})


class LocalAws:
    """An embedded AWS for as long as a `with` block, in a directory of its own.

    It ends with the block, and also when this process ends in whatever way. `time_scale` multiplies jobs' time limits and, unless
    `grace_s` says otherwise, the 30 s between SIGTERM and SIGKILL; of `gpus` only the number counts; `faults` (see faults.Fault)
    are there from the start. Raises Refused if it cannot start.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int = 0,
        vcpus: int | None = None,
        memory_mib: int | None = None,
        gpus: int = 0,
        time_scale: float = 1.0,
        grace_s: float | None = None,
        isolate: bool = True,
        faults: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.directory = Path(directory).absolute()
        self._first_faults = faults
        self._words = [
            *("--port", str(port)),
            *("--vcpus", str(vcpus or default_vcpus())),
            *("--memory", str(memory_mib or default_memory_mib())),
            *("--gpus", str(gpus)),
            *("--time-scale", str(time_scale)),
            *(() if grace_s is None else ("--grace", str(grace_s))),
            *(() if isolate else ("--no-isolation",)),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._state: State | None = None

    def __enter__(self) -> LocalAws:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.directory / "log", "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
            self._process = launch(self.directory, self._words, log=log, detached=False)
        self._state = read_state(self.directory)
        for fault in self._first_faults:
            order(self.state, "POST", "faults", dict(fault))

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = self._state = None

    @property
    def state(self) -> State:
        if self._state is None:
            raise Refused("The embedded AWS does not run.")
        return self._state

    @property
    def pid(self) -> int:
        return self.state.pid

    @property
    def endpoint(self) -> str:
        return self.state.endpoint

    @property
    def faults(self) -> Faults:
        return Faults(self.state)

    def environment(self) -> dict[str, str]:
        """The variables with which this program, boto3 and the aws command use it."""
        from gahp.local import site  # noqa: PLC0415  boto3 only when it is needed

        return site.environment(self.state.endpoint, self.state.access_key, self.state.secret_key)

    def client(self, service: str) -> Any:
        """A boto3 client of it without retries; it raises validate.ModelViolation for what the service model does not allow."""
        from gahp.local import site, validate  # noqa: PLC0415

        return validate.watch_client(site.client(service, self.state.endpoint, self.state.access_key, self.state.secret_key))

    def calls(self) -> dict[str, int]:
        """How often each action was called, such as `batch:SubmitJob`; calls that a fault refused count too."""
        return dict(order(self.state, "GET", "calls"))

    def requests(self) -> list[dict[str, Any]]:
        """The latest calls, oldest first: time, action, path, outcome (status, "lost" or "reset"), for Batch the body."""
        return list(order(self.state, "GET", "requests"))

    def forget_calls(self) -> None:
        """Count from nothing again."""
        order(self.state, "DELETE", "calls")

    def violations(self) -> list[str]:
        """What was wrong with answers of the endpoint itself: a bug of it if there is one."""
        return list(order(self.state, "GET", "violations"))

    def status(self) -> dict[str, Any]:
        """`since` (seconds since the epoch) and `jobs`, the number of jobs by status."""
        return dict(order(self.state, "GET", "status"))

    def reset(self) -> None:
        """Forget all jobs, objects and faults; the bucket, queue and definition are made anew."""
        order(self.state, "POST", "reset")
