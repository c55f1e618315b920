"""Tars and zips of images into what is known of each: its place, its folders, and its label where
one lies beside it, as WebDataset's samples have it."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vitcli.errors import InputError, is_utf8, printable
from vitcli.images.archives import is_archive, key_of
from vitcli.images.braces import expanded
from vitcli.images.kinds import ImageError
from vitcli.images.members import Archive, StreamedMember
from vitcli.images.scan import Scan
from vitcli.images.tables import MAX_PATH_CHARS
from vitcli.records import Member

BESIDE = (".cls", ".json", ".txt")  # whichever comes first holds the label
JSON_KEYS = ("label", "class", "cls")
LONGEST_LABEL = 1 << 16  # bytes; of JSON with much else


@dataclass(frozen=True, slots=True)
class Packed:
    """An image in an archive. `label` is what a file beside it says, None where none does."""

    path: str
    member: Member
    folders: tuple[str, ...]
    label: str | None


def archives_of(data: str) -> list[str]:
    """The archives in a folder, of a pattern, or the one that is named; none of what is none.

    Raises InputError where one of several that are named is missing.
    """
    if os.path.isdir(data):
        names = sorted(os.listdir(data), key=os.fsencode)
        paths = [os.path.join(data, name) for name in names if not name.startswith(".")]
        return [path for path in paths if is_archive(path)]
    paths = []
    for text in expanded(data):
        is_pattern = glob.has_magic(text) and not os.path.exists(text)
        found = sorted(glob.glob(text), key=os.fsencode) if is_pattern else [text]
        paths += found
    archives = [path for path in paths if is_archive(path)]
    if archives and (missing := [path for path in paths if path not in archives]):
        raise InputError(f"no such tar or zip: {printable(missing[0])}")
    return archives


def iter_packed(archive: str, scan: Scan) -> Iterator[Packed]:
    """The images of an archive in its order. `scan` is told of what is damaged.

    Raises InputError for what is no archive, and for one that is a stream: for training images are
    read in another order, and again.
    """
    images: list[tuple[str, Member]] = []
    labels: dict[str, dict[str, str]] = {}
    both = replace(scan, members=scan.members | frozenset(BESIDE))
    file = Archive.at(archive)
    for path, member, _ in both.images(archive):
        if member is None:
            raise InputError(f"{printable(archive)} is neither a tar nor a zip")
        if isinstance(member, StreamedMember):
            raise InputError(
                f"{printable(archive)} is compressed, so it can only be read front to back",
                "decompress the tar: images hardly become smaller by it",
            )
        suffix = os.path.splitext(path)[1].lower()
        if suffix in BESIDE:
            if (label := _label(file, member, suffix)) is not None:
                labels.setdefault(key_of(path), {})[suffix] = label
        elif path != archive:
            images.append((path, member))
    for path, member in images:
        beside = labels.get(key_of(path), {})
        label = next((beside[suffix] for suffix in BESIDE if suffix in beside), None)
        *folders, _ = path.removeprefix(f"{archive}/").split("/")
        yield Packed(path, member, tuple(f for f in folders if f not in ("", ".")), label)


def member_of(path: str, scan: Scan, known: dict[str, dict[str, Member]]) -> Member | None:
    """The member that a path through an archive, `x.tar/a.jpg`, means; `known` are the archives
    that were read already."""
    for place, letter in enumerate(path[:MAX_PATH_CHARS]):
        if letter == "/" and is_archive(archive := path[:place]):
            if archive not in known:
                known[archive] = {found.path: found.member for found in iter_packed(archive, scan)}
            return known[archive].get(path)
    return None


def _label(file: Archive, member: Member, suffix: str) -> str | None:
    if member.size > LONGEST_LABEL:
        return None
    try:
        text = member.open(lambda: file).read().decode("utf-8-sig").strip()
        if suffix != ".json":
            return text or None
        fields = json.loads(text)
    except (ImageError, OSError, ValueError, RecursionError):  # damage, no UTF-8, no JSON
        return None
    values = [fields.get(key) for key in JSON_KEYS] if isinstance(fields, dict) else []
    label = next((str(v) for v in values if isinstance(v, str | int) and v != ""), None)
    return label if label is not None and is_utf8(label) else None
