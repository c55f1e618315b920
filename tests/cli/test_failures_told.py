"""Failures are told as they happen, those of an earlier run by the run that resumes it, and paths
that are all wrong before the model is loaded."""

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
    told = (
        "vit: failed in the earlier run: gone.png; the row of each says why, and --retry-failed "
        "tries again\n"
    )
    assert ended.err.count("gone.png") == 1 and told in ended.err
    again = vit(*args, "--resume")
    assert (again.code, again.err.count("gone.png"), told in again.err) == (3, 1, True)
    quiet = vit(*args, "--resume", "-q")
    assert (quiet.code, quiet.err) == (3, "")


def test_all_that_failed_earlier_are_counted_and_the_first_named(vit: Vit) -> None:
    gone = [f"gone{number}.png" for number in range(5)]
    args = ("classify", *gone, *EXAMPLES[:1], "-m", "demo", "-j", "0", "-o", "rows.csv")
    first = vit(*args)
    assert [line for line in first.err.splitlines() if "gone" in line] == [
        f"vit: NotFound: {name}: no such file" for name in gone
    ]
    for more in ((), EXAMPLES[1:2]):  # a complete output, and one that grows
        ended = vit(*args, *more, "--resume")
        assert "vit: failed in the earlier run: gone0.png, gone1.png, gone2.png and 2 more; " in (
            ended.err
        )
    again = vit(*args, *EXAMPLES[1:2], "--resume", "--retry-failed")
    assert "earlier run" not in again.err and "vit: NotFound: gone4.png: no such file" in again.err


def test_paths_that_are_all_wrong_are_told_before_the_model_is_loaded(
    vit: Vit, tmp_path: Path
) -> None:
    ended = vit("classify", "a.png", "b.png", "-m", "no-such-model", "-j", "0", "--offline")
    first, second = ended.err.splitlines()[:2]
    assert first.startswith("vit: a.png does not exist (and 1 more): nothing can be read; ")
    assert "no-such-model" in second
    ended = vit("classify", "a.png", EXAMPLES[0], "-m", "demo", "-j", "0")
    assert "nothing can be read" not in ended.err
