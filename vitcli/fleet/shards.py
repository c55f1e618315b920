"""The shards of a shared run: their number, and the merge of their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitcli.errors import OutputError, UsageError
from vitcli.files import is_special
from vitcli.jobs.job import Summary
from vitcli.runs.shard import Resuming, Shard
from vitcli.sinks import is_sealed
from vitcli.tasks.merge import merge

CAN_RESUME = "what is done is kept: repeat with --resume"


def shards_of(outer: Shard | None, count: int) -> list[Shard]:
    """Return the `count` shards of a run, or of its shard `outer`."""
    outer = outer or Shard(1, 1)
    first = (outer.number - 1) * count + 1
    return [Shard(first + n, outer.count * count) for n in range(count)]


def join(shards: Sequence[Shard], out: Path, summary: Summary, *, overwrite: bool) -> Summary:
    """Merge the shards into the output, and remove them."""
    merged = merge([shard.named(out) for shard in shards], out, overwrite=overwrite)
    for path in begun(out):
        path.unlink(missing_ok=True)
    return replace(summary, done=merged.done, failed=merged.failed)


def total(parts: Sequence[Summary], seconds: float) -> Summary:
    """Combine the summaries of all shards. `unlisted` and `skipped` are maxima: each shard lists
    every folder."""
    chosen = [part.selected for part in parts if part.selected is not None]
    return Summary(
        sum(part.done for part in parts),
        sum(part.failed for part in parts),
        seconds,
        unlisted=max(part.unlisted for part in parts),
        skipped=max(part.skipped for part in parts),
        selected=sum(chosen) if chosen else None,
        earlier=sum(part.earlier for part in parts),
    )


def divided(out: Path | None, asked: Resuming, option: str, unit: str) -> Path:
    """Return the output. Raise UsageError if it cannot be divided into shards."""
    if out is None or is_special(out):
        raise UsageError(f"each {unit} writes a shard, which is a file", "name it with --out FILE")
    if is_sealed(out) and asked.shard is None:
        name = out.suffix[1:].capitalize()
        raise UsageError(
            f"{option} merges its shards, and {name} files are not merged",
            "use another format, or add --shard 1/1 and read the shards together as one table",
        )
    return out


def is_complete(out: Path, asked: Resuming, *, overwrite: bool) -> bool:
    """Whether an earlier run has finished the output and removed its shards. Then this process
    alone adds new images.

    Raises OutputError if the output exists and may not be changed.
    """
    if asked.shard is not None or not out.exists() or overwrite:
        return False
    if not asked.resume:
        raise OutputError(f"{out} exists", "--overwrite replaces it, --resume brings it up to date")
    return not begun(out)


def begun(out: Path) -> list[Path]:
    """The files of all shards of this output, finished or not."""
    number = "[0-9]" * 5
    stem = f"{_literal(out.stem)}-{number}-of-{number}"
    return sorted(
        path for start in ("", ".") for path in out.parent.glob(f"{start}{stem}*") if path.is_file()
    )


def divisions(out: Path) -> dict[int, Path]:
    """The numbers of shards into which earlier runs divided this output, each with the file of one
    such shard."""
    start = len(f"{out.stem}-00001-of-")
    return {int(path.name.removeprefix(".")[start : start + 5]): path for path in begun(out)[::-1]}


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
