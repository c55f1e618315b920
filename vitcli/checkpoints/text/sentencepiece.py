"""Read a SentencePiece model: `spiece.model` of SigLIP, `tokenizer.model` of Gemma.

The file is one protobuf message, ModelProto (sentencepiece_model.proto). A message is a row of
fields; each has a number and a wire type: varint, 8 bytes, a length and as many bytes, or 4 bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from vitcli.checkpoints.text.charsmap import Charsmap, read_charsmap
from vitcli.errors import CheckpointError, in_bytes

MAX_FILE = 100_000_000  # bytes; XLM-V's, of 901,629 pieces, has 18 MB
MAX_PIECES = 2_000_000

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
# The numbers of the fields that are read, in ModelProto and the messages inside it.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
PIECE, SCORE, KIND = 1, 2, 3
MODEL_TYPE, AS_SUFFIX, BYTE_FALLBACK = 3, 24, 35
CHARSMAP, DUMMY_PREFIX, NO_EXTRA_SPACES, ESCAPED_SPACES = 2, 3, 4, 5


class ModelType(IntEnum):
    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


class Kind(IntEnum):
    """The kinds of pieces."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """The pieces, by id, and how a text is prepared for them. `charsmap` replaces characters."""

    model_type: ModelType
    pieces: tuple[Piece, ...] = field(repr=False)
    byte_fallback: bool
    unk_id: int
    charsmap: Charsmap | None
    dummy_prefix: bool
    no_extra_spaces: bool


class _Damaged(ValueError):
    """The bytes are not what the format asks for."""


def read_sentencepiece(file: Path) -> SentencePieceModel:
    """Read a model. Raises CheckpointError for a file that cannot be read, is damaged, or is of a
    kind that no text tower has."""
    with _naming(file):
        return _model(memoryview(_read(file)))


def count_pieces(file: Path) -> int:
    """The number of pieces of a model, without reading them. Raises CheckpointError."""
    with _naming(file):
        return sum(number == PIECES for number, _ in _fields(memoryview(_read(file))))


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from None
    except _Damaged as error:
        raise CheckpointError(
            f"{file} is not a SentencePiece model: {error}", "download it again"
        ) from None


def _read(file: Path) -> bytes:
    size = file.stat().st_size
    if not file.is_file():
        raise _Damaged("it is not a regular file")
    if size > MAX_FILE:
        raise _Damaged(f"it has {in_bytes(size)}, and at most {in_bytes(MAX_FILE)} are read")
    return file.read_bytes()


def _model(raw: memoryview) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, int | memoryview] = {}
    normalizer: dict[int, int | memoryview] = {}
    for number, value in _fields(raw):
        if number == PIECES:
            pieces.append(_piece(_chunk(value, "a piece")))
            if len(pieces) > MAX_PIECES:
                raise _Damaged(f"it has more than {MAX_PIECES:,} pieces")
        elif number == TRAINER:
            trainer |= dict(_fields(_chunk(value, "trainer_spec")))
        elif number == NORMALIZER:
            normalizer |= dict(_fields(_chunk(value, "normalizer_spec")))
    if not pieces:
        raise _Damaged("it has no pieces")
    _check_unique(pieces)
    packed = bytes(_chunk(normalizer.get(CHARSMAP, memoryview(b"")), "precompiled_charsmap"))
    charsmap = read_charsmap(packed) if packed else None
    if packed and charsmap is None:
        raise _Damaged("its precompiled_charsmap is damaged")
    if _number(trainer, AS_SUFFIX, 0) or not _number(normalizer, ESCAPED_SPACES, 1):
        raise _Damaged("it writes spaces in another way than before each word")
    unknown = [index for index, piece in enumerate(pieces) if piece.kind == Kind.UNKNOWN]
    if len(unknown) != 1:
        raise _Damaged(f"it has {len(unknown)} pieces for what it does not know, and needs one")
    model_type = _number(trainer, MODEL_TYPE, ModelType.UNIGRAM)
    if model_type not in (ModelType.UNIGRAM, ModelType.BPE):
        raise _Damaged(f"its model_type is {model_type}, which is neither Unigram (1) nor BPE (2)")
    return SentencePieceModel(
        ModelType(model_type),
        tuple(pieces),
        bool(_number(trainer, BYTE_FALLBACK, 0)),
        unknown[0],
        charsmap,
        bool(_number(normalizer, DUMMY_PREFIX, 1)),
        bool(_number(normalizer, NO_EXTRA_SPACES, 1)),
    )


def _piece(raw: memoryview) -> Piece:
    fields = dict(_fields(raw))
    try:
        text = str(_chunk(fields.get(PIECE, memoryview(b"")), "a piece"), "utf-8")
    except UnicodeDecodeError:
        raise _Damaged("a piece is not UTF-8") from None
    packed = fields.get(SCORE, memoryview(bytes(4)))
    if not isinstance(packed, memoryview) or len(packed) != 4:
        raise _Damaged(f"the score of {text!r} is not a number")
    (score,) = struct.unpack("<f", packed)
    kind = _number(fields, KIND, Kind.NORMAL)
    if not text or not math.isfinite(score) or kind not in list(Kind):
        raise _Damaged(f"it has the piece {text!r} of kind {kind} and score {score}")
    return Piece(text, score, Kind(kind))


def _check_unique(pieces: list[Piece]) -> None:
    seen: set[str] = set()
    for piece in pieces:
        if piece.text in seen:
            raise _Damaged(f"it has the piece {piece.text!r} twice")
        seen.add(piece.text)


def _number(fields: dict[int, int | memoryview], number: int, default: int) -> int:
    """An int32 or bool of a message."""
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise _Damaged(f"field {number} is not a number")
    return value - (1 << 64) if value >= 1 << 63 else value


def _chunk(value: int | memoryview, what: str) -> memoryview:
    if isinstance(value, int):
        raise _Damaged(f"{what} is a number")
    return value


def _fields(raw: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: their numbers, and their values as numbers or bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(raw, at)
            yield number, value
            continue
        if wire == BYTES:
            length, at = _varint(raw, at)
        elif wire in (EIGHT_BYTES, FOUR_BYTES):
            length = 8 if wire == EIGHT_BYTES else 4
        else:
            raise _Damaged(f"a field has the wire type {wire}")
        if not number or length > len(raw) - at:
            raise _Damaged("it is cut off")
        yield number, raw[at : at + length]
        at += length


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and the offset after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise _Damaged("it is cut off")
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value % (1 << 64), at
    raise _Damaged("a number has more than 64 bits")
