import datetime

import pytest

from gahp.protocol import Session, version_text


@pytest.fixture
def session():
    return Session(version_text("1.2.3", datetime.date(2026, 11, 23)))
