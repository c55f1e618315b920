"""Objects in stores and on the web (`s3://`, `gs://`, `hf://`, `https://`), through fsspec.

fsspec's file systems find credentials in the usual places of each store. A failed request is
retried, so a dropped connection does not cost a row.
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

from vitcli.errors import VitError, hidden, installing, printable
from vitcli.records import Stamp

TRIES = 5
WAIT = 0.2  # seconds before the second try; twice as long before each later one
UNTRUSTED = "its certificate is not trusted (name its authority in SSL_CERT_FILE)"
BLOCK = 4 << 20  # bytes of an open object that are read at a time

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+-]*://")
_LOGIN = re.compile(r"[^\s'\"/:@=]+:[^\s'\"/@]+@")  # before the host of a URL
_PASSING = (408, 425, 429)  # the 4xx statuses that are retried
_VERSIONS = ("ETag", "etag", "md5Hash", "crc32c", "blob_id", "Last-Modified", "mtime", "updated")

T = TypeVar("T")


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
    """Return the file or the URL that a text names."""
    return Url(text) if is_remote(text) else Path(text)


def is_web(url: str) -> bool:
    """Whether a URL is http(s). There, only a slash at the end marks a folder, and nothing can be
    written."""
    return url.lower().startswith(("http://", "https://"))


def check_readable(url: str, kind: type[VitError]) -> None:
    """Raise `kind` if no installed file system reads this kind of URL."""
    try:
        _file_system(url)
    except OSError as error:
        hint = f"s3://, gs://, hf:// and https:// need an extra: {installing('remote')}"
        raise kind(f"{printable(url)}: {error}", hint) from None


def read(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Read an object, or a part of it. Raises FileNotFoundError, or OSError with the reason."""
    file_system, path = _file_system(url)
    return cast(bytes, tried(lambda: file_system.cat_file(path, start=start, end=end)))


def read_at_most(url: str, size: int) -> bytes:
    """Read at most `size` + 1 bytes of an object: one more than `size` shows that it is larger.
    Raises as `read` does."""
    file_system, path = _file_system(url)
    if is_web(path):  # a server may ignore the range and send everything
        return tried(lambda: _read_http(file_system, path, size + 1))

    def read_range() -> bytes:
        if _is_device(file_system, path):
            raise PermissionError("not a regular file")
        try:
            return cast(bytes, file_system.cat_file(path, start=0, end=size + 1))
        except Exception as error:
            if _status(error) == 416 or "InvalidRange" in str(error):  # the object is empty
                return b""
            raise

    return tried(read_range)


def _is_device(file_system: Any, path: str) -> bool:
    """Whether a URL names a local path that is not a regular file: a device may never end."""
    return "file" in file_system.protocol and Path(path).exists() and not Path(path).is_file()


def _read_http(file_system: Any, url: str, size: int) -> bytes:
    """Read the first bytes of an HTTP response, with the file system's session and settings."""
    from fsspec.asyn import sync

    async def receive() -> bytes:
        session = await file_system.set_session()
        data = bytearray()
        async with session.get(file_system.encode_url(url), **file_system.kwargs) as response:
            file_system._raise_not_found_for_status(response, url)
            async for chunk in response.content.iter_chunked(1 << 20):
                data += chunk
                if len(data) >= size:
                    break
        return bytes(data[:size])

    return cast(bytes, sync(file_system.loop, receive))


def open_object(url: str) -> BinaryIO:
    """Open an object as a file that is read by ranges. Raises as `read` does."""
    file_system, path = _file_system(url)
    return cast(
        BinaryIO, _RetryingFile(tried(lambda: file_system.open(path, "rb", block_size=BLOCK)))
    )


def stamp(url: str) -> Stamp | None:
    """Return the stamp of an object; None if it does not exist. Raises OSError as `read` does."""
    file_system, path = _file_system(url)
    file_system.invalidate_cache()
    try:
        details = tried(lambda: file_system.info(path))
    except FileNotFoundError:
        return None
    return None if details.get("type") == "directory" else _stamp(details)


def modified(url: str) -> float:
    """Return when an object was written, in seconds since 1970; 0 if the store does not say."""
    file_system, path = _file_system(url)
    try:
        return float(tried(lambda: file_system.modified(path).timestamp()))
    except OSError:
        return 0.0


