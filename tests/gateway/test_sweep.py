"""The sweep against a Batch in simulated time that counts its calls, pages its lists and sums up arrays as AWS does."""

import collections
import random

import pytest

from gahp.batch import BatchJob
from gahp.gateway.sweep import Children, Describe, Sweep

STATES = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")


class Account:
    """Jobs by id, with a plan: (time, status) pairs. Children are jobs called PARENT:INDEX. Times are simulated."""

    def __init__(self):
        self.now = 0.0
        self.plans = {}
        self.arrays = {}
        self.calls = collections.Counter()
        self.reasons = {}

    def array(self, parent, plans):
        self.arrays[parent] = len(plans)
        for index, plan in enumerate(plans):
            self.plans[f"{parent}:{index}"] = plan

    def status(self, job_id):
        return [status for at, status in self.plans[job_id] if at <= self.now][-1]

    def job(self, job_id, described):
        status = self.status(job_id)
        return BatchJob(job_id, "", status, self.reasons.get(job_id, ""), attempts=1 if described else None, described=described)

    def children(self, parent):
        return [f"{parent}:{index}" for index in range(self.arrays[parent])]

    def answer(self, question):
        self.calls[type(question).__name__] += 1
        if isinstance(question, Describe):
            assert 1 <= len(question.ids) <= 100
            return {job_id: self.described(job_id) for job_id in question.ids if job_id in self.plans or job_id in self.arrays}
        if isinstance(question, Children):
            ids = self.children(question.parent)
        else:
            ids = [job_id for job_id in self.plans if ":" not in job_id]
        rows = [job_id for job_id in ids if self.status(job_id) == question.status]
        start = int(question.token or 0)
        token = str(start + 1000) if len(rows) > start + 1000 else ""
        return [self.job(job_id, False) for job_id in rows[start : start + 1000]], token

    def described(self, job_id):
        if job_id not in self.arrays:
            return self.job(job_id, True)
        counts = collections.Counter(map(self.status, self.children(job_id)))
        over = counts["SUCCEEDED"] + counts["FAILED"] == self.arrays[job_id]
        summary = {status: counts[status] for status in STATES}
        return BatchJob(job_id, "", "SUCCEEDED" if over else "PENDING", size=self.arrays[job_id], counts=summary, cpus=2)


class Watch:
    """A sweep and what it has told."""

    def __init__(self, account, ids, interval=5.0):
        self.account, self.interval = account, interval
        self.told, self.ends, self.times = {}, {}, {}
        self.sweep = Sweep(self.tell)
        self.live = set(ids)
        self.closely, self.unwanted = set(), set()
        self.most = 0

    def tell(self, news):
        for job_id, job in news:
            self.told[job_id] = job
            if job is not None and job.over:
                assert job_id not in self.ends or self.times[job_id] == self.account.now, "told twice"
                self.ends[job_id] = job
                self.times[job_id] = self.account.now

    def round(self):
        self.live -= set(self.ends)
        self.sweep.follow(self.live)
        before = self.account.calls.total()
        questions = self.sweep.round(self.account.now, lambda job_id: "q", self.closely, self.unwanted)
        question = next(questions, None)
        while question is not None:
            try:
                question = questions.send(self.account.answer(question))
            except StopIteration:
                break
        self.most = max(self.most, self.account.calls.total() - before)

    def run(self, until=None):
        """To the end of all jobs, or up to a time. At the pace of the sweep, looking at its clock once an interval."""
        while self.live - set(self.ends) if until is None else self.account.now < until:
            self.round()
            self.account.now += self.sweep.pause_s(self.interval, events=False, closely=bool(self.closely))
            assert self.account.now < 1e5
        return self

    def delays(self):
        plans = self.account.plans
        return sorted(at - next(t for t, status in plans[i] if status == self.ends[i].status) for i, at in self.times.items())


def ten_minutes(spread, start=0.0):
    """Jobs of ten minutes that get their hosts within `spread` seconds."""
    begin = start + random.uniform(5, 5 + spread)
    return [(0.0, "RUNNABLE"), (begin, "STARTING"), (begin + 5, "RUNNING"), (begin + 605 + random.uniform(-20, 20), "SUCCEEDED")]


