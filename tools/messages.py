"""Lists every sentence that a user can meet, from the code, and writes docs/messages.md: `python -m tools.messages`.

A sentence is found where it is given to an exception that a person reads, to a report of a held job, to stderr, to standard
output, to a failure in runner.sh, or, of what `why` says, to the paragraph that it puts together. What varies in it is shown as a
<placeholder> named after the expression that fills it. What to do is told beside a sentence that does not say so itself;
tools/message_notes.py has those lines.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from tools.message_notes import GENERAL, NAMES, NOTES

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "messages.md"

# Where a person meets what a file has to say: heading, one line about it, the files. The first that fits counts.
PLACES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Hold reasons: the job ran, or tried to",
        "`condor_q -hold` shows them. `condor_release` runs the job again.",
        (
            "gahp/gateway/verdict.py",
            "gahp/gateway/work.py",
            "gahp/sandbox/outcome.py",
            "gahp/sandbox/tarstream.py",
            "gahp/sandbox/place.py",
        ),
    ),
    (
        "Hold reasons: from inside the container",
        "The runner's own, HoldReasonCode 6, 12 or 13. They are in the job's CloudWatch log as well.",
        ("gahp/sandbox/runner.sh",),
    ),
    (
        "The log of a container",
        "In the job's CloudWatch log, with `awsbatch_gahp runner:` before it.",
        ("gahp/sandbox/runner.sh#log",),
    ),
    (
        "Refused submits: the submit file",
        "Hold reasons without a code: the job was refused before anything left the machine. Mend the submit file, or change"
        " the job with `condor_qedit`, and release it.",
        ("gahp/blah/", "gahp/batch/overrides.py"),
    ),
    (
        "Refused submits: files, names, arguments",
        "Hold reasons as well, some of them (an input that goes away between submit and transfer) with HoldReasonCode 13.",
        ("gahp/sandbox/checks.py", "gahp/sandbox/inputs.py", "gahp/sandbox/names.py", "gahp/sandbox/manifest.py"),
    ),
    (
        "AWS Batch and S3",
        "Met as a hold reason (21, 12 or 13), as the answer to BLAH_PING (event 026, the GridmanagerLog), in AWSBATCH_LOG, and"
        " from `condor_awsbatch`.",
        ("gahp/batch/", "gahp/sandbox/", "gahp/site.py"),
    ),
    ("Knobs", "Answers to BLAH_PING, and `condor_awsbatch config`.", ("gahp/config.py",)),
    (
        "The journal",
        "Answers to BLAH_PING and BLAH_JOB_SUBMIT, and AWSBATCH_LOG.",
        ("gahp/journal.py", "gahp/database.py", "gahp/statedir.py", "gahp/gateway/rebuild.py"),
    ),
    (
        "Answers to status, cancel, hold, resume and proxies",
        "In the GridmanagerLog, or in `condor_awsbatch shell`.",
        ("gahp/gateway/", "gahp/server.py", "gahp/metrics.py"),
    ),
    ("The protocol", "`condor_awsbatch shell` shows them; a gridmanager never meets them.", ("gahp/protocol/",)),
    (
        "pegasus-aws-batch",
        "On its standard error, in its log, and in Pegasus's job output.",
        ("gahp/cli/pegasus_aws_batch.py", "gahp/provision/bulk/"),
    ),
    (
        "condor_awsbatch create, delete, update, image, doctor",
        "On standard error, with `condor_awsbatch:` before it.",
        ("gahp/provision/", *(f"gahp/cli/{verb}.py" for verb in ("create", "delete", "update", "image", "doctor"))),
    ),
    (
        "condor_awsbatch why",
        "On standard output, some of them together as one paragraph: one says how the job stands, one why, one what to do.",
        ("gahp/cli/diagnosis.py",),
    ),
    ("condor_awsbatch: the other verbs", "On standard error, with `condor_awsbatch:` before it.", ("gahp/cli/",)),
    ("The embedded AWS", "`condor_awsbatch local` and `demo`.", ("gahp/local/",)),
    ("Elsewhere", "In AWSBATCH_LOG, or on standard error.", ("gahp/",)),
    (
        "What condor_awsbatch reports",
        "On standard output, beside tables and what was asked for: how far it is and what it did. Nothing has to be done then.",
        ("#report",),
    ),
    ("The container's entry point", "In the job's CloudWatch log, with `fetch_and_run:` before it.", ("image/fetch_and_run.sh",)),
)

# Whoever calls one of these gives it a sentence for a person. The argument that holds it is the first text.
_TELLING = {
    "Refused", "Transient", "Throttled", "Unsure", "CredentialsProblem", "JournalProblem", "Damaged", "BadAd", "Failed", "Advice",
    "held", "failed", "_reply", "ArgumentTypeError", "note", "Problem", "_on_damage",
}  # fmt: skip
_CLASS_ENDS = ("Refused", "Problem", "Error", "Damaged", "BadAd")
# So a verb says how far it is.
_REPORTING = ("console.print", "self.say", "aws.report.say", "report.say", "self.report.say")
# What functions here give back are sentences of a paragraph; not each has to say what to do.
PARAGRAPHS = ("gahp/cli/diagnosis.py",)
# The embedded AWS answers programs with AWS's own errors; those are AWS's words and listed nowhere.
_NOT_FOR_PEOPLE = ("gahp/local/",)
# Sentences that name what a programmer did wrong: they end in the log as a fault of this program.
_FAULTS = {
    "gahp/journal.py",
    "gahp/blah/status_ad.py",
    "gahp/protocol/commands.py",
    "gahp/protocol/session.py",
    "gahp/sandbox/facade.py",
}


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Sentence:
    """`text` as a person meets it, with placeholders; where it is told; `mend`: what the code says beside it on what to do."""

    path: str
    line: int
    text: str
    mend: str = ""


def sentences() -> list[Sentence]:
    """Every sentence, in the order of PLACES, then of path and line."""
    found: list[Sentence] = []
    for path in sorted((ROOT / "gahp").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        found += _in_python(name, path.read_text(encoding="utf-8"))
    for path in (ROOT / "gahp/sandbox/runner.sh", ROOT / "image/fetch_and_run.sh"):
        found += _in_bash(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    return sorted(found, key=lambda sentence: (_place(sentence.path), sentence))


def _place(path: str) -> int:
    for number, (_, _, places) in enumerate(PLACES):
        if any(_is_in(path, place) for place in places):
            return number
    raise LookupError(f"{path} tells people something, and tools/messages.py does not say where they meet it: add it to PLACES")


def _is_in(path: str, place: str) -> bool:
    if "#" in path:
        return path == place or (place.startswith("#") and path.endswith(place))
    return path == place or (place.endswith("/") and path.startswith(place))


# Python


def _in_python(path: str, source: str) -> Iterator[Sentence]:
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    constants = {**_answers(functions), **_assigned(tree.body), **_members(tree)}
    paragraph = path in PARAGRAPHS
    seen: set[int] = set()
    # Inner functions first, so that a call counts for the function it stands in; last what stands in none.
    for scope in (*sorted(functions, key=lambda node: -node.lineno), tree):
        known = {**constants, **_assigned(list(ast.walk(scope)))} if scope is not tree else constants
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and id(node) not in seen:
                seen.add(id(node))
                for text, mend in _told(node, path, known):
                    if _says_something(text):
                        yield Sentence(path, node.lineno, text, mend)
                for text in _reported(node, path, known):
                    yield Sentence(f"{path}#report", node.lineno, text)
            elif paragraph and isinstance(node, (ast.Yield, ast.YieldFrom, ast.Return, ast.Dict)) and id(node) not in seen:
                seen.add(id(node))
                yield from (Sentence(path, node.lineno, text) for text in _given(node, known) if _is_sentence(text))


def _given(node: ast.Yield | ast.YieldFrom | ast.Return | ast.Dict, known: dict[str, list[ast.expr]]) -> Iterator[str]:
    """The texts that a function gives back here, alone or in a list, or that a table has."""
    value = node if isinstance(node, ast.Dict) else node.value
    values = value.values if isinstance(value, ast.Dict) else value.elts if isinstance(value, ast.List) else [value]
    for each in values:
        if isinstance(each, (ast.Constant, ast.JoinedStr, ast.BinOp, ast.IfExp)):
            yield from _texts(each, known)


def _is_sentence(text: str) -> bool:
    """Not a mere word of one, nor a row of a table."""
    return text.rstrip().endswith((".", ">", ":")) and len(re.findall(r"[A-Za-z]+", re.sub(r"<[^<>]*>", "", text))) > 1


def _assigned(nodes: list[ast.AST] | list[ast.stmt]) -> dict[str, list[ast.expr]]:
    """Texts by the variable they are put into."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, (ast.Constant, ast.JoinedStr, ast.BinOp, ast.IfExp, ast.Call))
        ):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def _members(tree: ast.Module) -> dict[str, list[ast.expr]]:
    """Texts by the attribute they are put into, `self._problem`."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute) and isinstance(node.value, ast.JoinedStr):
            found.setdefault(ast.unparse(node.targets[0]), []).append(node.value)
    return found


def _answers(functions: list[ast.FunctionDef]) -> dict[str, list[ast.expr]]:
    """What functions of this module that give a text give back, by their name with ()."""
    found: dict[str, list[ast.expr]] = {}
    for function in functions:
        if function.returns is not None and ast.unparse(function.returns) in ("str", "str | None"):
            given = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
            found[f"{function.name}()"] = [value for value in given if isinstance(value, ast.JoinedStr)]
    return found


def _told(call: ast.Call, path: str, known: dict[str, list[ast.expr]]) -> Iterator[tuple[str, str]]:
    """The sentences for a person in a call's arguments, each with what to do where the code says that beside it."""
    name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name in ("Failed", "Advice") and len(call.args) > 1:
        mend = " ".join(_texts(call.args[1], known))
        yield from ((text, mend) for text in _texts(call.args[0], known))
        return
    for value in _arguments(call, name, path):
        for text in _texts(value, known):
            yield (f"… {text} …" if name == "ValueError" and not path.startswith("gahp/cli/") else text), ""


