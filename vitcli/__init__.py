"""Classify images and extract features from them with Vision Transformers.

    import vitcli

    model = vitcli.load("google/vit-base-patch16-224")
    for row in vitcli.classify(["photos/"], model=model, top_k=3):
        ...
    found = vitcli.embed(["photos/"], model=model)
    found.embeddings.shape  # (images, 768)
    for row in vitcli.attention(["photos/"], model=model):
        row.maps[0].values.shape  # (heads, 14, 14)

Importing this package imports neither torch nor Pillow; the functions do, when they are called.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack

from vitcli.engines import DtypeName, EngineName, Quantize
from vitcli.errors import VitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from vitcli.checkpoints.load import Model
    from vitcli.images.stream import ImageStream
    from vitcli.indexes.index import Index
    from vitcli.jobs.words import Classes
    from vitcli.models.attention import Heads
    from vitcli.records import Attended, Classified, Failure, TextClean
    from vitcli.render.heat import Colours
    from vitcli.render.styles import StyleName
    from vitcli.tasks.attention.query import Layer, Method
    from vitcli.tasks.dedupe.keep import Keep
    from vitcli.tasks.dedupe.links import Linkage
    from vitcli.tasks.dedupe.twin import Kind, Twin
    from vitcli.tasks.embed import EmbedPooling

__version__ = "0.1.0"
__all__ = [
    "Embeddings",
    "ImageMap",
    "ImageStream",
    "Twin",
    "VitError",
    "__version__",
    "attention",
    "classify",
    "dedupe",
    "embed",
    "load",
    "map",
    "search",
]


def __getattr__(name: str) -> object:
    """Import ImageStream, a torch dataset, and Twin when they are needed."""
    if name == "Twin":
        from vitcli.tasks.dedupe.twin import Twin

        return Twin
    if name != "ImageStream":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vitcli.images.stream import ImageStream

    return ImageStream


Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
IndexLike: TypeAlias = "Paths | NDArray[Any]"


class RunningOptions(TypedDict, total=False):
    """Options of running a model. By default one worker process for each processor decodes, at most
    8; with workers=0 this process does. `attention` runs on engine="torch" only."""

    device: str  # "auto"
    dtype: DtypeName  # "fp32"
    engine: EngineName  # "torch"
    quantize: Quantize | None
    compile: bool
    batch_size: int | Literal["auto"]  # 16
    workers: int | None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The result of `embed`: `embeddings[i]` belongs to `paths[i]`; other images are in `failures`.
    For texts it belongs to `texts[i]`.

    embeddings: (images, D), or (images, N, D) for pool="patches" and "tokens".
    meta: model, sha256 of the weights, layers, pool, preprocessing, versions, counts, seconds.
    """

    embeddings: NDArray[np.float32]
    paths: tuple[str, ...]
    failures: tuple[Failure, ...]
    meta: dict[str, object]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageMap:
    """The result of `map`: row i of each field belongs to `paths[i]`.

    x, y: (N,). clusters: (N,), from 0, which is the largest; distances: (N,), to the middle of the
    cluster. Both are None for clusters="none". labels: a text or None for each image, with `color`.
    explained: the shares of the variance along x and y, for method="pca".
    """

    paths: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    clusters: NDArray[np.int64] | None
    distances: NDArray[np.float64] | None
    labels: tuple[str | None, ...] | None
    explained: tuple[float, ...] | None


def load(
    spec: str,
    *,
    labels: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    preprocess: Literal["hf", "timm"] | None = None,
    layout: str | None = None,
    num_heads: int | None = None,
    exif: bool = True,
    decode: Literal["exact", "fast"] = "exact",
    offline: bool = False,
    drop: Sequence[str] = (),
) -> Model:
    """Load a model: a hub id (`org/name`, `org/name@revision`), a directory, a file, or "demo".

    decode="fast" reads large images at a fraction of their size: close pixels, not equal ones.
    image_size is one number or (height, width); position embeddings are resampled for it. So is
    patch_size, for which the patch embedding is resampled as well. The network (`.network`) is in
    eval mode, fp32, on the CPU: pixels (B, 3, H, W) -> logits (B, K). drop ignores tensors that
    do not belong to the model, by pattern: "criterion.*".
    Raises VitError: ModelNotFound, CheckpointError with the tensor's name, or UsageError.
    """
    from pathlib import Path

    from vitcli.checkpoints.load import load as load_model

    return load_model(
        spec,
        labels=None if labels is None else Path(labels),
        image_size=_pair(image_size),
        patch_size=_pair(patch_size),
        preprocess=preprocess,
        layout=layout,
        num_heads=num_heads,
        exif=exif,
        decode=decode,
        offline=offline,
        drop=(drop,) if isinstance(drop, str) else drop,
    )


