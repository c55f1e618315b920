"""Detect a checkpoint's layout by its tensor names, and refuse the models that no layout reads, by
their name in the config or by their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from vitcli.checkpoints import foreign, layouts
from vitcli.checkpoints.keymap import knows
from vitcli.checkpoints.layouts.layout import Json, Layout, plain_names
from vitcli.errors import CheckpointError

# File names of unsupported models whose tensor names are those of a plain ViT.
_FILES = re.compile(r"(^|[_-])(pe[_-]?(core|lang|spatial)|vit[_-]pe|rope)([_-]|$)", re.IGNORECASE)


def layout_of(
    state: Mapping[str, Tensor],
    name: str | None = None,
    config: Json | None = None,
    file: Path | None = None,
) -> Layout:
    """Return the one layout that claims these tensors, or the one the user named.

    If no layout claims the tensors, the first one that knows all their names is used, and its rules
    report the missing tensors. `file` is a weight file without a config, whose name may show an
    unsupported model. Raises CheckpointError if none or several layouts claim the tensors, and for
    models that no layout reads.
    """
    forced = name is not None
    is_named = check_named(config or {}, forced=forced)
    check_tensors(state, is_named=is_named, forced=forced)
    if name is not None:
        return _named(name)
    detected = _claiming(state)
    if file is not None and not is_named:
        _check_file(file, detected.strip(state))
    kind = str((config or {}).get("model_type", ""))
    if kind and detected.model_types and kind not in detected.model_types:
        raise CheckpointError(
            f"model_type is {kind}, and the tensors are those of {detected.name}",
            "config and weights are of two models; --layout forces one",
        )
    return detected


def claims(state: Mapping[str, Tensor]) -> list[Layout]:
    """The layouts that claim these tensors; a general one only if no other does."""
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
        names = layout.strip(state)
        if knows(names, layout.rules(names)):
            return layout
    shown = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"no known layout has tensors such as {shown}",
        f"known are {_all_names()}; --layout forces one",
    )


def _named(name: str) -> Layout:
    for layout in layouts.LAYOUTS:
        if layout.name == name:
            return layout
    raise CheckpointError(f"unknown layout {name!r}", f"known are {_all_names()}")


def _all_names() -> str:
    return ", ".join(layout.name for layout in layouts.LAYOUTS)


def check_named(config: Json, *, forced: bool = False) -> bool:
    """Whether the config names a model that a layout reads; False if it names none.

    Raises CheckpointError for a model that no layout reads and, unless the user chose the layout
    (`forced`), for an unknown name.
    """
    names = list(_names(config))
    for named in names:
        if named.is_known:
            continue
        for row in foreign.ROWS:
            if row.called and re.search(row.called, named.name, re.IGNORECASE):
                raise CheckpointError(
                    f"{named.field} is {named.name}: this is {row.what}", row.hint
                )
        if not forced:
            raise CheckpointError(
                f"{named.field} is {named.name}, which no layout knows",
                "its tensors alone do not say how it computes; if it computes as a plain model of "
                "a layout does, --layout NAME reads it as that",
            )
    return bool(names)


@dataclass(frozen=True, slots=True)
class _Name:
    """The model's name in one field of a config."""

    field: str
    name: str
    is_known: bool


def _names(config: Json) -> Iterator[_Name]:
    """Iterate over the model's names in a config of timm, open_clip or transformers."""
    section = config.get("model_cfg") or config
    vision = section.get("vision_cfg") if isinstance(section, Mapping) else None
    trunk = vision.get("timm_model_name") if isinstance(vision, Mapping) else None
    inner = config.get("pretrained_cfg")
    tagged = inner.get("architecture") if isinstance(inner, Mapping) else None
    named = config.get("architecture") or tagged
    for field, value in (("architecture", named), ("timm_model_name", trunk)):
        if isinstance(value, str) and value:
            name = value.removeprefix("hf-hub:").removeprefix("timm/").split(".")[0]
            yield _Name(field, name, is_architecture(name))
    kind, classes = config.get("model_type"), config.get("architectures")
    if isinstance(kind, str) and kind:
        is_known = any(kind in layout.model_types for layout in layouts.LAYOUTS)
        yield _Name("model_type", kind, is_known)
    elif isinstance(classes, list) and classes and not config.get("architecture"):
        name = str(classes[0])
        known = "|".join(layout.classes for layout in layouts.LAYOUTS if layout.classes)
        yield _Name("architectures", name, re.match(f"({known})[A-Z]", name) is not None)


def is_architecture(name: str) -> bool:
    """Whether this is an architecture of timm that a layout reads."""
    patterns = (layout.architectures for layout in layouts.LAYOUTS if layout.architectures)
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def check_tensors(
    state: Mapping[str, Tensor], *, is_named: bool = False, forced: bool = False
) -> None:
    """Raise CheckpointError for the tensors of a model that no layout reads.

    Signs that are not sure are ignored if a config names the model (`is_named`) or the user chose
    the layout (`forced`).
    """
    stripped = {plain: name for name, plain in plain_names(state).items()}
    lines = "\n".join(stripped)
    for row in foreign.ROWS:
        if (is_named or forced) and not row.is_sure:
            continue
        for signs in row.tensors:
            matched = _shown(signs, lines)
            if matched is not None:
                shape = list(state[stripped[matched]].shape)
                raise CheckpointError(f"this is {row.what} ({stripped[matched]} {shape})", row.hint)


def _shown(signs: str, names: str) -> str | None:
    """The first name that a sign matches; None if a part of the sign does not apply. `names` has
    one name a line."""
    shown = None
    for sign in signs.split():
        match = _line(sign.removeprefix("!")).search(names)
        if (match is None) != sign.startswith("!"):
            return None
        shown = shown or (match and match[0])
    return shown


@cache
def _line(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:{pattern})$", re.MULTILINE)


def _check_file(file: Path, names: Collection[str]) -> None:
    """Raise CheckpointError for a file without a config whose tensors fit two models: if its name
    is that of the other model, or if it has DeiT-III's tensors in a format in which DeiT-III is not
    published."""
    if match := _FILES.search(file.stem):
        raise CheckpointError(
            f"{file.name} is called {match[2]}: its model may have rotary positions (RoPE), which "
            "leave no tensor",
            "if it is a plain ViT, --layout timm reads it (or deit, dinov2)",
        )
    if "blocks.0.gamma_1" in names and file.suffix in (".safetensors", ".bin"):
        raise CheckpointError(
            f"{file.name} may be a DeiT-III or a RoPE-ViT: both have these tensors "
            "(blocks.0.gamma_1), and no config.json says which",
            "give the folder with its config.json; --layout deit reads it as a DeiT-III",
        )
