"""Files that grow with the rows, and take their names only when they are complete."""

from __future__ import annotations

import io
import os
import shlex
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

from vitcli.errors import OutputError, UsageError
from vitcli.files import (
    PARTIAL,
    check_ours,
    create,
    explained,
    is_special,
    keep_owner,
    open_again,
    real,
    regular,
    take_name,
    write_all,
)

BESIDE = (".index.jsonl", ".meta.json", ".html")  # suffixes of files next to an output
ZIPPED, TABLE = ".zip", ".table"  # suffixes of files that replace a partial at the end


@dataclass(frozen=True, slots=True)
class Grown:
    """The state of a growing file: its size, and the CRC-32 of the bytes after its header."""

    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Seal:
    """The checksums of a complete file: the CRC-32 of its first `head` bytes, and of the rest."""

    head: int
    head_crc: int
    crc: int


@dataclass(frozen=True, slots=True)
class FileSet:
    """The files of an output, by suffix; "" is the output itself.

    `text` is the file with the text of each row: a journal records where each text begins. `data`
    is the array, if there is one; `copies` repeat the text in another form; `at_end` are written
    after the last row.
    """

    text: str = ""
    data: str | None = None
    copies: tuple[str, ...] = ()
    at_end: tuple[str, ...] = ()

    @property
    def growing(self) -> tuple[str, ...]:
        """The files that grow with the rows, in the order of a journal: the text is the last."""
        return (*(() if self.data is None else (self.data,)), *self.copies, self.text)

    @property
    def beside(self) -> tuple[str, ...]:
        """All files but the output itself."""
        return tuple(suffix for suffix in (*self.growing, *self.at_end) if suffix)


class Target:
    """Where an output goes: a path, which may stand for several files, or standard output.

    No file is created before `open`; `check` raises the errors that can be foreseen. `files` has
    the open files, by suffix.
    """

    def __init__(
        self,
        out: Path | None,
        *,
        overwrite: bool = False,
        resumes: bool = True,
        elsewhere: Mapping[str, Path] | None = None,
        grown: Mapping[str, Grown] | None = None,
    ) -> None:
        """`resumes`: whether the command has --resume. `elsewhere` are the paths, by suffix, of
        files that do not stand next to the output. A file in `grown` is continued from that
        state."""
        self.out = out
        self.files: dict[str, PartialFile] = {}
        self._elsewhere, self._grown = elsewhere or {}, grown or {}
        self._overwrite, self._resumes = overwrite, resumes

    def check(self, *suffixes: str) -> None:
        """Raise OutputError for mistakes that can be seen before the model is loaded."""
        if self.out is None:
            if sys.stdout is None:
                raise OutputError("standard output is closed", "use --out FILE")
            return
        if is_special(self.out):
            return
        paths = (self.out, *map(self.path, suffixes))
        if len(set(map(real, paths))) < len(paths):
            raise UsageError(f"{self.out} is named for two outputs", "give each its own name")
        for path in paths:
            try:
                is_dir, exists = path.is_dir(), path.exists()
            except OSError as error:  # the name is too long, or a folder may not be entered
                raise OutputError(f"cannot write to {path}: {error.strerror}") from None
            if is_dir:
                raise OutputError(
                    f"cannot write to {path}: it is a directory", "name a file in it, with a suffix"
                )
            if exists and not self._overwrite:
                resume = ", --resume brings it up to date" if self._resumes else ""
                raise OutputError(f"{path} exists", f"--overwrite replaces it{resume}")
        for path in paths:
            folder = real(path).parent
            if not folder.is_dir():
                raise OutputError(
                    f"cannot write to {path}: {folder} is not a directory",
                    None
                    if os.path.lexists(folder)
                    else f"make it first: mkdir -p {shlex.quote(str(path.parent))}",
                )
            if not os.access(folder, os.W_OK):
                raise OutputError(f"cannot write to {path}: {folder} is not writable")

    @property
    def is_special(self) -> bool:
        """Whether it is standard output, a pipe or a device: those are written directly."""
        return self.out is None or is_special(self.out)

    def path(self, suffix: str) -> Path:
        """The path of a file: `feats.index.jsonl` for `feats.npy`; "" is the output itself."""
        assert self.out is not None
        named = self.out.with_name(self.out.stem + suffix) if suffix else self.out
        return self._elsewhere.get(suffix) or named

    def is_beside(self, suffix: str) -> bool:
        """Whether a file is named after the output, and not by the user."""
        return suffix not in self._elsewhere

    def open(self, suffix: str = "") -> PartialFile:
        """Open a file that grows with the rows."""
        path = None if self.out is None else self.path(suffix)
        self.files[suffix] = PartialFile(path, self._grown.get(suffix), like=self.out)
        return self.files[suffix]

    def write_beside(self, suffix: str, data: bytes) -> PartialFile:
        """Write a small file next to the output in one piece, under its partial name."""
        file = PartialFile(self.path(suffix), like=self.out)
        file.write(data)
        return file