def classify(
    paths: Paths,
    *,
    model: str | Model | Sequence[str | Model] = "google/vit-base-patch16-224",
    top_k: int = 5,
    scores: Literal["prob", "softmax", "sigmoid", "logit", "cosine"] = "prob",
    classes: Classes | None = None,
    templates: str | Sequence[str] | None = None,
    text_clean: TextClean | None = None,
    tokenizer: str | None = None,
    devices: Literal["all"] | Sequence[str] = (),
    ray: str | None = None,
    **running: Unpack[RunningOptions],
) -> list[Classified | Failure]:
    """Return the best labels of every image: one row for each, in input order.

    paths: files, directories (recursive) or glob patterns. A row is `Classified` with `ref.path`
    and `predictions`, or `Failure` with `type` and `message`. The scores of several models are
    averaged. scores: "prob" is what the head is trained for (softmax, sigmoid, or the number of a
    regression); the others override it. devices ("all", or ["cuda:0", "cuda:1"]): one process for
    each shares the work. ray: the address of a Ray cluster whose workers share it. Both need names
    of models, not loaded ones. classes: for a model with a text tower, the labels in words (["cat",
    "a red car"]), or phrases for each label ({"car": ["a car", "a van"]}). templates: "simple",
    "openai", "none", or templates such as "a photo of a {}."; the texts of a class are averaged.
    text_clean, tokenizer: instead of the model's. Raises VitError for an error that ends the run.
    """
    from vitcli.fleet.share import share
    from vitcli.jobs.job import Inputs, Running
    from vitcli.jobs.words import words_of
    from vitcli.records import Classified, Failure
    from vitcli.sinks.memory import ListSink
    from vitcli.tasks.classify.classify import ClassifyJob

    several = isinstance(model, Sequence) and not isinstance(model, str)
    sink = ListSink()
    share(
        ClassifyJob(
            inputs=Inputs(paths=_texts(paths)),
            models=tuple(model) if several else (model,),  # type: ignore[arg-type]
            running=Running(**running),
            top_k=top_k,
            scores=scores,
            words=words_of(classes, templates=templates, clean=text_clean, tokenizer=tokenizer),
        ),
        devices=_texts(devices),
        ray=ray,
        sink=sink,
    )
    return [row for row in sink.rows if isinstance(row, Classified | Failure)]


