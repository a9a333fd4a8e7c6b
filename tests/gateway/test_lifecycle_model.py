"""The life of jobs as a state machine: a gridmanager, a GAHP and AWS Batch as actors, and a crash at any step.

The GAHP is the real one (Gateway, Runs, next_step, MOVES, Journal with its SQL), with its threads taken away: tasks, commits and
sweeps happen when the machine says so, in any order. Held true at every moment: a submission has one Batch job at the most,
unless its request came, or was listed, later than the settling time; of one JobDirectory one copy runs at the most; and none
begins when its run is over. Held true at the end, when everybody does what is left to do: every job that is wanted
has completed, and nothing runs that is not.
"""

import os
import shutil
import tempfile
import types
from concurrent.futures import Future
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gahp import config
from gahp.batch import BatchJob, Unsure
from gahp.database import to_row
from gahp.gateway import Gateway, gateway, news, packs, runs, work
from gahp.journal import Journal, _Write
from gahp.model import JobRequest, JobState, Refused, Transient
from gahp.run import RunState, Wanted
from gahp.sandbox import Outcome

SETTLE_S, LAG_S = 10.0, 5.0
KNOBS = {"AWSBATCH_JOB_QUEUE": "q", "AWSBATCH_JOB_DEFINITION": "d", "AWSBATCH_S3_URL": "s3://bucket/x"}
DIRECTORIES = ["home_bl_m_1.0_5", "home_bl_m_2.0_5", "home_bl_m_3.0_5"]


class Crash(BaseException):
    """SIGKILL."""


class Soon(Future):
    """Ends with the next commit, which whoever waits for it brings about."""

    def __init__(self, journal):
        super().__init__()
        self.journal = journal

    def result(self, timeout=None):
        if not self.done():
            self.journal.commit()
        return super().result(0)


class StepJournal(Journal):
    def __init__(self, directory, world):
        self.world, self.pending = world, []
        super().__init__(directory, clock=lambda: world.now)
        self._writes.put(None)  # commits are made by hand
        self._thread.join()

    def _write(self, sql, values, *, keep=True):
        future = Soon(self)
        self.pending.append(_Write(sql, values if isinstance(values, list) else to_row(values), keep, future))
        return future

    def record(self, run, **changes):
        future = super().record(run, **changes)
        self.commit()
        return future

    def commit(self):
        group, self.pending = self.pending, []
        if group:
            self.world.point()
            self._commit(group)
            self.world.point()

    def die(self):
        self._reader.close()
        self._writer.close()
        os.close(self._lock)
        os.close(self._used)


class StepLane:
    world = None

    def __init__(self, name, threads):
        pass

    def put(self, task, delay=0.0):
        if delay < 100:  # a longer one only bounds how long a client waits for its answer
            self.world.tasks.append(task)

    def late_s(self):
        return 0.0

    def close(self):
        pass


class FakeBatch:
    """What AWS Batch knows. ListJobs shows a job LAG_S after it was made; a reply can be lost on the way there or back. Or the
    request arrives at any time later (`late`), or its job is listed only long after the settling time (`unlisted`)."""

    def __init__(self, world):
        self.world = world
        self.jobs = {}  # id: (name, directory, time, BatchJob); of a child of an array: the name that it would have alone
        self.arrays = {}  # id: (name, time)
        self.under_way = []  # requests that arrive late
        self.late = set()  # ids that may be a second one for their submission
        self.lose = ""

    def submit(self, request, *, name, queue, environment, size=1):
        self.world.point()
        lose, self.lose = self.lose, ""
        members = [(name, request.directory)] if size == 1 else self.world.sandbox.packs[name]
        assert len(members) == size
        assert size > 1 or name in self.world.sandbox.singles
        if lose == "late":
            self.under_way.append((name, members))
        if lose in ("there", "late"):
            raise Unsure("lost")
        job_id = self.make(name, members, late=lose == "unlisted")
        self.world.point()
        if lose in ("back", "unlisted"):
            raise Unsure("lost")
        return job_id

    def make(self, name, members, late):
        job_id = f"id{len(self.jobs)}"
        listed = self.world.now + (LAG_S if not late else 3 * SETTLE_S)
        if len(members) > 1:
            self.arrays[job_id] = (name, listed)
        for index, (child, directory) in enumerate(members):
            made = BatchJob(job_id if len(members) == 1 else f"{job_id}:{index}", child, "RUNNABLE")
            self.jobs[made.id] = (child, directory, listed, made)
            self.late |= {made.id} if late else set()
        return job_id

    def arrive(self):
        self.make(*self.under_way.pop(0), late=True)

    def find(self, name, queue):
        self.world.point()
        return next((i for n, i in self.named(name, queue)), "")

    def top(self):
        """What ListJobs sees by name: no children."""
        yield from ((n, i, listed) for i, (n, _, listed, _) in self.jobs.items() if ":" not in i)
        yield from ((n, i, listed) for i, (n, listed) in self.arrays.items())

    def named(self, name, queue):
        return [(n, i) for n, i, listed in self.top() if n == name and self.world.now >= listed]

    def describe(self, ids):
        ids = list(ids)
        if ids:
            self.world.point()
            yield ids, {i: self.jobs[i][3] for i in ids if i in self.jobs}

    def terminate(self, job_id, reason):
        self.world.point()
        if not self.jobs[job_id][3].over:
            self.set(job_id, "FAILED", terminated=True)
        self.world.point()

    def terminate_many(self, ids, reason):
        for job_id in ids:
            self.terminate(job_id, reason)
        return {}

    def cancel(self, job_id, reason):
        self.world.point()
        if self.jobs[job_id][3].status == "RUNNABLE":
            self.set(job_id, "FAILED", cancelled=True)
        self.world.point()

    def set(self, job_id, status, **more):
        name, directory, made, job = self.jobs[job_id]
        more.setdefault("started", job.started)
        self.jobs[job_id] = (name, directory, made, BatchJob(job_id, name, status, attempts=job.attempts, **more))

    def begin(self, job_id):
        """What the runner does first: it claims its submission, or ends."""
        if self.world.sandbox.claims.setdefault(self.jobs[job_id][0], job_id) == job_id:
            run = self.world.journal.find("-".join(self.jobs[job_id][0].split("-")[:3]))
            assert not run.state.final, f"{job_id} begins although its run is over"
            self.set(job_id, "RUNNING", started=self.world.now)
        else:
            self.set(job_id, "FAILED", started=self.world.now, exit_code=125)

    def having(self, *statuses):
        return sorted(i for i, entry in self.jobs.items() if entry[3].status in statuses)


