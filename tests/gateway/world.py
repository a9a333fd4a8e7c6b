"""A Batch and an S3 that fail on order, and Runs between them."""

import sqlite3
import threading
import time

from gahp.batch import BatchJob, Unsure
from gahp.gateway.runs import Runs
from gahp.journal import Journal
from gahp.model import JobRequest, Transient
from gahp.run import Run, RunState
from gahp.sandbox import Outcome


class FakeBatch:
    """Jobs by name; `fail` maps a verb to the exceptions of its next calls."""

    def __init__(self):
        self.jobs = {}
        self.calls = []
        self.fail = {}
        self.lost = []
        self.hidden = set()

    def _called(self, verb, *arguments):
        self.calls.append((verb, *arguments))
        if self.fail.get(verb):
            raise self.fail[verb].pop(0)

    def submit(self, request, *, name, queue, environment, size=1):
        lose = self.lost.pop(0) if self.lost else None
        if lose == "before":
            raise Unsure("nothing arrived")
        self._called("submit", name)
        self.jobs[f"id-{name}"] = BatchJob(id=f"id-{name}", name=name, status="RUNNABLE" if size == 1 else "PENDING")
        for index in range(size if size > 1 else 0):
            self.jobs[f"id-{name}:{index}"] = BatchJob(id=f"id-{name}:{index}", name=f"{name}:{index}", status="RUNNABLE")
        if lose == "after":
            raise Unsure("the reply is lost")
        return f"id-{name}"

    def find(self, name, queue):
        self._called("find", name)
        return next((job.id for job in self.jobs.values() if job.name == name and job.id not in self.hidden), "")

    def named(self, pattern, queue):
        self._called("named", pattern)
        return [(job.name, job.id) for job in self.jobs.values() if job.name == pattern]

    def describe(self, ids):
        ids = list(ids)
        if ids:
            self._called("describe")
            yield ids, {name: self.jobs[name] for name in ids if name in self.jobs}

    def terminate(self, job_id, reason):
        self._called("terminate", job_id)
        self.set(job_id, status="FAILED", terminated=True, status_reason=reason)

    def terminate_many(self, ids, reason):
        for job_id in ids:
            self.terminate(job_id, reason)
        return {}

    def cancel(self, job_id, reason):
        self._called("cancel", job_id)

    def set(self, job_id, **fields):
        self.jobs[job_id] = BatchJob(id=job_id, name=job_id.removeprefix("id-"), **fields)

    def count(self, verb):
        return sum(call[0] == verb for call in self.calls)


class FakeSandbox:
    region = "us-west-2"

    def __init__(self):
        self.outcome = Outcome(exit_code=0)
        self.fail = []
        self.fail_pack = []
        self.packs = {}
        self.collected = 0
        self.discarded = []
        self.claims = {}

    def run_url(self, run):
        return f"s3://b/runs/{run}"

    def manifest_url(self, run):
        return f"s3://b/runs/{run}/manifest"

    def claimant(self, run, submission):
        return self.claims.get((run, submission), "")

    def revoke(self, run, submission):
        return self.claims.setdefault((run, submission), "")

    def prepare(self, run, request, record, submission, sends):
        if self.fail:
            raise self.fail.pop(0)
        return run.encode()

    def put(self, run, part):
        assert part == run.encode()

    def put_pack(self, pack, parts):
        if self.fail_pack:
            raise self.fail_pack.pop(0)
        self.packs[pack] = [part.decode() for part in parts]

    def discard(self, *runs):
        self.discarded += runs

    def collect(self, run, submission, request, believe):
        self.collected += 1
        return self.outcome if self.outcome and believe(self.outcome) else None


class World:
    def __init__(self, directory, now=1000.0, **knobs):
        self.batch, self.sandbox, self.now = FakeBatch(), FakeSandbox(), now
        self.journal = Journal(str(directory), clock=lambda: self.now)
        self.runs = Runs(
            self.journal,
            self.sandbox,
            self.batch,
            poll_interval_s=0.02,
            lookup_settle_s=1.2,
            keep_runs_s=1e9,
            keep_sandbox_s=3600.0,
            transfer_threads=2,
            submit_threads=2,
            clock=lambda: self.now,
            **knobs,
        )
        self.runs.start()

    def add(self, name="1-0-a", **more):
        run = Run(name=name, directory=name, digest="", generation=0, queue="q", created=self.now, **more)
        self.journal.insert(run, JobRequest(executable="/bin/true", iwd="/")).result()
        self.runs.add(run)
        return run

    def until(self, condition):
        until = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < until, self.batch.calls
            time.sleep(0.01)

    def close(self):
        self.runs.close()
        self.journal.close()


def no_room_for(world, monkeypatch, **value):
    """The disk takes no write of that value until the event that is returned is set."""
    transact, room = world.journal._transact, threading.Event()

    def refuse(group):
        if not room.is_set() and any(value.items() <= write.values.items() for write in group):
            raise sqlite3.OperationalError("database or disk is full")
        transact(group)

    monkeypatch.setattr(world.journal, "_transact", refuse)
    return room


def seems_over(world, monkeypatch, run, job_id):
    """As a list leads the sweep to think, of a child that waited for a moment; S3 does not answer meanwhile."""

    def unreachable(*_):
        raise Transient("S3 cannot be reached")

    monkeypatch.setattr(world.sandbox, "collect", unreachable)
    world.runs._news.look_at([(job_id, BatchJob(job_id, "", "SUCCEEDED", attempts=None, described=False))])
    world.until(lambda: run.state is RunState.COLLECTING)
