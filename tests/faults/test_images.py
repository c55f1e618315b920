"""Bad, odd and hostile image files beside good neighbours: their own row, and nobody else's."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from tests.faults.rules import DEMO, Finished, watched
from tests.fixtures.forks import ForkServer
from tests.fixtures.photos import Corpus, bomb, many_photos, photo

MEMORY = 1200  # MB that no process may need


@dataclass(frozen=True)
class Neighbours:
    """Two good photographs, and the rows that they have alone."""

    vits: ForkServer
    first: Path
    last: Path
    alone: list[list[Any]]

    def around(self, *files: Path, options: Sequence[str] = ()) -> Finished:
        """Classify the files between the two, whose rows stay what they are alone."""
        inputs = [self.first, *files, self.last]
        args = ("classify", *inputs, *DEMO, *options)
        ended = watched(self.vits, *args, cwd=self.first.parent, inputs=inputs)
        assert predictions([ended.rows[0], ended.rows[-1]]) == self.alone
        return ended


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory, vits: ForkServer) -> Neighbours:
    folder = tmp_path_factory.mktemp("neighbours")
    first, last = many_photos(folder, 2)
    rows = watched(vits, "classify", first, last, *DEMO, cwd=folder, inputs=[first, last]).rows
    return Neighbours(vits, first, last, predictions(rows))


def predictions(rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Scores as close as another place in a batch lets them be."""
    return [
        [(p["label"], pytest.approx(p["score"], abs=2e-6)) for p in row["predictions"]]
        for row in rows
    ]


def test_every_bad_file_has_its_type_and_every_good_one_its_label(
    neighbours: Neighbours, photos: Corpus
) -> None:
    """I1-I6, I11, I13, I15: the whole corpus, with a `gs` on PATH that must never run."""
    bad = list(photos.bad)
    ended = neighbours.around(*bad, *photos.good)
    assert ended.errors == {str(path): kind for path, kind in photos.bad.items()}
    assert all(0 <= row["predictions"][0]["score"] <= 1 for row in ended.rows if "error" not in row)


def test_nothing_that_an_image_says_is_run(vits: ForkServer, tmp_path: Path) -> None:
    """I6: EPS under its own name and under another."""
    script = tmp_path / "bin" / "gs"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
    script.chmod(0o755)
    files = [tmp_path / "a.eps", tmp_path / "a.png"]
    for file in files:
        file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n")
    env = {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}"}
    ended = watched(
        vits, "classify", *files, *DEMO, "--formats", "all", cwd=tmp_path, inputs=files, env=env
    )
    assert set(ended.errors.values()) == {"NotAnImage"}
    assert not (tmp_path / "canary").exists()


