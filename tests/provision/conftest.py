"""One embedded AWS for each test process; every test has a prefix of its own."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gahp.local import LocalAws
from gahp.model import Refused
from gahp.provision import create, delete, settings
from gahp.provision.aws import Clients

CONF = Path(__file__).resolve().parents[2] / "conf"
REGION, ACCOUNT = "us-west-2", "123456789012"
_numbers = itertools.count()


class Said:
    """A Report that keeps everything."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.waited: list[str] = []
        self.calls: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, text: str) -> None:
        self.waited.append(text)

    def call(self, text: str) -> None:
        self.calls.append(text)


class Hooked(Clients):
    """Clients that count their calls and do something before or after the one of a number."""

    def __init__(self, **fields: str) -> None:
        super().__init__(**fields)
        self.names: list[str] = []
        self.at: int | None = None
        self.count_all = True
        self.before: Callable[[str], None] = lambda name: None
        self.after: Callable[[str], None] = lambda name: None

    def __call__(self, service: str) -> Any:
        return _Proxy(self, service, super().__call__(service))

    def arm(
        self,
        at: int,
        *,
        before: Callable[[str], None] | None = None,
        after: Callable[[str], None] | None = None,
        only_changes: bool = False,
    ) -> None:
        self.names, self.at, self.count_all = [], at, not only_changes
        self.before, self.after = before or (lambda name: None), after or (lambda name: None)

    def disarm(self) -> None:
        self.names, self.at, self.count_all = [], None, True


class _Proxy:
    def __init__(self, hooked: Hooked, service: str, client: Any) -> None:
        self._hooked, self._service, self._client = hooked, service, client

    def __getattr__(self, method: str) -> Any:
        def call(**parameters: Any) -> Any:
            name = f"{self._service}:{method}"
            if self._hooked.count_all or not method.startswith(("describe", "get", "list", "head")):
                self._hooked.names.append(name)
            now = len(self._hooked.names) == self._hooked.at
            if now:
                self._hooked.before(name)
            answer = getattr(self._client, method)(**parameters)
            if now:
                self._hooked.after(name)
            return answer

        return call


class Bench:
    """An embedded AWS with the verbs on it. The samples lie in `conf`, edited as the seed's manual says."""

    def __init__(self, aws: LocalAws, clients: Hooked, folder: Path) -> None:
        self.aws, self.clients, self.conf = aws, clients, folder / "conf"
        shutil.copytree(CONF, self.conf)
        self.prefix = f"test-{os.getpid()}-{next(_numbers)}"
        self.said = Said()
        network = self.network()
        self.edit("sample-compute-env.json", lambda document: document["computeResources"].update(network))

    def network(self) -> dict[str, list[str]]:
        ec2 = self.clients("ec2")
        return {
            "subnets": sorted(subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"])[:2],
            "securityGroupIds": [ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
        }

    def edit(self, name: str, change: Callable[[Any], None]) -> Path:
        path = self.conf / name
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document, indent=2))
        return path

    def settings(self, **fields: Any) -> settings.Settings:
        files = {
            "job_definition": str(self.conf / "sample-job-definition.json"),
            "compute_environment": str(self.conf / "sample-compute-env.json"),
            "job_queue": str(self.conf / "sample-job-queue.json"),
        }
        usual = {"prefix": self.prefix, "region": REGION, "account": ACCOUNT, "with_roles": True, "wait_s": 5.0}
        return settings.load("", **{**files, **usual, **fields})

    def create(self, **fields: Any) -> create.Created:
        self.said = Said()
        return create.create(self.settings(**fields), self.clients, self.said, pause=lambda seconds: None)

    def refused(self, **fields: Any) -> str:
        """The sentence with which `create` refuses."""
        with pytest.raises(Refused) as caught:
            self.create(**fields)
        text = str(caught.value)
        assert "\n" not in text and len(text) < 1000
        return text

    def delete(self, **fields: Any) -> int:
        self.said = Said()
        return delete.delete(self.settings(**fields), self.clients, self.said, pause=lambda seconds: None)

    def survey(self, **fields: Any) -> delete.Survey:
        return delete.survey(self.settings(**fields), self.clients, Said(), pause=lambda seconds: None)

    def queue(self, name: str = "") -> dict[str, Any]:
        (found,) = self.clients("batch").describe_job_queues(jobQueues=[name or f"{self.prefix}-job-queue"])["jobQueues"]
        return dict(found)

    def environment(self, name: str = "") -> dict[str, Any]:
        name = name or f"{self.prefix}-compute-env"
        (found,) = self.clients("batch").describe_compute_environments(computeEnvironments=[name])["computeEnvironments"]
        return dict(found)

    def definitions(self) -> list[dict[str, Any]]:
        name = f"{self.prefix}-job-definition"
        answer = self.clients("batch").describe_job_definitions(jobDefinitionName=name, status="ACTIVE")
        return sorted(answer["jobDefinitions"], key=lambda entry: int(entry["revision"]))


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    with LocalAws(tmp_path_factory.mktemp("aws"), vcpus=8) as aws:
        yield aws


@pytest.fixture(scope="session")
def shared_clients(running):
    environment = running.environment()
    return Hooked(
        region=REGION,
        endpoint_url=running.endpoint,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture
def bench(running, shared_clients, tmp_path):
    """The embedded AWS without anything of this test before and after: roles have the same names in every test."""
    bench = Bench(running, shared_clients, tmp_path)
    yield bench
    running.faults.clear()
    shared_clients.disarm()
    bench.delete()
    assert running.violations() == []
