"""Convert a checkpoint of any layout to a directory for transformers or timm, or to ONNX."""

from __future__ import annotations

import contextlib
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vitcli.checkpoints import onnx
from vitcli.checkpoints.build import build
from vitcli.checkpoints.card import CARD
from vitcli.checkpoints.layouts.layout import COMPARES, TEXT
from vitcli.checkpoints.load import Model, load
from vitcli.checkpoints.preprocess.choose import as_written
from vitcli.checkpoints.replace import replacing
from vitcli.checkpoints.tensor_diff import Change, changes
from vitcli.checkpoints.text.files import NAMES
from vitcli.checkpoints.write import WRITERS, FileDtype, Written
from vitcli.engines import ENGINES
from vitcli.errors import CheckpointError, OutputError, UsageError, VitError, check_installed
from vitcli.images.preprocess import preprocessed, resized_size, seen
from vitcli.jobs.apart import check_apart, read_of_models
from vitcli.jobs.cards.card import ConversionFacts, card, is_foreign, kept
from vitcli.jobs.job import SILENT, ModelOptions, Reporter, Running
from vitcli.jobs.loading import check_one_size, load_model
from vitcli.jobs.word_head import find_tokenizer, with_words
from vitcli.jobs.words import Words
from vitcli.models.config import Config, ViTConfig
from vitcli.models.normalise import Normalisation
from vitcli.models.text_config import TextConfig
from vitcli.records import RESIZERS, Preprocess, Size

# The allowed difference of logits and hidden states, relative to their largest value: TOLERANCE for
# rounding the weights, EPSILON_TOLERANCE for the epsilon of another library.
TOLERANCE: dict[FileDtype, float] = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 8e-2}
EPSILON_TOLERANCE = 1e-3
IMAGES = 2
# The image sizes (height, width) for which two preprocessings are compared.
SIZES = tuple((height, width) for height in range(211, 700, 37) for width in range(224, 900, 41))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertJob:
    """One run of `vit convert`. `words` are classes for an ONNX file."""

    source: str
    target: Path
    to: Literal["hf", "timm", "onnx"]
    dtype: FileDtype = "fp32"
    verify: bool = False
    overwrite: bool = False
    options: ModelOptions = ModelOptions()
    words: Words | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """The largest difference between the model and its conversion, and the allowed difference."""

    what: str
    found: float
    allowed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The result: the model that was read, the name of the written layout, the changes of the
    tensors, and, with `verify`, the differences of the outputs."""

    source: Model
    written: str
    bytes: int
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    deltas: tuple[Delta, ...]


def convert(job: ConvertJob, reporter: Reporter = SILENT) -> Conversion:
    """Run the job. Raises CheckpointError if the target cannot express the model or, with `verify`,
    if a difference exceeds the tolerance; then nothing is written."""
    _check(job)
    is_file = job.to == "onnx"
    if job.target.exists():
        read = read_of_models([job.source], job.options)
        check_apart([job.target], read, folder=None if is_file else job.target)
    with replacing(job.target, is_file=is_file) as partial:
        keep = job.to == "hf"
        model = load_model(
            job.source, job.options, reporter.note, keep_grid=True, keep_decoder=keep
        )
        if job.words is not None:
            offline = job.options.offline
            model = with_words(model, job.words, Running(), reporter, offline=offline)
        written = _write(job, model, partial)
        copied: tuple[str, ...] = ()
        if written.has_text:
            model = _without_drops(model)
            copied = _copy_tokenizer(model, partial, offline=job.options.offline)
        deltas = _verify(job, model, partial) if job.verify else []
        moved = _moved(job, model)
        if moved is not None and job.verify:
            deltas.append(_by_preprocessing(model, moved))
        folder = partial.parent if is_file else partial
        size = sum(file.stat().st_size for file in folder.iterdir())
        done = Conversion(
            source=model,
            written=written.layout,
            bytes=size,
            changes=tuple(changes(model.provenance.made, written.made)),
            notes=(*written.notes, *copied, *([moved.note] if moved else [])),
            deltas=tuple(deltas),
        )
        if not is_file:
            _write_card(job, done, partial, reporter, has_text=written.has_text)
    return done


def _write_card(
    job: ConvertJob, done: Conversion, partial: Path, reporter: Reporter, *, has_text: bool
) -> None:
    """Write the card of the model, or keep the one of the user's in the folder to replace."""
    if is_foreign(job.target):
        reporter.note(kept(job.target))
        theirs = job.target / CARD
        if theirs.is_dir() and not theirs.is_symlink():
            shutil.copytree(theirs, partial / CARD, symlinks=True)
        else:
            shutil.copyfile(theirs, partial / CARD, follow_symlinks=False)
        return
    facts = ConversionFacts(
        dtype=job.dtype,
        notes=done.notes,
        deltas=[
            (d.what, f"{d.found:.2g}", f"{d.allowed:g}" if math.isfinite(d.allowed) else "any")
            for d in done.deltas
        ],
    )
    name = job.target.resolve().name
    text = card(done.source, partial, name, facts, has_text=has_text)
    (partial / CARD).write_bytes(text)