@pytest.mark.slow
def test_a_picture_of_too_many_pixels_is_not_decoded(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    """I7, I8: refused by its header; decoded where it is allowed."""
    large = bomb(tmp_path / "large.png")
    ended = neighbours.around(large)
    assert ended.errors == {str(large): "TooLarge"}
    assert ended.rows[1]["error"]["message"] == "179.6 MP, limit 89.5 MP (--max-pixels)"
    assert max(ended.peaks.values()) < MEMORY
    allowed = neighbours.around(large, options=["--max-pixels", "180M"])
    assert allowed.errors == {}


def test_a_text_that_unpacks_to_gigabytes_is_not_unpacked(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    """I9: 200 MB of text in 200 kB of PNG."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 200_000_000, zip=True)
    photo("x").save(tmp_path / "text.png", pnginfo=info)
    assert (tmp_path / "text.png").stat().st_size < 300_000
    ended = neighbours.around(tmp_path / "text.png")
    assert set(ended.errors.values()) <= {"DecodeError", "TooLarge"}
    assert max(ended.peaks.values()) < MEMORY


@pytest.mark.slow
def test_a_picture_that_takes_for_ever_is_timed_out(neighbours: Neighbours, tmp_path: Path) -> None:
    """I10: a progressive JPEG with one of its scans forty thousand times over."""
    buffer = io.BytesIO()
    photo("scans", 1000, 1000).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    (tmp_path / "scans.jpg").write_bytes(data[:-2] + data[last:-2] * 40_000 + data[-2:])
    ended = neighbours.around(tmp_path / "scans.jpg", options=["--image-timeout", "1"])
    assert ended.rows[1]["error"] == {
        "type": "Timeout",
        "message": "decoding took longer than 1 s (--image-timeout)",
    }


def test_all_turns_of_a_picture_have_one_row(
    vits: ForkServer, tmp_path: Path, photos: Corpus
) -> None:
    """I12: exactly for PNG, the label for JPEG; and none of them with --no-exif."""
    files = [p for p in photos.good if p.name.startswith("turned-")]
    rows = watched(vits, "classify", *files, *DEMO, "-b", "1", cwd=tmp_path, inputs=files).rows
    found = {path.suffix: [] for path in files}
    for path, row in zip(files, rows, strict=True):
        found[path.suffix].append(row["predictions"])
    assert found[".png"] == found[".png"][:1] * 8
    assert len({best["label"] for [best] in found[".jpg"]}) == 1
    stored = watched(
        vits, "classify", *files, *DEMO, "--no-exif", "-b", "1", cwd=tmp_path, inputs=files
    )
    assert len({row["predictions"][0]["score"] for row in stored.rows}) > 4


def test_sixteen_bit_grey_is_not_white(vits: ForkServer, tmp_path: Path, photos: Corpus) -> None:
    """I14"""
    files = [p for p in photos.good if p.name.startswith("grey16")]
    white = tmp_path / "white.png"
    Image.new("L", (96, 64), 255).save(white)
    ended = watched(vits, "classify", *files, white, *DEMO, cwd=tmp_path, inputs=[*files, white])
    *found, blank = [row["predictions"][0]["score"] for row in ended.rows]
    assert all(abs(score - blank) > 1e-4 for score in found)
    assert len(files) > 1
    assert ended.err.startswith("vit: 16-bit grey is scaled to 8 bits (--preprocess hf clamps it, ")
    assert len(ended.err.splitlines()) == 2  # and the summary


@pytest.mark.parametrize("kind", ["icc", "xmp"])
def test_metadata_that_make_no_sense_change_nothing(
    vits: ForkServer, tmp_path: Path, kind: str
) -> None:
    """I16: the pixels count."""
    picture = photo("metadata")
    picture.save(tmp_path / "plain.jpg")
    if kind == "icc":
        picture.save(tmp_path / "odd.jpg", icc_profile=b"\xff" * 3000)
    else:
        picture.save(tmp_path / "odd.jpg", xmp=b"<x:xmpmeta" * 6000)
    inputs = [tmp_path / "plain.jpg", tmp_path / "odd.jpg"]
    ended = watched(vits, "classify", *inputs, *DEMO, "-b", "1", cwd=tmp_path, inputs=inputs)
    plain, odd = ended.rows
    assert plain["predictions"] == odd["predictions"]
    assert len(ended.err.splitlines()) == 1  # the summary


@pytest.mark.parametrize("command", ["classify", "embed"])
def test_a_run_of_failures_only_has_a_row_each(
    vits: ForkServer, tmp_path: Path, photos: Corpus, command: str
) -> None:
    """I18: batches without a single picture."""
    files = list(photos.bad)
    options = DEMO if command == "classify" else ("-m", "demo", "--format", "jsonl")
    ended = watched(vits, command, *files, *options, "-b", "4", cwd=tmp_path, inputs=files)
    assert ended.errors == {str(path): kind for path, kind in photos.bad.items()}
    assert f"0 of {len(files)} images done, {len(files)} failed" in ended.err


def test_a_file_that_changes_while_it_is_read_is_never_more_than_a_row(
    vits: ForkServer, tmp_path: Path
) -> None:
    """K5: overwritten and cut short again and again beside the run."""
    [file] = many_photos(tmp_path / "photos", 1)
    whole, stopped = file.read_bytes(), threading.Event()

    def rewrite() -> None:
        while not stopped.wait(0.001):
            file.write_bytes(whole[: len(whole) // 2])
            file.write_bytes(whole)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        ended = watched(vits, "classify", *[file] * 300, *DEMO, cwd=tmp_path, inputs=[file] * 300)
    finally:
        stopped.set()
        writer.join()
    assert set(ended.errors.values()) <= {"DecodeError", "NotAnImage"}
    assert len({json.dumps(row) for row in ended.rows if "error" not in row}) <= 20
