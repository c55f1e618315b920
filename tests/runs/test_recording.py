"""A run that is killed at any write, fsync or rename goes on to the same bytes."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.runs.killing import IsKilled
from tests.sinks.rows import classified, embedded, failed
from vitcli.errors import Interrupted, OutputError, WriteError
from vitcli.interrupts import interrupts
from vitcli.pipeline import run
from vitcli.records import Batch, ImageRef, Row
from vitcli.runs import recorded
from vitcli.runs.fingerprint import Fingerprint
from vitcli.runs.journal import read_commits
from vitcli.runs.kept import KeptRows
from vitcli.runs.output import Output
from vitcli.runs.recorded import Recorded
from vitcli.runs.recording import Recording
from vitcli.runs.shard import Resuming
from vitcli.sinks import PREDICTIONS
from vitcli.sinks.format import Format
from vitcli.sinks.text import META

SHAPE = (3, 2)
ARRAYS = ("npy", "npz", "safetensors")
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
    is_vectors = out.name.endswith("vectors.jsonl")
    is_array = format in ARRAYS
    kind = "predictions" if format in PREDICTIONS and not is_vectors else "vectors"

    output = Output(
        out=out,
        command="embed" if is_array or is_vectors else "classify",
        format=Format(format),
        overwrite=overwrite,
        resuming=asked,
    )
    made = Recording(output, inputs.refs)
    with made:
        made.plan(Fingerprint({"command": "test", **(fingerprint or {})}))
        if made.is_complete:
            return made
        sink = made.begin({"row_shape": SHAPE, "array_dtype": "float32"}, [])

        def batches() -> Iterator[Batch]:
            items = made.items()
            while group := tuple(islice(items, batch)):
                yield Batch(group, ())

        def forward(batch: Batch) -> list[Row]:
            return [inputs.row(ref, kind) for ref in batch.refs]

        try:
            run(batches(), forward, sink, progress=made.progress)
            sink.write_kept()
            sink.finish({"images": made.progress.seen})
        except BaseException:
            sink.abort()
            raise
    return made


def contents(folder: Path) -> dict[str, bytes]:
    """What a user sees; the lock of a dead process is nothing."""
    seen = (p for p in folder.iterdir() if not p.name.startswith(".") and p.suffix != ".lock")
    return {path.name: path.read_bytes() for path in seen}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Which files they are, and when they were last written."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: a process that is killed loses nothing that it has written."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return Inputs(tmp_path / "in", "abcdxefyzgh")


@pytest.fixture
def out(tmp_path: Path, format: str) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / f"feats.{format}"


@pytest.mark.slow
@formats
def test_a_run_killed_at_any_change_goes_on_to_the_same_bytes(
    inputs: Inputs, out: Path, format: str, is_killed: IsKilled
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


@pytest.mark.slow
@formats
def test_what_is_written_is_not_computed_again(
    inputs: Inputs, out: Path, format: str, is_killed: IsKilled
) -> None:
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


# A system that refuses to write


class BadDisk:
    """A disk whose n-th write, fsync, close or rename fails. Nothing after it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
        self.left, self.code, self.has_failed = number, code, False
        disk, plain_open, sync, rename = self, io.open, os.fsync, Path.replace

        class BadFile(io.FileIO):
            def write(self, data: Any) -> int:
                disk.step()
                return super().write(data)

            def close(self) -> None:
                is_written = not self.closed and self.writable()
                super().close()
                if is_written:
                    disk.step()

        def bad_open(
            file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any
        ) -> Any:
            if "b" not in mode or not set(mode) & set("wa+"):
                return plain_open(file, mode, buffering, *rest, **more)
            raw = BadFile(file, mode.replace("b", ""))
            return raw if buffering == 0 else io.BufferedRandom(raw)

        def bad_sync(descriptor: int) -> None:
            disk.step()
            sync(descriptor)

        def bad_rename(path: Path, target: Path) -> Path:
            disk.step()
            return rename(path, target)

        monkeypatch.setattr(io, "open", bad_open)
        monkeypatch.setattr(os, "fsync", bad_sync)
        monkeypatch.setattr(Path, "replace", bad_rename)

    def step(self) -> None:
        self.left -= 1
        if self.left == -1:
            self.has_failed = True
            raise OSError(self.code, os.strerror(self.code))


