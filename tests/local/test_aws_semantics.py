"""docs/aws-semantics.md: every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "aws-semantics.md"


def test_every_behaviour_names_a_source_and_tests_that_exist() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ") and "::" in line]
    assert len(rows) > 40
    for row in rows:
        _behaviour, source, tests = (cell.strip() for cell in row.strip("|").split(" | "))
        assert source
        for reference in tests.split(", "):
            file, name = reference.split("::")
            assert re.search(rf"^def {name}\(", (Path(__file__).parent / file).read_text(), re.MULTILINE), reference
