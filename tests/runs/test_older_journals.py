"""Outputs and partials of the first version, kept in tests/golden/journals, still resume."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Vit

GOLDEN = Path(__file__).parents[1] / "golden" / "journals"
MADE = 1_700_000_000_000_000_000  # the mtime of the images, in ns


@pytest.fixture
def older(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of an older output, with the images that it was made of."""
    shutil.copytree(GOLDEN / request.param, tmp_path, dirs_exist_ok=True)
    (tmp_path / "photos").mkdir()
    for number, name in enumerate("abcd"):
        pixels = bytes((x * 29 + number * 71 + x // 24 * 13) % 256 for x in range(8 * 8 * 3))
        image = tmp_path / "photos" / f"{name}.ppm"
        image.write_bytes(b"P6 8 8 255\n" + pixels if name != "b" else b"no image")
        os.utime(image, ns=(MADE, MADE))
    return tmp_path


CLASSIFY = ("classify", "photos", "-m", "demo", "-j", "0", "-b", "1", "-k", "2")
EMBED = ("embed", "photos", "-m", "demo", "-j", "0", "-b", "1")
ATTENTION = ("attention", "photos", "-m", "demo", "-j", "0", "-b", "1")


@pytest.mark.parametrize(
    ("older", "args", "out"),
    [
        ("jsonl", CLASSIFY, "out.jsonl"),
        ("npy", EMBED, "feats.npy"),
        ("attention", ATTENTION, "maps"),
    ],
    indirect=["older"],
)
def test_a_whole_output_is_already_complete(
    older: Path, vit: Vit, args: tuple[str, ...], out: str
) -> None:
    before = {path: path.stat() for path in older.rglob("*") if path.is_file()}
    ended = vit(*args, "--out", out, "--resume")
    assert ended.code == 3, ended.err
    assert "is already complete" in ended.err
    after = {path: path.stat() for path in before}
    assert [s.st_ino for s in after.values()] == [s.st_ino for s in before.values()]


@pytest.mark.parametrize("older", ["jsonl-begun"], indirect=True)
def test_a_partial_of_lines_resumes_to_the_same_bytes(older: Path, vit: Vit) -> None:
    begun = (older / "out.jsonl.partial").read_bytes()
    assert vit(*CLASSIFY, "-o", "clean.jsonl").code == 3
    ended = vit(*CLASSIFY, "-o", "out.jsonl", "--resume")
    assert ended.code == 3 and "failed in the earlier run: photos/b.ppm" in ended.err
    clean = (older / "clean.jsonl").read_bytes().splitlines(keepends=True)
    assert (older / "out.jsonl").read_bytes() == begun + b"".join(clean[2:])


@pytest.mark.parametrize("older", ["npy-begun"], indirect=True)
def test_a_partial_of_arrays_resumes_to_the_same_bytes(older: Path, vit: Vit) -> None:
    begun = (older / "feats.npy.partial").read_bytes()
    index = (GOLDEN / "npy" / "feats.index.jsonl").read_bytes()
    assert vit(*EMBED, "-o", "clean.npy").code == 3
    assert vit(*EMBED, "-o", "feats.npy", "--resume").code == 3
    assert (older / "feats.index.jsonl").read_bytes() == index
    rows, clean = np.load(older / "feats.npy"), np.load(older / "clean.npy")
    assert rows[:1].tobytes() == begun[-rows[:1].nbytes :]
    np.testing.assert_array_equal(rows[1:], clean[1:])


@pytest.mark.parametrize("older", ["paths"], indirect=True)
def test_shards_of_a_format_with_an_option_are_merged(older: Path, vit: Vit) -> None:
    shards = [f"out-0000{number}-of-00002.txt" for number in (1, 2)]
    ended = vit("merge", *shards, "-o", "out.txt")
    assert ended.code == 3, ended.err
    assert (older / "out.txt").read_bytes() == b"photos/a.ppm\0photos/c.ppm\0photos/d.ppm\0"
