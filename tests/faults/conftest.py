"""What the fault tests share: their photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

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
