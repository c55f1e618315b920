"""Objects in stores and on the web (`s3://`, `gs://`, `hf://`, `https://`), through fsspec.

Credentials are those that its file systems find in their usual places. A worker reads an object in
one piece; what fails is tried again, so that a dropped connection costs a moment and not a row. A
tar is read as a stream, front to back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any, BinaryIO, TypeVar, cast

from vitcli.errors import InputError, printable
from vitcli.images.archives import Found, broken, decompressed, iter_tar
from vitcli.records import ErrorType

TRIES, WAIT = 5, 0.2  # seconds before the second try, and twice as long before each of the others
BLOCK = 4 << 20  # bytes of a tar that are read at a time
TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+-]*://")
_PASSING = (408, 425, 429)  # of the statuses that say that it is our fault, those that pass

T = TypeVar("T")


def is_remote(path: str) -> bool:
    return _URL.match(path) is not None


def check_installed(url: str) -> None:
    """Raises InputError where what reads this kind of URL is not there."""
    if find_spec("fsspec") is None:
        raise InputError(f"{printable(url)}: URLs need fsspec", "pip install 'vitcli[remote]'")
    try:
        _file_system(url)
    except (ImportError, ValueError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"{printable(url)}: {words}", "pip install 'vitcli[remote]'") from None


def read(url: str) -> bytes:
    """An object. Raises FileNotFoundError, and OSError that says why it cannot be had."""
    file_system, path = _file_system(url)
    return cast(bytes, tried(lambda: file_system.cat_file(path)))


@cache
def listing(url: str, suffixes: frozenset[str]) -> list[str] | None:
    """The URLs below a prefix, by their suffixes, or that a pattern matches, in order; None for
    what names one object. Raises InputError where they cannot be listed, or there are none."""
    file_system, path = _file_system(url)
    is_web = url.lower().startswith("http")  # where a folder is a page, told by its slash alone
    try:
        if is_pattern := "*" in path:
            found = tried(lambda: file_system.glob(path))
        elif url.endswith("/") or (not is_web and tried(lambda: file_system.isdir(path))):
            found = tried(lambda: file_system.find(path))
        else:
            return None
    except OSError as error:
        hint = "are the name and the credentials right?"
        raise InputError(f"cannot list {printable(url)}: {error}", hint) from None
    named = [file_system.unstrip_protocol(name) for name in found]
    wanted = sorted(name for name in named if is_pattern or name.lower().endswith(tuple(suffixes)))
    if not wanted:
        raise InputError(
            f"no images in {printable(url)}", f"{len(named):,} other objects are there"
        )
    return wanted


def is_tar(url: str) -> bool:
    return url.partition("?")[0].lower().endswith(TARS)


def iter_tar_at(url: str, suffixes: Collection[str]) -> Iterator[Found]:
    """The images of a tar, which are read with it."""
    file_system, path = _file_system(url)
    try:
        with tried(lambda: file_system.open(path, "rb", block_size=BLOCK)) as file:
            stream = cast(BinaryIO, _Tried(file))
            yield from iter_tar(url, decompressed(stream), suffixes, None)
    except OSError as error:
        kind = ErrorType.NOT_FOUND if isinstance(error, FileNotFoundError) else ErrorType.UNREADABLE
        yield broken(url, kind, str(error))


def tried(action: Callable[[], T]) -> T:
    """What an action gives, be it at the fifth try. Raises FileNotFoundError, PermissionError, or
    OSError with what was the matter.

    The libraries of stores raise what they like, hence `Exception`.
    """
    for number in range(TRIES):
        try:
            return action()
        except FileNotFoundError:
            raise FileNotFoundError("no such object (404)") from None
        except Exception as error:  # see above
            status = getattr(error, "status", None)
            words = " ".join(str(error).split()) or type(error).__name__
            if status == 404:
                raise FileNotFoundError("no such object (404)") from None
            if isinstance(error, PermissionError) or status in (401, 403):
                raise PermissionError(f"access is denied (403): {words}") from None
            if "Credentials" in type(error).__name__:
                raise PermissionError(f"no access: {words}") from None
            if number + 1 == TRIES or (status and 400 <= status < 500 and status not in _PASSING):
                raise OSError(f"{words}, after {number + 1} tries") from None
        time.sleep(WAIT * 2**number)
    raise AssertionError("the last try has raised")


class _Tried:
    """A file of fsspec's that is read again, from where it was, when a connection drops."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        at = self._file.tell()

        def once() -> bytes:
            if self._file.tell() != at:
                self._file.seek(at)
            return cast(bytes, self._file.read(size))

        return tried(once)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    return found
