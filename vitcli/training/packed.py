"""Read the place, folders and label of each image in tars and zips. The label is in a file of the
same name next to the image, as in WebDataset."""

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

LABEL_SUFFIXES = (".cls", ".json", ".txt")  # the first that exists holds the label
JSON_KEYS = ("label", "class", "cls")
MAX_LABEL_BYTES = 1 << 16  # of the file, which may be JSON with other fields


@dataclass(frozen=True, slots=True)
class Packed:
    """An image in an archive. `label` is the content of the file next to it, None without one."""

    path: str
    member: Member
    folders: tuple[str, ...]
    label: str | None


def archives_of(data: str) -> list[str]:
    """The archives in a folder, of a pattern, or `data` itself; empty if `data` is something else.

    Raises InputError if one of several named archives is missing.
    """
    if os.path.isdir(data):
        names = sorted(os.listdir(data), key=os.fsencode)
        paths = [os.path.join(data, name) for name in names if not name.startswith(".")]
        return [path for path in paths if is_archive(path)]
    paths = []
    for text in expanded(data):
        is_pattern = glob.has_magic(text) and not os.path.exists(text)
        paths += sorted(glob.glob(text), key=os.fsencode) if is_pattern else [text]
    archives = [path for path in paths if is_archive(path)]
    if archives and (missing := [path for path in paths if path not in archives]):
        raise InputError(f"no such tar or zip: {printable(missing[0])}")
    return archives


def iter_packed(archive: str, scan: Scan) -> Iterator[Packed]:
    """Yield the images of an archive, in its order; `scan` notes damage.

    Raises InputError for a file that is not an archive, and for a compressed tar: training reads
    images repeatedly and in random order.
    """
    images: list[tuple[str, Member]] = []
    labels: dict[str, dict[str, str]] = {}
    both = replace(scan, members=scan.members | frozenset(LABEL_SUFFIXES))
    file = Archive.at(archive)
    for path, member, _ in both.images(archive):
        if member is None:
            raise InputError(f"{printable(archive)} is neither a tar nor a zip")
        if isinstance(member, StreamedMember):
            raise InputError(
                f"{printable(archive)} is compressed, so it can only be read front to back",
                "decompress the tar: compression hardly makes images smaller",
            )
        suffix = os.path.splitext(path)[1].lower()
        if suffix in LABEL_SUFFIXES:
            if (label := _label(file, member, suffix)) is not None:
                labels.setdefault(key_of(path), {})[suffix] = label
        elif path != archive:
            images.append((path, member))
    for path, member in images:
        own = labels.get(key_of(path), {})
        label = next((own[suffix] for suffix in LABEL_SUFFIXES if suffix in own), None)
        *folders, _ = path.removeprefix(f"{archive}/").split("/")
        yield Packed(path, member, tuple(f for f in folders if f not in ("", ".")), label)


def member_of(path: str, scan: Scan, known: dict[str, dict[str, Member]]) -> Member | None:
    """Find the member for a path through an archive, such as `x.tar/a.jpg`; `known` caches the
    archives that have been read."""
    for place, letter in enumerate(path[:MAX_PATH_CHARS]):
        if letter == "/" and is_archive(archive := path[:place]):
            if archive not in known:
                known[archive] = {image.path: image.member for image in iter_packed(archive, scan)}
            return known[archive].get(path)
    return None


def _label(file: Archive, member: Member, suffix: str) -> str | None:
    if member.size > MAX_LABEL_BYTES:
        return None
    try:
        text = member.open(lambda: file).read().decode("utf-8-sig").strip()
        if suffix != ".json":
            return text or None
        fields = json.loads(text)
    except (ImageError, OSError, ValueError, RecursionError):  # damaged, not UTF-8, or not JSON
        return None
    values = [fields.get(key) for key in JSON_KEYS] if isinstance(fields, dict) else []
    label = next((str(v) for v in values if isinstance(v, str | int) and v != ""), None)
    return label if label is not None and is_utf8(label) else None
