"""Failures are told once: those before an interruption by the run that resumes it, and paths that
are all wrong before the model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Vit

EXAMPLES = sorted(map(str, (Path(__file__).parents[2] / "examples").glob("*.png")))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "feats.npy"])
def test_a_resumed_run_names_what_had_failed(vit: Vit, tmp_path: Path, name: str) -> None:
    command = "embed" if name.endswith("npy") else "classify"
    args = (command, "gone.png", *EXAMPLES[:5], "-m", "demo", "-j", "0", "-b", "2", "-o", name)
    ended = vit(*args, "--on-error", "stop")  # it ends behind the first batch
    assert ended.code == 1
    ended = vit(*args, "--resume")
    assert ended.code == 3
    assert ended.err.count("gone.png") == 1
    assert "failed before the interruption: gone.png; the row of each says why" in ended.err
    again = vit(*args, "--resume")
    assert (again.code, "gone.png" in again.err) == (3, False)


def test_paths_that_are_all_wrong_are_told_before_the_model_is_loaded(
    vit: Vit, tmp_path: Path
) -> None:
    ended = vit("classify", "a.png", "b.png", "-m", "no-such-model", "-j", "0", "--offline")
    first, second = ended.err.splitlines()[:2]
    assert first.startswith("vit: a.png does not exist (and 1 more): nothing can be read; ")
    assert "no-such-model" in second
    ended = vit("classify", "a.png", EXAMPLES[0], "-m", "demo", "-j", "0")
    assert "nothing can be read" not in ended.err
