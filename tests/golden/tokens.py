"""Writes tokens.npz: for each line of `tests/fixtures/lines.py`, a check sum of the ids that
open_clip, transformers' SiglipTokenizer and SentencePiece give it, with tiny vocabularies.

Run by hand, in an environment with open_clip_torch, transformers and sentencepiece, after a change
of the lines or of the vocabularies:

    python -m tests.golden.tokens
"""

import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
import transformers
from open_clip.tokenizer import SimpleTokenizer, _clean_canonicalize

from tests.fixtures.lines import check_sums, lines
from tests.fixtures.words import write_clip_words, write_siglip2_words, write_siglip_words


def main() -> None:
    texts = lines()
    rows: dict[str, list[list[int]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clip_words(folder, "openai")
        for clean in ("lower", "canonicalize", "whitespace"):
            bpe = str(folder / "bpe_simple_vocab_16e6.txt.gz")
            rows[f"open_clip {clean}"] = SimpleTokenizer(bpe, clean=clean)(texts, 77).tolist()
        write_siglip_words(folder)
        siglip = transformers.SiglipTokenizer.from_pretrained(folder)
        for clean, cleaned in (("hf", texts), ("canonical", list(map(_clean_canonicalize, texts)))):
            rows[f"siglip {clean}"] = siglip(
                cleaned, padding="max_length", max_length=64, truncation=True
            ).input_ids
        write_siglip2_words(folder, "model")
        gemma = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        pieces = [gemma.encode(_clean_canonicalize(text))[:63] for text in texts]
        rows["gemma canonical"] = [[*ids, 1, *[0] * (63 - len(ids))] for ids in pieces]
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"), **{name: check_sums(ids) for name, ids in rows.items()}
    )


if __name__ == "__main__":
    main()
