"""Outputs of one stem in one folder: `feats.npy` and `feats.safetensors` have the same names for
index and meta, which can be those of one of them only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vitcli.errors import OutputError
from vitcli.runs.journal import JOURNAL, journal_of, read_finished
from vitcli.sinks.files import PARTIAL

ARRAYS = (".npy", ".npz", ".safetensors")  # whose index is theirs, also where no journal says so


def check_neighbours(out: Path, beside: Sequence[Path]) -> None:
    """Raises OutputError where one of the files beside an output is another's, whole or not."""
    for path in beside:
        if path.parent != out.parent:
            continue
        partial = path.with_name(path.name + PARTIAL)
        for other in _others(out):
            begun = other.with_name(other.name + PARTIAL + JOURNAL)
            if path.exists() and other.exists() and _has(other, path):
                raise OutputError(
                    f"{path} is the one of {other}, and would be overwritten",
                    f"give another name than {out.name}, or remove {other.name}",
                )
            if partial.exists() and begun.exists() and not _is_begun(out):
                raise OutputError(
                    f"{partial} may be of {other}, an interrupted run, and would be overwritten",
                    f"give another name than {out.name}, or finish that run with --resume",
                )


def _others(out: Path) -> Iterator[Path]:
    """The outputs of the same stem that there are or were, whole or not."""
    try:
        names = sorted(entry.name for entry in out.parent.iterdir())
    except OSError:
        return
    start = out.stem + "."
    found = set()
    for name in names:
        if name.startswith("." + start) and name.endswith(JOURNAL):
            found.add(name[1:].removesuffix(JOURNAL))
        elif name.startswith(start) and name.endswith(PARTIAL + JOURNAL):
            found.add(name.removesuffix(PARTIAL + JOURNAL))
        elif name.startswith(start) and name.endswith(ARRAYS):
            found.add(name)
    yield from (out.with_name(name) for name in sorted(found - {out.name}))


def _has(other: Path, path: Path) -> bool:
    """Whether a file belongs to another output, as its journal says, or else its format."""
    finished = read_finished(journal_of(other))
    if finished is None:
        return other.suffix in ARRAYS and other.stem == path.name.partition(".")[0]
    return path.name in (whole.name for whole in finished)


def _is_begun(out: Path) -> bool:
    return out.with_name(out.name + PARTIAL + JOURNAL).exists()
