"""Writes the manual pages in man/ from the programs' own parsers and tables: `python -m tools.manual`."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from gahp import RELEASE_DAY, __version__, config
from gahp.cli import main
from gahp.protocol.commands import COMMANDS
from gahp.provision.bulk import options as pegasus

TARGET = Path(__file__).resolve().parent.parent / "man"

_CODES = (
    ("0", "It is done."),
    ("1", "It could not be done; one line on standard error says why."),
    ("2", "The words of the command line were wrong."),
    ("130", "It was interrupted."),
)
_FAULT = ("70", "A fault of condor_awsbatch itself. With AWSBATCH_TRACEBACK=1 in the environment it shows where.")
_CONFIGURATION = (
    "All knobs are macros of HTCondor's configuration, each of which the environment can override with _CONDOR_ before its name."
    " Without any HTCondor on the machine, CONDOR_CONFIG=ONLY_ENV leaves the environment alone."
)


def pages() -> dict[str, str]:
    """Every page by its file name."""
    whole = main.parser_of(main.VERBS)
    verbs = _verbs(whole)
    made = {"awsbatch_gahp.1": _gahp(), "condor_awsbatch.1": _condor_awsbatch(whole, verbs), "pegasus-aws-batch.1": _pegasus()}
    for verb, parser in verbs.items():
        made[f"condor_awsbatch-{verb}.1"] = _verb(verb, parser)
    return made


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the words that may follow, {} if none may."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _gahp() -> str:
    lines = [*_head("awsbatch_gahp", "HTCondor jobs on AWS Batch: the program that the gridmanager starts")]
    lines += [".SH SYNOPSIS", ".B awsbatch_gahp", ".SH DESCRIPTION"]
    lines += _text(
        "HTCondor's gridmanager starts this program for each user who has jobs with grid_resource = batch awsbatch, and talks to"
        " it in lines on standard input and output: the GAHP protocol, with the commands of BLAH. The program carries each job's"
        " files through S3, runs it on AWS Batch with one fixed job definition and queue, and brings its output back.",
        "It takes no arguments. To talk to it by hand, use condor_awsbatch shell. It ends at the end of its input, after QUIT,"
        " and on SIGTERM and SIGINT; what is unfinished is in its journal, and the next one goes on from there.",
    )
    lines.append(".SH COMMANDS")
    for command in COMMANDS.values():
        if command.listed and not command.refusal:
            lines += [
                ".TP",
                f"\\fB{_escape(command.name)}\\fR {_escape(' '.join(command.parameters))}".rstrip(),
                _escape(_sentence(command.about)),
            ]
    lines += [".SH CONFIGURATION", *_text(_CONFIGURATION)]
    for knob in config.KNOBS:
        default = "has to be set" if knob.default is None else f"default: {knob.default or 'empty'}"
        lines += [".TP", f"\\fB{_escape(knob.name)}\\fR ({_escape(knob.unit)}; {_escape(default)})", _escape(knob.sentence)]
    lines += [".SH FILES"]
    for name, about in (
        (
            "~/.local/state/awsbatch_gahp/journal.sqlite",
            "The journal: what every run of this user is at. See AWSBATCH_STATE_DIR.",
        ),
        ("~/.local/state/awsbatch_gahp/gahp.log", "The log. See AWSBATCH_LOG."),
        ("~/.aws/config, ~/.aws/credentials", "Where Region and credentials come from. See AWSBATCH_PROFILE."),
    ):
        lines += [".TP", f"\\fI{_escape(name)}\\fR", _escape(about)]
    lines += [".SH EXIT STATUS", *_text("0 at the end of the conversation; 2 if it was given arguments.")]
    lines += [".SH EXAMPLE", ".EX", _escape("printf 'COMMANDS\\nQUIT\\n' | awsbatch_gahp"), ".EE"]
    return _page(lines, "condor_awsbatch(1)", "pegasus-aws-batch(1)")


def _condor_awsbatch(parser: argparse.ArgumentParser, verbs: dict[str, argparse.ArgumentParser]) -> str:
    lines = [*_head("condor_awsbatch", "look at, try out and set up HTCondor jobs on AWS Batch")]
    lines += [".SH SYNOPSIS", "\\fBcondor_awsbatch\\fR \\fIVERB\\fR [\\fIARGUMENT\\fR ...]", ".SH DESCRIPTION"]
    lines += _text("The commands around awsbatch_gahp(1). Each verb has a page of its own, condor_awsbatch-VERB(1), and --help.")
    lines.append(".SH VERBS")
    for verb, sub in verbs.items():
        lines += [".TP", f"\\fB{verb}\\fR", _escape(_sentence(sub.description or ""))]
    lines += [*_options(parser), ".SH CONFIGURATION", *_text(f"{_CONFIGURATION} awsbatch_gahp(1) lists them.")]
    lines += [*_codes(*_CODES, _FAULT), *_example("condor_awsbatch demo")]
    return _page(lines, "awsbatch_gahp(1)", *(f"condor_awsbatch-{verb}(1)" for verb in verbs))


def _verb(verb: str, parser: argparse.ArgumentParser) -> str:
    module = importlib.import_module(f"gahp.cli.{verb}")
    name, actions = f"condor_awsbatch {verb}", _verbs(parser)
    lines = [*_head(f"condor_awsbatch-{verb}", module.SUMMARY), ".SH SYNOPSIS"]
    for number, (word, sub) in enumerate(actions.items() if actions else [("", parser)]):
        lines += [".br"] * bool(number) + [f"\\fB{_escape(f'{name} {word}'.strip())}\\fR {_synopsis(sub)}".rstrip()]
    lines += [".SH DESCRIPTION", *_text(*getattr(module, "DESCRIPTION", _sentence(module.SUMMARY)).split("\n\n"))]
    for word, sub in actions.items():
        lines += [".TP", f"\\fB{word}\\fR", _escape(_sentence(sub.description or ""))]
    lines += _options(*(actions.values() if actions else [parser]))
    notes, _, example = (parser.epilog or "").partition("example:\n")
    notes = notes.strip()
    lines += [".SH NOTES", *_text(notes)] if notes else []
    return _page([*lines, *_codes(*_CODES, _FAULT), *_example(example)], "condor_awsbatch(1)", "awsbatch_gahp(1)")


def _pegasus() -> str:
    parser = pegasus.parser()
    lines = [*_head("pegasus-aws-batch", "run the tasks of a Pegasus job file on AWS Batch")]
    lines += [".SH SYNOPSIS", f"\\fBpegasus-aws-batch\\fR {_synopsis(parser)}", ".SH DESCRIPTION"]
    lines += _text(
        "Takes the place of Pegasus's program of that name: it runs the tasks of horizontally clustered jobs on AWS Batch and"
        " waits for them. Options are those of Pegasus's own, so what pegasus-plan writes works as it is.",
        'A job file is JSON: {"SubmitJob": [task, ...]}. What the properties file says is overridden by the command line.',
    )
    example = (parser.epilog or "").partition("example:\n")[2].strip()
    lines += [*_options(parser), *_codes(*_CODES), *_example(example)]
    return _page(lines, "condor_awsbatch(1)", "condor_awsbatch-create(1)")


def _head(name: str, about: str) -> Iterator[str]:
    day = RELEASE_DAY.isoformat()
    yield '.\\" Made by `make docs` from the program itself; changes here are lost.'
    yield f'.TH "{name.upper()}" 1 "{day}" "awsbatch\\-gahp {__version__}" "AWS Batch GAHP"'
    yield from (".ad l", ".nh", ".SH NAME", f"{_escape(name)} \\- {_escape(about)}")


def _page(lines: list[str], *others: str) -> str:
    see = ", ".join(f"\\fB{_escape(other[:-3])}\\fR(1)" for other in others)
    return "\n".join([*lines, ".SH SEE ALSO", see, ""])


def _codes(*codes: tuple[str, str]) -> list[str]:
    lines = [".SH EXIT STATUS"]
    for code, meaning in sorted(codes, key=lambda pair: int(pair[0])):
        lines += [".TP", f"\\fB{code}\\fR", _escape(meaning)]
    return lines


def _example(example: str) -> list[str]:
    return [".SH EXAMPLE", ".EX", *(_escape(line.strip()) for line in example.splitlines()), ".EE"]


def _synopsis(parser: argparse.ArgumentParser) -> str:
    """The options and arguments in one line, in a page's fonts."""
    parts = []
    groups = {id(action): group for group in parser._mutually_exclusive_groups for action in group._group_actions}
    told: set[int] = set()
    for action in _shown(parser):
        if isinstance(action, (argparse._HelpAction, argparse._VersionAction, argparse._SubParsersAction)):
            continue
        group = groups.get(id(action))
        if group is not None:
            if id(group) not in told:
                told.add(id(group))
                words = [_use(member) for member in group._group_actions if member.help != argparse.SUPPRESS]
                parts.append(("{}" if group.required else "[{}]").format(" | ".join(words)))
        elif not action.option_strings:
            word = f"\\fI{_escape(_value(action))}\\fR"
            parts.append({"*": f"[{word} ...]", "+": f"{word} ...", "?": f"[{word}]"}.get(str(action.nargs), word))
        else:
            parts.append(_use(action) if action.required else f"[{_use(action)}]")
    return " ".join(parts)


