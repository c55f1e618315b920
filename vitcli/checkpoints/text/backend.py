"""Build a tokenizer of the package `tokenizers` from the files of a repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vitcli.checkpoints.text import clip_bpe, specials
from vitcli.checkpoints.text.charsmap import Charsmap
from vitcli.checkpoints.text.ends import file_ends, set_ends
from vitcli.checkpoints.text.files import (
    CONFIG,
    GEMMA,
    JSON,
    MERGES,
    OPENAI,
    SPIECE,
    VOCAB,
    TokenizerFiles,
)
from vitcli.checkpoints.text.recipe import TextFamily, TokenRecipe
from vitcli.checkpoints.text.spiece_tokenizer import spiece_tokenizer
from vitcli.checkpoints.text.vocabulary import (
    IN_WORDS,
    Kind,
    Vocabulary,
    check_agreement,
    naming,
    read_vocabulary,
)
from vitcli.errors import CheckpointError
from vitcli.records import TextClean

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

CLIP, SIGLIP, GEMMA_CLASS, SIGLIP2, T5 = (
    "CLIPTokenizer", "SiglipTokenizer", "GemmaTokenizer", "Siglip2Tokenizer", "T5Tokenizer"
)  # fmt: skip
# The classes of transformers, and what they read. Any other class reads tokenizer.json.
CLASSES: Mapping[str, Kind] = {
    CLIP: "clip",
    SIGLIP: "unigram",
    T5: "unigram",
    "XLMRobertaTokenizer": "unigram",
    GEMMA_CLASS: "bpe",
    SIGLIP2: "bpe",
}
KINDS: Mapping[TextFamily, tuple[Kind, ...]] = {
    "clip": ("clip",),
    "siglip": ("unigram", "bpe"),
    "metaclip2": ("unigram",),
    "other": ("clip", "unigram", "bpe", "other"),
}
# The special tokens, where the JSON does not name them.
BOS, EOS, UNK, PAD = specials.BOS, specials.EOS, specials.UNK, specials.PAD
CLIP_NAMES = {BOS: clip_bpe.BOS, EOS: clip_bpe.EOS, PAD: clip_bpe.EOS, UNK: clip_bpe.EOS}
NAMES: Mapping[tuple[TextFamily, Kind], Mapping[str, str]] = {
    ("clip", "clip"): CLIP_NAMES,
    ("other", "clip"): CLIP_NAMES,
    ("siglip", "unigram"): {EOS: "</s>", UNK: "<unk>", PAD: "</s>"},
    ("siglip", "bpe"): {BOS: "<bos>", EOS: "<eos>", UNK: "<unk>", PAD: "<pad>"},
    ("metaclip2", "unigram"): {BOS: "<s>", EOS: "</s>", UNK: "<unk>", PAD: "<pad>"},
}
T5_NAMES = {EOS: "</s>", UNK: "<unk>", PAD: "<pad>"}
# The tokens before and after a text. "other" has those of its tokenizer.json. With mT5's tokenizer,
# which the smaller models of MetaCLIP 2 have, they are SigLIP's.
ENDS: Mapping[TextFamily, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "clip": ((BOS,), (EOS,)),
    "siglip": ((), (EOS,)),
    "metaclip2": ((BOS,), (EOS,)),
}
BELONGS = "the tokenizer belongs to another model, or its files do not belong together"


@dataclass(frozen=True, slots=True)
class Built:
    """A tokenizer that puts its special tokens around a text. `file` has its vocabulary. `marks`
    are tokens that a text may have, `prefix` says that texts come with ▁ in front, `keeps_spaces`
    that a blank text keeps it, `lower` that the class of transformers lower-cases texts. `charsmap`
    replaces characters before it."""

    backend: Tokenizer = field(repr=False)
    file: Path
    tokenizer_class: str
    eos: str
    eos_id: int
    pad_id: int
    sep_id: int | None
    marks: tuple[str, ...]
    prefix: bool
    keeps_spaces: bool
    lower: bool
    charsmap: Charsmap | None


def build_backend(files: TokenizerFiles, recipe: TokenRecipe, clean: TextClean) -> Built:
    """Build the tokenizer of a text tower. Raises CheckpointError for files that are damaged or
    contradict each other, and for a tokenizer that the family does not have."""
    name = _chosen(files, recipe)
    read = read_vocabulary(name, files.vocabularies[name])
    tokenizer_class = _class(files, recipe, read)
    _check_kind(read, tokenizer_class, recipe.family)
    check_agreement(read, {other: file for other, file in files.vocabularies.items()
                           if other not in (name, MERGES)})  # fmt: skip
    is_t5 = tokenizer_class == T5 and recipe.family != "siglip"
    defaults = T5_NAMES if is_t5 else NAMES.get((recipe.family, read.kind), {})
    names = specials.special_names(files, defaults)
    is_slow = tokenizer_class == SIGLIP
    added = specials.added_tokens(files, names, read.added)
    prefix = read.model is not None and (is_slow or read.model.dummy_prefix)
    with naming(read.file):
        if read.clip is not None:
            by_transformers = clean in ("hf", "none") or bool(recipe.hub_id)
            backend = _clip(read, read.clip, names, added, by_transformers=by_transformers)
        elif read.model is not None:
            pieces = {piece.text for piece in read.model.pieces}
            known = [token for name, token in added.items() if name in pieces]
            if is_slow:  # the cleaning takes the spaces next to them
                known = [specials.plain_token(token.content) for token in known]
            backend = spiece_tokenizer(read.model, known, prefix=prefix)
        else:
            assert read.backend is not None
            backend = read.backend
        if clean == "hf" and tokenizer_class == SIGLIP2:
            _lower_case(backend)
        family = "clip" if read.kind == "clip" else "siglip" if is_t5 else recipe.family
        _set_ends(backend, read, files, family, names)
    simple = recipe.library == "open_clip" and not recipe.hub_id  # SimpleTokenizer pads with 0
    return Built(
        backend=backend,
        file=read.file,
        tokenizer_class=tokenizer_class,
        eos=names[EOS],
        eos_id=_id(backend, read, names, EOS),
        pad_id=0 if simple else _id(backend, read, names, PAD),
        sep_id=backend.token_to_id(names.get(specials.SEP, "")),
        marks=tuple(added) if is_slow else (),
        prefix=prefix,
        keeps_spaces=read.model is not None and not read.model.no_extra_spaces,
        charsmap=read.model.charsmap if read.model else None,
        lower=bool(files.config.get("do_lower_case", True)),
    )


def _chosen(files: TokenizerFiles, recipe: TokenRecipe) -> str:
    """The vocabulary that transformers would read: SiglipTokenizer reads `spiece.model` alone, all
    others prefer `tokenizer.json`."""
    order = [JSON, VOCAB, SPIECE, GEMMA, OPENAI]
    declared = _declared(files, recipe)
    if declared == SIGLIP or (not declared and recipe.model_type == "siglip"):
        order.insert(0, SPIECE)
    return next(name for name in order if name in files.vocabularies)


def _declared(files: TokenizerFiles, recipe: TokenRecipe) -> str:
    """The class of transformers that the JSON names; empty for none. That of NaFlex's SigLIP 2
    lower-cases, whatever the JSON says (transformers/models/auto/tokenization_auto.py)."""
    if recipe.model_type == "siglip2":
        return SIGLIP2
    return str(files.config.get("tokenizer_class") or "").removesuffix("Fast")


def _class(files: TokenizerFiles, recipe: TokenRecipe, read: Vocabulary) -> str:
    """The class of transformers for the files: the one in the JSON, or the usual one."""
    declared = _declared(files, recipe)
    if declared:
        return declared
    if read.kind == "unigram" and recipe.model_type == "siglip":
        return SIGLIP
    if read.kind == "unigram" and "t5" in recipe.hub_id:
        return T5
    return {"clip": CLIP, "bpe": GEMMA_CLASS}.get(read.kind, "")


def _check_kind(read: Vocabulary, tokenizer_class: str, family: TextFamily) -> None:
    """Raise CheckpointError for a file that the class of transformers, or the family, does not
    have."""
    declared = CLASSES.get(tokenizer_class, read.kind)
    if read.kind != declared:
        raise CheckpointError(
            f"{read.file} is {IN_WORDS[read.kind]}, and {CONFIG} names {tokenizer_class}, which "
            f"reads {IN_WORDS[declared]}",
            BELONGS,
        )
    if read.kind not in KINDS[family]:
        wanted = " or ".join(IN_WORDS[kind] for kind in KINDS[family])
        raise CheckpointError(
            f"{read.file} is {IN_WORDS[read.kind]}, and the text tower needs {wanted}", BELONGS
        )


def _clip(
    read: Vocabulary,
    vocabulary: clip_bpe.ClipVocabulary,
    names: dict[str, str],
    added: Mapping[str, AddedToken],
    *,
    by_transformers: bool,
) -> Tokenizer:
    """CLIP's tokenizer by the rules of transformers or of open_clip. open_clip's has other names
    for the special tokens, which `names` gets."""
    for role in (BOS, EOS):
        if names[role] not in vocabulary.ids:
            raise CheckpointError(f"{read.file} has no token {names[role]}", BELONGS)
    if by_transformers:
        backend = clip_bpe.transformers_tokenizer(vocabulary, list(added.values()))
        for entry in read.added:
            if backend.token_to_id(entry["content"]) != entry["id"]:
                raise CheckpointError(
                    f"{read.file} gives the added token {entry['content']} the id {entry['id']}, "
                    f"which is not the next one",
                )
        return backend
    bos, eos = (vocabulary.ids[names[role]] for role in (BOS, EOS))
    for role, name in names.items():
        if name in vocabulary.ids:
            index = vocabulary.ids[name]
            ours = {bos: clip_bpe.OPEN_CLIP_BOS, eos: clip_bpe.OPEN_CLIP_EOS}
            names[role] = ours.get(index, name)
    return clip_bpe.open_clip_tokenizer(vocabulary, bos, eos)


def _lower_case(backend: Tokenizer) -> None:
    from tokenizers import normalizers

    steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
    backend.normalizer = normalizers.Sequence(steps)


def _set_ends(
    backend: Tokenizer,
    read: Vocabulary,
    files: TokenizerFiles,
    family: TextFamily,
    names: dict[str, str],
) -> None:
    """Put the tokens of the family around a text. Raises CheckpointError if tokenizer.json and
    tokenizer_config.json both have others; some classes of transformers ignore them."""
    found = file_ends(backend)
    if family == "other":
        if found is None or not found[1]:
            raise CheckpointError(f"{read.file} puts no token at the end of a text")
        names.setdefault(EOS, found[1][-1])
        before, after = found
    else:
        roles = ENDS[family]
        before, after = (tuple(names[role] for role in some) for some in roles)
        flags = [files.config.get(f"add_{role}") for role in (BOS, EOS)]
        agrees = flags == [bool(before), bool(after)] or found in (None, (before, after))
        is_followed = read.kind == "bpe" or (read.backend and not files.config)
        if is_followed and not agrees:
            assert found is not None
            raise CheckpointError(
                f"{read.file} puts {' '.join((*found[0], 'TEXT', *found[1]))} together, and the "
                f"text tower was trained on {' '.join((*before, 'TEXT', *after))}",
                BELONGS,
            )
    ids = [[(name, _known(backend, read, name)) for name in some] for some in (before, after)]
    set_ends(backend, *ids)


def _id(backend: Tokenizer, read: Vocabulary, names: Mapping[str, str], role: str) -> int:
    if role not in names:
        raise CheckpointError(f"{read.file}: {CONFIG} does not name the {role}")
    return _known(backend, read, names[role])


def _known(backend: Tokenizer, read: Vocabulary, name: str) -> int:
    index = backend.token_to_id(name)
    if index is None:
        raise CheckpointError(f"{read.file} has no token {name}", BELONGS)
    return index
