"""Turn texts into the ids that a text tower reads, as transformers or open_clip would."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitcli.checkpoints.text.backend import Built, build_backend
from vitcli.checkpoints.text.cleaning import cleaning
from vitcli.checkpoints.text.files import CONFIG, TokenizerFiles
from vitcli.checkpoints.text.recipe import TokenRecipe
from vitcli.checkpoints.text.vocabulary import is_reserved
from vitcli.errors import CheckpointError, InputError, UsageError, check_installed, is_utf8
from vitcli.records import TextClean

if TYPE_CHECKING:
    import tokenizers

MAX_LENGTH = 10**6  # transformers writes 10**30 for no limit
AT_ONCE = 1024  # texts; what the package keeps of one takes 6 kB


@dataclass(frozen=True, slots=True)
class Encoded:
    """The ids of texts, int64 (B, L), and the indices of the texts that were cut."""

    ids: NDArray[np.int64]
    cut: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Texts to ids. `source` says where its vocabulary is from, `clean` how it cleans texts. An id
    is below `vocab_size`, and `notes` are for the user."""

    backend: tokenizers.Tokenizer = field(repr=False)
    cleaned: Callable[[str], str] = field(repr=False)
    clean: TextClean
    source: str
    context_length: int
    vocab_size: int
    eos_id: int
    pad_id: int
    sep_id: int | None = None  # this one becomes 0
    notes: tuple[str, ...] = ()

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The ids of texts, padded to the context length. A longer text is cut at its end; the
        end-of-text token stays.  B texts -> (B, L)

        Raises InputError for a text that is not Unicode, or that has a token without a row in the
        table of the text tower.
        """
        for text in texts:
            if not is_utf8(text):
                raise InputError(f"the text {text!r} is not valid UTF-8")
        ids = np.full((len(texts), self.context_length), self.pad_id, dtype=np.int64)
        cut: list[int] = []
        for start in range(0, len(texts), AT_ONCE):
            some = [self.cleaned(text) for text in texts[start : start + AT_ONCE]]
            for index, encoding in enumerate(self.backend.encode_batch_fast(some), start):
                found = encoding.ids
                ids[index, : len(found)] = found
                if encoding.overflowing:
                    cut.append(index)
        if ids.size and (largest := int(ids.max())) >= self.vocab_size:
            text = texts[int(ids.max(axis=1).argmax())]
            raise InputError(
                f"the text {text!r} has the token {self.backend.id_to_token(largest)}, whose id is "
                f"{largest}, and the text tower has {self.vocab_size} tokens",
                "leave it out",
            )
        if self.sep_id is not None:
            ids[ids == self.sep_id] = 0
        return Encoded(ids, tuple(cut))


def read_tokenizer(
    files: TokenizerFiles, recipe: TokenRecipe, clean: TextClean | None = None
) -> Tokenizer:
    """Read the tokenizer of a text tower. `clean` says how to clean texts, by default as the
    tower's family asks for (`TokenRecipe.default_clean`).

    Raises UsageError without the package `tokenizers`, CheckpointError for files that are damaged,
    disagree with each other, or belong to another model.
    """
    check_installed("a text tower", "tokenizers", extra="text", error=UsageError)
    # A process that has used its threads would warn when it starts the workers that read images.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    clean = clean or recipe.default_clean
    built = build_backend(files, recipe, clean)
    backend = built.backend
    _check_ids(built, recipe)
    limit = _limit(files, recipe)
    if limit <= backend.num_special_tokens_to_add(False):
        raise CheckpointError(f"{built.file}: {limit} tokens have no room for a text")
    backend.enable_truncation(limit, strategy="longest_first")
    return Tokenizer(
        backend,
        cleaning(clean, recipe, built),
        clean,
        f"{built.file.name} of {files.source}",
        recipe.context_length,
        recipe.vocab_size,
        built.eos_id,
        built.pad_id,
        built.sep_id if recipe.strip_sep_token else None,
        _notes(built, recipe),
    )


def _limit(files: TokenizerFiles, recipe: TokenRecipe) -> int:
    """The number of tokens at which a text is cut. Raises CheckpointError for a tokenizer that pads
    or cuts at the front, or pads to another length."""
    for field_name in ("padding_side", "truncation_side"):
        side = files.config.get(field_name, "right")
        if side != "right":
            raise CheckpointError(
                f"{CONFIG}: {field_name} is {side}; the text tower was trained with right"
            )
    longest = files.config.get("model_max_length")
    if recipe.library == "open_clip" or not isinstance(longest, int) or longest > MAX_LENGTH:
        return recipe.context_length
    if recipe.family == "siglip" and longest < recipe.context_length:
        raise CheckpointError(
            f"{CONFIG}: model_max_length is {longest}, and the text tower reads "
            f"{recipe.context_length} tokens, padding included"
        )
    return min(longest, recipe.context_length)


def _check_ids(built: Built, recipe: TokenRecipe) -> None:
    """Raise CheckpointError if the tokenizer and the text tower belong to different models."""
    if recipe.eos_id is not None and recipe.eos_id != built.eos_id:
        raise CheckpointError(
            f"{built.file} ends a text with {built.eos} (id {built.eos_id}), and the text tower "
            f"looks for id {recipe.eos_id}",
            "the tokenizer belongs to another model",
        )
    if built.backend.get_vocab_size() <= recipe.vocab_size:
        return
    # SigLIP's multilingual models have no rows for the last 100 pieces of mT5, which are reserved.
    beyond = [name for name, index in built.backend.get_vocab().items()
              if index >= recipe.vocab_size and not is_reserved(name)]  # fmt: skip
    if beyond or max(built.eos_id, built.pad_id) >= recipe.vocab_size:
        raise CheckpointError(
            f"{built.file} has {built.backend.get_vocab_size():,} tokens, and the text tower "
            f"{recipe.vocab_size:,}",
            "the tokenizer belongs to another model",
        )


def _notes(built: Built, recipe: TokenRecipe) -> tuple[str, ...]:
    """A note for a tower with more tokens than the tokenizer. The libraries allow it: rows are
    added to tables so that their number is a multiple of 64."""
    size = built.backend.get_vocab_size()
    if size >= recipe.vocab_size:
        return ()
    return (f"the tokenizer has {size:,} tokens, and the text tower {recipe.vocab_size:,}: the "
            "others are not used",)  # fmt: skip
