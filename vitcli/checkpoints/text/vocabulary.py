"""Read the vocabulary of a tokenizer from any of the files that repositories have."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vitcli.checkpoints.resolve import parse_json
from vitcli.checkpoints.text import clip_bpe
from vitcli.checkpoints.text.charsmap import is_sound
from vitcli.checkpoints.text.files import JSON, MERGES, OPENAI, VOCAB
from vitcli.checkpoints.text.sentencepiece import (
    ModelType,
    SentencePieceModel,
    count_pieces,
    read_sentencepiece,
)
from vitcli.errors import CheckpointError, VitError, in_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_JSON = 200_000_000  # bytes; XLM-V's, of 901,629 tokens, has 62 MB
AGAIN = "download it again"
CLIP_ONLY = re.compile(rb'"end_of_word_suffix"\s*:\s*"</w>"')
Kind = Literal["clip", "unigram", "bpe", "other"]
IN_WORDS: Mapping[Kind, str] = {
    "clip": "CLIP's BPE",
    "unigram": "a Unigram model",
    "bpe": "a BPE of SentencePiece",
    "other": "a tokenizer of another kind",
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The content of a file: CLIP's vocabulary, a SentencePiece model, or else a whole tokenizer.
    `size` counts the tokens, `added` has the added tokens of tokenizer.json."""

    file: Path
    kind: Kind
    size: int
    clip: clip_bpe.ClipVocabulary | None = field(default=None, repr=False)
    model: SentencePieceModel | None = field(default=None, repr=False)
    backend: Tokenizer | None = field(default=None, repr=False)
    added: tuple[Any, ...] = ()


def read_vocabulary(name: str, file: Path) -> Vocabulary:
    """Read a vocabulary; `name` is the usual name of the file. Raises CheckpointError."""
    if name == JSON:
        return _tokenizer_json(file)
    if name == VOCAB:
        clip = clip_bpe.ClipVocabulary(
            _ids(file, _json(file)), clip_bpe.read_merges(file.parent / MERGES)
        )
        return Vocabulary(file, "clip", len(clip.ids), clip)
    if name == OPENAI:
        clip = clip_bpe.read_openai(file)
        return Vocabulary(file, "clip", len(clip.ids), clip)
    model = read_sentencepiece(file)
    kind: Kind = "unigram" if model.model_type is ModelType.UNIGRAM else "bpe"
    if kind == "unigram" and model.byte_fallback:
        raise CheckpointError(f"{file} is a Unigram model with bytes, which is not supported")
    return Vocabulary(file, kind, len(model.pieces), model=model)


def check_agreement(read: Vocabulary, others: Mapping[str, Path]) -> None:
    """Raise CheckpointError if another vocabulary of the same folder has another number of tokens,
    names in angle brackets (`<extra_id_7>`) left aside."""
    for name, file in others.items():
        size, names = _size(name, file)
        smaller = min(size, read.size)
        own = read.backend.get_vocab(with_added_tokens=False) if read.backend else names
        if size != read.size and not all(map(is_reserved, _beyond(own, smaller))):
            raise CheckpointError(
                f"{read.file} has {read.size:,} tokens, and {file.name} next to it {size:,}",
                "they belong to different models: give the right one with --tokenizer FILE",
            )


def is_reserved(name: str) -> bool:
    """Whether a token is a name in angle brackets (`<extra_id_7>`), which no ordinary text has."""
    name = name.strip("▁ ")
    return len(name) > 2 and name[0] == "<" and name[-1] == ">"


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Turn an error of the package `tokenizers`, which has no class for it, into a CheckpointError
    about the file."""
    try:
        yield
    except VitError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file} is not a tokenizer: {reason}", AGAIN) from None


def _size(name: str, file: Path) -> tuple[int, Mapping[str, int]]:
    """The number of tokens in a file, and their ids if they are read for that."""
    if name == VOCAB:
        ids = _ids(file, _json(file))
        return len(ids), ids
    if name == JSON:
        with naming(file):
            ids = _backend(_bytes(file)).get_vocab(with_added_tokens=False)
        return len(ids), ids
    if name == OPENAI:
        ids = clip_bpe.read_openai(file).ids
        return len(ids), ids
    return count_pieces(file), {}


def _beyond(ids: Mapping[str, int], size: int) -> list[str]:
    """The tokens with ids from `size` on; something that is not reserved if they are unknown."""
    return [name for name, index in ids.items() if index >= size] or [""]


def _tokenizer_json(file: Path) -> Vocabulary:
    """Read tokenizer.json. CLIP's is read in parts, as its rules are built again."""
    from tokenizers.models import BPE, Unigram

    raw = _bytes(file)
    if CLIP_ONLY.search(raw):
        whole = _parsed(file, raw)
        with naming(file):
            parts = whole["model"]
            merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge)
                      for merge in parts["merges"]]  # fmt: skip
            clip = clip_bpe.ClipVocabulary(_ids(file, parts["vocab"]), merges)
            added = tuple(whole.get("added_tokens") or ())
        return Vocabulary(file, "clip", len(clip.ids), clip, added=added)
    with naming(file):
        backend = _backend(raw)
    _check_normalizer(backend, file)
    model = backend.model
    is_bytes = isinstance(model, BPE) and model.byte_fallback
    kind: Kind = "unigram" if isinstance(model, Unigram) else "bpe" if is_bytes else "other"
    size = backend.get_vocab_size(with_added_tokens=False)
    return Vocabulary(file, kind, size, backend=backend)


def _backend(raw: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_buffer(raw)
    backend.no_truncation()
    backend.no_padding()
    return backend


def _check_normalizer(backend: Tokenizer, file: Path) -> None:
    """Raise CheckpointError for a damaged table of replacements."""
    if backend.normalizer is None:
        return
    for charsmap in _charsmaps(json.loads(backend.normalizer.__getstate__())):
        try:
            is_good = is_sound(base64.b64decode(charsmap or "", validate=True))
        except (binascii.Error, TypeError, ValueError):
            is_good = False
        if not is_good:
            raise CheckpointError(f"{file}: its precompiled_charsmap is damaged", AGAIN)


def _charsmaps(normalizer: Any) -> Iterator[Any]:
    if normalizer.get("type") == "Precompiled":
        yield normalizer.get("precompiled_charsmap")
    for inner in normalizer.get("normalizers") or ():
        yield from _charsmaps(inner)


def _ids(file: Path, vocab: Any) -> dict[str, int]:
    """The ids of tokens, which are all different."""
    is_table = isinstance(vocab, dict) and all(type(index) is int for index in vocab.values())
    if not is_table or not vocab or min(vocab.values()) < 0:
        raise CheckpointError(f"{file} is not a table of tokens and their ids", AGAIN)
    if len(set(vocab.values())) != len(vocab):
        raise CheckpointError(f"{file} has an id twice", AGAIN)
    return dict(vocab)


def _json(file: Path) -> Any:
    return _parsed(file, _bytes(file))


def _parsed(file: Path, raw: bytes) -> Any:
    try:
        return parse_json(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}", AGAIN) from None


def _bytes(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size <= MAX_JSON and file.is_file():
            return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from None
    raise CheckpointError(f"{file} has {in_bytes(size)}", f"at most {in_bytes(MAX_JSON)} are read")
