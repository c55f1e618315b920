"""Files that get their names only when they are whole: partials beside them, then a rename."""

from __future__ import annotations

import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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

BESIDE = (".index.jsonl", ".meta.json", ".html")  # files that may belong to an output
ZIPPED, TABLE = ".zip", ".table"  # what is made of a partial at the end, and takes its name


@dataclass(frozen=True, slots=True)
class Grown:
    """How far a file has come: its bytes, and the CRC-32 of those behind its header."""

    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Seal:
    """The checksums of a whole file: the CRC-32 of its header, of `head` bytes, and
    that of the rest."""

    head: int
    head_crc: int
    crc: int


class Target:
    """Where an output goes: a path, which may stand for several files, or standard output.

    `open` gives the main file; `open_beside(suffix)` one that belongs to it, such as its index.
    Nothing is created before, and `check` says beforehand what would fail. `files` are those that
    grow with the rows. Where `resumed` says how far each of them had come, they go on from there.
    """

    def __init__(
        self,
        out: Path | None,
        *,
        overwrite: bool = False,
        elsewhere: Mapping[str, Path] | None = None,
    ) -> None:
        """`elsewhere` names what does not stand beside it, by suffix."""
        self.out = out
        self._elsewhere = elsewhere or {}
        self.files: list[PartialFile] = []
        self.resumed: Sequence[Grown] = ()
        self.before_naming: Callable[[Sequence[PartialFile]], None] = lambda files: None
        self._overwrite = overwrite

    def check(self, *suffixes: str) -> None:
        """Raise OutputError for what can be seen to be wrong before the model is loaded."""
        if self.out is None:
            if sys.stdout is None:
                raise OutputError("standard output is closed", "use --out FILE")
            return
        if is_special(self.out):
            return
        paths = (self.out, *map(self.beside, suffixes))
        if len(set(map(real, paths))) < len(paths):
            raise UsageError(f"{self.out} is named for two outputs", "give each its own name")
        for path in paths:
            try:
                is_dir, exists = path.is_dir(), path.exists()
            except OSError as error:  # a name too long, a folder that may not be entered
                raise OutputError(f"cannot write to {path}: {error.strerror}") from None
            if is_dir:
                raise OutputError(f"cannot write to {path}: it is a directory")
            if exists and not self._overwrite:
                raise OutputError(
                    f"{path} exists", "--overwrite replaces it, --resume brings it up to date"
                )
        for path in paths:
            folder = real(path).parent
            if not folder.is_dir():
                raise OutputError(f"cannot write to {path}: {folder} is not a directory")
            if not os.access(folder, os.W_OK):
                raise OutputError(f"cannot write to {path}: {folder} is not writable")

    @property
    def is_special(self) -> bool:
        """Standard output, a pipe or a device: written as it is, with nothing beside it."""
        return self.out is None or is_special(self.out)

    def beside(self, suffix: str) -> Path:
        """`feats.index.jsonl` of `feats.npy`."""
        assert self.out is not None
        return self._elsewhere.get(suffix) or self.out.with_name(self.out.stem + suffix)

    def is_beside(self, suffix: str) -> bool:
        """Whether a file has its name of the main one, and was not named by anybody."""
        return suffix not in self._elsewhere

    def open(self) -> PartialFile:
        """The main file, which grows with the rows."""
        return self._grow(self.out)

    def open_beside(self, suffix: str) -> PartialFile:
        """A file that grows with the rows, beside the main one."""
        return self._grow(self.beside(suffix))

    def _grow(self, path: Path | None) -> PartialFile:
        grown = self.resumed[len(self.files)] if self.resumed else None
        self.files.append(PartialFile(path, grown, like=self.out))
        return self.files[-1]

    def finish(self, *files: PartialFile) -> None:
        """Give whole files their names, in this order: the result itself comes last."""
        for file in files:
            file.sync()
        self.before_naming(files)
        for file in files:
            file.take_name()

    def write_beside(self, suffix: str, data: bytes) -> PartialFile:
        """A small file that is written at the end, whole."""
        file = PartialFile(self.beside(suffix), like=self.out)
        file.write(data)
        return file


class PartialFile:
    """A binary file that is `<path>.partial` until it takes its name. Standard output, pipes and
    devices are written as they are. Failing writes raise WriteError that says where and why.

    Nothing is buffered here: what `write` took survives the death of this process. Who may read
    the file that is replaced may read the new one, and nobody else.
    """

    def __init__(
        self,
        path: Path | None,
        grown: Grown | None = None,
        partial: Path | None = None,
        *,
        like: Path | None = None,
    ) -> None:
        """It goes on from `grown`. `partial` is another name for it until it is whole. Where it
        replaces nothing, it has owner and mode of `like`, if that is there."""
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
            # The name is known: it is the file of the old output, that of the journal is not.
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
        """The first bytes, which may be written anew: of the same length, but with other counts."""
        self.seal = Seal(len(data), zlib.crc32(data), self.grown.crc)
        if not self.grown.size:
            self._write(data)
            self.grown = Grown(len(data), 0)
            return
        with self.explained():
            self.file.seek(0)
            self._write(data)
            self.file.seek(0, os.SEEK_END)

    def _write(self, data: bytes | memoryview) -> None:
        with self.explained():
            write_all(self.file, data)

    def stat(self) -> os.stat_result:
        """The status of the open file, whatever has become of its name."""
        with self.explained():
            return os.fstat(self.file.fileno())

    def flush(self) -> None:
        """Standard output is the interpreter's, and buffered."""
        with self.explained():
            self.file.flush()

    def sync(self) -> None:
        """Make it durable."""
        with self.explained():
            self.file.flush()
            if not self.is_direct:
                os.fsync(self.file.fileno())

    def take_name(self) -> None:
        """Close it; its content is final."""
        if self.path is None:
            return
        with self.explained():
            try:
                if not self.is_direct:
                    check_ours(self.file.fileno(), self.partial)
            finally:
                self.file.close()  # a pipe too: its reader sees the end
            if not self.is_direct:
                take_name(self.partial, self.real)

    def rewrite(self, suffix: str) -> IO[bytes]:
        """A new file beside this one, for what is made of it at the end."""
        made = create(self.partial.with_name(self.partial.name + suffix), self.stat())
        return io.BufferedRandom(cast(io.RawIOBase, made))

    def replace_by(self, other: IO[bytes], suffix: str) -> None:
        """Give the name to that file."""
        with self.explained():
            self.file.close()
            self.partial = self.partial.with_name(self.partial.name + suffix)
            self.file = other
            other.seek(0)  # which flushes it, too
            crc = 0
            while data := other.read(1 << 20):
                crc = zlib.crc32(data, crc)
            self.seal = Seal(0, 0, crc)

    def abort(self) -> None:
        """Stop writing; what is there stays under the partial name."""
        if self.path is not None:
            with self.explained():
                self.file.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the system says into a WriteError."""
        with explained(
            None if self.path is None else self.path if self.is_direct else self.partial
        ):
            yield
