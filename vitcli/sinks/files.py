"""Files that get their name only when they are whole: a partial beside them, then a rename."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vitcli.errors import ClosedPipe, OutputError

PARTIAL = ".partial"


class Target:
    """Where an output goes: a path, which may stand for several files, or standard output.

    `file` is the main file; `beside(suffix)` one that belongs to it, such as its index. Nothing
    is created before `open`, and `check` says beforehand what would fail.
    """

    def __init__(self, out: Path | None, *, overwrite: bool = False) -> None:
        self.out = out
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
                raise OutputError(f"{path} exists", "--overwrite replaces it")
        folder = _real(self.out).parent
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
        return self.out.with_name(self.out.stem + suffix)

    def open(self) -> PartialFile:
        return PartialFile(self.out)

    def open_beside(self, suffix: str) -> PartialFile:
        return PartialFile(self.beside(suffix))


class PartialFile:
    """A binary file that is `<path>.partial` until `commit`. Standard output, pipes and devices
    are written as they are. Failing writes raise OutputError that says where and why."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._is_direct = path is None or is_special(path)
        self._real = Path("-") if path is None else _real(path)
        self.partial = self._real.with_name(self._real.name + PARTIAL)
        self.file: BinaryIO
        if path is None:
            self.file = sys.stdout.buffer
            return
        with self.explained():
            self.file = path.open("wb") if self._is_direct else self.partial.open("w+b")

    def write(self, data: bytes | memoryview) -> None:
        with self.explained():
            self.file.write(data)

    def flush(self) -> None:
        with self.explained():
            self.file.flush()

    def replace_by(self, other: Path) -> None:
        """Go on with another file in this one's place."""
        self.file.close()
        other.replace(self.partial)
        self.file = self.partial.open("r+b")

    def commit(self) -> None:
        """Make it durable and give it its name."""
        self.flush()
        if self.path is None:
            return
        with self.explained():
            if self._is_direct:
                self.file.close()  # so that the reader of a pipe sees the end
                return
            os.fsync(self.file.fileno())
            self.file.close()
            self.partial.replace(self._real)
            _sync_folder(self._real.parent)

    def abort(self) -> None:
        """Stop writing; what is there stays under the partial name."""
        if self.path is not None:
            with self.explained():
                self.file.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the system says into an OutputError."""
        try:
            yield
        except BrokenPipeError:
            raise ClosedPipe("the reader of the output has gone away") from None
        except OSError as error:
            if self.path is None:
                raise OutputError(f"write error on standard output: {error.strerror}") from None
            name = self.path if self._is_direct else self.partial
            raise OutputError(f"cannot write to {name}: {error.strerror}") from None


def is_special(path: Path) -> bool:
    """A pipe or a device: it can be written, but not replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _real(path: Path) -> Path:
    """A symbolic link stays; what it points to is replaced."""
    return Path(os.path.realpath(path))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
