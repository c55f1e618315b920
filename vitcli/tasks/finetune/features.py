"""Compute the features that a head reads, cached on disk by the content of the images."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitcli.cache import FEATURES, cache_folder, is_trusted, mark_used
from vitcli.checkpoints.load import Model
from vitcli.checkpoints.weights.npz import DAMAGE
from vitcli.errors import OutputError
from vitcli.images.kinds import ImageError
from vitcli.images.members import Archive
from vitcli.jobs.finite import are_finite, overflow, with_failures
from vitcli.jobs.loading import open_model, starter
from vitcli.jobs.run import Computation, Run
from vitcli.models.engine import Logits
from vitcli.records import Batch, Embedded, Failure, FoundImage, Row
from vitcli.sinks.memory import NoSink
from vitcli.stores import is_remote
from vitcli.training.recipe import headless

FeaturesByHash = dict[str, NDArray[np.float32]]
SAVE_SECONDS = 300.0  # between writes of the cache: a killed run loses no more than this


def features(
    run: Run, model: Model, images: Sequence[FoundImage]
) -> tuple[dict[int, Tensor], list[Failure]]:
    """Return the input of the model's head for each readable image, by the image's index, and the
    failures.

    The cache serves images with the same bytes in all runs with the same weights and preprocessing.
    An interrupted run saves the features that it has computed.
    """
    file = cache_folder() / FEATURES / f"{_fingerprint(run, model)}.npz"
    known = _read(file)
    mark_used(file)
    hashes = []
    for done, image in enumerate(images, 1):
        hashes.append(_hash(image))
        run.reporter.steps("images hashed", done, len(images))
    unknown: dict[str, int] = {}
    for place, digest in enumerate(hashes):
        if digest not in known:
            unknown.setdefault(digest, place)
    places = list(unknown.values())
    sink = _FeatureCache(file, [hashes[place] for place in places])
    if places:
        run = run.over([images[place] for place in places])
        network = replace(model, source=headless(model.network))
        engine = open_model(network, Logits(), run.running, run.reporter.note)

        def forward(batch: Batch) -> list[Embedded | Failure]:
            vectors = engine(batch.pixels_for())
            rows = [Embedded(ref, v) for ref, v in zip(batch.refs, vectors, strict=True)]
            return with_failures(rows, are_finite(vectors), overflow(run.running))

        try:
            run.into(
                sink, Computation(plans=(model.preprocess,), forward=forward, start=starter(engine))
            )
        finally:
            sink.save()
    known |= sink.computed
    failures = sink.failures
    vectors = {p: torch.from_numpy(known[h]) for p, h in enumerate(hashes) if h in known}
    failed = [
        replace(failures[h], ref=replace(failures[h].ref, index=p, path=images[p].path))
        for p, h in enumerate(hashes)
        if h in failures
    ]
    return vectors, failed


class _FeatureCache(NoSink):
    """A sink that collects features by hash and saves them every SAVE_SECONDS."""

    def __init__(self, file: Path, hashes: Sequence[str]) -> None:
        self._file, self._hashes = file, hashes
        self._saved, self._saved_at = 0, time.monotonic()
        self.computed: FeaturesByHash = {}
        self.failures: dict[str, Failure] = {}

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            digest = self._hashes[row.ref.index]
            if isinstance(row, Embedded):
                self.computed[digest] = row.embedding.astype(np.float32)
            elif isinstance(row, Failure):
                self.failures[digest] = row
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Add the new features to the current content of the file. Raises OutputError."""
        if len(self.computed) > self._saved:
            _write(self._file, _read(self._file) | self.computed)
        self._saved, self._saved_at = len(self.computed), time.monotonic()


def _fingerprint(run: Run, model: Model) -> str:
    """A hash of everything but the image that determines the features: the network without its
    head, the image size, the preprocessing, the dtype and torch."""
    described = {
        "sha256": model.sha256,
        "config": repr(replace(model.config, num_classes=0)),
        "preprocess": repr(replace(model.preprocess, source="")),
        "dtype": run.running.dtype,
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _hash(image: FoundImage) -> str:
    """The hash of the image's bytes; for an unreadable image, a text that `_write` leaves out."""
    path, member, _ = image
    try:
        if member is None and not is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode):
            return f"unreadable {path}"  # a pipe or device: decoding reports the failure
        file = member.open(lambda: Archive.at(member.archive)) if member else open(path, "rb")  # noqa: SIM115
        with file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except (ImageError, OSError, ValueError):  # ValueError: a damaged zip
        return f"unreadable {path}"


def _read(file: Path) -> FeaturesByHash:
    if not is_trusted(file):
        return {}
    try:
        with np.load(file) as held:
            hashes, vectors = held["hashes"], held["features"]
    except DAMAGE:
        return {}  # missing or damaged: the features are computed again
    is_whole = hashes.dtype.kind == "U" and vectors.ndim == 2 and vectors.dtype == np.float32
    if not is_whole or hashes.shape != vectors.shape[:1] or not np.isfinite(vectors).all():
        return {}
    return dict(zip(hashes.tolist(), vectors, strict=True))


def _write(file: Path, known: FeaturesByHash) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    kept = {h: vector for h, vector in known.items() if not h.startswith("unreadable")}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            np.savez(out, hashes=np.array(list(kept)), features=np.stack(list(kept.values())))
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"cannot keep features in {file.parent}: {error.strerror}",
            "VIT_CACHE names another folder",
        ) from None