def _check(job: ConvertJob) -> None:
    """Raise an error for every mistake that can be seen before the model is loaded."""
    if job.to == "onnx" and job.target.suffix != ".onnx":
        raise UsageError(f"{job.target} is not an ONNX file", "give a name that ends in .onnx")
    if job.to != "onnx" and job.target.suffix == ".onnx":
        raise UsageError(f"{job.target} would be a folder", "--to onnx writes an ONNX file")
    if job.to != "onnx" and job.words is not None:
        raise UsageError(
            f"--to {job.to} has no place for classes in words", "leave out --classes, or use onnx"
        )
    if job.to == "onnx" and job.dtype == "bf16":
        raise UsageError("ONNX Runtime does not run bf16 on a CPU", "use --dtype fp32 or fp16")
    if job.target.exists() and not job.overwrite:
        raise OutputError(f"{job.target} exists", "--overwrite replaces it")
    if job.to == "onnx":
        check_installed("--to onnx", *ENGINES["onnx"].packages, extra="onnx", error=CheckpointError)


def _write(job: ConvertJob, model: Model, partial: Path) -> Written:
    if job.to != "onnx":
        return WRITERS[job.to](model, partial, job.dtype)
    check_one_size(model, "--to onnx")
    return onnx.write(model, partial, job.dtype)


def _without_drops(model: Model) -> Model:
    """The model without the text tower among what is left out of it."""
    dropped = model.provenance.dropped
    kept = {name: why for name, why in dropped.items() if why not in (TEXT, COMPARES)}
    return replace(model, provenance=replace(model.provenance, dropped=kept))


def _copy_tokenizer(model: Model, folder: Path, *, offline: bool) -> tuple[str, ...]:
    """Copy the tokenizer's files next to the weights, or return a note why there are none."""
    try:
        found = find_tokenizer(model, offline=offline)
    except VitError as error:
        return (f"the tokenizer is left out: {error.message}",)
    beside = next(iter(found.vocabularies.values())).parent
    for name in (*NAMES, *(file.name for file in found.vocabularies.values())):
        if (beside / name).is_file():
            shutil.copyfile(beside / name, folder / name)
    return ()


def _verify(job: ConvertJob, model: Model, partial: Path) -> list[Delta]:
    """The differences between the model and its conversion. If the target has another epsilon, or
    exact rotary periods instead of rounded ones, the model is first given those, and their effect
    is listed separately.

    Raises CheckpointError if a difference exceeds the tolerance."""
    allowed = TOLERANCE[job.dtype]
    if job.to == "onnx":
        deltas = _deltas(_compare_onnx(model, partial), allowed)
    else:
        back = load(str(partial.resolve()), keep_grid=True, keep_decoder=True)
        exact = _with_periods(model, back.config)
        alike = _with_epsilon(exact, back.config.norm_eps)
        deltas = _deltas(compare(alike, back), allowed)
        if alike is not exact:
            moved = compare(exact, alike)
            deltas += _deltas(moved, EPSILON_TOLERANCE, ", by the epsilon alone")
        if exact is not model:
            deltas += _deltas(compare(model, exact), math.inf, ", by the rotary periods alone")
    wrong = [delta for delta in deltas if not delta.found <= delta.allowed]
    if wrong:
        listed = ", ".join(f"{d.what} differ by {d.found:.2g} of {d.allowed:g}" for d in wrong)
        raise CheckpointError(f"verification failed, nothing is written: {listed}")
    return deltas


@dataclass(frozen=True, slots=True)
class Moved:
    """The preprocessing of the target's library, the size (height, width) of an image for which it
    differs from the model's, and a note about the difference."""

    plan: Preprocess
    size: Size
    note: str


def _moved(job: ConvertJob, model: Model) -> Moved | None:
    """Compare the preprocessing of the target's library with the model's for images of many sizes;
    None if they are equal."""
    plan = model.preprocess
    names: tuple[Literal["transformers", "timm"], ...] = ("transformers",)
    if job.to == "timm":
        names = ("timm",)
    elif job.to == "onnx":
        names = ("transformers", "timm")  # the metadata fit one of them
    differences: list[Moved | None] = []
    for name in names:
        with contextlib.suppress(CheckpointError):
            differences.append(_difference(plan, as_written(plan, name), name))
    return None if None in differences or not differences else differences[0]


def _difference(plan: Preprocess, other: Preprocess, library: str) -> Moved | None:
    for what in ("resample", "mean", "std", "rescale", "size"):
        mine, theirs = getattr(plan, what), getattr(other, what)
        if not np.allclose(mine, theirs) if what != "resample" else mine != theirs:
            note = f"{library}'s preprocessing has {what} {theirs}, this model {mine}"
            return Moved(other, SIZES[0], note)
    if plan.resizer != other.resizer:
        mine, theirs = RESIZERS[plan.resizer], RESIZERS[other.resizer]
        note = f"{library}'s preprocessing resizes {theirs}, this model's {mine}"
        return Moved(other, SIZES[0], note)
    moved = [size for size in SIZES if _place(size, plan) != _place(size, other)]
    if not moved:
        return None
    height, width = moved[0]
    (mine, corner), (theirs, other_corner) = _place(moved[0], plan), _place(moved[0], other)
    if mine == theirs:
        steps = max(abs(a - b) for a, b in zip(corner, other_corner, strict=True))
        how = f"cuts the middle {steps} pixel away from this model's"
    else:
        how = f"resizes to {theirs[1]}x{theirs[0]}, this model to {mine[1]}x{mine[0]}"
    share = 100 * len(moved) / len(SIZES)
    note = (
        f"{library}'s preprocessing is not quite this model's: for an image of {width}x{height} it "
        f"{how}; it differs for {share:.0f} % of the sizes tried"
    )
    return Moved(other, moved[0], note)


