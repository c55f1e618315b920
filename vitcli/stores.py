"""Objects in stores and on the web (`s3://`, `gs://`, `hf://`, `https://`), through fsspec.

Credentials are those that its file systems find in their usual places. What fails is tried again,
so that a dropped connection costs a moment and not a row.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar, cast

from vitcli.errors import VitError, hidden, printable

TRIES, WAIT = 5, 0.2  # seconds before the second try, and twice as long before each of the others
UNTRUSTED = "its certificate is not trusted (SSL_CERT_FILE names an authority)"
BLOCK = 4 << 20  # bytes of an open object that are read at a time

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+-]*://")
_LOGIN = re.compile(r"[^\s'\"/:@=]+:[^\s'\"/@]+@")  # as a URL has it in front of its host
_PASSING = (408, 425, 429)  # of the statuses that say that it is our fault, those that pass
_VERSIONS = ("ETag", "etag", "md5Hash", "crc32c", "blob_id", "Last-Modified", "mtime", "updated")

T = TypeVar("T")
Stamp = tuple[int, int]
"""An object's bytes, and a number that is another one when it has changed."""


@dataclass(frozen=True, slots=True)
class Url:
    """The address of an object in a store, as text."""

    text: str

    def __str__(self) -> str:
        return self.text


Place: TypeAlias = Path | Url
"""Where an output is: a file, or an object in a store."""


def is_remote(path: str) -> bool:
    return _URL.match(path) is not None


def place_of(text: str) -> Place:
    """The file or the URL that a text names."""
    return Url(text) if is_remote(text) else Path(text)


def is_web(url: str) -> bool:
    """Where a folder is a page, told by its slash alone, and nothing can be written."""
    return url.lower().startswith(("http://", "https://"))


def check_readable(url: str, kind: type[VitError]) -> None:
    """Raise `kind` if no file system that is installed reads this kind of URL."""
    try:
        _file_system(url)
    except OSError as error:
        hint = "is it right? pip install 'vitcli[remote]' reads s3://, gs://, hf:// and https://"
        raise kind(f"{printable(url)}: {error}", hint) from None


