"""`pegasus-aws-batch`: takes the place of Pegasus's program of that name. Words in, exit code out; the work is in provision.bulk.

Exit codes are that program's: 0 all well; 1 a task failed; 2 AWS refused, or something of a run could not be done; 3 the words or
files were wrong, the run was interrupted, or this program failed.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time

from gahp.model import Refused, Transient

# By name: started with -m, this module is __main__.
log = logging.getLogger("gahp.cli.pegasus_aws_batch")

OK, TASK_FAILED, NOT_DONE, WRONG = 0, 1, 2, 3


def main(arguments: list[str] | None = None) -> int:
    """Run it. Never raises but for SystemExit of --help and --version."""
    from gahp.provision.bulk import options  # noqa: PLC0415  --help need not wait for boto3

    begun = time.monotonic()
    try:
        asked = options.read(sys.argv[1:] if arguments is None else arguments)
        handler = _handler(options.log_path(asked.log_file) if asked.log_file else None)
    except (Refused, OSError) as error:
        told = f"The log file {error.filename} cannot be written: {error.strerror}." if isinstance(error, OSError) else error
        print(f"pegasus-aws-batch: {told}", file=sys.stderr)
        return WRONG
    handler.setFormatter(options.Format())
    root = logging.getLogger("gahp")
    root.addHandler(handler)
    root.setLevel(asked.log_level)
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        code = _carry_out(asked, stop)
        if code == OK:
            log.info("Time taken to execute is %.3f seconds", time.monotonic() - begun)
        else:
            log.warning("Non-zero exit-code %d", code)
        return code
    finally:
        # A signal that comes when all is done must not take the exit code away: a program of its own keeps its handlers.
        for number, old in before.items() if arguments is not None else ():
            signal.signal(number, old)
        root.removeHandler(handler)
        handler.close()


def _handler(path: object) -> logging.Handler:
    return logging.StreamHandler(sys.stdout) if path is None else logging.FileHandler(str(path), encoding="utf-8")


def _carry_out(asked: object, stop: threading.Event) -> int:
    from gahp.provision.bulk import drive, options  # noqa: PLC0415
    from gahp.provision.bulk.service import Interrupted  # noqa: PLC0415

    assert isinstance(asked, options.Options)
    code = WRONG
    try:
        work = drive.prepare(asked, stop)
        code = NOT_DONE
        return work()
    except (Refused, Transient) as error:
        _tell(str(error))
    except Interrupted:
        code = WRONG
        _tell("interrupted; the jobs of this run were ended")
    except Exception as error:
        code = WRONG
        log.exception("This is a mistake of the program")
        _tell(f"it failed: {type(error).__name__}: {error}; the log has the details")
    return code


def _tell(text: str) -> None:
    log.error("%s", text)
    print(f"pegasus-aws-batch: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
