"""One pool of each version, each with an embedded AWS of its own, for a whole session; and the crowd of all cases' jobs."""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.parse
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gahp.local import LocalAws
from tests.condor import pool as pools
from tests.condor.gate import Gate
from tests.condor.guard import guarded
from tests.condor.jobs import KNOBS, Case, Job, Site, no_pool_is_told

# Jobs that only sleep hold a place each, so there are more places than the machine has cores.
VCPUS = 64


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "together: begun in a thread with all others of its kind; takes `site` and parameters")
    config.addinivalue_line("markers", "case(job): the job that a test is about; see tests/condor/jobs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("together"):
            item.fixturenames.append("crowd")


# Where tests are dealt out to several processes by groups, a version stays in one of them.
@pytest.fixture(
    scope="session", params=[pytest.param(name, marks=pytest.mark.xdist_group(f"condor-{name}")) for name in pools.SUITES]
)
def suite(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def prefix(suite: str) -> Path:
    """HTCondor's programs."""
    with no_pool_is_told():
        return pools.build(suite)


@pytest.fixture(scope="session")
def site(suite: str, prefix: Path):
    """A pool that runs `batch awsbatch` jobs on an embedded AWS. Nothing of either is left behind."""
    folder = Path(tempfile.mkdtemp(prefix=f"awsbatch-{suite}-"))
    folder.chmod(0o755)
    pool = pools.Pool(prefix, folder / "pool")
    try:
        with guarded(pool, folder), LocalAws(folder / "aws", vcpus=VCPUS, time_scale=0.05, grace_s=25) as aws:
            environment = aws.environment()
            gate = Gate(urllib.parse.urlsplit(aws.endpoint).port)
            pool.prepare()
            pool.credentials(environment)
            pools.install(pool, environment, **KNOBS, AWSBATCH_ENDPOINT_URL=gate.url)
            pool.set(pools.TEST_KNOBS)
            pool.up()
            yield Site(pool, aws, gate)
            pool.down()
            gate.stop()
            assert aws.violations() == []
    finally:
        pool.down()
        assert pool.processes() == []
        if not os.environ.get("AWSBATCH_POOL_KEEP"):
            shutil.rmtree(folder)


def parameters(item: pytest.Item) -> dict[str, Any]:
    """What a test is parametrised with; nothing for those of other rooms that are not."""
    return getattr(getattr(item, "callspec", None), "params", {})


@pytest.fixture(scope="session")
def crowd(request: pytest.FixtureRequest, suite: str, site: Site):
    """By the names of their tests: the jobs of all cases of this session, and its tests that go together, each in a thread."""
    begun: dict[str, list[Job] | Future[None]] = {}
    with ThreadPoolExecutor(max_workers=32) as threads:
        for item in request.session.items:
            if parameters(item).get("suite") != suite:
                continue
            if marker := item.get_closest_marker("case"):
                what: Case = marker.args[0]
                begun[item.name] = site.submit(what, item.originalname.removeprefix("test_")[:60])
            elif item.get_closest_marker("together"):
                others = {name: value for name, value in parameters(item).items() if name != "suite"}
                begun[item.name] = threads.submit(item.function, site=site, **others)
        yield begun


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that goes together with others was begun with them; here its end is waited for."""
    if not pyfuncitem.get_closest_marker("together"):
        return None
    pyfuncitem.funcargs["crowd"][pyfuncitem.name].result()
    return True


@pytest.fixture
def jobs(request: pytest.FixtureRequest, crowd: dict[str, list[Job]]) -> list[Job]:
    """The jobs of this test's case."""
    return crowd[request.node.name]


@pytest.fixture
def job(jobs: list[Job]) -> Job:
    """The job of this test's case."""
    (job,) = jobs
    return job


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason why there was no pool."""
    reasons = {str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if "/condor/" in report.nodeid}
    for reason in sorted(reasons):
        terminalreporter.write_line(reason.removeprefix("Skipped: "))
