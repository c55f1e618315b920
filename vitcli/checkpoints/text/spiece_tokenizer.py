"""Build a tokenizer from a SentencePiece model.

SentencePiece matches the pieces of a sentence as one string, in which ▁ stands for a space, and a
user-defined piece before all others. A control piece (`<pad>`) is never part of a text.

One difference remains: where two ways to split a word have equal scores (`000` as `00` `0` or as
`0` `00`), SentencePiece adds them up in 32 bits and this tokenizer in 64, and either may be taken.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from vitcli.checkpoints.text.sentencepiece import Kind, ModelType, SentencePieceModel

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import Model

SPACE = "▁"


def spiece_tokenizer(
    model: SentencePieceModel, specials: Sequence[AddedToken], *, prefix: bool
) -> Tokenizer:
    """Build the tokenizer of a model. It takes texts to which the model's `charsmap` was applied,
    with ▁ in front if `prefix`. They may contain the `specials`, which are pieces."""
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers

    names = [piece.text for piece in model.pieces]
    contents = {special.content for special in specials}
    backend = Tokenizer(_bpe(model, names) if model.model_type is ModelType.BPE
                        else _unigram(model, _unmatched(model, contents)))  # fmt: skip
    steps: list[normalizers.Normalizer] = []
    if model.no_extra_spaces:
        steps += [
            normalizers.Replace(Regex(r" +\z" if prefix else r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    backend.add_special_tokens(list(specials))
    backend.add_tokens(
        [
            AddedToken(piece.text, normalized=True)
            for piece in model.pieces
            if piece.kind is Kind.USER_DEFINED and piece.text not in contents
        ]
    )
    return backend


def _unmatched(model: SentencePieceModel, specials: Collection[str]) -> list[str]:
    """The names of the pieces, by id. Those that are never part of a text end in a space, as no
    normalised text has one."""
    hidden = (Kind.CONTROL, Kind.UNKNOWN, Kind.UNUSED)
    return [
        piece.text + " " * (piece.kind in hidden and piece.text not in specials)
        for piece in model.pieces
    ]


def _unigram(model: SentencePieceModel, names: list[str]) -> Model:
    from tokenizers.models import Unigram

    scores = [piece.score for piece in model.pieces]
    return Unigram(list(zip(names, scores, strict=True)), model.unk_id, byte_fallback=False)


def _bpe(model: SentencePieceModel, names: list[str]) -> Model:
    """Any two pieces that make a third are merged, those with the highest score first."""
    from tokenizers.models import BPE

    vocab = {name: index for index, name in enumerate(names)}
    normal = {piece.text: (-piece.score, index) for index, piece in enumerate(model.pieces)
              if piece.kind is Kind.NORMAL}  # fmt: skip
    ranked = [
        (*rank, name[:cut], name[cut:])
        for name, rank in normal.items()
        for cut in range(1, len(name))
        if name[:cut] in normal and name[cut:] in normal
    ]
    merges = [(left, right) for _, _, left, right in sorted(ranked)]
    return BPE(
        vocab,
        merges,
        unk_token=names[model.unk_id],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )
