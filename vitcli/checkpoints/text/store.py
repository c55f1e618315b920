"""Vectors of texts in the cache, so that a text is embedded once."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from vitcli.cache import TEXTS, is_trusted, mark_used, trusted_folders

FILE, LOCK = "vectors.sqlite", "lock"
WAIT = 60.0  # seconds for another process that writes
AT_ONCE = 500  # keys of a query


class VectorStore:
    """Vectors as bytes, by key, in a file that several processes may use at once. Without a folder
    that can be written, the store is empty and stays so."""

    def __init__(self) -> None:
        self._folder = next(filter(_is_usable, trusted_folders(TEXTS)), None)

    def read(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The vectors that the store has."""
        found: dict[str, bytes] = {}

        def select(base: sqlite3.Connection) -> None:
            for start in range(0, len(keys), AT_ONCE):
                some = keys[start : start + AT_ONCE]
                marks = ", ".join("?" * len(some))
                query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"
                found.update((key, blob) for key, blob in base.execute(query, some))

        self._use(select)
        if found and self._folder is not None:
            mark_used(self._folder / FILE)
        return found

    def write(self, vectors: Mapping[str, bytes]) -> None:
        """Add vectors."""
        insert = "INSERT OR REPLACE INTO vectors VALUES (?, ?)"
        self._use(lambda base: base.executemany(insert, vectors.items()))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process computes vectors for the store."""
        if self._folder is None:
            yield
            return
        with (self._folder / LOCK).open("wb") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _use(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Call `work` with the database, whose changes are then kept. A database that cannot be
        used (full, damaged, of another program) is left alone from then on."""
        if self._folder is None:
            return
        try:
            with closing(sqlite3.connect(self._folder / FILE, timeout=WAIT)) as base, base:
                base.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, vector BLOB)"
                )
                work(base)
        except sqlite3.Error:
            self._folder = None


def _is_usable(folder: Path) -> bool:
    """Whether this user can write to the folder, and nobody else could have written the vectors."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).open("ab").close()
    except OSError:
        return False
    file = folder / FILE
    return is_trusted(folder / LOCK) and (is_trusted(file) or not file.exists())
