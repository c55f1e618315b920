"""Files that get their names only when they are whole: partials beside them, then a rename."""

from __future__ import annotations

import errno
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vitcli.errors import ClosedPipe, OutputError, WriteError

PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Grown:
    """How far a file has come: its bytes, and the CRC-32 of those behind its header."""

    size: int
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
        for path in (self.out, *(self.beside(suffix) for suffix in suffixes)):
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
        folder = real(self.out).parent
        if not folder.is_dir():
            raise OutputError(f"cannot write to {self.out}: {folder} is not a directory")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"cannot write to {self.out}: {folder} is not writable")

    @property
    def is_special(self) -> bool:
        """Standard output, a pipe or a device: written as it is, with nothing beside it."""
        return self.out is None or is_special(self.out)

    def beside(self, suffix: str) -> Path:
        """`feats.index.jsonl` of `feats.npy`."""
        assert self.out is not None
        return self._elsewhere.get(suffix) or self.out.with_name(self.out.stem + suffix)

    def open(self) -> PartialFile:
        """The main file, which grows with the rows."""
        return self._grow(self.out)

    def open_beside(self, suffix: str) -> PartialFile:
        """A file that grows with the rows, beside the main one."""
        return self._grow(self.beside(suffix))

    def _grow(self, path: Path | None) -> PartialFile:
        grown = self.resumed[len(self.files)] if self.resumed else None
        self.files.append(PartialFile(path, grown))
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
        file = PartialFile(self.beside(suffix))
        file.write(data)
        return file


class PartialFile:
    """A binary file that is `<path>.partial` until it takes its name. Standard output, pipes and
    devices are written as they are. Failing writes raise WriteError that says where and why.

    Nothing is buffered here: what `write` took survives the death of this process.
    """

    def __init__(
        self, path: Path | None, grown: Grown | None = None, partial: Path | None = None
    ) -> None:
        """It goes on from `grown`. `partial` is another name for it until it is whole."""
        self.path = path
        self.is_direct = path is None or is_special(path)
        self.real = Path("-") if path is None else real(path)
        self.partial = partial or self.real.with_name(self.real.name + PARTIAL)
        self.grown = grown or Grown(0, 0)
        self.file: IO[bytes]
        if path is None:
            self.file = sys.stdout.buffer
            return
        with self.explained():
            name = path if self.is_direct else self.partial
            mode = "wb" if self.is_direct else "w+b" if grown is None else "r+b"
            self.file = name.open(mode, buffering=0)
            if grown is not None:
                self.file.truncate(grown.size)
                self.file.seek(0, os.SEEK_END)

    def write(self, data: bytes | memoryview) -> None:
        self._write(data)
        self.grown = Grown(self.grown.size + len(data), zlib.crc32(data, self.grown.crc))

    def write_header(self, data: bytes) -> None:
        """The first bytes, which may be written anew: of the same length, but with other counts."""
        if not self.grown.size:
            self._write(data)
            self.grown = Grown(len(data), 0)
            return
        with self.explained():
            self.file.seek(0)
            self._write(data)
            self.file.seek(0, os.SEEK_END)

    def _write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        with self.explained():
            while rest:
                rest = rest[self.file.write(rest) :]

    def size(self) -> int:
        """Its bytes on the disk, whatever has become of its name."""
        with self.explained():
            return os.fstat(self.file.fileno()).st_size

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
            self.file.close()  # of a pipe too: its reader sees the end
            if not self.is_direct:
                take_name(self.partial, self.real)

    def replace_by(self, other: Path) -> None:
        """Another file takes the name: one that was made of this one at the end."""
        with self.explained():
            self.file.close()
            self.partial = other
            self.file = other.open("r+b", buffering=0)

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


@contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Turn what the system says of writing to a file, or to standard output, into WriteError."""
    try:
        yield
    except BrokenPipeError:
        raise ClosedPipe("the reader of the output has gone away") from None
    except OSError as error:
        if path is None:
            raise WriteError(f"write error on standard output: {error.strerror}") from None
        hint = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise WriteError(f"cannot write to {path}: {error.strerror}", hint) from None


def is_special(path: Path) -> bool:
    """A pipe or a device: it can be written, but not replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def real(path: Path) -> Path:
    """A symbolic link stays; what it points to is replaced."""
    return Path(os.path.realpath(path))


def take_name(partial: Path, real: Path) -> None:
    """The last step of a file; and away with a partial that it was made of."""
    partial.replace(real)
    real.with_name(real.name + PARTIAL).unlink(missing_ok=True)
    sync_folder(real.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in it durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """A file that has its name only when it is whole and on the disk. Raises WriteError."""
    file = PartialFile(path)
    file.write(data)
    file.sync()
    file.take_name()
