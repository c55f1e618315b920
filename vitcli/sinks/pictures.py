"""Images and arrays into a folder with the same tree as the inputs."""

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
from vitcli.sinks.picture_names import PictureNames
from vitcli.sinks.text import path_fields

MAX_NAME = 255  # bytes, the limit of common file systems
MAX_PATH = 3500  # bytes below the folder; Linux allows 4096 for a whole path

# Parts of a path that cannot be names are written as underscores, and names that consist of
# underscores get four more. So no two inputs share an image.
HERE, ABOVE, ELSEWHERE, EMPTY = "_", "__", "___", "____"
_SHORTENED = re.compile(r"~[0-9a-f]{32}$")


class PictureTree:
    """Writes `out/photos/cat.png` for `photos/cat.jpg`, completely or not at all.

    The file `marker`, or one of the files `records`, marks the folder as written by vitcli.
    `inputs` are the paths of images and of their folders. `is_image` tells whether a file name may
    be that of a user's image, `is_absolute` whether the path of the first input is absolute. With
    `is_brief`, the picture of a file is named without the file's own suffix, unless two would meet;
    members of archives and objects in stores always keep it.
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
        is_brief: bool = False,
    ) -> None:
        self.out = out
        self._inputs = inputs
        self._marker = out / marker
        self._records = [out / name for name in records]
        self._is_image = is_image
        self._is_absolute = is_absolute
        self._overwrite = overwrite
        self._names = PictureNames(is_image) if is_brief else None
        self._is_new = False

    def check(self) -> None:
        """Make the folder. Raises OutputError for mistakes that can be seen before the model is
        loaded, such as a folder that holds other files."""
        taken = (Path.cwd(), Path(self.out.anchor or "/"), *map(Path, self._inputs))
        here = real(self.out)
        is_among = here in [real(folder) for folder in taken if folder.is_dir()]
        if is_among or any(here in real(Path(path)).parents for path in self._inputs):
            raise OutputError(
                f"the pictures in {self.out} would lie among the images",
                "give a folder of their own, such as --out maps",
            )
        if self.out.exists() and not self.out.is_dir():
            raise OutputError(f"cannot write to {self.out}: it is not a folder", "name a folder")
        with explained(self.out):
            self._is_new = not self.out.exists()
            self.out.mkdir(parents=True, exist_ok=True)
            refuse_link(self._marker)
            is_empty = not any(self.out.iterdir())
            is_marked = any(path.exists() for path in (self._marker, *self._records))
        if not (is_marked or is_empty or self._overwrite):
            raise OutputError(
                f"{self.out} holds files that vit has not written",
                "give a new folder, or --overwrite to write into this one",
            )
        if not is_marked and (photo := next(self._photos(), None)) is not None:
            raise OutputError(
                f"{self.out} holds images that vit has not written, such as {photo}, and every "
                "scan would leave them out",
                "give a folder of their own, such as --out maps",
            )
        if not os.access(self.out, os.W_OK):
            raise OutputError(f"cannot write to {self.out}: it is not writable", "name another")

    def _photos(self) -> Iterator[Path]:
        """The user's images in the folder."""
        for folder, _, names in os.walk(self.out):
            yield from (Path(folder, name) for name in names if self._is_image(name))

    def begin(self) -> None:
        """Mark the folder, so that scans leave it out."""
        with explained(self._marker):
            self._marker.touch()

    def leave(self) -> None:
        """Remove the folder if it is new and empty."""
        if self._is_new:
            with suppress(OSError):
                self.out.rmdir()

    def end(self) -> None:
        """Wait until the names are on the disk."""
        with explained(self.out):
            sync(self.out)

    def path_of(self, ref: ImageRef, suffix: str) -> Path:
        """The path of an input's file, which no other input shares. It lies below `out` as the
        input lies below `/` or the current folder; `..` becomes `__`."""
        whole = self._path(ref, suffix)
        if self._names is None or ref.member is not None or "://" in ref.path:
            return whole
        name = self._names.of(ref.path, whole.parent)
        return whole if name == Path(ref.path).name else self._path(ref, suffix, name)

    def _path(self, ref: ImageRef, suffix: str, brief: str | None = None) -> Path:
        """The path of an input's file, which is named `brief`, or else as the input."""
        room = suffix + PARTIAL
        raw = os.fsencode(ref.path)
        if len(raw) > MAX_PATH or b"\0" in raw:
            return self.out / (f"~{_digest(raw)}" + suffix)
        *folders, name = self._parts(ref) or ["image"]
        name = name if brief is None else _name(brief)
        return self.out.joinpath(*(_short(f, "") for f in folders), _short(name, room) + suffix)

    def _parts(self, ref: ImageRef) -> list[str]:
        """The folders and the name of an input's file. `a/./b` and `a//b` are `a/b` in a file
        system, but not in an archive or a store."""
        archive = ref.path if ref.member is None else ref.member.archive
        before = archive if ref.path.startswith(archive) else ""
        within = ref.path[len(before) :].removeprefix("/")
        scheme, separator, rest = before.partition("://")
        if separator:
            parts = [scheme + ":", *(_name(part) for part in rest.split("/"))]
        else:
            parts = [_name(part) for part in before.split("/") if part not in ("", ".")]
            if before.startswith("/") != self._is_absolute():
                parts.insert(0, ELSEWHERE)
        return parts + [_name(part) for part in within.split("/") if within]

    def has_all(self, ref: ImageRef, files: object) -> bool:
        """Whether the files that the row of an input names exist and are not empty."""
        if not isinstance(files, list):
            return True  # a row without pictures
        plains = (self._path(ref, ""), self.path_of(ref, ""))  # earlier versions wrote the first
        for file in files:
            name = str(file).rpartition("/")[2]
            for plain in plains:
                shown = path_fields(plain.name)["path"]  # UTF-8, as in the row
                if name.startswith(shown):
                    name = plain.name + name[len(shown) :]
                    break
            try:
                if not (plains[0].parent / name).stat().st_size:
                    return False
            except (OSError, ValueError):
                return False
        return True

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Write a file, completely or not at all. Raises WriteError."""
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
    """The name in the tree for a part of a path."""
    if part in ("", ".", ".."):
        return {"": EMPTY, ".": HERE, "..": ABOVE}[part]
    return part + EMPTY if not part.strip("_") else part


def _short(name: str, suffix: str) -> str:
    """Shorten a name that is too long with its suffix, and end it in a hash. A name that looks as
    if it were shortened gets a hash, too."""
    raw, room = os.fsencode(name), MAX_NAME - len(os.fsencode(suffix))
    if len(raw) <= room and not _SHORTENED.search(name):
        return name
    kept = raw[: room - 33]
    while len(kept) < len(raw) and kept and (raw[len(kept)] & 0xC0) == 0x80:
        kept = kept[:-1]  # do not cut a UTF-8 character
    return os.fsdecode(kept) + "~" + _digest(raw)


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
