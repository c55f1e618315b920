"""A labelled image, and `split.jsonl`, the table of the images of a training."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from errno import ENOENT
from functools import lru_cache
from pathlib import Path

from vitcli.errors import CheckpointError, printable
from vitcli.images.scan import Scan
from vitcli.records import FoundImage, Member
from vitcli.training.packed import member_of
from vitcli.training.parts import Split
from vitcli.training.state import START_OVER

SPLIT = "split.jsonl"  # in the directory of a run


@dataclass(frozen=True, slots=True)
class Example:
    """One image, the name of its class (empty without labels), its split, and its place in an
    archive. `labels` has the cells of a table whose images may have any number of labels; one cell
    may name several."""

    path: str
    label: str
    split: Split | None = None
    member: Member | None = None
    labels: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, whatever their number."""
        return (self.label,) if self.labels is None else self.labels

    @property
    def found(self) -> FoundImage:
        return FoundImage(self.path, self.member)


def write_split(file: Path, examples: Iterable[Example]) -> None:
    """Write a table with absolute paths, which `read_split` and `read_examples` can read."""
    rows = ({"path": _absolute(e), "label": e.label, "split": e.split} for e in examples)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_text(text, "utf-8", errors="surrogateescape")


def _absolute(example: Example) -> str:
    """The absolute path; the path within an archive stays unchanged."""
    if example.member is None:
        return os.path.abspath(example.path)
    archive = example.member.archive
    return os.path.abspath(archive) + example.path.removeprefix(archive)


def read_split(file: Path, scan: Scan) -> list[Example]:
    """Read the table that `write_split` wrote. Raises CheckpointError for any other file."""
    archives: dict[str, dict[str, Member]] = {}
    examples: list[Example] = []
    number = 0
    try:
        if not file.is_file():
            raise FileNotFoundError(ENOENT, "there is no such file")
        text = file.read_text("utf-8", errors="surrogateescape")
        for line in text.split("\n")[:-1]:
            number += 1
            match json.loads(line):
                case {"path": str(path), "label": str(label), "split": "train" | "val" as split}:
                    member = member_of(path, scan, archives)
                    examples.append(Example(path, label, split, member))
                case _:
                    raise ValueError("another shape")
        if not examples or not text.endswith("\n"):
            raise ValueError("cut off")
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or f"line {number} has changed since it was written"
        raise CheckpointError(f"cannot read {printable(str(file))}: {why}", START_OVER) from None
    return examples


def trained_on(file: Path) -> set[str]:
    """The real paths (see `place_of`) of the training images in a split table; empty if the table
    is damaged."""
    places: set[str] = set()
    try:
        with file.open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                row = json.loads(line)
                if isinstance(row, dict) and row.get("split") == "train":
                    places.add(place_of(str(row.get("path"))))
    except (OSError, ValueError, RecursionError):
        return set()
    return places


def place_of(path: str) -> str:
    """The path of an image without symbolic links; each folder is resolved only once."""
    folder, name = os.path.split(path)
    return os.path.realpath(path) if os.path.islink(path) else f"{_real_folder(folder)}/{name}"


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