def _reported(call: ast.Call, path: str, known: dict[str, list[ast.expr]]) -> Iterator[str]:
    """The sentences that a call puts on standard output."""
    told = ast.unparse(call.func)
    printed = told == "print" and not any(keyword.arg == "file" for keyword in call.keywords)
    if call.args and path.startswith(("gahp/cli/", "gahp/provision/", "gahp/server.py")) and (printed or told in _REPORTING):
        yield from (text.strip() for text in _texts(call.args[0], known) if _is_sentence(text))


def _arguments(call: ast.Call, name: str, path: str) -> list[ast.expr]:
    if path.startswith(_NOT_FOR_PEOPLE) and name not in ("Refused", "Transient"):
        return []
    if name == "print":
        to = next((keyword.value for keyword in call.keywords if keyword.arg == "file"), None)
        return call.args[:1] if to is not None and ast.unparse(to) == "sys.stderr" else []
    if name == "ValueError":
        return [] if path in _FAULTS else call.args[:1]
    if name == "append" and isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value).endswith("problems"):
        return call.args[:1]
    if name == "error" and isinstance(call.func, ast.Attribute) and "parser" in ast.unparse(call.func.value):
        return call.args[:1]
    if name in _TELLING:
        return call.args[:2]
    return [keyword.value for keyword in call.keywords if keyword.arg == "refusal"] if name == "Command" else []


