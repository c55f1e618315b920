"""Replace characters by the table of a SentencePiece model, as `Normalizer` of SentencePiece does.

The table is a trie of 4-byte units (darts-clone), its size in bytes in front, and texts that end in
NUL behind it. A unit has the byte that leads to it, and the offset to its children or that of a
text. The longest match is replaced. (The package `tokenizers` replaces a letter with all its marks
if the letter alone matches: "é" with a zero-width joiner would lose the joiner.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_CHARSMAP = 10_000_000  # bytes; that of NFKC has 240,000
IS_LEAF, HAS_LEAF = 1 << 31, 1 << 8
LABEL = IS_LEAF | 0xFF
PRINTABLE = range(0x20, 0x7F)


@dataclass(frozen=True, slots=True)
class Charsmap:
    """The trie, and the texts. ASCII text stays as it is where `ascii_stays`."""

    labels: list[int] = field(repr=False)
    offsets: list[int] = field(repr=False)
    leaves: list[bool] = field(repr=False)
    texts: bytes = field(repr=False)
    ascii_stays: bool

    def apply(self, text: str) -> str:
        """The text with its longest matches replaced, from left to right."""
        if self.ascii_stays and text.isascii() and text.isprintable():
            return text
        raw, out, at = text.encode(), bytearray(), 0
        while at < len(raw):
            length, start = self._longest(raw, at)
            if length:
                out += self.texts[start : self.texts.index(b"\0", start)]
            else:
                length = 1
                while at + length < len(raw) and raw[at + length] & 0xC0 == 0x80:
                    length += 1
                out += raw[at : at + length]
            at += length
        return out.decode()

    def _longest(self, raw: bytes, at: int) -> tuple[int, int]:
        """The length of the longest match, 0 for none, and the offset of its text."""
        found = 0, 0
        node = self.offsets[0]
        for length, byte in enumerate(raw[at:], start=1):
            node ^= byte
            if self.labels[node] != byte:
                break
            has_leaf = self.leaves[node]
            node ^= self.offsets[node]
            if has_leaf:
                found = length, self.offsets[node]
        return found


def read_charsmap(raw: bytes) -> Charsmap | None:
    """Read a table; None for a damaged one, in which a search could leave the table."""
    if not is_sound(raw):
        return None
    units, texts = _parts(raw)
    is_text = (units & IS_LEAF) != 0
    offsets = np.where(is_text, units & ~IS_LEAF, _offsets(units))
    labels, leaves = units & LABEL, (units & HAS_LEAF) != 0
    table = Charsmap(labels.tolist(), offsets.tolist(), leaves.tolist(), texts, False)
    return Charsmap(table.labels, table.offsets, table.leaves, texts, not _changes_ascii(table))


def is_sound(raw: bytes) -> bool:
    """Whether every step of a search, for any bytes, stays in the table."""
    if not 4 < len(raw) <= MAX_CHARSMAP:
        return False
    size = int.from_bytes(raw[:4], "little")
    if not size or size % 4 or size > len(raw) - 4:
        return False
    units, texts = _parts(raw)
    try:
        texts.decode("utf-8")
    except UnicodeDecodeError:
        return False
    is_text = (units & IS_LEAF) != 0
    children = (np.arange(len(units)) ^ _offsets(units)) | 255  # whatever byte comes next
    starts = units[is_text] & ~IS_LEAF
    if (children[~is_text] >= len(units)).any() or (starts >= len(texts)).any():
        return False
    first = np.frombuffer(texts, dtype=np.uint8)[starts]
    return texts.endswith(b"\0") and bool(((first & 0xC0) != 0x80).all())  # a letter begins there


def _parts(raw: bytes) -> tuple[NDArray[np.int64], bytes]:
    size = int.from_bytes(raw[:4], "little")
    units = np.frombuffer(raw, dtype="<u4", count=size // 4, offset=4)
    return units.astype(np.int64), raw[4 + size :]


def _offsets(units: NDArray[np.int64]) -> NDArray[np.int64]:
    return (units >> 10) << ((units & 512) >> 6)


def _changes_ascii(table: Charsmap) -> bool:
    """Whether a match has printable ASCII alone."""
    nodes, seen = [table.offsets[0]], set()
    while nodes:
        node = nodes.pop()
        seen.add(node)
        for byte in PRINTABLE:
            child = node ^ byte
            if table.labels[child] == byte:
                if table.leaves[child]:
                    return True
                if child ^ table.offsets[child] not in seen:
                    nodes.append(child ^ table.offsets[child])
    return False
