"""What the doctor looks at, one function a check, in the order of `CHECKS`. Each gives a sentence, or raises Failed or Advice.

A check leaves in the Patient what later ones need; what a check needs and is not there has failed before, and then it is skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import fnmatch
import os
import platform
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import boto3
import botocore
from botocore.exceptions import ClientError

from gahp import __version__, limits
from gahp.config import Config, Lookup
from gahp.model import Refused, Transient
from gahp.provision import entities, policies
from gahp.provision.aws import Aws, Clients, NotThere
from gahp.provision.settings import Kind

# AWS refuses requests whose time is further off.
_SKEW_LIMIT_S, _SKEW_ADVICE_S = 300.0, 30.0
_WIDE_POLICIES = ("AdministratorAccess", "PowerUserAccess", "AmazonS3FullAccess")
_OBJECT_ACTIONS = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject")
# An object that no policy means in particular.
_ANY_OBJECT = "s3:::0-any-other-bucket-0/x"
_VERSION_LIMIT_S = 20.0
_LOG_GROUP = "/aws/batch/job"


class Failed(Exception):
    """Jobs cannot run as it stands. `mend`: what to do; "" when the text says it."""

    def __init__(self, text: str, mend: str = "") -> None:
        super().__init__(text)
        self.mend = mend


class Advice(Failed):
    """Jobs run, and something should be otherwise."""


@dataclasses.dataclass
class Patient:
    """What is known so far. `make_clients` makes the clients for a configuration."""

    config: Config
    lookup: Lookup
    make_clients: Callable[[Config], Clients]
    aws: Aws | None = None
    server_time: float | None = None
    queue: Mapping[str, Any] | None = None
    definition: Mapping[str, Any] | None = None
    environments: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    bucket: bool = False

    def need_aws(self) -> Aws:
        if self.aws is None:
            raise Skipped("credentials")
        return self.aws

    def need_definition(self) -> Mapping[str, Any]:
        if self.definition is None:
            raise Skipped("job definition")
        return self.definition


class Skipped(Exception):
    """It was not looked at, because the check of that name failed."""


class Silent:
    """A Report that nobody reads."""

    def say(self, text: str) -> None: ...
    def progress(self, text: str) -> None: ...
    def call(self, text: str) -> None: ...


def configuration(patient: Patient) -> str:
    """Every knob that has to be set is, and all have a form that can be right."""
    if patient.config.problems:
        mend = "`condor_awsbatch config` shows every knob; `condor_awsbatch install` writes them."
        raise Failed(" ".join(patient.config.problems), mend)
    gahp = patient.lookup("AWSBATCH_GAHP")
    if gahp and not os.access(gahp, os.X_OK):
        raise Failed(f"AWSBATCH_GAHP = {gahp} is not a program that can be run.", "`condor_awsbatch install` writes its place.")
    if not gahp:
        raise Advice(
            "The knobs are set, but HTCondor has no AWSBATCH_GAHP, so it would not start the program.",
            "Run `condor_awsbatch install` on the submit host.",
        )
    return f"queue {patient.config.job_queue}, definition {patient.config.job_definition}, {patient.config.s3_url}"


def pace(patient: Patient) -> str:
    """GAHPs find the directory that they are to share limits in."""
    directory = patient.config.limits_dir
    if not directory:
        return "shared by this user's GAHPs only, for AWSBATCH_LIMITS_DIR is not set"
    if why := limits.trouble(directory):
        raise Advice(
            f"AWSBATCH_LIMITS_DIR = {directory} cannot be used ({why}), so each GAHP learns AWS's limits by itself.",
            "As root, `condor_awsbatch install` makes its own directory anew; for another one: docs/admin.md, AWS's limits.",
        )
    return f"shared in {directory}"


def versions(patient: Patient) -> str:
    """The parts that the program runs on are as new as it needs them."""
    import htcondor2  # noqa: PLC0415  it reads HTCondor's configuration

    pool = _pool_version(str(patient.lookup("BIN") or ""))
    parts = {
        "Python": (platform.python_version(), (3, 10)),
        "boto3": (boto3.__version__, (1, 34)),
        "botocore": (botocore.__version__, (1, 34)),
        "HTCondor's Python": (_version(str(htcondor2.version())), (25, 0)),
        # The oldest that is tried out is 23.9.
        **({"HTCondor": (pool, (23, 0))} if pool else {}),
    }
    old = [f"{name} {has}" for name, (has, least) in parts.items() if tuple(map(int, has.split(".")[:2])) < least]
    if old:
        mend = "HTCondor is for its packages to renew; the rest comes with pip when this program is installed anew."
        raise Failed(f"Too old: {', '.join(old)}.", mend)
    told = [f"awsbatch-gahp {__version__}", *(f"{name} {has}" for name, (has, _) in parts.items())]
    return ", ".join(told if pool else [*told, "and no condor_version here that would tell HTCondor's own"])


def _version(text: str) -> str:
    found = re.search(r"[0-9]+\.[0-9]+(\.[0-9]+)?", text)
    return found[0] if found else "0"


def _pool_version(folder: str) -> str:
    """Of the HTCondor that is installed here: the Python bindings come with pip, and may be newer or older. "": none is found."""
    program = shutil.which("condor_version", path=folder or None) or shutil.which("condor_version")
    if program is None:
        return ""
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=_VERSION_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return _version(done.stdout) if "$CondorVersion" in done.stdout else ""


def credentials(patient: Patient) -> str:
    """There are credentials, AWS takes them, and they are not the root user's."""
    clients = patient.make_clients(patient.config)
    aws = Aws(clients, Silent())
    try:
        answer = aws.ask("sts", "GetCallerIdentity", "your credentials")
    except (Refused, Transient) as error:
        cause = error.__cause__
        if isinstance(cause, ClientError):
            patient.server_time = _date(cause.response)
        raise
    patient.server_time = _date(answer)
    patient.aws = aws
    found = clients.session.get_credentials()
    source = f", from {found.method}" if found is not None and found.method else ""
    if str(answer["Arn"]).endswith(":root"):
        raise Advice(
            f"These are the root user's of account {answer['Account']}, who may do everything{source}.",
            "Make a user or role with conf/iam/submit-host.json.",
        )
    return f"{answer['Arn']} of account {answer['Account']}{source}"


