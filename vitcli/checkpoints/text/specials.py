"""Read the special tokens of a tokenizer from its JSON: their names, and how a text may have them.

As in transformers 5 (tokenization_utils_base.py, `_from_pretrained`): `added_tokens_decoder` of
tokenizer_config.json, or else special_tokens_map.json, added_tokens.json and tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.text.files import CONFIG, TokenizerFiles
from vitcli.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import AddedToken

BOS, EOS, UNK, SEP, PAD = "bos_token", "eos_token", "unk_token", "sep_token", "pad_token"
ROLES = (BOS, EOS, UNK, SEP, PAD, "cls_token", "mask_token")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
DECODER = "added_tokens_decoder"


def special_names(files: TokenizerFiles, defaults: Mapping[str, str]) -> dict[str, str]:
    """The token of each role. Raises CheckpointError for one that is not text."""
    names = dict(defaults)
    for source in _sources(files):
        for role in ROLES:
            value = source.get(role)
            name = value.get("content") if isinstance(value, Mapping) else value
            if name is not None and (not isinstance(name, str) or not name):
                raise CheckpointError(f"{CONFIG}: {role} is {value!r}, which is not a token")
            if name is not None:
                names[role] = name
    return names


def added_tokens(
    files: TokenizerFiles, names: Mapping[str, str], in_json: Sequence[Any]
) -> dict[str, AddedToken]:
    """The tokens that a text may contain, by name: those of the files, and of `names`. `in_json`
    are those of tokenizer.json. Raises CheckpointError for damaged JSON."""
    found: dict[str, AddedToken] = {}
    decoder = files.config.get(DECODER)
    if isinstance(decoder, Mapping):
        entries = list(decoder.values())
    else:
        given = {role: source[role] for source in _sources(files) for role in ROLES
                 if source.get(role) is not None}  # fmt: skip
        values = [given[role] for role in ROLES if role in given]
        entries = [{**(value if isinstance(value, Mapping) else {"content": value}),
                    "special": True} for value in values]  # fmt: skip
        entries += [{"content": name, "special": name in names.values()} for name in files.added]
        entries += in_json
    for entry in entries:
        token = _token(entry)
        found[token.content] = token
    for name in names.values():
        found.setdefault(name, plain_token(name))
    return found


def plain_token(name: str) -> AddedToken:
    """A special token as it is in a text, with the spaces next to it."""
    return _token({"content": name, "special": True})


def _sources(files: TokenizerFiles) -> list[Mapping[str, Any]]:
    """The JSON that names special tokens; the last one decides."""
    return [files.config] if DECODER in files.config else [files.config, files.specials]


def _token(entry: Any) -> AddedToken:
    from tokenizers import AddedToken

    content = entry.get("content") if isinstance(entry, Mapping) else None
    if not isinstance(content, str) or not content:
        raise CheckpointError(f"{CONFIG} has the added token {entry!r}, which has no content")
    special = bool(entry.get("special", False))
    flags = {flag: bool(entry[flag]) for flag in FLAGS if flag in entry}
    return AddedToken(content, **{"normalized": not special, **flags}, special=special)
