"""Jobs of one shape that come together: few array jobs, and every one of them on its own from there on."""

import collections
import time
import uuid

import pytest

from gahp.model import JobState
from tests.packs import batch_rows, curl_signs

HELD, COMPLETED, REMOVED, RUNNING, IDLE = (
    JobState.HELD,
    JobState.COMPLETED,
    JobState.REMOVED,
    JobState.RUNNING,
    JobState.IDLE,
)
# So that a burst is one pack also on a machine that is busy with other things.
SLOW = {"pack_quiet": 1500, "pack_wait": 10000}


@pytest.fixture
def cluster():
    """A cluster number that no other test has: the runs' names begin with it, and with it the packs'."""
    return uuid.uuid4().int % 10**9 + 10**9


@pytest.fixture
def burst(cluster, submit_ad):
    """Submits many jobs without waiting for each; `ads` are what each has of its own. Their ids, in order."""

    def burst(gahp, ads):
        wanted = {}
        for number, ad in enumerate(ads):
            directory = f"home_bl_test_{cluster}.{number}_{uuid.uuid4().int % 10**9}"
            wanted[gahp.request("BLAH_JOB_SUBMIT", submit_ad(gahp.home, JobDirectory=directory, **ad))] = number
        ids = {}
        until = time.monotonic() + 60
        while len(ids) < len(wanted):
            assert time.monotonic() < until
            for outcome in gahp.results(1.0):
                code, message, job_id = outcome.tokens
                assert code == "0", message
                ids[wanted[outcome.request_id]] = job_id
        return [ids[number] for number in range(len(ids))]

    return burst


@pytest.fixture
def arrays(aws, cluster):
    """The sizes of the array jobs of this test, and how many jobs it has besides."""

    def arrays():
        rows = batch_rows(aws, f"{cluster}-*")
        sizes = collections.Counter(row["arrayJobId"] for row in rows if "arrayJobId" in row)
        return sorted(sizes.values()), sum("arrayJobId" not in row for row in rows)

    return arrays


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_60_jobs_of_one_shape_become_few_arrays_each_with_its_own_end_and_output(start, burst, script, arrays, tmp_path):
    gahp = start(**SLOW)
    cmd = script('echo "$1 $(cat in.$2)"; exit $(($1 % 4))')
    for number in range(3):
        (tmp_path / f"in.{number}").write_text(f"input {number}")
    ads = [{"Cmd": cmd, "Arguments": f"{n} {n % 3}", "Out": f"o.{n}", "TransferInput": f"in.{n % 3}"} for n in range(60)]
    ids = burst(gahp, ads)
    for number, job_id in enumerate(ids):
        state, ad = gahp.finish(job_id)
        assert (state, ad["ExitCode"]) == (COMPLETED, number % 4)
        assert (tmp_path / f"o.{number}").read_text() == f"{number} input {number % 3}\n"
    sizes, singles = arrays()
    assert len(sizes) <= 3
    assert sum(sizes) + singles == 60


def test_what_cannot_be_packed_together_is_not(start, burst, arrays):
    gahp = start(**SLOW)
    ids = burst(gahp, [{"RequestMemory": 64 + 64 * (n % 2)} for n in range(6)] + [{"RequestMemory": 200}])
    assert {gahp.finish(job_id)[0] for job_id in ids} == {COMPLETED}
    assert arrays() == ([3, 3], 1)


def test_one_whose_input_goes_away_before_it_is_staged_is_held_alone(start, fault, burst, script, jobs_of, arrays, tmp_path):
    gahp = start(**SLOW)
    cmd = script("exit 0")
    (tmp_path / "small").write_text("x")
    (tmp_path / "large").write_text("x" * 100_000)
    with fault("error", action="HeadObject"):
        # Large ones are looked for in S3 before they are uploaded, and this is tried again and again.
        ids = burst(gahp, [{"Cmd": cmd, "TransferInput": name} for name in ("small", "large", "small", "small")])
        until(lambda: jobs_of(ids[0]))
        assert gahp.status(ids[1])[0] == IDLE
        (tmp_path / "large").unlink()
    assert {gahp.finish(ids[n])[0] for n in (0, 2, 3)} == {COMPLETED}
    state, ad = gahp.finish(ids[1])
    assert (state, ad["HoldReasonCode"]) == (HELD, 13)
    assert "large" in ad["HoldReason"]
    assert arrays() == ([3], 0)


def test_a_single_job_stays_a_single_job(start, burst, arrays):
    gahp = start()
    (job_id,) = burst(gahp, [{}])
    assert gahp.finish(job_id)[0] == COMPLETED
    assert arrays() == ([], 1)


