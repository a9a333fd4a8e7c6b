"""The figures of a report: phases by attempt, states over time, retries, memory, cost."""

import itertools
import random

import pytest

from gahp.history import Attempt
from gahp.report import Price, Prices, examine, read_prices
from gahp.report.figures import PHASES, spans_of
from gahp.run import RunState
from tests.report.conftest import T

STAGING, WAITING, STARTING, RUNNING, COLLECTING = range(5)


def told(history, now=T + 1000):
    return [(span.phase, span.begin - T, span.end - T, span.attempt) for span in spans_of(history, now)]


def test_a_job_goes_through_all_phases_without_a_gap(made):
    assert told(made()) == [
        (STAGING, 0, 10, 0),
        (WAITING, 10, 40, 1),
        (STARTING, 40, 60, 1),
        (RUNNING, 60, 160, 1),
        (COLLECTING, 160, 170, 1),
    ]


def test_each_attempt_has_its_own_phases(made):
    second = Attempt(started=T + 200, stopped=T + 250, waited=T + 161, starting=T + 190)
    assert told(made(attempts=(*made().attempts, second), stopped=T + 250, over=T + 260))[3:] == [
        (RUNNING, 60, 160, 1),
        (WAITING, 160, 190, 2),
        (STARTING, 190, 200, 2),
        (RUNNING, 200, 250, 2),
        (COLLECTING, 250, 260, 2),
    ]


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({"created": 0.0, "submitted": 0.0, "attempts": (), "status": ""}, (STAGING, 0, 100, 0)),
        ({"attempts": (), "status": "RUNNABLE", "since": T + 12}, (WAITING, 10, 100, 1)),
        ({"attempts": (), "status": "STARTING", "since": T + 50}, (STARTING, 50, 100, 1)),
        ({"attempts": (Attempt(started=T + 60),), "status": "RUNNING"}, (RUNNING, 60, 100, 1)),
        ({"attempts": (Attempt(started=T + 60, stopped=T + 80),), "status": "RUNNABLE"}, (WAITING, 80, 100, 2)),
    ],
)
def test_a_job_that_is_not_over_is_in_its_last_phase_until_now(made, changes, last):
    live = made(state=RunState.SUBMITTED, over=0.0, stopped=0.0, collecting=0.0, exit_code=None, **changes)
    assert told(live, T + 100)[-1] == last
    assert examine([live], T + 100).endings["live"] == 1


def test_a_job_whose_container_never_started_was_waiting_to_the_end(made):
    held = made(
        state=RunState.HELD, attempts=(Attempt(stopped=T + 90, status_reason="CannotPullContainerError"),), stopped=T + 90
    )
    assert told(held) == [(STAGING, 0, 10, 0), (WAITING, 10, 90, 1), (COLLECTING, 90, 170, 1)]
    assert examine([held], T + 200).jobs[0].running_s == 0


def test_times_in_whatever_order_never_make_a_phase_that_runs_backwards(made):
    chance = random.Random(7)
    for number in range(500):
        at = [T + chance.randrange(-50, 300) for _ in range(9)]
        history = made(
            number,
            created=at[0],
            stopped=at[1],
            over=at[2],
            attempts=(Attempt(at[3], at[4], at[5], at[6]), Attempt(at[7], at[8])),
        )
        spans = spans_of(history, T + 300)
        assert spans[0].begin == T
        assert all(span.end >= span.begin for span in spans)
        assert all(one.end == two.begin for one, two in itertools.pairwise(spans))


def test_states_over_time_add_up_to_the_time_in_each_phase(made):
    histories = [made(n, accepted=T + n, over=T + 170 + 3 * n) for n in range(40)]
    report = examine(histories, T + 1000)
    for number, phase in enumerate(PHASES):
        seconds = sum(job.seconds(number) for job in report.jobs)
        assert sum(report.series[number]) * report.bin_s == pytest.approx(seconds, rel=1e-3), phase
        assert report.phases[number].total_s == pytest.approx(seconds)


def test_nothing_at_all_is_a_report_too():
    report = examine([], T)
    assert (report.jobs, report.cpu_hours, report.memory, report.cost) == ((), 0, (), None)


def test_endings_are_told_apart(made):
    histories = [
        made(1),
        made(2, exit_code=3),
        made(3, exit_code=None, exit_signal=9),
        made(4, state=RunState.HELD, exit_code=None),
        made(5, state=RunState.REMOVED, exit_code=None),
    ]
    endings = examine(histories, T + 1000).endings
    assert endings == {"succeeded": 1, "failed": 2, "held": 1, "removed": 1, "live": 0}


