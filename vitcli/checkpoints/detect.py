"""Detect a checkpoint's layout by its tensor names, and refuse the models that no layout reads, by
their name in the config or by their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vitcli.checkpoints import foreign, layouts
from vitcli.checkpoints.keymap import knows
from vitcli.checkpoints.layouts.layout import Json, Layout, plain_names
from vitcli.errors import CheckpointError

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

# Layouts that also fit the tensors of models with rotary positions.
MAY_ROTATE = ("timm", "deit", "dino", "mae", "dinov2", "openai", "open-clip")
# Layouts of timm whose models can be the tower of an open_clip model.
TRUNKS = ("timm", "timm-eva")
# Matches the file names of unsupported models whose tensor names are those of a plain ViT.
_ROPE_FILE = re.compile(
    r"(^|[_-])(pe[_-]?(core|lang|spatial)|vit[_-]pe|rope)([_-]|$)", re.IGNORECASE
)


def layout_of(
    state: Mapping[str, Tensor],
    name: str | None = None,
    config: Json | None = None,
    file: Path | None = None,
) -> Layout:
    """Return the layout whose `detect` claims these tensors, or the layout that the user named.

    If no layout claims the tensors, the first layout whose rules know all their names is returned;
    the rules then report the missing tensors. `file` is a weight file without a config, whose name
    may show an unsupported model. Raises CheckpointError if several layouts claim the tensors, if
    none does and none knows all the names, and for models that no layout reads.
    """
    forced = name is not None
    is_named = check_named(config or {}, forced=forced)
    if name is not None:
        _check_forced(name, _of_model(config or {}))
    check_tensors(state, is_named=is_named, forced=forced)
    if name is not None:
        return _layout_named(name)
    detected = _detected(state, _of_model(config or {}))
    if file is not None and not is_named and detected.name in MAY_ROTATE:
        _check_file(file, detected.strip(state))
    kind = str((config or {}).get("model_type", ""))
    if kind and detected.model_types and kind not in detected.model_types:
        raise CheckpointError(
            f"model_type is {kind}, and the tensors are those of {detected.name}",
            "the config and the weights belong to different models; choose how to read the weights "
            "with --layout NAME",
        )
    return detected


def _detected(state: Mapping[str, Tensor], named: Layout | None) -> Layout:
    """The layout of these tensors. `named` is the one of the model in the config: it decides
    if it knows all names, and if the tensors do not show a rotation that the architecture has."""
    if named is not None and _knows_all(named, state):
        return named
    detected = _claiming(state)
    hides_rotation = detected.name in MAY_ROTATE and named and named.name not in MAY_ROTATE
    return named if named and hides_rotation else detected


def _of_model(config: Json) -> Layout | None:
    """The layout of the model that the config names."""
    for model in _models_named(config):
        for layout in layouts.LAYOUTS:
            if model.name in layout.model_types:
                return layout
            if layout.architectures and re.fullmatch(layout.architectures, model.name):
                return layout
    return None


def claims(state: Mapping[str, Tensor]) -> list[Layout]:
    """The layouts whose `detect` claims these tensors. A layout marked `is_general` counts only if
    no other claims them."""
    claiming = [layout for layout in layouts.LAYOUTS if layout.detect(layout.strip(state))]
    return [layout for layout in claiming if not layout.is_general] or claiming


def _claiming(state: Mapping[str, Tensor]) -> Layout:
    claiming = claims(state)
    if len(claiming) == 1:
        return claiming[0]
    if claiming:
        several = " and ".join(layout.name for layout in claiming)
        raise CheckpointError(f"these tensors could be {several}", "choose one with --layout")
    for layout in layouts.LAYOUTS:
        if _knows_all(layout, state):
            return layout
    shown = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"no layout knows all of this file's tensors, which start with {shown}",
        f"known are {_all_names()}; choose how to read the tensors with --layout NAME",
    )


def _knows_all(layout: Layout, state: Mapping[str, Tensor]) -> bool:
    names = layout.strip(state)
    return knows(names, layout.rules(names))


def _check_forced(name: str, named: Layout | None) -> None:
    """Raise CheckpointError for a layout that would leave out the rotations of the architecture in
    the config, whose layout is `named`."""
    if named and named.architectures and named.name not in MAY_ROTATE and name in MAY_ROTATE:
        raise CheckpointError(
            f"the config names an architecture of the layout {named.name}, which {name} computes "
            "in another way",
            f"leave out --layout {name}",
        )


def _layout_named(name: str) -> Layout:
    for layout in layouts.LAYOUTS:
        if layout.name == name:
            return layout
    raise CheckpointError(f"unknown layout {name!r}", f"known are {_all_names()}")


def _all_names() -> str:
    return ", ".join(layout.name for layout in layouts.LAYOUTS)


def check_named(config: Json, *, forced: bool = False) -> bool:
    """Whether the config names a model at all.

    Raises CheckpointError for a model listed in `foreign.ROWS` and, unless the user chose the
    layout (`forced`), for a name that neither a layout nor `foreign.ROWS` has.
    """
    models = list(_models_named(config))
    for model in models:
        if model.is_known:
            continue
        for row in foreign.ROWS:
            if row.called and re.search(row.called, model.name, re.IGNORECASE):
                raise CheckpointError(
                    f"{model.field} is {model.name}: this is {row.what}", row.hint
                )
        if not forced:
            raise CheckpointError(
                f"{model.field} is {model.name}, which no layout knows",
                "tensors do not show how a model computes; if this one computes like a known one, "
                "name its layout with --layout NAME",
            )
    return bool(models)


@dataclass(frozen=True, slots=True)
class _ModelName:
    """The model's name in one field of a config."""

    field: str
    name: str
    is_known: bool


