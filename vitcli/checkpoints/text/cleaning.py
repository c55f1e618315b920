"""Choose the function that cleans texts before a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vitcli.checkpoints.text import clean
from vitcli.checkpoints.text.backend import SIGLIP, Built
from vitcli.checkpoints.text.recipe import TokenRecipe
from vitcli.checkpoints.text.spiece_tokenizer import SPACE
from vitcli.records import TextClean


def cleaning(name: TextClean, recipe: TokenRecipe, built: Built) -> Callable[[str], str]:
    """The function of `--text-clean`. The tokenizer's own normaliser comes after it."""
    first: Callable[[str], str] = str
    if name == "canonical":
        first = clean.canonicalize
    elif name == "open_clip":
        first = clean.OPEN_CLIP[recipe.open_clip_clean]
    second: Callable[[str], str] = _strip if built.marks else str
    if name == "hf" and built.tokenizer_class == SIGLIP:
        second = partial(clean.as_siglip, lower=built.lower)
    third = built.charsmap.apply if built.charsmap else str

    def function(text: str) -> str:
        text = first(text)
        if built.prefix:  # SiglipTokenizer takes a ▁ in the text for a space
            text = SPACE + text.replace(SPACE, " ")
        text = clean.around(text, built.marks, lambda part: third(second(part)))
        rest = text.lstrip(SPACE + " ")
        is_first = rest.startswith(built.marks) if rest else not built.keeps_spaces
        return rest if built.prefix and is_first else text

    return function


def _strip(text: str) -> str:
    return text.strip(" ")