def test_with_size_1_nothing_is_packed_and_with_size_4_no_more_than_four(start, burst, arrays):
    gahp = start(pack_size=1)
    assert {gahp.finish(job_id)[0] for job_id in burst(gahp, [{}] * 6)} == {COMPLETED}
    assert arrays() == ([], 6)
    gahp.close()
    gahp = start(pack_size=4, **SLOW)
    assert {gahp.finish(job_id)[0] for job_id in burst(gahp, [{}] * 8)} == {COMPLETED}
    assert arrays() == ([4, 4], 6)


def test_one_child_is_cancelled_and_the_others_run_on(start, burst, script, jobs_of, tmp_path, arrays):
    gahp = start(**SLOW)
    cmd = script('touch "$1/began.$2"; while [ ! -e "$1/go" ]; do sleep 0.1; done; echo "$2"')
    ids = burst(gahp, [{"Cmd": cmd, "Arguments": f"{tmp_path} {n}", "Out": f"o.{n}"} for n in range(3)])
    for job_id in ids:
        gahp.until(job_id, RUNNING)
    gahp.cancel(ids[1])
    assert gahp.finish(ids[1])[0] == REMOVED
    (tmp_path / "go").touch()
    assert [gahp.finish(ids[n])[0] for n in (0, 2)] == [COMPLETED] * 2
    assert [(tmp_path / f"o.{n}").read_text() for n in (0, 2)] == ["0\n", "2\n"]
    assert jobs_of(ids[1])[0]["statusReason"] == "Removed by HTCondor"
    assert arrays() == ([3], 0)


def test_one_child_is_held_before_it_starts_and_resumed_and_the_others_are_not_touched(
    start, aws, burst, cluster, script, jobs_of, tmp_path
):
    gahp = start(**SLOW)
    aws.faults.stuck(name=f"{cluster}-pack-????????????????")
    try:
        cmd = script('echo "ran $1"')
        ids = burst(gahp, [{"Cmd": cmd, "Arguments": str(n), "Out": f"o.{n}"} for n in range(3)])
        until(lambda: all(jobs_of(job_id) for job_id in ids))
        assert gahp.perform("BLAH_JOB_HOLD", ids[1])[0] == "0"
        assert [gahp.status(job_id)[0] for job_id in ids] == [IDLE, HELD, IDLE]
        gahp.kill()
        gahp = start(**SLOW)
        assert gahp.status(ids[1])[0] == HELD
        assert gahp.perform("BLAH_JOB_RESUME", ids[1])[0] == "0"
        assert gahp.finish(ids[1])[0] == COMPLETED
        assert (tmp_path / "o.1").read_text() == "ran 1\n"
        assert gahp.status(ids[0])[0] == IDLE
    finally:
        aws.faults.clear("stuck")
    assert [gahp.finish(ids[n])[0] for n in (0, 2)] == [COMPLETED] * 2
    assert sorted(job["status"] for job in jobs_of(ids[1])) == ["FAILED", "SUCCEEDED"]


def test_one_child_over_its_time_limit_is_ended_alone(start, burst, script, arrays):
    gahp = start(**SLOW)
    cmd = script('exec sleep "$1"')
    ids = burst(gahp, [{"Cmd": cmd, "Arguments": seconds, "BatchRuntime": 60} for seconds in ("0", "300", "0")])
    ends = [gahp.finish(job_id) for job_id in ids]
    assert [(state, ad["ExitBySignal"]) for state, ad in ends] == [(COMPLETED, False), (COMPLETED, True), (COMPLETED, False)]
    assert "timeout" in ends[1][1]["ExitReason"]
    assert arrays() == ([3], 0)


def test_one_child_whose_host_goes_away_is_started_again_alone(start, aws, burst, script, jobs_of, tmp_path):
    gahp = start(**SLOW)
    cmd = script('if [ "$AWS_BATCH_JOB_ATTEMPT$2" = 11 ]; then exec sleep 300; fi; echo "$AWS_BATCH_JOB_ATTEMPT"')
    ids = burst(gahp, [{"Cmd": cmd, "Arguments": f"{tmp_path} {n}", "Out": f"o.{n}"} for n in range(3)])
    gahp.until(ids[1], RUNNING)
    until(lambda: aws.faults.vanish(jobs_of(ids[1])[0]["jobId"]))
    assert [(gahp.finish(job_id)[0], (tmp_path / f"o.{n}").read_text()) for n, job_id in enumerate(ids)] == [
        (COMPLETED, "1\n"),
        (COMPLETED, "2\n"),
        (COMPLETED, "1\n"),
    ]


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_a_lost_reply_makes_no_second_array(start, fault, burst, script, arrays, tmp_path, probability):
    gahp = start(**SLOW)
    cmd = script('echo ran >> "$1/ran.$2"')
    with fault("lost_reply", action="SubmitJob", probability=probability):
        ids = burst(gahp, [{"Cmd": cmd, "Arguments": f"{tmp_path} {n}"} for n in range(5)])
        assert {gahp.finish(job_id)[0] for job_id in ids} == {COMPLETED}
    assert arrays() == ([5], 0)
    assert [(tmp_path / f"ran.{n}").read_text() for n in range(5)] == ["ran\n"] * 5


