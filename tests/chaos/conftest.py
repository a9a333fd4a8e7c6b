"""An embedded AWS for chaos: many places, time limits that run fast."""

import pytest

from gahp.local import LocalAws


@pytest.fixture(scope="session")
def chaos_aws(tmp_path_factory):
    with LocalAws(tmp_path_factory.mktemp("chaos-aws"), vcpus=64, memory_mib=64 * 1024, time_scale=0.05) as aws:
        yield aws
        assert aws.violations() == []