@pytest.mark.parametrize(
    ("count", "goal"), [(1000, 0.1), (10000, 0.02)], ids=["1,000 jobs, 0.1 calls a job", "10,000 jobs, 0.02 calls a job"]
)
def test_jobs_of_ten_minutes_cost_few_calls_and_are_told_in_time(count, goal):
    random.seed(count)
    account = Account()
    account.array("p", [ten_minutes(30) for _ in range(count)])
    watch = Watch(account, account.children("p")).run()
    assert len(watch.ends) == count
    assert account.calls.total() / count <= goal
    assert watch.delays()[int(count * 0.95)] <= watch.interval + 1


@pytest.mark.parametrize("moment", range(9))
def test_nineteen_of_twenty_ends_are_told_in_time_whatever_moment_the_first_comes_at(moment):
    account = Account()
    start, plans = 45.0 + moment, []
    for n in range(1000):
        plans.append([(0.0, "RUNNABLE"), (start, "RUNNING"), (start + 600 + 60 * (n * 0.618 % 1), "SUCCEEDED")])
    account.array("p", plans)
    watch = Watch(account, account.children("p")).run()
    assert watch.delays()[950] <= watch.interval + 1
    assert account.calls.total() <= 99


def test_many_small_arrays_are_described_together_and_never_listed_one_by_one():
    random.seed(1)
    account = Account()
    for parent in range(100):
        account.array(f"p{parent}", [ten_minutes(30) for _ in range(30)])
    ids = [job_id for parent in account.arrays for job_id in account.children(parent)]
    watch = Watch(account, ids).run()
    assert len(watch.ends) == 3000
    assert account.calls["Children"] == 0
    assert watch.most <= 1 + 30 + 1


def test_single_jobs_are_described_a_hundred_a_call():
    account = Account()
    account.plans = {f"s{n}": [(0.0, "RUNNABLE"), (1000.0, "SUCCEEDED")] for n in range(450)}
    watch = Watch(account, account.plans)
    watch.round()
    assert account.calls == {"Describe": 5}
    watch.account.now = 2000.0
    watch.round()
    assert len(watch.ends) == 450


def test_many_single_jobs_are_listed_and_only_those_missing_from_the_lists_described():
    account = Account()
    account.plans = {f"s{n}": [(0.0, "RUNNING"), (100.0 + n, "SUCCEEDED")] for n in range(5000)}
    account.plans["gone"] = [(0.0, "RUNNING")]
    watch = Watch(account, account.plans)
    del account.plans["gone"]
    watch.round()
    assert account.calls["Listed"] == 9
    assert account.calls["Describe"] == 1
    assert watch.told["gone"] is None
    account.now = 150.0
    watch.round()
    assert len(watch.ends) == 51
    assert watch.most <= 12


def test_a_queue_full_of_other_peoples_jobs_is_not_listed_again_and_again():
    account = Account()
    account.plans = {f"s{n}": [(0.0, "RUNNABLE")] for n in range(60000)}
    watch = Watch(account, [f"s{n}" for n in range(600)])
    watch.round()
    account.calls.clear()
    watch.round()
    assert account.calls == {"Describe": 6}


def test_children_of_one_mind_need_no_list():
    account = Account()
    account.array("p", [[(0.0, "RUNNABLE"), (10.0, "RUNNING"), (20.0, "SUCCEEDED")]] * 10000)
    watch = Watch(account, account.children("p"))
    for now, status in ((1.0, None), (11.0, "RUNNING"), (21.0, "SUCCEEDED")):
        account.now = now
        watch.round()
        assert {job.status for job in watch.told.values()} == ({status} if status else set())
    assert account.calls == {"Describe": 3}
    assert watch.told["p:5"].cpus == 2


def test_a_child_that_failed_is_described_for_its_reason_and_one_that_succeeded_is_not():
    account = Account()
    plans = [[(0.0, "RUNNING"), (10.0, "FAILED" if n % 1000 == 7 else "SUCCEEDED")] for n in range(10000)]
    plans[-1] = [(0.0, "RUNNING")]
    account.array("p", plans)
    watch = Watch(account, account.children("p"))
    watch.round()
    account.now = 11.0
    account.calls.clear()
    watch.round()
    assert len(watch.ends) == 9999
    assert account.calls == {"Describe": 2, "Children": 11}
    assert watch.ends["p:7"].described
    assert not watch.ends["p:8"].described


def mostly_ended():
    """An array of 4,000 of which 3,500 have ended and 500 run; the sweep has seen them all run."""
    account = Account()
    account.array("p", [[(0.0, "RUNNING"), *([(10.0, "SUCCEEDED")] if n >= 500 else [])] for n in range(4000)])
    watch = Watch(account, account.children("p"))
    watch.round()
    account.now = 11.0
    account.calls.clear()
    return account, watch


