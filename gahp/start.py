"""Where the programs begin: Ctrl-C ends them in silence until they are ready for it, and not in the midst of an import.

Imports nothing else before that is seen to. What Python itself does before its first line of ours is beyond our reach.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False  # without typing, which takes its time
if TYPE_CHECKING:
    from collections.abc import Callable

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored, as behind nohup or &
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def awsbatch_gahp() -> int:
    """Sets its own handlers before it reads a line."""
    from gahp.server import main  # noqa: PLC0415

    return main()


def condor_awsbatch() -> int:
    from gahp.cli.main import main  # noqa: PLC0415

    return _interruptible(main)


def pegasus_aws_batch() -> int:
    from gahp.cli.pegasus_aws_batch import main  # noqa: PLC0415

    return _interruptible(main)


def _interruptible(main: Callable[[], int]) -> int:
    """Run `main`, which takes Ctrl-C as KeyboardInterrupt and says so in a line."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main()
    except KeyboardInterrupt:
        return 130
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
