"""The base class of sinks that write files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, ClassVar

from vitcli.records import Row
from vitcli.sinks.files import FileSet, PartialFile, Target
from vitcli.sinks.format import JSONL, Format


class FileSink:
    """Writes rows to the files of a target.

    Each format is a subclass. `files` lists the files of the format; `is_sealed` says that a
    complete file can be neither extended nor merged.
    """

    files: ClassVar[FileSet] = FileSet()
    is_sealed: ClassVar[bool] = False
    has_suffix: ClassVar[bool] = True  # whether a suffix of an output stands for the format

    def __init__(
        self, target: Target, meta: Mapping[str, Any] | None = None, format: Format = JSONL
    ) -> None:
        """Open the files. The meta of an embedding has its `row_shape` and `array_dtype`."""
        self._target, self._meta, self._format = target, meta or {}, format
        self._open()

    def _open(self) -> None:
        """Open the files that grow with the rows."""

    @property
    def opened(self) -> Mapping[str, PartialFile]:
        """The files that grow with the rows, by suffix."""
        return self._target.files

    @staticmethod
    def check_installed() -> None:
        """Raise OutputError if a library of the format is missing."""

    @staticmethod
    def data_start(file: BinaryIO) -> int:
        """The offset of the first row in a finished array."""
        raise TypeError("this format has no array")

    def write(self, rows: Sequence[Row]) -> list[int]:
        """Write the rows, and return how many bytes of text each took."""
        raise NotImplementedError

    def complete(self, meta: Mapping[str, object]) -> list[PartialFile]:
        """Write the end of the files, and return them in the order in which they take their names:
        the output itself is the last."""
        raise NotImplementedError

    def finish(self, meta: Mapping[str, object]) -> None:
        """Complete the files and give them their names."""
        files = self.complete(meta)
        for file in files:
            file.sync()
        for file in files:
            file.take_name()

    def abort(self) -> None:
        """Close the files, which keep their partial names."""
        for file in self._target.files.values():
            file.abort()
