"""Folders of a data set into what they mean: classes, or the parts for training and validation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from vitcli.errors import InputError, printable

Split = Literal["train", "val"]
Kind = Literal["train", "val", "test"]
WORDS: dict[str, Kind] = {  # in the order in which one is taken where there are several
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
    "a .csv of path,label,split can say anything else"
)


def kind_of(name: str) -> Kind | None:
    """The part of a data set that a folder is called after: `Train`, `valid`, `test_images`."""
    plain = name.strip().casefold()
    if plain.replace("-", "").replace("_", "").replace(" ", "") in ("holdout", "heldout"):
        return "val"
    while plain not in WORDS:
        shorter = _AROUND.sub("", plain)
        if shorter == plain:
            return None
        plain = shorter
    return WORDS[plain]


def kind_of_archive(path: str) -> Kind | None:
    """As `kind_of`, of an archive: `train-000.tar`, `imagenet-val-000007.tar`."""
    words = re.split(r"[-_. ]+", os.path.basename(path).casefold())
    kinds = {WORDS[word] for word in words if word in WORDS}
    return next(iter(kinds)) if len(kinds) == 1 else None


def split_of(name: str) -> Split | None:
    """As `kind_of`, for one who has no use for a third part."""
    kind = kind_of(name)
    return "val" if kind == "test" else kind


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a data set: the folders in it that hold images, whether images lie in it
    themselves, and whether its images have labels beside them or lie in archives."""

    name: str
    folders: tuple[str, ...] = ()
    is_loose: bool = False
    is_labelled: bool = False

    @property
    def has_classes(self) -> bool:
        return bool(self.folders) or self.is_labelled


def parts_of(
    data: str, found: Sequence[Folder], note: Callable[[str], None]
) -> list[tuple[Split | None, str]] | None:
    """The folders to take and what each is for; None where all of them are classes.

    Raises InputError, with what was understood, for what is neither the one nor the other.
    """
    where = printable(data)
    marked = {f.name: kind for f in found if (kind := kind_of(f.name)) is not None}
    if any(f.name.casefold() == "invalid" for f in found):  # then "valid" is a class, too
        marked = {name: kind for name, kind in marked.items() if name.casefold() != "valid"}
    if not marked:
        _check_not_parts(where, found)
        return None
    known = sorted((f for f in found if f.name in marked), key=lambda f: _rank(f.name))
    usable = [f for f in known if f.has_classes]
    train = [f for f in usable if marked[f.name] == "train"]
    held = [f for f in usable if marked[f.name] != "train"]
    others = [f.name for f in found if f.name not in marked]
    if others and not (train and held):
        raise InputError(
            f"{where}: {_few(list(marked))} {_looks(len(marked))} of the data, "
            f"{_few(others)} like {'classes' if len(others) > 1 else 'a class'}",
            f"{_FORMS}. If all of them are classes, rename {_few(list(marked))}; "
            f"if {_few(others)} {'do' if len(others) > 1 else 'does'} not belong to the data, "
            f"name the folder to use",
        )
    if not usable:
        raise InputError(
            f"{where}: {_few(list(marked))} {_looks(len(marked))} of the data, "
            "but without folders of classes",
            _FORMS,
        )
    taken: list[tuple[Split | None, Folder]] = []
    why: dict[str, str] = {f.name: "its images lie in no folders of classes" for f in known}
    if train:
        why |= {f.name: f"{train[0].name}/ is taken" for f in train}
        classes = {name for name in train[0].folders}
        for other in [f for f in held if marked[f.name] == "test"]:
            if classes and other.folders and classes.isdisjoint(other.folders):
                held.remove(other)
                why[other.name] = f"none of its folders is a class of {train[0].name}/"
        taken = [(None, train[0])]
    if held:
        why |= {f.name: f"{held[0].name}/ is taken" for f in held}
        taken = [("train", train[0]), ("val", held[0])] if train else [(None, held[0])]
    for folder in found:
        if folder not in [f for _, f in taken]:
            reason = why.get(folder.name, "it is called neither train nor val")
            note(f"{printable(os.path.join(data, folder.name))} is left out: {reason}")
    if [f.name for _, f in taken] not in (["train", "val"], ["train"]):
        meant = {"train": "trained on", "val": "held out", None: "taken for all of the data"}
        told = ", ".join(f"{printable(f.name)}/ is {meant[split]}" for split, f in taken)
        note(f"{where}: {told}")
    return [(split, folder.name) for split, folder in taken]


def _check_not_parts(where: str, found: Sequence[Folder]) -> None:
    """Raises InputError where all folders hold the same folders: those are the classes; and where
    one holds folders alone and the other pictures alone: a part without labels beside one with."""
    if len(found) < 2 or any(f.is_labelled for f in found):
        return
    nested = [f for f in found if len(f.folders) > 1 and not f.is_loose]
    loose = [f for f in found if f.is_loose and not f.folders]
    has_parts = any(kind_of(name) is not None for f in nested for name in f.folders)
    if (len(nested), len(loose)) == (1, len(found) - 1) and (has_parts or len(found) == 2):
        raise InputError(
            f"{where}: {_few([f.name for f in nested])} holds folders, "
            f"{_few(sorted(nested[0].folders, key=os.fsencode))}, and "
            f"{_few([f.name for f in loose])} pictures alone: which are the classes?",
            f"name the folder to use; {_FORMS}",
        )
    if any(f.is_loose for f in found):
        return
    every = [set(f.folders) for f in found]
    common = set.intersection(*every)
    are_parts = bool(common) and all(kind_of(name) is not None for name in common)
    if not are_parts and (len(common) < 2 or 2 * len(common) < len(set.union(*every))):
        return
    names, shared = _few([f.name for f in found]), _few(sorted(common, key=os.fsencode))
    said = "parts of the data lie within what looks like" if are_parts else "are these"
    end = "" if are_parts else "?"
    raise InputError(
        f"{where}: {names} all hold the same folders, {shared}: {said} the classes{end}", _FORMS
    )


def _rank(name: str) -> tuple[int, int, bytes]:
    """Train, val, test, and of each the words as they stand, those spelled otherwise last."""
    plain = name.casefold()
    place = list(WORDS).index(plain) if plain in WORDS else len(WORDS)
    return ("train", "val", "test", None).index(kind_of(name)), place, os.fsencode(name)


def _looks(count: int) -> str:
    return "look like parts" if count > 1 else "looks like a part"


def _few(names: Sequence[str]) -> str:
    named = ", ".join(printable(name) for name in names[:5])
    return f"{named} and {len(names) - 5} more" if len(names) > 5 else named
