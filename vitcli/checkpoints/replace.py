"""A file or folder that takes its name only when it is whole, and then the place of an old one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitcli.checkpoints.resolve import CONFIGS, WEIGHTS
from vitcli.errors import OutputError

OURS = (*CONFIGS, *WEIGHTS)
SHOWN = 3


@contextmanager
def replacing(target: Path, *, is_file: bool) -> Iterator[Path]:
    """A folder to fill, or the file to write, which takes the place of `target` when all is there;
    what else is written beside the file comes with it. Where something goes wrong, nothing of it
    stays and an old target is untouched. Raises OutputError, before anything is written for a
    folder that is no model."""
    real = Path(os.path.realpath(target))
    partial, old = (real.with_name(f"{real.name}.{end}") for end in ("partial", "old"))
    made = [parent for parent in real.parents if not parent.exists()]
    try:
        _check_old(real, target)
        _remove(partial)
        partial.mkdir(parents=True)
        yield partial / real.name if is_file else partial
        for file in partial.iterdir():
            _sync(file)
        if real.is_dir():  # a rename cannot replace a folder that is not empty
            _remove(old)
            real.rename(old)
        if is_file:
            for file in sorted(partial.iterdir(), key=lambda file: file.name == real.name):
                file.replace(real.with_name(file.name))
        else:
            partial.replace(real)
        _remove(old)
        _sync(real.parent)
        made = []
    except OSError as error:
        raise OutputError(f"cannot write to {target}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            _remove(partial)
            for parent in made:
                parent.rmdir()


def _check_old(real: Path, target: Path) -> None:
    """A folder of other things is not replaced."""
    names = sorted(path.name for path in real.iterdir()) if real.is_dir() else []
    if names and not any(name in OURS for name in names):
        shown = ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
        raise OutputError(
            f"{target} is no model, it holds {shown}", "give another name, or remove it yourself"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
