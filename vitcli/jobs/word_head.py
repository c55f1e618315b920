"""Give a model of images and texts a head of classes in words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import TYPE_CHECKING

from vitcli import __version__
from vitcli.checkpoints.scoring import DESCRIBED, Scores
from vitcli.errors import UsageError, check_installed, listed
from vitcli.jobs.class_lists import shown
from vitcli.jobs.job import ModelOptions, Reporter, Running
from vitcli.jobs.joint import joint_width
from vitcli.jobs.loading import Spec, load_model
from vitcli.jobs.words import Words
from vitcli.records import TextClean

if TYPE_CHECKING:  # imports torch, which a run with nothing to do does not need
    from torch import Tensor

    from vitcli.checkpoints.load import Model
    from vitcli.checkpoints.text.files import TokenizerFiles
    from vitcli.checkpoints.text.recipe import TokenRecipe
    from vitcli.checkpoints.text.tokenizer import Tokenizer
    from vitcli.checkpoints.text.vectors import Ids, TextEncoder

MAX_SHOWN = 3  # texts in a note


def load_classifier(
    spec: Spec,
    options: ModelOptions,
    words: Words | None,
    running: Running,
    reporter: Reporter,
    *,
    scores: Scores = "prob",
) -> Model:
    """Load a model, and with `words` give it a head of these classes. Raises what `load_model` and
    `with_words` raise."""
    lazily = words is None and running.engine != "torch"  # an export may be all that is needed
    model = load_model(spec, options, reporter.note, lazily=lazily)
    if words is None:
        return model
    return with_words(model, words, running, reporter, scores=scores, offline=options.offline)


def with_words(
    model: Model,
    words: Words,
    running: Running,
    reporter: Reporter,
    *,
    scores: Scores = "prob",
    offline: bool = False,
) -> Model:
    """Return the model with a head that compares images with the classes. Its labels are their
    names. For the `scores` cosine, its outputs are the cosines.

    Raises UsageError for a model with a classifier of its own, or for classes that the model cannot
    tell apart, CheckpointError for one without a text tower or a tokenizer.
    """
    if model.config.num_classes:
        raise UsageError(
            f"{model.spec} has a classifier of its own, with labels of its own",
            "leave out --classes, or name a model of images and words with -m "
            "(vit models --for words)",
        )
    similarity = model.compared.similarity
    width = joint_width(model)
    vectors = _vectors(model, words, width, running, reporter, offline=offline)
    from vitcli.models.vit import VisionTransformer

    assert isinstance(model.network, VisionTransformer)
    is_plain = scores == "cosine"
    scale, shift = (1.0, 0.0) if is_plain else (similarity.scale, similarity.bias or 0.0)
    bias = vectors.new_full((len(vectors),), shift)
    network = model.network.with_cosine_head(vectors * scale, bias)
    if scores == "prob":
        reporter.note(f"{model.spec}: scores are the {DESCRIBED[similarity.function]}")
    provenance = replace(model.provenance, labels="--classes")
    return replace(model, source=network, labels=words.labels, provenance=provenance)


def _vectors(
    model: Model,
    words: Words,
    width: int,
    running: Running,
    reporter: Reporter,
    *,
    offline: bool,
) -> Tensor:
    """The vector of each class, from the cache if an earlier run had the same classes, model and
    tokenizer.  (K, E)"""
    from vitcli.checkpoints.text.vectors import class_vectors, remember, remembered

    files = find_tokenizer(model, name=words.tokenizer, offline=offline)
    tower = f"{model.sha256} {model.text_config!r}"
    texts = (words.classes, words.templates, words.clean, _recipe(model))
    check_installed("a text tower", "tokenizers", extra="text", error=UsageError)
    versions = (__version__, version("tokenizers"))
    described = repr((model.spec, tower, files.source, files.digest(), texts, versions))
    run = f"run {hashlib.sha256(described.encode()).hexdigest()}"
    if (kept := remembered(run, len(words.classes), width)) is not None:
        vectors, told = kept
        for text in told:
            reporter.note(text)
        return vectors
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        reporter.note(text)

    tokenizer = read_tokenizer_of(model, files, note, clean=words.clean)
    ids = _encoded(model, tokenizer, words, note)
    encoder = partial(text_encoder, model, running)
    vectors = class_vectors(ids, tower, width, encoder, partial(reporter.steps, "texts"))
    remember(run, ids, tower, notes)
    return vectors


def _encoded(
    model: Model, tokenizer: Tokenizer, words: Words, note: Callable[[str], None]
) -> list[Ids]:
    """The ids of the texts of each class.  K times (n, L)

    Raises what `Words.check_texts` raises for the ids that a vector depends on: under a causal
    mask, those up to the pooled one.
    """
    import torch

    from vitcli.models.text import TextTransformer

    prompts = [words.prompts(one) for one in words.classes]
    phrases = [phrase for one in words.classes for phrase in one.phrases]
    texts = list(dict.fromkeys(chain(chain.from_iterable(prompts), phrases, ("",))))
    place = {text: number for number, text in enumerate(texts)}
    encoded, config = tokenizer.encode(texts), model.text_config
    ends = [encoded.ids.shape[1]] * len(texts)
    if config.causal:
        ends = (TextTransformer.places(config, torch.from_numpy(encoded.ids)) + 1).tolist()
    words.check_texts(lambda text: encoded.ids[place[text], : ends[place[text]]].tobytes())
    used = len({text for some in prompts for text in some})  # they come first
    note_cut([texts[number] for number in encoded.cut if number < used], tokenizer, note)
    return [encoded.ids[[place[text] for text in some]] for some in prompts]


def open_tokenizer(
    model: Model,
    note: Callable[[str], None] = lambda text: None,
    *,
    clean: TextClean | None = None,
    name: str | None = None,
    offline: bool = False,
) -> Tokenizer:
    """Open the tokenizer of a model's text tower, or the one called `name`. Raises VitError."""
    files = find_tokenizer(model, name=name, offline=offline)
    return read_tokenizer_of(model, files, note, clean=clean)


