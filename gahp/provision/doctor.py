"""The doctor: carries out the checks one after another and says of each how it went and what to do. Knows no check itself."""

from __future__ import annotations

import dataclasses
import enum
import logging
import time
from collections.abc import Callable, Iterator

from gahp.config import Config, Lookup
from gahp.model import Refused, Transient, one_line
from gahp.provision import checks, probe
from gahp.provision.aws import Clients

log = logging.getLogger(__name__)


class Status(str, enum.Enum):
    """How a check went. ADVICE: jobs run, and something should be otherwise; SKIPPED: an earlier check it needs has failed."""

    OK = "ok"
    ADVICE = "advice"
    FAILED = "failed"
    SKIPPED = "skipped"

    @property
    def good(self) -> bool:
        return self in (Status.OK, Status.ADVICE)


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what to do if it should be otherwise.

    `seconds`: how long the look took; `phases`: the probe job's parts in seconds, for programs.
    """

    name: str
    status: Status
    text: str
    mend: str = ""
    seconds: float = 0.0
    phases: dict[str, float] = dataclasses.field(default_factory=dict)


def clients_for(config: Config) -> Clients:
    """The clients that the GAHP itself would have."""
    return Clients(config.region, config.profile, config.endpoint_url)


def examine(
    config: Config,
    lookup: Lookup,
    *,
    probe_limit_s: float | None,
    make_clients: Callable[[Config], Clients] = clients_for,
    progress: Callable[[str], None] = lambda text: None,
) -> Iterator[Finding]:
    """Every finding as soon as there is one. `probe_limit_s`: how long the probe job may take; None: no probe job."""
    patient = checks.Patient(config, lookup, make_clients)
    bad: list[str] = []
    for test in checks.CHECKS:
        progress(f"looking at: {test.name}")
        finding = _look(test, patient)
        if not finding.status.good:
            bad.append(finding.name)
        yield finding
    if probe_limit_s is None:
        return
    if bad:
        text = f"not run, because of {', '.join(bad)}"
        yield Finding("probe job", Status.SKIPPED, text)
        return
    phases: dict[str, float] = {}
    finding = _look(checks.Test("probe job", lambda patient: probe.run(config, probe_limit_s, progress, phases)), patient)
    yield dataclasses.replace(finding, phases=phases)


def _look(test: checks.Test, patient: checks.Patient) -> Finding:
    begun = time.monotonic()
    status, mend = Status.OK, ""
    try:
        text = test.look(patient)
    except checks.Skipped as error:
        status, text = Status.SKIPPED, f"not looked at, because of {error}"
    except checks.Advice as error:
        status, text, mend = Status.ADVICE, str(error), error.mend
    except checks.Failed as error:
        status, text, mend = Status.FAILED, str(error), error.mend
    except (Refused, Transient) as error:
        status, text = Status.FAILED, str(error)
    except Exception as error:
        # Whatever it is: the other lines are told all the same.
        log.debug("The check %s failed", test.name, exc_info=True)
        status, text = Status.FAILED, f"it could not be looked at: {type(error).__name__}: {error}".rstrip(": ")
    return Finding(test.name, status, one_line(text), mend, round(time.monotonic() - begun, 3))
