"""What the set-up verbs are asked for: the prefix, the account and Region, and an ARN, a file or a name for each entity.

Joins options and a properties file (the command line wins) and checks their form. Knows the names made from a prefix and the tags
that mark what this program made; makes no calls.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from pathlib import Path

from gahp.model import Refused
from gahp.provision import pegasusrc

PREFIX_TAG = "awsbatch-gahp:prefix"
CONTENT_TAG = "awsbatch-gahp:content"
DEFAULT_WAIT_S = 900.0

# Names of pegasus-aws-batch's properties.
PROPERTIES = {
    "region": "pegasus.aws.region",
    "account": "pegasus.aws.account",
    "prefix": "pegasus.aws.batch.prefix",
    "job_definition": "pegasus.aws.batch.job_definition",
    "compute_environment": "pegasus.aws.batch.compute_environment",
    "job_queue": "pegasus.aws.batch.job_queue",
    "s3": "pegasus.aws.batch.s3_bucket",
}
_OPTIONS = {name: f"--{name.replace('_', '-')}" for name in PROPERTIES}


class Kind(enum.Enum):
    """The three kinds of Batch entity; the value is the word in an ARN."""

    JOB_DEFINITION = "job-definition"
    COMPUTE_ENVIRONMENT = "compute-environment"
    JOB_QUEUE = "job-queue"

    @property
    def words(self) -> str:
        return self.value.replace("-", " ")

    @property
    def suffix(self) -> str:
        """What follows the prefix in a default name, as pegasus-aws-batch has it."""
        return "-compute-env" if self is Kind.COMPUTE_ENVIRONMENT else f"-{self.value}"

    @property
    def name_member(self) -> str:
        """The member of a request that holds the name."""
        head, *rest = self.value.split("-")
        return head + "".join(word.capitalize() for word in rest) + "Name"

    @property
    def arn_member(self) -> str:
        return self.name_member.removesuffix("Name") + "Arn"

    @property
    def operation(self) -> str:
        """The call that makes one."""
        verb = "Register" if self is Kind.JOB_DEFINITION else "Create"
        return verb + "".join(word.capitalize() for word in self.value.split("-"))


class Form(enum.Enum):
    """What a value names its entity by."""

    ARN = "ARN"
    FILE = "file"
    NAME = "name"


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """One of --job-definition, --compute-environment, --job-queue as it was given."""

    kind: Kind
    form: Form
    text: str


def value_of(kind: Kind, text: str) -> Value:
    """An ARN, the path of a file, or a name. Raises Refused for what can be none of them."""
    if text.startswith("arn:"):
        return Value(kind, Form.ARN, text)
    if Path(text).is_file() or "/" in text or text.endswith(".json"):
        return Value(kind, Form.FILE, text)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}(:[0-9]{1,9})?", text):
        raise Refused(f"--{kind.value} {text}: this is no ARN, no file and no name (up to 128 letters, digits, - and _).")
    return Value(kind, Form.NAME, text)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Everything that `create`, `delete` and `update` are told. `load` fills it from options and properties."""

    prefix: str
    region: str = ""
    account: str = ""
    profile: str = ""
    job_definition: str = ""
    compute_environment: str = ""
    job_queue: str = ""
    s3: str = ""
    with_roles: bool = False
    default_vpc: bool = False
    with_events: bool = False
    dry_run: bool = False
    wait_s: float = DEFAULT_WAIT_S

    def __post_init__(self) -> None:
        if not self.prefix:
            raise Refused("No prefix is given: --prefix NAME is what all names begin with.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", self.prefix):
            raise Refused(f"--prefix {self.prefix}: use up to 100 letters, digits, - and _, a letter or digit first.")
        if not 0 <= self.wait_s < float("inf"):
            raise Refused(f"--wait {self.wait_s:g}: give a number of seconds from 0 on.")
        if self.account and not re.fullmatch(r"[0-9]{12}", self.account):
            raise Refused(
                f"The AWS account {self.account!r} is not a number of 12 digits: edit {PROPERTIES['account']} in the properties "
                "file, or give --account."
            )
        if self.region and not re.fullmatch(r"[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}", self.region):
            raise Refused(f"The Region {self.region!r} does not look like one, such as us-west-2: give --region.")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.bucket):
            if self.s3:
                raise Refused(
                    f"--s3 {self.s3}: give s3://BUCKET or s3://BUCKET/KEY; a bucket's name has 3 to 63 a-z, 0-9, - and ."
                )
            raise Refused(f"{self.bucket} cannot be a bucket's name (3 to 63 a-z, 0-9, - and .): give --s3 s3://BUCKET.")
        if not re.fullmatch(r"[A-Za-z0-9!_.*'()/=+@-]+", self.key):
            raise Refused(f"--s3 {self.s3}: the key may have letters, digits and !_.*'()/=+@- only.")

    def value(self, kind: Kind) -> Value | None:
        """What was given for an entity; None: nothing."""
        text: str = getattr(self, kind.value.replace("-", "_"))
        return value_of(kind, text) if text else None

    def name(self, kind: Kind) -> str:
        """The name of an entity whose JSON names none."""
        return self.prefix + kind.suffix

    @property
    def default_bucket(self) -> str:
        # A bucket's name knows no capitals and no underscore.
        return self.prefix.lower().replace("_", "-") + "-bucket"

    @property
    def bucket(self) -> str:
        return self.s3.removeprefix("s3://").partition("/")[0] or self.default_bucket

    @property
    def key(self) -> str:
        """The key prefix in the bucket, without slashes at its ends."""
        return self.s3.removeprefix("s3://").partition("/")[2].strip("/") or self.prefix

    @property
    def s3_url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def load(conf: str = "", **options: object) -> Settings:
    """Settings from keyword options (None and "": not given) and, where they say nothing, from the properties file `conf`."""
    properties = pegasusrc.read(conf) if conf else {}
    known = set(PROPERTIES.values())
    for name in properties:
        # A misspelt property would silently not count; others belong to Pegasus.
        if name.startswith("pegasus.aws.") and name not in known:
            near = min(known, key=lambda other: _distance(name, other))
            raise Refused(f"The properties file {conf} has {name}, which means nothing here: did you mean {near}?")
    given = {name: value for name, value in options.items() if value not in (None, "")}
    for name, key in PROPERTIES.items():
        if name not in given and properties.get(key, "").strip():
            given[name] = properties[key].strip()
    given.setdefault("prefix", "")
    return Settings(**given)  # type: ignore[arg-type]


def _distance(one: str, other: str) -> int:
    """Levenshtein's: how many letters have to change."""
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, 1):
        last, row[0] = row[0], index
        for column, against in enumerate(other, 1):
            last, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, last + (letter != against))
    return row[-1]


def nearest(word: str, known: list[str]) -> str:
    """The known word that is least unlike `word`, case aside."""
    return min(known, key=lambda other: (_distance(word.lower(), other.lower()), other))
