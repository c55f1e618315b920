"""What the tests of recordings share: a process that may be killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runs.killing import IsKilled, killing


@pytest.fixture(scope="package")
def is_killed() -> Iterator[IsKilled]:
    """Run an action in a child that is killed at its n-th change of a file; whether it was."""
    with killing() as opened:
        yield opened