def read_tokenizer_of(
    model: Model,
    files: TokenizerFiles,
    note: Callable[[str], None],
    *,
    clean: TextClean | None = None,
) -> Tokenizer:
    """Read the tokenizer of a model's text tower from its files. Raises VitError."""
    from vitcli.checkpoints.text.tokenizer import read_tokenizer

    tokenizer = read_tokenizer(files, _recipe(model), clean)
    for text in tokenizer.notes:
        note(f"{model.spec}: {text}")
    return tokenizer


def find_tokenizer(
    model: Model, *, name: str | None = None, offline: bool = False
) -> TokenizerFiles:
    """Find the files of the tokenizer of a model's text tower, or of the one called `name`. Raises
    ModelNotFound or CheckpointError."""
    from vitcli.checkpoints.text.files import tokenizer_files

    checkpoint = model.compared.checkpoint
    return tokenizer_files(checkpoint, _recipe(model), tokenizer=name, offline=offline)


def _recipe(model: Model) -> TokenRecipe:
    from vitcli.checkpoints.text.recipe import token_recipe

    config = model.text_config
    return token_recipe(
        model.compared.checkpoint.config,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        causal=config.causal,
        eos_id=config.eos_id if config.pool == "eos" else None,
    )


def note_cut(cut: list[str], tokenizer: Tokenizer, note: Callable[[str], None]) -> None:
    """Say which texts are cut, if any are."""
    if cut:
        texts = "1 text is" if len(cut) == 1 else f"{len(cut):,} texts are"
        named = listed([shown(text) for text in cut], MAX_SHOWN)
        note(f"{texts} cut to the {tokenizer.context_length} tokens that the model reads: {named}")


def text_encoder(model: Model, running: Running) -> TextEncoder:
    """Open a model's text tower on the device of the run."""
    from vitcli.checkpoints.text.vectors import TextEncoder
    from vitcli.models.prepare import choose_device

    device = choose_device(running.device if running.engine == "torch" else "cpu")
    return TextEncoder(model.text, device)
