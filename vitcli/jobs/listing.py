"""The images of a run, in the order of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import chain

from vitcli.errors import printable
from vitcli.files import instead_of
from vitcli.images.members import UnreadableMember, unreadable
from vitcli.images.scan import Omissions, Scan, choose_scan
from vitcli.images.sources import (
    FoundSource,
    GivenSource,
    ListSource,
    Source,
    all_absent,
    count,
    iter_refs,
    open_sources,
)
from vitcli.jobs.job import Inputs
from vitcli.records import ErrorType, FoundImage, ImageRef
from vitcli.runs.shard import Shard

SAME_NAME = "an image before it in the archive has the same name"


@dataclass(slots=True)
class Listing:
    """The images of some sources, or of one shard of them. Each call of `refs` lists them again.

    With `is_once`, an image is a failure if an image before it in its archive has the same name.
    With `notes_unread`, a note counts the images in formats that are not read. `is_absolute` says
    whether the first path of the last listing was absolute.
    """

    sources: Sequence[Source]
    omissions: Omissions = field(default_factory=Omissions)
    shard: Shard | None = None
    is_once: bool = False
    notes_unread: bool = False
    is_absolute: bool = False

    def refs(self, *, stamped: bool = False) -> Iterator[ImageRef]:
        """Yield the images of the shard. `index` is the place of an image among all images."""
        self.omissions.clear()
        refs = iter_refs(self.sources, stamped=stamped)
        first = next(refs, None)
        if first is None:
            self._note_empty()
        self.is_absolute = first is not None and first.path.startswith("/")
        refs = refs if first is None else chain((first,), refs)
        for ref in once_each(refs) if self.is_once else refs:
            if self.shard is None or self.shard.has(ref.path):
                yield ref
        self.omissions.note_system()
        if self.notes_unread:
            self.omissions.note_unread()

    def _note_empty(self) -> None:
        """Say that there are no images: a list of paths may be empty, other inputs may not."""
        for source in self.sources:
            if isinstance(source, ListSource):
                self.omissions.note(f"{source.name} names no images")

    def count(self) -> int | None:
        """Count the images. None for a shard, or if counting would use up the list of paths."""
        return count(self.sources) if self.shard is None else None

    def keep_stdin(self) -> None:
        """Keep the list on standard input, so that the images can be listed twice."""
        self.sources = [source.rereadable() for source in self.sources]


def list_inputs(
    inputs: Inputs,
    note: Callable[[str], None],
    *,
    shard: Shard | None = None,
    is_once: bool = False,
) -> Listing:
    """The listing of the inputs. Raises InputError for a folder or pattern without images."""
    omissions = Omissions(note)
    scan = scan_of(inputs, omissions)
    scan = scan if inputs.extensions else scan.with_archives
    if inputs.given is not None:
        sources: list[Source] = [GivenSource(inputs.given, scan)]
    else:
        sources = open_sources(
            inputs.paths, files_from=inputs.files_from, null=inputs.null, scan=scan
        )
    if absent := all_absent(sources):
        more = f" (and {len(absent) - 1:,} more)" if len(absent) > 1 else ""
        hint = instead_of(absent[0])
        note(f"{printable(absent[0])} does not exist{more}: nothing can be read; {hint}")
    return Listing(sources, omissions, shard, is_once, notes_unread=not inputs.extensions)


def list_images(images: Sequence[FoundImage]) -> Listing:
    """The listing of known images, in their order."""
    return Listing([FoundSource(images)])


def scan_of(inputs: Inputs, omissions: Omissions) -> Scan:
    """The scan of folders with the options of the inputs."""
    return choose_scan(
        *(inputs.formats, inputs.extensions, inputs.limits, omissions),
        allow_outside=inputs.allow_outside,
    )


def once_each(refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
    """Yield the images. An image becomes a failure if an image before it in its archive has its
    name, since the files made of both would have the same name. Only the names of one archive are
    in memory, as digests."""
    archive, seen = "", set[bytes]()
    for ref in refs:
        if ref.member is not None:
            if ref.member.archive != archive:
                archive, seen = ref.member.archive, set()
            name = ref.path.encode("utf-8", "surrogatepass")
            digest = blake2b(name, digest_size=16).digest()
            if digest in seen and not isinstance(ref.member, UnreadableMember):
                ref = replace(ref, member=unreadable(ref.member, ErrorType.UNREADABLE, SAME_NAME))
            seen.add(digest)
        yield ref