def test_what_still_runs_is_listed_where_that_is_less_than_what_has_ended():
    account, watch = mostly_ended()
    watch.round()
    assert set(watch.ends) == {f"p:{n}" for n in range(500, 4000)}
    assert account.calls == {"Describe": 2, "Children": 1}
    account.calls.clear()
    watch.round()
    assert account.calls == {"Describe": 1}


@pytest.mark.parametrize("status", ["FAILED", "RUNNABLE"])
def test_what_runs_no_more_has_not_ended_well_where_the_parent_counts_one_that_failed_or_waits(status):
    account, watch = mostly_ended()
    account.plans["p:7"].append((12.0, status))
    account.plans["p:8"].append((12.0, "SUCCEEDED"))
    answer = account.answer

    def later(question):
        if isinstance(question, Children):
            account.now = 12.5  # after the parent was described
        return answer(question)

    account.answer = later
    watch.round()
    assert watch.told["p:7"].status == status
    assert watch.told["p:7"].described
    assert {job.status for job_id, job in watch.ends.items() if job_id != "p:7"} == {"SUCCEEDED"}
    assert len(watch.ends) == 3501 + (status == "FAILED")


def test_an_event_that_comes_while_the_others_are_listed_is_not_told_again():
    account, watch = mostly_ended()
    answer = account.answer

    def meanwhile(question):
        if isinstance(question, Children):
            watch.sweep.heard("p:600", "SUCCEEDED")
        return answer(question)

    account.answer = meanwhile
    watch.round()
    assert set(watch.ends) == {f"p:{n}" for n in range(500, 4000)} - {"p:600"}


def test_a_list_is_read_to_its_end_although_it_has_as_many_as_were_counted_before():
    account = Account()
    plans = [[(0.0, "RUNNING")] for _ in range(3000)]
    for n in range(600):
        plans[n].append((12.0, "SUCCEEDED"))
    for n in range(1000, 2500):
        plans[n].append((10.0, "SUCCEEDED"))
    account.array("p", plans)
    watch = Watch(account, account.children("p"))
    watch.round()
    account.now = 11.0
    answer = account.answer

    def later(question):
        account.now = 11.0 if isinstance(question, Describe) else 12.5
        return answer(question)

    account.answer = later
    watch.round()
    assert len(watch.ends) == 2100


def test_while_jobs_end_a_page_that_is_asked_for_anyway_has_children_instead_of_their_parent():
    account = Account()
    for parent, size in (("p", 1000), ("q", 60)):
        account.array(parent, [[(0.0, "RUNNING"), (10.0 * n + 10, "SUCCEEDED")] for n in range(size)])
    watch = Watch(account, [*account.children("p"), *account.children("q")])
    watch.round()
    for number in range(1, 4):
        account.now = 10.0 * number + 1
        account.calls.clear()
        watch.round()
        assert len(watch.ends) == 2 * number
    assert account.calls == {"Describe": 1, "Children": 1}
    watch.round()
    assert next(watch.sweep.round(account.now, lambda job_id: "q")) == Describe(("p", "q"))


def test_a_child_whose_host_went_away_is_idle_again():
    account = Account()
    account.array("p", [[(0.0, "RUNNING"), *([(10.0, "RUNNABLE"), (20.0, "RUNNING")] if n == 700 else [])] for n in range(1500)])
    watch = Watch(account, account.children("p"))
    for now, status in ((0.0, "RUNNING"), (11.0, "RUNNABLE"), (21.0, "RUNNING")):
        account.now = now
        watch.round()
        assert watch.told["p:700"].status == status
    assert watch.told["p:701"].status == "RUNNING"


def test_only_what_is_followed_is_told_and_an_array_without_any_is_forgotten():
    account = Account()
    account.array("p", [[(0.0, "RUNNING"), (10.0, "SUCCEEDED")]] * 50)
    watch = Watch(account, ["p:3", "p:4"])
    watch.round()
    account.now = 11.0
    watch.round()
    assert set(watch.told) == {"p:3", "p:4"}
    account.calls.clear()
    watch.round()
    assert account.calls.total() == 0


def test_a_child_that_is_followed_late_is_told_although_its_array_is_known():
    account = Account()
    account.array("p", [[(0.0, "SUCCEEDED")], [(0.0, "RUNNING")], [(0.0, "SUCCEEDED")]])
    watch = Watch(account, ["p:0", "p:1"])
    watch.round()
    assert set(watch.ends) == {"p:0"}
    watch.live.add("p:2")
    watch.round()
    assert set(watch.ends) == {"p:0", "p:2"}