def _texts(node: ast.expr, known: dict[str, list[ast.expr]], depth: int = 0) -> list[str]:
    """What an expression may come to, with placeholders; [] if it is no text of this place."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        parts = []
        for part in node.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
            elif isinstance(part, ast.FormattedValue):
                parts.append(_filled(part.value, known, depth))
        return ["".join(parts)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _texts(node.left, known, depth), _texts(node.right, known, depth)
        if not left and not right:
            return []
        return [a + b for a in left or [_placeholder(node.left)] for b in right or [_placeholder(node.right)]]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, known, depth) + _texts(node.orelse, known, depth)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "one_line" and node.args:
        return _texts(node.args[0], known, depth)
    if isinstance(node, (ast.Name, ast.Attribute, ast.Call)) and depth < 3:
        called = node.func if isinstance(node, ast.Call) else None
        source = f"{ast.unparse(called).rpartition('.')[2]}()" if called is not None else ast.unparse(node)
        return [text for value in known.get(source, ()) for text in _texts(value, known, depth + 1)]
    return []


def _filled(node: ast.expr, known: dict[str, list[ast.expr]], depth: int) -> str:
    """What stands for an expression within a sentence: its own text if it has just one, else a placeholder."""
    texts = _texts(node, known, depth + 1) if isinstance(node, (ast.Name, ast.Constant)) else []
    if len(texts) == 1 and (texts[0].isidentifier() or " " in texts[0]):
        return texts[0]
    return _placeholder(node)


def _placeholder(node: ast.expr) -> str:
    source = ast.unparse(node)
    return f"<{NAMES[source] if source in NAMES else _name_of(node)}>"


def _name_of(node: ast.expr) -> str:
    """A word or two for an expression: the last name in it."""
    if isinstance(node, ast.Name):
        return _words(node.id)
    if isinstance(node, ast.Attribute):
        return _words({"strerror": "reason", "msg": "reason", "lineno": "line", "colno": "column"}.get(node.attr, node.attr))
    if isinstance(node, ast.Subscript):
        inner = node.slice
        return _words(inner.value) if isinstance(inner, ast.Constant) and isinstance(inner.value, str) else _name_of(node.value)
    if isinstance(node, ast.Call):
        if node.args and (not isinstance(node.func, ast.Attribute) or node.func.attr in ("join", "get", "basename")):
            return _name_of(node.args[-1] if ast.unparse(node.func).endswith("join") else node.args[0])
        return _name_of(node.func.value if isinstance(node.func, ast.Attribute) else node.func)
    if isinstance(node, (ast.BoolOp, ast.GeneratorExp, ast.ListComp)):
        return _name_of(node.values[0] if isinstance(node, ast.BoolOp) else node.elt)
    if isinstance(node, ast.IfExp):
        return _name_of(node.body)
    if isinstance(node, ast.BinOp):
        return _name_of(node.left)
    return _words(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else "value"


def _words(name: str) -> str:
    if name in ("error", "errors", "reason", "why"):
        return "reason"
    return re.sub(r"[^A-Za-z0-9]+", " ", name).strip().lower() or "value"


# Bash

_BASH = re.compile(r"""\b(fail [a-z_0-9]+|bad_input|say|printf '%s') (?:"((?:[^"\\]|\\.)*)"|'([^']*)')""")


