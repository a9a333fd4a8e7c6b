"""Writes completion for bash and zsh in completion/ from the programs' own parsers: `python -m tools.completion`.

The files are complete in themselves: completing a word starts no program, so that it is there at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path

from gahp.cli import main
from gahp.provision.bulk import options as pegasus

TARGET = Path(__file__).resolve().parent.parent / "completion"
_MADE = "Made by `make docs` from the program's own parser; changes here are lost."
_FILES = {"FILE", "PATH", "ARN|FILE|NAME", "FILE,FILE", "JOBFILE", "COMMAND", "DAG"}
_FOLDERS = {"DIR"}


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One way to write an option. `kind` of its value: "" none, "word", "file", "folder", or the choices with blanks between."""

    name: str
    about: str
    kind: str


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """The words so far ("", "local", "local start") and what may come behind them."""

    words: str
    about: str
    following: tuple[tuple[str, str], ...]  # words with what they do
    options: tuple[Option, ...]
    argument: str  # the kind of what else may come


def contexts(parser: argparse.ArgumentParser, words: str = "") -> Iterator[Context]:
    """What may be written, by the words before it; depth first."""
    following: list[tuple[str, str]] = []
    options: list[Option] = []
    argument = ""
    deeper: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            deeper = dict(action.choices)
            following += [(word, deeper[word].description or "") for word in deeper]
        elif action.option_strings:
            about = (action.help or "") % {**vars(action), "prog": parser.prog}
            options += [Option(name, about, _kind(action)) for name in action.option_strings]
        elif action.choices:
            following += [(str(word), "") for word in action.choices]
        else:
            argument = argument or _kind(action)
    yield Context(words, parser.description or "", tuple(following), tuple(options), argument)
    for word, sub in deeper.items():
        yield from contexts(sub, f"{words} {word}".strip())


def _kind(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices:
        return " ".join(map(str, action.choices))
    name = str(action.metavar or action.dest.upper())
    return "file" if name in _FILES else "folder" if name in _FOLDERS else "word"


# bash


def bash(program: str, found: list[Context]) -> str:
    """A file for bash: one function that looks at the words so far."""
    function = "_" + program.replace("-", "_")
    known = [_quoted(f"{context.words}") for context in found if context.words]
    lines = [
        f"# {_MADE}",
        f"{function}() {{",
        "    local at context='' options='' words='' kind=''",
        "    local before=${COMP_WORDS[COMP_CWORD - 1]} current=${COMP_WORDS[COMP_CWORD]}",
        "    COMPREPLY=()",
    ]
    if known:
        lines += [
            "    for ((at = 1; at < COMP_CWORD; at += 1)); do # the words that are no options say where we are",
            '        case "${context:+$context }${COMP_WORDS[at]}" in',
            f"            {' | '.join(known)}) context=${{context:+$context }}${{COMP_WORDS[at]}} ;;",
            "        esac",
            "    done",
        ]
    lines.append('    case "$context:$before" in # an option that takes a value')
    for context in found:
        kinds: dict[str, list[str]] = {}
        for option in context.options:
            if option.kind:
                kinds.setdefault(option.kind, []).append(option.name)
        for kind, names in kinds.items():
            patterns = " | ".join(_quoted(f"{context.words}:{name}") for name in names)
            lines.append(f"        {patterns}) kind={_quoted(kind)} ;;")
    lines += ['        *) case "$context" in']
    for context in found:
        words = " ".join(word for word, _ in context.following)
        options = " ".join(option.name for option in context.options)
        kind = context.argument if context.argument in ("file", "folder") else ""
        lines.append(f"            {_quoted(context.words)}) options='{options}' words='{words}' kind='{kind}' ;;")
    lines += [
        "        esac ;;",
        "    esac",
        '    if [[ -n $options && ($current == -* || -z $words$kind) ]]; then words=$options kind=""; fi',
        '    case "$kind" in',
        '        file) compopt -o filenames 2> /dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;',
        '        folder) compopt -o filenames 2> /dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;',
        "        word) ;; # nobody but the user knows it",
        '        *) mapfile -t COMPREPLY < <(compgen -W "$words $kind" -- "$current") ;;',
        "    esac",
        "}",
        f"complete -F {function} {program}",
        "",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else "''"


# zsh


def zsh(program: str, found: list[Context]) -> str:
    """A file for zsh's completion system: one function for each context, with what everything means."""
    function = "_" + program
    lines = [f"#compdef {program}", f"# {_MADE}"]
    for context in reversed(found):
        lines += ["", f"{_zsh_name(function, context.words)}() {{"]
        if context.following and any(c.words.startswith(f"{context.words} ".lstrip()) for c in found if c is not context):
            lines += ["    local -a words_here", "    local state line", "    words_here=("]
            lines += [f"        {shlex.quote(f'{word}:{_zsh_about(about)}')}" for word, about in context.following]
            lines += ["    )", f"    _arguments -C{_zsh_options(context)} \\", "        '1: :->word' '*:: :->rest'"]
            lines += [
                "    case $state in",
                "        word) _describe -t commands word words_here ;;",
                "        rest)",
                "            case $line[1] in",
            ]
            for word, _ in context.following:
                inner = f"{context.words} {word}".strip()
                lines.append(f"                {word}) {_zsh_name(function, inner)} ;;")
            lines += ["            esac", "            ;;", "    esac"]
        else:
            rest = f"'1:word:({' '.join(word for word, _ in context.following)})'" if context.following else ""
            rest = rest or {"file": "'*:file:_files'", "folder": "'*:folder:_files -/'"}.get(context.argument, "'*: :'")
            lines.append(f"    _arguments{_zsh_options(context)} \\\n        {rest}")
        lines.append("}")
    return "\n".join([*lines, "", f'{function} "$@"', ""])


def _zsh_name(function: str, words: str) -> str:
    return function + "".join(f"_{word}" for word in words.replace("-", "_").split())


def _zsh_options(context: Context) -> str:
    text = ""
    for option in context.options:
        value = "" if not option.kind else f": :{_zsh_value(option.kind)}"
        text += f" \\\n        {shlex.quote(f'{option.name}[{_zsh_about(option.about)}]{value}')}"
    return text


def _zsh_value(kind: str) -> str:
    return {"file": "_files", "folder": "_files -/", "word": ""}.get(kind, f"({kind})")


def _zsh_about(text: str) -> str:
    """What something means, without what zsh would read in it."""
    for sign in "\\[]:":
        text = text.replace(sign, f"\\{sign}")
    return text


def files() -> dict[str, str]:
    """Every file by its path below completion/."""
    made = {}
    for program, parser in (("condor_awsbatch", main.parser_of(main.VERBS)), ("pegasus-aws-batch", pegasus.parser())):
        found = list(contexts(parser))
        made[f"bash/{program}"] = bash(program, found)
        made[f"zsh/_{program}"] = zsh(program, found)
    return made


def write() -> None:
    """Write all files."""
    for name, text in files().items():
        path = TARGET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