def test_what_was_told_wrongly_is_told_again_when_it_comes_true():
    account = Account()
    account.array("p", [[(0.0, "RUNNING"), (10.0, "SUCCEEDED")], [(0.0, "RUNNING")]])
    watch = Watch(account, account.children("p"))
    watch.round()
    watch.sweep.heard("p:0", "SUCCEEDED")
    watch.sweep.doubt("p:0")
    account.now = 11.0
    watch.round()
    assert watch.ends["p:0"].status == "SUCCEEDED"


def test_an_array_that_batch_does_not_know_has_each_child_asked_about():
    account = Account()
    watch = Watch(account, [f"nowhere:{n}" for n in range(150)])
    watch.round()
    assert set(watch.told.values()) == {None}
    assert len(watch.told) == 150


def test_a_parent_whose_children_are_not_summed_up_yet_is_waited_for():
    account = Account()
    account.array("p", [[(0.0, "RUNNABLE"), (10.0, "SUCCEEDED")]] * 5000)
    described = account.described
    account.described = lambda job_id: BatchJob(job_id, "", "SUBMITTED", size=5000) if account.now < 9 else described(job_id)
    watch = Watch(account, account.children("p")).run(until=9)
    assert account.calls.total() == 2
    watch.run()
    assert len(watch.ends) == 5000


def test_a_round_that_breaks_off_leaves_nothing_out():
    account = Account()
    account.array("p", [[(0.0, "RUNNING"), (10.0, "FAILED" if n % 2 else "SUCCEEDED")] for n in range(3000)])
    watch = Watch(account, account.children("p"))
    watch.round()
    account.now = 11.0
    for broken in range(1, 40):
        watch.live -= set(watch.ends)
        watch.sweep.follow(watch.live)
        questions = watch.sweep.round(account.now, lambda job_id: "q")
        question = next(questions, None)
        for _ in range(broken):
            if question is None:
                break
            try:
                question = questions.send(account.answer(question))
            except StopIteration:
                question = None
        questions.close()
    assert len(watch.ends) == 3000


def test_a_hold_has_its_child_looked_at_each_time():
    account = Account()
    account.array("p", [[(0.0, "RUNNABLE"), (10.0, "STARTING")]] * 10)
    watch = Watch(account, account.children("p"))
    watch.closely = {"p:4"}
    watch.round()
    account.now = 11.0
    watch.round()
    assert watch.told["p:4"].status == "STARTING"
    assert set(watch.told) == {"p:4"}


def test_children_that_are_not_wanted_are_told_ended_without_being_described_one_by_one():
    account = Account()
    account.array("p", [[(0.0, "RUNNING"), (10.0, "FAILED")]] * 5000)
    watch = Watch(account, account.children("p"))
    watch.round()
    assert not watch.sweep.whole("p", set(account.children("p")[:-1]))
    assert watch.sweep.whole("p", set(account.children("p")))
    watch.unwanted = set(account.children("p"))
    account.now = 11.0
    watch.round()
    assert len(watch.ends) == 5000
    assert account.calls["Describe"] == 2


def test_an_array_with_a_child_whose_end_is_in_doubt_is_not_over():
    """An event said that it had ended, and Batch said that it runs: whoever wants all others removed must not end it too."""
    account = Account()
    account.array("p", [[(0.0, "RUNNING")]] * 3)
    watch = Watch(account, account.children("p"))
    watch.round()
    watch.sweep.heard("p:0", "SUCCEEDED")
    assert watch.sweep.whole("p", {"p:1", "p:2"})
    watch.sweep.doubt("p:0")
    assert not watch.sweep.whole("p", {"p:1", "p:2"})


def test_an_array_that_is_not_known_yet_is_never_ended_as_a_whole():
    watch = Watch(Account(), ["p:0", "p:1"])
    watch.sweep.follow(watch.live)
    assert not watch.sweep.whole("p", {"p:0", "p:1"})


def test_one_waiting_child_in_a_while_tells_that_none_of_its_array_can_ever_run():
    account = Account()
    account.array("p", [[(0.0, "RUNNABLE")]] * 250)
    account.reasons = dict.fromkeys(account.children("p"), "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - too much")
    watch = Watch(account, account.children("p"))
    watch.round()
    assert watch.told == {}
    account.now = 61.0
    watch.round()
    assert len(watch.told) == 250
    assert all(job.never_fits for job in watch.told.values())