def embed(
    paths: Paths | None = None,
    *,
    texts: str | Sequence[str] | None = None,
    model: str | Model = "google/vit-base-patch16-224",
    layers: int | Sequence[int] = -1,
    pool: EmbedPooling | None = None,
    norm: bool = True,
    l2: bool = False,
    text_clean: TextClean | None = None,
    tokenizer: str | None = None,
    devices: Literal["all"] | Sequence[str] = (),
    ray: str | None = None,
    **running: Unpack[RunningOptions],
) -> Embeddings:
    """Return a vector for every image that decodes, or every text, in order, all in memory.

    texts: instead of paths, for a model with a text tower: `get_text_features` of transformers,
    `encode_text` of open_clip, to compare with pool="joint". text_clean, tokenizer: instead of the
    model's.

    layers: Hugging Face's `hidden_states` numbers (0 the embedding output, -1 the last); several
    are concatenated. pool: "cls", "mean", "cls+mean", "map", "patches", "tokens", or None for the
    model's own; "joint" is the vector to compare with texts: `get_image_features` of transformers,
    `encode_image` of open_clip. norm applies the model's final LayerNorm. devices and ray are as in
    `classify`. Raises VitError for an error that ends the run.
    """
    import numpy as np

    from vitcli.errors import UsageError
    from vitcli.fleet.share import share
    from vitcli.jobs.job import Inputs, Running
    from vitcli.jobs.texts import texts_of
    from vitcli.records import Embedded, Failure, ImageRef, TextRef
    from vitcli.sinks.memory import ListSink
    from vitcli.tasks.embed import EmbedJob

    if paths is None and texts is None:
        raise UsageError("neither paths nor texts are given", "give one of them")
    sink = ListSink()
    share(
        EmbedJob(
            inputs=Inputs(paths=() if paths is None else _texts(paths)),
            texts=texts_of(texts, clean=text_clean, tokenizer=tokenizer),
            model=model,
            running=Running(**running),
            layers=(layers,) if isinstance(layers, int) else tuple(layers),
            pool=pool,
            norm=norm,
            l2=l2,
        ),
        devices=_texts(devices),
        ray=ray,
        sink=sink,
    )
    good = [row for row in sink.rows if isinstance(row, Embedded)]
    shape = tuple(sink.meta["row_shape"])  # type: ignore[arg-type, var-annotated]
    empty = np.empty((0, *shape), np.float32)
    return Embeddings(
        embeddings=np.stack([row.embedding for row in good]).astype(np.float32) if good else empty,
        paths=tuple(row.ref.path for row in good if isinstance(row.ref, ImageRef)),
        failures=tuple(row for row in sink.rows if isinstance(row, Failure)),
        meta=dict(sink.meta),
        texts=tuple(row.ref.text for row in good if isinstance(row.ref, TextRef)),
    )


def attention(
    paths: Paths,
    *,
    model: str | Model = "google/vit-base-patch16-224",
    method: Method = "raw",
    layers: int | Sequence[Layer] | Literal["all"] | None = None,
    heads: Heads | None = None,
    query: tuple[float, float] | Literal["cls"] | None = None,
    target: str | int = "top1",
    discard_ratio: float = 0.0,
    out: str | os.PathLike[str] | None = None,
    style: StyleName = "overlay",
    colormap: Colours = "inferno",
    alpha: float = 0.5,
    mass: float = 0.6,
    size: int | None = None,
    raw: bool = False,
    overwrite: bool = False,
    **running: Unpack[RunningOptions],
) -> list[Attended | Failure]:
    """Return the attention maps of every image: one row for each, in input order, all in memory.

    A row is `Failure`, or `Attended` with `ref.path` and `maps`. The maps of a layer have `values`,
    float32 (heads, h, w), one for each patch, and `box`, the part of the upright image that they
    cover: (top, left, bottom, right) as fractions of its sides.
    layers: numbers from 1, -1 for the last, or ["pool"] for an attention pooling. heads: "mean",
    "max" or "min" fuses them; "all", or a number from 1. query: "cls", or the patch at (x, y) in
    pixels of the image. target: the class of method="grad" by its label or number, or "top1".
    out: a folder for drawings of the maps in a `style`, and with `raw` for their values; the
    `files` of a row are their names. Raises VitError for an error that ends the run.
    """
    from pathlib import Path

    from vitcli.jobs.job import Inputs, Running
    from vitcli.records import Attended, Failure
    from vitcli.render.styles import Style
    from vitcli.sinks.memory import ListSink
    from vitcli.tasks.attention.attention import AttentionJob
    from vitcli.tasks.attention.attention import attention as run
    from vitcli.tasks.attention.query import AttentionQuery, Point

    sink = ListSink()
    run(
        AttentionJob(
            inputs=Inputs(paths=_texts(paths)),
            model=model,
            running=Running(**running),
            look=AttentionQuery(
                method=method,
                layers=(layers,) if isinstance(layers, int) else layers,
                heads=heads,
                query=Point(*query) if isinstance(query, tuple) else query,
                target=target,
                discard=discard_ratio,
            ),
            style=Style(name=style, colours=colormap, alpha=alpha, mass=mass, size=size),
            raw=raw,
            out=None if out is None else Path(out),
            overwrite=overwrite,
        ),
        sink=sink,
    )
    return [row for row in sink.rows if isinstance(row, Attended | Failure)]


