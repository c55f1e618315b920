"""Classify images and extract features from them with Vision Transformers.

    import vitcli

    model = vitcli.load("google/vit-base-patch16-224")
    for row in vitcli.classify(["photos/"], model=model, top_k=3):
        ...
    found = vitcli.embed(["photos/"], model=model)
    found.embeddings.shape  # (images, 768)
    for row in vitcli.attention(["photos/"], model=model):
        row.maps[0].values.shape  # (heads, 14, 14)
    for row in vitcli.search("feats.npy", ["cat.jpg"], k=5):
        ...

Importing this package imports neither torch nor Pillow; the functions do, when they are called.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from vitcli.engines import DtypeName, EngineName, Quantize
from vitcli.errors import VitError
from vitcli.vectors import Found, Hit, ImageMap, dedupe, map, search

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vitcli.checkpoints.load import Model
    from vitcli.images.stream import ImageStream
    from vitcli.jobs.words import Classes
    from vitcli.models.attention import Heads
    from vitcli.records import Attended, Classified, Failure, TextClean
    from vitcli.render.heat import Colours
    from vitcli.render.styles import StyleName
    from vitcli.tasks.attention.query import Layer, Method
    from vitcli.tasks.dedupe.twin import Twin
    from vitcli.tasks.embed import EmbedPooling

__version__ = "0.1.0"
__all__ = [
    "Embeddings",
    "Found",
    "Hit",
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


def load(
    spec: str,
    *,
    labels: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    max_patches: int | None = None,
    preprocess: Literal["hf", "hf-fast", "timm"] | None = None,
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
    patch_size, for which the patch embedding is resampled as well. max_patches is how many patches
    an image may have in a model for images of any shape (SigLIP 2's NaFlex). The network
    (`.network`) is in eval mode, fp32, on the CPU: pixels (B, 3, H, W) -> logits (B, K). drop
    ignores tensors that do not belong to the model, by pattern: "criterion.*".
    Raises VitError: ModelNotFound, CheckpointError with the tensor's name, or UsageError.
    """
    from pathlib import Path

    from vitcli.checkpoints.load import load as load_model

    return load_model(
        spec,
        labels=None if labels is None else Path(labels),
        image_size=_pair(image_size),
        patch_size=_pair(patch_size),
        max_patches=max_patches,
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


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _texts(paths: Paths) -> tuple[str, ...]:
    if isinstance(paths, str | os.PathLike):
        return (os.fspath(paths),)
    return tuple(os.fspath(path) for path in paths)