def _place(size: Size, plan: Preprocess) -> tuple[Size, tuple[int, int]]:
    """The size of an image after the resize, and the top left corner of the crop."""
    resized = size if plan.resize is None else resized_size(size, plan)
    top, left, _, _ = seen(size, plan)
    return resized, (round(top * resized[0]), round(left * resized[1]))


@torch.inference_mode()
def _by_preprocessing(model: Model, moved: Moved) -> Delta:
    """The effect of the other preprocessing on the output, for noise of a size where the two
    differ. It is reported only: any difference is allowed."""
    noise = np.random.default_rng(0).integers(0, 256, (*moved.size, 3), dtype=np.uint8)
    outputs = []
    for plan in (model.preprocess, moved.plan):
        pixels = torch.from_numpy(preprocessed(noise, plan)).permute(2, 0, 1)[None]
        outputs.append(model.network(Normalisation(plan)(pixels)))
    what = f"{_output(model)}, by the preprocessing of {moved.size[1]}x{moved.size[0]} pixels alone"
    return Delta(what, _delta(*outputs), math.inf)


def _deltas(differences: dict[str, float], allowed: float, why: str = "") -> list[Delta]:
    return [Delta(what + why, delta, allowed) for what, delta in differences.items()]


def _with_periods(model: Model, other: Config) -> Model:
    """The model with the rotary periods of `other`, if those are its own but for rounding: the
    writers refuse a model with other periods."""
    config = model.config
    if not isinstance(config, ViTConfig) or not isinstance(other, ViTConfig):
        return model
    if config.rope is None or other.rope is None or config.rope.periods == other.rope.periods:
        return model
    config = replace(config, rope=replace(config.rope, periods=other.rope.periods))
    return replace(model, source=build(config, model.network.state_dict()), reconstruction=None)


def _with_epsilon(model: Model, eps: float) -> Model:
    """The model with another epsilon."""
    if model.config.norm_eps == eps:
        return model
    config = replace(model.config, norm_eps=eps)
    return replace(model, source=build(config, model.network.state_dict()), reconstruction=None)


def synthetic_pixels(model: Model) -> Tensor:
    """Normalised noise, the same in every run.  -> (2, C, H, W)"""
    generator = torch.Generator().manual_seed(0)
    height, width = model.config.image_size
    return torch.randn(IMAGES, model.config.in_chans, height, width, generator=generator)


def _synthetic_ids(config: TextConfig) -> Tensor:
    """Token ids, the same in every run, that end in the token that is pooled.  -> (2, L)"""
    generator = torch.Generator().manual_seed(0)
    shape, end = (IMAGES, config.context_length), config.vocab_size - 1
    ids = torch.randint(3, max(4, end), shape, generator=generator)
    ids[:, -1] = config.eos_id if config.pool == "eos" else end
    return ids


@torch.inference_mode()
def compare(one: Model, other: Model) -> dict[str, float]:
    """The largest differences of the hidden states, of the logits or the embedding, and of the
    reconstruction if both have one, relative to their largest values."""
    pixels = synthetic_pixels(one)
    layers = range(one.config.depth + 1)
    first, second = (model.network.hidden_states(pixels, layers) for model in (one, other))
    deltas = {"hidden states": max(_delta(first[i].x, second[i].x) for i in layers)}
    deltas[_output(one)] = _delta(one.network(pixels), other.network(pixels))
    if one.text_source and other.text_source and not one.config.num_classes:
        ids = _synthetic_ids(one.text.config)
        deltas["texts"] = _delta(one.text(ids), other.text(ids))
    if one.reconstruction and other.reconstruction:
        mask = torch.arange(one.config.grid[0] * one.config.grid[1]).expand(IMAGES, -1) % 4 > 0
        deltas["reconstruction"] = _delta(
            one.reconstruction(pixels, mask), other.reconstruction(pixels, mask)
        )
    return deltas


@torch.inference_mode()
def _compare_onnx(model: Model, file: Path) -> dict[str, float]:
    pixels = synthetic_pixels(model)
    converted = torch.from_numpy(onnx.run(file, pixels.numpy()))
    return {_output(model): _delta(model.network(pixels), converted)}


def _output(model: Model) -> str:
    return "logits" if model.config.num_classes else "embedding"


def _delta(expected: Tensor, actual: Tensor) -> float:
    return float((expected - actual).abs().max() / expected.abs().max().clamp(min=1))
