"""A run that is killed at any write, fsync or rename goes on to the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.sinks.rows import classified, embedded, failed
from vitcli.pipeline import run
from vitcli.records import Batch, ImageRef, Kept, Row
from vitcli.runs import recording
from vitcli.runs.asked import Resuming
from vitcli.runs.recording import Recording
from vitcli.sinks import EMBEDDINGS, PREDICTIONS, FileSink, files
from vitcli.sinks.arrays import INDEX, NpySink, NpzSink, SafetensorsSink
from vitcli.sinks.files import PartialFile, Target
from vitcli.sinks.text import META

SHAPE = (3, 2)
ARRAYS = {"npy": NpySink, "npz": NpzSink, "safetensors": SafetensorsSink}
FORMATS = ("jsonl", "csv", "npy", "npz", "safetensors", "vectors.jsonl")
formats = pytest.mark.parametrize("format", FORMATS)
resume = Resuming(resume=True)


class Inputs:
    """Files on a disk, and a stub of a model that makes a row of each name."""

    def __init__(self, folder: Path, names: str) -> None:
        self.folder = folder
        self.computed: list[str] = []
        folder.mkdir()
        for name in names:
            self.write(name)

    def write(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(name + text)

    def refs(self) -> Iterator[ImageRef]:
        for index, path in enumerate(sorted(self.folder.iterdir())):
            yield ImageRef(index, str(path))

    def row(self, ref: ImageRef, kind: str) -> Row:
        """x, y and z fail; the numbers of a row are those of its file's content."""
        text = Path(ref.path).read_text()
        self.computed.append(Path(ref.path).name)
        if text in "xyz":
            return replace(failed(ref.index, ref.path), ref=ref)
        if kind == "predictions":
            return replace(classified(ref.index, ref.path, *(text * 2)), ref=ref)
        return replace(embedded(sum(text.encode()), ref.path, SHAPE), ref=ref)


def record(
    inputs: Inputs,
    out: Path,
    asked: Resuming = Resuming(),
    *,
    overwrite: bool = False,
    fingerprint: dict[str, Any] | None = None,
    batch: int = 3,
) -> Recording:
    """A whole run."""
    format = out.suffix[1:]
    target = Target(out, overwrite=overwrite or asked.resume)
    is_vectors = out.name.endswith("vectors.jsonl")
    is_array = format in ARRAYS
    kind = "predictions" if format in PREDICTIONS and not is_vectors else "vectors"

    def make_sink(target: Target) -> FileSink:
        if is_array or is_vectors:
            return EMBEDDINGS[format](target, SHAPE, "float32")
        return PREDICTIONS[format](target)

    suffixes = (INDEX, META) if is_array else (META,) if is_vectors else ()
    recorded = Recording(
        target,
        suffixes,
        inputs.refs,
        asked=asked,
        overwrite=overwrite,
        data_start=ARRAYS[format].data_start if is_array else None,
    )
    with recorded:
        recorded.plan({"command": "test", **(fingerprint or {})})
        if recorded.is_complete:
            return recorded
        sink = recorded.begin(make_sink, {"meta": {"row_shape": SHAPE, "array_dtype": "float32"}})

        def batches() -> Iterator[Batch]:
            items = recorded.items()
            while group := list(islice(items, batch)):
                kept = tuple(item for item in group if isinstance(item, Kept))
                refs = tuple(item for item in group if not isinstance(item, Kept))
                yield Batch(refs, (), (), kept)

        def forward(batch: Batch) -> list[Row]:
            return [inputs.row(ref, kind) for ref in batch.refs]

        try:
            run(batches(), forward, sink, progress=recorded.progress)
            sink.finish({"images": recorded.progress.seen})
        except BaseException:
            sink.abort()
            raise
    return recorded


def contents(folder: Path) -> dict[str, bytes]:
    """What a user sees."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return Inputs(tmp_path / "in", "abcdxefyzgh")


@pytest.fixture
def out(tmp_path: Path, format: str) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / f"feats.{format}"


class Killer:
    """Kills this process at its n-th change of a file, half of which is done then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        write, name, sync = PartialFile._write, files.take_name, os.fsync

        def killing_write(file: PartialFile, data: Any) -> None:
            if self.is_time():
                write(file, memoryview(data)[: len(data) // 2])
                self.kill()
            write(file, data)

        def killing_name(partial: Path, real: Path) -> None:
            if self.is_time():
                self.kill()
            name(partial, real)
            if self.is_time():
                self.kill()

        def killing_sync(descriptor: int) -> None:
            if self.is_time():
                self.kill()
            sync(descriptor)

        monkeypatch.setattr(PartialFile, "_write", killing_write)
        monkeypatch.setattr(files, "take_name", killing_name)
        monkeypatch.setattr(recording, "take_name", killing_name)
        monkeypatch.setattr(os, "fsync", killing_sync)

    def is_time(self) -> bool:
        self.left -= 1
        return self.left < 0

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def is_killed(number: int, action: Callable[[], object]) -> bool:
    """Run it in a child that is killed at its n-th change; False where it ends before."""
    child = os.fork()
    if child == 0:
        with pytest.MonkeyPatch.context() as patch:
            Killer(patch, number)
            try:
                action()
            except BaseException:
                os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@formats
def test_a_run_killed_at_any_change_goes_on_to_the_same_bytes(
    inputs: Inputs, out: Path, format: str
) -> None:
    record(inputs, out)
    clean = contents(out.parent)
    number = 0
    is_running = True
    while is_running:
        for path in out.parent.iterdir():
            path.unlink()
        is_running = is_killed(number, partial(record, inputs, out))
        if is_running:
            is_killed(number % 7, partial(record, inputs, out, resume))
        inputs.computed.clear()
        record(inputs, out, resume)
        assert contents(out.parent) == clean, f"killed at change {number}"
        number += 1
    assert number > 15


@formats
def test_what_is_written_is_not_computed_again(inputs: Inputs, out: Path, format: str) -> None:
    """Killed at any change: the batches before the last one are there."""
    number = 0
    while is_killed(number, partial(record, inputs, out)):
        inputs.computed.clear()
        journal = out.with_name(out.name + ".partial.journal")
        written = 0
        if journal.exists():
            text = journal.read_bytes().split(b"\n")[:-1]
            ends = [i for i, line in enumerate(text) if b"files" in line]
            written = sum(line[:1] == b"[" for line in text[: ends[-1]]) if ends else 0
        is_named = not journal.exists() and out.exists()
        record(inputs, out, resume)
        assert len(inputs.computed) == (0 if is_named else 11 - written)
        for path in out.parent.iterdir():
            path.unlink()
        number += 1
