"""List the images at URLs of stores and the web: prefixes and patterns are listed once, zips are
read by ranges, tars as streams from front to back."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache

from vitcli import stores
from vitcli.errors import InputError, printable
from vitcli.images.archives import (
    MAX_IMAGE_BYTES,
    NAMES,
    TARS,
    broken,
    decompressed,
    iter_tar,
    iter_zip,
)
from vitcli.images.system import system_folder
from vitcli.images.tables import TABLE
from vitcli.records import ErrorType, FoundImage, Stamp
from vitcli.stores import Listing

MANY = (*NAMES, TABLE)


@cache
def listing(url: str, suffixes: frozenset[str]) -> Listing | None:
    """Return the objects of a prefix or a pattern; None for the URL of one object.

    Raises InputError where it cannot be listed, or has no images.
    """
    try:
        objects = stores.listing(url, suffixes)
    except OSError as error:
        hint = "are the name and the credentials right?"
        raise InputError(f"cannot list {printable(url)}: {error}", hint) from None
    if objects is not None and system_folder(url) is None:
        objects = objects.without(system_folder)
    if objects is not None and not objects.urls:
        looked = " ".join(sorted(suffixes))
        raise InputError(f"no images in {printable(url)}", f"looked there for {looked}")
    return objects


@cache
def stamp(url: str) -> Stamp | None:
    """Return the stamp of one object; None if the store gives none."""
    try:
        return stores.stamp(url)
    except OSError:
        return None


def has_many(url: str) -> bool:
    """Whether a URL has the name of a tar, a zip or a table."""
    return _name(url).endswith(MANY)


def iter_members_at(
    url: str, suffixes: Collection[str], max_bytes: int = MAX_IMAGE_BYTES
) -> Iterator[FoundImage]:
    """List the images of a tar, together with their bytes, or of a zip."""
    try:
        with stores.open_object(url) as file:
            if _name(url).endswith(TARS):
                yield from iter_tar(url, decompressed(file), suffixes, None, None, max_bytes)
            else:
                yield from iter_zip(url, file, suffixes, None, max_bytes)
    except Exception as error:  # a server without lengths or ranges: fsspec raises anything
        kind = ErrorType.NOT_FOUND if isinstance(error, FileNotFoundError) else ErrorType.UNREADABLE
        yield broken(url, kind, stores.words_of(error))


def _name(url: str) -> str:
    return url.partition("?")[0].lower()
