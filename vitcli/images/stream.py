"""Batches through torch's data API: the dataset `ImageStream` for a user's own loop, and
`iter_loaded` for the runs of vit."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vitcli.images.job import DecodeJob
from vitcli.images.loader import iter_batches
from vitcli.images.scan import Omissions, choose_scan
from vitcli.images.sources import iter_refs, open_sources
from vitcli.records import Batch, Limits, Preprocess

T = TypeVar("T")


class ImageStream(IterableDataset[Batch]):
    """The images of any inputs, decoded and preprocessed, in batches.

        model = vitcli.load("demo")
        for batch in vitcli.ImageStream("photos/", preprocess=model.preprocess, batch_size=32):
            for ref, pixels in zip(batch.refs, *batch.pixels):
                ...  # ref.path, and `model.preprocess.dtype` (H, W, 3) as the model takes them
            for failure in batch.failures:
                ...  # failure.ref.path, failure.type, failure.message

    inputs: files, directories, glob patterns, tars, zips, Parquet tables, URLs of them, or "-" for
    a list of paths on standard input.
    Each image appears exactly once, in input order: in a batch's `refs`, or in its `failures` with
    the reason.
    Images are decoded in `workers` processes, as in `vitcli.embed`; a crash or a hang costs only
    the image that caused it. Each iteration lists the inputs again. `note` is called with warnings.

    A DataLoader takes it with `batch_size=None`. With `num_workers=n` each of torch's workers lists
    all inputs and decodes every n-th batch, so the batches and their order are the same. But a
    torch worker decodes inside itself, so an image that crashes the worker ends the DataLoader.
    Raises VitError for inputs that cannot be listed, or have no images.
    """

    def __init__(
        self,
        inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        preprocess: Preprocess,
        *,
        batch_size: int = 16,
        workers: int | None = None,
        formats: str = "common",
        extensions: Sequence[str] = (),
        limits: Limits = Limits(),
        allow_outside: bool = False,
        note: Callable[[str], None] | None = None,
    ) -> None:
        named = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
        self._omissions = Omissions(note) if note else Omissions()
        scan = choose_scan(
            *(formats, extensions, limits, self._omissions), allow_outside=allow_outside
        )
        if not extensions:
            scan = scan.with_archives
        opened = open_sources([os.fspath(path) for path in named], scan=scan)
        self._sources = [source.rereadable() for source in opened]
        self._job = DecodeJob((preprocess,), limits, formats)
        self._batch_size, self._workers = batch_size, workers

    def __iter__(self) -> Generator[Batch, None, None]:
        self._omissions.clear()
        refs, workers, size = iter_refs(self._sources), self._workers, self._batch_size
        if (info := get_worker_info()) is not None:
            share, shares = info.id, info.num_workers
            refs = (ref for ref in refs if ref.index // size % shares == share)
            workers = 0  # a daemonic process cannot start others
        batches = iter_batches(refs, self._job, lambda: size, workers, self._omissions.note)
        with closing(batches):
            yield from batches
        self._omissions.note_system()
        self._omissions.note_unread()


class _BatchDataset(IterableDataset[Batch]):
    """The batches of a run, which are read once."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return self._batches


def iter_loaded(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Read batches through a DataLoader. For CUDA it pins them, and each batch is copied to the
    device while the network runs on the previous one.

    The DataLoader has no workers, because the death of a worker would end the run. Without workers
    it pins the batches in this thread.
    """
    on_cuda = device.type == "cuda"
    loader = DataLoader(
        _BatchDataset(batches),
        batch_size=None,
        collate_fn=_same,  # type: ignore[arg-type]  # with batch_size=None it gets one Batch
        pin_memory=on_cuda,
        generator=torch.Generator(),  # its own, so that torch's global random state stays
    )
    return one_ahead(loader, CudaCopies(device)) if on_cuda else iter(loader)


def _same(batch: Batch) -> Batch:
    return batch


def one_ahead(items: Iterable[T], start: Callable[[T], Callable[[], T]]) -> Iterator[T]:
    """Start to copy each item before the previous one is yielded; `start` returns a function that
    waits for the copy and returns it."""
    wait: Callable[[], T] | None = None
    for item in items:
        wait_for_next = start(item)
        if wait is not None:
            yield wait()
        wait = wait_for_next
    if wait is not None:
        yield wait()


class CudaCopies:
    """Copy pinned batches to a CUDA device, on another stream than the network's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, batch: Batch) -> Callable[[], Batch]:
        try:
            with torch.cuda.stream(self._stream):
                copied = batch.to(self._device)
                done = self._stream.record_event()
        except torch.OutOfMemoryError:
            return lambda: batch  # on the CPU: the engine splits it and copies the parts

        def wait() -> Batch:
            network = torch.cuda.current_stream(self._device)
            network.wait_event(done)
            for pixels in copied.arrays():
                torch.as_tensor(pixels).record_stream(network)
            return copied

        return wait
