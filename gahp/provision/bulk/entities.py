"""The job definition, compute environment, job queue and bucket of a run: given, or made for it and removed after it.

Making and removing is provision's; this module knows what of it belongs to one run. Only what was not there before the run is
removed after it, and a bucket only when nothing is in it: what tasks have put there stays.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gahp.model import Refused, Transient
from gahp.provision import aws as provision_aws
from gahp.provision import create as provision_create
from gahp.provision import delete as provision_delete
from gahp.provision import documents, entities
from gahp.provision.bulk.options import Options
from gahp.provision.bulk.run import Site
from gahp.provision.bulk.service import Interrupted
from gahp.provision.bulk.state import State
from gahp.provision.bulk.uploads import parse_url
from gahp.provision.settings import Form, Kind, Settings, Value, value_of

log = logging.getLogger(__name__)

BUCKET = "bucket"
_INTENT = "to-be-"
_WAIT_S = 900.0
_ORDER = (Kind.JOB_QUEUE.value, Kind.COMPUTE_ENVIRONMENT.value, Kind.JOB_DEFINITION.value, BUCKET)


class _Log:
    """provision's Report, into the log."""

    def say(self, text: str) -> None:
        log.info("%s", text)

    def progress(self, text: str) -> None:
        if text:
            log.debug("%s", text)

    def call(self, text: str) -> None:
        log.debug("%s", text)


