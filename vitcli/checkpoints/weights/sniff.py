"""Detect the format of a weight file by its first bytes, and by its name if they are ambiguous."""

from __future__ import annotations

import pickletools
import re
import stat
from pathlib import Path
from typing import Literal

from vitcli.errors import CheckpointError

FileKind = Literal["safetensors", "zip", "pickle"]

LFS, LFS_HINT = b"version https://git-lfs", "run git lfs pull in its folder"
# Files that people mistake for weights: the first bytes, a description, and a hint.
FOREIGN = (
    (LFS, "a git-LFS pointer, not the weights", LFS_HINT),
    (rb"\s*<(!doctype|html|\?xml)", "a web page, not weights", "download it again"),
    (rb'\s*\{\s*"[^"]*"\s*:', "JSON, not weights", "give the folder that holds it"),
    (rb"\x1f\x8b", "gzip-compressed", "gunzip {file}"),
    (rb"\x28\xb5\x2f\xfd", "zstd-compressed", "unzstd {file}"),
    (rb"\xfd7zXZ|BZh|7z\xbc\xaf", "compressed", "unpack it"),
    (rb"\x89HDF", "HDF5, as Keras and TensorFlow write it", "ask for a .safetensors"),
    (rb"GGUF", "a GGUF file", "ask for a .safetensors"),
    (
        rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP",
        "a picture, not a model",
        "name the model: -m MODEL, and the picture without -m",
    ),
)
TAR = slice(257, 262)  # the bytes of a tar's magic number
MAX_OLD_PICKLE = 65_536  # bytes


def kind_of(file: Path) -> FileKind:
    """Return the format of a weight file. Raises CheckpointError, with a description, for another
    kind of file."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise CheckpointError(f"{file} is not a regular file")
    with file.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise CheckpointError(f"{file} is empty", "download it again")
    for sign, what, hint in FOREIGN:
        if re.match(sign, head, re.IGNORECASE | re.DOTALL):
            raise CheckpointError(f"{file} is {what}", hint and hint.format(file=file))
    if head[TAR] == b"ustar":
        raise CheckpointError(f"{file} is a tar archive", f"unpack it: tar -xf {file}")
    if file.suffix == ".safetensors" and head.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise CheckpointError(
            f"{file} is a pickle of PyTorch's, not safetensors",
            f"if that is what you want, rename it to {file.stem}.pth",
        )
    if head[8:9] == b"{" or file.suffix == ".safetensors":
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80") or _is_old_pickle(file):
        return "pickle"
    if file.suffix == ".onnx":
        raise CheckpointError(f"{file} is an ONNX file", "give the model that it was made of")
    raise CheckpointError(
        f"{file} is neither safetensors, a PyTorch checkpoint nor .npz (starts with {head[:16]!r})",
        "give a .safetensors, .pth, .bin or .npz with the weights, or a folder that has one",
    )


def _is_old_pickle(file: Path) -> bool:
    """Whether a small file is a whole pickle of the first protocols, which have no magic number."""
    with file.open("rb") as stream:
        start = stream.read(MAX_OLD_PICKLE)
    try:
        return any(operation.name == "STOP" for operation, *_ in pickletools.genops(start))
    except ValueError:
        return False
