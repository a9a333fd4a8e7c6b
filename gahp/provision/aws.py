"""The calls of the set-up: boto3 clients on demand, errors as sentences, patience with what passes, and the dry run.

`ask` is for calls that change nothing: they are repeated. `change` is for calls that do: whether one whose reply was lost took
effect is for the step to find out, so the step as a whole is repeated (`persist`), and it looks before it acts. Knows no entity.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import (
    ConnectionError as NetworkError,
)

from gahp.model import Refused, Transient, one_line
from gahp.provision.settings import Settings

T = TypeVar("T")

_TRIES = 6
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403"}
_THROTTLED = {"TooManyRequestsException", "ThrottlingException", "Throttling", "RequestLimitExceeded", "SlowDown"}
_QUOTA = {"ServiceQuotaExceededException", "LimitExceeded", "LimitExceededException", "TooManyBuckets"}
_CREDENTIALS = {
    "ExpiredTokenException",
    "ExpiredToken",
    "RequestExpired",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "AuthFailure",
}
# "User: ARN is not authorized to perform: ACTION on resource: ARN because ..."; "with an explicit deny" may follow.
_WHO_WHAT = re.compile(r"User: (?P<who>\S+) is not authorized to perform: (?P<what>[\w:*-]+)(?: on resource: (?P<on>[^\s,]+))?")
_QUOTA_WORDS = re.compile(r"\b(quota|limit (has been )?(reached|exceeded)|exceed\w* .*limit|maximum number of|too many)\b", re.I)


class Report(Protocol):
    """Where the verbs tell how they get on."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def progress(self, text: str) -> None:
        """What is waited for now; replaced by the next one. "" ends it."""

    def call(self, text: str) -> None:
        """A call that a dry run does not make."""


class Clients:
    """boto3 clients, each made when it is first asked for. Nothing is retried by botocore."""

    def __init__(self, region: str = "", profile: str = "", endpoint_url: str = "", **credentials: str) -> None:
        try:
            self.session = boto3.Session(profile_name=profile or None, region_name=region or None, **credentials)
        except ProfileNotFound as error:
            raise Refused(one_line(f"{error}: name one of ~/.aws with --profile.")) from error
        if self.session.region_name is None:
            raise Refused("No AWS Region is known: give --region, or pegasus.aws.region in the properties file.")
        self.region: str = self.session.region_name
        self._endpoint = endpoint_url or None
        self._clients: dict[str, Any] = {}

    def __call__(self, service: str) -> Any:
        if service not in self._clients:
            once = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=10, read_timeout=60)
            try:
                self._clients[service] = self.session.client(service, endpoint_url=self._endpoint, config=once)
            except (BotoCoreError, ValueError) as error:
                raise Refused(one_line(f"AWS cannot be used: {error}.")) from error
        return self._clients[service]


def clients_for(settings: Settings) -> Clients:
    """The clients of a verb that was told these settings."""
    return Clients(settings.region, settings.profile)


class Throttled(Transient):
    """The account's call rate is used up; nothing was done."""


class NotThere(Refused):
    """What was asked about does not exist."""


class AlreadyThere(Refused):
    """What was to be made exists."""