def _date(answer: Mapping[str, Any]) -> float | None:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def region(patient: Patient) -> str:
    """Queue and definition are of the Region that is asked."""
    aws = patient.need_aws()
    for knob in ("AWSBATCH_JOB_QUEUE", "AWSBATCH_JOB_DEFINITION"):
        value = str(patient.lookup(knob) or "")
        if value.startswith("arn:") and value.split(":")[3] != aws.region:
            raise Failed(f"{knob} = {value} is not in {aws.region}.", "Set AWSBATCH_REGION to the Region of the ARN.")
    return aws.region


def clock(patient: Patient) -> str:
    """The clock of this machine is AWS's."""
    if patient.server_time is None:
        raise Skipped("credentials")
    ahead = time.time() - patient.server_time
    # The header has whole seconds, and the answer was under way for a moment.
    text = f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} AWS's"
    if abs(ahead) > _SKEW_LIMIT_S:
        raise Failed(f"{text}, and AWS refuses that from {_SKEW_LIMIT_S:g} s on.", "Set the clock: chronyd or systemd-timesyncd.")
    if abs(ahead) > _SKEW_ADVICE_S:
        raise Advice(f"{text}.", "Set the clock: chronyd or systemd-timesyncd.")
    return text if abs(ahead) >= 2 else "the same as AWS's"


def queue(patient: Patient) -> str:
    """The job queue is VALID and ENABLED."""
    aws, name = patient.need_aws(), patient.config.job_queue
    if not name:
        raise Skipped("configuration")
    found = entities.describe(aws, Kind.JOB_QUEUE, name)
    if found is None:
        raise Failed(f"There is no job queue {name} in {aws.region}.", "`condor_awsbatch create` makes one.")
    patient.queue = found
    if found.get("status") != "VALID":
        raise Failed(
            f"{name} is {found.get('status')}: {found.get('statusReason', 'AWS gives no reason')}.", "Mend what it says."
        )
    if found.get("state") != "ENABLED":
        raise Failed(f"{name} is {found.get('state')}.", "condor_awsbatch update --prefix PREFIX --state ENABLED")
    return f"{name} is VALID and ENABLED"


