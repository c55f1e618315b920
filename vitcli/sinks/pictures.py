"""Pictures and arrays into a folder whose tree is that of the inputs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vitcli.errors import OutputError
from vitcli.sinks.files import PARTIAL, explained, real, sync_folder

LONGEST_NAME = 255  # bytes, of every file system in use


class PictureTree:
    """`out/photos/cat.jpg.png` of `photos/cat.jpg`. A file has its name when it is whole.

    `marker` is a file in `out` that says whose the folder is; `inputs` are paths of images and of
    their folders.
    """

    def __init__(
        self, out: Path, marker: str, inputs: Sequence[str] = (), *, overwrite: bool = False
    ) -> None:
        self.out = out
        self._inputs = inputs
        self._marker = out / marker
        self._overwrite = overwrite
        self._is_new = False

    def check(self) -> None:
        """Make the folder. Raises OutputError for what can be seen to be wrong before the model is
        loaded: among them a folder that holds something else."""
        taken = (Path.cwd(), Path(self.out.anchor or "/"), *map(Path, self._inputs))
        if real(self.out) in [real(folder) for folder in taken if folder.is_dir()]:
            raise OutputError(
                f"the pictures in {self.out} would lie among the images",
                "give a folder of their own, such as --out maps",
            )
        if self.out.exists() and not self.out.is_dir():
            raise OutputError(f"cannot write to {self.out}: it is not a folder")
        with explained(self.out):
            self._is_new = not self.out.exists()
            self.out.mkdir(parents=True, exist_ok=True)
            is_ours = self._marker.exists() or self._overwrite or not any(self.out.iterdir())
        if not is_ours:
            raise OutputError(
                f"{self.out} holds files that are not of vit",
                "give a new folder, or --overwrite to write into this one",
            )
        if not os.access(self.out, os.W_OK):
            raise OutputError(f"cannot write to {self.out}: it is not writable")

    def begin(self) -> None:
        """Mark the folder as ours: scans will leave it out."""
        with explained(self._marker):
            self._marker.touch()

    def leave(self) -> None:
        """Take away the folder again if nothing has come into it."""
        if self._is_new:
            with suppress(OSError):
                self.out.rmdir()

    def end(self) -> None:
        """Make the names durable."""
        with explained(self.out):
            sync_folder(self.out)

    def path_of(self, path: str, suffix: str) -> Path:
        """Where a picture of an input goes: below `out` as the input is below `/` or here; `..` is
        written `__`."""
        parts = [p if p != ".." else "__" for p in path.split("/") if p not in ("", ".")]
        *folders, name = parts or ["image"]
        return self.out.joinpath(*folders, _short(name, suffix + PARTIAL) + suffix)

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Raises WriteError."""
        partial = path.with_name(path.name + PARTIAL)
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(data)
                partial.replace(path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise


def _short(name: str, suffix: str) -> str:
    """A name that is too long with its suffix ends in a hash of what is left out."""
    raw, room = os.fsencode(name), LONGEST_NAME - len(os.fsencode(suffix))
    if len(raw) <= room:
        return name
    digest = hashlib.blake2b(raw, digest_size=6).hexdigest()
    kept = raw[: room - 13]
    while kept and (raw[len(kept)] & 0xC0) == 0x80:  # not in the middle of a UTF-8 character
        kept = kept[:-1]
    return os.fsdecode(kept) + "~" + digest
