"""What the fault tests share: photographs, a nursery of processes, and what `vit` did wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.nursery import Nursery, nursery
from tests.fixtures.photos import many_photos

COUNT = 500
BROKEN = range(0, COUNT, 67)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 small photographs, 8 of them broken. Not to be changed."""
    folder = tmp_path_factory.mktemp("photos")
    many_photos(folder, COUNT, broken=BROKEN)
    return folder


@pytest.fixture(scope="session")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good ones. Not to be changed."""
    folder = tmp_path_factory.mktemp("ten")
    many_photos(folder, 10)
    return folder


@pytest.fixture(scope="session")
def vits(tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str]) -> Iterator[Nursery]:
    """Processes that start at once."""
    with nursery(tmp_path_factory.mktemp("vits"), clean_env) as opened:
        yield opened
