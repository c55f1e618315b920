"""Extract a vector for each image, or for each of its tokens, from any layer of a model."""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from vitcli.engines import EngineName
from vitcli.errors import UsageError
from vitcli.jobs.finite import are_finite, overflow, with_failures
from vitcli.jobs.job import DEFAULT_MODEL, SILENT, Inputs, ModelOptions, Reporter, Running, Summary
from vitcli.jobs.joint import image_width
from vitcli.jobs.layers import layer_number
from vitcli.jobs.listing import list_inputs
from vitcli.jobs.loading import (
    Spec,
    check_one_size,
    describe_model,
    described_merging,
    load_model,
    open_model,
    starter,
)
from vitcli.jobs.outputs import output_of
from vitcli.jobs.precision import settled
from vitcli.jobs.run import Computation, Run
from vitcli.jobs.texts import Texts
from vitcli.jobs.writing import write_rows
from vitcli.records import Batch, Embedded, Failure, Row, Sink
from vitcli.runs.shard import Resuming, check_start
from vitcli.sinks import EMBEDDINGS, choose_format
from vitcli.sinks.format import Format
from vitcli.stores import Place, Url
from vitcli.tasks.embed_texts import TOO_LARGE, embed_texts

if TYPE_CHECKING:  # for types only: importing these is slow
    from vitcli.checkpoints.load import Model
    from vitcli.models.engine import Engine, Output
    from vitcli.models.fields import Pooling

EmbedPooling: TypeAlias = "Pooling | Literal['joint']"
"""How an image becomes a row; *joint* is the vector that is compared with those of texts."""
Floats: TypeAlias = NDArray[np.float32]
NUMPY_DTYPE = {"fp32": "float32", "fp16": "float16"}
# Packages whose versions are in the meta file.
RECORDED = ("torch", "numpy", "pillow")
SHORTEST = np.float32(1e-12)  # vectors that are shorter are divided by this, as torch does


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedJob:
    """One run of `vit embed`. `layers` are numbered like Hugging Face's `hidden_states`: 0 is the
    embedding output, i the output of block i, -1 that of the last. `pool=None` pools as the model
    does; *joint* returns what transformers' `get_image_features` and open_clip's `encode_image`
    return. With `texts`, these are embedded in the joint space, and no images."""

    command: ClassVar[str] = "embed"

    inputs: Inputs
    model: str | Model = DEFAULT_MODEL
    options: ModelOptions = ModelOptions()
    running: Running = Running()
    layers: tuple[int, ...] = (-1,)
    pool: EmbedPooling | None = None
    norm: bool = True
    l2: bool = False
    store: Literal["fp32", "fp16"] = "fp32"
    texts: Texts | None = None
    out: Place | None = None
    format: str | None = None
    overwrite: bool = False
    resuming: Resuming = Resuming()
    config: str | None = None

    def __post_init__(self) -> None:
        check_start(overwrite=self.overwrite, resume=self.resuming.resume)
        if not self.layers:
            raise UsageError("no layer is given", "use --layer -1")
        if self.l2 and self.pool in ("patches", "tokens"):
            raise UsageError(f"--l2 is for vectors, and --pool {self.pool} gives tokens")
        if self.running.merge_tokens and self.pool in ("patches", "tokens"):
            raise UsageError(
                f"--pool {self.pool} gives each patch its vector, and --merge-tokens merges them",
                "leave out --merge-tokens",
            )
        if self.pool == "joint" and self.layers != (-1,):
            raise UsageError("--pool joint reads the last layer", "leave out --layer and --layers")
        if self.pool == "joint" and not self.norm:
            raise UsageError("--pool joint needs the model's final norm", "leave out --no-norm")
        if self.texts is not None:
            self._check_texts()

    def _check_texts(self) -> None:
        """Raise UsageError for an option that has no meaning for texts."""
        running, resuming = self.running, self.resuming
        has_inputs = self.inputs.has_any and not self.inputs.is_implied
        of_images = {
            "INPUTS": has_inputs,
            "--layer": self.layers != (-1,),
            f"--pool {self.pool}": self.pool not in (None, "joint"),
            "--no-norm": not self.norm,
            f"--engine {running.engine}": running.engine != "torch",
            f"--quantize {running.quantize}": running.quantize is not None,
            f"--dtype {running.dtype}": running.dtype not in ("fp32", "auto"),
            "--compile": running.compile,
            f"--merge-tokens {running.merge_tokens}": bool(running.merge_tokens),
            "--resume": resuming.resume,
            f"--shard {resuming.shard}": resuming.shard is not None,
        }
        for option in (option for option, is_given in of_images.items() if is_given):
            raise UsageError(
                f"{option} is for images, and this run embeds texts (--text, --texts)",
                f"leave out {option}; the variables VIT_TEXT and VIT_TEXTS count, too",
            )

    def output_format(self) -> Format:
        """The format of the output. Raises UsageError for an unknown one."""
        return Format(choose_format(self.out, self.format, EMBEDDINGS))


def embed(job: EmbedJob, reporter: Reporter = SILENT, sink: Sink | None = None) -> Summary:
    """Run the job. Rows go to `sink` if there is one, else to the job's output.

    Raises VitError for errors that end the run; an image that fails is a line of the index.
    """
    assert not isinstance(job.out, Url)  # fleet/share.py gives a local file, and uploads it later
    output = output_of(job, job.out, job.output_format())
    if job.texts is not None:
        return embed_texts(
            *(job.texts, job.model, job.options, job.running),
            output=output,
            sink=sink,
            reporter=reporter,
            l2=job.l2,
            dtype=NUMPY_DTYPE[job.store],
            described=output.described({**described_options(job.options), **versions()}),
        )
    listing = list_inputs(job.inputs, reporter.note, shard=job.resuming.shard)
    run = Run(job.inputs, job.running, reporter, listing)
    holds_any = sink is None and output.kind is EMBEDDINGS["jsonl"]
    load, offline = partial(_computation, job, run, holds_any), job.options.offline
    return write_rows(run, output, [job.model], load, sink=sink, offline=offline)


