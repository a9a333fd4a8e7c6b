"""Every part of the measurement runs, with sizes whose figures mean nothing; and what it writes can be read."""

from __future__ import annotations

import _thread
import dataclasses
import json
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from bench import budgets, commands, driver, gridmanager, instant, main, peers, report, scale, transfer
from bench.virtual import Clock
from gahp.journal import Journal
from gahp.model import JobRequest
from gahp.run import Run, RunState
from tests.condor.jobs import no_pool_is_told
from tests.condor.prefix import build

MACHINE = {"load": 0.1, "cpu": "abacus", "cores": 2, "kernel": "6"}
FACTS = {"date": "2026-11-25", "machine": MACHINE, "versions": {"python": "3", "htcondor": "25"}}


def named(found, beginning):
    return [row for row in found.rows if row.name.startswith(beginning)]


def test_commands_are_measured_against_blahpd():
    with no_pool_is_told():
        build(peers.SUITE)
    found = commands.measure(((50, 40),), ((50, 40),))
    assert found.missing == []
    (taken,) = named(found, "jobs taken into Batch")
    assert taken.ours > 0 and taken.peer > 0 and taken.met is not None
    assert {row.part for row in found.rows} == {"a"}


def test_what_waits_now_and_then_has_several_turns_and_the_median_one_counts(monkeypatch):
    def rounds(rates, **more):
        def burst(rate, cpu_s):
            return driver.Burst("X", 10, 1, 10 / rate, cpu_s, (1 / rate,) * 10, 1_000_000, 0.0)

        return iter([commands.Round(1, burst(r, 0.01), burst(r, 0.0), burst(r, 0.0), r, **more) for r in rates])

    mine, theirs = rounds((500.0, 490.0, 510.0), from_memory={"pings": 2000.0}), rounds((470.0, 2.0, 1.9))
    order = []
    monkeypatch.setattr(commands, "ours", lambda *_: order.append("ours") or next(mine))
    monkeypatch.setattr(commands, "blahpd", lambda *_: order.append("blahpd") or next(theirs))
    found = commands.measure(((1, 10),), ((1, 10),))
    assert order == ["ours", "blahpd"] * 3
    (taken,) = named(found, "jobs taken into Batch")
    assert (taken.ours, taken.peer, taken.met) == (500.0, 2.0, True)
    assert taken.note == "3 turns: ours 490 to 510, blahpd 1.90 to 470"
    assert named(found, "pings")[0].note == "3 turns: ours 2,000 to 2,000"
    (cpu,) = named(found, "CPU for 1,000 commands")
    assert cpu.ours == pytest.approx(1000 * 0.03 / 90) and cpu.note == "3 turns together"
    assert {curve.points for curve in found.curves} == {((1, 500.0),), ((1, 2.0),)}


def test_an_instant_gahp_ends_a_job_at_the_second_look():
    talk = instant.Instant()
    assert talk.receive(b"ASYNC_MODE_ON\r\nBLAH_JOB_SUBMIT 2 [x]\r\n") == b"S\r\nS\r\nR\r\n"
    assert talk.receive(b"RESULTS\r\n") == b"S 1\r\n2 0 No\\ error instant/20261122/0\r\n"
    for state in (b"2", b"4"):
        assert talk.receive(b"BLAH_JOB_STATUS 3 instant/20261122/0\r\n") == b"S\r\nR\r\n"
        assert talk.receive(b"RESULTS\r\n").startswith(b"S 1\r\n3 0 No\\ error " + state + b" [")


def test_an_instant_gahp_can_be_driven(tmp_path):
    command = [sys.executable, "-m", "bench.instant"]
    with driver.Gahp(command, {"PYTHONPATH": str(peers.SOURCE)}, str(tmp_path)) as gahp:
        submits = gahp.burst("BLAH_JOB_SUBMIT", driver.submit_ads(5, "/tmp", "awsbatch"), 3)
        assert len(set(submits.values)) == 5 and submits.rate > 0
        assert gahp.burst("BLAH_JOB_STATUS", submits.values, 2).count == 5


def test_calls_are_counted_on_a_clock_that_skips_what_nobody_works_in():
    found = scale.measure_calls((12,))
    assert found.missing == []
    (late,) = named(found, "report of an end")
    assert 0 <= late.ours < 60


def test_three_gahps_of_one_account_get_all_jobs_into_batch():
    found = scale.measure_scale((12,), 130)
    assert found.missing == []
    (three,) = [row for row in found.rows if "130 jobs submitted by three GAHPs" in row.name]
    assert three.ours > 0 and ", 0 failed" in three.note


def test_the_long_part_measures_one_more_point_of_the_same_lines(tmp_path):
    few, many = scale.measure_scale((12,), 130), scale.measure_million(24)
    assert (few.missing, many.missing) == ([], []) and {row.part for row in many.rows} == {"g"}
    report.save(report.merge(few, "d", FACTS, {}), tmp_path)
    report.save(report.merge(many, "g", FACTS, report.load(tmp_path)), tmp_path)
    seconds, amounts = [(tmp_path / f"{name}-for-so-many-jobs.svg").read_text() for name in ("seconds", "calls-and-memory")]
    assert (seconds.count("<polyline"), amounts.count("<polyline"), amounts.count("AWS Batch calls")) == (3, 2, 1)


def test_the_peak_of_a_case_is_its_own_and_not_that_of_who_measures_it():
    large = bytearray(400_000_000)
    large[::4096] = b"x" * len(large[::4096])
    assert scale.run(scale.Case(5))["peak_mb"] < 300


def test_the_delay_of_a_report_ends_with_the_report_and_not_when_somebody_asks(tmp_path):
    (tmp_path / "host0").mkdir()
    now = [1000.0]
    journal = Journal(str(tmp_path / "host0" / "state"), clock=lambda: now[0])
    try:
        run = Run("1-0-a", "dir", "digest", 0)
        journal.insert(run, JobRequest(iwd="/", executable="/bin/true"))
        for state in (RunState.STAGED, RunState.SUBMITTING, RunState.SUBMITTED, RunState.COLLECTING, RunState.COMPLETED):
            now[0] += 10.0
            journal.update(run, state=state, native_id="id")
        now[0] += 5000.0
        journal.update(run, confirmed=True).result()
        assert scale._delays(tmp_path, SimpleNamespace(ended_at=lambda _: 1030.0)) == [20.0] * 3
    finally:
        journal.close()


def test_the_plot_of_the_gridmanager_tells_knobs_apart(monkeypatch):
    monkeypatch.setattr(gridmanager, "passage", lambda who, jobs, knobs: gridmanager.Passage(jobs, 1.0, 2.0, 0.5, 1_000_000, 0))
    found = gridmanager.measure(((1000, "shipped"), (1000, "best"), (10_000, "best")))
    assert {curve.line: [jobs for jobs, _ in curve.points] for curve in found.curves} == {
        "awsbatch_gahp, our condor_config.d": [1000],
        "instant GAHP, our condor_config.d": [1000],
        "awsbatch_gahp, best knobs": [1000, 10_000],
        "instant GAHP, best knobs": [1000, 10_000],
        "blahpd, best knobs": [1000],
    }


def test_sandboxes_are_measured_against_s5cmd():
    found = transfer.measure(100_000, 3)
    assert {row.peer_name for row in found.rows} == {"s5cmd"} and len(found.rows) == 4


def test_budgets_are_measured():
    found = budgets.measure(200, 400, 500, 100)
    (memory,) = named(found, "resident memory when idle")
    assert 10 < memory.ours < 500
    (threads,) = named(found, "400 running jobs followed: threads")
    assert (threads.peer_name, threads.met) == ("with 200 jobs", True)
    assert named(found, "start-up with a journal of 500 finished runs")
    assert named(found, "condor_awsbatch q -journal of 100 jobs")[0].goal == "under 1 s"


