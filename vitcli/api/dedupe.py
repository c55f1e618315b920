"""Find images that are there twice, from Python."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from vitcli.api.arguments import pairs_of, score_of, texts_of, workers_of
from vitcli.api.index import IndexLike, Paths, index_for, is_named
from vitcli.api.rows import Rows
from vitcli.api.running import Watch
from vitcli.errors import printable
from vitcli.indexes.index import mapped
from vitcli.jobs.job import Inputs
from vitcli.tasks.dedupe.dedupe import files_of, kinds_of
from vitcli.tasks.dedupe.find import Options, find
from vitcli.tasks.dedupe.keep import Keep
from vitcli.tasks.dedupe.known import numbered
from vitcli.tasks.dedupe.links import Linkage
from vitcli.tasks.dedupe.partial import Partial
from vitcli.tasks.dedupe.twin import Kind, Twin
from vitcli.tasks.dedupe.write import COLUMNS


def dedupe(
    index: IndexLike,
    *,
    paths: Paths | None = None,
    threshold: float | None = None,
    kind: str | Sequence[Kind] | None = None,
    linkage: Linkage = "star",
    keep: Keep | None = None,
    like_pairs: Sequence[tuple[str, str]] = (),
    workers: int | None = None,
    progress: bool = False,
) -> Rows[Twin]:
    """Return the members of the groups of images that are there twice: a `Twin` for each, the kept
    one of a group first. No file is changed.

    index: what `vit embed` has written (a path, or several), the result of `embed`, or an array
    (N, D) of floats with the path of each row in `paths`; without paths only vectors are compared.
    kind: "bytes" (the same file), "pixels" (they look the same: upright RGB, opacity, all frames),
    "near" (a cosine of at least `threshold`), several in a sequence or with commas; None for all
    that the files allow. Without `threshold` one is chosen from the scores, or set by `like_pairs`
    of paths. linkage: "star" (all within the threshold of the kept one), "complete" or "single".
    keep: "largest" (the default), "first", "oldest", "newest". Files that cannot be read are told
    by a RuntimeWarning. Raises VitError.
    """
    is_bare = not is_named(index) and paths is None and not getattr(index, "paths", ())
    opened = index_for(index, paths)
    options = Options(
        threshold=score_of("threshold", threshold),
        kinds=kinds_of(None if kind is None else ",".join(texts_of("kind", kind)))
        or (("near",) if is_bare else None),
        linkage=linkage,
        keep=keep or ("first" if is_bare else None),
        known=numbered(pairs_of(like_pairs)),
    )
    with mapped(opened) as rows, Watch(progress=progress) as watch:
        files = files_of(rows, Inputs(), workers_of(workers), watch)
        twins = find(rows, options, files, Partial(None, {}), watch).twins
    if files.failures:
        first = files.failures[min(files.failures)]
        warnings.warn(
            f"{len(files.failures):,} of {opened.count:,} files could not be read: "
            f"{printable(first.ref.path)}: {first.message}",
            RuntimeWarning,
            stacklevel=2,
        )
    return Rows(twins, COLUMNS, Twin.record, watch.notes)
