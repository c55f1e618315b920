"""Turn inputs into image refs, in order: files, directories, globs, URLs and lists of paths."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from tempfile import NamedTemporaryFile
from typing import IO, Protocol

from vitcli import stores
from vitcli.errors import InputError, printable
from vitcli.files import holding, instead_of
from vitcli.images import remote
from vitcli.images.braces import expanded
from vitcli.images.kinds import passed_over
from vitcli.images.path_list import copy_stdin, iter_paths, list_name
from vitcli.images.scan import Omissions, Scan, choose_scan
from vitcli.images.tree import Tree
from vitcli.records import FoundImage, ImageRef, Stamp
from vitcli.stores import Listing, is_remote

MAX_FILES_NAMED = 100_000  # for the error about a directory without images
MAX_SUFFIXES = 8  # in that error
USUAL = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".gif")


class Source(Protocol):
    """Something that lists images, in the same order every time."""

    def images(self, *, stamped: bool = False) -> Iterator[FoundImage]:
        """List the images; with `stamped`, images in stores get their stamps."""

    def check(self) -> None:
        """Raise InputError for a mistake that can be seen before the run begins."""
        return None

    def count(self) -> int | None:
        """Count the images, without notes of omissions; None if they can be listed only once."""
        return None

    def rereadable(self) -> Source:
        """Return a source that can list its images more than once."""
        return self


@dataclass(frozen=True, slots=True)
class FileSource(Source):
    """A file or an archive that was named explicitly. It is always tried, even if it is missing or
    has an unknown suffix."""

    path: str
    scan: Scan

    def images(self, *, stamped: bool = False) -> Iterator[FoundImage]:
        return self.scan.images(self.path)

    def check(self) -> None:
        """Raise InputError for an archive without images; a missing file gets a row."""
        if next(self.scan.silent.images(self.path), None) is None:
            looked = " ".join(sorted(self.scan.members))
            raise InputError(
                f"no images in {printable(self.path)}",
                f"looked in it for {looked}; --formats all or --ext widens the search",
            )

    def count(self) -> int | None:
        if is_remote(self.path) and remote.has_many(self.path):
            return None
        return self.scan.count((self.path,))


@dataclass(frozen=True, slots=True)
class FoundSource(Source):
    """Images that have been listed before: files and members of archives."""

    found: Sequence[FoundImage]

    def images(self, *, stamped: bool = False) -> Iterator[FoundImage]:
        return iter(self.found)

    def count(self) -> int:
        return len(self.found)


@dataclass(frozen=True, slots=True)
class GivenSource(Source):
    """Paths, as on the command line, and images in memory, in the order in which a caller in Python
    gives them. An image without a path is named by its place among all images: `image 0`."""

    items: Iterable[str | FoundImage]
    scan: Scan

    def images(self, *, stamped: bool = False) -> Iterator[FoundImage]:
        for place, image in enumerate(chain.from_iterable(map(self._images_of, self.items))):
            yield image if image.path else image._replace(path=f"image {place}")

    def _images_of(self, item: str | FoundImage) -> Iterable[FoundImage]:
        if isinstance(item, FoundImage):
            return (item,)
        sources = open_sources([item], scan=self.scan)
        return chain.from_iterable(source.images() for source in sources)


@dataclass(frozen=True, slots=True)
class RemoteSource(Source):
    """One object in a store or on the web; or the objects below a prefix or matching a pattern,
    which are listed once. A single object is always tried."""

    url: str
    scan: Scan

    def images(self, *, stamped: bool = False) -> Iterator[FoundImage]:
        listing = self._listing()
        if listing is not None:
            self.scan.omissions.system.extend(listing.left_out)
        for url in (self.url,) if listing is None else listing.urls:
            stamp = self._stamp(url, listing) if stamped else None
            for image in self.scan.images(url):
                if stamp is not None and image.member is not None:
                    image = image._replace(stamp=(image.member.size, stamp[1]))
                elif stamp is not None and image.path == url:
                    image = image._replace(stamp=stamp)
                yield image

    def check(self) -> None:
        """Raise InputError for a URL that cannot be read, or a prefix or pattern without images."""
        stores.check_readable(self.url, InputError)
        self._listing()

    def count(self) -> int | None:
        listing = self._listing()
        urls = [self.url] if listing is None else listing.urls
        return None if any(map(remote.has_many, urls)) else len(urls)

    def _listing(self) -> Listing | None:
        return remote.listing(self.url, self.scan.suffixes)

    def _stamp(self, url: str, listing: Listing | None) -> Stamp | None:
        return remote.stamp(url) if listing is None else listing.stamp(url)


@dataclass(frozen=True, slots=True)
class TreeSource(Source):
    """The images of a directory or a pattern, in the order of their full paths."""

    path: str
    scan: Scan

    def tree(self, scan: Scan) -> Tree:
        raise NotImplementedError

    def paths(self) -> Iterator[str]:
        """List the files, including archives."""
        return self.tree(self.scan).walk()

    def images(self, *, stamped: bool = False) -> Iterator[FoundImage]:
        return chain.from_iterable(map(self.scan.images, self.paths()))

    def count(self) -> int:
        return self.tree(self.scan).count()


@dataclass(frozen=True, slots=True)
class DirectorySource(TreeSource):
    """Every image below a directory."""

    def tree(self, scan: Scan) -> Tree:
        return Tree.below(self.path, scan)

    def check(self) -> None:
        omissions = Omissions()
        if self.tree(replace(self.scan, omissions=omissions)).is_empty():
            if omissions.unlisted:
                raise InputError(f"no images in {printable(self.path)}: {omissions.unlisted[0]}")
            raise InputError(
                f"no images in {printable(self.path)}{_others(self.path)}",
                passed_over(omissions.unread)
                if omissions.unread
                else f"looked below it for {_looked(self.scan.suffixes)}; --formats all or --ext "
                "widens the search",
            )


@dataclass(frozen=True, slots=True)
class GlobSource(TreeSource):
    """A glob pattern. A file that it matches counts as named explicitly, whatever its suffix;
    a directory that it matches is scanned. `**` matches any number of directories."""

    def tree(self, scan: Scan) -> Tree:
        return Tree.matching(self.path, scan)

    def check(self) -> None:
        if self.tree(self.scan.silent).is_empty():
            raise InputError(f"no file matches {printable(self.path)}", _near_pattern(self.path))


@dataclass(frozen=True, slots=True)
class ListSource(Source):
    """The files, archives and directories in a list of paths, which may be empty."""

    file: str | int
    null: bool
    scan: Scan
    copy: IO[bytes] | None = None  # a copy of standard input, deleted with this source

    @property
    def name(self) -> str:
        """The name of the list in messages."""
        return list_name(0 if self.copy is not None else self.file)

    def images(self, *, stamped: bool = False) -> Iterator[FoundImage]:
        return chain.from_iterable(source.images() for source in self._sources())

    def check(self) -> None:
        """Raise InputError for a list that does not exist; the rest is checked when it is read."""
        if isinstance(self.file, str) and not os.path.exists(self.file):
            raise InputError(
                f"no such list of paths: {printable(self.file)}", instead_of(self.file)
            )

    def count(self) -> int | None:
        if not (isinstance(self.file, str) and os.path.isfile(self.file)):
            return None  # a pipe can be read once
        return count(self._sources())

    def rereadable(self) -> ListSource:
        if self.file != 0:
            return self
        copy = NamedTemporaryFile(prefix="vit-list-")  # noqa: SIM115  # kept in the source
        copy_stdin(copy)
        return replace(self, file=copy.name, copy=copy)

    def _sources(self) -> Iterator[Source]:
        for path in iter_paths(self.file, null=self.null):
            kind = DirectorySource if os.path.isdir(path) else FileSource
            yield kind(path, self.scan)


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) and not os.path.lexists(text)


# The first test that an input passes chooses its source.
SOURCES: list[tuple[Callable[[str], bool], Callable[[str, Scan], Source]]] = [
    (is_remote, RemoteSource),
    (os.path.isdir, DirectorySource),
    (_is_pattern, GlobSource),
    (lambda text: True, FileSource),
]


def open_sources(
    inputs: Sequence[str],
    *,
    files_from: str | None = None,
    null: bool = False,
    scan: Scan | None = None,
) -> list[Source]:
    """Choose the source of each input, and check it. `-`, as an input or as `files_from`, is a
    list on standard input.

    Raises InputError for a source that fails its check, such as a directory without images.
    """
    scan = scan or choose_scan()
    sources: list[Source] = []
    for text in chain.from_iterable(map(expanded, inputs)):
        if text == "-":
            sources.append(ListSource(0, null, scan))
        else:
            sources.append(next(kind for matches, kind in SOURCES if matches(text))(text, scan))
    if files_from is not None:
        sources.append(ListSource(0 if files_from == "-" else files_from, null, scan))
    for source in sources:
        source.check()
    return sources


def _near_pattern(pattern: str) -> str:
    """The hint for a pattern that matches nothing: what its folder holds."""
    folder = re.split(r"[*?\[{]", pattern)[0].rpartition("/")[0] or "."
    if is_remote(pattern):
        return "are the bucket and the suffix right?"
    if not os.path.isdir(folder):
        return instead_of(folder)
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    named = "this folder" if folder == "." else printable(folder)
    return f"{named} {holding(names)}; a folder without a pattern gives all its images"


def all_absent(sources: Sequence[Source]) -> list[str]:
    """Return the paths of all sources if each names one local file and none exists; else []."""
    named = [source.path for source in sources if isinstance(source, FileSource)]
    if len(named) < len(sources) or any(map(os.path.lexists, named)):
        return []
    return named


def iter_refs(sources: Sequence[Source], *, stamped: bool = False) -> Iterator[ImageRef]:
    """Number the images of all sources in order; with `stamped`, images in stores get stamps."""
    images = (image for source in sources for image in source.images(stamped=stamped))
    for index, (path, member, stamp) in enumerate(images):
        yield ImageRef(index, path, stamp, member)


def count(sources: Iterable[Source]) -> int | None:
    """Count the images of all sources; None if a source can be listed only once."""
    total = 0
    for source in sources:
        if (images := source.count()) is None:
            return None
        total += images
    return total


def _looked(suffixes: Collection[str]) -> str:
    """Name the suffixes that a scan takes: the usual ones, if there are many."""
    if len(suffixes) <= MAX_SUFFIXES:
        return " ".join(sorted(suffixes))
    usual = [suffix for suffix in USUAL if suffix in suffixes]
    return f"{' '.join(usual)} and {len(suffixes) - len(usual)} other suffixes"


def _others(folder: str) -> str:
    """Count the files of a folder without images by suffix, in words."""
    suffixes = (
        os.path.splitext(name)[1].lower() or "no suffix"
        for _, _, names in os.walk(folder)
        for name in names
    )
    counts = Counter(islice(suffixes, MAX_FILES_NAMED))
    if not counts:
        return " (it is empty)"
    kinds = ", ".join(f"{suffix} {n}" for suffix, n in counts.most_common(3))
    return f" ({counts.total()} other file{'s' * (counts.total() > 1)}: {kinds})"
