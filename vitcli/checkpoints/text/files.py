"""Find the files of a tokenizer: next to the weights, on the hub, or where the user says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitcli.checkpoints import hub
from vitcli.checkpoints.hashes import sha256
from vitcli.checkpoints.resolve import Checkpoint, hub_parts, is_hub_id, read_json
from vitcli.checkpoints.text.recipe import TokenRecipe
from vitcli.checkpoints.weights.sniff import LFS, LFS_HINT
from vitcli.errors import CheckpointError, ModelNotFound
from vitcli.files import at_home

if TYPE_CHECKING:  # for types only: this module imports torch
    from vitcli.checkpoints.layouts.layout import Json

CONFIG, SPECIALS, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
JSON, VOCAB, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
SPIECE, GEMMA, OPENAI = "spiece.model", "tokenizer.model", "bpe_simple_vocab_16e6.txt.gz"
VOCABULARIES = (JSON, VOCAB, MERGES, SPIECE, GEMMA, OPENAI)
NAMES = (CONFIG, SPECIALS, ADDED, *VOCABULARIES)
SUFFIXES = {".model": SPIECE, ".gz": OPENAI, ".json": JSON}
CLIP_TOKENIZER = "openai/clip-vit-base-patch32"


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The files of one tokenizer: its vocabularies, by their usual names, and its JSON, empty
    without a file. `source` is what names them for people."""

    source: str
    vocabularies: Mapping[str, Path]
    config: Json
    specials: Json
    added: Json

    def digest(self) -> str:
        """The hash of all files, which determines what they make of a text."""
        texts = [json.dumps(part, sort_keys=True) for part in (self.config, self.specials)]
        hashes = [f"{name} {sha256((file,))}" for name, file in sorted(self.vocabularies.items())
                  if file.is_file()]  # fmt: skip
        # The order of added tokens decides between those of the same text.
        return "\n".join((*texts, json.dumps(self.added), *hashes))


def tokenizer_files(
    checkpoint: Checkpoint, recipe: TokenRecipe, *, tokenizer: str | None = None, offline: bool
) -> TokenizerFiles:
    """Find the files of a checkpoint's tokenizer: those of `tokenizer` (a file, a folder, or a hub
    id), next to the weights, in the checkpoint's repository, or in the one that open_clip's JSON
    names. What is on the hub is downloaded.

    Raises ModelNotFound for files that are not there or cannot be had, CheckpointError for a
    repository without a tokenizer.
    """
    if tokenizer is not None:
        return _named(tokenizer, offline=offline)
    beside = checkpoint.weights[0].parent
    if _vocabularies(beside):
        return _read(beside, checkpoint.spec)
    if checkpoint.revision is not None and is_hub_id(checkpoint.spec):
        try:
            return _pulled(checkpoint.spec, checkpoint.revision, offline=offline)
        except CheckpointError:
            if not recipe.hub_id:
                raise CheckpointError(
                    f"{checkpoint.spec} on the hub has no tokenizer", _hint(recipe)
                ) from None
    if is_hub_id(recipe.hub_id):
        return _pulled(recipe.hub_id, None, offline=offline)
    raise CheckpointError(
        f"there is no tokenizer next to {checkpoint.weights[0]}: looked for "
        f"{', '.join(VOCABULARIES)}",
        _hint(recipe),
    )


def local_digest(spec: str) -> str:
    """The hash of the tokenizer's files in a folder, or next to a file; "" for a hub id, whose
    revision says which files they are."""
    path = at_home(spec)
    if not path.exists():
        return ""
    folder = path if path.is_dir() else path.parent
    names = dict.fromkeys((*NAMES, *([path.name] if path.suffix in SUFFIXES else [])))
    digest = hashlib.sha256()
    for file in (folder / name for name in names):
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _hint(recipe: TokenRecipe) -> str:
    if recipe.family == "clip":
        return f"give CLIP's with --tokenizer {CLIP_TOKENIZER}"
    return "give it with --tokenizer: a folder, a file, or a hub id"


def _named(spec: str, *, offline: bool) -> TokenizerFiles:
    """The tokenizer that the user names."""
    path = at_home(spec)
    if path.is_dir():
        if not _vocabularies(path):
            raise ModelNotFound(
                f"--tokenizer: no tokenizer in {spec}", f"looked for {', '.join(VOCABULARIES)}"
            )
        return _read(path, spec)
    if path.is_file():
        return _read(path.parent, spec, _kind(path))
    if not is_hub_id(spec):
        raise ModelNotFound(
            f"--tokenizer: there is no {spec}",
            f"give a folder, a file ({', '.join(VOCABULARIES)}), or a hub id ({CLIP_TOKENIZER})",
        )
    return _pulled(spec, None, offline=offline)


def _kind(file: Path) -> dict[str, Path]:
    """The vocabulary in one file, by its usual name, which the file may not have."""
    if file.name in (VOCAB, MERGES):
        return {name: file.parent / name for name in (VOCAB, MERGES)}
    name = file.name if file.name in VOCABULARIES else SUFFIXES.get(file.suffix)
    if name is None:
        raise ModelNotFound(
            f"--tokenizer: {file} is not a tokenizer", f"it may be {', '.join(VOCABULARIES)}"
        )
    return {name: file}


def _vocabularies(folder: Path) -> dict[str, Path]:
    found = {name: folder / name for name in VOCABULARIES if (folder / name).is_file()}
    return found if found.keys() - {MERGES} else {}


def _read(
    folder: Path, source: str, vocabularies: Mapping[str, Path] | None = None
) -> TokenizerFiles:
    vocabularies = _vocabularies(folder) if vocabularies is None else vocabularies
    for file in vocabularies.values():
        _check_pointer(file)
    return TokenizerFiles(
        source,
        vocabularies,
        read_json(folder / CONFIG),
        read_json(folder / SPECIALS),
        read_json(folder / ADDED),
    )


def _check_pointer(file: Path) -> None:
    """Raise CheckpointError for a git-LFS pointer. What else is wrong with a file, its reader
    tells."""
    with suppress(OSError), file.open("rb") as stream:
        if stream.read(len(LFS)) == LFS:
            raise CheckpointError(f"{file} is a git-LFS pointer, not the tokenizer", LFS_HINT)


def _pulled(spec: str, revision: str | None, *, offline: bool) -> TokenizerFiles:
    """Fetch the tokenizer of a repository. Raises CheckpointError if it has none."""
    repo, named = hub_parts(spec)

    def choose(names: list[str]) -> list[str]:
        chosen = [name for name in NAMES if name in names]
        if not set(chosen) & (set(VOCABULARIES) - {MERGES}):
            raise CheckpointError(f"{repo} on the hub has no tokenizer")
        return chosen

    try:
        snapshot = hub.download(
            repo, revision or named, choose, offline=offline, probes=VOCABULARIES
        )
    except ModelNotFound as error:
        raise ModelNotFound(f"no tokenizer of {spec}: {error.message}", error.hint) from None
    return _read(snapshot.folder, spec)
