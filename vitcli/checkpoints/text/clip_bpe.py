"""Build CLIP's tokenizer, a byte-level BPE whose words end in `</w>`, from its vocabulary.

Two libraries split a text into words by other rules. transformers (CLIPTokenizer) composes letters
(NFC) and lower-cases, and takes `<|endoftext|>` in a text for the token. open_clip
(SimpleTokenizer) leaves letters to the cleaning before it, and calls the token `<end_of_text>`. In
one case its ids differ from those here: directly after punctuation (`!<end_of_text>`), it reads the
name of a token as text.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitcli.errors import CheckpointError, in_bytes

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import Model

END_OF_WORD = "</w>"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
OPEN_CLIP_BOS, OPEN_CLIP_EOS = "<start_of_text>", "<end_of_text>"
# OpenAI's file has more merges than CLIP uses: 49,152 tokens less the bytes, twice, and two marks.
OPENAI_MERGES = 49_152 - 256 - 2
MAX_UNPACKED = 50_000_000  # bytes; OpenAI's file has 3 MB

CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
WORDS = r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True, slots=True)
class ClipVocabulary:
    """The tokens with their ids, and the merges in order."""

    ids: dict[str, int]
    merges: list[tuple[str, str]]


def transformers_tokenizer(vocabulary: ClipVocabulary, added: Sequence[AddedToken]) -> Tokenizer:
    """Build transformers' CLIPTokenizer with its `added` tokens, which may be in a text."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

    backend = Tokenizer(_model(vocabulary))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = rf"<\|startoftext\|>|<\|endoftext\|>|{CONTRACTIONS}|{WORDS}"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_tokens(list(added))
    return backend


def open_clip_tokenizer(vocabulary: ClipVocabulary, bos: int, eos: int) -> Tokenizer:
    """Build open_clip's SimpleTokenizer, for texts that have been cleaned."""
    from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers

    names = {bos: OPEN_CLIP_BOS, eos: OPEN_CLIP_EOS}
    ids = {names.get(index, name): index for name, index in vocabulary.ids.items()}
    backend = Tokenizer(_model(ClipVocabulary(ids, vocabulary.merges)))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(f"(?i:{CONTRACTIONS})|{WORDS}"), behavior="removed", invert=True
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    marks = [AddedToken(name, normalized=False, special=True) for name in names.values()]
    backend.add_special_tokens(marks)
    return backend


def _model(vocabulary: ClipVocabulary) -> Model:
    from tokenizers.models import BPE

    unknown = next((name for name in (EOS, OPEN_CLIP_EOS) if name in vocabulary.ids), None)
    return BPE(vocabulary.ids, vocabulary.merges, end_of_word_suffix=END_OF_WORD, unk_token=unknown)


def read_merges(file: Path) -> list[tuple[str, str]]:
    """Read `merges.txt`: two tokens a line, after a line with the version. Raises CheckpointError,
    also for OSError."""
    return list(_pairs(_text(file, _bounded(file)), file))


def read_openai(file: Path) -> ClipVocabulary:
    """Read OpenAI's `bpe_simple_vocab_16e6.txt.gz`, which has the merges alone: the tokens are the
    bytes, the bytes at the end of a word, the merges, and the two marks. Raises CheckpointError."""
    raw = _bounded(file)
    if raw[:2] == b"\x1f\x8b":
        unzip = zlib.decompressobj(wbits=31)
        try:
            raw = unzip.decompress(raw, MAX_UNPACKED)
        except zlib.error as error:
            raise CheckpointError(f"{file} is damaged: {error}", "download it again") from None
        if not unzip.eof:
            raise CheckpointError(
                f"{file} is cut off, or has more than {in_bytes(MAX_UNPACKED)}",
                "download it again",
            )
    merges = list(itertools.islice(_pairs(_text(file, raw), file), OPENAI_MERGES))
    letters = list(byte_letters())
    names = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges)]
    names += [BOS, EOS]
    ids = {name: index for index, name in enumerate(names)}
    if not merges or len(ids) != len(names):
        raise CheckpointError(f"{file} is not OpenAI's list of merges", "download it again")
    return ClipVocabulary(ids, merges)


def byte_letters() -> Iterator[str]:
    """The letter that stands for each byte, in the order of GPT-2: the printable ones first."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    yield from map(chr, shown)
    yield from (chr(0x100 + index) for index in range(0x100 - len(shown)))


def _pairs(text: str, file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or (number == 1 and "#version" in line):
            continue
        parts = line.split()
        if len(parts) != 2:
            raise CheckpointError(
                f"{file}: line {number} is not a merge of two tokens: {line[:60]!r}"
            )
        yield parts[0], parts[1]


def _bounded(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size <= MAX_UNPACKED and file.is_file():
            return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from None
    raise CheckpointError(f"{file} is too large for a list of merges: {in_bytes(size)}")


def _text(file: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{file} is not UTF-8 text", "download it again") from None