def environments(patient: Patient) -> str:
    """At least one environment of the queue can take jobs; how much room there is."""
    aws = patient.need_aws()
    if patient.queue is None:
        raise Skipped("job queue")
    good, bad, room = [], [], 0
    for entry in sorted(patient.queue.get("computeEnvironmentOrder", []), key=lambda entry: int(entry["order"])):
        arn = entry["computeEnvironment"]
        name = arn.rpartition("/")[2]
        found = entities.describe(aws, Kind.COMPUTE_ENVIRONMENT, arn)
        if found is None:
            bad.append(f"{name} is gone")
        elif found.get("status") != "VALID" or found.get("state") != "ENABLED":
            bad.append(f"{name} is {found.get('status')} and {found.get('state')}: {found.get('statusReason', '')}")
        else:
            resources = found.get("computeResources", {})
            vcpus = int(resources.get("maxvCpus", found.get("unmanagedvCpus", 0)))
            room += vcpus
            good.append(f"{name} ({resources.get('type', found.get('type'))}, {vcpus} vCPUs)")
            patient.environments.append(found)
    if not good or not room:
        what = "; ".join(bad) or "none of them has room for a single vCPU"
        raise Failed(f"No environment can take jobs: {what}.", "`condor_awsbatch update` sets state and maxvCpus.")
    if bad:
        raise Advice(f"{', '.join(good)}; but {'; '.join(bad)}.", "Mend these, or take them out of the queue.")
    return f"{', '.join(good)}: {room} vCPUs at a time"


def definition(patient: Patient) -> str:
    """The job definition is ACTIVE, and fits the environments."""
    aws, text = patient.need_aws(), patient.config.job_definition
    if not text:
        raise Skipped("configuration")
    name, _, revision = text.rpartition("/")[2].partition(":")
    known = entities.revisions(aws, name)
    found = next((entry for entry in known if not revision or str(entry["revision"]) == revision), None)
    if found is None:
        raise Failed(f"There is no ACTIVE job definition {text} in {aws.region}.", "See AWSBATCH_JOB_DEFINITION.")
    container = found.get("containerProperties")
    if container is None:
        raise Failed(f"{text} has no containerProperties.", "Name a job definition of type container with one container.")
    patient.definition = found
    needs = {entry["type"]: entry["value"] for entry in container.get("resourceRequirements", [])}
    vcpus, memory = needs.get("VCPU", container.get("vcpus")), needs.get("MEMORY", container.get("memory"))
    wanted = "FARGATE" if "FARGATE" in found.get("platformCapabilities", []) else "EC2"
    types = {str(entry.get("computeResources", {}).get("type", "EC2")) for entry in patient.environments}
    if types and not any(("FARGATE" in kind) == (wanted == "FARGATE") for kind in types):
        raise Failed(f"{text} is for {wanted}, and the queue's environments are {', '.join(sorted(types))}.", "Name another one.")
    most = max((int(entry.get("computeResources", {}).get("maxvCpus", 0)) for entry in patient.environments), default=0)
    if most and vcpus and float(vcpus) > most:
        raise Failed(
            f"{text} asks for {vcpus} vCPUs, and no environment has more than {most}.", "condor_awsbatch update --max-vcpus"
        )
    gpus = f", {needs['GPU']} GPUs" if "GPU" in needs else ""
    return f"{name}:{found['revision']} is ACTIVE: {container.get('image')}, {vcpus} vCPUs, {memory} MiB{gpus}"


