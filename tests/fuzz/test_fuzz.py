"""A short run of the fuzzer: a few odd inputs of every kind, the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.runner import Box, fuzz
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_odd_input_breaks_a_rule(name: str, tmp_path: Path) -> None:
    fuzz(TARGETS[name], Box(tmp_path), examples=4)