def test_a_clock_goes_as_real_time_does_while_somebody_works_and_skips_the_rest():
    begin, clock = time.monotonic(), Clock()
    with clock.installed():
        bell, heard = threading.Event(), []

        def listen():
            heard.append(bell.wait(3600))
            heard.append(bell.wait(3600))

        thread = threading.Thread(target=listen)
        thread.start()
        before = time.monotonic()
        time.sleep(1800)
        assert 1800 <= time.monotonic() - before < 3600
        assert heard == []
        bell.set()
        thread.join()
        assert heard == [True, True]
        bell.clear()
        assert not bell.wait(7200)
        assert time.monotonic() - before >= 9000
    assert time.monotonic() - begin < 600
    assert threading.Event().wait(0.01) is False


def test_a_clock_does_not_skip_the_beginning_of_a_thread():
    with Clock().installed():
        for _ in range(2000):
            begun = threading.Event()
            _thread.start_new_thread(begun.set, ())
            assert begun.wait(10)


def test_results_of_a_part_take_the_place_of_its_earlier_ones_and_of_no_others(tmp_path):
    row = report.Row("a", "jobs", 20.0, "/s", 4.0, "blahpd", "5 times blahpd", True)
    curve = report.Curve("a", "rates", "ours", "in flight", "a second", ((1, 10), (50, 200)))
    first = report.merge(report.Found([row], [curve], ["a: blahpd was not measured"]), "a", FACTS, {})
    both = report.merge(report.Found([report.Row("b", "time", 3.0, "s")]), "b", FACTS, first)
    again = report.merge(report.Found([report.Row("a", "jobs", 30.0, "/s")]), "a", FACTS, both)
    assert [(line["part"], line["ours"]) for line in again["rows"]] == [("a", 30.0), ("b", 3.0)]
    assert both["missing"] == ["a: blahpd was not measured"] and again["missing"] == []
    written = report.save(both, tmp_path)
    assert [path.name for path in written] == ["latest.json", "rates.svg"]
    (line, _) = json.loads(written[0].read_text())["rows"]
    assert (line["name"], line["ours"], line["peer"], line["ratio"], line["goal"], line["met"]) == (
        "jobs", 20.0, 4.0, 5.0, "5 times blahpd", True,
    )  # fmt: skip
    assert "abacus" in written[1].read_text()
    assert "| a: jobs | 20.0 /s | blahpd 4.00 | 5.00 | 5 times blahpd | yes |" in report.as_markdown(both)


def test_each_part_keeps_the_date_and_the_load_of_its_run_and_the_versions_where_they_differ(tmp_path):
    def measured(part, date, load, htcondor, earlier):
        about = {"date": date, "machine": {**MACHINE, "load": load}, "versions": {**FACTS["versions"], "htcondor": htcondor}}
        found = report.Found(
            [report.Row(part, "jobs", 1.0, "")], [report.Curve(part, f"rates-{part}", "ours", "x", "y", ((1, 1),))]
        )
        return report.merge(found, part, about, earlier)

    one = measured("c", "2026-11-25", 0.5, "25", measured("a", "2026-11-25", 0.5, "25", {}))
    assert report.as_markdown(one).endswith("\nMeasured 2026-11-25 at load 0.5.")
    two = measured("b", "2026-11-26", 7.5, "26", one)
    assert report.as_markdown(two).endswith("\nMeasured: a, c 2026-11-25 at load 0.5, htcondor 25; b 2026-11-26 at load 7.5.")
    assert "HTCondor 26." in report.as_markdown(two).splitlines()[0]
    report.save(two, tmp_path)
    feet = [(tmp_path / f"rates-{part}.svg").read_text() for part in "ab"]
    assert "Measured 2026-11-25 at load 0.5<" in feet[0] and "Measured 2026-11-26 at load 7.5<" in feet[1]
    assert json.loads((tmp_path / "latest.json").read_text()) == json.loads(json.dumps(two))


