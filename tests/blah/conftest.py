"""The ads that real gridmanagers sent, by the name of the case; recorded with HTCondor 23.9.6 and 25.14.1."""

import pathlib
import re

import pytest

_RECORDED = pathlib.Path(__file__).parent.parent / "data" / "ads" / "submit-ads.txt"


def _read() -> dict[str, str]:
    """CASE, or CASE@VERSION where the two versions differ, to the text of the ad."""
    ads: dict[str, str] = {}
    case = ""
    for line in _RECORDED.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            case, differs = line[3:].split(" ", 1)
        elif match := re.fullmatch(r"  \[([0-9.]+)\] (.*)", line):
            ads[f"{case}@{match[1]}" if differs == "(DIFFERS)" else case] = match[2]
    return ads


@pytest.fixture(scope="session")
def recorded() -> dict[str, str]:
    return _read()
