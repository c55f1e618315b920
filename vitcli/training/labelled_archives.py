"""Read examples from tars and zips, labelled by the file next to each image or by its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from vitcli.errors import InputError, printable
from vitcli.images.scan import Scan
from vitcli.training.example import Example
from vitcli.training.packed import Packed, iter_packed
from vitcli.training.parts import (
    DataFolder,
    DataPart,
    Split,
    is_same_part,
    part_named,
    part_of_archive,
    parts_of,
)

EXPECTED = "expected DATA/<class>/*.jpg, tars or zips of <class>/*.jpg or of *.jpg with *.cls"
Folders = tuple[str, ...]


def read_archives(
    data: str,
    archives: Sequence[str],
    scan: Scan,
    note: Callable[[str], None],
    *,
    labelled: bool = True,
) -> list[Example]:
    """Read the examples of archives.

    A label is the content of the file next to the image, else the name of its first folder. Folders
    that hold all images do not count, nor do parts such as `train` and `val`. Raises InputError for
    archives without images or labels.
    """
    named = {part_of_archive(archive) for archive in archives}
    if labelled and None not in named and "train" in named and len(named) > 1:
        return _of_shards(data, archives, scan, note)
    images = [image for archive in archives for image in iter_packed(archive, scan)]
    if not images:
        looked = " ".join(sorted(scan.members))
        raise InputError(f"no images in {printable(data)}", f"looked for {looked}")
    if not labelled:
        return [Example(image.path, "", member=image.member) for image in images]
    folders = _without_common(images)
    tops = _top_folders(images, folders)
    parts = None
    if any(image.label is None for image in images) or all(part_named(top.name) for top in tops):
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
    """Read archives that are named after parts: `train-000.tar` and `val-000.tar`."""
    of_part: dict[DataPart | None, list[str]] = {}
    for archive in archives:
        of_part.setdefault(part_of_archive(archive), []).append(archive)
    held: DataPart = "val" if "val" in of_part else "test"
    counts = (
        f"{len(of_part['train'])} archives of train, {len(of_part[held])} of {held} to hold out"
    )
    if held == "val" and "test" in of_part:
        counts += f"; the {len(of_part['test'])} of test are left out"
    note(f"{printable(data)}: {counts}")
    splits: tuple[tuple[Split, DataPart], ...] = (("train", "train"), ("val", held))
    return [
        replace(example, split=split)
        for split, part in splits
        for example in read_archives(data, of_part[part], scan, note)
    ]


def _without_common(images: Sequence[Packed]) -> list[Folders]:
    """The folders of each image, without the folders that hold all images."""
    folders = [image.folders for image in images]
    while len({names[:1] for names in folders}) == 1 and _are_labelled_below(images, folders):
        folders = [names[1:] for names in folders]
    return [n[1:] if len(n) > 1 and is_same_part(*n[:2]) else n for n in folders]


def _are_labelled_below(images: Sequence[Packed], folders: Sequence[Folders]) -> bool:
    """Whether every image still has a label if its first folder is removed."""
    pairs = zip(images, folders, strict=True)
    return all(len(names) > (image.label is None) for image, names in pairs)


def _top_folders(images: Sequence[Packed], folders: Sequence[Folders]) -> list[DataFolder]:
    """The first folders of the images, and their content."""
    tops: dict[str, tuple[set[str], list[Packed]]] = {}
    for image, names in zip(images, folders, strict=True):
        if names:
            inner, loose = tops.setdefault(names[0], (set(), []))
            inner.update(names[1:2])
            if len(names) == 1:
                loose.append(image)
    return [
        DataFolder(
            name,
            tuple(sorted(inner)),
            has_images=bool(loose),
            is_labelled=any(image.label is not None for image in loose),
        )
        for name, (inner, loose) in tops.items()
    ]