def read(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """An object, or a part of it. Raises FileNotFoundError, and OSError that says why it cannot be
    had."""
    file_system, path = _file_system(url)
    return cast(bytes, tried(lambda: file_system.cat_file(path, start=start, end=end)))


def read_at_most(url: str, size: int) -> bytes:
    """An object, or its first bytes, one more than `size`, where it is larger. Raises as `read`
    does."""
    file_system, path = _file_system(url)
    if is_web(path):  # a server may send all of it, whatever range was asked for
        return tried(lambda: _received(file_system, path, size + 1))

    def once() -> bytes:
        if _is_device(file_system, path):
            raise PermissionError("not a regular file")
        try:
            return cast(bytes, file_system.cat_file(path, start=0, end=size + 1))
        except Exception as error:
            if _status(error) == 416 or "InvalidRange" in str(error):  # of what is empty
                return b""
            raise

    return tried(once)


def _is_device(file_system: Any, path: str) -> bool:
    """Whether a URL names a device or a pipe of this machine, which never ends."""
    return "file" in file_system.protocol and Path(path).exists() and not Path(path).is_file()


def _received(file_system: Any, url: str, size: int) -> bytes:
    """The first bytes of an answer over HTTP, with the file system's session and its settings."""
    from fsspec.asyn import sync

    async def receive() -> bytes:
        session = await file_system.set_session()
        data = bytearray()
        async with session.get(file_system.encode_url(url), **file_system.kwargs) as answer:
            file_system._raise_not_found_for_status(answer, url)
            async for chunk in answer.content.iter_chunked(1 << 20):
                data += chunk
                if len(data) >= size:
                    break
        return bytes(data[:size])

    return cast(bytes, sync(file_system.loop, receive))


def open_object(url: str) -> BinaryIO:
    """An object as a file of ranged reads, which is closed like one. Raises as `read` does."""
    file_system, path = _file_system(url)
    return cast(BinaryIO, _Tried(tried(lambda: file_system.open(path, "rb", block_size=BLOCK))))


def stamp(url: str) -> Stamp | None:
    """The stamp of one object; None where there is none. Raises OSError as `read` does."""
    file_system, path = _file_system(url)
    file_system.invalidate_cache()
    try:
        details = tried(lambda: file_system.info(path))
    except FileNotFoundError:
        return None
    return None if details.get("type") == "directory" else _stamp(details)


def modified(url: str) -> float:
    """When an object was written, in seconds since 1970; 0 where the store does not say."""
    file_system, path = _file_system(url)
    try:
        return float(tried(lambda: file_system.modified(path).timestamp()))
    except OSError:
        return 0.0


@dataclass(frozen=True, slots=True)
class Listing:
    """The URLs of a store that were asked for, in order, and their stamps."""

    urls: list[str]
    stamps: array[int]  # two numbers for each
    left_out: tuple[str, ...] = ()  # folders

    def without(self, folder_of: Callable[[str], str | None]) -> Listing:
        """What does not lie in one of those folders."""
        folders = [folder_of(url) for url in self.urls]
        if not any(folders):
            return self
        kept = [place for place, folder in enumerate(folders) if folder is None]
        stamps = (number for at in kept for number in self.stamps[2 * at : 2 * at + 2])
        left_out = tuple(dict.fromkeys(folder for folder in folders if folder))
        return Listing([self.urls[at] for at in kept], array("q", stamps), left_out)

    def stamp(self, url: str) -> Stamp | None:
        place = bisect_left(self.urls, url)
        if place == len(self.urls) or self.urls[place] != url:
            return None
        return self.stamps[2 * place], self.stamps[2 * place + 1]


def listing(url: str, suffixes: Collection[str] = ()) -> Listing | None:
    """What is below a prefix, by its suffix, or what a pattern matches; None for what names one
    object. Raises OSError where it cannot be listed."""
    file_system, path = _file_system(url)
    file_system.invalidate_cache()
    if is_pattern := "*" in path:
        found = tried(lambda: file_system.glob(path, detail=True))
    elif url.endswith("/") or (not is_web(url) and tried(lambda: file_system.isdir(path))):
        found = tried(lambda: file_system.find(path, detail=True))
    else:
        return None
    wanted = {}
    for name, details in found.items():
        full = file_system.unstrip_protocol(name)
        if is_pattern or full.lower().endswith(tuple(suffixes)):
            wanted[full] = _stamp(details)
    urls = sorted(wanted)
    return Listing(urls, array("q", (number for name in urls for number in wanted[name])))


def put(file: Path, url: str) -> None:
    """Write an object, which has its name only when it is whole. Raises OSError."""
    file_system, path = _file_system(url)
    tried(lambda: file_system.put_file(str(file), path))
    size = file.stat().st_size
    there = stamp(url)
    if there is None or there[0] != size:
        found = "nothing is" if there is None else f"{there[0]:,} bytes are"
        raise OSError(f"{found} there, not the {size:,} that were sent")


def put_bytes(data: bytes, url: str) -> None:
    """As `put`. Raises OSError."""
    file_system, path = _file_system(url)
    tried(lambda: file_system.pipe_file(path, data))


def get(url: str, file: Path) -> None:
    """Bring an object here. Raises as `read` does."""
    file_system, path = _file_system(url)
    tried(lambda: file_system.get_file(path, str(file)))


def remove(url: str) -> None:
    """Raises as `read` does."""
    file_system, path = _file_system(url)
    tried(lambda: file_system.rm_file(path))


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
            status = _status(error)
            words = words_of(error)
            if status == 404:
                raise FileNotFoundError("no such object (404)") from None
            if isinstance(error, PermissionError) or status in (401, 403):
                raise PermissionError(f"access is denied (403): {words}") from None
            if "Credentials" in type(error).__name__:
                raise PermissionError(f"no access: {words}") from None
            if "CERTIFICATE_VERIFY_FAILED" in words:
                raise PermissionError(UNTRUSTED) from None
            if number + 1 == TRIES or (status and 400 <= status < 500 and status not in _PASSING):
                raise OSError(f"{words}, after {number + 1} tries") from None
        time.sleep(WAIT * 2**number)
    raise AssertionError("the last try has raised")


def words_of(error: Exception) -> str:
    """What a library says, in one line, without the secrets of its URLs, whole or cut out."""
    return _LOGIN.sub("***@", hidden(" ".join(str(error).split()))) or type(error).__name__


def _status(error: Exception) -> int | None:
    """HTTP's, where the library says it: aiohttp, gcsfs, and httpx under huggingface_hub."""
    for holder, name in ((error, "status"), (error, "code"), (error, "response")):
        found = getattr(holder, name, None)
        found = getattr(found, "status_code", found)
        if str(found).isdecimal():
            return int(str(found))
    return None


class _Tried(io.RawIOBase):
    """A file of fsspec's that is read again, from where it was, when a connection drops."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        at = self._file.tell()

        def once() -> bytes:
            if self._file.tell() != at:
                self._file.seek(at)
            return cast(bytes, self._file.read(size))

        return tried(once)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _stamp(details: Mapping[str, Any]) -> Stamp:
    """What says most surely that an object has changed, as a number that a journal holds."""
    version = next((details[name] for name in _VERSIONS if details.get(name)), "")
    digest = hashlib.blake2b(str(version).encode(), digest_size=8).digest()
    size = details.get("size")
    return -1 if size is None else int(size), int.from_bytes(digest, "big", signed=True)


def _file_system(url: str) -> tuple[Any, str]:
    """Raises OSError where there is none for a URL: the libraries raise what they like."""
    try:
        import fsspec

        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except Exception as error:  # see above
        raise OSError(words_of(error)) from None
    return found
