"""Find the images that the rows of an earlier output name: files, objects, members of archives."""

from __future__ import annotations

import os
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from functools import lru_cache

from vitcli.images.archives import is_archive
from vitcli.images.members import UnreadableMember
from vitcli.images.scan import Scan
from vitcli.images.tables import is_table
from vitcli.records import ErrorType, ImageRef
from vitcli.stores import is_remote

GONE = "it is not in the archive"
# The end of an archive's or a table's name within a path, as `images/archives.py` names them.
_ENDS = re.compile(r"\.(?:tar|tgz|tar\.gz|tar\.bz2|tar\.xz|zip|parquet)(?:\?[^/]*)?(?=/)", re.I)


def iter_named(named: Iterable[tuple[int, str]], scan: Scan) -> Iterator[ImageRef]:
    """Yield a ref for each (index, path): files and objects in their order, then the members of
    each archive, which is listed once. Members of the same name are told apart by their order."""
    wanted: dict[str, dict[str, deque[int]]] = defaultdict(lambda: defaultdict(deque))
    for index, path in named:
        archive = archive_of(path)
        if archive is None:
            yield ImageRef(index, path)
        else:
            wanted[archive][path].append(index)
    for archive, indices in wanted.items():
        left = sum(map(len, indices.values()))
        for found in scan.images(archive):
            if indices.get(found.path):
                yield ImageRef(indices[found.path].popleft(), found.path, member=found.member)
                left -= 1
            if not left:
                break
        for path, missing in indices.items():
            for index in missing:
                member = UnreadableMember(archive, 0, "", None, ErrorType.NOT_FOUND, GONE)
                yield ImageRef(index, path, member=member)


def archive_of(path: str) -> str | None:
    """Return the archive or the table in which a path is; None for a file of its own."""
    if _ENDS.search(path) is None or (not is_remote(path) and os.path.lexists(path)):
        return None
    for match in _ENDS.finditer(path):
        if _is_container(path[: match.end()]):
            return path[: match.end()]
    return None


@lru_cache(maxsize=4096)
def _is_container(path: str) -> bool:
    return is_remote(path) or is_archive(path) or is_table(path)


def is_here(path: str) -> bool:
    """Whether the file of a path, or its archive, exists; objects in stores are taken to exist."""
    return is_remote(path) or os.path.lexists(archive_of(path) or path)
