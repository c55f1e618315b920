"""Embed texts in the joint space of images and texts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from vitcli.checkpoints.resolve import Checkpoint, resolve
from vitcli.errors import UsageError, listed
from vitcli.jobs.apart import check_apart, read_of_model, read_of_options, written_of
from vitcli.jobs.class_lists import shown
from vitcli.jobs.job import ModelOptions, Reporter, Running, Summary
from vitcli.jobs.joint import joint_width
from vitcli.jobs.loading import Spec, describe_model, load_model
from vitcli.jobs.run import completing
from vitcli.jobs.texts import Texts
from vitcli.jobs.word_head import MAX_SHOWN, note_cut, open_tokenizer, text_encoder
from vitcli.records import Embedded, Sink, TextRef
from vitcli.runs.output import Output
from vitcli.runs.whole import finish, held, opened

if TYPE_CHECKING:  # imports torch
    from torch import Tensor


AT_ONCE = 1024  # texts between two writes
TOO_LARGE = "the features are too large for --store fp16: --store fp32 has room for them"


def embed_texts(
    texts: Texts,
    spec: Spec,
    options: ModelOptions,
    running: Running,
    *,
    output: Output,
    sink: Sink | None,
    reporter: Reporter,
    l2: bool,
    dtype: str,
    described: Mapping[str, object],
) -> Summary:
    """Write a row for each text: transformers' `get_text_features`, open_clip's `encode_text`, of
    unit length with `l2`. Rows go to `sink` if there is one, else to `output`, whole or not at all.

    described: more fields of the meta file. Raises VitError; a text never fails alone.
    """
    started = time.monotonic()
    with ExitStack() as open_things:
        if sink is None:
            output.check()
            spec = _apart(spec, output, options)
            open_things.enter_context(held(output))
        model = load_model(spec, options, reporter.note)
        width = joint_width(model)
        tokenizer = open_tokenizer(
            *(model, reporter.note),
            clean=texts.clean,
            name=texts.tokenizer,
            offline=options.offline,
        )
        meta: dict[str, object] = {
            **describe_model(model),
            "kind": "text",
            "row_shape": [width],
            "pool": "joint",
            "l2": l2,
            "clean": tokenizer.clean,
            "tokenizer": tokenizer.source,
            "context_length": tokenizer.context_length,
            "engine": "torch",
            "dtype": "fp32",
            "array_dtype": dtype,
            **described,
        }
        to = open_things.enter_context(opened(output, meta) if sink is None else completing(sink))
        cut, unseen = [], []
        encoder = text_encoder(model, running)
        nothing = tokenizer.encode([""]).ids
        total = len(texts.texts)
        reporter.steps("texts", 0, total)
        for start in range(0, total, AT_ONCE):
            part = texts.texts[start : start + AT_ONCE]
            encoded = tokenizer.encode(part)
            cut += [part[i] for i in encoded.cut]
            unseen += [part[i] for i in np.flatnonzero((encoded.ids == nothing).all(axis=1))]
            to.write(_rows(encoder(encoded.ids), part, start, l2=l2, dtype=dtype))
            reporter.steps("texts", start + len(part), total)
        note_cut(cut, tokenizer, reporter.note)
        if unseen:
            named = listed([shown(text) for text in unseen], MAX_SHOWN)
            reporter.note(f"the model sees nothing of {named}: their vectors are those of no text")
        summary = Summary(total, 0, time.monotonic() - started, unit="text")
        finish(None if sink else output, to, {**meta, "cut": len(cut), **summary.counts})
    return summary


def _apart(spec: Spec, output: Output, options: ModelOptions) -> Spec:
    """Return the spec with its files. Raises OutputError if the output would replace a file that is
    read."""
    if isinstance(spec, str):
        spec = resolve(spec, offline=options.offline)
    if not output.is_special:
        weights = spec.weights if isinstance(spec, Checkpoint) else spec.files
        read = (*read_of_model(weights), *read_of_options(output.options))
        check_apart(written_of(output.paths.values()), read)
    return spec


def _rows(
    vectors: Tensor, texts: Sequence[str], first: int, *, l2: bool, dtype: str
) -> list[Embedded]:
    """The rows of texts, whose first has the index `first`.  (B, E) -> B times (E,)

    Raises UsageError for numbers that do not fit into `dtype`.
    """
    from torch.nn import functional as F

    if l2:
        vectors = F.normalize(vectors, dim=-1)
    with np.errstate(over="ignore"):
        arrays = vectors.numpy().astype(dtype)
    if not np.isfinite(arrays).all():
        raise UsageError(TOO_LARGE)
    return [
        Embedded(TextRef(first + number, text), array)
        for number, (text, array) in enumerate(zip(texts, arrays, strict=True))
    ]
