"""Every command of the protocol: its parameters, its result line, and whether this server has it.

A table and its checks; no behaviour. Counts and names are blahpd's (facts: gahp-protocol.md). COMMANDS lists only what
this server has: the gridmanager sends nothing else, and other clients can rely on it.
"""

from __future__ import annotations

import dataclasses

from gahp.model import one_line, to_bytes
from gahp.protocol.lines import NO_VALUE, join
from gahp.protocol.results import NO_ERROR, Result

REQUEST_ID = "reqid"
MAX_TOKEN = 500_000
"""Bytes of the longest token sent, before escaping. The gridmanager aborts at 512,000."""

_MAX_REQUEST_ID = 18


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """A token behind the message of a result line, and what stands there when the command failed."""

    name: str
    on_failure: str


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One line of the table.

    `parameters` are the names of the arguments, the request id among them. `values` are the tokens behind `reqid rc message`
    of the result line; None: there is no result line. `refusal` is why this server does not do it, as a sentence.
    """

    name: str
    about: str
    parameters: tuple[str, ...] = ()
    values: tuple[Value, ...] | None = None
    refusal: str = ""
    listed: bool = True

    @property
    def has_result(self) -> bool:
        return self.values is not None

    def wrong_arguments(self, arguments: list[str]) -> str:
        """What is wrong with `arguments`, as a sentence; empty if nothing is."""
        if len(arguments) != len(self.parameters):
            names = f" ({' '.join(self.parameters)})" if self.parameters else ""
            return f"{self.name} expected {len(self.parameters)} parameters{names}, {len(arguments)} found"
        if self.has_result and not is_request_id(arguments[0]):
            return f"{self.name}: the request id must be a positive decimal integer, not {shortened(arguments[0])}"
        return ""

    def result_line(self, request_id: str, result: Result) -> bytes:
        """The result line, without prefix and line end, with exactly the tokens that the gridmanager counts.

        ValueError if `result` does not fit this command: the gridmanager would abort, or leave the job stuck for ever.
        """
        expected = self.values or ()
        values = result.values if result.code == 0 else tuple(value.on_failure for value in expected)
        if len(values) != len(expected):
            raise ValueError(f"{self.name} answers with {len(expected)} values behind the message, not {len(values)}")
        for value, text in zip(expected, values, strict=True):
            if result.code == 0 and text in ("", NO_VALUE, value.on_failure):
                raise ValueError(f"{self.name} cannot succeed without a {value.name}")
            if result.code == 0 and value is STATE and text not in STATES:
                raise ValueError(f"{self.name}: no such job status: {text}")
            if len(text) > MAX_TOKEN or len(to_bytes(text)) > MAX_TOKEN:
                raise ValueError(f"{self.name}: the {value.name} is longer than {MAX_TOKEN} bytes")
        return join((request_id, str(result.code), _message(result), *values))


def is_request_id(text: str) -> bool:
    return text.isdigit() and text.isascii() and text[0] != "0" and len(text) <= _MAX_REQUEST_ID


def shortened(text: str) -> str:
    """Something a client sent, as an error message can quote it."""
    return f'"{one_line(text[:100], 60) or "(not printable)"}"'


def _message(result: Result) -> str:
    text = result.message
    if text != NO_ERROR:
        text = one_line(text)
    return text or (NO_ERROR if result.code == 0 else "Failed without a message")


STATES = {"1": "idle", "2": "running", "3": "removed", "4": "completed", "5": "held"}
"""The status token of BLAH_JOB_STATUS."""

JOB_ID = Value("jobid", "N/A")
STATE = Value("status", "0")
STATUS_AD = Value("ad", "N/A")

_JOB = (REQUEST_ID, "jobid")
_NO_PROXY_CACHE = "This GAHP caches no proxies: name the proxy in the submit ad and renew it with BLAH_JOB_REFRESH_PROXY"
_NO_OWN_PROXY = "This GAHP uses no proxy or token of its own"

_TABLE = (
    Command("ASYNC_MODE_OFF", "do not announce results"),
    Command("ASYNC_MODE_ON", "announce waiting results with a line R"),
    Command("BLAH_JOB_CANCEL", "remove a job", _JOB, ()),
    Command("BLAH_JOB_HOLD", "take back a job that has not started", _JOB, ()),
    Command("BLAH_JOB_REFRESH_PROXY", "give a job a newer proxy", (*_JOB, "proxy_file"), ()),
    Command("BLAH_JOB_RESUME", "submit a job again that was taken back", _JOB, ()),
    Command("BLAH_JOB_STATUS", "how a job stands", _JOB, (STATE, STATUS_AD)),
    Command("BLAH_JOB_SUBMIT", "run a job, described by a submit ad", (REQUEST_ID, "ad"), (JOB_ID,)),
    Command("BLAH_PING", "whether a batch system can be used now", (REQUEST_ID, "lrms"), ()),
    Command("COMMANDS", "the commands of this server"),
    Command("CONDOR_VERSION", "exchange HTCondor versions", ("version",)),
    Command("QUIT", "end the conversation"),
    Command("RESPONSE_PREFIX", "begin each later line with a prefix", ("prefix",)),
    Command("RESULTS", "fetch the waiting result lines"),
    Command("VERSION", "the greeting again"),
    Command("BLAH_SET_GLEXEC_OFF", "stop using glexec", listed=False),
    Command("BLAH_SET_SUDO_OFF", "stop using sudo", listed=False),
    Command(
        "BLAH_SET_GLEXEC_DN",
        "run later commands as another user, by glexec",
        ("user_proxy", "client_certificate", "not_limited"),
        refusal="This GAHP has no glexec: it acts for the user who started it",
        listed=False,
    ),
    Command(
        "BLAH_SET_SUDO_ID",
        "run later commands as another user, by sudo",
        ("user",),
        refusal="This GAHP has no sudo mode: it acts for the user who started it",
        listed=False,
    ),
    Command(
        "BLAH_GET_HOSTPORT",
        "where the log parsers listen",
        (REQUEST_ID,),
        (),
        refusal="This GAHP has no log parser, so no host and port",
        listed=False,
    ),
    Command(
        "BLAH_JOB_SEND_PROXY_TO_WORKER_NODE",
        "send a newer proxy to the host a job runs on",
        (*_JOB, "proxy_file", "host"),
        (),
        refusal="This GAHP sends nothing to worker nodes: use BLAH_JOB_REFRESH_PROXY",
        listed=False,
    ),
    Command("CACHE_PROXY_FROM_FILE", "name a proxy", ("id", "path"), refusal=_NO_PROXY_CACHE, listed=False),
    Command("USE_CACHED_PROXY", "use a proxy by its name", ("id",), refusal=_NO_PROXY_CACHE, listed=False),
    Command("UNCACHE_PROXY", "forget the name of a proxy", ("id",), refusal=_NO_PROXY_CACHE, listed=False),
    Command("INITIALIZE_FROM_FILE", "use a proxy for everything", ("path",), refusal=_NO_OWN_PROXY, listed=False),
    Command("REFRESH_PROXY_FROM_FILE", "use a newer proxy for everything", ("path",), refusal=_NO_OWN_PROXY, listed=False),
    Command("UPDATE_TOKEN", "use a newer token for everything", ("path",), refusal=_NO_OWN_PROXY, listed=False),
)

COMMANDS = {command.name: command for command in _TABLE}
"""Name, in upper case, to command."""

LISTED = tuple(sorted(command.name for command in _TABLE if command.listed))
"""What COMMANDS answers."""
