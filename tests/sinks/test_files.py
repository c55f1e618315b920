"""A file has its name when it is whole, and never before."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.sinks.rows import META, classified, lines_of
from vitcli.errors import ClosedPipe, ExitCode, OutputError, UsageError, WriteError
from vitcli.sinks import EMBEDDINGS, PREDICTIONS, choose_format
from vitcli.sinks.files import PartialFile, Target
from vitcli.sinks.memory import ListSink
from vitcli.sinks.text import JsonlSink

ROOT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Partials


def test_a_file_is_partial_until_it_is_whole(tmp_path: Path) -> None:
    file = PartialFile(tmp_path / "out")
    file.write(b"data")
    assert names(tmp_path) == ["out.partial"]
    file.take_name()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"data"


def test_an_aborted_file_stays_a_partial(tmp_path: Path) -> None:
    file = PartialFile(tmp_path / "out")
    file.write(b"data")
    file.abort()
    file.abort()
    assert names(tmp_path) == ["out.partial"]
    assert (tmp_path / "out.partial").read_bytes() == b"data"


def test_an_old_output_is_whole_until_the_new_one_is(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    for end in ("abort", "take_name"):
        file = PartialFile(tmp_path / "out")
        file.write(b"new")
        file.flush()
        assert (tmp_path / "out").read_bytes() == b"old"
        getattr(file, end)()
    assert (tmp_path / "out").read_bytes() == b"new"


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_what_it_points_to_is_replaced(is_there: bool, tmp_path: Path) -> None:
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    if is_there:
        (elsewhere / "real").write_bytes(b"old")
    (here / "out").symlink_to("../elsewhere/real")
    file = PartialFile(here / "out")
    file.write(b"new")
    assert "real.partial" in names(elsewhere)
    file.take_name()
    assert names(elsewhere) == ["real"] and (here / "out").is_symlink()
    assert (elsewhere / "real").read_bytes() == b"new"


def test_another_name_of_the_old_output_keeps_the_old_bytes(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    (tmp_path / "other").hardlink_to(tmp_path / "out")
    file = PartialFile(tmp_path / "out")
    file.write(b"new")
    file.take_name()
    assert (tmp_path / "other").read_bytes() == b"old"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_mode_obeys_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        PartialFile(tmp_path / "out").take_name()
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o666 & ~umask


# Pipes and devices


def test_dev_null_is_written_as_it_is() -> None:
    file = PartialFile(Path("/dev/null"))
    file.write(b"data")
    file.take_name()
    assert file.file.closed
    assert not Path("/dev/null").is_file()


def test_a_named_pipe_is_written_as_it_is_and_ends(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.jsonl"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
    reader.start()
    sink = JsonlSink(Target(fifo))
    sink.write([classified(0, "a.jpg", "cat")])
    sink.finish(META)
    reader.join(5)
    assert len(lines_of(read[0])) == 1
    assert names(tmp_path) == ["fifo.jsonl"] and fifo.is_fifo()


def test_a_full_device_is_an_error_with_its_name() -> None:
    file = PartialFile(Path("/dev/full"))
    with pytest.raises(WriteError) as caught:
        file.write(b"data")
    assert caught.value.message == "cannot write to /dev/full: No space left on device"
    with contextlib.suppress(OutputError):
        file.abort()


def test_a_pipe_that_nobody_reads_is_closed(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    file = PartialFile(fifo)
    os.close(reader)
    with pytest.raises(ClosedPipe) as caught:
        file.write(b"data")
    assert caught.value.exit_code == ExitCode.CLOSED_PIPE
    with contextlib.suppress(ClosedPipe):
        file.abort()


class Stdout:
    """A standard output whose buffer is the given file."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer


def test_standard_output_is_written_and_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Stdout(buffer))
    sink = JsonlSink(Target(None))
    sink.write([classified(0, "a.jpg")])
    sink.finish(META)
    sink.abort()
    assert not buffer.closed
    assert len(lines_of(buffer.getvalue())) == 1


def test_a_full_standard_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path("/dev/full").open("wb")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", Stdout(file))
    with pytest.raises(OutputError, match="write error on standard output: No space left"):
        JsonlSink(Target(None)).write([classified(0, "a.jpg")])
    with contextlib.suppress(OSError):
        file.close()