def _use(action: argparse.Action) -> str:
    word = f"\\fI{_escape(_value(action))}\\fR"
    if not action.option_strings:
        return word
    option = f"\\fB{_escape(action.option_strings[-1])}\\fR"
    more = " ..." if action.nargs in ("+", "*") else ""
    return option if action.nargs == 0 else f"{option} {word}{more}"


def _value(action: argparse.Action) -> str:
    if action.metavar:
        return str(action.metavar)
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.help != argparse.SUPPRESS]


def _options(*parsers: argparse.ArgumentParser) -> list[str]:
    """Arguments and options of all these parsers, each once."""
    lines, seen = [".SH OPTIONS"], set()
    for parser in parsers:
        for action in _shown(parser):
            if isinstance(action, argparse._SubParsersAction):
                continue
            names = tuple(action.option_strings) or (action.dest,)
            if names in seen:
                continue
            seen.add(names)
            value = "" if action.nargs == 0 else f" \\fI{_escape(_value(action))}\\fR"
            title = ", ".join(f"\\fB{_escape(name)}\\fR{value}" for name in action.option_strings) or value.strip()
            about = (action.help or "") % {**vars(action), "prog": parser.prog}
            lines += [".TP", title, _escape(_sentence(about))]
    return lines


def _sentence(text: str) -> str:
    """`text` with a capital, unless its first word has its own spelling, and a stop."""
    word = text.split(" ", 1)[0]
    return f"{text[:1].upper() if word.islower() else text[:1]}{text[1:].rstrip('.')}."


def _text(*paragraphs: str) -> list[str]:
    lines: list[str] = []
    for number, paragraph in enumerate(paragraphs):
        lines += [".PP"] * bool(number) + [_escape(" ".join(paragraph.split()))]
    return lines


def _escape(text: str) -> str:
    """`text` as groff takes it literally, on one line."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha").replace("`", "\\(ga")
    text = re.sub(r"[‘’]", "'", text).replace("'", "\\(aq")
    return f"\\&{text}" if text.startswith(".") else text


def write() -> None:
    """Write all pages, and take away those of verbs that are no more."""
    TARGET.mkdir(exist_ok=True)
    made = pages()
    for old in TARGET.glob("*.1"):
        if old.name not in made:
            old.unlink()
    for name, page in made.items():
        (TARGET / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write()
