"""Queries into vectors of the space of an index: by the model and the options of its meta."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from vitcli.engines import ENGINES, DtypeName, Quantize
from vitcli.errors import InputError, UsageError, printable
from vitcli.indexes.files import opened
from vitcli.indexes.index import Index
from vitcli.indexes.meta import SPACE, shown
from vitcli.indexes.read import is_index, read_part
from vitcli.jobs.apart import Read
from vitcli.jobs.job import Inputs, ModelOptions, Reporter, Running
from vitcli.jobs.of_index import read_of_index
from vitcli.jobs.texts import Texts
from vitcli.records import Decode, Embedded, Failure, ImageRef, TextClean
from vitcli.sinks.memory import ListSink
from vitcli.stores import is_remote

if TYPE_CHECKING:  # imports torch, which --like does not need
    from vitcli.checkpoints.load import Model

Kind: TypeAlias = Literal["image", "text", "like", "vector"]
MINUS = " - "  # between the texts of a query: beach - people


@dataclass(frozen=True, slots=True)
class Query:
    """One search: a name, and a vector (D,) or else the reason why there is none.
    `own` is the row of the index that is the query."""

    kind: Kind
    name: str
    vector: NDArray[np.floating] | None = None
    own: int | None = None
    error: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The queries of a job, as the user names them. `minus` is subtracted from each text. `vectors`
    is a file of vectors or an array (Q, D)."""

    inputs: Inputs = Inputs()
    texts: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    like: tuple[str | int, ...] = ()  # a number is a row; a text is a path, or else a number
    vectors: str | NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        if not (self.inputs.has_any or self.texts or self.like or self.vectors is not None):
            raise UsageError(
                "nothing to search for is given",
                "name images, or use --text, --like or --vectors",
            )
        if self.minus and not self.texts:
            raise UsageError("--minus has no effect without --text", "add --text TEXT")
        for path in self.inputs.paths:
            if is_index(path):
                raise UsageError(
                    f"{printable(path)} is an index, and queries are images",
                    "quote a pattern of index files: 'feats-*.npy'; or add each with --index, and "
                    "a file of queries with --vectors",
                )
        for option, several in (("--text", self.texts), ("--minus", self.minus)):
            if any(not text.strip() for text in several):
                raise UsageError(f"{option} is blank", "give a text")

    @property
    def needs_model(self) -> bool:
        """Whether a query has to be embedded."""
        return bool(self.texts) or self.inputs.has_any


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """How queries are embedded, where it is not as the index says. `model=None` is the model of the
    index's meta."""

    model: str | Model | None = None
    running: Running = Running()
    clean: TextClean | None = None
    tokenizer: str | None = None
    offline: bool = False


def iter_queries(
    index: Index, asked: Asked, how: Embedding, reporter: Reporter
) -> Iterator[list[Query]]:
    """Yield the queries of each kind: images, texts, rows of the index, vectors. Raises VitError;
    an image that fails is a query with an error."""
    if asked.texts and index.meta and (pool := index.meta.get("pool")) != "joint":
        raise UsageError(
            f"{index.label} is not of the joint space of images and texts (its --pool is "
            f"{printable(str(pool))})",
            "make one: vit embed IMAGES -m MODEL --pool joint -o joint.npy "
            "(vit models --for words lists models)",
        )
    if asked.needs_model:
        model, options = _model_of(index, how, reporter)
        if asked.inputs.has_any:
            yield _images(index, asked.inputs, model, options, how, reporter)
        if asked.texts:
            yield _texts(index, asked, model, how, reporter)
    if asked.like:
        yield [_like(index, name) for name in asked.like]
    if asked.vectors is not None:
        yield _vectors(index, asked.vectors)


