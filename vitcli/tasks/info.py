"""Describe a checkpoint: its sizes, cost, preprocessing and labels, and their sources."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.scoring import DESCRIBED, ScoreFunction
from vitcli.errors import CheckpointError, VitError, printable
from vitcli.jobs.job import DEFAULT_MODEL, ModelOptions
from vitcli.jobs.loading import load_model
from vitcli.jobs.word_head import open_tokenizer
from vitcli.models.config import ViTConfig
from vitcli.models.cost import cost
from vitcli.models.swin_config import SwinConfig
from vitcli.records import by

MAX_LABELS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoJob:
    """One run of `vit info`."""

    model: str | Model = DEFAULT_MODEL
    options: ModelOptions = ModelOptions()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the preprocessing, and its source."""

    step: str
    source: str


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One weight file: its name, and its length in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Everything that is known about a model, ready for printing.

    `sizes` is the config for programs, `described` the same for people. `text` describes the text
    tower, and how images are compared with texts. `scores` is the function
    that turns logits into scores: softmax, sigmoid or none. `gflops` are 10^9 multiply-adds for one
    image at this resolution (see `vitcli.models.cost`).
    """

    model: str
    revision: str | None
    layout: str
    architecture: str
    parameters: int
    gflops: float
    dtypes: tuple[str, ...]
    files: tuple[WeightFile, ...]
    sha256: str
    sizes: dict[str, object]
    described: dict[str, str]
    num_labels: int
    labels: tuple[str, ...]
    labels_source: str
    text: dict[str, str] | None
    problem_type: str | None
    scores: ScoreFunction | None
    preprocess: tuple[Step, ...]
    notes: tuple[str, ...]


def info(job: InfoJob) -> ModelInfo:
    """Load the model without torch where that is possible, check every fact, and describe it.
    Raises VitError."""
    model = load_model(job.model, job.options, lazily=True)
    model.check()
    plan = model.preprocess
    price = cost(model.config)
    if plan.varies:  # the largest square image
        largest = replace(model.config, image_size=plan.size)
        price = replace(price, multiply_adds=cost(largest).multiply_adds)
    return ModelInfo(
        model=model.spec,
        revision=model.revision,
        layout=model.layout,
        architecture=printable(model.provenance.architecture),
        parameters=price.parameters,
        gflops=price.gflops,
        dtypes=model.provenance.dtypes,
        files=tuple(WeightFile(file.name, file.stat().st_size) for file in model.files),
        sha256=model.sha256,
        sizes=model.config.sizes(),
        described=model.config.describe(),
        num_labels=len(model.labels),
        labels=model.labels[:MAX_LABELS],
        labels_source=model.provenance.labels,
        text=None if model.text_source is None else _describe_text(model),
        problem_type=model.problem_type,
        scores=model.score_function if model.labels else None,
        preprocess=tuple(
            Step(step, model.provenance.steps.get(step.partition("(")[0], plan.source))
            for step in plan.steps()
        ),
        notes=(*model.notes, *_resampled(model)),
    )


def _describe_text(model: Model) -> dict[str, str]:
    """Describe the text tower, its tokenizer, and the scores of classes in words; or say why it
    cannot be used."""
    try:
        config, similarity = model.check_text(), model.compared.similarity
    except CheckpointError as error:
        return {"tower": f"cannot be used: {error.message}"}
    shift = "" if similarity.bias is None else f" {similarity.bias:+.4g}"
    rule = f"{DESCRIBED[similarity.function]}: {similarity.scale:.4g} x cosine{shift}"
    try:
        tokenizer = open_tokenizer(model)
        read = f"{tokenizer.source}; texts are cleaned as {tokenizer.clean}"
    except VitError as error:
        read = f"cannot be used: {error.message}"
    return {**config.describe(), "tokenizer": read, "class scores": rule}


def _resampled(model: Model) -> list[str]:
    """The parts of the network that are resampled from the sizes in the file, a note for each."""
    config, size, patch = model.config, model.provenance.stored_size, model.provenance.stored_patch
    if size is None or patch is None:
        return []
    if patch == config.patch_size:
        old, new, unit, notes = size, config.image_size, "pixels", []
    else:
        stored = replace(config, image_size=size, patch_size=patch)
        old, new, unit = stored.grid, config.grid, "patches"
        now = by(config.patch_size)
        notes = [f"the patch embedding of {by(patch)} pixels is resampled for {now}"]
    if isinstance(config, ViTConfig) and config.pos_grid:
        table = f"position embeddings of {by(config.pos_grid)} patches"
        return [*notes, f"{table} are resampled for {by(config.grid)}"]
    if old == new:
        return notes
    if isinstance(config, SwinConfig) or not (config.pos_embed or config.rel_bias != "none"):
        return [*notes, f"made for {by(old)} {unit}, run at {by(new)}"]
    return [*notes, f"position embeddings of {by(old)} {unit} are resampled for {by(new)}"]
