"""A labelled data set into examples: a folder for each class, tars or zips with folders or labels
beside the images, or a table of paths and labels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from errno import ENOENT
from functools import lru_cache
from pathlib import Path

from vitcli.errors import CheckpointError, InputError, printable
from vitcli.images.archives import is_archive
from vitcli.images.scan import Scan
from vitcli.images.sources import DirectorySource
from vitcli.images.system import is_system
from vitcli.images.tables import TABLE as PARQUET
from vitcli.images.tree import Tree
from vitcli.records import FoundImage, Member
from vitcli.training.folders import (
    Folder,
    Kind,
    Split,
    kind_of,
    kind_of_archive,
    parts_of,
    split_of,
)
from vitcli.training.packed import Packed, archives_of, iter_packed, member_of
from vitcli.training.state import START_OVER
from vitcli.training.tables import TABLES, LabelTable

SPLIT = "split.jsonl"  # in the directory of a run
NESTED = 4  # folders down to that with the parts
EXPECTED = "expected DATA/<class>/*.jpg, tars or zips of <class>/*.jpg or of *.jpg with *.cls"


@dataclass(frozen=True, slots=True)
class Example:
    """One image, the name of its class (empty where there are none), its part of the data, and
    where it is if that is in an archive."""

    path: str
    label: str
    split: Split | None = None
    member: Member | None = None

    @property
    def found(self) -> FoundImage:
        return FoundImage(self.path, self.member)


def read_examples(
    data: str,
    scan: Scan,
    note: Callable[[str], None] = lambda text: None,
    *,
    labelled: bool = True,
    allow_outside: bool = False,
) -> list[Example]:
    """The examples of a folder `DATA/<class>/*`, of `DATA/train/<class>/*` with `DATA/val/...` or
    alone, of tars and zips (those in a folder, of a pattern, or one), or of a CSV, TSV or JSONL of
    path, label and perhaps split, in the order found there.

    Paths in a table are relative to its folder, and below it unless `allow_outside`. Where no
    labels are asked for, every image below the folder counts. Raises InputError for what has no
    labels.
    """
    _check_listed(data)
    if os.path.isdir(data) and not labelled:
        source = DirectorySource(data, replace(scan, suffixes=scan.suffixes | {".tar", ".zip"}))
        source.check()
        return [example for path in source.paths() for example in _unlabelled(path, scan)]
    archives = archives_of(data)
    if archives and not (os.path.isdir(data) and _subfolders(data)):
        return _of_archives(data, archives, scan, note, labelled=labelled)
    if os.path.isdir(data):
        return _of_folder(data, scan, note)
    if data.lower().endswith(PARQUET):
        raise InputError(
            f"{printable(data)}: labels are not read from Parquet",
            "write its images into a folder for each class, or into tars with a .cls beside each",
        )
    if not os.path.exists(data):
        raise InputError(f"no such folder or file: {printable(data)}")
    if os.path.splitext(data)[1].lower() not in TABLES:
        raise InputError(
            f"{printable(data)} is neither a folder, nor an archive, nor a table",
            f"{EXPECTED}, or a .csv, .tsv or .jsonl of path and label",
        )
    examples = _of_table(data, scan, note, labelled=labelled, allow_outside=allow_outside)
    if not examples:
        raise InputError(f"{printable(data)} lists no images")
    return examples


def _check_listed(data: str) -> None:
    """Raises InputError for a folder that may not be looked into."""
    if os.path.isdir(data):
        try:
            os.scandir(data).close()
        except OSError as error:
            raise InputError(f"cannot list {printable(data)}: {error.strerror}") from None


def _unlabelled(path: str, scan: Scan) -> Iterator[Example]:
    """An image, or all that are in an archive."""
    if is_archive(path):
        yield from (
            Example(found.path, "", member=found.member) for found in iter_packed(path, scan)
        )
    else:
        yield Example(path, "")


def _of_folder(data: str, scan: Scan, note: Callable[[str], None]) -> list[Example]:
    root = _root(data, scan)
    if root != data:
        note(f"{printable(data)} holds {printable(os.path.relpath(root, data))} alone: it is taken")
    _tell_system(root, scan)
    found = _looked(root, scan)
    for name in set(_subfolders(root)) - {folder.name for folder in found}:
        if kind_of(name) is not None:
            note(f"{printable(os.path.join(root, name))} is left out: it has no images")
    parts = parts_of(root, found, note)
    if parts is None:
        return list(_classes(root, None, scan, note))
    return [
        example
        for split, name in parts
        for example in _part(os.path.join(root, name), split, scan, note)
    ]


def _root(data: str, scan: Scan) -> str:
    """The folder with the parts, where DATA holds nothing but the folder that they are in."""
    inner = data
    for _ in range(NESTED):
        found = _looked(inner, scan)
        if any(kind_of(folder.name) and folder.has_classes for folder in found):
            return inner
        if len(found) != 1 or kind_of(found[0].name):
            return data
        inner = os.path.join(inner, found[0].name)
    return data


def _innermost(folder: str) -> str:
    """`seg_train/seg_train` for `seg_train`, where it is packed like that."""
    names = _subfolders(folder)
    is_twice = len(names) == 1 and _is_same_part(os.path.basename(folder), names[0])
    return os.path.join(folder, names[0]) if is_twice else folder


def _is_same_part(name: str, inner: str) -> bool:
    return kind_of(name) is not None and kind_of(name) == kind_of(inner)


def _tell_system(folder: str, scan: Scan) -> None:
    for name in filter(is_system, os.listdir(folder)):
        scan.omissions.system.append(os.path.join(folder, name))


def _looked(data: str, scan: Scan) -> list[Folder]:
    """The folders in a folder, but for those without images."""
    scan = scan.silent
    found: list[Folder] = []
    for name in _subfolders(data):
        path, is_part = os.path.join(data, name), kind_of(name) is not None
        try:
            inner, is_loose = _subfolders(path), _is_loose(path, scan)
            packed = is_part and bool(archives_of(path))
        except OSError as error:
            if is_part:
                raise InputError(f"cannot list {printable(path)}: {error.strerror}") from None
            found.append(Folder(name, is_loose=True))
            continue
        if is_part:
            inner = _subfolders(path := _innermost(path))
            inner = [n for n in inner if not Tree.below(os.path.join(path, n), scan).is_empty()]
        if is_loose or packed or (inner and not Tree.below(path, scan).is_empty()):
            found.append(Folder(name, tuple(inner), is_loose, packed))
    return found


def _is_loose(folder: str, scan: Scan) -> bool:
    with os.scandir(folder) as entries:
        return any(
            os.path.splitext(entry.name)[1].lower() in scan.suffixes
            and not entry.name.startswith(".")
            for entry in entries
        )


def _part(
    folder: str, split: Split | None, scan: Scan, note: Callable[[str], None]
) -> Iterable[Example]:
    folder = _innermost(folder)
    if not _subfolders(folder) and (archives := archives_of(folder)):
        examples = _of_archives(folder, archives, scan, note)
        return [replace(example, split=split) for example in examples]
    _tell_system(folder, scan)
    if parts_of(folder, _looked(folder, scan), lambda text: None) is not None:
        raise InputError(
            f"{printable(folder)} holds parts of the data within a part of it", EXPECTED
        )
    return _classes(folder, split, scan, note)


def _of_archives(
    data: str,
    archives: Sequence[str],
    scan: Scan,
    note: Callable[[str], None],
    *,
    labelled: bool = True,
) -> list[Example]:
    """The label is what a file beside the image says, else the first folder, not counting one that
    all images are in, nor `train` and `val` where there are both."""
    kinds = {kind_of_archive(archive) for archive in archives}
    if labelled and None not in kinds and "train" in kinds and len(kinds) > 1:
        return _of_shards(data, archives, scan, note)
    images = [image for archive in archives for image in iter_packed(archive, scan)]
    if not images:
        looked = " ".join(sorted(scan.members))
        raise InputError(f"no images in {printable(data)}", f"looked for {looked}")
    if not labelled:
        return [Example(image.path, "", member=image.member) for image in images]
    folders = [image.folders for image in images]
    while len({names[:1] for names in folders}) == 1 and _can_go(images, folders):
        folders = [names[1:] for names in folders]
    folders = [n[1:] if len(n) > 1 and _is_same_part(*n[:2]) else n for n in folders]
    tops = _tops(images, folders)
    are_labelled = all(image.label is not None for image in images)
    parts = None
    if not are_labelled or all(kind_of(top.name) for top in tops):
        parts = parts_of(data, tops, note)
    split_in: dict[str, Split | None] = {name: split for split, name in parts or ()}
    examples: list[Example] = []
    for image, names in zip(images, folders, strict=True):
        if parts is not None and (not names or names[0] not in split_in):
            continue
        label = image.label or next(iter(names[parts is not None :]), None)
        if label is not None:
            split = split_in[names[0]] if parts is not None else None
            examples.append(Example(image.path, label, split, image.member))
    if not examples:
        raise InputError(
            f"none of the {len(images):,} images in {printable(data)} has a label", EXPECTED
        )
    if stray := len(images) - len(examples):
        note(f"{printable(data)}: {stray:,} images without a folder or a label are left out")
    return examples


def _of_shards(
    data: str, archives: Sequence[str], scan: Scan, note: Callable[[str], None]
) -> list[Example]:
    """Archives that are called after the parts of the data: `train-000.tar` and `val-000.tar`."""
    of_kind: dict[Kind | None, list[str]] = {}
    for archive in archives:
        of_kind.setdefault(kind_of_archive(archive), []).append(archive)
    held: Kind = "val" if "val" in of_kind else "test"
    told = f"{len(of_kind['train'])} archives of train, {len(of_kind[held])} of {held} to hold out"
    if held == "val" and "test" in of_kind:
        told += f"; the {len(of_kind['test'])} of test are left out"
    note(f"{printable(data)}: {told}")
    parts: tuple[tuple[Split, Kind], ...] = (("train", "train"), ("val", held))
    return [
        replace(example, split=split)
        for split, kind in parts
        for example in _of_archives(data, of_kind[kind], scan, note)
    ]


def _tops(images: Sequence[Packed], folders: Sequence[tuple[str, ...]]) -> list[Folder]:
    """The first folders, and what is in them."""
    found: dict[str, tuple[set[str], list[Packed]]] = {}
    for image, names in zip(images, folders, strict=True):
        if names:
            inner, loose = found.setdefault(names[0], (set(), []))
            inner.update(names[1:2])
            if len(names) == 1:
                loose.append(image)
    return [
        Folder(
            name,
            tuple(sorted(inner)),
            is_loose=bool(loose),
            is_labelled=any(image.label is not None for image in loose),
        )
        for name, (inner, loose) in found.items()
    ]


def _can_go(images: Sequence[Packed], folders: Sequence[tuple[str, ...]]) -> bool:
    """Whether every image has a label without its first folder."""
    pairs = zip(images, folders, strict=True)
    return all(len(names) > (image.label is None) for image, names in pairs)


def _classes(
    folder: str, split: Split | None, scan: Scan, note: Callable[[str], None]
) -> Iterator[Example]:
    """The images of every subfolder, which is their class."""
    names = _subfolders(folder)
    if not names:
        raise InputError(
            f"{printable(folder)} has no folders of classes",
            f"{EXPECTED}, or a .csv or .jsonl of path and label",
        )
    stray = sum(os.path.splitext(name)[1].lower() in scan.suffixes for name in os.listdir(folder))
    if stray:
        note(f"{printable(folder)}: {stray} images outside of the folders of classes are left out")
    count = 0
    for name in names:
        paths = list(DirectorySource(os.path.join(folder, name), scan).paths())
        if not paths:
            note(f"class {printable(name)} is left out: {printable(folder)}/{name} has no images")
        yield from (Example(path, name, split) for path in paths)
        count += len(paths)
    if not count:
        looked = " ".join(sorted(scan.suffixes))
        raise InputError(f"no images below {printable(folder)}", f"looked for {looked}")


def _subfolders(folder: str) -> list[str]:
    """Visible folders, bytewise."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".") and not is_system(entry.name)
        ]
    return sorted(names, key=os.fsencode)