# What is wrong beforehand


def test_a_new_output_passes_the_check_and_nothing_is_created(tmp_path: Path) -> None:
    Target(tmp_path / "feats.npy").check(".index.jsonl", ".meta.json")
    assert names(tmp_path) == []


@pytest.mark.parametrize("existing", ["feats.npy", "feats.index.jsonl", "feats.meta.json"])
def test_an_existing_output_is_refused_and_may_be_overwritten(
    existing: str, tmp_path: Path
) -> None:
    (tmp_path / existing).write_bytes(b"old")
    with pytest.raises(OutputError, match=f"{existing} exists") as caught:
        Target(tmp_path / "feats.npy").check(".index.jsonl", ".meta.json")
    assert "--overwrite" in str(caught.value.hint)
    Target(tmp_path / "feats.npy", overwrite=True).check(".index.jsonl", ".meta.json")
    assert (tmp_path / existing).read_bytes() == b"old"


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("folder", "folder: it is a directory"),
        ("missing/out", "missing is not a directory"),
        ("file/out", "file is not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_where_nothing_can_be_written_is_said(out: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write to ") as caught:
        Target(tmp_path / out, overwrite=True).check()
    assert words in caught.value.message


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_without_permission_is_said() -> None:
    script = (
        "import os, sys\n"
        "from vitcli.sinks.files import *\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for name in ('read-only/out', 'closed/out'):\n"
        "    try: Target(Path(name)).check()\n"
        "    except OutputError as error: print(error.message.replace(os.getcwd(), ''))\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        Path(folder).chmod(0o755)
        for name, mode in (("read-only", 0o555), ("closed", 0o700)):
            (Path(folder) / name).mkdir()
            (Path(folder) / name).chmod(mode)
        ended = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert ended.stdout.splitlines() == [
        "cannot write to read-only/out: /read-only is not writable",
        "cannot write to closed/out: Permission denied",
    ], ended


@pytest.mark.parametrize("out", [None, Path("/dev/null"), Path("/dev/tty")])
def test_standard_output_and_devices_are_special(out: Path | None) -> None:
    target = Target(out)
    target.check()
    assert target.is_special


def test_a_closed_standard_output_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="standard output is closed"):
        Target(None).check()


# Formats


@pytest.mark.parametrize(
    ("out", "asked", "expected"),
    [
        (None, None, "jsonl"),
        ("out", None, "jsonl"),
        ("out.csv", None, "csv"),
        ("out.CSV", None, "csv"),
        ("out.tar.tsv", None, "tsv"),
        ("out.csv", "jsonl", "jsonl"),
        (None, "tsv", "tsv"),
    ],
)
def test_the_format_is_the_one_asked_for_or_the_suffix(
    out: str | None, asked: str | None, expected: str
) -> None:
    assert choose_format(Path(out) if out else None, asked, PREDICTIONS) == expected


@pytest.mark.parametrize(
    ("out", "asked", "words"),
    [
        ("out.xlsx", None, "the suffix of out.xlsx is no known format"),
        ("out.csv", "yaml", "--format yaml is no known format"),
        ("out.csv", None, "the suffix of out.csv"),
        ("https://h/a.csv?sig=secret", None, "the suffix of a.csv?… is no known format"),
    ],
)
def test_an_unknown_format_is_a_usage_error(out: str, asked: str | None, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_format(out, asked, EMBEDDINGS)
    assert caught.value.message.startswith(words)
    assert "npy, npz, safetensors, jsonl" in str(caught.value.hint)


def test_every_format_is_reached_by_its_suffix(tmp_path: Path) -> None:
    for known in (PREDICTIONS, EMBEDDINGS):
        assert all(choose_format(Path(f"out.{name}"), None, known) == name for name in known)


def test_rows_for_callers_in_python_are_kept() -> None:
    sink = ListSink()
    rows = [classified(0, "a"), classified(1, "b")]
    sink.write(rows[:1])
    sink.write(rows[1:])
    sink.abort()
    sink.finish(META)
    assert sink.rows == rows and sink.meta == META
