"""How logs reads on: the pages of CloudWatch, what Batch and the journal know at different times, a reader that leaves."""

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

from gahp.cli import logs
from gahp.history import History
from gahp.journal import Journal
from gahp.model import JobReport, JobRequest, JobState, Refused
from gahp.run import Run, RunState

PROGRAM = os.path.join(os.path.dirname(sys.executable), "condor_awsbatch")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(logs, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(logs, "_LATE_S", 0.0)


class CloudWatch:
    """Streams of pages, each a list of messages or an error's code. As CloudWatch does it, a page's token is given back with a
    last page that is empty."""

    def __init__(self, **streams):
        self.streams = streams
        self.asked = []

    def get_log_events(self, *, logGroupName, logStreamName, startFromHead, nextToken="0"):
        pages = self.streams[logStreamName]
        self.asked.append(logStreamName)
        place = int(nextToken)
        if place == len(pages):
            return {"events": [], "nextForwardToken": nextToken}
        if isinstance(pages[place], str):
            code, pages[place] = pages[place], []
            raise ClientError({"Error": {"Code": code}}, "GetLogEvents")
        return {"events": [{"message": text} for text in pages[place]], "nextForwardToken": str(place + 1)}


def site(cloudwatch):
    return SimpleNamespace(client=lambda service: cloudwatch, settings=SimpleNamespace(state_dir="/nowhere"))


def log(*pages):
    return logs.Log(site(CloudWatch(s=list(pages))), "/aws/batch/job", "s")


def test_an_empty_page_is_not_the_end_of_a_log():
    assert list(log(["a"], [], [], ["b"]).news()) == [b"a\n", b"b\n"]
    assert list(log([], ["a"]).all()) == [b"a\n"]


def test_a_log_is_read_to_its_end_though_cloudwatch_is_throttled_meanwhile():
    throttled = log(["a"], "ThrottlingException", ["b"], "ServiceUnavailableException", "ThrottlingException", ["c"])
    assert list(throttled.all()) == [b"a\n", b"b\n", b"c\n"] and not throttled.missing
    following = log(["a"], "ThrottlingException", ["b"])
    assert list(following.news()) == [b"a\n"]
    assert list(following.news()) == [b"b\n"]


def test_a_log_that_stays_throttled_is_told_as_that_and_not_as_gone():
    stays = log(*["ThrottlingException"] * 20)
    stays._client.streams["s"] = Always("ThrottlingException")
    with pytest.raises(Refused, match=r"^The log s in /aws/batch/job cannot be read: .*ThrottlingException.* Try again\.$"):
        list(stays.all())
    gone = log("ResourceNotFoundException")
    assert list(gone.all()) == [] and gone.missing


class Always(list):
    """A page that stays what it is."""

    def __len__(self):
        return 1

    def __getitem__(self, place):
        return str(self.said)

    def __setitem__(self, place, value):
        pass

    def __init__(self, said):
        self.said = said


RUN = History("1-0-a", "", "1.0", RunState.SUBMITTED, native_id="id", accepted=1.0)


@pytest.fixture
def follow(monkeypatch, capsysbinary):
    """What `logs -f` writes of a run while the journal and Batch say one thing after another; the last they go on saying."""

    def follow(journal, batch, every=0.0, **streams):
        journal, batch = list(journal), list(batch)

        def read(directory, names):
            yield journal.pop(0) if len(journal) > 1 else journal[0]

        def refresh(site, runs):
            told = batch.pop(0) if len(batch) > 1 else batch[0]
            return [dataclasses.replace(runs[0], **told) if runs[0].state is RunState.SUBMITTED else runs[0]], ""

        monkeypatch.setattr(logs.history, "read", read)
        monkeypatch.setattr(logs.views, "refresh", refresh)
        monkeypatch.setattr(logs, "group_of", lambda site, run: "/aws/batch/job")
        monkeypatch.setattr(logs, "_ASK_BATCH_EVERY_S", every)
        cloudwatch = CloudWatch(**{name: list(pages) for name, pages in streams.items()})
        options = argparse.Namespace(id="1.0", err=False, follow=True)
        [now], _ = refresh(None, [journal[0]])
        logs._live(site(cloudwatch), now, options, logs.Output())
        return capsysbinary.readouterr().out.decode()

    return follow


def ran(stream, started, status="RUNNING"):
    return {"status": status, "log_stream": stream, "started": started}


def test_a_log_is_followed_to_the_jobs_end_though_no_gahp_works_and_the_journal_says_nothing(follow):
    batch = [ran("s", 5.0), ran("s", 5.0), ran("s", 5.0, "SUCCEEDED")]
    assert follow([RUN], batch, s=[["a"], ["b"]]) == "a\nb\n"


def test_a_log_is_shown_once_though_the_journal_still_has_the_stream_of_the_attempt_before(follow):
    behind = dataclasses.replace(RUN, **ran("first", 5.0))
    over = dataclasses.replace(behind, state=RunState.COLLECTING)
    batch = [ran("second", 8.0)]
    told = follow([behind, behind, behind, over], batch, every=1e9, first=[["first"]], second=[["a"], ["b"]])
    assert told == "a\nb\n"


def test_a_later_start_goes_on_with_its_own_log_whoever_tells_of_it(follow):
    batch = [ran("first", 5.0), ran("", 0.0, "RUNNABLE"), ran("first", 5.0), ran("second", 9.0), ran("second", 9.0, "FAILED")]
    assert follow([RUN], batch, first=[["a"]], second=[["b"]]) == "a\nb\n"
    later = dataclasses.replace(RUN, **ran("second", 9.0))
    journal = [RUN, later, later, dataclasses.replace(later, state=RunState.COLLECTING)]
    assert follow(journal, [ran("first", 5.0)], first=[["a"]], second=[["b"]]) == "a\nb\n"


def test_a_reader_that_leaves_ends_the_copy_of_a_jobs_file(tmp_path):
    (tmp_path / "out").write_bytes(b"x" * 99 + b"\n" + b"y" * (1 << 22))
    journal = Journal(str(tmp_path / "state"))
    report = JobReport(JobState.COMPLETED, exit_code=0)
    run = Run("9-0-a", "9.0", "d", 0, RunState.COMPLETED, created=time.time(), report=report)
    request = JobRequest("/bin/x", str(tmp_path), stdout="out")
    journal.insert(run, request).result()
    journal.record(run, news={"record": {"started": 5.0}}).result()
    journal.close()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CONDOR_CONFIG": "ONLY_ENV"}
    environment["_CONDOR_AWSBATCH_STATE_DIR"] = str(tmp_path / "state")
    command = f"{PROGRAM} logs 9.0 | head -n 1"
    ended = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert (ended.stdout, ended.stderr) == ("x" * 99 + "\n", "")
