"""`condor_awsbatch logs`: what a job wrote: from CloudWatch while it runs, followed live; from its files or S3 once it has ended.

What a job wrote is data: a terminal gets it with its control characters shown, a pipe gets it as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO

from gahp import history
from gahp.cli import views
from gahp.cli.explain import printable
from gahp.history import History
from gahp.model import JobRequest, Refused, Transient, one_line, to_bytes, to_text
from gahp.run import RunState

SUMMARY = "show what a job wrote: live from CloudWatch while it runs, from its files or S3 when it has ended"

GROUP = "/aws/batch/job"
_CHUNK = 1 << 16
_PIECE = 16384  # Docker hands longer lines to its log drivers in pieces of this size
_LOOK_EVERY_S = 1.0
_ASK_BATCH_EVERY_S = 5.0
_LATE_S = 6.0  # a container's last lines may come to CloudWatch so long after its end, or after those before them
_TRIES = 10  # to read a log to its end
_PASSES = ("ThrottlingException", "ServiceUnavailableException")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Example: condor_awsbatch logs 120.3 -f"
    parser.add_argument("id", metavar="ID", help=views.IDENTIFIERS)
    parser.add_argument("-f", "-follow", "--follow", action="store_true", help="go on as the job writes, until it ends")
    parser.add_argument("-err", "--err", action="store_true", help="standard error (while a job runs, its log has both)")
    parser.add_argument("-attempt", "--attempt", type=_number, metavar="N", help="the log of its Nth start (default: the last)")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def run(options: argparse.Namespace) -> int:
    site = views.Site()
    found = views.newest(site.settings, options.id)
    show = Output()
    if options.attempt is not None:
        return _one_attempt(site, found, options, show)
    if found.state in (RunState.COLLECTING, RunState.COMPLETED, RunState.HELD, RunState.REMOVED):
        return _ended(site, found, options, show)
    [now], problem = views.refresh(site, [found])
    if problem:
        raise Refused(f"AWS Batch could not be asked how the job stands: {problem.partition(': ')[2]}")
    return _live(site, now, options, show)


class Output:
    """Standard output for text from a job: made harmless for a terminal, byte for byte for anything else."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._rest = b""
        self.wrote = False

    def put(self, data: bytes) -> None:
        self.wrote = self.wrote or bool(data)
        if not self._terminal:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._show(line, "\n")
        if len(self._rest) > _CHUNK:
            self._show(self._rest, "")
            self._rest = b""
        sys.stdout.flush()

    def end(self) -> None:
        if self._rest:
            self._show(self._rest, "\n")
            self._rest = b""
            sys.stdout.flush()

    @staticmethod
    def _show(line: bytes, end: str) -> None:
        text = to_text(line.removesuffix(b"\r")).expandtabs(8)
        print(printable(text), end=end)


def _ended(site: views.Site, found: History, options: argparse.Namespace, show: Output) -> int:
    """From the job's own file, else from S3, else what CloudWatch still has."""
    request = history.request(site.settings.state_dir, found.name)
    name = request.stderr if options.err else request.stdout
    word = "standard error" if options.err else "standard output"
    if name and found.program_started and found.state is not RunState.COLLECTING and (file := _opened(request, name)):
        with file:
            _copy(iter(partial(file.read, _CHUNK), b""), show)
        return 0
    if name and (pieces := _from_s3(site, found, options.err)) is not None:
        _copy(pieces, show)
        return 0
    if not name and found.program_started:
        views.note(f"the job threw its {word} away (/dev/null); this is its log in CloudWatch")
    if not (found.attempts and found.attempts[-1].log_stream):
        found = views.asked(site, found)
    if not found.attempts and not found.log_stream:
        raise Refused(f"The job {options.id} never started, so it wrote nothing: condor_awsbatch why {options.id} tells more.")
    stream = found.attempts[-1].log_stream if found.attempts else ""
    return _cloudwatch(site, found, stream or found.log_stream, options, show)


