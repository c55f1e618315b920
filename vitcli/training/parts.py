"""Decide whether the folders of a data set are classes, or parts such as train and val."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from vitcli.errors import InputError, printable

Split = Literal["train", "val"]
DataPart = Literal["train", "val", "test"]
WORDS: dict[str, DataPart] = {  # of several folders for a part, the first is used
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "devel": "val",
    "development": "val",
    "holdout": "val",
    "heldout": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
}
_FILLERS = "data|dataset|set|images?|imgs?|pics?|pictures?|photos?|files?|folder|dir|split|part|seg"
_AROUND = re.compile(rf"^(?:(?:{_FILLERS})[ _.-]*)+(?=.)|[ _.-]*(?:{_FILLERS}|\d+)$")
_FORMS = (
    "expected DATA/<class>/*.jpg, or DATA/train/<class>/*.jpg and DATA/val/<class>/*.jpg; "
    "a .csv of path,label,split can describe any other layout"
)


def part_named(name: str) -> DataPart | None:
    """The part of a data set that a name stands for: `Train`, `valid`, `test_images`."""
    plain = name.strip().casefold()
    if plain.replace("-", "").replace("_", "").replace(" ", "") in ("holdout", "heldout"):
        return "val"
    while plain not in WORDS:
        shorter = _AROUND.sub("", plain)
        if shorter == plain:
            return None
        plain = shorter
    return WORDS[plain]


def part_of_archive(path: str) -> DataPart | None:
    """The part that an archive is named after: `train-000.tar`, `imagenet-val-000007.tar`."""
    words = re.split(r"[-_. ]+", os.path.basename(path).casefold())
    parts = {WORDS[word] for word in words if word in WORDS}
    return next(iter(parts)) if len(parts) == 1 else None


def split_named(name: str) -> Split | None:
    """The part that a name stands for, with test counted as val."""
    part = part_named(name)
    return "val" if part == "test" else part


def is_same_part(name: str, inner: str) -> bool:
    """Whether two names stand for the same part."""
    return part_named(name) is not None and part_named(name) == part_named(inner)


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A folder of a data set: the subfolders that hold images, whether images lie directly in it,
    and whether its images have label files or lie in archives."""

    name: str
    folders: tuple[str, ...] = ()
    has_images: bool = False
    is_labelled: bool = False

    @property
    def has_classes(self) -> bool:
        return bool(self.folders) or self.is_labelled


def parts_of(
    data: str, folders: Sequence[DataFolder], note: Callable[[str], None]
) -> list[tuple[Split | None, str]] | None:
    """The folders to use and the split of each; None if every folder is a class.

    Raises InputError for a mixture of parts and classes.
    """
    where = printable(data)
    marked = {f.name: part for f in folders if (part := part_named(f.name)) is not None}
    if any(f.name.casefold() == "invalid" for f in folders):  # then "valid" is a class, too
        marked = {name: part for name, part in marked.items() if name.casefold() != "valid"}
    if not marked:
        _check_not_parts(where, folders)
        return None
    parts = sorted((f for f in folders if f.name in marked), key=lambda f: _rank(f.name))
    usable = [f for f in parts if f.has_classes]
    train = [f for f in usable if marked[f.name] == "train"]
    held = [f for f in usable if marked[f.name] != "train"]
    others = [f.name for f in folders if f.name not in marked]
    looks = f"{where}: {first_few(list(marked))} {_looks_like_parts(len(marked))} of the data"
    if others and not (train and held):
        raise InputError(
            f"{looks}, {first_few(others)} like {'classes' if len(others) > 1 else 'a class'}",
            f"{_FORMS}. If all of them are classes, rename {first_few(list(marked))}; "
            f"if {first_few(others)} {'do' if len(others) > 1 else 'does'} not belong to the data, "
            f"name the folder to use",
        )
    if not usable:
        raise InputError(f"{looks}, but without folders of classes", _FORMS)
    why: dict[str, str] = {f.name: "its images are not in folders of classes" for f in parts}
    used: list[tuple[Split | None, DataFolder]] = []
    if train:
        why |= {f.name: f"{train[0].name}/ is used" for f in train}
        classes = set(train[0].folders)
        for other in [f for f in held if marked[f.name] == "test"]:
            if classes and other.folders and classes.isdisjoint(other.folders):
                held.remove(other)
                why[other.name] = f"none of its folders is a class of {train[0].name}/"
        used = [(None, train[0])]
    if held:
        why |= {f.name: f"{held[0].name}/ is used" for f in held}
        used = [("train", train[0]), ("val", held[0])] if train else [(None, held[0])]
    for folder in folders:
        if folder not in [f for _, f in used]:
            reason = why.get(folder.name, "its name is neither train nor val")
            note(f"{printable(os.path.join(data, folder.name))} is left out: {reason}")
    if [f.name for _, f in used] not in (["train", "val"], ["train"]):
        meant = {"train": "trained on", "val": "held out", None: "used as all of the data"}
        meanings = ", ".join(f"{printable(f.name)}/ is {meant[split]}" for split, f in used)
        note(f"{where}: {meanings}")
    return [(split, folder.name) for split, folder in used]


def _check_not_parts(where: str, folders: Sequence[DataFolder]) -> None:
    """Raise InputError if the folders seem to be parts despite their names: if all hold the same
    subfolders, or if one holds only folders and the others only images."""
    if len(folders) < 2 or any(f.is_labelled for f in folders):
        return
    nested = [f for f in folders if len(f.folders) > 1 and not f.has_images]
    flat = [f for f in folders if f.has_images and not f.folders]
    has_parts = any(part_named(name) is not None for f in nested for name in f.folders)
    if (len(nested), len(flat)) == (1, len(folders) - 1) and (has_parts or len(folders) == 2):
        raise InputError(
            f"{where}: {first_few([f.name for f in nested])} holds folders, "
            f"{first_few(sorted(nested[0].folders, key=os.fsencode))}, and "
            f"{first_few([f.name for f in flat])} only images: which are the classes?",
            f"name the folder to use; {_FORMS}",
        )
    if any(f.has_images for f in folders):
        return
    every = [set(f.folders) for f in folders]
    common = set.intersection(*every)
    are_parts = bool(common) and all(part_named(name) is not None for name in common)
    if not are_parts and (len(common) < 2 or 2 * len(common) < len(set.union(*every))):
        return
    names, shared = first_few([f.name for f in folders]), first_few(sorted(common, key=os.fsencode))
    guess = (
        "the parts of the data lie within the classes" if are_parts else "are these the classes?"
    )
    raise InputError(f"{where}: {names} all hold the same folders, {shared}: {guess}", _FORMS)


def _rank(name: str) -> tuple[int, int, bytes]:
    """The sort key for train, val, test; within a part, in the order of WORDS, then other names."""
    plain = name.casefold()
    place = list(WORDS).index(plain) if plain in WORDS else len(WORDS)
    return ("train", "val", "test", None).index(part_named(name)), place, os.fsencode(name)


def _looks_like_parts(count: int) -> str:
    return "look like parts" if count > 1 else "looks like a part"


def first_few(names: Sequence[str]) -> str:
    """The first five names, and the number of the others."""
    named = ", ".join(printable(name) for name in names[:5])
    return f"{named} and {len(names) - 5} more" if len(names) > 5 else named