@pytest.mark.slow
@formats
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_any_write_fsync_close_or_rename_that_fails_is_an_error_and_loses_nothing(
    inputs: Inputs, out: Path, format: str, code: int, tmp_path: Path
) -> None:
    """O2: for every n. The old output is whole until the new one is; the run can be taken up."""
    record(inputs, out)
    old = contents(out.parent)
    inputs.write("e", "changed")
    whole = tmp_path / "whole" / out.name
    whole.parent.mkdir()
    record(inputs, whole)
    new = contents(whole.parent)
    number, has_failed = 0, True
    while has_failed:
        with pytest.MonkeyPatch.context() as patch:
            disk = BadDisk(patch, number, code)
            try:
                record(inputs, out, resume)
            except WriteError as error:
                assert os.strerror(code) in error.message
            else:
                assert not disk.has_failed, f"step {number} failed, and nobody heard of it"
        has_failed = disk.has_failed
        for name, data in old.items():
            if not name.endswith(META):
                assert (out.parent / name).read_bytes() in (data, new[name]), f"step {number}"
        record(inputs, out, resume)
        assert contents(out.parent) == new, f"step {number}"
        inputs.write("e")
        record(inputs, out, resume)
        inputs.write("e", "changed")
        number += 1
    assert number > 10


# A finished output is brought up to date


@formats
def test_with_nothing_new_nothing_is_touched(inputs: Inputs, out: Path, format: str) -> None:
    record(inputs, out)
    before = identities(out.parent)
    inputs.computed.clear()
    again = record(inputs, out, resume)
    assert again.is_complete and not again.needs_model
    assert (again.progress.done, again.progress.failed, inputs.computed) == (8, 3, [])
    assert identities(out.parent) == before


@formats
def test_only_new_and_changed_images_are_computed(
    inputs: Inputs, out: Path, format: str, tmp_path: Path
) -> None:
    record(inputs, out)
    inputs.computed.clear()
    inputs.write("bb")
    inputs.write("zz")
    inputs.write("e", "changed")
    (inputs.folder / "a").unlink()
    (inputs.folder / "h").unlink()
    record(inputs, out, resume)
    assert sorted(inputs.computed) == ["bb", "e", "zz"]
    whole = tmp_path / "whole" / out.name
    whole.parent.mkdir()
    record(inputs, whole)
    assert contents(out.parent) == contents(whole.parent)
    assert record(inputs, out, resume).is_complete


@pytest.mark.slow
@formats
def test_an_update_that_is_killed_at_any_change_goes_on(
    inputs: Inputs, out: Path, format: str, is_killed: IsKilled, tmp_path: Path
) -> None:
    def prepared(name: str) -> Path:
        for path in inputs.folder.iterdir():
            path.unlink()
        for letter in "abcdxefyzgh":
            inputs.write(letter)
        made = tmp_path / name / out.name
        made.parent.mkdir()
        record(inputs, made)
        inputs.write("bb")
        inputs.write("f", "changed")
        (inputs.folder / "c").unlink()
        return made

    clean = prepared("clean")
    record(inputs, clean, resume)
    number, is_running = 0, True
    while is_running:
        made = prepared(str(number))
        before = made.read_bytes()
        is_running = is_killed(number, partial(record, inputs, made, resume))
        whole = (before, clean.read_bytes())
        assert made.read_bytes() in whole, "the old output or the new one, never a half"
        record(inputs, made, resume)
        assert contents(made.parent) == contents(clean.parent), f"killed at change {number}"
        number += 3


