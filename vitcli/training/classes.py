"""The classes of examples: split them, check that they can be learnt, and match them with the
labels of a model."""

from __future__ import annotations

import ast
import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from vitcli.errors import InputError, is_utf8, listed, printable
from vitcli.training.example import Example
from vitcli.training.parts import first_few

SEPARATORS = (";", "|", ",")  # of the labels in a cell
YES, NO = ("1", "true", "yes"), ("0", "false", "no")  # for a model with a single output


def divide(
    examples: Sequence[Example],
    share: float,
    seed: int,
    note: Callable[[str], None] = lambda text: None,
    *,
    labelled: bool = True,
) -> list[Example]:
    """Return every example with a split: the data's own, else a random one that holds out the same
    share of each class, and at least one image of a class with two or more.

    Raises InputError for data that cannot be learnt.
    """
    divided = list(examples) if is_divided(examples) else _drawn(examples, share, seed)
    if labelled:
        check_learnable(divided, note)
    return divided


def is_divided(examples: Sequence[Example]) -> bool:
    """Whether every example belongs to a part of the data: to train or val, and both exist."""
    return {example.split for example in examples} == {"train", "val"}


def _drawn(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.label, []).append(place)
    draw = np.random.RandomState(seed)  # its streams are frozen by numpy
    held: set[int] = set()
    for label in sorted(places, key=os.fsencode):
        of_class = places[label]
        count = min(len(of_class) - 1, max(1, round(share * len(of_class)))) if share else 0
        held |= {of_class[i] for i in draw.permutation(len(of_class))[:count]}
    return [
        replace(example, split="val" if place in held else "train")
        for place, example in enumerate(examples)
    ]


def check_learnable(examples: Sequence[Example], note: Callable[[str], None]) -> None:
    """Raise InputError for classes that cannot be learnt; note classes without held-out images."""
    if foreign := [label for label in {e.label for e in examples} if not is_utf8(label)]:
        raise InputError(
            f"the name of class {printable(min(foreign))} is not UTF-8",
            "save the table as UTF-8, or rename the folder: a model's labels are UTF-8",
        )
    train = Counter(e.label for e in examples if e.split == "train")
    val = Counter(e.label for e in examples if e.split == "val")
    if not train:
        raise InputError("there are no images to train on")
    if len(train) == 1:
        raise InputError(
            f"there is only one class, {printable(next(iter(train)))}",
            "expected two classes or more, with a folder for each",
        )
    if unknown := [label for label in val if label not in train]:
        raise InputError(
            f"val has {first_few(unknown)}, which train does not: a model cannot answer "
            "with a class that it was not trained on",
            "the folders of train and val must have the same names",
        )
    if untested := [label for label in train if val and label not in val]:
        singles = [label for label in untested if train[label] == 1]
        if singles:
            note(f"{first_few(singles)}: one image each, trained on and never tested")
        if others := [label for label in untested if label not in singles]:
            note(f"val has no images of {first_few(others)}: never tested")


def class_names(examples: Iterable[Example]) -> tuple[str, ...]:
    """The names by class number: sorted by value if all are numbers, else bytewise."""
    names = {example.label for example in examples}
    if all(map(_is_number, names)):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names, key=os.fsencode))


def match_classes(names: Sequence[str], labels: Sequence[str], model: str) -> dict[str, int]:
    """Find the model's number of each class of the data: by the exact name, else by the name or a
    synonym of ImageNet's labels without regard to case, `_` and `-`, else by the number.

    Raises InputError, with the closest label, for a class that the model does not have.
    """
    numbers, known = _by_name(names, labels)
    missing = [name for name in names if name not in numbers]
    if not numbers and all(_is_number(name) and int(name) < len(labels) for name in names):
        return {name: int(name) for name in names}
    if missing:
        near = difflib.get_close_matches(_plain(missing[0]), known, 1, 0.5)
        closest = f"the closest to {printable(missing[0])} is {near[0]!r}" if near else ""
        few = listed(labels, 4)
        raise InputError(
            f"{model} has no class {first_few(missing)}",
            "; ".join(filter(None, (closest, f"its {len(labels)} labels are {few}"))),
        )
    return numbers