def submission_name(run, submission):
    return run if submission == 0 else f"{run}-{submission}"


class FakeSandbox:
    region = "us-west-2"

    def __init__(self, world):
        self.world = world
        self.packs, self.singles = {}, set()
        self.claims = {}  # name of a submission: id of the Batch job that may run, "": none may

    def run_url(self, run):
        return run

    manifest_url = run_url

    def prepare(self, run, request, record, submission, sends):
        self.world.point()
        return f"{submission_name(run, submission)} {request.directory}".encode()

    def put(self, run, part):
        self.world.point()
        # Under every name that the run may still be submitted by.
        self.singles |= {run, *(f"{run}-{submission}" for submission in range(1, 100))}
        self.world.point()

    def put_pack(self, pack, parts):
        self.world.point()
        self.packs[pack] = [tuple(part.decode().split()) for part in parts]
        self.world.point()

    def claimant(self, run, submission):
        self.world.point()
        return self.claims.get(submission_name(run, submission), "")

    def revoke(self, run, submission):
        self.world.point()
        claimant = self.claims.setdefault(submission_name(run, submission), "")
        self.world.point()
        return claimant

    def collect(self, run, submission, request, believe):
        self.world.point()
        name = submission_name(run, submission)
        done = [e for e in self.world.batch.jobs.values() if e[0] == name and e[3].status == "SUCCEEDED"]
        return Outcome(exit_code=0) if done else None

    def discard(self, *runs):
        self.world.point()


class Wish:
    """What the gridmanager knows and wants of one JobDirectory."""

    def __init__(self):
        self.wanted = False
        self.job_id, self.saved = "", False
        self.earlier, self.given = set(), ""  # ids of generations before, the id of this one
        self.cancelling = False
        self.request = None  # (verb, future)
        self.completed = False
        self.held = False


