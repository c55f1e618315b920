"""Texts in the joint space with a model's own tokenizer, beside transformers with the same one."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import vitcli
from tests.fixtures.two_towers import two_towers

TEXTS = ("a photo of the cat", "one red car, and a great auk", "été 42", "the dog " * 40)


# transformers reads SigLIP's tokenizer with sentencepiece alone: tests/golden/tokens.py records it.
@pytest.mark.parametrize("name", ["clip", "metaclip2", "mt5", "siglip2", "naflex"])
@torch.inference_mode()
def test_a_tokenizer_and_a_tower_give_get_text_features(name: str, tmp_path: Path) -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    theirs = two_towers(name, tmp_path)
    length = theirs.config.text_config.max_position_embeddings
    cut = {"padding": "max_length", "truncation": True, "max_length": length}
    tokens = AutoTokenizer.from_pretrained(tmp_path)(list(TEXTS), return_tensors="pt", **cut)
    expected = theirs.get_text_features(**tokens).pooler_output
    found = vitcli.embed(texts=TEXTS, model=str(tmp_path), text_clean="hf")
    np.testing.assert_allclose(found.embeddings, np.asarray(expected), atol=1e-5)
    assert (found.meta["clean"], found.meta["cut"]) == ("hf", 1)
    assert found.meta["row_shape"] == [found.embeddings.shape[1]]
