"""Replace a model's file or folder by a converted one only when the new one is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitcli.checkpoints.resolve import CONFIGS, WEIGHTS
from vitcli.errors import OutputError, listed
from vitcli.files import PARTIAL, real, sync

MODEL_FILES = (*CONFIGS, *WEIGHTS)
MAX_LISTED = 3


@contextmanager
def replacing(target: Path, *, is_file: bool) -> Iterator[Path]:
    """Yield a folder to fill, or a file to write, and let it replace `target` at the end.

    Files written next to that file are moved along with it. After an error, nothing new remains,
    and an old target is unchanged. Raises OutputError if writing fails, and before anything is
    written if `target` is a folder without a model.
    """
    place = real(target)
    partial, old = place.with_name(place.name + PARTIAL), place.with_name(f"{place.name}.old")
    made = [parent for parent in place.parents if not parent.exists()]
    try:
        _check_old(place, target)
        _remove(partial)
        partial.mkdir(parents=True)
        yield partial / place.name if is_file else partial
        for file in partial.iterdir():
            if not file.is_symlink():  # one of the user's may lead nowhere
                sync(file)
        if place.is_dir():  # a rename cannot replace a folder that is not empty
            _remove(old)
            place.rename(old)
        if is_file:
            for file in sorted(partial.iterdir(), key=lambda file: file.name == place.name):
                file.replace(place.with_name(file.name))
        else:
            partial.replace(place)
        _remove(old)
        sync(place.parent)
        made = []
    except OSError as error:
        raise OutputError(f"cannot write to {target}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            _remove(partial)
            for parent in made:
                parent.rmdir()


def _check_old(place: Path, target: Path) -> None:
    """Raise OutputError for a folder that holds other things than a model."""
    names = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    if names and not any(name in MODEL_FILES for name in names):
        raise OutputError(
            f"{target} is not a model, it holds {listed(names, MAX_LISTED)}",
            "give another name, or remove it yourself",
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
