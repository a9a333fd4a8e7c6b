"""The program that the gridmanager starts: stdin, stdout, signals, and the end.

The greeting leaves before anything slow is imported. One thread reads; whatever waits on a disk or on AWS does so elsewhere, and
its result is queued when it is there.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import gc
import logging
import logging.handlers
import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from io import FileIO, TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn, Union

from gahp import RELEASE_DAY, __version__, config
from gahp.lanes import Lane, after, mortal
from gahp.model import JobReport, Refused, Transient, one_line
from gahp.protocol import Request, Result, Session, results, version_text
from gahp.statedir import drop_removal, note_removal, trouble

if TYPE_CHECKING:
    from gahp.gateway import Gateway
    from gahp.meter import Meter

log = logging.getLogger(__name__)

_READ_SIZE = 1 << 18
_OPEN_AGAIN_S = 5.0
_MOST_UNWRITTEN = 1 << 20
_SWITCH_S = 0.001


class Service:
    """The gateway, opened behind the greeting and, as long as something is missing for it, again when it is next asked for."""

    def __init__(self, on_damage: Callable[[str], None]) -> None:
        self._on_damage = on_damage
        self._lock = threading.Lock()
        self._gateway: Gateway | None = None
        self._meter: Meter | None = None
        self._problem: Refused | None = None
        self._tried = 0.0

    def get(self) -> Gateway:
        """The gateway, started. Raises Refused with the sentence that says what to set or mend."""
        if self._gateway is not None:
            return self._gateway
        with self._lock:
            if self._gateway is None:
                if self._problem is not None and time.monotonic() - self._tried < _OPEN_AGAIN_S:
                    raise self._problem
                self._open()
            assert self._gateway is not None
            return self._gateway

    @property
    def ready(self) -> Gateway | None:
        """The gateway if it is open already."""
        return self._gateway

    def _open(self) -> None:
        from gahp.meter import Meter  # noqa: PLC0415  boto3 and SQLite are slow to import and the greeting goes first
        from gahp.site import open_gateway  # noqa: PLC0415

        settings = config.load()
        try:
            gateway = open_gateway(settings, self._on_damage)
        except (Refused, Transient) as error:
            self._problem, self._tried = Refused(str(error)), time.monotonic()
            log.error("%s", error)
            raise self._problem from error
        try:
            gateway.start()
            self._meter = Meter(settings)
            self._meter.start()
        except BaseException as error:
            # It may own runs by now, which nobody else takes over as long as this process lives.
            _die("the start failed half-way", error)
        self._gateway = gateway

    def stop(self) -> None:
        """Begin nothing more."""
        if self._gateway is not None:
            self._gateway.stop()
        if self._meter is not None:
            self._meter.close()

    def close(self) -> None:
        """Give the runs back, to whoever comes next. What is under way in other threads is still at work on them: so this is the
        last thing before the process ends."""
        if self._gateway is not None:
            self._gateway.close()


class Server:
    """One conversation on two file descriptors. `run` returns at the end of input, after QUIT, and on SIGTERM or SIGINT.

    Nobody waits for a client that does not read: what it has not taken is kept, and beyond a bound no more requests are read.
    """

    def __init__(self, service: Service, read_from: int = 0, write_to: int = 1) -> None:
        self._service = service
        self._in = read_from
        self._out = write_to
        self._session = Session(version_text(__version__, RELEASE_DAY))
        # The thread of `run` alone has session and output, so lines leave in order. Others leave what is finished here.
        self._finished: collections.deque[tuple[Request, Callable[[], Result]]] = collections.deque()
        self._awake = False  # `run` looks there before it waits again
        self._unwritten = bytearray()
        self._starting = Lane("start", 1)
        self._noting = Lane("note", 1)
        self._stopped = False
        self.code = 0
        """With which the program is to exit."""
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._put = _putter(write_to)

    def greet(self) -> None:
        self._write(self._session.greeting())

    def stop(self) -> None:
        """Have `run` return; may be called in a signal handler."""
        self._stopped = True
        self._wake()

    def fail(self, sentence: str) -> None:
        """Have `run` return, and the program exit with 1; of any thread. What is not answered the next GAHP is asked."""
        log.error("%s", sentence)
        _tell(sentence)
        self.code = 1
        self.stop()

    def wake_on_signals(self) -> None:
        """A signal that comes just before `run` waits, or to another thread, would else be handled when the client says more."""
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)

    def run(self) -> None:
        listening = True
        while not self._stopped and (listening or self._unwritten):
            reading = [self._wake_reader]
            if listening and len(self._unwritten) <= _MOST_UNWRITTEN:
                reading.append(self._in)
            ready, writable, _ = select.select(reading, [self._out] if self._unwritten else [], [])
            if self._wake_reader in ready:
                os.read(self._wake_reader, 4096)
                self._awake = False  # before it looks: what comes from now on wakes it again
                self._write(self._gathered())
            if writable:
                self._write(b"")
            if self._in in ready:
                data = os.read(self._in, _READ_SIZE)
                self._receive(data)
                listening = bool(data) and not self._session.closed

    def _receive(self, data: bytes) -> None:
        out, requests = self._session.receive(data)
        if not all(request.command in _AT_ONCE for request in requests):
            self._write(out)
            out = b""
        self._awake = True
        for request in requests:
            self._begin(request)
        self._awake = False
        # What was answered from memory leaves in one write with its return line: the client is woken once.
        self._write(out + self._gathered())

    def _gathered(self) -> bytes:
        """Queue all results that are there; what to write for them. Of many that come together the client hears once."""
        out = b""
        while self._finished and not self.code:  # what comes after a failure may be its doing: the next GAHP is asked that
            request, work = self._finished.popleft()
            out += self._finish(request, _or_fault(work))
        return out

    def _leave(self, request: Request, work: Callable[[], Result]) -> None:
        """Have `run` queue what `work` gives as the result of a request. Of any thread."""
        self._finished.append((request, work))
        if not self._awake:
            self._awake = True
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # then it is awake already
            os.write(self._wake_writer, b"x")

    def _begin(self, request: Request) -> None:
        gateway = self._service.ready
        if gateway is not None:
            self._perform(gateway, request)
        elif request.command == "BLAH_JOB_CANCEL":
            self._noting.put(lambda: self._note(request))
        else:
            # While the program starts, or as long as it cannot: another thread waits so that the reader need not.
            self._starting.put(lambda: self._perform_when_ready(request))

    def _note(self, request: Request) -> None:
        """A removal is on disk before the journal is waited for: a gridmanager that is refused, or gives up, forgets the job."""
        noted_in, why = _noted(request.arguments[0])
        self._starting.put(lambda: self._perform_when_ready(request, noted_in, why))

    def _perform_when_ready(self, request: Request, noted_in: str = "", not_noted: str = "") -> None:
        try:
            gateway = self._service.get()
        except (Refused, Transient) as error:
            if noted_in:
                error = Refused(f"{error} The removal is noted in {noted_in} and carried out when that is mended.")
            elif not_noted:
                error = Refused(
                    f"{error} The removal of {request.arguments[0]} is not recorded: {not_noted}. Mend that; an hour after it was"
                    " accepted condor_awsbatch orphans --unasked 1 lists the job, to be ended by name."
                )
            self._refuse(request, error)
        except MemoryError:
            raise
        except Exception as error:
            self._refuse(request, error)
        else:
            self._perform(gateway, request, noted_in)

    def _perform(self, gateway: Gateway, request: Request, noted_in: str = "") -> None:
        try:
            verb = _VERBS[request.command]
            answer = verb(gateway, request.arguments)
        except MemoryError:
            raise  # the client asks the next GAHP again; an answer that something failed would hold the job
        except Exception as error:
            self._refuse(request, error)
            return
        if isinstance(answer, Result):
            self._leave(request, lambda: answer)
        else:
            future, to_result = answer
            if noted_in:
                run = _run(request.arguments[0])
                after(future, lambda done: None if done.exception() else drop_removal(noted_in, run))
            after(future, lambda done: self._leave(request, lambda: _result_of(done, to_result)))

    def _refuse(self, request: Request, error: Exception) -> None:
        result = results.failed(str(error)) if isinstance(error, (Refused, Transient)) else _fault(error)
        self._leave(request, lambda: result)

    def _finish(self, request: Request, result: Result) -> bytes:
        """Queue a result; the R line if one is due."""
        log.debug("%s %s: %d %s", request.command, request.request_id, result.code, result.message)
        try:
            return self._session.finish(request, result)
        except ValueError as error:
            # Not in the form that the client counts on: better a failure than no answer, for which it waits 300 s.
            log.error("%s %s: %s", request.command, request.request_id, error)
            return self._session.finish(request, results.failed(str(error)))

    def _write(self, data: bytes) -> None:
        """Write as much as can be without waiting, keep the rest."""
        self._unwritten += data
        try:
            while self._unwritten and (taken := self._put(bytes(self._unwritten))):
                del self._unwritten[:taken]
        except OSError:
            # Nobody listens any more: the same as the end of input.
            self._unwritten.clear()
            self.stop()


def _noted(job_id: str) -> tuple[str, str]:
    """Note the removal of a job beside the journal; in which directory, or "" and why not."""
    directory = config.load().state_dir
    try:
        note_removal(directory, _run(job_id))
    except FileNotFoundError:
        why = f"no journal is in {directory}, or the id is no job's"
    except OSError as error:
        why = trouble(directory, error)
    else:
        return directory, ""
    log.warning("the removal of %s cannot be noted: %s", job_id, why)
    return "", why


def _run(job_id: str) -> str:
    return job_id.rpartition("/")[2]


def _putter(descriptor: int) -> Callable[[bytes], int]:
    """What writes to `descriptor` as much as it takes without waiting, and says how much that was. Raises OSError.

    A pipe, which is what a gridmanager gives, is written to by a call that keeps Python's lock: it takes some microseconds, and
    getting the lock back would take a turn of every other thread that computes, while the client waits for its return line.
    """

    def careful(data: bytes) -> int:
        # What is ready takes so much without blocking (POSIX).
        return os.write(descriptor, data[: select.PIPE_BUF]) if select.select([], [descriptor], [], 0)[1] else 0

    def quick(data: bytes) -> int:
        taken = write(descriptor, data, len(data))
        if taken < 0 and ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return max(0, int(taken))

    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return careful  # a terminal is shared with a shell, which would find it changed
    write = ctypes.PyDLL(None, use_errno=True).write
    write.argtypes, write.restype = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t), ctypes.c_ssize_t
    os.set_blocking(descriptor, False)
    return quick


# A result that is there, or what it will be made of.
_Answer = Union[Result, tuple["Future[Any]", Callable[[Any], Result]]]  # noqa: UP007  evaluated, by Python 3.10 too


def _submit(gateway: Gateway, arguments: tuple[str, ...]) -> _Answer:
    from gahp.blah import parse_submit  # noqa: PLC0415  classad2 is loaded behind the greeting

    return gateway.submit(parse_submit(arguments[0])), results.submitted


def _status(gateway: Gateway, arguments: tuple[str, ...]) -> _Answer:
    from gahp.blah import format_status  # noqa: PLC0415

    job_id = arguments[0]

    def to_result(report: JobReport) -> Result:
        return results.status(report.state, format_status(job_id, report))

    # Most of what a gridmanager ever asks: without a future, which costs as much as all the rest.
    report = gateway.at_once(job_id)
    return to_result(report) if report is not None else (gateway.status(job_id), to_result)


def _done(_: None) -> Result:
    return results.done()


_VERBS: dict[str, Callable[[Gateway, tuple[str, ...]], _Answer]] = {
    "BLAH_PING": lambda gateway, _: (gateway.ping(), _done),
    "BLAH_JOB_SUBMIT": _submit,
    "BLAH_JOB_STATUS": _status,
    "BLAH_JOB_CANCEL": lambda gateway, arguments: (gateway.cancel(arguments[0]), _done),
    "BLAH_JOB_HOLD": lambda gateway, arguments: (gateway.hold(arguments[0]), _done),
    "BLAH_JOB_RESUME": lambda gateway, arguments: (gateway.resume(arguments[0]), _done),
    "BLAH_JOB_REFRESH_PROXY": lambda gateway, arguments: (gateway.refresh_proxy(arguments[0], arguments[1]), _done),
}


# Answered from memory, mostly.
_AT_ONCE = ("BLAH_JOB_STATUS", "BLAH_PING")


def _result_of(done: Future[Any], to_result: Callable[[Any], Result]) -> Result:
    error = done.exception()
    if isinstance(error, (Refused, Transient)):
        return results.failed(str(error))
    if error is not None:
        return _fault(error)
    return to_result(done.result())


def _or_fault(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except MemoryError:
        raise
    except Exception as error:
        return _fault(error)


def _fault(error: BaseException) -> Result:
    log.error("a request failed", exc_info=error)
    return results.failed(f"A fault of this program ({type(error).__name__}): see its log.")


class _PrivateLog(logging.handlers.RotatingFileHandler):
    """A rotated log that only its user can read. When another GAHP of the user has rotated it, the new file is written on."""

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream and not _is_at(self.baseFilename, self.stream):
            with contextlib.suppress(OSError):
                self.stream.close()
            self.stream = None  # opened by the next line, whose errors are logging's to handle
        super().emit(record)

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return TextIOWrapper(FileIO(descriptor, "w"), encoding="utf-8", errors="replace")


def _is_at(path: str, file: TextIOWrapper) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


def _open_log(settings: config.Config) -> None:
    """Log to the file of AWSBATCH_LOG, mode 0600. A log that cannot be opened stops no job: one line on stderr says so."""
    root = logging.getLogger()
    root.addHandler(logging.NullHandler())
    # What the disk refuses to log is not worth a traceback for each line in the gridmanager's own log.
    logging.raiseExceptions = False
    root.setLevel(settings.log_level)
    # botocore logs whole requests at DEBUG, with what is in them.
    for name in ("boto3", "botocore", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not settings.log:
        return
    try:
        os.makedirs(os.path.dirname(settings.log), mode=0o700, exist_ok=True)
        handler = _PrivateLog(settings.log, maxBytes=int(settings.max_log * 2**20), backupCount=1)
    except OSError as error:
        print(one_line(f"awsbatch_gahp: the log {settings.log} cannot be opened: {error}. See AWSBATCH_LOG."), file=sys.stderr)
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)


def _prepare(service: Service) -> None:
    """Behind the greeting: log, imports, and the runs that earlier GAHPs left."""
    _open_log(config.load())
    log.info("awsbatch_gahp %s starts", __version__)
    try:
        service.get()
    except Refused:
        return
    except MemoryError:
        raise
    except Exception:
        log.exception("the program cannot begin its work")
    # What is loaded stays, and what comes with jobs is freed by its counts: looking for garbage in it was a tenth of the work.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _thread_died(what: threading.ExceptHookArgs) -> None:
    """A thread that has died, most likely out of memory, leaves a server that answers and does nothing. The next one goes on from
    the journal: so this one ends."""
    _die(f"the thread {what.thread and what.thread.name} died", what.exc_value)


def _die(what: str, error: BaseException | None) -> NoReturn:
    with contextlib.suppress(Exception):
        log.critical("%s; the program ends", what, exc_info=error)
    _tell(f"{what}; the program ends")
    os._exit(1)


def _tell(sentence: str) -> None:
    """Say it on stderr, which a gridmanager logs, unless that would have to wait."""
    with contextlib.suppress(Exception):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"awsbatch_gahp: {one_line(sentence)}\n".encode(errors="replace")[: select.PIPE_BUF])


def _with_utf8() -> None:
    """File names are bytes that are read as UTF-8 here; a locale that says otherwise is left by starting anew in UTF-8 mode."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "gahp.server"])  # noqa: S606  itself, without a shell


