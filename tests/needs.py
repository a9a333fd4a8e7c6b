"""What a test needs of the machine and a person's machine need not have."""

import os
import shutil

import pytest


def programs(*names: str, of: str) -> list[str]:
    """Where these programs are; `of` says what has them. Without one the test is skipped, and fails where everything has to be
    tested: with CI set, as tests/condor/jobs.py has it."""
    found = [shutil.which(name) for name in names]
    missing = ", ".join(name for name, path in zip(names, found, strict=True) if path is None)
    if missing:
        told = f"needs {missing} ({of})"
        raise pytest.fail.Exception(told, pytrace=False) if os.environ.get("CI") else pytest.skip.Exception(told)
    return [path for path in found if path]
