"""Read examples from a folder of class folders, or of parts (train, val) that hold them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from vitcli.errors import InputError, printable
from vitcli.images.scan import Scan
from vitcli.images.sources import DirectorySource
from vitcli.images.system import is_system
from vitcli.images.tree import Tree
from vitcli.training.example import Example
from vitcli.training.labelled_archives import EXPECTED, read_archives
from vitcli.training.packed import archives_of
from vitcli.training.parts import DataFolder, Split, is_same_part, part_named, parts_of

MAX_NESTING = 4  # of folders around the one that holds the parts


def read_folder(data: str, scan: Scan, note: Callable[[str], None]) -> list[Example]:
    """Read the examples of a folder. Raises InputError for one without classes."""
    root = _root(data, scan)
    if root != data:
        inner = printable(os.path.relpath(root, data))
        note(f"{printable(data)} holds only {inner}: it is used")
    _note_system(root, scan)
    folders = _data_folders(root, scan)
    for name in set(subfolders(root)) - {folder.name for folder in folders}:
        if part_named(name) is not None:
            note(f"{printable(os.path.join(root, name))} is left out: it has no images")
    parts = parts_of(root, folders, note)
    if parts is None:
        return list(_classes(root, None, scan, note))
    return [
        example
        for split, name in parts
        for example in _part(os.path.join(root, name), split, scan, note)
    ]


def subfolders(folder: str) -> list[str]:
    """The names of the visible folders in a folder, sorted bytewise."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".") and not is_system(entry.name)
        ]
    return sorted(names, key=os.fsencode)


def _root(data: str, scan: Scan) -> str:
    """The folder that holds the parts; `data` unless a chain of single folders leads there."""
    inner = data
    for _ in range(MAX_NESTING):
        folders = _data_folders(inner, scan)
        if any(part_named(folder.name) and folder.has_classes for folder in folders):
            return inner
        if len(folders) != 1 or part_named(folders[0].name):
            return data
        inner = os.path.join(inner, folders[0].name)
    return data


def _innermost(folder: str) -> str:
    """The folder that holds the classes: if `seg_train` holds only `seg_train`, the inner one."""
    names = subfolders(folder)
    is_twice = len(names) == 1 and is_same_part(os.path.basename(folder), names[0])
    return os.path.join(folder, names[0]) if is_twice else folder


def _note_system(folder: str, scan: Scan) -> None:
    for name in filter(is_system, os.listdir(folder)):
        scan.omissions.system.append(os.path.join(folder, name))


def _data_folders(data: str, scan: Scan) -> list[DataFolder]:
    """The folders in a folder that hold images."""
    scan = scan.silent
    folders: list[DataFolder] = []
    for name in subfolders(data):
        path, is_part = os.path.join(data, name), part_named(name) is not None
        try:
            inner, has_images = subfolders(path), _has_images(path, scan)
            packed = is_part and bool(archives_of(path))
        except OSError as error:
            if is_part:
                raise InputError(f"cannot list {printable(path)}: {error.strerror}") from None
            folders.append(DataFolder(name, has_images=True))
            continue
        if is_part:
            inner = subfolders(path := _innermost(path))
            inner = [n for n in inner if not Tree.below(os.path.join(path, n), scan).is_empty()]
        if has_images or packed or (inner and not Tree.below(path, scan).is_empty()):
            folders.append(DataFolder(name, tuple(inner), has_images, packed))
    return folders


def _has_images(folder: str, scan: Scan) -> bool:
    """Whether images lie directly in the folder."""
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
    if not subfolders(folder) and (archives := archives_of(folder)):
        examples = read_archives(folder, archives, scan, note)
        return [replace(example, split=split) for example in examples]
    _note_system(folder, scan)
    if parts_of(folder, _data_folders(folder, scan), lambda text: None) is not None:
        raise InputError(
            f"{printable(folder)} is a part of the data and holds parts itself", EXPECTED
        )
    return _classes(folder, split, scan, note)


def _classes(
    folder: str, split: Split | None, scan: Scan, note: Callable[[str], None]
) -> Iterator[Example]:
    """The images of each subfolder, labelled with the subfolder's name."""
    names = subfolders(folder)
    if not names:
        raise InputError(
            f"{printable(folder)} has no folders of classes",
            f"{EXPECTED}, or a .csv or .jsonl of path and label",
        )
    stray = sum(os.path.splitext(name)[1].lower() in scan.suffixes for name in os.listdir(folder))
    if stray:
        note(f"{printable(folder)}: {stray} images outside of the class folders are left out")
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