def _model_of(index: Index, how: Embedding, reporter: Reporter) -> tuple[Model, ModelOptions]:
    """Load the model of the index with its options. Raises UsageError if its weights or its
    preprocessing are not those of the index."""
    from vitcli.jobs.loading import describe_model, load_model
    from vitcli.models.fields import Pool

    meta = index.meta
    if not meta:
        raise UsageError(
            f"{index.label} has no meta file, which names its model",
            "move feats.meta.json with feats.npy; --like and --vectors need no model",
        )
    of_layers = ("layers", "norm") if meta.get("pool") != "joint" else ()
    for name in ("model", "sha256", "preprocess", "pool", "l2", *of_layers):
        if meta.get(name) is None:
            raise not_known(index, f"says no {name}")
    choices: Mapping[str, Collection[str]] = {
        "pool": (*get_args(Pool), "joint"),
        "engine": ENGINES,
        "dtype": get_args(DtypeName),
        "quantize": get_args(Quantize),
    }
    for name, known in choices.items():
        if meta.get(name) not in (None, *known):
            raise not_known(index, f"says {name}: {shown(meta[name])}")
    options = model_options(index, offline=how.offline)
    spec = how.model
    if spec is None:
        spec = str(meta["model"])
        if meta.get("revision") and "@" not in spec:
            spec = f"{spec}@{meta['revision']}"
    reporter.doing("loading the model")
    model = load_model(spec, options, reporter.note)
    made = json.loads(json.dumps(describe_model(model)))  # pairs as a meta file has them
    for name in ("sha256", "preprocess", "patch_size"):
        if made.get(name) != meta.get(name):
            raise UsageError(
                f"{model.spec} is not the model of {index.label}: they differ in {SPACE[name]}",
                f"the index is of {printable(str(meta['model']))}, {name} {shown(meta.get(name))}; "
                "name it with -m, or write the index again",
            )
    return model, options


def not_known(index: Index, what: str) -> InputError:
    """The error of a meta file by which a query cannot be embedded."""
    return InputError(
        f"the meta file of {index.label} {what}, so queries cannot be embedded as its rows were",
        "write the index again: vit embed --overwrite; --like and --vectors need no model",
    )


def model_options(index: Index, *, offline: bool = False) -> ModelOptions:
    """The options of the model that made an index. Raises InputError for one that is not known."""
    given: dict[str, Any] = {}
    for name, value in (index.meta.get("model_options") or {}).items():
        is_right = OPTIONS.get(name)
        if is_right is None or not is_right(value):
            raise not_known(index, f"has the option {printable(name)}: {shown(value)}")
        given[name] = tuple(value) if isinstance(value, list) else value
    return ModelOptions(**given, offline=offline)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


OPTIONS: Mapping[str, Callable[[Any], bool]] = {
    "layout": _is_text,
    "image_size": _is_size,
    "patch_size": _is_size,
    "max_patches": _is_count,
    "preprocess": _is_text,
    "num_heads": _is_count,
    "drop": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "exif": lambda value: isinstance(value, bool),
    "decode": lambda value: value in get_args(Decode),
}
"""The options of a model in a meta file, each with a test of its value."""


def _running(index: Index, how: Embedding) -> Running:
    """The device of the run, and the engine, the precision and the merging of the index."""
    if index.names == "text":
        return how.running
    names = ("engine", "dtype", "quantize", "merge_tokens")
    made = {name: index.meta[name] for name in names if index.meta.get(name) is not None}
    return replace(how.running, **made)


def _images(
    index: Index,
    inputs: Inputs,
    model: Model,
    options: ModelOptions,
    how: Embedding,
    reporter: Reporter,
) -> list[Query]:
    from vitcli.tasks.embed import EmbedJob, embed

    meta, sink = index.meta, ListSink()
    is_joint = meta["pool"] == "joint"
    embed(
        EmbedJob(
            inputs=inputs,
            model=model,
            options=options,
            running=_running(index, how),
            layers=(-1,) if is_joint else tuple(meta["layers"]),
            pool=meta["pool"],
            norm=True if is_joint else meta["norm"],
            l2=meta["l2"],
        ),
        reporter,
        sink,
    )
    queries = []
    for row in sink.rows:
        assert isinstance(row, Embedded | Failure) and isinstance(row.ref, ImageRef)
        if isinstance(row, Failure):
            error = {"type": row.type.value, "message": row.message}
            queries.append(Query("image", row.ref.path, error=error))
        else:
            queries.append(Query("image", row.ref.path, row.embedding))
    return queries