@dataclass(frozen=True, slots=True)
class Listing:
    """The URLs of objects in a store, in order, and their stamps."""

    urls: list[str]
    stamps: array[int]  # two numbers for each
    left_out: tuple[str, ...] = ()  # folders

    def without(self, folder_of: Callable[[str], str | None]) -> Listing:
        """Leave out the objects for which `folder_of` returns a folder, and list the folders in
        `left_out`."""
        folders = [folder_of(url) for url in self.urls]
        if not any(folders):
            return self
        kept = [index for index, folder in enumerate(folders) if folder is None]
        stamps = (number for index in kept for number in self.stamps[2 * index : 2 * index + 2])
        left_out = tuple(dict.fromkeys(folder for folder in folders if folder))
        return Listing([self.urls[index] for index in kept], array("q", stamps), left_out)

    def stamp(self, url: str) -> Stamp | None:
        index = bisect_left(self.urls, url)
        if index == len(self.urls) or self.urls[index] != url:
            return None
        return self.stamps[2 * index], self.stamps[2 * index + 1]


def listing(url: str, suffixes: Collection[str] = ()) -> Listing | None:
    """List the objects below a prefix that have these suffixes, or all that match a pattern.

    Return None for the URL of one object. Raises OSError if the store cannot list the objects.
    """
    file_system, path = _file_system(url)
    file_system.invalidate_cache()
    if is_pattern := "*" in path:
        objects = tried(lambda: file_system.glob(path, detail=True))
    elif url.endswith("/") or (not is_web(url) and tried(lambda: file_system.isdir(path))):
        objects = tried(lambda: file_system.find(path, detail=True))
    else:
        return None
    stamps = {}
    for name, details in objects.items():
        full = file_system.unstrip_protocol(name)
        if is_pattern or full.lower().endswith(tuple(suffixes)):
            stamps[full] = _stamp(details)
    urls = sorted(stamps)
    return Listing(urls, array("q", (number for name in urls for number in stamps[name])))


def put(file: Path, url: str) -> None:
    """Upload a file as an object, which appears only when it is complete. Raises OSError."""
    file_system, path = _file_system(url)
    tried(lambda: file_system.put_file(str(file), path))
    size = file.stat().st_size
    uploaded = stamp(url)
    if uploaded is None or uploaded[0] != size:
        content = "no object" if uploaded is None else f"{uploaded[0]:,} bytes"
        raise OSError(f"after the upload of {size:,} bytes, the store has {content}")


def put_bytes(data: bytes, url: str) -> None:
    """Upload bytes as an object. Raises OSError."""
    file_system, path = _file_system(url)
    tried(lambda: file_system.pipe_file(path, data))


def get(url: str, file: Path) -> None:
    """Download an object. Raises as `read` does."""
    file_system, path = _file_system(url)
    tried(lambda: file_system.get_file(path, str(file)))


def remove(url: str) -> None:
    """Remove an object. Raises as `read` does."""
    file_system, path = _file_system(url)
    tried(lambda: file_system.rm_file(path))


def tried(action: Callable[[], T]) -> T:
    """Return the result of an action, which is run up to TRIES times. Raises FileNotFoundError,
    PermissionError, or OSError with the reason.

    `Exception` is caught because the libraries of stores raise errors of any class.
    """
    for number in range(TRIES):
        try:
            return action()
        except Exception as raised:  # see above
            error = _failure(raised)
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError("no such object (404)") from None
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


def _failure(error: Exception) -> Exception:
    """Return the error of a request. fsspec raises FileNotFoundError from any error of a web
    server, even if it has refused the connection."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    is_of_web = type(cause).__module__.partition(".")[0] == "aiohttp"
    is_failure = is_of_web or isinstance(cause, ConnectionError | TimeoutError)
    return cause if is_failure and _status(cause) not in (404, 410) else error


def words_of(error: Exception) -> str:
    """Return an error's message in one line, without the secrets in URLs, even incomplete ones."""
    return _LOGIN.sub("***@", hidden(" ".join(str(error).split()))) or type(error).__name__


def _status(error: Exception) -> int | None:
    """Return the HTTP status in an error of aiohttp, gcsfs or httpx (of huggingface_hub)."""
    for holder, name in ((error, "status"), (error, "code"), (error, "response")):
        status = getattr(holder, name, None)
        status = getattr(status, "status_code", status)
        if str(status).isdecimal():
            return int(str(status))
    return None


class _RetryingFile(io.RawIOBase):
    """A file of fsspec that retries a failed read at the same offset."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        at = self._file.tell()

        def read_here() -> bytes:
            if self._file.tell() != at:
                self._file.seek(at)
            return cast(bytes, self._file.read(size))

        return tried(read_here)

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
    """Return the size of an object, and a hash of the first of _VERSIONS that the store gives."""
    version = next((details[name] for name in _VERSIONS if details.get(name)), "")
    digest = hashlib.blake2b(str(version).encode(), digest_size=8).digest()
    size = details.get("size")
    return -1 if size is None else int(size), int.from_bytes(digest, "big", signed=True)


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system and path of a URL. Raises OSError if no library opens it."""
    try:
        import fsspec

        opened: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except Exception as error:  # libraries raise errors of any class
        raise OSError(words_of(error)) from None
    return opened