def test_retries_are_counted_by_reason_whatever_host_it_was(made):
    first = Attempt(started=T + 20, stopped=T + 50, status_reason="Host EC2 (instance i-0123456789abcdef0) terminated.")
    other = Attempt(started=T + 20, stopped=T + 50, status_reason="Host EC2 (instance i-00000000000000001) terminated.")
    report = examine([made(1, attempts=(first, *made().attempts)), made(2, attempts=(other, *made().attempts)), made(3)], T + 999)
    assert (report.restarted, report.restarts) == (2, 2)
    assert report.reasons == (("Host EC2 (instance …) terminated.", 2),)
    assert report.jobs[0].wasted_s == 30


def test_memory_asked_for_in_vain_is_named_and_what_was_killed_is_raised(made):
    report = examine(
        [made(n) for n in range(3)] + [made(9, executable="/bin/big", out_of_memory=True, peak_memory_mib=4096)], T + 999
    )
    big, sim = sorted(report.memory, key=lambda row: row.kind)
    assert (sim.kind, sim.jobs, sim.most_mib, sim.advised_mib) == ("sim", 3, 1000, 1280)  # 1000 and a quarter, in steps of 64
    assert sim.saved_gb_hours == pytest.approx(3 * 100 / 3600 * (4096 - 1280) / 1024)
    assert (big.killed, big.advised_mib, big.saved_gb_hours) == (1, 6144, 0)


def test_memory_that_is_about_right_and_memory_that_nobody_measured_get_no_advice(made):
    right, unknown = made(1, memory_mib=1300), made(2, memory_mib=4096, peak_memory_mib=None)
    assert [row.advised_mib for row in examine([right, unknown], T + 999).memory] == [None, None]


def test_cost_is_running_time_by_what_was_asked_of_all_attempts(made):
    again = made(1, attempts=(Attempt(started=T + 20, stopped=T + 50), *made().attempts))
    prices = Prices((("q", Price(vcpu_hour=0.04, gb_hour=0.005)),), "EUR")
    report = examine([again, made(2, queue="other")], T + 999, prices)
    hour = 2 * 0.04 + 4 * 0.005
    assert report.cost == pytest.approx(130 / 3600 * hour)
    assert report.wasted_cost == pytest.approx(30 / 3600 * hour)
    assert (report.currency, report.unpriced) == ("EUR", ("other",))
    assert examine([again], T + 999).cost is None


def test_a_price_list_is_read_as_json_and_as_csv_with_the_first_pattern_that_fits(tmp_path):
    (tmp_path / "j").write_text(
        '{"currency": "EUR", "queues": {"spot-*": {"vcpu_hour": 0.01}, "*": {"gb_hour": 0.5, "gpu_hour": 1}}}'
    )
    (tmp_path / "c").write_text("queue, vcpu_hour, gb_hour, currency\nspot-*, 0.01,, EUR\n*, 0, 0.5\n")
    for name, gpu in (("j", 1), ("c", 0)):
        prices = read_prices(str(tmp_path / name))
        assert (prices.currency, prices.of("spot-1"), prices.of("x")) == ("EUR", Price(0.01), Price(0, 0.5, gpu))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column queue"),
        ("{", "cannot be understood"),
        ("[]", 'no object "queues"'),
        ('{"queues": {}}', "has no queue"),
        ('{"queues": {"q": {"vcpu": 1}}}', "q has vcpu, which is none of"),
        ('{"queues": {"q": {"vcpu_hour": "much"}}}', "'much' and no number"),
        ('{"queues": {"q": {"vcpu_hour": -1}}}', "no price"),
        ('{"queues": {"q": {"vcpu_hour": NaN}}}', "no price"),
        ("queue,vcpu_hour\nq,x", "'x' and no number"),
        ("[" * 100000, "cannot be understood"),
    ],
)
def test_a_wrong_price_list_is_one_sentence(tmp_path, text, words):
    from gahp.model import Refused

    path = tmp_path / "prices"
    path.write_text(text)
    with pytest.raises(Refused, match=words.replace("(", r"\(")) as caught:
        read_prices(str(path))
    assert "\n" not in str(caught.value)


def test_the_call_that_made_an_array_counts_once_and_each_job_has_its_part_of_it(made):
    array = [made(n, native_id=f"array:{n}", sends=1) for n in range(1000)]
    again = [made(n, native_id=f"other:{n}", sends=2) for n in range(1000, 1004)]  # its first reply got lost
    alone, unsent = made(2000), made(2001, native_id="", sends=0)
    report = examine([*array, *again, alone, unsent], T + 1000)
    assert report.sends == 1 + 2 + 1
    assert [report.jobs[number].sends for number in (0, 1000, 1004, 1005)] == [0.001, 0.5, 1, 0]
    assert sum(job.sends for job in report.jobs) == pytest.approx(report.sends)
