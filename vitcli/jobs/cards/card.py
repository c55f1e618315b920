"""Write the card of a model: what it is, how to use it, where it comes from, what was measured."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitcli.checkpoints.card import CARD, MAX_CARD, Metadata, Metric, Origin, origin_of
from vitcli.checkpoints.load import Model
from vitcli.checkpoints.scoring import DESCRIBED
from vitcli.checkpoints.text.files import NAMES
from vitcli.errors import printable
from vitcli.jobs.cards.code import with_timm, with_transformers
from vitcli.models.shapes import count_of
from vitcli.render.markdown import Markdown, code, render

MAX_LABELS = 100  # in the table
SEAL = "<!-- vitcli replaces this card, unless it was edited. {digest} -->\n"
SEALED = re.compile(SEAL.format(digest=r"(\w{16})").encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """The facts of a training. `data` is the name of the data, `counts` the number of images
    of each label in each of the `splits`, `results` a row of figures for each split, `metrics` the
    figures of the held-out images, `again` the command that repeats the training."""

    data: str
    images: Markdown
    splits: Sequence[str]
    counts: Mapping[str, Sequence[int]]
    header: Sequence[str]
    results: Sequence[Sequence[object]]
    explained: str
    recipe: Sequence[tuple[str, object]]
    metrics: Sequence[Metric]
    again: Markdown | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionFacts:
    """The facts of a conversion. `deltas` are rows of an output, the largest difference, and
    the allowed one."""

    dtype: str
    notes: Sequence[str]
    deltas: Sequence[tuple[str, str, str]]


def card(
    model: Model,
    folder: Path,
    name: str,
    facts: TrainingFacts | ConversionFacts,
    *,
    has_text: bool = False,
) -> bytes:
    """The card of a model that is written in `folder`. The folder has, or will have, the name
    `name`; `has_text` says whether the text tower is written, too."""
    training = facts if isinstance(facts, TrainingFacts) else None
    config = json.loads((folder / "config.json").read_text("utf-8"))
    is_timm = "architecture" in config
    library = "timm" if is_timm else "transformers"
    class_name = config["architecture"] if is_timm else config["architectures"][0]
    kind = _kind(model, has_text=has_text)
    origin = origin_of(model)
    metadata = Metadata(
        title=name,
        library=library,
        pipeline=kind.pipeline,
        origin=origin,
        relation="finetune" if training else None,
        datasets=() if training else origin.datasets,
        data=training.data if training else "",
        metrics=training.metrics if training else (),
    )
    if is_timm:
        snippet = with_timm(model, name)
    else:
        has_tokenizer = any((folder / file).exists() for file in NAMES)
        snippet = with_transformers(
            model, class_name, name, has_text=has_text, has_tokenizer=has_tokenizer
        )
    described = model.config.describe()
    scores = {"scores": DESCRIBED[model.score_function]} if model.labels else {}
    text = render(
        "card.md",
        metadata=Markdown(metadata.yaml()),
        title=name,
        parameters=f"{count_of(model.config):,}",
        does=kind.does,
        origin=_origin(origin),
        library=library,
        facts=[(f"class in {library}", code(class_name)), *{**described, **scores}.items()],
        preprocess=model.preprocess.describe(),
        command=Markdown(kind.command.format(model=printable(shlex.quote(name)))),
        snippet=Markdown(snippet),
        labels=_labels(model.labels, training) if model.labels else None,
        training=training,
        conversion=None if training else facts,
    )
    data = f"{text}\n".encode()
    return data + SEAL.format(digest=_digest(data)).encode()


def is_foreign(folder: Path) -> bool:
    """Whether a folder has a card that vitcli did not write, or that was edited since."""
    file = folder / CARD
    if not file.is_file() or file.stat().st_size > MAX_CARD:
        return file.exists() or file.is_symlink()
    data = file.read_bytes()
    text, _, seal = data[:-1].rpartition(b"\n")
    found = SEALED.fullmatch(seal + b"\n")
    return found is None or found[1].decode() != _digest(text + b"\n")


def kept(folder: Path) -> str:
    """The note on a card that is kept."""
    return f"{printable(str(folder / CARD))} is kept: vit did not write it, or it was edited"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class _Kind:
    """The use of a model: the task on the hub, a sentence, and a command, with a place for the
    model."""

    pipeline: str
    does: str
    command: str


def _kind(model: Model, *, has_text: bool) -> _Kind:
    if model.labels:
        count = f"{len(model.labels):,} label{'s' * (len(model.labels) > 1)}"
        does = f"classifies images with {count}"
        return _Kind("image-classification", does, "vit classify photos -m {model}")
    if has_text:
        command = 'vit classify photos -m {model} --classes "cat, dog"'
        does = "compares images with texts"
        return _Kind("zero-shot-image-classification", does, command)
    if model.reconstruction is not None:
        command = "vit reconstruct photos -m {model} -o drawn"
        does = "reconstructs hidden patches of images"
        return _Kind("image-feature-extraction", does, command)
    command = "vit embed photos -m {model} -o features.npy"
    return _Kind("image-feature-extraction", "turns images into vectors", command)


def _origin(origin: Origin) -> Markdown:
    if origin.repo is None:
        return code(origin.spec)
    at = f" of revision {code(origin.revision)}" if origin.revision else ""
    return Markdown(f"[{origin.repo}](https://huggingface.co/{origin.repo}){at}")


def _labels(labels: Sequence[str], training: TrainingFacts | None) -> dict[str, object]:
    """The table of the labels, with their images in each split, and the sentence before it."""
    splits, counts = (training.splits, training.counts) if training else ((), {})
    shown = labels[:MAX_LABELS]
    rows = [(index, label, *counts.get(label, ())) for index, label in enumerate(shown)]
    text = "The labels, by their index in the outputs"
    if len(shown) < len(labels):
        text = f"The first {len(shown)} of {len(labels):,} labels, by their index in the outputs"
    images = f", and the number of images in {' and '.join(splits)}" if splits else ""
    return {"text": f"{text}{images}:", "header": ("index", "label", *splits), "rows": rows}