class Entities:
    """What options name. `stop` ends waiting."""

    def __init__(self, asked: Options, stop: threading.Event) -> None:
        self._asked, self._stop = asked, stop

    def require(self) -> None:
        """Raise Refused when something is not named that a run cannot do without."""
        if not self._asked.job_definition:
            raise Refused("No job definition is given: --job-definition ARN, JSON file or name")
        if not self._asked.job_queue and not self._asked.compute_environment:
            raise Refused("Neither a job queue nor a compute environment for one is given: --job-queue, --compute-environment")
        if self._asked.s3:
            parse_url(self._asked.s3)

    def check(self) -> None:
        """Raise Refused for what is wrong in the words and in the JSON files, before any call."""
        settings = self._settings()
        for kind in Kind:
            value = settings.value(kind)
            if value is not None and value.form is Form.FILE:
                documents.read(value.text, kind)

    def create_only(self) -> int:
        """--create: make what is named; a second time changes nothing."""
        settings = self._settings()
        provision_create.create(settings, provision_aws.clients_for(settings), _Log(), pause=self._pause)
        return 0

    def delete_only(self) -> int:
        """--delete: remove what is named, and only what was made for this prefix. Raises Refused for the rest, at the end."""
        settings = self._settings()
        clients = provision_aws.clients_for(settings)
        found = provision_delete.survey(settings, clients, _Log(), pause=self._pause)
        ours = {*found.job_queues, *found.compute_environments, *map(_bare, found.job_definitions)}
        if found.removes_bucket:
            ours.add(settings.bucket)
        wanted = {_name(settings, kind, value) for kind in Kind if (value := settings.value(kind))}
        if self._asked.s3:
            wanted.add(settings.bucket)
        if not wanted:
            raise Refused("Nothing is named to delete: give --job-definition, --compute-environment, --job-queue or --s3")
        provision_delete.delete(settings, clients, _Log(), found, only=wanted, pause=self._pause)
        if others := sorted(wanted - ours):
            why = " ".join(found.kept())
            raise Refused(
                f"Not deleted, as they were not made for the prefix {settings.prefix}: {', '.join(others)}. {why}".strip()
            )
        return 0

    def make(self, clients: Callable[[str], Any], state: State) -> Site:
        """The site of a run, with everything in it there and VALID. What is made is noted in `state` before and after."""
        asked = self._asked
        if asked.s3:
            bucket, key = parse_url(asked.s3)
        else:
            settings = Settings(asked.prefix)
            bucket, key = settings.bucket, settings.key
        site = Site(asked.prefix, asked.job_definition, asked.job_queue, f"s3://{bucket}/{key}/" if key else f"s3://{bucket}/")
        with tempfile.TemporaryDirectory(prefix="pegasus-aws-batch-") as folder:
            queue_file = self._default_queue(folder)
            given = (asked.job_definition, asked.compute_environment, asked.job_queue or queue_file)
            files = [text for kind, text in zip(Kind, given, strict=True) if text and value_of(kind, text).form is Form.FILE]
            if not files and self._there(clients, bucket):
                return site
            if not self._there(clients, bucket):
                state.created(_INTENT + BUCKET, bucket)
            return self._create(self._settings(queue_file, f"s3://{bucket}/{key}"), site, state)

    def _create(self, settings: Settings, site: Site, state: State) -> Site:
        aws = provision_aws.Aws(provision_aws.clients_for(settings), _Log(), pause=self._pause)
        intended = {name for kind, name in state.made if kind.startswith(_INTENT)}
        for kind in Kind:
            value = settings.value(kind)
            if value is not None and value.form is Form.FILE:
                name = _name(settings, kind, value)
                there = entities.revisions(aws, name) if kind is Kind.JOB_DEFINITION else entities.describe(aws, kind, name)
                if not there:
                    state.created(_INTENT + kind.value, name)
                    intended.add(name)
        created = provision_create.create(settings, aws.clients, _Log(), pause=self._pause)
        for entity in (created.job_definition, created.compute_environment, created.job_queue):
            if entity is not None and entity.ours and entity.name in intended:
                state.created(entity.kind.value, entity.arn)
        if created.bucket_made:
            state.created(BUCKET, created.bucket)
        definition, queue = created.job_definition, created.job_queue
        return Site(
            site.prefix,
            definition.arn if definition else site.definition,
            queue.arn if queue else site.queue,
            site.bucket_url,
        )

    @staticmethod
    def makes_bucket(state: State) -> bool:
        """Whether the bucket goes with the run."""
        return any(kind.removeprefix(_INTENT) == BUCKET for kind, _ in state.made)

    def remove(self, made: Sequence[tuple[str, str]]) -> list[str]:
        """Remove what a run made, in an order in which nothing hangs on what goes. Returns what could not be, as sentences."""
        settings = self._settings()
        # Also after an interruption: nobody else will do it.
        aws = provision_aws.Aws(provision_aws.clients_for(settings), _Log())
        problems = []
        names = {(kind.removeprefix(_INTENT), _bare(name)) for kind, name in made}
        for kind, name in sorted(names, key=lambda entry: _ORDER.index(entry[0])):
            try:
                self._remove(aws, kind, name)
                log.info("Deleted the %s %s, which was made for this run", kind.replace("-", " "), name)
            except (Refused, Transient) as error:
                problems.append(f"The {kind.replace('-', ' ')} {name} was made for this run and could not be deleted: {error}")
                log.error("%s", problems[-1])
        return problems

    @staticmethod
    def _remove(aws: provision_aws.Aws, kind: str, name: str) -> None:
        if kind == BUCKET:
            # It may never have been made: the set-up was refused before.
            with contextlib.suppress(provision_aws.NotThere):
                if aws.ask("s3", "ListObjectsV2", f"the bucket {name}", Bucket=name, MaxKeys=1).get("KeyCount"):
                    raise Refused("tasks have put something into it")
                aws.persist(lambda: aws.change("s3", "DeleteBucket", f"the bucket {name}", Bucket=name))
        elif kind == Kind.JOB_DEFINITION.value:
            for revision in entities.revisions(aws, name):
                arn = revision["jobDefinitionArn"]
                aws.persist(lambda arn=arn: aws.change("batch", "DeregisterJobDefinition", arn, jobDefinition=arn))  # type: ignore[misc]
        else:
            aws.persist(lambda: entities.remove(aws, Kind(kind), name, _WAIT_S))

    def _settings(self, queue_file: str = "", s3: str = "") -> Settings:
        asked = self._asked
        return Settings(
            prefix=asked.prefix,
            region=asked.region,
            account=asked.account,
            job_definition=asked.job_definition,
            compute_environment=asked.compute_environment,
            job_queue=asked.job_queue or queue_file,
            s3=s3 or asked.s3,
        )

    def _default_queue(self, folder: str) -> str:
        """A queue for a compute environment that none is given for."""
        if self._asked.job_queue:
            return ""
        path = Path(folder, "job-queue.json")
        path.write_text(json.dumps({"priority": 10, "state": "ENABLED"}))
        return str(path)

    @staticmethod
    def _there(clients: Callable[[str], Any], bucket: str) -> bool:
        try:
            clients("s3").head_bucket(Bucket=bucket)
        except clients("s3").exceptions.ClientError as error:
            # Whether it may be used shows itself at the first upload.
            return bool(error.response["ResponseMetadata"]["HTTPStatusCode"] != 404)
        return True

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Interrupted


def _bare(text: str) -> str:
    """The name in an ARN, without a revision."""
    return text.rpartition("/")[2].partition(":")[0]


def _name(settings: Settings, kind: Kind, value: Value) -> str:
    """What the entity is or will be called."""
    if value.form is not Form.FILE:
        return _bare(value.text)
    return str(documents.read(value.text, kind).get(kind.name_member) or settings.name(kind))
