"""No run overwrites a file that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vitcli.checkpoints.resolve import CONFIGS, JSONS, WEIGHTS, resolve
from vitcli.errors import OutputError, printable
from vitcli.files import PARTIAL, real
from vitcli.jobs.job import Inputs, ModelOptions
from vitcli.jobs.words import Words
from vitcli.runs.journal import JOURNAL, journal_of
from vitcli.runs.lock import LOCK
from vitcli.sinks.files import TABLE, ZIPPED
from vitcli.stores import is_remote

if TYPE_CHECKING:  # imports torch, which a run with nothing to do does not need
    from vitcli.checkpoints.load import Model

Read: TypeAlias = tuple[Path, str]
"""A file, and its part in the run."""


def read_of_inputs(inputs: Inputs) -> Iterator[Read]:
    """The named inputs: images, archives, tables, the list. Files in folders are checked later."""
    if inputs.files_from is not None:
        yield Path(inputs.files_from), "the list of this run"
    for path in inputs.paths:
        if path != "-" and not is_remote(path):
            yield Path(path), "an input"


def read_of_model(weights: Sequence[Path]) -> Iterator[Read]:
    """The weights, and the files that may be read along with them."""
    yield from ((path, "the model of this run") for path in weights)
    for folder in dict.fromkeys(path.parent for path in weights):
        for name in dict.fromkeys((*JSONS, *WEIGHTS)):
            what = "the config" if name in CONFIGS else "a file of the model"
            yield folder / name, f"{what} of this run"


def read_of_models(models: Sequence[str | Model], options: ModelOptions) -> Iterator[Read]:
    """The files of models, and those that their options name. Raises ModelNotFound."""
    for model in models:
        if isinstance(model, str):
            yield from read_of_model(resolve(model, offline=options.offline).weights)
        else:
            yield from read_of_model(model.files)
    yield from read_of_options({name: getattr(options, name) for name in ("labels", "head")})


def read_of_options(options: Mapping[str, object]) -> Iterator[Read]:
    """Every file that an option names, such as `--labels`."""
    for name, value in options.items():
        if isinstance(value, Path):
            yield value, f"the file of --{name.replace('_', '-')}"
        if isinstance(value, Words):
            yield from value.files_read()


def written_of(names: Iterable[Path]) -> list[Path]:
    """All files that a run creates for its outputs, partial or whole."""
    files: list[Path] = []
    for name in map(real, names):
        partials = [name.with_name(name.name + PARTIAL + end) for end in ("", ZIPPED, TABLE)]
        hidden = [name.with_name(name.name + PARTIAL + end) for end in (JOURNAL, LOCK)]
        files += [name, *partials, *hidden, journal_of(name)]
    return files


def check_apart(
    written: Iterable[Path], read: Iterable[Read], *, folder: Path | None = None
) -> None:
    """Raise OutputError if a file that is read would be overwritten, under any name or link. This
    includes every file in `folder`, which is replaced as a whole."""
    overwritten = {identity for path in written if (identity := identity_of(path)) is not None}
    within = None if folder is None else real(folder)
    for path, what in read:
        identity = identity_of(path)
        is_within = within is not None and real(path).is_relative_to(within)
        if identity is not None and (identity in overwritten or is_within):
            raise OutputError(
                f"{printable(str(path))} is {what}, and would be overwritten",
                "write to another file" if within is None else "write to another folder",
            )


def identity_of(path: Path) -> tuple[int, int] | None:
    """The (device, inode) of a file, the same under all its names; None if it does not exist."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