def match_several(
    named: Sequence[tuple[str, ...]], labels: Sequence[str], model: str
) -> list[list[int]]:
    """Find the model's numbers of the labels of each image, by the rules of `match_classes`. A text
    that is not a label is split at one of SEPARATORS or at spaces, or read as a list in brackets.

    Raises InputError for labels that the model does not have.
    """
    splits = {text: _splits(text) for names in named for text in names}
    pieces = {piece for ways in splits.values() for way in ways for piece in way}
    known, _ = _by_name(sorted(pieces), labels)
    if not known:
        known = {p: int(p) for p in pieces if _is_number(p) and int(p) < len(labels)}
    read = {
        text: next((way for way in ways if known.keys() >= set(way)), ways[-1])
        for text, ways in splits.items()
    }
    used = sorted({name for names in read.values() for name in names})
    numbers = match_classes(used, labels, model)
    return [sorted({numbers[n] for text in names for n in read[text]}) for names in named]


def is_list(text: str) -> bool:
    """Whether a text looks like several labels."""
    return any(separator in text for separator in SEPARATORS)


def _splits(text: str) -> list[list[str]]:
    """The ways to read a text as names, the likely ones first; the last is for unknown names."""
    if text.startswith("[") and text.endswith("]"):
        try:
            read = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            read = None
        if isinstance(read, list):
            return [[str(name).strip() for name in read]]
    at = [separator for separator in SEPARATORS if separator in text]
    ways = [[text], *(text.split(separator) for separator in at), text.split()]
    ways = [[piece.strip() for piece in way if piece.strip()] for way in ways]
    return [*ways, ways[1] if at else ways[0]]


def match_answers(
    names: Sequence[str], labels: Sequence[str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Match classes as `match_classes` does, with the labels that occur in answers. A class that no
    answer has gets the next number. Return the numbers and all labels."""
    numbers, _ = _by_name(names, labels)
    known = list(labels)
    for name in names:
        if name not in numbers and _is_number(name) and int(name) < len(labels):
            numbers[name] = int(name)
        elif name not in numbers:
            numbers[name] = len(known)
            known.append(name)
    return numbers, tuple(known)


def _by_name(names: Sequence[str], labels: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """The number of each name that equals a label or resembles exactly one, and the normalised
    labels."""
    exact = {label: index for index, label in reversed(list(enumerate(labels)))}
    loose: dict[str, set[int]] = {}
    for index, label in enumerate(labels):
        for synonym in {label, *label.split(",")}:
            loose.setdefault(_plain(synonym), set()).add(index)
    numbers = {}
    for name in names:
        places = loose.get(_plain(name), set())
        if name in exact:
            numbers[name] = exact[name]
        elif len(places) == 1:
            numbers[name] = next(iter(places))
    return numbers, list(loose)


def _is_number(name: str) -> bool:
    """Whether a name is a class number: fewer than 20 digits."""
    return name.isdecimal() and len(name) < 20


def match_one_class(
    names: Sequence[str], label: str, model: str
) -> tuple[tuple[str, str], dict[str, int]]:
    """Return the two classes of a model with a single output, its own first, and the number of each
    class of the data; 1 and 0 stand for them, too. Raises InputError for data with other
    classes."""
    if are_flags(names) and label not in names:
        return (label, f"not {label}"), {name: int(_plain(name) in NO) for name in names}
    named = [name for name in names if name == label]
    named = named or [name for name in names if _plain(name) in map(_plain, label.split(","))]
    others = [name for name in names if name not in named]
    if len(named) != 1 or len(others) > 1:
        raise InputError(
            f"{model} tells {printable(label)} from everything else, and the data have "
            f"{first_few(names)}",
            f"expected a class {printable(label)} and a class of all other images; --labels FILE "
            "gives the output another name",
        )
    other = others[0] if others else f"not {label}"
    return (label, other), {named[0]: 0} | dict.fromkeys(others, 1)


def are_flags(names: Sequence[str]) -> bool:
    """Whether the names of classes are only yes and no, or 1 and 0."""
    return all(_plain(name) in YES + NO for name in names)


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