def _of_table(
    data: str, scan: Scan, note: Callable[[str], None], *, labelled: bool, allow_outside: bool
) -> list[Example]:
    table = LabelTable(data, scan.suffixes, labelled, allow_outside, note)
    rows = table.rows()
    kinds = {row.kind for row in rows}
    if {"val", "test"} <= kinds:
        count = sum(row.kind == "test" for row in rows)
        note(f"{printable(data)}: {count:,} images of test are left out: those of val are taken")
        rows = [row for row in rows if row.kind != "test"]
    archives: dict[str, dict[str, Member]] = {}
    return [
        Example(row.path, row.label, split_of(row.kind or ""), member_of(row.path, scan, archives))
        for row in rows
    ]


def read_split(file: Path, scan: Scan) -> list[Example]:
    """What `write_split` wrote. Raises CheckpointError for anything else."""
    archives: dict[str, dict[str, Member]] = {}
    found: list[Example] = []
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
                    found.append(Example(path, label, split, member))
                case _:
                    raise ValueError("another shape")
        if not found or not text.endswith("\n"):
            raise ValueError("cut off")
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or f"line {number} is not as it was written"
        raise CheckpointError(
            f"cannot read {printable(str(file))}: {why}",
            START_OVER,
        ) from None
    return found


def trained_on(file: Path) -> set[str]:
    """The places of the images that the run of a split table was trained on; none where it is
    damaged."""
    found: set[str] = set()
    try:
        with file.open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                row = json.loads(line)
                if isinstance(row, dict) and row.get("split") == "train":
                    found.add(place_of(str(row.get("path"))))
    except (OSError, ValueError, RecursionError):
        return set()
    return found


def place_of(path: str) -> str:
    """The identity of an image, however its path is spelled: links are followed. The folders of
    many images are looked at once."""
    folder, name = os.path.split(path)
    return os.path.realpath(path) if os.path.islink(path) else f"{_real_folder(folder)}/{name}"


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def write_split(file: Path, examples: Iterable[Example]) -> None:
    """A table that `read_examples` reads, with absolute paths."""
    lines = (
        json.dumps(
            {"path": _absolute(e), "label": e.label, "split": e.split},
            ensure_ascii=False,
        )
        for e in examples
    )
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8", errors="surrogateescape")


def _absolute(example: Example) -> str:
    """What is within an archive is called as it is there."""
    if example.member is None:
        return os.path.abspath(example.path)
    archive = example.member.archive
    return os.path.abspath(archive) + example.path.removeprefix(archive)
