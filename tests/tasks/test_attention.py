"""Maps lie on the photograph where the model has looked, however it was cut, padded or turned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.bright import bright_model
from tests.fixtures.photos import stored_turned
from vitcli.jobs.job import Inputs, Running
from vitcli.records import Attended, Preprocess
from vitcli.render.styles import Style
from vitcli.sinks.memory import ListSink
from vitcli.tasks.attention.attention import AttentionJob, attention
from vitcli.tasks.attention.query import AttentionQuery, Point
from vitcli.tasks.attention.runner import AttentionRunner

PLANS = {
    "squash": Preprocess(size=(64, 64), resize=(64, 64)),
    "squash-not-square": Preprocess(size=(64, 96), resize=(64, 96)),
    "shortest-and-crop": Preprocess(size=(64, 64), resize=(72, 72), fit="shortest"),
    "timm-crop": Preprocess(size=(64, 64), resize=(72, 72), fit="shortest", crop="timm"),
    "letterbox": Preprocess(size=(64, 64), resize=(64, 64), fit="contain"),
    "cover": Preprocess(size=(96, 64), resize=(96, 64), fit="cover"),
    "a-rest-beside-whole-patches": Preprocess(size=(70, 94), resize=(70, 94)),
    "cut-out-of-the-middle": Preprocess(size=(64, 64), resize=None),
    "fast": Preprocess(size=(64, 64), resize=(64, 64), decode="fast"),
}
SQUARE = (100, 140, 40)  # top, left, side: within what every plan sees


def photo_with_square(width: int, height: int, square: tuple[int, int, int]) -> Image.Image:
    pixels = np.full((height, width, 3), 10, np.uint8)
    top, left, side = square
    pixels[top : top + side, left : left + side] = 245
    return Image.fromarray(pixels)


def run(folder: Path, plan: Preprocess, **options: Any) -> list[Any]:
    sink = ListSink()
    job = AttentionJob(
        inputs=Inputs(paths=(str(folder),)),
        model=bright_model(plan),
        running=Running(workers=0),
        style=options.pop("style", Style(name="heatmap", colours="gray")),
        out=options.pop("out", folder.parent / "maps"),
        overwrite=True,
        **options,
    )
    attention(job, sink=sink)
    return sink.rows


def hot(picture: Path) -> tuple[float, float]:
    """Down and to the right: the middle of what is hot."""
    heat = np.asarray(Image.open(picture).convert("L"), np.float64)
    rows, columns = np.nonzero(heat > 150)
    return rows.mean() + 0.5, columns.mean() + 0.5


@pytest.mark.parametrize("shape", [(320, 240), (300, 400)], ids=["wide", "tall"])
@pytest.mark.parametrize("plan", PLANS)
def test_the_map_is_hot_where_the_object_is(
    plan: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    top, left, side = SQUARE
    if plan == "cut-out-of-the-middle":  # 64 of the photo's own pixels
        top, left, side = shape[1] // 2 - 24, shape[0] // 2 - 4, 16
    photo_with_square(*shape, (top, left, side)).save(tmp_path / "in" / "a.png")
    [row] = run(tmp_path / "in", PLANS[plan])
    assert isinstance(row, Attended)
    [file] = row.files
    assert Image.open(file).size == shape
    down, across = hot(Path(file))
    assert abs(down - (top + side / 2)) < side / 2  # patches are as large
    assert abs(across - (left + side / 2)) < side / 2  # patches are as large


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_drawn_upright_with_its_map(orientation: int, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = stored_turned(photo_with_square(320, 240, (20, 220, 60)), orientation)
    stored.save(tmp_path / "in" / "a.jpg", exif=exif.tobytes(), quality=95)
    plan = PLANS["squash"]
    [row] = run(tmp_path / "in", plan, look=AttentionQuery(query=Point(250, 50)))
    assert row.query == (1, 6)  # 50 of 240, 250 of 320, on a grid of 8
    [row] = run(tmp_path / "in", plan)
    assert Image.open(row.files[0]).size == (320, 240)
    down, across = hot(Path(row.files[0]))
    assert (abs(down - 50) < 15, abs(across - 250) < 15) == (True, True)
    [row] = run(tmp_path / "in", replace(plan, exif=False))
    assert Image.open(row.files[0]).size == stored.size


def test_what_the_model_has_not_seen_is_told_from_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photo_with_square(320, 240, SQUARE).save(tmp_path / "in" / "a.png")
    plan = PLANS["shortest-and-crop"]  # 64 of 72 rows and of 96 columns
    [row] = run(tmp_path / "in", plan, style=Style(name="heatmap", colours="inferno"))
    heat = np.asarray(Image.open(row.files[0]))
    assert (heat[:, :50] == 128).all()
    assert (heat[:10] == 128).all()
    assert not (heat[20:220, 60:260] == 128).all(axis=-1).any()


def test_a_mask_keeps_what_holds_the_mass(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photo_with_square(256, 256, (64, 128, 64)).save(tmp_path / "in" / "a.png")
    [row] = run(tmp_path / "in", PLANS["squash"], style=Style(name="mask", mass=0.5))
    pixels = np.asarray(Image.open(row.files[0]).convert("L"))
    assert (pixels[64:128, 128:192] > 100).mean() > 0.4
    assert pixels[:60].max() < 30


def test_styles_have_their_sizes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photo_with_square(320, 240, SQUARE).save(tmp_path / "in" / "a.png")
    sizes = {}
    for name in ("overlay", "heatmap", "mask", "panel", "grid"):
        [row] = run(tmp_path / "in", PLANS["squash"], style=Style(name=name, size=160))
        sizes[name] = Image.open(row.files[0]).size
    assert sizes["overlay"] == sizes["heatmap"] == sizes["mask"] == (160, 120)
    assert sizes["panel"][0] == 3 * 160 + 2 * 2
    assert sizes["panel"][1] > 120
    assert sizes["grid"][0] == 160


@pytest.mark.parametrize("method", ["raw", "grad"])
def test_a_batch_for_which_there_is_not_the_memory_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Literal["raw", "grad"]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        photo_with_square(200, 150, (20 * number, 30, 40)).save(folder / f"{number}.png")
    plan = PLANS["squash"]
    expected = run(folder, plan, look=AttentionQuery(method=method))
    first, refused = AttentionRunner._maps, list[int]()

    def narrow(self: AttentionRunner, prepared: Any, network: Any, pixels: Any, points: Any) -> Any:
        if len(pixels) > 2:
            refused.append(len(pixels))
            raise RuntimeError("not enough memory: you tried to allocate 1 GB: out of memory")
        return first(self, prepared, network, pixels, points)

    monkeypatch.setattr(AttentionRunner, "_maps", narrow)
    found = run(folder, plan, look=AttentionQuery(method=method))
    assert refused == [5]
    assert [row.ref.path for row in found] == [row.ref.path for row in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.maps[0].values, other.maps[0].values, atol=1e-6)