def test_the_pace_slows_down_while_nothing_moves_and_is_back_with_the_first_change():
    account = Account()
    account.array("p", [[(0.0, "RUNNING"), (300.0, "SUCCEEDED")], *[[(0.0, "RUNNING"), (900.0, "SUCCEEDED")]] * 250])
    watch = Watch(account, account.children("p"))
    watch.round()
    assert watch.sweep.pause_s(5, events=False, closely=False) == 5
    watch.run(until=200)
    assert watch.sweep.pause_s(5, events=False, closely=False) == 8.75
    assert watch.sweep.pause_s(5, events=False, closely=True) == 5
    assert watch.sweep.pause_s(5, events=True, closely=False) == 60
    watch.run(until=301)
    watch.round()
    assert watch.sweep.pause_s(5, events=False, closely=False) == 5
    watch.run(until=500)
    watch.live.add("new")
    assert watch.sweep.has_news(watch.live)
    watch.sweep.follow(watch.live)
    assert watch.sweep.pause_s(5, events=False, closely=False) == 5


def test_the_pace_is_slower_while_none_runs_for_none_can_end():
    account = Account()
    account.array("p", [[(0.0, "RUNNABLE"), (100.0, "STARTING"), (200.0, "RUNNING"), (900.0, "SUCCEEDED")]] * 250)
    account.plans["s"] = [(0.0, "RUNNABLE"), (900.0, "SUCCEEDED")]
    watch = Watch(account, [*account.children("p"), "s"])
    paces = {}
    for until in (90, 190, 290):
        watch.run(until=until)
        paces[until] = watch.sweep.pause_s(5, events=False, closely=False)
    assert paces == {90: 15, 190: 8.75, 290: 8.75}


def test_while_jobs_end_now_and_then_the_pace_stays():
    account = Account()
    account.array("p", [[(0.0, "RUNNING"), (100.0 + 25 * n, "SUCCEEDED")] for n in range(250)])
    watch = Watch(account, account.children("p")).run(until=101)
    while account.now < 1000:
        watch.run(until=account.now + 1)
        assert watch.sweep.pause_s(5, events=False, closely=False) == 5


def test_the_end_of_a_few_jobs_is_told_as_soon_however_long_they_run():
    account = Account()
    account.array("p", [[(0.0, "RUNNING"), (900.0, "SUCCEEDED")]] * 2)
    watch = Watch(account, account.children("p"))
    watch.run(until=800)
    assert watch.sweep.pause_s(5, events=False, closely=False) == 5


def test_with_events_that_come_in_the_sweep_stays_slow_and_what_they_lost_makes_it_quick():
    account = Account()
    account.array("p", [[(0.0, "RUNNING"), (100.0 * (n + 1), "SUCCEEDED")] for n in range(3)])
    watch = Watch(account, account.children("p"))
    watch.round()
    watch.round()
    account.now = 101.0
    watch.sweep.heard("p:0", "SUCCEEDED")
    watch.round()
    assert watch.sweep.pause_s(5, events=True, closely=False) == 60
    account.now = 201.0
    watch.round()
    assert set(watch.ends) == {"p:1"}
    assert watch.sweep.pause_s(5, events=True, closely=False) == 5


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_every_end_is_told_once_and_rightly(seed):
    random.seed(seed)
    account = Account()

    def plan():
        at, steps = 0.0, [(0.0, "RUNNABLE")]
        for _ in range(random.randint(1, 3)):
            at += random.expovariate(1 / 100)
            steps.append((at, "RUNNING"))
            at += random.expovariate(1 / 100)
            steps.append((at, random.choice(["RUNNABLE", "SUCCEEDED", "FAILED"])))
            if steps[-1][1] != "RUNNABLE":
                return steps
        return [*steps, (at + 50, random.choice(["SUCCEEDED", "FAILED"]))]

    for parent in range(random.randint(1, 4)):
        account.array(f"p{parent}", [plan() for _ in range(random.choice([2, 60, 1500]))])
    account.plans.update({f"s{n}": plan() for n in range(random.choice([0, 90, 700]))})
    ids = [job_id for job_id in account.plans if random.random() < 0.9]
    watch = Watch(account, ids).run()
    assert {job_id: job.status for job_id, job in watch.ends.items()} == {
        job_id: account.plans[job_id][-1][1] for job_id in ids
    }
    assert watch.delays()[-1] <= 30 + watch.interval
