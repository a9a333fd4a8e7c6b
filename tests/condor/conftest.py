"""One pool of each version, each with an embedded AWS of its own, for a whole session; and the crowd of all cases' jobs."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

# What asserts outside the test files says what it found, too. Before they are imported.
pytest.register_assert_rewrite("tests.condor.jobs", "tests.condor.workflows")

from tests.condor import pool as pools  # noqa: E402
from tests.condor.jobs import Case, Job, Site, no_pool_is_told, open_site  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "together: begun in a thread with all others of its kind; takes `site` and parameters")
    config.addinivalue_line("markers", "case(job): the job that a test is about; see tests/condor/jobs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("together"):
            item.fixturenames.append("crowd")


# Where tests are dealt out to several processes, a version stays in one of them: see tests/conftest.py.
@pytest.fixture(scope="session", params=pools.SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def prefix(suite: str) -> Path:
    """HTCondor's programs."""
    with no_pool_is_told():
        return pools.build(suite)


@pytest.fixture(scope="session")
def site(suite: str, prefix: Path):
    """The pool that most tests share."""
    with open_site(prefix, suite) as site:
        yield site


def parameters(item: pytest.Item) -> dict[str, Any]:
    """What a test is parametrised with; nothing for those of other rooms that are not."""
    return getattr(getattr(item, "callspec", None), "params", {})


@pytest.fixture(scope="session")
def crowd(request: pytest.FixtureRequest, suite: str, site: Site):
    """By the names of their tests: the jobs of all cases of this session, and its tests that go together, each in a thread."""
    begun: dict[str, list[Job] | Future[None]] = {}
    with ThreadPoolExecutor(max_workers=48) as threads:
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