@formats
def test_missing_images_keep_their_rows_where_asked(inputs: Inputs, out: Path, format: str) -> None:
    record(inputs, out)
    before = contents(out.parent)
    for name in "axh":
        (inputs.folder / name).unlink()
    inputs.computed.clear()
    keep = Resuming(resume=True, keep_missing=True)
    record(inputs, out, keep)
    assert contents(out.parent) == before
    assert inputs.computed == []
    assert record(inputs, out, keep).is_complete
    record(inputs, out, resume)
    assert record(inputs, out, resume).progress.seen == 8


@formats
def test_failed_rows_are_kept_or_computed_again(inputs: Inputs, out: Path, format: str) -> None:
    record(inputs, out)
    inputs.computed.clear()
    record(inputs, out, resume)
    assert inputs.computed == []
    record(inputs, out, Resuming(resume=True, retry_failed=True))
    assert sorted(inputs.computed) == ["x", "y", "z"]


@pytest.mark.parametrize("format", ["jsonl"])
def test_changes_before_the_point_of_interruption_ask_for_another_round(
    inputs: Inputs, out: Path, format: str, is_killed: IsKilled
) -> None:
    assert is_killed(8, partial(record, inputs, out))
    inputs.write("a", "changed")
    first = record(inputs, out, resume)
    assert first.is_stale
    inputs.computed.clear()
    assert not record(inputs, out, resume).is_stale
    assert inputs.computed == ["a"]


# What is not to be mixed


