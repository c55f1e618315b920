"""Read the files of images: their sizes, and which have the same bytes or the same pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vitcli import stores
from vitcli.images.archives import max_file_bytes
from vitcli.images.decode import Picture, attempt, turn_of, upright
from vitcli.images.job import Decoded
from vitcli.images.kinds import ImageError
from vitcli.images.opening import open_ref
from vitcli.images.preprocess import ACROSS
from vitcli.images.scan import Scan
from vitcli.images.workers import iter_decoded
from vitcli.interrupts import interrupts
from vitcli.jobs.named import archive_of, iter_named
from vitcli.records import ErrorType, Failure, ImageRef, Limits, Sample
from vitcli.tasks.dedupe.appearance import PLAN, appearance
from vitcli.tasks.dedupe.vectors import Rows

CHUNK = 1 << 20
UNKNOWN = -1
Look = Literal["bytes", "size", "pixels"]
SETTLED_LATE = ("TIFF", "ICO", "ICNS")  # formats whose size is known when they are decoded


@dataclass(frozen=True, slots=True)
class LookJob:
    """Read an image in a worker: a digest of its bytes, its upright size, or a digest of its
    appearance."""

    look: Look
    limits: Limits
    formats: str
    imports_torch: ClassVar[bool] = False

    def __call__(self, ref: ImageRef, *more: Any) -> Decoded:
        if self.look != "bytes":
            return attempt(ref, self.limits, self.formats, lambda image: self._seen(ref, image))
        try:
            digest, size = self._read(ref)
        except ImageError as error:
            return Failure(ref, error.type, error.message)
        except (OSError, ValueError) as error:
            return Failure(ref, ErrorType.UNREADABLE, str(error))
        counted = np.frombuffer(np.int64(size).tobytes(), np.uint8)
        return Sample(ref, (np.frombuffer(digest, np.uint8), counted))

    def _read(self, ref: ImageRef) -> tuple[bytes, int]:
        """The digest of the bytes of a file, and their number."""
        digest, size = hashlib.sha256(), 0
        with open_ref(ref, max_file_bytes(self.limits.max_pixels)) as file:
            while data := file.read(CHUNK):
                digest.update(data)
                size += len(data)
        return digest.digest(), size

    def _seen(self, ref: ImageRef, image: Picture) -> Sample:
        if self.look == "size" and image.format not in SETTLED_LATE:
            size = image.height, image.width
            return Sample(ref, (), size[::-1] if turn_of(image) in ACROSS else size)
        if self.look == "size":
            rgb = upright(image, PLAN)
            return Sample(ref, (), (rgb.height, rgb.width))
        digest, size = appearance(image, self.limits, lambda: self._read(ref)[0])
        return Sample(ref, (np.frombuffer(digest, np.uint8),), size)


@dataclass(slots=True)
class Files:
    """The files of an index, as far as they are known. `sizes` has bytes, `pixels` upright (height,
    width); UNKNOWN where they have not been read. `failures` has those of rows that failed."""

    name: Callable[[int], str]
    scan: Scan
    limits: Limits
    formats: str
    workers: int | None
    report: Callable[[str, int, int], object]
    note: Callable[[str], None]
    sizes: NDArray[np.int64]
    pixels: NDArray[np.int64]
    failures: dict[int, Failure] = field(default_factory=dict)

    def stat(self, rows: Sequence[int] | Rows) -> None:
        """Learn the size of each file in bytes. What cannot be opened becomes a failure."""
        refs = iter_named(((int(row), self.name(int(row))) for row in rows), self.scan)
        for done, ref in enumerate(refs, 1):
            interrupts.check()
            try:
                self.sizes[ref.index] = _size_of(ref)
            except FileNotFoundError:
                self._fail(Failure(ref, ErrorType.NOT_FOUND, "no such file"))
            except ImageError as error:
                self._fail(Failure(ref, error.type, error.message))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                self._fail(Failure(ref, ErrorType.UNREADABLE, reason))
            if done % 256 == 0 or done == len(rows):
                self.report("files", done, len(rows))

    def look(self, what: Look, rows: Rows) -> Iterator[tuple[int, bytes]]:
        """Yield (row, digest) for the images that can be read, and learn their sizes."""
        named = ((int(row), self.name(int(row))) for row in rows)
        job = LookJob(what, self.limits, self.formats)
        label = {"bytes": "files", "size": "headers", "pixels": "images"}[what]
        workers = self.workers if len(rows) > 4 else 0
        decoded = iter_decoded(
            *(iter_named(named, self.scan), job, workers), note=self.note, keeps_data=False
        )
        with closing(decoded):
            for done, item in enumerate(decoded, 1):
                interrupts.check()
                self.report(f"{label} read", done, len(rows))
                if isinstance(item, Failure):
                    self._fail(item)
                    continue
                row = item.ref.index
                if what == "bytes":
                    self.sizes[row] = int(item.pixels[1].view(np.int64)[0])
                else:
                    self.pixels[row] = item.size
                yield row, item.pixels[0].tobytes() if item.pixels else b""

    def lost(self, row: int) -> None:
        """Count a file that is not there."""
        ref = ImageRef(row, self.name(row))
        self._fail(Failure(ref, ErrorType.NOT_FOUND, "no such file"))

    def _fail(self, failure: Failure) -> None:
        self.failures.setdefault(failure.ref.index, failure)


def _size_of(ref: ImageRef) -> int:
    if ref.member is not None:
        if ref.member.size == 0:  # a member that cannot be read says why when it is opened
            with open_ref(ref, CHUNK):
                pass
        return ref.member.size
    if stores.is_remote(ref.path):
        stamp = stores.stamp(ref.path)
        if stamp is None:
            raise FileNotFoundError
        return stamp[0]
    return Path(ref.path).stat().st_size


def same_bytes(files: Files, rows: Rows) -> Rows:
    """The number of the class of files with the same bytes as another, for each row; -1 for the
    rest. Only files whose size another has are read.  -> (N,)"""
    files.stat(rows)
    known = np.array([row for row in rows if row not in files.failures], np.int64)
    is_shared = _is_repeated(files.sizes[known]) | (files.sizes[known] == UNKNOWN)
    found = dict(files.look("bytes", known[is_shared]))
    return _classes(found, len(files.sizes))


def same_pixels(files: Files, rows: Rows, copies: Rows) -> Rows:
    """As `same_bytes`, for the same appearance. Files with the same bytes have the same
    pixels, so only the first of `copies` is decoded; and of the others those whose size in pixels
    another has."""
    rows = np.array([row for row in rows if row not in files.failures], np.int64)
    numbers, first = np.unique(copies[rows], return_index=True)
    is_first = copies[rows] < 0
    is_first[first[numbers >= 0]] = True
    alone = rows[is_first]
    for _ in files.look("size", alone):
        pass
    alone = np.array([row for row in alone if row not in files.failures], np.int64)
    shapes = files.pixels[alone]
    is_shared = _is_repeated(shapes[:, 0] << 32 | shapes[:, 1])
    found = dict(files.look("pixels", alone[is_shared]))
    leader = {int(copies[row]): int(row) for row in rows[is_first] if copies[row] >= 0}
    for row in rows:
        of = leader.get(int(copies[row]), int(row))
        if of != row:
            files.pixels[row] = files.pixels[of]
            if of in files.failures:
                failure = files.failures[of]
                ref = ImageRef(int(row), files.name(int(row)))
                files.failures[int(row)] = Failure(ref, failure.type, failure.message)
            elif of in found:
                found[int(row)] = found[of]
            else:  # its pixels are those of no other file: a class of its copies alone
                found[int(row)] = found[of] = b"copies of" + of.to_bytes(8)
    return _classes(found, len(files.sizes))


def _is_repeated(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each value is there more than once."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    repeated: NDArray[np.bool_] = counts[inverse.reshape(-1)] > 1
    return repeated


def _classes(digests: dict[int, bytes], count: int) -> Rows:
    """Number the digests that two or more rows have, by their first rows; -1 for the rest."""
    members: dict[bytes, list[int]] = {}
    for row in sorted(digests):
        members.setdefault(digests[row], []).append(row)
    classes = np.full(count, -1, np.int64)
    shared = [rows for rows in members.values() if len(rows) > 1]
    for number, rows in enumerate(shared):
        classes[rows] = number
    return classes


def modified(path: str) -> float | None:
    """When a file, or the archive in which it is, was written, in seconds since 1970; None if that
    cannot be told."""
    if stores.is_remote(path):
        return stores.modified(archive_of(path) or path) or None
    try:
        return Path(archive_of(path) or path).stat().st_mtime
    except (OSError, ValueError):
        return None


def identity(path: str) -> str:
    """The same text for every name of a file: links are followed."""
    if stores.is_remote(path):
        return path
    archive = archive_of(path)
    if archive is None:
        return os.path.realpath(path)
    return os.path.realpath(archive) + path[len(archive) :]
