"""Keep the finished blocks of a pass in a file, so that an interrupted one can be resumed."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitcli.errors import UsageError, printable
from vitcli.files import PARTIAL, real, whole_file
from vitcli.tasks.dedupe.pairs import Pass

BLOCKS = ".blocks"
EVERY = 30.0  # seconds between two writes
VERSION = 1
ARRAYS = ("best", "other", "same", "a", "b", "scores")


@dataclass(slots=True)
class Partial:
    """The file of a pass over an index. `key` says what the pass depends on; `path` is None if
    there is no output next to which it could be."""

    path: Path | None
    key: Mapping[str, object]
    written: float = field(default_factory=time.monotonic)
    is_there: bool = False

    @staticmethod
    def beside(out: Path | None, key: Mapping[str, object]) -> Partial:
        """The file next to an output."""
        if out is not None:
            out = real(out)
            out = out.with_name(out.name + PARTIAL + BLOCKS)
        return Partial(out, key)

    def load(self, note: Callable[[str], None]) -> Pass | None:
        """Return the pass of an interrupted run; None if there is none, or it is damaged. Raises
        UsageError if it belongs to another index or to other options."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                key, floor = str(stored["key"]), float(stored["floor"])
                done = int(stored["done"])
                arrays = [stored[name] for name in ARRAYS]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            note(f"{printable(str(self.path))} is damaged: the comparison starts over")
            return None
        if key != self._key():
            raise UsageError(
                f"{printable(str(self.path))} is of another index, or of other options",
                "repeat the interrupted command with --resume, or --overwrite to start over",
            )
        self.is_there = True
        best, other, same, a, b, scores = arrays
        return Pass(floor, best, other, same, done, [a], [b], [scores], len(a))

    def save(self, state: Pass) -> None:
        """Write the state if the last time was a while ago."""
        if time.monotonic() - self.written >= EVERY:
            self.write(state)

    def write(self, state: Pass) -> None:
        """Write the state, completely or not at all. Raises WriteError."""
        if self.path is None:
            return
        state.join()
        with whole_file(self.path) as file:
            np.savez(
                file,
                key=np.array(self._key()),
                floor=np.array(state.floor),
                done=np.array(state.done),
                best=state.best,
                other=state.other,
                same=state.same,
                a=state.a[0],
                b=state.b[0],
                scores=state.scores[0],
            )
        self.written, self.is_there = time.monotonic(), True

    def remove(self) -> None:
        """Remove the file of a run that is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _key(self) -> str:
        return repr(sorted({**self.key, "version": VERSION}.items()))