def _models_named(config: Json) -> Iterator[_ModelName]:
    """Iterate over the model's names in a config of timm, open_clip or transformers."""
    section = config.get("model_cfg") or config
    vision = section.get("vision_cfg") if isinstance(section, Mapping) else None
    trunk = vision.get("timm_model_name") if isinstance(vision, Mapping) else None
    inner = config.get("pretrained_cfg")
    tagged = inner.get("architecture") if isinstance(inner, Mapping) else None
    named = config.get("architecture") or tagged
    for field, value, readers in (("architecture", named, ()), ("timm_model_name", trunk, TRUNKS)):
        if isinstance(value, str) and value:
            name = value.removeprefix("hf-hub:").removeprefix("timm/").split(".")[0]
            yield _ModelName(field, name, is_architecture(name, readers))
    kind, classes = config.get("model_type"), config.get("architectures")
    if isinstance(kind, str) and kind:
        is_known = any(kind in layout.model_types for layout in layouts.LAYOUTS)
        yield _ModelName("model_type", kind, is_known)
    elif isinstance(classes, list) and classes and not config.get("architecture"):
        name = str(classes[0])
        known = "|".join(layout.classes for layout in layouts.LAYOUTS if layout.classes)
        yield _ModelName("architectures", name, re.match(f"({known})[A-Z]", name) is not None)


def is_architecture(name: str, readers: Collection[str] = ()) -> bool:
    """Whether this is an architecture of timm that a layout reads, or one of `readers`, if any."""
    patterns = (
        layout.architectures
        for layout in layouts.LAYOUTS
        if layout.architectures and (not readers or layout.name in readers)
    )
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def check_tensors(
    state: Mapping[str, Tensor], *, is_named: bool = False, forced: bool = False
) -> None:
    """Raise CheckpointError for the tensors of a model that no layout reads.

    Rows of `foreign.ROWS` that are not sure (`is_sure`) are skipped if a config names the model
    (`is_named`) or the user chose the layout (`forced`).
    """
    full_names = {plain: name for name, plain in plain_names(state).items()}
    lines = "\n".join(full_names)
    for row in foreign.ROWS:
        if (is_named or forced) and not row.is_sure:
            continue
        for signs in row.tensors:
            matched = _first_match(signs, lines)
            if matched is not None:
                name = full_names[matched]
                shape = list(state[name].shape)
                raise CheckpointError(f"this is {row.what} ({name} {shape})", row.hint)


def _first_match(signs: str, names: str) -> str | None:
    """Return the first matched name, or None if a pattern fails.

    `signs` are patterns separated by spaces. Each must match a name or, if it starts with `!`,
    none. `names` has one name a line.
    """
    first = None
    for sign in signs.split():
        match = _line_pattern(sign.removeprefix("!")).search(names)
        if (match is None) != sign.startswith("!"):
            return None
        first = first or (match and match[0])
    return first


@cache
def _line_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:{pattern})$", re.MULTILINE)


def _check_file(file: Path, names: Collection[str]) -> None:
    """Raise CheckpointError for a file without a config that may be an unsupported RoPE model: its
    name says so, or it has DeiT-III's tensors but is .safetensors or .bin. DeiT-III is published in
    neither."""
    if match := _ROPE_FILE.search(file.stem):
        raise CheckpointError(
            f"the name {file.name} contains {match[2]}: the model may have rotary positions "
            "(RoPE), which do not show in the tensors",
            "if the model is a plain ViT, name its layout with --layout (timm, deit or dinov2)",
        )
    if "blocks.0.gamma_1" in names and file.suffix in (".safetensors", ".bin"):
        raise CheckpointError(
            f"{file.name} may be a DeiT-III or a RoPE-ViT: both have these tensors "
            "(blocks.0.gamma_1), and no config.json says which",
            "give the folder with its config.json; --layout deit reads it as a DeiT-III",
        )