def test_results_that_told_only_the_load_of_the_newest_run_say_so_of_the_others():
    dates = {"a": "2026-11-25", "b": "2026-11-24"}
    rows = [{**dataclasses.asdict(report.Row(part, "jobs", 1.0, "", date=date)), "ratio": None} for part, date in dates.items()]
    found = report.by_part({**FACTS, "rows": rows, "curves": [], "missing": []})
    assert report.as_markdown(found).endswith("\nMeasured: a 2026-11-25 at load 0.1; b 2026-11-24, load not noted.")
    assert report.merge(report.Found(), "b", FACTS, found)["measured"] == {"a": FACTS, "b": FACTS}


def test_the_table_goes_between_its_marks_in_the_readme(tmp_path):
    readme, found = tmp_path / "README.md", report.merge(report.Found([report.Row("a", "jobs", 20.0, "/s")]), "a", FACTS, {})
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nbehind\n")
    report.put_into(readme, found)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nbehind\n") and "| a: jobs |" in text and "old" not in text
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the line"):
        report.put_into(readme, found)


def test_a_figure_has_the_digits_that_tell_it_from_its_goal():
    assert [report.shown(4.0006), report.shown(4.0006, 4.0), report.shown(4.0, 4.0)] == ["4.00", "4.001", "4.00"]
    assert [report.shown(4999.7, 5000.0), report.shown(5.996, 6.0), report.shown(99.0, 100.0)] == ["4,999.7", "5.996", "99.0"]
    row = report.Row("a", "jobs", 9.0, "/s", 1.8003, "blahpd", "5 times blahpd", False)
    assert report.cells({**dataclasses.asdict(row), "ratio": row.ratio})[3:] == ["4.999", "5 times blahpd", "no"]


def test_a_peer_that_is_missing_is_no_number():
    def peer(value, name):
        return report.cells({**dataclasses.asdict(report.Row("a", "CPU", 5.56, "s", value, name)), "ratio": None})[2]

    assert [peer(None, ""), peer(None, "blahpd"), peer(0.0, ""), peer(0.0, "blahpd")] == ["", "", "", "blahpd 0"]


@pytest.fixture
def parts(monkeypatch):
    """Parts that measure nothing; c has a figure that misses its goal."""
    found = report.Found([report.Row("c", "requests", 4.0006, "", goal="4", met=False)])
    for table in (main.PARTS, main.QUICK):
        for part in table:
            monkeypatch.setitem(table, part, report.Found)
        monkeypatch.setitem(table, "c", lambda: found)


def test_a_quick_run_judges_nothing_and_says_nothing_of_parts_that_were_not_asked_for(parts, capsys, tmp_path):
    assert main.main(["--quick", "--only", "c", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("c: requests")]
    assert line.split() == ["c:", "requests", "4.001", "4"] and "missing:" not in printed
    assert list(tmp_path.iterdir()) == []


def test_results_are_kept_in_the_folder_that_is_named(parts, capsys, tmp_path):
    latest = (report.RESULTS / report.LATEST).read_text()
    assert main.main(["--only", "c", "--output", str(tmp_path / "new")]) == 0
    assert "missing:" not in capsys.readouterr().out
    assert main.main(["--only", "a", "--output", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    assert "missing: a: never measured" in printed and "missing: b: never measured" in printed
    assert "missing: c" not in printed and str(tmp_path / "new") in printed
    assert [row["part"] for row in report.load(tmp_path / "new")["rows"]] == ["c"]
    assert (report.RESULTS / report.LATEST).read_text() == latest


def test_every_part_has_a_quick_form():
    assert main.QUICK.keys() == main.PARTS.keys()
