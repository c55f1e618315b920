"""Pictures and arrays into a folder whose tree is that of the inputs."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from vitcli.errors import OutputError
from vitcli.files import PARTIAL, create, explained, real, refuse_link, regular, sync, write_all
from vitcli.records import ImageRef
from vitcli.sinks.text import path_fields

LONGEST_NAME = 255  # bytes, of every file system in use
LONGEST_PATH = 3500  # bytes below the folder; Linux has 4096 for all

# What no folder can be called, or is there already, is called by underscores; those that are
# somebody's own become four more. So no two inputs have one picture.
HERE, ABOVE, ELSEWHERE, EMPTY = "_", "__", "___", "____"
_SHORTENED = re.compile(r"~[0-9a-f]{32}$")


class PictureTree:
    """`out/photos/cat.jpg.png` of `photos/cat.jpg`. A file has its name when it is whole.

    `marker` is a file in `out` that says whose the folder is, `records` those that say it of a run
    of ours; `inputs` are paths of images and of their folders. `is_image` tells by its name what is
    somebody's photograph. `is_absolute` says whether the first input is named from the root.
    """

    def __init__(
        self,
        out: Path,
        marker: str,
        inputs: Sequence[str] = (),
        *,
        overwrite: bool = False,
        records: Sequence[str] = (),
        is_image: Callable[[str], bool] = lambda name: False,
        is_absolute: Callable[[], bool] = lambda: False,
    ) -> None:
        self.out = out
        self._inputs = inputs
        self._marker = out / marker
        self._records = [out / name for name in records]
        self._is_image = is_image
        self._is_absolute = is_absolute
        self._overwrite = overwrite
        self._is_new = False

    def check(self) -> None:
        """Make the folder. Raises OutputError for what can be seen to be wrong before the model is
        loaded: among them a folder that holds something else."""
        taken = (Path.cwd(), Path(self.out.anchor or "/"), *map(Path, self._inputs))
        here = real(self.out)
        is_among = here in [real(folder) for folder in taken if folder.is_dir()]
        if is_among or any(here in real(Path(path)).parents for path in self._inputs):
            raise OutputError(
                f"the pictures in {self.out} would lie among the images",
                "give a folder of their own, such as --out maps",
            )
        if self.out.exists() and not self.out.is_dir():
            raise OutputError(f"cannot write to {self.out}: it is not a folder")
        with explained(self.out):
            self._is_new = not self.out.exists()
            self.out.mkdir(parents=True, exist_ok=True)
            refuse_link(self._marker)
            is_empty = not any(self.out.iterdir())
            is_ours = any(path.exists() for path in (self._marker, *self._records))
        if not (is_ours or is_empty or self._overwrite):
            raise OutputError(
                f"{self.out} holds files that are not of vit",
                "give a new folder, or --overwrite to write into this one",
            )
        if not is_ours and (photo := next(self._photos(), None)) is not None:
            raise OutputError(
                f"{self.out} holds images that are not of vit, such as {photo}, and would be left "
                "out of every scan",
                "give a folder of their own, such as --out maps",
            )
        if not os.access(self.out, os.W_OK):
            raise OutputError(f"cannot write to {self.out}: it is not writable")

    def _photos(self) -> Iterator[Path]:
        """Somebody's images in the folder."""
        for folder, _, names in os.walk(self.out):
            yield from (Path(folder, name) for name in names if self._is_image(name))

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
            sync(self.out)

    def path_of(self, ref: ImageRef, suffix: str) -> Path:
        """Where a picture of an input goes, and of no other: below `out` as the input is below `/`
        or here; `..` is written `__`."""
        room = suffix + PARTIAL
        raw = os.fsencode(ref.path)
        if len(raw) > LONGEST_PATH or b"\0" in raw:
            return self.out / (f"~{_digest(raw)}" + suffix)
        *folders, name = self._parts(ref) or ["image"]
        return self.out.joinpath(*(_short(f, "") for f in folders), _short(name, room) + suffix)

    def _parts(self, ref: ImageRef) -> list[str]:
        """The folders and the name. In a file system `a/./b` and `a//b` are `a/b`; in an archive
        and in a store they are others."""
        archive = ref.path if ref.member is None else ref.member.archive
        before = archive if ref.path.startswith(archive) else ""
        within = ref.path[len(before) :].removeprefix("/")
        scheme, found, rest = before.partition("://")
        if found:
            parts = [scheme + ":", *(_name(part) for part in rest.split("/"))]
        else:
            parts = [_name(part) for part in before.split("/") if part not in ("", ".")]
            if before.startswith("/") != self._is_absolute():
                parts.insert(0, ELSEWHERE)
        return parts + [_name(part) for part in within.split("/") if within]

    def has_all(self, ref: ImageRef, files: object) -> bool:
        """Whether the files that a row names of an input are there, and not empty."""
        if not isinstance(files, list):
            return True  # a row without pictures
        plain = self.path_of(ref, "")
        told = path_fields(plain.name)["path"]  # in a row it is UTF-8
        for file in files:
            name = str(file).rpartition("/")[2]
            name = plain.name + name[len(told) :] if name.startswith(told) else name
            try:
                if not (plain.parent / name).stat().st_size:
                    return False
            except (OSError, ValueError):
                return False
        return True

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Raises WriteError."""
        partial = path.with_name(path.name + PARTIAL)
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with create(partial, regular(path)) as file:
                    write_all(file, data)
                partial.replace(path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise


def _name(part: str) -> str:
    """What a part of a path is called in the tree."""
    if part in ("", ".", ".."):
        return {"": EMPTY, ".": HERE, "..": ABOVE}[part]
    return part + EMPTY if not part.strip("_") else part


def _short(name: str, suffix: str) -> str:
    """A name that is too long with its suffix ends in a hash; so does one that looks like that."""
    raw, room = os.fsencode(name), LONGEST_NAME - len(os.fsencode(suffix))
    if len(raw) <= room and not _SHORTENED.search(name):
        return name
    kept = raw[: room - 33]
    while len(kept) < len(raw) and kept and (raw[len(kept)] & 0xC0) == 0x80:
        kept = kept[:-1]  # not in the middle of a UTF-8 character
    return os.fsdecode(kept) + "~" + _digest(raw)


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
