"""Open what a caller calls an index: files, an array, or the result of `embed`."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from numpy.typing import NDArray

from vitcli.api.arguments import Names, names_of
from vitcli.api.embed import Embeddings
from vitcli.errors import UsageError
from vitcli.indexes.index import Index, index_of, open_index
from vitcli.indexes.names import ListNames

IndexLike: TypeAlias = "Names | Embeddings | NDArray[Any] | Sequence[Sequence[float]]"
"""Files that `vit embed` wrote (a path, a pattern, or several), the result of `embed`, or an array
(N, D)."""
Paths: TypeAlias = Sequence[str | os.PathLike[str]]


def index_for(index: IndexLike, paths: Paths | None) -> Index:
    """Open an index. `paths` are those of the rows of an array. Raises VitError."""
    if paths is not None and (is_named(index) or isinstance(index, Embeddings)):
        kind = "of files" if is_named(index) else "with paths of its own"
        raise UsageError(f"paths has no effect for an index {kind}", "leave it out")
    if isinstance(index, Embeddings):
        made = index_of(index.embeddings, index.paths or index.texts)
        meta = json.loads(json.dumps(index.meta))  # as a meta file has it
        names = ListNames(index.texts, "text") if index.texts else made.named[0]
        return replace(made, named=(names,), meta=meta)
    if not is_named(index):
        return index_of(index, None if paths is None else names_of("paths", paths))  # type: ignore[arg-type]
    note = partial(warnings.warn, category=UserWarning, stacklevel=5)
    return open_index(names_of("index", index), note)  # type: ignore[arg-type]


def is_named(index: object) -> bool:
    """Whether an index is given by the names of its files, and not by its numbers."""
    if hasattr(index, "shape") or isinstance(index, Embeddings):
        return False
    if isinstance(index, list | tuple):
        return all(isinstance(one, str | os.PathLike) for one in index)
    return True