def mounts(patient: Patient) -> str:
    """The job definition mounts the shared directories at the same path, and jobs can write there."""
    shared = patient.config.shared_directories
    if not shared:
        return "AWSBATCH_SHARED_DIRECTORIES names none"
    container = patient.need_definition()["containerProperties"]
    read_only = []
    points = {str(point.get("containerPath", "")).rstrip("/"): point for point in container.get("mountPoints", [])}
    for directory in shared:
        above = [path for path in points if path and (directory + "/").startswith(path + "/")]
        if not above:
            raise Failed(
                f"The job definition mounts nothing at {directory}, which AWSBATCH_SHARED_DIRECTORIES names.",
                "Give it a volume and a mountPoint there, or take the directory out.",
            )
        if not os.path.isdir(directory):
            raise Failed(f"{directory}, which AWSBATCH_SHARED_DIRECTORIES names, is not on this host.", "Mount it here too.")
        if points[max(above, key=len)].get("readOnly"):
            read_only.append(directory)
    if read_only:
        raise Advice(
            f"The job definition mounts {', '.join(read_only)} for reading only: jobs can make no file there.",
            "Take readOnly out of the mountPoint, unless it is meant so.",
        )
    return f"{', '.join(shared)}: mounted by the job definition, and here"


def bucket(patient: Patient) -> str:
    """The bucket is in the Region, and can be written, read and cleaned up below the key prefix."""
    aws, config = patient.need_aws(), patient.config
    if not config.s3_url:
        raise Skipped("configuration")
    name, thing = config.bucket, f"the bucket {config.bucket}"
    key = "/".join(part for part in (config.prefix, f"doctor-{uuid.uuid4()}") if part)
    try:
        aws.persist(lambda: aws.change("s3", "PutObject", f"{thing}, {key}", Bucket=name, Key=key, Body=b"doctor"))
    except NotThere as error:
        raise Failed(f"{thing} does not exist.", "See AWSBATCH_S3_URL; `condor_awsbatch create` makes one.") from error

    def delete() -> None:
        aws.persist(lambda: aws.change("s3", "DeleteObject", f"{thing}, {key}", Bucket=name, Key=key))

    try:
        read = aws.ask("s3", "GetObject", f"{thing}, {key}", Bucket=name, Key=key)["Body"].read()
        if read != b"doctor":
            raise Failed(f"{thing} gave back something else than was written.", "Is there a proxy between here and S3?")
    except BaseException:
        with contextlib.suppress(Refused, Transient):
            delete()
        raise
    delete()
    patient.bucket = True
    return f"{config.s3_url} can be written and read"


def policy(patient: Patient) -> str:
    """The job role may do what jobs need and not much more."""
    aws, container = patient.need_aws(), patient.need_definition()["containerProperties"]
    role = str(container.get("jobRoleArn", "")).rpartition("/")[2]
    if not role:
        raise Advice("The job definition has no job role: jobs reach S3 only if hosts do.", "Give it conf/iam/job-role.json.")
    thing = f"the role {role}"
    try:
        attached = list(aws.pages("iam", "ListAttachedRolePolicies", thing, "AttachedPolicies", RoleName=role))
        inline = [
            aws.ask("iam", "GetRolePolicy", thing, RoleName=role, PolicyName=name)["PolicyDocument"]
            for name in aws.pages("iam", "ListRolePolicies", thing, "PolicyNames", RoleName=role)
        ]
    except NotThere as error:
        raise Failed(f"There is no role {role}, which the job definition names.", "Make it: conf/iam/job-role.json.") from error
    except Refused as error:
        return f"not looked at, for IAM does not show {thing} to these credentials ({error})"
    wide = ["an inline policy" for document in inline if is_wide(document, aws.partition)]
    unseen = []
    for entry in attached:
        document = _attached(aws, str(entry["PolicyArn"]))
        known = entry["PolicyName"] in _WIDE_POLICIES
        if known or (document is not None and is_wide(document, aws.partition)):
            wide.append(entry["PolicyName"])
        elif document is None:
            unseen.append(entry["PolicyName"])
    if wide:
        raise Advice(
            f"The job role {role} may do more than its own sandboxes need: {', '.join(wide)}.",
            f"Use conf/iam/job-role.json for {patient.config.s3_url} instead.",
        )
    if unseen:
        return f"the job role {role}: not looked at {', '.join(unseen)}, which IAM does not show to these credentials"
    return f"the job role {role} is not wider than it should be"


