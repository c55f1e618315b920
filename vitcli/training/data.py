"""A labelled data set into examples: a folder for each class, tars or zips with folders or labels
beside the images, or a table of paths and labels."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vitcli.errors import InputError, printable
from vitcli.images.archives import Found, is_archive
from vitcli.images.scan import Scan
from vitcli.images.sources import DirectorySource
from vitcli.images.tables import PATHS
from vitcli.images.tables import TABLE as PARQUET
from vitcli.records import Member
from vitcli.training.packed import Packed, archives_of, iter_packed, member_of

Split = Literal["train", "val"]
SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "test"),
}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
TABLES = (".csv", ".tsv", ".jsonl")
LABELS = ("label", "class", "class_name", "category")
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
    def found(self) -> Found:
        return self.path, self.member


def read_examples(
    data: str,
    scan: Scan,
    note: Callable[[str], None] = lambda text: None,
    *,
    labelled: bool = True,
) -> list[Example]:
    """The examples of a folder `DATA/<class>/*`, of `DATA/train/<class>/*` with `DATA/val/...` or
    alone, of tars and zips (those in a folder, of a pattern, or one), or of a CSV, TSV or JSONL of
    path, label and perhaps split, in the order found there.

    Paths in a table are relative to its folder. Where no labels are asked for, every image below
    the folder counts. Raises InputError for what has no labels.
    """
    _check_listed(data)
    if os.path.isdir(data) and not labelled:
        source = DirectorySource(data, replace(scan, suffixes=scan.suffixes | {".tar", ".zip"}))
        source.check()
        return [example for path in source for example in _unlabelled(path, scan)]
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
    examples = list(_of_table(Path(data), scan, labelled))
    if not examples:
        raise InputError(f"{printable(data)} lists no images")
    return examples


def _check_listed(data: str) -> None:
    """Raises InputError for a folder, or a part of it, that may not be looked into."""
    parts = (os.path.join(data, name) for name in SPLIT_OF)
    for folder in (data, *parts):
        if os.path.isdir(folder):
            try:
                os.scandir(folder).close()
            except OSError as error:
                raise InputError(f"cannot list {printable(folder)}: {error.strerror}") from None


def _unlabelled(path: str, scan: Scan) -> Iterator[Example]:
    """An image, or all that are in an archive."""
    if is_archive(path):
        yield from (
            Example(found.path, "", member=found.member) for found in iter_packed(path, scan)
        )
    else:
        yield Example(path, "")


def _of_folder(data: str, scan: Scan, note: Callable[[str], None]) -> list[Example]:
    parts: list[tuple[Split | None, str]] = []
    for split, names in SPLITS.items():
        found = [name for name in names if _has_examples(os.path.join(data, name))]
        parts += [(split, os.path.join(data, name)) for name in found[:1]]
        for name in found[1:]:
            note(f"{printable(os.path.join(data, name))} is left out: {found[0]}/ is taken")
    if [split for split, _ in parts] != ["train", "val"]:
        is_all = len(parts) == 1 == len(_subfolders(data))
        parts = [(None, parts[0][1] if is_all else data)]
    return [example for split, folder in parts for example in _part(folder, split, scan, note)]


def _has_examples(folder: str) -> bool:
    return bool(_subfolders(folder)) or (os.path.isdir(folder) and bool(archives_of(folder)))


def _part(
    folder: str, split: Split | None, scan: Scan, note: Callable[[str], None]
) -> Iterable[Example]:
    if not _subfolders(folder) and (archives := archives_of(folder)):
        examples = _of_archives(folder, archives, scan, note)
        return [replace(example, split=split) for example in examples]
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
    images = [image for archive in archives for image in iter_packed(archive, scan)]
    if not images:
        looked = " ".join(sorted(scan.members))
        raise InputError(f"no images in {printable(data)}", f"looked for {looked}")
    if not labelled:
        return [Example(image.path, "", member=image.member) for image in images]
    folders = [image.folders for image in images]
    while len({names[:1] for names in folders}) == 1 and _can_go(images, folders):
        folders = [names[1:] for names in folders]
    parts = {SPLIT_OF.get(names[0]) if names else None for names in folders}
    has_parts = parts == {"train", "val"} and _can_go(images, folders)
    examples: list[Example] = []
    for image, names in zip(images, folders, strict=True):
        split = SPLIT_OF[names[0]] if has_parts else None
        label = image.label or next(iter(names[has_parts:]), None)
        if label is not None:
            examples.append(Example(image.path, label, split, image.member))
    if not examples:
        raise InputError(
            f"none of the {len(images):,} images in {printable(data)} has a label", EXPECTED
        )
    if stray := len(images) - len(examples):
        note(f"{printable(data)}: {stray:,} images without a folder or a label are left out")
    return examples


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
        paths = list(DirectorySource(os.path.join(folder, name), scan))
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
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return sorted(names, key=os.fsencode)


def _of_table(file: Path, scan: Scan, labelled: bool) -> Iterator[Example]:
    read = _json_rows if file.suffix.lower() == ".jsonl" else _csv_rows
    folder = os.path.dirname(file)
    archives: dict[str, dict[str, Member]] = {}
    between = {".csv": ", separated by commas", ".tsv": ", separated by tabs"}
    wanted = "expected path and label" + between.get(file.suffix.lower(), "")
    for number, row in read(file):
        where = f"{printable(str(file))}, line {number}"
        path, label, split = _first(row, PATHS), _first(row, LABELS), row.get("split")
        if not isinstance(path, str) or not path:
            raise InputError(f"{where} has no path", wanted)
        if labelled and (label is None or label == ""):
            raise InputError(f"{where} has no label", wanted)
        if split and split not in SPLIT_OF:
            raise InputError(
                f"{where}: the split is {split!r}", "expected train or val, or no split"
            )
        whole = path if os.path.isabs(path) else os.path.join(folder, path)
        name = "" if label is None else str(label)
        member = member_of(whole, scan, archives)
        yield Example(whole, name, SPLIT_OF[str(split)] if split else None, member)


def _first(row: Mapping[str, object], names: Iterable[str]) -> object:
    """What is in the first of the columns that are called so."""
    return next((row[name] for name in names if name in row), None)


def _csv_rows(file: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """With a header of `path,label` or the like, or without one."""
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    with _open(file) as lines:
        reader = csv.reader(lines, delimiter=separator)
        names: list[str] | None = None
        for row in reader:
            if not row:
                continue
            if names is None:
                lowered = [cell.strip().lower() for cell in row]
                has_header = not {*lowered}.isdisjoint(PATHS) and not {*lowered}.isdisjoint(LABELS)
                names = lowered if has_header else ["path", "label", "split"]
                if has_header:
                    continue
            yield reader.line_num, dict(zip(names, row, strict=False))


def _json_rows(file: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    with _open(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise InputError(f"{printable(str(file))}, line {number} is no JSON object")
            yield number, row


def _open(file: Path) -> io.StringIO:
    try:
        text = file.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise InputError(f"cannot read {printable(str(file))}: {error.strerror}") from None
    return io.StringIO(text, newline="")


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
