"""Outputs of one stem in one folder: `feats.npy` and `feats.safetensors` would share the index and
the meta file, which can belong to only one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vitcli.errors import OutputError
from vitcli.files import PARTIAL
from vitcli.runs.journal import JOURNAL, journal_of, read_finished

ARRAYS = (".npy", ".npz", ".safetensors")  # outputs that have an index, even without a journal
SIDES = (".index.jsonl", ".meta.json")


def check_neighbours(out: Path, beside: Sequence[Path]) -> None:
    """Raise OutputError if an output, or a file next to it, belongs to another output, whether that
    is finished or interrupted."""
    is_side = out.name.endswith(SIDES)
    for path in (out, *beside) if is_side else beside:
        if path.parent != out.parent:
            continue
        partial = path.with_name(path.name + PARTIAL)
        for other in _others(out):
            begun = other.with_name(other.name + PARTIAL + JOURNAL)
            if path.exists() and other.exists() and _has(other, path):
                raise OutputError(
                    f"{path} belongs to {other}, and would be overwritten",
                    f"give another name than {out.name}, or remove {other.name}",
                )
            if partial.exists() and begun.exists() and not _is_begun(out):
                raise OutputError(
                    f"{partial} may belong to {other}, an interrupted run, and be overwritten",
                    f"give another name than {out.name}, or finish that run with --resume",
                )


def _others(out: Path) -> Iterator[Path]:
    """Yield the other outputs of the same stem that exist or have a journal."""
    try:
        names = sorted(entry.name for entry in out.parent.iterdir())
    except OSError:
        return
    start = _stem(out) + "."
    outputs = set()
    for name in names:
        if name.startswith("." + start) and name.endswith(JOURNAL):
            outputs.add(name[1:].removesuffix(JOURNAL))
        elif name.startswith(start) and name.endswith(PARTIAL + JOURNAL):
            outputs.add(name.removesuffix(PARTIAL + JOURNAL))
        elif name.startswith(start) and name.endswith(ARRAYS):
            outputs.add(name)
    yield from (out.with_name(name) for name in sorted(outputs - {out.name}))


def _stem(out: Path) -> str:
    """The stem of an output, or of the output that a file is named after."""
    for side in SIDES:
        if out.name.endswith(side):
            return out.name.removesuffix(side)
    return out.stem


def _has(other: Path, path: Path) -> bool:
    """Whether a file belongs to another output, according to its journal or else its format."""
    finished = read_finished(journal_of(other))
    if finished is None:
        return other.suffix in ARRAYS and path.name in [other.stem + side for side in SIDES]
    return path.name in (whole.name for whole in finished)


def _is_begun(out: Path) -> bool:
    return out.with_name(out.name + PARTIAL + JOURNAL).exists()
