"""Embed images and texts from Python."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from vitcli.api.images import Images, inputs_of
from vitcli.api.running import OnError, RowSink, RunningOptions, Watch, check_on_error, streamed
from vitcli.errors import UsageError
from vitcli.fleet.share import share
from vitcli.jobs.job import DEFAULT_MODEL, Inputs, Running
from vitcli.jobs.texts import texts_of
from vitcli.records import Embedded, Failure, ImageRef, TextClean, TextRef
from vitcli.sinks.frames import arrow_of_vectors, frame_of_vectors
from vitcli.sinks.tables import Columns, Record
from vitcli.sinks.text import error_field
from vitcli.tasks.embed import EmbedJob, EmbedPooling, iter_embedded

if TYPE_CHECKING:  # optional dependencies, and torch
    import pandas as pd
    import pyarrow as pa

    from vitcli.checkpoints.load import Model


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The result of `embed`: `embeddings[i]` belongs to `paths[i]`; other images are in `failures`.
    For texts it belongs to `texts[i]`.

    embeddings: (images, D), or (images, N, D) for pool="patches" and "tokens".
    meta: model, sha256 of the weights, layers, pool, preprocessing, versions, counts, seconds.
    notes: the notes of the run.
    The tables have the failures in their places, and raise OutputError without their library.
    """

    embeddings: NDArray[np.float32]
    paths: tuple[str, ...]
    failures: tuple[Failure, ...]
    meta: dict[str, object]
    texts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> pd.DataFrame:
        """The columns `path` (or `text`), `embedding` with arrays, and `error`."""
        return frame_of_vectors(self._records(), self.embeddings, self._columns)

    def to_arrow(self) -> pa.Table:
        """The columns of the Parquet file of `vit embed`: `embedding` has lists of fixed length."""
        return arrow_of_vectors(self._records(), self.embeddings, self._columns)

    @property
    def _columns(self) -> Columns:
        return Columns({"text": "text"} if self.texts else {"path": "path"}, has_error=True)

    def _records(self) -> list[Record]:
        """The records in input order: each failure has its index, and the others are in order."""
        if self.texts:
            return [{"text": text} for text in self.texts]
        records: list[Record] = [{"path": path} for path in self.paths]
        for row in self.failures:
            records.insert(row.ref.index, {"path": row.path, "error": error_field(row)})
        return records


def embed(
    images: Images | None = None,
    *,
    texts: str | Sequence[str] | None = None,
    model: str | Model = DEFAULT_MODEL,
    layers: int | Sequence[int] = -1,
    pool: EmbedPooling | None = None,
    norm: bool = True,
    l2: bool = False,
    text_clean: TextClean | None = None,
    tokenizer: str | None = None,
    devices: Literal["all"] | Sequence[str] = (),
    ray: str | None = None,
    on_error: OnError = "row",
    progress: bool = False,
    **running: Unpack[RunningOptions],
) -> Embeddings:
    """Return a vector for every image that decodes, or every text, in order, all in memory.

    images: as in `classify`. texts: instead of images, for a model with a text tower:
    `get_text_features` of transformers, `encode_text` of open_clip, to compare with pool="joint".
    text_clean, tokenizer: instead of the model's.

    layers: Hugging Face's `hidden_states` numbers (0 the embedding output, -1 the last); several
    are concatenated. pool: "cls", "mean", "cls+mean", "map", "patches", "tokens", or None for the
    model's own; "joint" is the vector to compare with texts: `get_image_features` of transformers,
    `encode_image` of open_clip. norm applies the model's final LayerNorm; l2 divides each vector by
    its length.

    on_error: images that fail are in `failures` ("row"), are left out ("skip"), or the first ends
    the run with an ImageFailed ("raise"). devices, ray and progress are as in `classify`.
    Raises VitError for an error that ends the run.
    """
    if images is None and texts is None:
        raise UsageError("neither images nor texts are given", "give one of them")
    names = (devices,) if isinstance(devices, str) else tuple(devices)
    are_shared, sink = bool(names) or ray is not None, RowSink(on_error)
    job = EmbedJob(
        inputs=Inputs() if images is None else inputs_of(images, are_shared=are_shared),
        texts=texts_of(texts, clean=text_clean, tokenizer=tokenizer),
        model=model,
        running=Running(**running),
        layers=_several(layers),
        pool=pool,
        norm=norm,
        l2=l2,
    )
    with Watch(progress=progress) as watch:
        share(job, watch, devices=names, ray=ray, sink=sink)
    good = [row for row in sink.rows if isinstance(row, Embedded)]
    shape = tuple(sink.meta["row_shape"])  # type: ignore[arg-type, var-annotated]
    empty = np.empty((0, *shape), np.float32)
    return Embeddings(
        embeddings=np.stack([row.embedding for row in good]).astype(np.float32) if good else empty,
        paths=tuple(row.ref.path for row in good if isinstance(row.ref, ImageRef)),
        failures=tuple(row for row in sink.rows if isinstance(row, Failure)),
        meta=dict(sink.meta),
        texts=tuple(row.ref.text for row in good if isinstance(row.ref, TextRef)),
        notes=watch.notes,
    )


def embed_iter(
    images: Images,
    *,
    model: str | Model = DEFAULT_MODEL,
    layers: int | Sequence[int] = -1,
    pool: EmbedPooling | None = None,
    norm: bool = True,
    l2: bool = False,
    on_error: OnError = "row",
    progress: bool = False,
    **running: Unpack[RunningOptions],
) -> Generator[Embedded | Failure, None, None]:
    """Yield the vectors of images one after the other, as `classify_iter` yields labels.

    A row is `Failure`, or `Embedded` with `ref.path` and `embedding`, float32 (D,), or (N, D) for
    pool="patches" and "tokens". The options are those of `embed`. Raises VitError.
    """
    job = EmbedJob(
        inputs=inputs_of(images),
        model=model,
        running=Running(**running),
        layers=_several(layers),
        pool=pool,
        norm=norm,
        l2=l2,
    )
    check_on_error(on_error)
    watch = Watch(progress=progress)
    return streamed(iter_embedded(job, watch), watch, on_error)


def _several(layers: int | Sequence[int]) -> tuple[int, ...]:
    return (layers,) if isinstance(layers, int) else tuple(layers)
