"""`condor_awsbatch top`: a live picture of this user's jobs, from the journal alone; dashboard draws it.

On a terminal it takes the whole screen until q or Ctrl-C and gives it back as it was. Otherwise it prints what there is now.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gahp import history
from gahp.cli import dashboard, screen, views
from gahp.config import Config
from gahp.history import History
from gahp.limits import snapshot

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

SUMMARY = "watch jobs live: states over time, rates and limits, slowest jobs, errors; q leaves"

_WINDOW_S = 3600.0
_LOOK_S = 0.25
_STYLES = {"good": "green", "bad": "red", "busy": "blue", "waiting": "yellow", "quiet": "dim", "head": "bold", "": ""}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Example: condor_awsbatch top -delay 1"
    parser.add_argument("-all", "--all", action="store_true", help="of all users whose journals can be read here")
    parser.add_argument("-delay", "--delay", type=_seconds, default=2.0, metavar="S", help="seconds between looks (default: 2)")
    parser.add_argument(
        "-count", "--count", type=_count, metavar="N", help="leave after N looks (default: never; 1 if this is no terminal)"
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def run(options: argparse.Namespace) -> int:
    settings = views.Site().settings
    watch = Watch(settings, options.all)
    if sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb"):
        return _full_screen(watch, options)
    for number in range(options.count or 1):
        if number:
            time.sleep(options.delay)
            print()
        for line in dashboard.lines(watch.look(), screen.columns(sys.stdout) or 120, None):
            print("".join(text for text, _ in line).rstrip())
        sys.stdout.flush()
    return 0


class Watch:
    """The runs that a picture needs, read anew only as far as they have changed."""

    def __init__(self, settings: Config, everybody: bool) -> None:
        self._settings = settings
        self._everybody = everybody
        self._runs: dict[tuple[str, str], History] = {}
        self._read_until: dict[str, float] = {}

    def look(self) -> dashboard.Frame:
        now = time.time()
        for user, directory in views.journals(self._settings, self._everybody):
            until = self._read_until.get(directory)
            if until is None:
                found = list(history.read(directory, user=user, live=True, since=now - _WINDOW_S))
            else:
                # What was written while the last look was taken may bear a time before it.
                found = list(history.read(directory, user=user, since=until - 5.0))
            self._runs.update({(directory, run.name): run for run in found})
            self._read_until[directory] = now
        self._runs = {key: run for key, run in self._runs.items() if not run.final or now - run.over < _WINDOW_S}
        who = "all users" if self._everybody else self._settings.state_dir
        clock = time.strftime("%H:%M:%S", time.localtime(now))
        title = f"{clock}  {who}, queue {self._settings.job_queue.rpartition('/')[2] or '(not set)'}"
        return dashboard.look(self._runs.values(), now, title=title, limits=limits(self._settings))


def limits(settings: Config) -> list[dashboard.Limit]:
    """How fast AWS Batch may be called and is, as all GAHPs of this host have learnt it."""
    found = snapshot(settings.limits_dir or os.path.join(settings.state_dir, "limits")).paces
    return [dashboard.Limit(pace.kind, pace.rate, pace.in_use, pace.throttled_lately) for pace in found]


def _full_screen(watch: Watch, options: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415  an extra, for people only
    from rich.live import Live  # noqa: PLC0415

    console = Console(highlight=False)
    live = Live(console=console, screen=True, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), _keys(), _ended_in_order(), live:
        looks = 0
        while options.count is None or looks < options.count:
            frame = watch.look()
            looks += 1
            due = time.monotonic() + options.delay
            size = None
            while size is None or time.monotonic() < due:
                if console.size != size:
                    size = console.size
                    live.update(_picture(frame, console), refresh=True)
                if _pressed(min(_LOOK_S, max(0.0, due - time.monotonic()))):
                    return 0
    return 0


def _picture(frame: dashboard.Frame, console: Console) -> Text:
    from rich.text import Text  # noqa: PLC0415

    width, height = console.size
    drawn = dashboard.lines(frame, width, height - 1)
    picture = Text(no_wrap=True, overflow="crop")
    for line in drawn:
        for text, style in line:
            picture.append(text, _STYLES[style])
        picture.append("\n")
    picture.append("q leaves", _STYLES["quiet"])
    return picture


def _pressed(wait_s: float) -> bool:
    """Whether the person has asked to leave within that time; other keys do nothing."""
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    if not ready:
        return False
    keys = os.read(sys.stdin.fileno(), 1024)
    return keys == b"" or b"q" in keys.lower() or b"\x04" in keys


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Keys come one by one and are not shown, within the block. Ctrl-C stays Ctrl-C."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Whoever ends this program, by SIGTERM or by closing it, gets the terminal back as it was. Ctrl-Z would leave the screen as
    it is, so it does nothing here."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
