"""Read the lines of a text file that a user names: classes, or texts to embed."""

from __future__ import annotations

import os
import re
import stat
import sys

from vitcli.checkpoints.weights.sniff import LFS, LFS_HINT
from vitcli.errors import InputError, UsageError, in_bytes
from vitcli.files import instead_of

_LINE_END = re.compile(r"\r\n|\r|\n")


def read_text_file(name: str, option: str, limit: int | None = None) -> str:
    """Read UTF-8 text from a file, or from standard input (`-`). A mark of its encoding is left
    out. `option` is the one that names the file, `limit` a number of bytes.

    Raises InputError for a file that cannot be read, is not text or has more bytes, UsageError for
    a terminal.
    """
    where = f"{'standard input' if name == '-' else name} ({option})"
    if name == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("texts are expected on standard input", "pipe them in, a text a line")
    try:
        with open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
            if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{where} is a device, not a text")
            raw = file.read() if limit is None else file.read(limit + 1)
    except FileNotFoundError:
        raise InputError(f"no such file: {where}", instead_of(name)) from None
    except IsADirectoryError:
        raise InputError(f"{where} is a folder", "name a file") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read {where}: {why}") from None
    if limit is not None and len(raw) > limit:
        raise InputError(f"{where} is too large: at most {in_bytes(limit)} are read")
    if raw.startswith(LFS):
        raise InputError(f"{where} is a git-LFS pointer, not the file", LFS_HINT)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{where} is not UTF-8 text") from None
    if "\0" in text:
        raise InputError(f"{where} is not UTF-8 text: it holds NUL bytes")
    return text


def lines_of(text: str, where: str, hint: str) -> list[str]:
    """The lines of a text, without their ends, and without blank ones after the last line.

    Raises UsageError for a blank line before another: without it, the lines after it would get
    other numbers.
    """
    lines = _LINE_END.split(text)
    while lines and not lines[-1].strip():
        del lines[-1]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise UsageError(f"{where}, line {number} is blank", hint)
    return lines
