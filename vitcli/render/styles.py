"""The drawings of `vit attention` for one image: styles, thumbnail, preview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image

from vitcli.records import Maps, Size
from vitcli.render.heat import Colours, Map, Place, fitted, heatmap, mask, overlay
from vitcli.render.sheet import contact_sheet, labelled, panel

StyleName: TypeAlias = Literal["overlay", "heatmap", "panel", "grid", "mask"]
CELL = 192  # default longer side of an image on a contact sheet, in pixels
THUMBNAIL = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a map is drawn. `size` is the longer side in pixels; None keeps that of the image."""

    name: StyleName = "overlay"
    colours: Colours = "inferno"
    alpha: float = 0.5
    mass: float = 0.6
    size: int | None = None


def draw(
    photo: Image.Image, layers: Sequence[Maps], style: Style, caption: str = "", note: str = ""
) -> list[Image.Image]:
    """Draw one picture per map, layer by layer, or one for all maps in style grid. A panel shows
    `caption` below, and under it the names of layer and head and `note`."""
    if style.name == "grid":
        return [_grid(photo, layers, style)]
    photo = sized(photo, style.size)
    drawn = []
    for maps in layers:
        place = Place.of(photo.size, maps.box)
        for head, values in zip(maps.heads, maps.values, strict=True):
            about = ", ".join(filter(None, (layer_name(maps), head_name(head), note)))
            drawn.append(_one(photo, values, place, style, caption, about))
    return drawn


def layer_name(maps: Maps) -> str:
    """The name of a layer in a caption."""
    names = {"pool": "attention pooling", "all": "all layers"}
    return names.get(maps.layer, f"layer {maps.layer}")


def head_name(head: str) -> str:
    """The name of a head in a caption."""
    return f"head {head}" if head.isdecimal() else f"{head} of heads" if head else ""


def _one(
    photo: Image.Image, values: Map, place: Place, style: Style, caption: str, note: str
) -> Image.Image:
    match style.name:
        case "heatmap":
            return heatmap(values, place, style.colours)
        case "mask":
            return mask(photo, values, place, style.mass)
        case "panel":
            heat = heatmap(values, place, style.colours)
            over = overlay(photo, values, place, style.colours, style.alpha)
            return panel([photo, heat, over], caption, note)
        case _:
            return overlay(photo, values, place, style.colours, style.alpha)


def _grid(photo: Image.Image, layers: Sequence[Maps], style: Style) -> Image.Image:
    """Draw a row of heads per layer; with a single layer or head, rows of up to six maps."""
    photo = sized(photo, style.size or CELL)

    def drawn(maps: Maps) -> list[Image.Image]:
        place = Place.of(photo.size, maps.box)
        return [overlay(photo, v, place, style.colours, style.alpha) for v in maps.values]

    if len(layers) > 1 and any(len(maps.heads) > 1 for maps in layers):
        most = max(layers, key=lambda maps: len(maps.heads))
        names = [layer_name(maps) for maps in layers]
        return contact_sheet(list(map(drawn, layers)), names, list(map(head_name, most.heads)))
    named = [
        labelled(cell, head_name(head) if len(layers) == 1 else layer_name(maps))
        for maps in layers
        for head, cell in zip(maps.heads, drawn(maps), strict=True)
    ]
    across = _columns(len(named))
    rows = [named[i : i + across] for i in range(0, len(named), across)]
    return contact_sheet(rows, [""] * len(rows), [""] * across)


def _columns(count: int) -> int:
    """The number of columns: the largest from 3 to 6 that fills two rows or more, else up to 6."""
    return next((n for n in (6, 5, 4, 3) if count % n == 0 and count > n), min(count, 6))


def sized(photo: Image.Image, longest: int | None) -> Image.Image:
    """Resize an image so that its longer side is `longest`."""
    size = fitted(photo.size, longest)
    return photo if size == photo.size else photo.resize(size, Image.Resampling.LANCZOS)


def thumbnail(photo: Image.Image) -> Image.Image:
    """A thumbnail for a page; a small image is returned unchanged."""
    return sized(photo, THUMBNAIL) if max(photo.size) > THUMBNAIL else photo


def preview(photo: Image.Image, maps: Maps, style: Style, room: Size) -> Image.Image:
    """The overlay, scaled to fit `room` (height, width) of a terminal, with an even number of
    rows."""
    scale = min(room[0] / photo.height, room[1] / photo.width)
    across = max(1, round(photo.width * scale))
    down = 2 * max(1, int(photo.height * scale / 2))
    small = photo.resize((across, down), Image.Resampling.LANCZOS)
    place = Place.of(small.size, maps.box)
    return overlay(small, maps.values[0], place, style.colours, style.alpha)