@pytest.mark.parametrize("format", ["jsonl"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_another_fingerprint_is_named_and_nothing_is_touched(
    inputs: Inputs, out: Path, format: str, is_killed: IsKilled, is_finished: bool
) -> None:
    first = {"model": ["3f" * 32], "--top-k": 5}
    if is_finished:
        record(inputs, out, fingerprint=first)
    else:
        assert is_killed(8, partial(record, inputs, out, fingerprint=first))
    before = contents(out.parent)
    name = "feats.jsonl" if is_finished else "feats.jsonl.partial"
    for second, said in (
        ({"model": ["91" * 32], "--top-k": 5}, "model 3f3f3f3f3f3f… (now 919191919191…)"),
        ({"model": ["3f" * 32], "--top-k": 3}, "--top-k 5 (now 3)"),
    ):
        with pytest.raises(OutputError) as caught:
            record(inputs, out, resume, fingerprint=second)
        assert caught.value.message == f"{out.with_name(name)} was made with {said}"
        assert "--overwrite" in str(caught.value.hint)
        assert contents(out.parent) == before


@pytest.mark.parametrize("format", ["jsonl"])
def test_other_inputs_are_named_and_more_of_them_are_fine(
    inputs: Inputs, out: Path, format: str, is_killed: IsKilled
) -> None:
    assert is_killed(8, partial(record, inputs, out))
    before = contents(out.parent)
    inputs.write("aa")
    with pytest.raises(
        OutputError, match="was made of other inputs: after 1 images came"
    ) as caught:
        record(inputs, out, resume)
    assert str(inputs.folder / "aa") in caught.value.message
    assert contents(out.parent) == before
    (inputs.folder / "aa").unlink()
    inputs.write("zzz")
    record(inputs, out, resume)
    assert out.read_bytes().count(b"\n") == 12


@pytest.mark.parametrize("format", ["jsonl"])
def test_an_interrupted_run_is_not_lost_by_forgetting_to_resume(
    inputs: Inputs, out: Path, format: str, is_killed: IsKilled
) -> None:
    assert is_killed(8, partial(record, inputs, out))
    with pytest.raises(OutputError, match="holds 6 images of an interrupted run") as caught:
        record(inputs, out)
    assert "--resume" in str(caught.value.hint)
    record(inputs, out, overwrite=True)
    assert len(inputs.computed) == 11


@pytest.mark.parametrize("format", ["jsonl"])
def test_an_edited_output_is_not_trusted(inputs: Inputs, out: Path, format: str) -> None:
    record(inputs, out)
    with out.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(OutputError, match="has changed since its run"):
        record(inputs, out, resume)
    (out.parent / ".feats.jsonl.journal").unlink()
    with pytest.raises(OutputError, match="has no record of its run"):
        record(inputs, out, resume)


@pytest.mark.parametrize("format", ["jsonl"])
def test_an_output_that_is_an_input_is_refused(inputs: Inputs, format: str) -> None:
    with pytest.raises(OutputError, match="is an input, and would be overwritten"):
        record(inputs, (inputs.folder / "a").rename(inputs.folder / "a.jsonl"), overwrite=True)
    assert (inputs.folder / "a.jsonl").read_text() == "a"


# Damage


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def add_garbage(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"garbage\n{")


def cut_and_add_garbage(path: Path) -> None:
    cut(path)
    add_garbage(path)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    """One byte of the last row."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("format", ["jsonl", "csv", "npy", "safetensors"])
@pytest.mark.parametrize(
    "damage", [cut, add_garbage, cut_and_add_garbage, empty, flip, remove], ids=lambda f: f.__name__
)
def test_a_damaged_partial_goes_back_to_what_its_files_agree_on(
    inputs: Inputs, out: Path, format: str, is_killed: IsKilled, damage: Callable[[Path], None]
) -> None:
    record(inputs, out)
    clean = contents(out.parent)
    names = ["feats.index.jsonl.partial"] if format in ARRAYS else []
    for name in (f"feats.{format}.partial", f"feats.{format}.partial.journal", *names):
        for path in out.parent.iterdir():
            path.unlink()
        assert is_killed(14 if format in ARRAYS else 9, partial(record, inputs, out))
        damage(out.parent / name)
        record(inputs, out, resume)
        assert contents(out.parent) == clean, name


# One writer


@pytest.mark.parametrize("format", ["jsonl"])
def test_the_second_writer_hears_who_the_first_is(inputs: Inputs, out: Path, format: str) -> None:
    with Recording(Output(out=out, command="classify"), inputs.refs):
        ours = rf"feats.jsonl is being written by process {os.getpid()} on .+ \(since \d\d:\d\d\)"
        with pytest.raises(OutputError, match=ours):
            record(inputs, out)
    record(inputs, out)
    assert not list(out.parent.glob("*.lock"))


@pytest.mark.parametrize("format", ["jsonl"])
def test_the_lock_of_a_dead_process_needs_no_help(
    inputs: Inputs, out: Path, format: str, is_killed: IsKilled
) -> None:
    assert is_killed(8, partial(record, inputs, out))
    assert list(out.parent.glob("*.lock"))
    record(inputs, out, resume)
    assert not list(out.parent.glob("*.lock"))


# Rows that an earlier run made


@pytest.mark.parametrize("format", ["jsonl", "npy"])
def test_kept_rows_are_written_in_parts_and_between_them_a_run_may_be_interrupted(
    inputs: Inputs, out: Path, format: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record(inputs, out)
    inputs.write("bb")
    inputs.write("zz")
    whole = tmp_path / "whole" / out.name
    whole.parent.mkdir()
    record(inputs, whole)
    monkeypatch.setattr(recorded, "MAX_WRITTEN", 2)
    write = Recorded._write

    def striking(self: Recorded, rows: Sequence[Row]) -> None:
        write(self, rows)
        interrupts.strike(signal.SIGTERM)

    for _ in range(3):  # a part of the kept rows each time
        with monkeypatch.context() as patch:
            patch.setattr(Recorded, "_write", striking)
            with pytest.raises(Interrupted):
                record(inputs, out, resume)
        interrupts.forget()
    journal = out.with_name(f"{out.name}.partial.journal")
    assert [commit.inputs for commit in read_commits(journal)][:4] == [0, 2, 5, 7]
    inputs.computed.clear()
    record(inputs, out, resume)
    assert len(inputs.computed) <= 2
    assert contents(out.parent) == contents(whole.parent)


def test_kept_rows_wait_in_sixteen_bytes_each() -> None:
    rows = KeptRows(None)
    for number in range(100_000):
        rows.add(number, number // 2)
    held = [value for value in vars(rows).values() if value is not None]
    assert sum(map(sys.getsizeof, held)) < 100_000 * 20