class Lifecycle(RuleBasedStateMachine):
    pack_size = 1

    @initialize()
    def begin(self):
        self.directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.now, self.crash_in, self.tasks = 1000.0, None, []
        self.batch, self.sandbox = FakeBatch(self), FakeSandbox(self)
        self.wishes = {directory: Wish() for directory in DIRECTORIES}
        clock = types.SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now, sleep=None)
        self.patches = [
            mock.patch.object(runs, "time", clock),
            mock.patch.object(runs, "Lane", StepLane),
            mock.patch.object(packs, "time", clock),
            mock.patch.object(work, "time", clock),
            mock.patch.object(news, "time", clock),
            mock.patch.object(packs, "Lane", StepLane),
            mock.patch.object(gateway, "Lane", StepLane),
            mock.patch.object(gateway, "check", lambda request, shared: None),
            mock.patch.object(StepLane, "world", self),
        ]
        for patch in self.patches:
            patch.start()
        self.config = config.load(
            {**KNOBS, "AWSBATCH_LOOKUP_SETTLE": str(SETTLE_S), "AWSBATCH_PACK_SIZE": str(self.pack_size)}.get
        )
        self.gahp = None
        self.start()

    def start(self):
        while self.gahp is None:
            self.journal = StepJournal(self.directory, self)
            self.gahp = Gateway(self.config, self.journal, self.sandbox, self.batch, clock=lambda: self.now)
            self.guarded(self.gahp._runs._upkeep._take_over)

    def point(self):
        """A place at which the process may die."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                raise Crash

    def guarded(self, work):
        try:
            work()
        except Crash:
            self.died()
        except (Refused, Transient):
            pass

    def died(self):
        """The GAHP is gone, with all that was not on disk; the gridmanager starts anew and knows saved ids only."""
        self.crash_in = None
        self.tasks = []
        self.journal.die()
        self.gahp = None
        for wish in self.wishes.values():
            wish.request = None
            if not wish.saved:
                wish.job_id = ""

    def revive(self):
        if self.gahp is None:
            self.start()

    # The GAHP

    @rule(number=st.integers(0, 9))
    def work(self, number):
        if self.tasks:
            self.guarded(self.tasks.pop(number % len(self.tasks)))
            self.deliver()
        self.revive()

    @rule()
    def commit(self):
        self.guarded(self.journal.commit)
        self.deliver()
        self.revive()

    @rule()
    def sweep(self):
        self.guarded(self.gahp._runs.follower.round)
        self.deliver()
        self.revive()

    @rule()
    def look_for_changes(self):
        self.guarded(self.gahp._runs._upkeep._take_over)
        self.revive()

    @rule(points=st.integers(0, 6))
    def die_soon(self, points):
        self.crash_in = points

    @rule()
    def die_now(self):
        self.died()
        self.revive()

    # The gridmanager

    def ask(self, wish, verb, *arguments):
        wish.request = (verb, getattr(self.gahp, verb)(*arguments))

    def deliver(self):
        if self.gahp is None:
            return
        for directory, wish in self.wishes.items():
            if wish.request and wish.request[1].done():
                verb, future = wish.request
                wish.request = None
                self.take(directory, wish, verb, future)

    def take(self, directory, wish, verb, future):
        error = future.exception()
        assert error is None or verb in ("hold", "resume"), (verb, error)
        self.told(verb, error, self.journal.find((wish.job_id or future.result()).rpartition("/")[2]), future)
        if verb == "submit":
            job_id = future.result()
            assert job_id not in wish.earlier, "a release was taken for a replay"
            assert wish.given in ("", job_id), "a replay was taken for a release"
            wish.job_id = wish.given = job_id
        elif verb == "cancel":
            wish.earlier.add(wish.job_id)
            wish.job_id, wish.saved, wish.given, wish.cancelling, wish.held = "", False, "", False, False
        elif verb == "resume":
            wish.held = False  # or STATUS will say so again
        elif verb == "status":
            state = future.result().state
            wish.held = state is JobState.HELD
            assert state in (JobState.IDLE, JobState.RUNNING, JobState.COMPLETED, JobState.HELD), future.result()
            wish.completed |= state is JobState.COMPLETED

    def told(self, verb, error, row, future):
        """What HTCondor has been told the next GAHP finds on the disk."""
        if verb == "cancel":
            assert row.state.final or row.wanted is Wanted.REMOVE, row
        elif verb == "hold" and error is None:
            assert row.state is RunState.SUSPENDED or row.wanted is Wanted.REMOVE, row
        elif verb == "hold":
            assert row.wanted is not Wanted.HOLD or "held already" in str(error), (row, error)
        elif verb == "resume" and error is None:
            assert row.wanted is not Wanted.HOLD, row
        elif verb == "status" and future.result().state in (JobState.HELD, JobState.COMPLETED):
            # Who is held and that is not written yet is held by the next one.
            assert row.state.final or row.state is RunState.SUSPENDED or row.wanted is Wanted.HOLD, row

    def free(self, directory):
        wish = self.wishes[directory]
        return wish if wish.request is None else None

    @rule(directory=st.sampled_from(DIRECTORIES))
    def submit(self, directory):
        wish = self.free(directory)
        if wish and not wish.job_id and not wish.completed:
            wish.wanted = True
            self.ask(wish, "submit", JobRequest(executable="/bin/true", iwd="/", directory=directory, digest="same"))

    @rule(directory=st.sampled_from(DIRECTORIES))
    def save(self, directory):
        wish = self.wishes[directory]
        wish.saved = wish.saved or bool(wish.job_id)

    @rule(directory=st.sampled_from(DIRECTORIES))
    def status(self, directory):
        wish = self.free(directory)
        if wish and wish.saved and not wish.cancelling:
            self.ask(wish, "status", wish.job_id)

    @rule(directory=st.sampled_from(DIRECTORIES))
    def cancel(self, directory):
        wish = self.free(directory)
        if wish and wish.saved and not wish.completed:
            wish.wanted, wish.cancelling = False, True
            self.ask(wish, "cancel", wish.job_id)

    @rule(directory=st.sampled_from(DIRECTORIES), verb=st.sampled_from(["hold", "resume"]))
    def hold_or_resume(self, directory, verb):
        wish = self.free(directory)
        if wish and wish.saved and not wish.cancelling and not wish.completed:
            self.ask(wish, verb, wish.job_id)

    # AWS Batch

    @rule(way=st.sampled_from(["there", "back", "late", "unlisted"]))
    def lose_a_reply(self, way):
        self.batch.lose = way

    @rule(
        directory=st.sampled_from(DIRECTORIES),
        way=st.sampled_from(["late", "unlisted"]),
        verb=st.sampled_from(["cancel", "hold"]),
    )
    def lose_a_request_and_change_ones_mind(self, directory, way, verb):
        self.batch.lose = way
        self.submit(directory)
        for _ in range(20):
            self.work(0)
            self.commit()
            self.now += 0.3
            if not self.batch.lose:
                break
        self.save(directory)
        self.cancel(directory) if verb == "cancel" else self.hold_or_resume(directory, "hold")

    @precondition(lambda self: self.batch.under_way)
    @rule()
    def a_late_request_arrives(self):
        self.batch.arrive()

    @rule(seconds=st.sampled_from([1.0, 3.0, 20.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.batch.having("RUNNABLE"))
    @rule(number=st.integers(0, 5))
    def begin_job(self, number):
        able = self.batch.having("RUNNABLE")
        self.batch.begin(able[number % len(able)])

    @precondition(lambda self: self.batch.having("RUNNING"))
    @rule(number=st.integers(0, 5), status=st.sampled_from(["SUCCEEDED", "RUNNABLE"]))
    def end_job_or_its_host(self, number, status):
        running = self.batch.having("RUNNING")
        self.batch.set(running[number % len(running)], status)

    # What must be true

    @invariant()
    def one_batch_job_for_each_submission(self):
        if not hasattr(self, "batch"):
            return
        names = [entry[0] for job_id, entry in self.batch.jobs.items() if job_id not in self.batch.late]
        assert len(names) == len(set(names)), names

    @invariant()
    def one_copy_runs_of_each_job(self):
        if hasattr(self, "batch"):
            running = [entry[1] for entry in self.batch.jobs.values() if entry[3].status == "RUNNING"]
            assert len(running) == len(set(running)), self.batch.jobs

    def teardown(self):
        if not hasattr(self, "batch"):
            return
        try:
            self.crash_in, self.batch.lose = None, ""
            for number in range(100):
                if number == 60:  # when all runs are over
                    while self.batch.under_way:
                        self.batch.arrive()
                self.one_round()
            for directory, wish in self.wishes.items():
                assert wish.completed or not wish.wanted, f"{directory} was lost"
            left = self.batch.having("RUNNABLE", "RUNNING")
            assert not left, f"left running: {left}"
        finally:
            self.journal.die()
            for patch in self.patches:
                patch.stop()
            shutil.rmtree(self.directory)

    def one_round(self):
        """Everybody does all that is to do."""
        for directory, wish in self.wishes.items():
            self.save(directory)
            if wish.cancelling:
                self.cancel(directory)
            elif wish.wanted and not wish.job_id:
                self.submit(directory)
            elif wish.held:
                self.hold_or_resume(directory, "resume")
            else:
                self.status(directory)
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            self.guarded(task)
        self.commit()
        self.sweep()
        self.now += 1.0
        for job_id in self.batch.having("RUNNING"):
            self.batch.set(job_id, "SUCCEEDED")
        for job_id in self.batch.having("RUNNABLE"):
            self.batch.begin(job_id)


class PackedLifecycle(Lifecycle):
    """The same with packing: of the jobs that are staged in one second some come to be children of one array job."""

    pack_size = 10

    @rule()
    def all_submit(self):
        for directory in DIRECTORIES:
            self.submit(directory)

    @rule(rounds=st.integers(1, 6), seconds=st.sampled_from([0.3, 4.0]))
    def all_work(self, rounds, seconds):
        """So much of the GAHP's own work that a pack gets on its way, or is given up and made anew."""
        for _ in range(rounds):
            for _ in range(len(self.tasks)):
                self.work(0)
            self.commit()
            self.now += seconds
        for directory in DIRECTORIES:
            self.save(directory)
            self.status(directory)


TestLifecycle = Lifecycle.TestCase
TestPackedLifecycle = PackedLifecycle.TestCase
TestLifecycle.settings = TestPackedLifecycle.settings = settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "60")),
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="MODEL_EXAMPLES" not in os.environ,
)