def _with_standard_streams() -> None:
    """A stream that was closed is as good as an empty one; without this, the next file opened would take its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def main() -> int:
    """Serve one client on stdin and stdout. Arguments are those of no gridmanager: a person asking for help gets a sentence."""
    if len(sys.argv) > 1:
        print(f"awsbatch_gahp {__version__}: HTCondor's gridmanager starts this program and talks to it on stdin and stdout.")
        print("It takes no arguments. To talk to it yourself: condor_awsbatch shell. Its knobs: condor_awsbatch config.")
        return 0 if sys.argv[1] in ("-h", "--help", "--version") else 2
    _with_utf8()
    _with_standard_streams()
    # A thread that computes gives way to the one that talks sooner than after Python's 5 ms: the client waits for return lines.
    sys.setswitchinterval(_SWITCH_S)
    threading.excepthook = _thread_died
    service = Service(lambda sentence: server.fail(sentence))  # noqa: PLW0108  there is no server yet
    server = Server(service)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.wake_on_signals()
    server.greet()
    threading.Thread(target=_prepare, args=(service,), name="prepare", daemon=True).start()
    try:
        with mortal():
            server.run()
    except Exception as error:
        _die("the thread that talks died", error)
    with contextlib.suppress(OSError):
        os.set_blocking(1, True)  # others may write to the same pipe after this program
    service.stop()
    log.info("awsbatch_gahp ends")
    logging.shutdown()
    service.close()
    # Threads may be in the midst of a transfer; the journal knows how far they came, and nobody waits for them.
    os._exit(server.code)


if __name__ == "__main__":
    sys.exit(main())