def iter_embedded(
    job: EmbedJob, reporter: Reporter = SILENT
) -> Generator[Embedded | Failure, None, None]:
    """Run the job on images in this process. Return its rows, each as soon as it is there; the
    model is loaded for the first. Raises VitError, at once for inputs that cannot be listed."""
    job = replace(job, running=settled(job.running))
    run = Run(job.inputs, job.running, reporter, list_inputs(job.inputs, reporter.note))

    def rows() -> Iterator[Row]:
        yield from run.rows(_computation(job, run, True, [job.model]))

    return cast(Generator[Embedded | Failure, None, None], rows())


def _computation(job: EmbedJob, run: Run, holds_any: bool, specs: Sequence[Spec]) -> Computation:
    """Load the model, and build the function that the run calls. `holds_any`: the output holds rows
    of different shapes."""
    from vitcli.models.engine import Features, Logits

    note = run.reporter.note
    lazily = job.running.engine != "torch"  # an export may be all that is needed
    model = load_model(specs[0], job.options, note, lazily=lazily)
    layers = [layer_number(layer, model.config, first=0) for layer in job.layers]
    pool = job.pool or model.config.pool
    if pool == "joint":
        shape: tuple[int, ...] = (image_width(model),)
        output: Output = Logits()  # without a classifier
    else:
        shape = model.config.features_shape(layers, pool)
        output = Features(tuple(layers), pool, job.norm)
    plan = model.preprocess
    grids_differ = plan.varies and pool in ("patches", "tokens")
    if grids_differ and not holds_any:
        check_one_size(model, f"an array of --pool {pool}")
    engine = open_model(model, output, job.running, note)
    summary = getattr(model.config, "summary", ())
    meta = {
        **describe_model(model),
        **described_options(job.options),
        **({} if grids_differ else {"row_shape": list(shape)}),
        "layers": layers,
        "pool": pool,
        **({"class_tokens": [number + 1 for number in summary]} if summary else {}),
        "norm": job.norm,
        "l2": job.l2,
        "engine": job.running.engine,
        "dtype": job.running.dtype,
        "quantize": job.running.quantize,
        **described_merging((model,), job.running),
        "array_dtype": NUMPY_DTYPE[job.store],
        "batch_size": job.running.batch_size,
        "grid": None if plan.varies else model.config.layer_grid(layers[0]),
        **versions(),
    }
    forward = _forward(engine, job, plan.patch if grids_differ else None)
    return Computation(plans=(plan,), forward=forward, meta=meta, start=starter(engine))


def described_options(options: ModelOptions) -> dict[str, object]:
    """The options that change what the model computes, for the meta file: `vit search` embeds its
    queries with them."""
    names = (
        "layout",
        "image_size",
        "patch_size",
        "max_patches",
        "preprocess",
        "num_heads",
        "drop",
        "exif",
        "decode",
    )
    default = ModelOptions()
    given = {n: getattr(options, n) for n in names if getattr(options, n) != getattr(default, n)}
    return {"model_options": given} if given else {}


def versions() -> dict[str, object]:
    """The versions of this program and of what it runs on, for the meta file."""
    packages = {name: version(name) for name in ("vitcli", *RECORDED)}
    return {"versions": {"python": platform.python_version(), **packages}}


def _forward(
    engine: Engine, job: EmbedJob, patch: int | None
) -> Callable[[Batch], list[Embedded | Failure]]:
    """Return the function from a batch to its rows. With `patch`, the side of a patch, the rows say
    their grids."""
    dtype = np.dtype(NUMPY_DTYPE[job.store])

    def forward(batch: Batch) -> list[Embedded | Failure]:
        pixels, grid = batch.pixels_for(), None
        if patch is not None:
            grid = pixels.shape[1] // patch, pixels.shape[2] // patch
        vectors = engine(pixels)
        good = are_finite(vectors)
        if job.l2:
            vectors, norms = _unit(vectors, job.running.engine)
            good = are_finite(norms)  # finite values may have an infinite norm
        with np.errstate(over="ignore"):
            arrays = vectors.astype(dtype)
        embedded = [
            Embedded(ref, array, grid) for ref, array in zip(batch.refs, arrays, strict=True)
        ]
        fitting = are_finite(arrays) if job.store == "fp16" else good
        rows = with_failures(embedded, fitting, TOO_LARGE)
        return with_failures(rows, good, overflow(job.running))

    return forward


def _unit(vectors: Floats, engine: EngineName) -> tuple[Floats, Floats]:
    """Scale vectors to unit length, with torch for its own engine; vectors of zeros stay. Return
    them and their lengths before, which may be infinite.  (..., D) -> (..., D), (..., 1)"""
    if engine == "torch":
        import torch
        from torch.nn import functional as F

        tensor = torch.from_numpy(vectors)
        return F.normalize(tensor, dim=-1).numpy(), tensor.norm(dim=-1, keepdim=True).numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # the rows of such images are failures
        exact = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
        lengths = exact.astype(np.float32)
        return vectors / np.maximum(lengths, SHORTEST), lengths
