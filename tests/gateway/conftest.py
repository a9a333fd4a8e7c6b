"""Runs between a Batch and an S3 that fail on order."""

import pytest

from gahp.gateway import news
from gahp.gateway import runs as runs_module
from tests.gateway.world import World


@pytest.fixture
def world(tmp_path, monkeypatch):
    for module in (runs_module, news):
        monkeypatch.setattr(module, "backoff", lambda tries: 0.01)
    world = World(tmp_path)
    yield world
    world.close()
