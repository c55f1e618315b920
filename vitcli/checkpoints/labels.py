"""The names of a classifier's outputs: from the config, from a file, or ImageNet's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from vitcli.checkpoints.label_files import by_number, names_from
from vitcli.checkpoints.layouts.layout import Json
from vitcli.errors import CheckpointError

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Labels:
    """One name for each output of the head, their source, and notes for the user."""

    names: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()


def read_labels(config: Json, num_classes: int, file: Path | None) -> Labels:
    """Read the labels of a head with `num_classes` outputs. Raises CheckpointError if there is
    another number of labels."""
    labels = _read_labels(config, num_classes, file)
    return replace(labels, names=tuple(map(_whole, labels.names)))


def _read_labels(config: Json, num_classes: int, file: Path | None) -> Labels:
    if file is not None:
        by_index = names_from(file)
        names = tuple(by_index.get(i, f"LABEL_{i}") for i in range(max(by_index, default=-1) + 1))
        _check_count(names, num_classes, str(file))
        return Labels(names, str(file))
    unnamed = tuple(f"LABEL_{i}" for i in range(num_classes))
    for key in ("id2label", "label_names", "labels"):
        if config.get(key):
            labels = _from_config(config[key], num_classes, f"config.json: {key}")
            if labels.names != unnamed:  # transformers writes these placeholders for unknown names
                return labels
    if num_classes == 1000 and "in1k" in _tag(config):
        return Labels(_imagenet_1k(), "ImageNet-1k, by the checkpoint's tag")
    if num_classes == 1000 and not config:
        note = "a bare file names no classes: its 1000 are taken for ImageNet-1k's (--labels FILE)"
        return Labels(_imagenet_1k(), "ImageNet-1k, by their number", (note,))
    note = "the checkpoint has no labels: classes are called LABEL_0 ... (--labels FILE names them)"
    return Labels(unnamed, "none", (note,))


def _imagenet_1k() -> tuple[str, ...]:
    text = files("vitcli.checkpoints").joinpath("imagenet_1k.txt").read_text("utf-8")
    return tuple(text.splitlines())


def _from_config(value: object, num_classes: int, source: str) -> Labels:
    by_index = by_number(value, source)
    extra = [index for index in by_index if not 0 <= index < num_classes]
    if extra:
        raise CheckpointError(
            f"the head has {num_classes} outputs, {source} names {len(by_index)}",
            "give the right names with --labels FILE",
        )
    gaps = num_classes - len(by_index)
    notes = (f"{source} leaves {gaps} of {num_classes} classes without a name",) if gaps else ()
    names = tuple(by_index.get(i, f"LABEL_{i}") for i in range(num_classes))
    return Labels(names, source, notes)


def _whole(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def _check_count(names: Sequence[str], num_classes: int, source: str) -> None:
    if len(names) != num_classes:
        raise CheckpointError(
            f"the head has {num_classes} outputs, {source} has {len(names)}",
            f"give {num_classes} names, one per line, in the order of the outputs",
        )


def _tag(config: Json) -> str:
    """The tag of a timm config, such as `augreg_in1k`, from each key that may hold it."""
    inner = config.get("pretrained_cfg") or {}
    name = str(config.get("architecture", ""))
    return f"{inner.get('tag', '')} {config.get('tag', '')} {name.partition('.')[2]}"
