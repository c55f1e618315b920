"""Find out which tokens a tokenizer puts around a text, and put them there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ends = tuple[tuple[str, ...], tuple[str, ...]]


def file_ends(backend: Tokenizer) -> Ends | None:
    """The tokens before and after a text by the post-processor of tokenizer.json; None without
    one."""
    if backend.post_processor is None:
        return None
    return _ends(json.loads(backend.post_processor.__getstate__()))


def _ends(processor: Mapping[str, Any]) -> Ends | None:
    kind = processor.get("type")
    if kind == "Sequence":
        found = [_ends(inner) for inner in processor.get("processors", ())]
        return next((ends for ends in found if ends is not None), None)
    if kind in ("RobertaProcessing", "BertProcessing"):
        return (processor["cls"][0],), (processor["sep"][0],)
    if kind != "TemplateProcessing":
        return None
    parts = processor["single"]
    at = next((i for i, part in enumerate(parts) if "Sequence" in part), len(parts))
    names = [[part["SpecialToken"]["id"] for part in some if "SpecialToken" in part]
             for some in (parts[:at], parts[at:])]  # fmt: skip
    return tuple(names[0]), tuple(names[1])


def set_ends(backend: Tokenizer, before: Sequence[tuple[str, int]],
             after: Sequence[tuple[str, int]]) -> None:  # fmt: skip
    """Put tokens, given by name and id, around each text."""
    from tokenizers.processors import TemplateProcessing

    single = [*(name for name, _ in before), "$A", *(name for name, _ in after)]
    backend.post_processor = TemplateProcessing(
        single=single, pair=[*single, "$B"], special_tokens=[*before, *after]
    )