class PartialFile:
    """A binary file that is `<path>.partial` until it takes its name. Standard output, pipes and
    devices are written directly. A write that fails raises WriteError.

    Nothing is buffered here: the written bytes survive the death of this process. The new file has
    the owner and mode of the file that it replaces.
    """

    def __init__(
        self,
        path: Path | None,
        grown: Grown | None = None,
        partial: Path | None = None,
        *,
        like: Path | None = None,
    ) -> None:
        """Continue the file from `grown`, or create it. `partial` replaces the partial name
        `<path>.partial`. A file that replaces none gets the owner and mode of `like`.
        """
        self.path = path
        self.is_direct = path is None or is_special(path)
        self.real = Path("-") if path is None else real(path)
        self.partial = partial or self.real.with_name(self.real.name + PARTIAL)
        self.grown = grown or Grown(0, 0)
        self.seal = Seal(0, 0, self.grown.crc)
        self.file: IO[bytes]
        if path is None:
            self.file = sys.stdout.buffer
            return
        with self.explained():
            if self.is_direct:
                self.file = path.open("wb", buffering=0)
                return
            # A journal, which has a `partial`, is hidden: it gets the mode of its output.
            names = (self.real, like) if partial is None else (like, self.real)
            replaced = next(filter(None, (regular(n) for n in names if n is not None)), None)
            if grown is None:
                self.file = create(self.partial, replaced or regular(self.partial))
                return
            self.file = open_again(self.partial)
            if replaced is not None:
                keep_owner(self.file.fileno(), replaced)
            self.file.truncate(grown.size)
            self.file.seek(0, os.SEEK_END)

    def write(self, data: bytes | memoryview) -> None:
        self._write(data)
        self.grown = Grown(self.grown.size + len(data), zlib.crc32(data, self.grown.crc))
        self.seal = replace(self.seal, crc=self.grown.crc)

    def write_header(self, data: bytes) -> None:
        """Write the first bytes, or replace them by others of the same length."""
        self.seal = Seal(len(data), zlib.crc32(data), self.grown.crc)
        if not self.grown.size:
            self._write(data)
            self.grown = Grown(len(data), 0)
            return
        with self.explained():
            self.file.seek(0)
            self._write(data)
            self.file.seek(0, os.SEEK_END)

    def begins_with(self, data: bytes) -> bool:
        """Whether the file begins with these bytes, or is empty."""
        if not self.grown.size:
            return True
        with self.explained():
            self.file.seek(0)
            begin = self.file.read(len(data))
            self.file.seek(0, os.SEEK_END)
        return begin == data

    def _write(self, data: bytes | memoryview) -> None:
        with self.explained():
            write_all(self.file, data)

    def stat(self) -> os.stat_result:
        """The status of the open file, even if its name is gone."""
        with self.explained():
            return os.fstat(self.file.fileno())

    def flush(self) -> None:
        """Flush standard output, which the interpreter buffers."""
        with self.explained():
            self.file.flush()

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        with self.explained():
            self.file.flush()
            if not self.is_direct:
                os.fsync(self.file.fileno())

    def take_name(self) -> None:
        """Close the file and give it its name."""
        if self.path is None:
            return
        with self.explained():
            try:
                if not self.is_direct:
                    check_ours(self.file.fileno(), self.partial)
            finally:
                self.file.close()  # of a pipe, too, so that its reader sees the end
            if not self.is_direct:
                take_name(self.partial, self.real)

    def rewrite(self, suffix: str) -> IO[bytes]:
        """Create the file that is to replace this one at the end, next to it."""
        made = create(self.partial.with_name(self.partial.name + suffix), self.stat())
        return io.BufferedRandom(cast(io.RawIOBase, made))

    def replace_by(self, other: IO[bytes], suffix: str) -> None:
        """Replace this file by the one that `rewrite` created, once that is complete."""
        with self.explained():
            self.file.close()
            self.partial = self.partial.with_name(self.partial.name + suffix)
            self.file = other
            other.seek(0)  # this flushes it, too
            crc = 0
            while data := other.read(1 << 20):
                crc = zlib.crc32(data, crc)
            self.seal = Seal(0, 0, crc)

    def abort(self) -> None:
        """Close the file, which stays a partial."""
        if self.path is not None:
            with self.explained():
                self.file.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the system's errors into WriteError."""
        with explained(
            None if self.path is None else self.path if self.is_direct else self.partial
        ):
            yield
