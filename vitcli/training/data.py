"""Read the examples of a data set: a folder, archives or a table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from vitcli.errors import InputError, printable
from vitcli.files import instead_of
from vitcli.images.archives import is_archive
from vitcli.images.scan import Scan
from vitcli.images.sources import DirectorySource
from vitcli.images.tables import TABLE as PARQUET
from vitcli.records import Member
from vitcli.training.class_folders import read_folder, subfolders
from vitcli.training.example import Example
from vitcli.training.labelled_archives import EXPECTED, read_archives
from vitcli.training.packed import archives_of, iter_packed, member_of
from vitcli.training.parts import split_named
from vitcli.training.tables import TABLES, LabelTable


def read_examples(
    data: str,
    scan: Scan,
    note: Callable[[str], None] = lambda text: None,
    *,
    labelled: bool = True,
    several: bool = False,
    allow_outside: bool = False,
) -> list[Example]:
    """Read the examples of `data`, in the order in which they are found.

    `data` is a folder `DATA/<class>/*`, or `DATA/train/<class>/*` with or without `DATA/val/...`;
    a tar or zip, or a folder or pattern of them; or a CSV, TSV or JSONL of path, label and
    optionally split. The paths in a table are relative to its folder, and must be below it unless
    `allow_outside`.
    Without `labelled`, every image below the folder is an example. With `several`, a table may give
    an image several labels, none, or a number. Raises InputError for data without labels.
    """
    is_folder = os.path.isdir(data)
    if is_folder:
        _check_readable(data)
    if is_folder and not labelled:
        source = DirectorySource(data, replace(scan, suffixes=scan.suffixes | {".tar", ".zip"}))
        source.check()
        return [example for path in source.paths() for example in _unlabelled(path, scan)]
    archives = archives_of(data)
    if archives and not (is_folder and subfolders(data)):
        return read_archives(data, archives, scan, note, labelled=labelled)
    if is_folder:
        return read_folder(data, scan, note)
    _check_table(data)
    table = LabelTable(data, scan.suffixes, labelled, allow_outside, note, several)
    examples = _of_table(table, scan)
    if not examples:
        raise InputError(f"{printable(data)} lists no images")
    return examples


def _check_readable(folder: str) -> None:
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise InputError(f"cannot list {printable(folder)}: {error.strerror}") from None


def _check_table(data: str) -> None:
    if data.lower().endswith(PARQUET):
        raise InputError(
            f"{printable(data)}: labels are not read from Parquet",
            "write its paths and labels into a .csv, or its images into a folder for each class",
        )
    if not os.path.exists(data):
        raise InputError(f"no such folder or file: {printable(data)}", instead_of(data))
    if os.path.splitext(data)[1].lower() not in TABLES:
        raise InputError(
            f"{printable(data)} is neither a folder, nor an archive, nor a table",
            f"{EXPECTED}, or a .csv, .tsv or .jsonl of path and label",
        )


def _unlabelled(path: str, scan: Scan) -> Iterator[Example]:
    """The image at `path`, or all images of the archive at `path`."""
    if is_archive(path):
        for image in iter_packed(path, scan):
            yield Example(image.path, "", member=image.member)
    else:
        yield Example(path, "")


def _of_table(table: LabelTable, scan: Scan) -> list[Example]:
    rows = table.rows()
    if {"val", "test"} <= {row.part for row in rows}:
        count, name = sum(row.part == "test" for row in rows), printable(table.path)
        table.note(f"{name}: {count:,} images of test are left out, those of val are used")
        rows = [row for row in rows if row.part != "test"]
    archives: dict[str, dict[str, Member]] = {}
    return [
        Example(
            row.path,
            row.label,
            split_named(row.part or ""),
            member_of(row.path, scan, archives),
            row.labels,
        )
        for row in rows
    ]
