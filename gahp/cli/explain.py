"""A GAHP's lines in words, for a person: what a return line, a result, each of its tokens means.

Pure functions: an event of the conversation in, lines of text out. Whatever a GAHP says is shown without its control
characters, so that no reply can play with the terminal.
"""

from __future__ import annotations

import re

from gahp.model import to_text
from gahp.protocol.client import Announcement, Event, Greeting, Noise, Outcome, Reply, greeting_text
from gahp.protocol.commands import COMMANDS, STATES, Command
from gahp.protocol.results import Result

_CONSEQUENCES = {
    "BLAH_PING": "The gridmanager would keep its jobs idle and ask again after 5 minutes.",
    "BLAH_JOB_SUBMIT": "The gridmanager would hold the job, with this text as the reason.",
    "BLAH_JOB_STATUS": "The gridmanager would hold the job after 5 such answers, and not cancel it.",
    "BLAH_JOB_CANCEL": "The gridmanager would forget the job all the same.",
}
_CONTROL_REPLIES = {
    "ASYNC_MODE_ON": "From now on a line R tells that results are waiting.",
    "ASYNC_MODE_OFF": "From now on nothing tells that results are waiting: ask for RESULTS.",
    "RESPONSE_PREFIX": "Every later line begins with the prefix.",
    "QUIT": "The GAHP is leaving.",
}
# A string, a character in single quotes, a bracket, the end of an attribute, or text that is none of these.
_AD_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"?|\'(?:[^\'\\]|\\.)*\'?|[\[\]{}()]|;|[^"\'\[\]{}();]+', re.DOTALL)


def explain(event: Event) -> list[str]:
    """What `event` means, a sentence or a table a line."""
    match event:
        case Greeting():
            return [f"The GAHP is there: {printable(greeting_text(event))}."]
        case Announcement():
            return ["Results are waiting."]
        case Reply():
            return _explain_reply(event)
        case Outcome():
            return _explain_outcome(event)
        case Noise():
            return ["No part of the conversation: without the prefix, or not asked for."]


def printable(text: str, limit: int | None = None) -> str:
    """`text` with what a terminal would obey instead of show written as escapes; cut behind `limit` characters."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def raw(line: bytes, limit: int) -> str:
    """A line of the conversation as it was, for one line of the terminal."""
    return printable(to_text(line), limit)


def signature(command: Command) -> str:
    """How `command` is written."""
    return " ".join((command.name, *command.parameters))


def attributes(ad: str) -> list[tuple[str, str]] | None:
    """Names and expressions of a ClassAd in the new syntax, as written; None if `ad` is not in brackets.

    Only cuts at the semicolons of the outermost level, so it shows also what a parser would refuse.
    """
    text = ad.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    found, depth, current = [], 0, ""
    for piece in [*_AD_PIECE.findall(text[1:-1]), ";"]:
        depth += (piece in "[{(") - (piece in "]})")
        if piece != ";" or depth > 0:
            current += piece
            continue
        name, equals, expression = current.partition("=")
        if current.strip():
            found.append((name.strip(), expression.strip() if equals else ""))
        current = ""
    if current.strip():
        found.append((current.strip(), ""))
    return found


def ad_table(ad: str) -> list[str]:
    """`ad` with an attribute a line."""
    found = attributes(ad)
    if found is None:
        return [f"not a ClassAd: {printable(ad, 200)}"]
    width = max((len(name) for name, _ in found), default=0)
    return [f"{printable(name):<{width}} = {printable(expression)}" for name, expression in found]


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _explain_reply(reply: Reply) -> list[str]:
    text = printable(" ".join(reply.tokens))
    if reply.verdict == "E":
        return [f"Not understood: {text}"]
    if reply.verdict == "F":
        return [f"Refused: {text}"]
    command = COMMANDS.get(reply.command)
    if command is not None and command.has_result:
        return [f"Accepted as request {printable(reply.arguments[0])}; its result will come."]
    if reply.command == "COMMANDS":
        return ["The GAHP has these commands:", *("  " + _described(name) for name in reply.tokens)]
    if reply.command == "RESULTS":
        number = reply.tokens[0] if reply.tokens else "0"
        return ["No results are waiting." if number == "0" else f"Results: {printable(number)}"]
    if reply.command in ("VERSION", "CONDOR_VERSION"):
        return [f"It is {text.replace('$', '').strip()}."]
    return [_CONTROL_REPLIES.get(reply.command, f"Done: {text}" if text else "Done.")]


def _described(name: str) -> str:
    command = COMMANDS.get(name.upper())
    return f"{signature(command)}: {command.about}" if command else f"{printable(name)}: not known here"


def _explain_outcome(outcome: Outcome) -> list[str]:
    what = printable(" ".join((outcome.command, *outcome.arguments)), 100)
    head = f"Request {printable(outcome.request_id)}, {what or 'unknown here'}"
    result = outcome.result
    if result is None:
        return [f"{head}: {_wrong_shape(outcome)}"]
    if result.code != 0:
        consequence = _CONSEQUENCES.get(outcome.command)
        return [f"{head}: failed with code {result.code}: {printable(result.message)}", *([consequence] if consequence else [])]
    return [f"{head}: {printable(result.message)}", *_explain_values(outcome.command, result)]


def _explain_values(command: str, result: Result) -> list[str]:
    if command == "BLAH_JOB_SUBMIT":
        return [f"The job is {printable(result.values[0])}"]
    if command == "BLAH_JOB_STATUS":
        state, ad = result.values
        return [f"Status {printable(state)}: {STATES.get(state, 'no such status')}", *("  " + line for line in ad_table(ad))]
    return []


def _wrong_shape(outcome: Outcome) -> str:
    command = COMMANDS.get(outcome.command)
    tokens = printable(" ".join(outcome.tokens), 200)
    if command is None or command.values is None:
        return f"nobody asked for this: {tokens}"
    expected = 3 + len(command.values)
    if len(outcome.tokens) + 1 != expected:
        return f"has {len(outcome.tokens) + 1} tokens instead of {expected}, the gridmanager would abort: {tokens}"
    return f"its code is no number: {tokens}"