class Aws:
    """Calls with their errors told apart. `pause` waits for so many seconds."""

    def __init__(
        self, clients: Clients, report: Report, *, dry_run: bool = False, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.clients = clients
        self.report = report
        self.dry_run = dry_run
        self.pause = pause
        self.region = clients.region
        self.changes = 0
        self._identity: dict[str, str] = {}

    def ask(self, service: str, operation: str, thing: str, **parameters: Any) -> Any:
        """A call that changes nothing, such as batch's DescribeJobQueues; `thing` is what it is about, for sentences."""
        return self.persist(lambda: self._call(service, operation, thing, parameters))

    def pages(self, service: str, operation: str, thing: str, member: str, **parameters: Any) -> Iterator[Any]:
        """The entries of `member` on all pages of a call that pages with nextToken, Marker or not at all."""
        token: dict[str, str] = {}
        while True:
            page = self.ask(service, operation, thing, **parameters, **token)
            yield from page.get(member, [])
            if page.get("nextToken"):
                token = {"nextToken": page["nextToken"]}
            elif page.get("IsTruncated") and page.get("Marker"):
                token = {"Marker": page["Marker"]}
            else:
                return

    def change(self, service: str, operation: str, thing: str, **parameters: Any) -> Any:
        """A call that changes something; a dry run prints it and answers {}. Raises Transient if it may have been done."""
        if self.dry_run:
            self.report.call(f"{service}:{operation} {json.dumps(parameters, default=str, sort_keys=True)}")
            self.changes += 1
            return {}
        # Throttled means not done: that one may be sent again here and now.
        answer = self.persist(lambda: self._call(service, operation, thing, parameters), Throttled)
        self.changes += 1
        return answer

    def did(self, text: str) -> None:
        """Tell what was made or changed; a dry run has told of the call already."""
        if not self.dry_run:
            self.report.say(text)

    def persist(self, step: Callable[[], T], passes: type[Transient] = Transient) -> T:
        """`step`, again and again while what fails is known to pass. Raises what it raised last."""
        for number in range(1, _TRIES + 1):
            try:
                return step()
            except passes as error:
                if number == _TRIES:
                    raise
                self.report.progress(f"trying again: {error}")
                self.pause(min(4.0, 0.1 * 3**number))
        raise AssertionError("unreachable")

    def identity(self) -> Mapping[str, str]:
        """Account, Arn and UserId of the credentials."""
        if not self._identity:
            answer = self.ask("sts", "GetCallerIdentity", "your credentials")
            self._identity = {key: str(answer[key]) for key in ("Account", "Arn", "UserId")}
        return self._identity

    @property
    def account(self) -> str:
        return self.identity()["Account"]

    @property
    def partition(self) -> str:
        return self.identity()["Arn"].split(":")[1]

    def _call(self, service: str, operation: str, thing: str, parameters: Mapping[str, Any]) -> Any:
        client = self.clients(service)
        try:
            return getattr(client, _method(operation))(**parameters)
        except Exception as error:
            raise explain(error, f"{service}:{operation}", thing) from error


def _method(operation: str) -> str:
    """botocore's name of a method: DescribeVpcs is describe_vpcs."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", operation).lower()


def explain(error: Exception, action: str, thing: str) -> Exception:
    """What to raise in place of `error`, which came out of a call of `action` (service:Operation) about `thing`."""
    if isinstance(error, ClientError):
        return _explain_answer(error, action, thing)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return Refused(
            f"AWS credentials are missing: put them into ~/.aws/credentials, or name a profile with --profile ({error})."
        )
    if isinstance(error, ParamValidationError):
        return Refused(one_line(f"{thing}: {error}", 600))
    if isinstance(error, (NetworkError, HTTPClientError, OSError)):
        return Transient(one_line(f"AWS could not be reached for {action} about {thing}: {error}"))
    return Refused(one_line(f"{action} about {thing} failed: {error}")) if isinstance(error, BotoCoreError) else error


def _explain_answer(error: ClientError, action: str, thing: str) -> Exception:
    details = error.response.get("Error", {})
    code, message = str(details.get("Code", "")), one_line(str(details.get("Message", "")), 500)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _THROTTLED or status == 429:
        return Throttled(f"AWS throttles {action} ({thing}): {message}")
    if code in _CREDENTIALS:
        return Refused(f"AWS does not take the credentials ({code}: {message}): renew them, or name others with --profile.")
    if status >= 500:
        return Transient(f"{action} about {thing} failed inside AWS: {code}: {message}")
    if (said := _WHO_WHAT.search(message)) or code in _DENIED:
        who, what, on = (said["who"], said["what"], said["on"]) if said else ("", "", "")
        return Refused(
            f"No permission: {who or 'the user of these credentials'} may not do {what or action} on {on or thing}. "
            "Let the account's administrator allow it (conf/iam/administrator.json)."
        )
    if code in _QUOTA or (status == 400 and _QUOTA_WORDS.search(message)):
        return Refused(
            f"A quota of the AWS account is reached with {thing}: {message or code}. Delete what is not needed, or ask for "
            "more in AWS's Service Quotas; then run this again."
        )
    text = f"AWS refuses {action} for {thing}: {code}: {message}"
    if code == "OperationAborted":
        # S3 still makes or deletes a bucket of that name.
        return Transient(f"{action} about {thing} has to wait: {message}")
    if status == 404 or code in ("NoSuchEntity", "NoSuchBucket", "NoSuchTagSet", "ResourceNotFoundException", "404"):
        return NotThere(text)
    if status == 409 or code == "EntityAlreadyExists" or "already exist" in message.lower():
        return AlreadyThere(text)
    return Refused(f"{text}{_hint(message)}")


_HINTS = (
    (
        r"subnet",
        "See computeResources.subnets: `aws ec2 describe-subnets` lists those there are, "
        "`condor_awsbatch create --default-vpc` takes the usual ones.",
    ),
    (r"security ?group", "See computeResources.securityGroupIds: `aws ec2 describe-security-groups` lists those there are."),
    (r"assumerole|assume role", "The role's trust policy has to name batch.amazonaws.com (conf/iam/service-role.json)."),
    (
        r"instance ?(role|profile)",
        "See computeResources.instanceRole, an instance profile: `condor_awsbatch create --with-roles` makes it.",
    ),
    (r"\brole", "See the roles that the file names: `condor_awsbatch create --with-roles` makes them (conf/iam)."),
    (r"instance ?type", "See computeResources.instanceTypes."),
    (r"launch ?template", "See computeResources.launchTemplate."),
)


def _hint(message: str) -> str:
    """What to look at, by the words of AWS's message; as its next sentence, "" if nothing is known."""
    found = (hint for pattern, hint in _HINTS if re.search(pattern, message, re.I))
    return next((f"{'' if message.endswith('.') else '.'} {hint}" for hint in found), "")


def hint(message: str) -> str:
    """What to do about AWS's own reason for an INVALID entity."""
    return _hint(message).lstrip(". ") or "Mend what it says."
