"""One browser for the tests of all pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.browser import Browser, browser


@pytest.fixture(scope="package")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened
