"""The demo: four real jobs, a result that is checked, a picture that is one."""

import os
import subprocess
import sys
import xml.etree.ElementTree

import pytest

from gahp.cli import demo
from gahp.cli.timeline import COLOURS, Row, Span, draw

PROGRAM = os.path.join(os.path.dirname(sys.executable), "condor_awsbatch")


def test_the_demo_runs_checks_and_draws_the_black_diamond(tmp_path):
    ran = subprocess.run(
        [PROGRAM, "demo", "--output", "out"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "All 5 files are the same as from the programs run directly." in " ".join(ran.stdout.split())
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert sorted(os.listdir(tmp_path / "out")) == ["f.a", "f.b1", "f.b2", "f.c1", "f.c2", "f.d", "timeline.svg"]
    most = (tmp_path / "out" / "f.d").read_text().split()[:2]
    assert most == [str((tmp_path / "out" / "f.a").read_text().lower().replace("(", " ").split().count("the")), "the"]
    picture = xml.etree.ElementTree.parse(tmp_path / "out" / "timeline.svg")
    words = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"preprocess", "findrange 1", "findrange 2", "analyze"} <= words


@pytest.fixture
def folders(tmp_path):
    for name in ("work", "direct"):
        (tmp_path / name).mkdir()
        demo._copy_programs(tmp_path / name)
        demo.run_directly(tmp_path / name)
    return tmp_path / "work", tmp_path / "direct"


def test_a_result_that_differs_is_found(folders):
    work, direct = folders
    assert demo.compare(work, direct) == []
    (work / "f.d").write_text("something else\n")
    (work / "f.c1").unlink()
    assert demo.compare(work, direct) == ["f.c1", "f.d"]


def test_a_job_starts_when_its_parents_have_completed_and_not_before():
    jobs = demo.diamond()
    assert [job.name for job in demo._ready(jobs)] == ["preprocess"]
    jobs[0].state = "completed"
    assert [job.name for job in demo._ready(jobs)] == ["findrange 1", "findrange 2"]
    jobs[1].state, jobs[2].state = "completed", "running"
    assert list(demo._ready(jobs)) == []
    jobs[2].state = "completed"
    assert [job.name for job in demo._ready(jobs)] == ["analyze"]


def test_a_picture_is_well_formed_whatever_the_names_hold():
    rows = [Row('<&">\x00', (Span("idle", 0, 1), Span("running", 1, 3)), "held"), Row("empty", (), "removed")]
    picture = xml.etree.ElementTree.fromstring(draw('a <b> & "c"', rows))
    fills = [element.get("fill") for element in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert fills[1:3] == [COLOURS["idle"], COLOURS["running"]]


def test_a_picture_of_nothing_is_a_picture():
    assert xml.etree.ElementTree.fromstring(draw("nothing", [])).tag.endswith("svg")