def test_a_pack_under_throttling_and_errors_is_submitted_once(start, fault, burst, script, arrays, tmp_path):
    gahp = start(**SLOW)
    cmd = script('echo ran >> "$1/ran.$2"')
    with fault("throttle", action="SubmitJob", per_second=0.5), fault("error", action="PutObject", probability=0.2):
        first = burst(gahp, [{"Cmd": cmd, "Arguments": f"{tmp_path} {n}"} for n in range(4)])
        second = burst(gahp, [{"Cmd": cmd, "Arguments": f"{tmp_path} {n}", "RequestMemory": 300} for n in range(4, 8)])
        assert {gahp.finish(job_id)[0] for job_id in first + second} == {COMPLETED}
    assert arrays() == ([4, 4], 0)
    assert [(tmp_path / f"ran.{n}").read_text() for n in range(8)] == ["ran\n"] * 8


def test_one_that_is_removed_while_its_pack_is_throttled_never_runs(start, fault, burst, script, arrays, tmp_path):
    gahp = start(**SLOW)
    cmd = script('echo ran >> "$1/ran.$2"')
    with fault("error", action="SubmitJob", status=429, code="TooManyRequestsException"):
        ids = burst(gahp, [{"Cmd": cmd, "Arguments": f"{tmp_path} {n}"} for n in range(4)])
        until(lambda: "jobs are submitted again" in gahp.log())
        gahp.cancel(ids[1])
        assert gahp.finish(ids[1])[0] == REMOVED
    assert [gahp.finish(ids[n])[0] for n in (0, 2, 3)] == [COMPLETED] * 3
    assert not (tmp_path / "ran.1").exists()
    assert arrays() == ([3], 0)


def test_a_packed_job_is_a_few_requests_to_s3_and_next_to_none_to_batch(start, aws, burst, script, arrays):
    gahp = start(**SLOW, poll_interval=2)
    cmd = script("echo ran")
    gahp.perform("BLAH_PING", "awsbatch")
    before = aws.calls()
    ids = burst(gahp, [{"Cmd": cmd, "Out": f"o.{n}"} for n in range(40)])
    assert {gahp.finish(job_id)[0] for job_id in ids} == {COMPLETED}
    made = {name: count - before.get(name, 0) for name, count in aws.calls().items() if count > before.get(name, 0)}
    assert arrays() == ([40], 0)
    assert made["batch:SubmitJob"] == 1
    # Script (GET), claim (PUT), result (PUT, GET). For all together two PUTs: manifest and records. Without curl, a HEAD for the
    # first two.
    requests = sum(made.get(f"s3:{action}", 0) for action in ("GetObject", "PutObject", "HeadObject"))
    assert requests == 40 * (4 if curl_signs() else 6) + 2


@pytest.mark.parametrize("delay", [0.1, 0.3, 0.6, 1.0, 1.5])
def test_a_gahp_killed_in_the_middle_of_a_pack_loses_no_child_and_runs_none_twice(start, burst, script, jobs_of, tmp_path, delay):
    cmd = script('echo ran >> "$1/ran.$2"; sleep 0.2; echo "$2"')
    first = start(pack_quiet=100)
    ids = burst(first, [{"Cmd": cmd, "Arguments": f"{tmp_path} {n}", "Out": f"o.{n}"} for n in range(10)])
    time.sleep(delay)
    first.kill()
    second = start()
    assert {second.finish(job_id)[0] for job_id in ids} == {COMPLETED}
    assert [(tmp_path / f"ran.{n}").read_text() for n in range(10)] == ["ran\n"] * 10
    assert [(tmp_path / f"o.{n}").read_text() for n in range(10)] == [f"{n}\n" for n in range(10)]
    assert [len(jobs_of(job_id)) for job_id in ids] == [1] * 10


def test_a_damaged_journal_is_made_anew_with_the_children_of_packs(start, burst, script, jobs_of, tmp_path):
    cmd = script('echo ran >> "$1/ran.$2"; sleep 1; echo "$2"')
    first = start(**SLOW)
    ids = burst(first, [{"Cmd": cmd, "Arguments": f"{tmp_path} {n}", "Out": f"o.{n}"} for n in range(3)])
    until(lambda: all(jobs_of(job_id) for job_id in ids))
    first.kill()
    for path in (first.home / "state").glob("journal.sqlite*"):
        if size := path.stat().st_size:
            with open(path, "r+b") as file:
                file.write(b"no database " * (size // 12 + 1))
    second = start()
    assert second.perform("BLAH_PING", "awsbatch")[0] == "0"
    assert {second.finish(job_id)[0] for job_id in ids} == {COMPLETED}
    assert [len(jobs_of(job_id)) for job_id in ids] == [1] * 3
    assert [(tmp_path / f"ran.{n}").read_text() for n in range(3)] == ["ran\n"] * 3