def _attached(aws: Aws, arn: str) -> policies.Policy | None:
    """What a managed policy says now; None if these credentials may not see it."""
    try:
        version = aws.ask("iam", "GetPolicy", f"the policy {arn}", PolicyArn=arn)["Policy"]["DefaultVersionId"]
        found = aws.ask("iam", "GetPolicyVersion", f"the policy {arn}", PolicyArn=arn, VersionId=version)
    except Refused:
        return None
    return dict(found["PolicyVersion"]["Document"])


def is_wide(document: policies.Policy, partition: str = "aws") -> bool:
    """Whether a policy lets objects of any bucket be read, written or deleted. Conditions are not looked at."""
    statements = document["Statement"]
    for statement in statements if isinstance(statements, list) else [statements]:
        everything = any(_covers(statement, "Action", action) for action in _OBJECT_ACTIONS)
        everywhere = _covers(statement, "Resource", f"arn:{partition}:{_ANY_OBJECT}")
        if statement.get("Effect") == "Allow" and everything and everywhere:
            return True
    return False


def _covers(statement: Mapping[str, Any], member: str, value: str) -> bool:
    """Whether Action or Resource, or their opposite NotAction or NotResource, has `value` in it; case does not count."""

    def matches(key: str) -> bool:
        # IAM has * and ? and nothing else.
        patterns = (pattern.lower().replace("[", "[[]") for pattern in _list(statement.get(key)))
        return any(fnmatch.fnmatchcase(value.lower(), pattern) for pattern in patterns)

    return not matches(f"Not{member}") if f"Not{member}" in statement else matches(member)


def _list(value: Any) -> list[str]:
    return list(value) if isinstance(value, (list, tuple)) else [str(value)] if value else []


def logs(patient: Patient) -> str:
    """What jobs print can be read."""
    aws, container = patient.need_aws(), patient.need_definition()["containerProperties"]
    options = container.get("logConfiguration", {}).get("options", {})
    group = str(options.get("awslogs-group", _LOG_GROUP))
    if container.get("logConfiguration", {}).get("logDriver", "awslogs") != "awslogs":
        return "the job definition sends logs elsewhere than to CloudWatch"
    try:
        aws.ask("logs", "DescribeLogStreams", f"the log group {group}", logGroupName=group, limit=1)
    except NotThere:
        return f"{group} is not there yet: AWS Batch makes it with the first job"
    except Refused as error:
        raise Advice(f"{error}", "Jobs run; what they print can then be seen in their output files only.") from error
    return f"{group} can be read"


def events(patient: Patient) -> str:
    """The queue of events can be read; without it jobs run, and are asked about."""
    url = patient.config.events_queue_url
    if not url:
        return "AWSBATCH_EVENTS_QUEUE_URL is not set: jobs are asked about"
    aws = patient.need_aws()
    try:
        # With the one call for which the submit host's user has permission, and hiding no message from who is to read it.
        aws.ask("sqs", "ReceiveMessage", f"the queue {url}", QueueUrl=url, VisibilityTimeout=0, WaitTimeSeconds=0)
    except (Refused, Transient) as error:
        raise Advice(
            f"AWSBATCH_EVENTS_QUEUE_URL = {url} cannot be read, so jobs are asked about more often: {error}",
            "`condor_awsbatch create --with-events --write-config` makes a queue and writes the knob; or unset it.",
        ) from error
    return f"{url} can be read"


@dataclasses.dataclass(frozen=True, slots=True)
class Test:
    """One line of the doctor."""

    name: str
    look: Callable[[Patient], str]


CHECKS = (
    Test("configuration", configuration),
    Test("limits", pace),
    Test("versions", versions),
    Test("credentials", credentials),
    Test("region", region),
    Test("clock", clock),
    Test("job queue", queue),
    Test("compute environments", environments),
    Test("job definition", definition),
    Test("shared directories", mounts),
    Test("bucket", bucket),
    Test("policy", policy),
    Test("logs", logs),
    Test("events", events),
)
