"""What the fault tests share: their photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.photos import many_photos

COUNT = 500
FEWER = 200


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 small photographs, 8 of them broken. Not to be changed."""
    folder = tmp_path_factory.mktemp("photos")
    many_photos(folder, COUNT, broken=range(0, COUNT, 67))
    return folder


@pytest.fixture(scope="session")
def fewer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 of them, 8 broken, for runs that come to their end. Not to be changed."""
    folder = tmp_path_factory.mktemp("fewer")
    many_photos(folder, FEWER, broken=range(0, FEWER, 25))
    return folder


@pytest.fixture(scope="session")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good ones. Not to be changed."""
    folder = tmp_path_factory.mktemp("ten")
    many_photos(folder, 10)
    return folder
