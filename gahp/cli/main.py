"""The dispatcher of `condor_awsbatch`: finds the verb's module, runs it, and turns what goes wrong into one line."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from types import ModuleType

from gahp import __version__
from gahp.model import Refused, Transient, one_line

VERBS = (
    "config",
    "create",
    "delete",
    "demo",
    "doctor",
    "image",
    "install",
    "local",
    "logs",
    "metrics",
    "orphans",
    "q",
    "report",
    "shell",
    "top",
    "uninstall",
    "update",
    "why",
)
_TRACEBACK = "AWSBATCH_TRACEBACK"  # in the environment: for who looks for a fault of this program


def _module(verb: str) -> ModuleType:
    """The module of a verb, loaded only when it is used: extras that others need may not be installed."""
    return importlib.import_module(f"gahp.cli.{verb}")


def parser_of(verbs: tuple[str, ...]) -> argparse.ArgumentParser:
    """The parser of these verbs; manual pages and completion are made from that of all."""
    parser = argparse.ArgumentParser(
        prog="condor_awsbatch",
        description="HTCondor jobs on AWS Batch: look, try out, set up.",
        epilog="example:\n  condor_awsbatch demo\n\nEach verb has a --help and a manual page: man condor_awsbatch-VERB.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"condor_awsbatch {__version__}")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in verbs:
        module = _module(verb)
        command = commands.add_parser(
            verb,
            help=module.SUMMARY,
            description=module.SUMMARY,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument("-help", action="help", help=argparse.SUPPRESS)  # as HTCondor's tools have it
        module.add_arguments(command)
        notes, _, example = (command.epilog or "").partition("Example: ")
        example = example or getattr(module, "EXAMPLE", "")
        command.epilog = "\n\n".join(filter(None, (notes, f"example:\n  {example}" if example else "")))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Exit codes: 0 done, 1 it could not be done, 2 the words were wrong, 70 a fault of ours, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    # Who starts us may have closed them, as `1>&-` does; then Python has none.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  for as long as we live
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What jobs and files are called need not fit the terminal's encoding. UTF-8 gives back the very bytes that were no text.
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    # Only the verb that is asked for is loaded; help and unknown words need them all.
    verbs = (words[0],) if words and words[0] in VERBS else VERBS
    try:
        options = parser_of(verbs).parse_args(words)
        return int(_module(options.verb).run(options))
    except (Refused, Transient) as error:
        print(f"condor_awsbatch: {_harmless(str(error))}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"condor_awsbatch: {error.name or error} is not installed: pip install 'awsbatch-gahp[cli,local]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("condor_awsbatch: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; Python must not complain about it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"condor_awsbatch: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return 1
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        told = _harmless(one_line(f"{type(error).__name__}: {error}"))
        print(
            f"condor_awsbatch: this is a fault of condor_awsbatch itself ({told}): report it, with what {_TRACEBACK}=1 in the"
            " environment shows.",
            file=sys.stderr,
        )
        return os.EX_SOFTWARE


def _harmless(text: str) -> str:
    """An error in words, which may quote what a user or AWS wrote, without what a terminal would obey; lines stay lines."""
    from gahp.cli.explain import printable  # noqa: PLC0415

    return "\n".join(printable(line) for line in text.split("\n"))


if __name__ == "__main__":
    sys.exit(main())
