"""The names of a classifier's outputs: from the config, from a file, or ImageNet's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from vitcli.checkpoints.layouts.layout import Json
from vitcli.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Labels:
    """One name for each output of the head, where they came from, and what was odd about them."""

    names: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()


def read_labels(config: Json, num_classes: int, file: Path | None) -> Labels:
    """The labels of a head with `num_classes` outputs. Raises CheckpointError on another count."""
    if file is not None:
        names = _from_file(file)
        _check_count(names, num_classes, str(file))
        return Labels(names, str(file))
    unnamed = tuple(f"LABEL_{i}" for i in range(num_classes))
    for key in ("id2label", "label_names", "labels"):
        if config.get(key):
            found = _from_config(config[key], num_classes, f"config.json: {key}")
            if found.names != unnamed:  # transformers writes placeholders where it knows no names
                return found
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
    if isinstance(value, Mapping):
        try:
            by_index = {int(key): str(name) for key, name in value.items()}
        except ValueError:
            raise CheckpointError(f"{source} has keys that are not numbers") from None
    elif isinstance(value, Sequence) and not isinstance(value, str):
        by_index = {i: str(name) for i, name in enumerate(value)}
    else:
        raise CheckpointError(f"{source} is {type(value).__name__}: expected names by number")
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


def _from_file(file: Path) -> tuple[str, ...]:
    """One name a line; or JSON, a list or an object by number."""
    try:
        text = file.read_text("utf-8-sig")
    except FileNotFoundError:
        raise CheckpointError(f"no such file: {file} (--labels)") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{file} (--labels) is not UTF-8 text") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file} (--labels): {error.strerror}") from None
    if file.suffix.lower() == ".json":
        try:
            value: Any = json.loads(text)
        except ValueError as error:
            raise CheckpointError(f"{file} (--labels) is not JSON: {error}") from None
        value = value.get("id2label", value) if isinstance(value, dict) else value
        count = len(value) if isinstance(value, list | dict) else 0
        return _from_config(value, count, str(file)).names
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _check_count(names: Sequence[str], num_classes: int, source: str) -> None:
    if len(names) != num_classes:
        raise CheckpointError(f"the head has {num_classes} outputs, {source} has {len(names)}")


def _tag(config: Json) -> str:
    """`augreg_in1k` of timm's config, whichever way it is written."""
    inner = config.get("pretrained_cfg") or {}
    name = str(config.get("architecture", ""))
    return f"{inner.get('tag', '')} {config.get('tag', '')} {name.partition('.')[2]}"