def map(
    index: IndexLike,
    paths: Sequence[str | os.PathLike[str]] | None = None,
    *,
    method: Literal["pca", "umap"] = "pca",
    clusters: int | Literal["auto", "none"] = "auto",
    metric: Literal["cosine", "euclidean"] = "cosine",
    color: str | os.PathLike[str] | None = None,
    color_column: str | None = None,
    seed: int = 0,
) -> ImageMap:
    """Return a place in the plane, a cluster and the distance to its middle for every image.

    index: files that `vit embed` wrote, or an array (N, D) whose rows belong to `paths`. metric:
    "cosine" compares vectors by their angle; "euclidean" as they are stored. clusters: the number,
    or "auto" for the one with the best silhouette. color: a table with labels (an output of `vit
    classify`), or "folders". The same seed gives the same numbers. Raises VitError.
    """
    from pathlib import Path

    from vitcli.indexes.index import mapped
    from vitcli.jobs.job import SILENT
    from vitcli.tasks.map.labels import FOLDERS, Coloring
    from vitcli.tasks.map.map import MapJob, check_job, compute

    found = _index(index, paths)
    coloring = None
    if color is not None:
        file = None if color == FOLDERS else Path(color)
        coloring = Coloring(file, color_column)
    job = MapJob(
        index=found, method=method, clusters=clusters, metric=metric, color=coloring, seed=seed
    )
    check_job(job)
    with mapped(found) as opened:
        made = compute(opened, job, SILENT)
        labels = None
        if made.labels is not None:
            labels = tuple(made.labels.names[c] if c >= 0 else None for c in made.labels.codes)
        return ImageMap(
            paths=tuple(opened.iter_names()),
            x=made.x,
            y=made.y,
            clusters=made.clusters,
            distances=made.distances,
            labels=labels,
            explained=made.explained,
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """A row of an index that a search has found: its path (or its text), score and row."""

    path: str
    score: float
    row: int


@dataclass(frozen=True, slots=True)
class Found:
    """The hits of one query, best first. `error` says why there are none. `kind` is "image",
    "text", "like" or "vector"."""

    query: str
    kind: str
    hits: tuple[Hit, ...] = ()
    error: str | None = None


def search(
    index: IndexLike,
    queries: Paths | None = None,
    *,
    texts: str | Sequence[str] = (),
    minus: str | Sequence[str] = (),
    like: str | int | Sequence[str | int] = (),
    vectors: NDArray[np.floating] | str | os.PathLike[str] | None = None,
    paths: Sequence[str | os.PathLike[str]] | None = None,
    k: int = 10,
    threshold: float | None = None,
    metric: Literal["cosine", "dot"] = "cosine",
    not_itself: bool = False,
    model: str | Model | None = None,
    text_clean: TextClean | None = None,
    tokenizer: str | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> list[Found]:
    """Return the rows of an index nearest to each query: exact, ties by row, best first.

    index: files that `vit embed` wrote (a path, a pattern, or several), or an array (N, D) with a
    path for each row in `paths`. queries: images, which the model of the index embeds; texts: for
    an index of the joint space, `minus` subtracted from each; like: paths or numbers of rows;
    vectors: an array (Q, D) or a file. Found come in this order. Raises VitError.
    """
    from pathlib import Path

    from vitcli.jobs.job import Inputs, Running
    from vitcli.tasks.search.queries import Asked, Embedding
    from vitcli.tasks.search.search import SearchJob
    from vitcli.tasks.search.search import search as run

    opened = _index(index, paths)
    rows: list[Found] = []

    def keep(records: Iterable[Mapping[str, Any]]) -> None:
        for record in records:
            hits = [
                Hit(item[opened.names], item["score"], item["row"])
                for item in record.get("results", ())
            ]
            error = record.get("error")
            words = None if error is None else f"{error['type']}: {error['message']}"
            rows.append(Found(record["query"], record["kind"], tuple(hits), words))

    given = (like,) if isinstance(like, str | int) else tuple(like)
    of_file = isinstance(vectors, str | Path | os.PathLike)
    run(
        SearchJob(
            index=opened,
            asked=Asked(
                inputs=Inputs(paths=() if queries is None else _texts(queries)),
                texts=(texts,) if isinstance(texts, str) else tuple(texts),
                minus=(minus,) if isinstance(minus, str) else tuple(minus),
                like=tuple(str(one) for one in given),
                vectors=os.fspath(vectors) if of_file else vectors,  # type: ignore[arg-type]
            ),
            embedding=Embedding(
                model=model,
                running=Running(device=device, workers=workers),
                clean=text_clean,
                tokenizer=tokenizer,
            ),
            k=k,
            threshold=threshold,
            metric=metric,
            not_itself=not_itself,
        ),
        write=keep,
    )
    return rows


def _index(index: IndexLike, paths: Sequence[str | os.PathLike[str]] | None) -> Index:
    """Open an index: files, or an array with the path of each row."""
    from vitcli.errors import UsageError
    from vitcli.indexes.index import index_of, open_index

    is_array = hasattr(index, "shape")
    if is_array:
        return index_of(index, paths)  # type: ignore[arg-type]
    if paths is not None:
        raise UsageError("paths has no effect for an index of files", "leave it out")
    return open_index(_texts(index))


def dedupe(
    index: str | os.PathLike[str] | Sequence[str] | ArrayLike,
    *,
    paths: Sequence[str | os.PathLike[str]] | None = None,
    threshold: float | None = None,
    kind: str | Sequence[Kind] | None = None,
    linkage: Linkage = "star",
    keep: Keep | None = None,
    like_pairs: Sequence[tuple[str, str]] = (),
    workers: int | None = None,
) -> list[Twin]:
    """Return the members of the groups of images that are there twice: a `Twin` for each, the kept
    one of a group first. No file is changed.

    index: what `vit embed` has written (a path, or several), or an array (N, D) of floats with the
    path of each row in `paths`; without paths only vectors are compared. kind: "bytes" (the same
    file), "pixels" (the same upright RGB), "near" (a cosine of at least `threshold`), several in a
    sequence or with commas; None for all that the files allow. Without `threshold` one is chosen
    from the scores, or set by `like_pairs` of paths. linkage: "star" (all within the threshold of
    the kept one), "complete" or "single". keep: "largest" (the default), "first", "oldest",
    "newest". Files that cannot be read are told by a RuntimeWarning. Raises VitError.
    """
    import warnings

    import numpy as np

    from vitcli.errors import printable
    from vitcli.indexes.index import index_of, mapped, open_index
    from vitcli.jobs.job import SILENT, Inputs
    from vitcli.tasks.dedupe.dedupe import files_of, kinds_of
    from vitcli.tasks.dedupe.find import Options, find
    from vitcli.tasks.dedupe.partial import Partial

    is_spec = isinstance(index, str | os.PathLike) or (
        isinstance(index, Sequence) and all(isinstance(one, str | os.PathLike) for one in index)
    )
    opened = (
        open_index(_texts(index))  # type: ignore[arg-type]
        if is_spec
        else index_of(np.asarray(index), paths)
    )
    is_bare = not is_spec and paths is None
    options = Options(
        threshold=threshold,
        kinds=kinds_of(kind) or (("near",) if is_bare else None),
        linkage=linkage,
        keep=keep or ("first" if is_bare else None),
        known=tuple((os.fspath(a), os.fspath(b)) for a, b in like_pairs),
    )
    with mapped(opened) as rows:
        files = files_of(rows, Inputs(), workers, SILENT)
        twins = find(rows, options, files, Partial(None, {}), SILENT).twins
    if files.failures:
        first = files.failures[min(files.failures)]
        warnings.warn(
            f"{len(files.failures):,} of {opened.count:,} files could not be read: "
            f"{printable(first.ref.path)}: {first.message}",
            RuntimeWarning,
            stacklevel=2,
        )
    return twins


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _texts(paths: Paths) -> tuple[str, ...]:
    if isinstance(paths, str | os.PathLike):
        return (os.fspath(paths),)
    return tuple(os.fspath(path) for path in paths)