def _in_bash(path: str, source: str) -> Iterator[Sentence]:
    for number, line in enumerate(source.splitlines(), 1):
        for found in _BASH.finditer(line):
            text = found[2] or found[3]
            where = f"{path}#log" if found[1] == "say" else path
            default = re.fullmatch(r"\$\{[^:]*:-(.*)\}", text)
            text = _BASH_VALUE.sub(_bash_name, default[1] if default else text).replace('\\"', '"')
            if _says_something(text):
                yield Sentence(where, number, text)


_BASH_VALUE = re.compile(r"\$\{(?:[^{}]|\{[^{}]*\})*\}|\$[A-Za-z_0-9]+")


def _bash_name(found: re.Match[str]) -> str:
    return f"<{NAMES.get(found[0]) or _words(re.sub(r'[^A-Za-z_].*', '', found[0].lstrip('${#')))}>"


def _says_something(text: str) -> bool:
    """Placeholders alone are another sentence passed on; it is listed where it is made."""
    if text.startswith("$Condor"):
        return False
    bare = re.sub(r"<[^<>]*>|\$\([^)]*\)|^(condor_awsbatch|pegasus-aws-batch): ", "", text)
    return re.search(r"[A-Za-z]{3,}", bare) is not None


# Markdown


def page() -> str:
    """docs/messages.md. Raises LookupError when a note belongs to no sentence any more."""
    found = sentences()
    stale = [key for key in NOTES if not any(sentence.text.startswith(key) for sentence in found)]
    if stale:
        raise LookupError(f"tools/message_notes.py has a note for what the code no longer says: {stale}")
    lines = [
        "# Every sentence that you can meet",
        "",
        "Made from the code by `make docs`; a test holds it equal. `<such>` parts vary. Where a sentence does not say by itself",
        "what to do, the second column does. Sentences of AWS and of the operating system appear within these as they are.",
        "",
    ]
    used = sorted({_place(sentence.path) for sentence in found})
    lines += [f"- [{PLACES[number][0]}](#{_anchor(PLACES[number][0])})" for number in used]
    for number, (title, about, _) in enumerate(PLACES):
        here = list(dict.fromkeys(sentence.text for sentence in found if _place(sentence.path) == number))
        if not here:
            continue
        lines += ["", f"## {title}", "", about, "", "| sentence | what it means, what to do |", "| --- | --- |"]
        mends = {sentence.text: sentence.mend for sentence in found}
        lines += [f"| {_cell(text)} | {_cell(mends[text] or note(text))} |" for text in sorted(here, key=str.casefold)]
    return "\n".join(lines) + "\n"


def note(text: str) -> str:
    """The line beside a sentence, "" if it has none."""
    fits = [key for key in NOTES if text.startswith(key)]
    if fits:
        return NOTES[max(fits, key=len)]
    return next((general for pattern, general in GENERAL if re.search(pattern, text)), "")


# How a sentence tells what to do: an imperative behind a stop, or an option, a knob or a command in it.
_VERBS = (
    "add ask change check correct create delete edit empty enable expect find fill give help leave let lower make mend move name "
    "pack pip put raise release remove rename renew run say see send separate set start submit take transfer try use wait write"
)
_TELLS = re.compile(
    rf"(?:[:;,.(?] |\band |^)(?:then )?(?:{'|'.join(_VERBS.split())}|did you|does a|--[a-z])\b|--[a-z-]+|condor_awsbatch [a-z]+"
    r"|AWSBATCH_[A-Z0-9_]+|is read again|to be|needs? (?:one|the)",
    re.IGNORECASE,
)


def tells_what_to_do(text: str) -> bool:
    """Whether a sentence itself says what to do about it."""
    return _TELLS.search(text) is not None


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ").strip()


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
