"""Say what a text tower reads: how many tokens, from which kind of tokenizer, and cleaned how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vitcli.checkpoints.text import clean
from vitcli.errors import CheckpointError
from vitcli.records import TextClean

if TYPE_CHECKING:  # for types only: this module imports torch
    from vitcli.checkpoints.layouts.layout import Json

# clip: CLIP's BPE, two marks around a text. siglip: SentencePiece, a mark after a text. metaclip2:
# XLM-V's Unigram, two marks. other: any tokenizer that open_clip's JSON names.
TextFamily = Literal["clip", "siglip", "metaclip2", "other"]
Library = Literal["transformers", "open_clip"]

FAMILIES: Mapping[str, TextFamily] = {
    "clip": "clip",
    "clip_text_model": "clip",
    "siglip": "siglip",
    "siglip_text_model": "siglip",
    "siglip2": "siglip",
    "siglip2_text_model": "siglip",
    "metaclip_2": "metaclip2",
    "metaclip_2_text_model": "metaclip2",
}
DEFAULTS: Mapping[tuple[TextFamily, Library], TextClean] = {
    ("clip", "transformers"): "hf",
    ("metaclip2", "transformers"): "hf",
    ("siglip", "transformers"): "canonical",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecipe:
    """The input of a text tower.

    context_length, vocab_size: the sizes of its tables. eos_id: the token at which it pools, if the
    config names one. library: which one's rules hold; OpenAI's and Meta's are open_clip's.
    model_type: transformers' name of the model. The others are from open_clip's JSON: the `hub_id`
    of its tokenizer, its name of a cleaning, and whether the separator becomes padding.
    """

    family: TextFamily
    context_length: int
    vocab_size: int
    library: Library = "transformers"
    eos_id: int | None = None
    model_type: str = ""
    hub_id: str = ""
    open_clip_clean: str = "lower"
    strip_sep_token: bool = False

    @property
    def default_clean(self) -> TextClean:
        """How texts are cleaned unless the user says otherwise."""
        return DEFAULTS.get((self.family, self.library), "open_clip")


def token_recipe(
    config: Json,
    *,
    context_length: int,
    vocab_size: int,
    causal: bool,
    eos_id: int | None = None,
) -> TokenRecipe:
    """Read the recipe from a checkpoint's JSON: transformers', open_clip's, or none. The sizes and
    `causal` are those of the text tower. Raises CheckpointError for what is not supported."""
    section = config.get("model_cfg") or config
    described = section.get("text_cfg") if isinstance(section, Mapping) else None
    recipe = TokenRecipe(
        family="clip" if causal else "siglip",
        context_length=context_length,
        vocab_size=vocab_size,
        library="open_clip",
        eos_id=eos_id,
        open_clip_clean="lower" if causal else "canonicalize",
    )
    if isinstance(described, Mapping):
        return _open_clip(described, recipe)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        return recipe
    if model_type not in FAMILIES:
        raise CheckpointError(f"the tokenizer of a {model_type} is not known")
    name = model_type.removesuffix("_text_model")
    family = FAMILIES[model_type]
    return replace(
        recipe,
        family=family,
        library="transformers",
        model_type=name,
        open_clip_clean="canonicalize" if family == "siglip" else "lower",
    )


def _open_clip(described: Json, recipe: TokenRecipe) -> TokenRecipe:
    """The recipe of open_clip's `text_cfg`, as open_clip/factory.py (get_tokenizer) reads it."""
    if described.get("tokenizer_mode"):
        raise CheckpointError(
            f"text_cfg.tokenizer_mode is {described['tokenizer_mode']}, which is not supported"
        )
    length = described.get("context_length", 77)
    if length != recipe.context_length:
        raise CheckpointError(
            f"text_cfg.context_length is {length}, the text tower has positions for "
            f"{recipe.context_length} tokens"
        )
    name = str(described.get("hf_tokenizer_name") or "")
    options = described.get("tokenizer_kwargs") or {}
    known = {"clean", "strip_sep_token"}
    if not isinstance(options, Mapping) or not options.keys() <= known:
        raise CheckpointError(
            f"text_cfg.tokenizer_kwargs is {options}: only {' and '.join(sorted(known))} are "
            "supported"
        )
    family = _family(name)
    usual = "canonicalize" if family == "siglip" else "whitespace" if name else "lower"
    cleaning = options.get("clean", usual)
    if not isinstance(cleaning, str) or cleaning not in clean.OPEN_CLIP:
        raise CheckpointError(
            f"text_cfg.tokenizer_kwargs.clean is {cleaning}, not one of "
            f"{', '.join(clean.OPEN_CLIP)}"
        )
    return replace(
        recipe,
        family=family,
        hub_id=name,
        open_clip_clean=cleaning,
        strip_sep_token=bool(options.get("strip_sep_token", False)),
    )


def _family(name: str) -> TextFamily:
    """The family of open_clip's tower with the tokenizer `name`, which may be empty."""
    if not name:
        return "clip"  # SimpleTokenizer, whatever the mask
    if "siglip" in name.lower():
        return "siglip"
    return "metaclip2" if "xlm-v" in name.lower() else "other"
