"""Colours, levels, masses, and names on sheets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vitcli.records import Maps
from vitcli.render.heat import Place, heated, heaviest, levels_of, overlay, tables
from vitcli.render.sheet import contact_sheet, panel
from vitcli.render.styles import Style, preview


def test_the_tables_are_the_public_ones() -> None:
    """Anchors from the published tables; lightness never falls in those that are ordered."""
    found = {name: np.frombuffer(data, np.uint8).reshape(256, 3) for name, data in tables().items()}
    assert set(found) == {"inferno", "viridis", "turbo", "hot", "gray"}
    assert found["viridis"][[0, 255]].tolist() == [[68, 1, 84], [253, 231, 37]]
    assert found["inferno"][255].tolist() == [252, 255, 164]
    assert found["turbo"][0].tolist() == [48, 18, 59]
    assert found["gray"][:, 0].tolist() == list(range(256))
    for name in ("inferno", "viridis", "hot", "gray"):
        light = found[name].astype(float) @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(light) > -1.5).all()


def test_a_map_goes_from_the_first_to_the_last_colour() -> None:
    values = np.array([[0.0, 0.5], [0.25, 1.0]], np.float32)
    assert np.asarray(levels_of(values)).tolist() == [[0, 128], [64, 255]]
    assert not np.asarray(levels_of(np.full((2, 2), 0.5, np.float32))).any()
    heat = heated(values, Place((2, 2), (0, 0, 2, 2)), "gray")
    assert np.asarray(heat)[..., 0].tolist() == [[0, 128], [64, 255]]


def test_alpha_is_how_much_of_the_map_is_seen() -> None:
    photo = Image.new("RGB", (8, 8), (200, 100, 0))
    values = np.eye(4, dtype=np.float32)
    place = Place.of(photo.size, (0, 0, 1, 1))
    assert overlay(photo, values, place, "viridis", 0.0).tobytes() == photo.tobytes()
    whole = overlay(photo, values, place, "viridis", 1.0)
    assert whole.tobytes() == heated(values, place, "viridis").tobytes()


@pytest.mark.parametrize(("mass", "kept"), [(0.0, 0), (0.3, 1), (0.5, 2), (0.85, 3), (1.0, 4)])
def test_the_fewest_patches_that_hold_the_mass(mass: float, kept: int) -> None:
    values = np.array([[0.4, 0.1], [0.2, 0.3]], np.float32)
    found = heaviest(values, mass)
    assert found.sum() == kept
    assert values[found].sum() >= mass - 1e-6
    assert kept == 0 or values[found].min() >= values[~found].max(initial=0)


@pytest.mark.parametrize(
    ("size", "shown"), [((400, 300), (59, 44)), ((300, 400), (33, 44)), ((4000, 9), (80, 2))]
)
def test_a_preview_fits_its_terminal(size: tuple[int, int], shown: tuple[int, int]) -> None:
    maps = Maps("1", ("mean",), np.eye(4, dtype=np.float32)[None], (0, 0, 1, 1))
    assert preview(Image.new("RGB", size), maps, Style(), (44, 80)).size == shown


def test_a_caption_that_is_too_long_is_cut_and_odd_labels_are_drawn() -> None:
    images = [Image.new("RGB", (60, 40))] * 3
    for label in ("a" * 500, "鳥 \x1b[31m <b>", "", "two\nlines"):
        sheet = panel(images, label, "layer 3")
        assert sheet.width == 3 * 60 + 2 * 2
    sheet = contact_sheet([[images[0]] * 2] * 2, ["layer 1", "layer 2"], ["head 1", "head 2"])
    assert sheet.width > 120 and sheet.height > 80