def _opened(request: JobRequest, name: str) -> BinaryIO | None:
    try:
        return open(to_bytes(os.path.join(request.iwd, name)), "rb")
    except OSError:
        return None


def _copy(pieces: Iterable[bytes], show: Output) -> None:
    for piece in pieces:
        show.put(piece)
    show.end()


def _from_s3(site: views.Site, found: History, error: bool) -> Iterator[bytes] | None:
    from gahp.sandbox import Sandbox  # noqa: PLC0415  boto3 is slow to load, and the file is there most times
    from gahp.site import clients  # noqa: PLC0415

    try:
        site.settings.require()
        client = clients(site.settings).s3
        sandbox = Sandbox(client, site.settings.bucket, site.settings.prefix, 1)
        try:
            return sandbox.stream(found.name, found.submission, error=error)
        finally:
            sandbox.close()
    except (Refused, Transient) as problem:
        views.note(f"S3 does not have it: {problem}")
        return None


def _one_attempt(site: views.Site, found: History, options: argparse.Namespace, show: Output) -> int:
    now = views.asked(site, found)
    if options.attempt > len(now.attempts):
        count = len(now.attempts)
        attempts = f"{count} attempt{'' if count == 1 else 's'}"
        raise Refused(f"The job {options.id} has had {attempts}, so there is no log of attempt {options.attempt}.")
    if options.attempt == len(now.attempts) and not now.final:
        return _live(site, now, options, show)
    return _cloudwatch(site, now, now.attempts[options.attempt - 1].log_stream, options, show)


def _cloudwatch(site: views.Site, found: History, stream: str, options: argparse.Namespace, show: Output) -> int:
    """All that a log stream has; the job does not write to it any more."""
    if not stream:
        raise Refused(
            f"AWS Batch names no log of the job {options.id}: its container never started."
            f" condor_awsbatch why {options.id} tells more."
        )
    log = Log(site, group_of(site, found), stream)
    for event in log.all():
        show.put(event)
    show.end()
    if log.missing:
        raise Refused(f"CloudWatch has no log {stream} in {log.group} (any more): its retention may have ended.")
    if options.err:
        views.note("a container's log has standard output and standard error together")
    return 0


def _live(site: views.Site, now: History, options: argparse.Namespace, show: Output) -> int:
    """What a job that has not ended wrote, and with -f what it writes, over all its attempts."""
    if now.status not in ("RUNNING", "SUCCEEDED", "FAILED") and not options.follow:
        if not now.attempts:
            state = views.state_of(now)
            raise Refused(
                f"The job {options.id} has not started ({state}): -f waits for it, condor_awsbatch why {options.id} says why."
            )
        return _cloudwatch(site, now, now.attempts[-1].log_stream, options, show)
    if options.err:
        views.note("while a job runs, its log has standard output and standard error together")
    log: Log | None = None
    since = 0.0  # Batch and the journal may tell of an attempt before once more
    shown: str | None = None
    for run in _watch(site, now) if options.follow else [now]:
        stream = run.log_stream if run.status in ("RUNNING", "SUCCEEDED", "FAILED") or run.final else ""
        if stream and (log is None or (stream != log.stream and run.started > since)):
            since = run.started
            if log is not None:
                _drain(log, show)
                show.end()
                views.note(f"attempt {len(run.attempts)} begins")
            log = Log(site, group_of(site, run), stream)
        elif log is None and shown != run.status:
            shown = run.status
            views.note(f"the job has not started yet ({views.state_of(run)})")
        if log is not None:
            for event in log.news() if options.follow else log.all():
                show.put(event)
    if log is not None and options.follow:
        _drain(log, show)
    show.end()
    if log is not None and not show.wrote:
        views.note("the job has written nothing so far" if not options.follow else "the job wrote nothing")
    return 0


