"""The engine by itself, with attempts that only pretend: whatever happens in whatever order, its books balance."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from gahp.local.engine import Engine
from gahp.local.entities import Environment, Queue
from gahp.local.jobs import Job, Spec, detail
from gahp.local.process import Ending

VCPUS, MEMORY_MIB = 4, 4096
ARN = "arn:aws:batch:us-east-1:123456789012:job-queue/q"


class OneQueue:
    """Entities with a single queue."""

    def queue(self, _region: str, _identifier: str) -> Queue:
        return Queue(ARN, "q", 1, True, False, (Environment("e", "e", VCPUS),))


class Calm:
    """No faults."""

    def stuck(self, _queue: str, _name: str) -> bool:
        return False

    def pull_error(self, _name: str) -> str:
        return ""


class Pretender:
    """Attempts that run until they are told how to end, or are stopped; keeps count of what runs at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: dict[str, Callable[[Ending], None]] = {}
        self.vcpus = self.memory = 0.0
        self.most_vcpus = self.most_memory = 0.0

    def __call__(self, job: Job, _variables: Any, _stream: str, running: Any, ended: Callable[[Ending], None]) -> Any:
        pretender = self

        def end(ending: Ending) -> None:
            with pretender.lock:
                if pretender.open.pop(job.id, None) is None:
                    return
                pretender.vcpus -= job.spec.vcpus
                pretender.memory -= job.spec.memory_mib
            ended(ending)

        class Running:
            def stop(self) -> None:
                threading.Thread(target=end, args=(Ending(143),)).start()

            def vanish(self) -> None:
                threading.Thread(target=end, args=(Ending(None, host_gone=True),)).start()

        with self.lock:
            self.open[job.id] = end
            self.vcpus += job.spec.vcpus
            self.memory += job.spec.memory_mib
            self.most_vcpus, self.most_memory = max(self.most_vcpus, self.vcpus), max(self.most_memory, self.memory)
        threading.Thread(target=running).start()
        return Running()


def spec(**fields: Any) -> Spec:
    values: dict[str, Any] = {
        "name": "a",
        "region": "us-east-1",
        "account": "123456789012",
        "queue_arn": ARN,
        "queue_name": "q",
        "definition_arn": "d",
        "definition_name": "d",
        "container": {},
        "command": (),
        "environment": {},
        "overrides_size": 0,
        "vcpus": 1.0,
        "memory_mib": 512,
        "gpus": 0,
        **fields,
    }
    return Spec(**values)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("seed", range(5))
def test_after_any_sequence_of_events_all_jobs_end_and_all_room_is_free_again(seed: int) -> None:
    chance, attempts = random.Random(seed), Pretender()
    engine = Engine(OneQueue(), attempts, Calm(), memory_mib=MEMORY_MIB)  # type: ignore[arg-type]
    jobs: list[Job] = []
    for _ in range(150):
        event = chance.random()
        if event < 0.5 or not jobs:
            earlier = [{"jobId": chance.choice(jobs).id}] if jobs and chance.random() < 0.3 else []
            size = chance.choice([None, None, 3])
            strategy = {"attempts": chance.randint(1, 3)}
            wants = {"vcpus": float(chance.randint(1, VCPUS)), "memory_mib": chance.choice([64, 1024, 4096])}
            jobs.append(engine.submit(spec(size=size, depends_on=tuple(earlier), retry_strategy=strategy, **wants)))
        elif event < 0.6:
            engine.terminate(chance.choice(jobs), "terminated")
        elif event < 0.7:
            engine.cancel(chance.choice(jobs), "cancelled")
        elif event < 0.75:
            engine.vanish(chance.choice(jobs).id)
        else:
            for end in list(attempts.open.values())[:2]:
                end(Ending(chance.choice([0, 0, 1])))

    def all_over() -> bool:
        for end in list(attempts.open.values()):
            end(Ending(0))
        return all(job.over for job in jobs)

    until(all_over)
    assert set(engine.counts()) <= {"SUCCEEDED", "FAILED"}
    assert attempts.most_vcpus <= VCPUS
    assert attempts.most_memory <= MEMORY_MIB
    for job in jobs:
        view = detail(job)
        assert view["stoppedAt"] >= view["createdAt"]
        assert view["status"] == "SUCCEEDED" or view["statusReason"]
        if job.children:
            assert sum(job.counts.values()) == len(job.children) == job.counts.get("SUCCEEDED", 0) + job.counts.get("FAILED", 0)
        assert len(job.attempts) <= job.spec.attempts
    whole = engine.submit(spec(vcpus=float(VCPUS), memory_mib=MEMORY_MIB))
    until(lambda: whole.status == "RUNNING")
    engine.stop()


def test_jobs_start_in_the_order_of_their_submission() -> None:
    attempts = Pretender()
    engine = Engine(OneQueue(), attempts, Calm(), memory_mib=MEMORY_MIB)  # type: ignore[arg-type]
    first = engine.submit(spec(vcpus=4.0))
    large, small = engine.submit(spec(vcpus=4.0)), engine.submit(spec())
    until(lambda: first.status == "RUNNING")
    assert (large.status, small.status) == ("RUNNABLE", "RUNNABLE")
    attempts.open[first.id](Ending(0))
    until(lambda: large.status == "RUNNING")
    assert small.status == "RUNNABLE"
    engine.stop()


def test_no_more_jobs_run_at_once_than_there_are_gpus() -> None:
    attempts = Pretender()
    engine = Engine(OneQueue(), attempts, Calm(), memory_mib=MEMORY_MIB, gpus=2)  # type: ignore[arg-type]
    first, second, never = engine.submit(spec(gpus=2)), engine.submit(spec(gpus=1)), engine.submit(spec(gpus=3))
    until(lambda: first.status == "RUNNING")
    assert (second.status, never.status) == ("RUNNABLE", "RUNNABLE")
    attempts.open[first.id](Ending(0))
    until(lambda: second.status == "RUNNING")
    until(lambda: never.reason.startswith("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"))
    engine.stop()
