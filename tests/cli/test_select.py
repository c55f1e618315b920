"""--select and --paths-only: photographs sorted in a shell."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Vit
from tests.fixtures.photos import Corpus

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = ("-m", "demo")


@pytest.fixture
def inbox(tmp_path: Path, photos: Corpus) -> Path:
    """The ten digits, one under a name that is not UTF-8 and has a newline, and a broken file."""
    folder = tmp_path / "inbox"
    shutil.copytree(
        EXAMPLES, folder, ignore=lambda _, names: {n for n in names if n[-4:] != ".png"}
    )
    odd = os.fsencode(folder) + b"/caf\xe9\n'\".png"
    shutil.copy(next(folder.glob("digit-3*")), os.fsdecode(odd))
    shutil.copy(next(iter(photos.bad)), folder / "bad.jpg")
    return folder


def rows(out: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_selected_rows_and_failures_are_written_and_counted(vit: Vit, inbox: Path) -> None:
    everything = rows(vit("classify", inbox, *DEMO, "-k", 2).out)
    ended = vit("classify", inbox, *DEMO, "-k", 2, "--select", 'label == "3" and score > 0.2')
    wanted = [
        row
        for row in everything
        if "error" in row or row["predictions"][0]["label"] == "3"  # type: ignore[index]
    ]
    assert rows(ended.out) == wanted
    assert len(wanted) == 3
    assert ended.code == 3
    assert "11 of 12 images done, 1 failed, 2 selected, in" in ended.err


def test_any_asks_for_the_labels_behind_the_first(vit: Vit, inbox: Path) -> None:
    everything = rows(vit("classify", inbox, *DEMO, "-k", 3).out)
    text = 'any(label == "8" and rank > 1)'
    ended = vit("classify", inbox, *DEMO, "-k", 3, "--select", text)
    wanted = [
        row
        for row in everything
        if "error" in row or "8" in [p["label"] for p in row["predictions"][1:]]  # type: ignore[index]
    ]
    assert rows(ended.out) == wanted
    assert 1 < len(wanted) < 12


def test_paths_alone_go_through_xargs(
    inbox: Path, tmp_path: Path, scripts: Path, clean_env: dict[str, str]
) -> None:
    """The line that the README has, with everything that a name may hold."""
    command = (
        'mkdir cats && "$0" classify inbox -m demo -0 --paths-only'
        ' --select \'label in ("3", "7")\' 2> errors | xargs -0 mv -t cats/'
    )
    before = {os.fsencode(path.name) for path in inbox.iterdir()}
    subprocess.run(
        ["/bin/sh", "-c", command, scripts / "vit"], cwd=tmp_path, env=clean_env, check=True
    )
    moved = {os.fsencode(path.name) for path in (tmp_path / "cats").iterdir()}
    assert {name[:7] for name in moved} == {b"digit-3", b"digit-7", b"caf\xe9\n'\""}
    assert {os.fsencode(path.name) for path in inbox.iterdir()} == before - moved
    errors = (tmp_path / "errors").read_text()
    assert "inbox/bad.jpg" in errors
    assert "1 failed" in errors


def test_paths_are_lines_without_the_failures(vit: Vit, inbox: Path) -> None:
    ended = vit("classify", "inbox/digit-1-0070.png", "inbox/bad.jpg", *DEMO, "--paths-only")
    assert (ended.code, ended.out) == (3, b"inbox/digit-1-0070.png\n")
    assert ended.err.startswith("vit: ")
    assert "inbox/bad.jpg" in ended.err


def test_paths_go_into_a_file(vit: Vit, inbox: Path, tmp_path: Path) -> None:
    args = ("classify", "inbox", *DEMO, "--paths-only", "-0", "-o", "found.txt", "--select")
    assert vit(*args, 'label == "4"').code == 3
    assert (tmp_path / "found.txt").read_bytes() == b"inbox/digit-4-0144.png\0"


@pytest.mark.parametrize("format", ["csv", "tsv"])
def test_tables_hold_the_selected_only(vit: Vit, inbox: Path, format: str) -> None:
    ended = vit("classify", inbox, *DEMO, "-k", 1, "--format", format, "--select", "index >= 8")
    text = io.StringIO(ended.out.decode("utf-8", "surrogateescape"), newline="")
    _, *found = csv.reader(text, delimiter="," if format == "csv" else "\t")
    assert [row[2] for row in found] == ["", "8", "9"]


def test_nothing_selected_is_no_error(vit: Vit, inbox: Path) -> None:
    ended = vit("classify", inbox, *DEMO, "--ext", "png", "--select", "score > 1")
    assert (ended.code, ended.out) == (0, b"")
    assert ", 0 selected, in" in ended.err


def test_a_threshold_that_leaves_nothing_selects_nothing(vit: Vit, inbox: Path) -> None:
    args = ("classify", inbox, *DEMO, "--ext", "png", "--threshold", "1", "--select")
    assert vit(*args, "score >= 0").out == b""
    assert len(vit(*args, 'label == ""').out.splitlines()) == 11


def test_a_mistake_is_marked_and_is_found_before_anything(vit: Vit) -> None:
    ended = vit("classify", "no-such-folder", "-m", "no-such-model", "--select", 'label = "cat"')
    assert (ended.code, ended.out) == (2, b"")
    assert ended.err.splitlines() == [
        "vit: --select: this is not understood: write ==",
        '  label >>>= "cat"',
    ]


def test_a_label_that_is_not_there_is_found_before_any_image(vit: Vit, inbox: Path) -> None:
    ended = vit("classify", inbox, *DEMO, "--select", 'label == "seven"')
    assert (ended.code, ended.out) == (2, b"")
    assert "the model has no label 'seven'" in ended.err


def test_paths_are_a_format_of_their_own(vit: Vit, inbox: Path) -> None:
    ended = vit("classify", inbox, *DEMO, "--paths-only", "--format", "csv")
    assert ended.code == 2