def _watch(site: views.Site, run: History) -> Iterator[History]:
    """The run again and again until it has ended. The GAHP need not be there, and sees less often: Batch is asked now and then,
    and what it says stays until the journal knows more."""
    asked = time.monotonic()
    while True:
        yield run
        if run.final or run.state is RunState.COLLECTING or run.status in ("SUCCEEDED", "FAILED"):
            return
        time.sleep(_LOOK_EVERY_S)
        now = next(history.read(site.settings.state_dir, names=[run.name]), run)
        said = False
        if time.monotonic() - asked >= _ASK_BATCH_EVERY_S:
            asked = time.monotonic()
            [now], problem = views.refresh(site, [now])
            said = not problem
        if _goes_on(run, now, said=said):
            run = now


def _goes_on(run: History, now: History, *, said: bool) -> bool:
    """Whether `now` is later than what is known of the run. `said`: Batch itself says so; but a call may be answered by a part
    of Batch that has not heard of the last start yet."""
    if now.state is not RunState.SUBMITTED or now.submission != run.submission:
        return True
    if said and now.status != "RUNNING":
        return True
    return now.started >= run.started if said else now.started > run.started


def _drain(log: Log, show: Output) -> None:
    """The last lines of a container that has ended: until nothing has come for a while."""
    until = time.monotonic() + _LATE_S
    while time.monotonic() < until:
        for event in log.news():
            show.put(event)
            until = time.monotonic() + _LATE_S
        time.sleep(_LOOK_EVERY_S / 2)


class Log:
    """One log stream of CloudWatch, read on from where it was left. Raises Refused when it must not be read.

    `missing`: CloudWatch says that there is none.
    """

    def __init__(self, site: views.Site, group: str, stream: str) -> None:
        self._client = site.client("logs")
        self.group = group
        self.stream = stream
        self.missing = False
        self._token: dict[str, str] = {}

    def news(self) -> Iterator[bytes]:
        """The events since the last time, a line each. What passes (a lost connection, throttling) shows as no news."""
        try:
            yield from self._pages()
        except Transient:
            return

    def all(self) -> Iterator[bytes]:
        """All events, a line each. Raises Refused when CloudWatch does not give them all."""
        for left in reversed(range(_TRIES)):
            try:
                yield from self._pages()
                return
            except Transient as error:
                if not left:
                    raise Refused(str(error)) from error
                time.sleep(_LOOK_EVERY_S)

    def _pages(self) -> Iterator[bytes]:
        """What follows the last page. A page may be empty with more behind it: the end is where CloudWatch gives back the token
        that it was given (API Reference, GetLogEvents). Raises Transient for what passes."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        while True:
            try:
                page: dict[str, Any] = self._client.get_log_events(
                    logGroupName=self.group, logStreamName=self.stream, startFromHead=True, **self._token
                )
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                if code == "ResourceNotFoundException":
                    self.missing = True
                    return
                told = f"The log {self.stream} in {self.group} cannot be read: {error}."
                if code in _PASSES:
                    raise Transient(one_line(f"{told} Try again.")) from error
                raise Refused(one_line(told)) from error
            except BotoCoreError as error:
                if self._token:
                    raise Transient(one_line(f"CloudWatch cannot be asked for more of the log: {error}. Try again.")) from error
                raise Refused(one_line(f"CloudWatch cannot be asked for the log: {error}.")) from error
            self.missing = False
            for event in page["events"]:
                message = event["message"].encode("utf-8", "surrogateescape")
                yield message if len(message) == _PIECE else message + b"\n"
            token = {"nextToken": page["nextForwardToken"]}
            if token == self._token:
                return
            self._token = token


def group_of(site: views.Site, run: History) -> str:
    """The log group that the job definition names, or Batch's own."""
    try:
        found = site.batch.ask("DescribeJobs", jobs=[run.native_id])["jobs"]
    except (Refused, Transient):
        return GROUP
    configuration = ((found[0].get("container") or {}) if found else {}).get("logConfiguration") or {}
    driver = configuration.get("logDriver", "awslogs")
    if driver != "awslogs":
        raise Refused(f"The job definition sends the job's log to {driver}, not to CloudWatch: look for it there.")
    return str((configuration.get("options") or {}).get("awslogs-group", GROUP))
