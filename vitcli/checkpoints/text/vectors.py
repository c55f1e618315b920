"""Embed texts, and combine the texts of each class into its vector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vitcli.checkpoints.text.store import VectorStore
from vitcli.errors import CheckpointError
from vitcli.models.onednn import repacked_text
from vitcli.models.text import TextTransformer

Ids = NDArray[np.int64]
MAX_BATCH_VALUES = 1 << 21  # of the widest layer, which fit the caches
UNIT_ERROR = 1e-4
VERSION = 1  # of the computation
MIN_TEXTS = 512  # to embed between two writes to the cache; more for a small tower
MIN_VALUES = 1 << 20  # of their vectors


class TextEncoder:
    """Embeds token ids on a device, in fp32."""

    def __init__(self, network: TextTransformer, device: torch.device) -> None:
        self._config = network.config
        self._device = device
        self._network = repacked_text(network) if device.type == "cpu" else network.to(device)

    @torch.inference_mode()
    def __call__(self, ids: Ids) -> Tensor:
        """(B, L) -> (B, E), not scaled to unit length, on the CPU.

        Raises CheckpointError if a vector is not finite.
        """
        tokens = torch.from_numpy(ids)
        lengths = tokens.new_full((len(ids),), ids.shape[1])
        if self._config.causal:  # tokens after the pooled one change nothing
            lengths = TextTransformer.places(self._config, tokens) + 1
        out = torch.empty(len(ids), self._config.joint_dim)
        order = lengths.argsort(stable=True)
        for batch in _batches(lengths[order].tolist(), self._config.hidden_dim):
            chosen = order[batch]
            out[chosen] = self._network(tokens[chosen].to(self._device)).float().cpu()
        if not bool(out.isfinite().all()):
            raise CheckpointError(
                "the text tower returns NaN or infinity", "its weights are damaged"
            )
        return out


def _batches(lengths: Sequence[int], width: int) -> Iterator[slice]:
    """Slices of texts in the order of their lengths, as many as fit MAX_BATCH_VALUES."""
    start = 0
    while start < len(lengths):
        stop = start + 1
        while (
            stop < len(lengths) and lengths[stop] * (stop + 1 - start) * width <= MAX_BATCH_VALUES
        ):
            stop += 1
        yield slice(start, stop)
        start = stop


def class_vectors(
    ids: Sequence[Ids],
    tower: str,
    width: int,
    encoder: Callable[[], TextEncoder],
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """The unit vector of each class: the texts are embedded, scaled to unit length, averaged and
    scaled again, as `open_clip/zero_shot_classifier.py` does.  K times (n, L) -> (K, E)

    tower: what determines the vectors of ids: the hash of the weights, and the text tower's config;
    width: E. Vectors in the cache are taken from there; the others are computed with `encoder()`
    and added. `advance` gets the numbers of texts done and in all.
    """
    store = VectorStore()
    keys = [_key(texts, tower) for texts in ids]
    found = _sound(store.read(keys), width)
    if any(key not in found for key in keys):
        with store.alone():  # another process may compute the same
            found |= _sound(store.read([key for key in keys if key not in found]), width)
            absent = [place for place, key in enumerate(keys) if key not in found]
            total, done = sum(len(ids[place]) for place in absent), 0
            advance(0, total)
            embed = encoder() if absent else None
            least = max(MIN_TEXTS, MIN_VALUES // width)
            for places in _groups(absent, [len(ids[place]) for place in absent], least):
                assert embed is not None
                texts = F.normalize(embed(np.concatenate([ids[place] for place in places])), dim=-1)
                parts = torch.split(texts, [len(ids[place]) for place in places])
                fresh = {
                    keys[place]: F.normalize(part.mean(dim=0), dim=-1).numpy().tobytes()
                    for place, part in zip(places, parts, strict=True)
                }
                store.write(fresh)
                found |= fresh
                done += len(texts)
                advance(done, total)
    return _stacked(found, keys)


def remember(run: str, ids: Sequence[Ids], tower: str, notes: Sequence[str]) -> None:
    """Keep which vectors a run had, and what it told of its texts, under the key `run`, so that the
    next such run needs no tokens."""
    keys = [_key(texts, tower) for texts in ids]
    VectorStore().write({run: json.dumps({"keys": keys, "notes": list(notes)}).encode()})


def remembered(run: str, count: int, width: int) -> tuple[Tensor, list[str]] | None:
    """The vectors of an earlier run and its notes; None unless all are in the cache.  (K, E)"""
    store = VectorStore()
    try:
        kept = json.loads(store.read([run]).get(run, b"null"))
        keys, notes = kept["keys"], kept["notes"]
    except (TypeError, KeyError, ValueError, RecursionError):  # none, or damaged
        return None
    is_sound = len(keys) == count and all(isinstance(text, str) for text in (*keys, *notes))
    found = _sound(store.read(keys), width) if is_sound else {}
    return (_stacked(found, keys), notes) if is_sound and found.keys() >= set(keys) else None


def _stacked(found: Mapping[str, bytes], keys: Sequence[str]) -> Tensor:
    """(K, E)"""
    vectors = np.stack([np.frombuffer(found[key], np.float32) for key in keys])
    return torch.from_numpy(vectors.copy())


def _groups(places: Sequence[int], counts: Sequence[int], least: int) -> Iterator[list[int]]:
    """Groups of classes with at least `least` texts each."""
    group: list[int] = []
    ends = accumulate(counts)
    first = 0
    for place, end in zip(places, ends, strict=True):
        group.append(place)
        if end - first >= least:
            yield group
            group, first = [], end
    if group:
        yield group


def _sound(vectors: Mapping[str, object], width: int) -> dict[str, bytes]:
    """Keep the unit vectors of this width. Others are damaged, and are computed again."""
    found = {}
    for key, blob in vectors.items():
        if isinstance(blob, bytes) and len(blob) == 4 * width:
            length = float(np.linalg.norm(np.frombuffer(blob, np.float32)))
            if abs(length - 1) < UNIT_ERROR:
                found[key] = blob
    return found


def _key(texts: Ids, tower: str) -> str:
    """The key of a class: the text tower, and the ids that it reads."""
    shape = f"{VERSION} {tower} {texts.shape}".encode()
    return hashlib.sha256(shape + np.ascontiguousarray(texts).tobytes()).hexdigest()
