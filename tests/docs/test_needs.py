"""What a machine lacks is skipped for a person, and told as a failure by CI."""

import pytest

from tests import needs


@pytest.mark.parametrize(("ci", "raised"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_program_that_is_not_there_is_skipped_by_a_person_and_failed_by_ci(monkeypatch, ci, raised):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(raised, match="needs no-such-program"):
        needs.programs("sh", "no-such-program", of="nothing")
    assert needs.programs("sh", of="Debian: dash") == [needs.shutil.which("sh")]