def _texts(
    index: Index, asked: Asked, model: Model, how: Embedding, reporter: Reporter
) -> list[Query]:
    """The queries of texts: unit vectors, those of `minus` subtracted from each."""
    from vitcli.jobs.job import SILENT
    from vitcli.tasks.embed import EmbedJob, embed

    sink = ListSink()
    embed(
        EmbedJob(
            inputs=Inputs(),
            model=model,
            running=replace(how.running, dtype="fp32", engine="torch", quantize=None),
            pool="joint",
            l2=bool(asked.minus) or bool(index.meta["l2"]),
            texts=Texts(
                texts=(*asked.texts, *asked.minus), clean=how.clean, tokenizer=how.tokenizer
            ),
        ),
        SILENT,
        sink,
    )
    vectors = [row.embedding.astype(np.float64) for row in sink.rows if isinstance(row, Embedded)]
    plus, minus = vectors[: len(asked.texts)], vectors[len(asked.texts) :]
    less = sum(minus, start=np.zeros(index.width)) if minus else 0.0
    return [
        Query("text", MINUS.join((text, *asked.minus)), vector - less)
        for text, vector in zip(asked.texts, plus, strict=True)
    ]


def _like(index: Index, name: str | int) -> Query:
    """A row of the index, by its name or else its number."""
    row = index.row_of(name) if isinstance(name, str) else name
    if row is None and isinstance(name, str) and name.isdecimal() and len(name) < 19:
        row = int(name)
    if row is not None and row >= index.count:
        raise UsageError(
            f"--like {row}: {index.label} has {index.count:,} rows", "they count from 0"
        )
    if row is None:
        raise UsageError(
            f"--like {printable(str(name))} is not in {index.label}",
            "give a path as it is in the index, or the number of a row; without --like, an image "
            "is embedded by the model",
        )
    return Query("like", index.name(row), index.gather([row])[0], row)


def row_of(query: Query, index: Index) -> int | None:
    """The row of the query's own file; None if the index does not have it."""
    if query.kind == "image" and index.names == "path":
        return index.row_of(query.name)
    return query.own


def _vectors(index: Index, vectors: str | NDArray[np.floating]) -> list[Query]:
    """The rows of a file or an array, named by their numbers."""
    if isinstance(vectors, str):
        part = read_part(vectors, opened(vectors))
        if part.width == index.width:
            read = np.empty((part.count, part.width), np.float32)
            part.fill(read, 0)
            array: NDArray[np.floating] = read
        else:
            array = np.empty((0, part.width))
        label = printable(vectors)
    else:
        label = "vectors"
        try:
            array = np.atleast_2d(np.asarray(vectors))
        except (ValueError, TypeError, RuntimeError):  # rows of several lengths
            array = np.empty(0, object)
        if array.dtype.kind != "f" or array.ndim != 2:
            raise InputError(
                f"{label} is an array of {array.dtype} {array.shape}", "give floats (Q, D)"
            )
    if array.shape[1] != index.width:
        raise InputError(
            f"{label} has {array.shape[1]} numbers a row, and {index.label} {index.width}",
            "they are not of one model",
        )
    if not len(array):
        raise InputError(f"{label} has no rows")
    if not np.isfinite(array).all():
        raise InputError(f"{label} holds NaN or infinity")
    return [Query("vector", str(row), vector) for row, vector in enumerate(array)]


def checked_vectors(queries: Sequence[Query], *, needs_length: bool) -> list[Query]:
    """The queries, those of zeros with an error where a cosine is asked for."""
    error = {"type": "NotFinite", "message": "the vector is all zeros, and has no cosine"}
    return [
        replace(query, vector=None, error=error)
        if needs_length and query.vector is not None and not query.vector.any()
        else query
        for query in queries
    ]


def files_read(asked: Asked) -> Iterator[Read]:
    """The files of vectors that a run reads."""
    if isinstance(asked.vectors, str) and not is_remote(asked.vectors):
        for file, _ in read_of_index((asked.vectors,)):
            yield file, "a file of --vectors"
