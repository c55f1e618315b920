"""A run that several processes share: which shard is whose, and their outputs joined at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vitcli.errors import OutputError, UsageError
from vitcli.files import is_special
from vitcli.jobs.job import Summary
from vitcli.runs.shard import Resuming, Shard
from vitcli.sinks import is_sealed
from vitcli.tasks.merge import merge

CAN_RESUME = "what is done is kept: repeat with --resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """An output that is made in `count` shards; where `asked` is for a shard, in shards of it."""

    out: Path
    asked: Resuming
    overwrite: bool
    count: int

    @property
    def shards(self) -> list[Shard]:
        outer = self.asked.shard or Shard(1, 1)
        first = (outer.number - 1) * self.count + 1
        return [Shard(first + n, outer.count * self.count) for n in range(self.count)]

    def join(self, summary: Summary) -> Summary:
        """The one output in place of its shards; where a shard is asked for, they stay."""
        if self.asked.shard is not None:
            return summary
        named = [shard.named(self.out) for shard in self.shards]
        merged = merge(named, self.out, overwrite=self.overwrite or self.asked.resume)
        for path in begun(self.out):
            path.unlink(missing_ok=True)
        return replace(summary, done=merged.done, failed=merged.failed)


def total(parts: Sequence[Summary], seconds: float) -> Summary:
    """The summaries of all shards combined. `unlisted` and `skipped` are maxima: each shard lists
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
    """The output, if it is one that can be made in shards. Raises UsageError."""
    if out is None or is_special(out):
        raise UsageError(f"each {unit} writes a shard, which is a file", "name it with --out FILE")
    if is_sealed(out) and asked.shard is None:
        name = out.suffix[1:].capitalize()
        raise UsageError(
            f"{option} merges its shards, and {name} files are not merged",
            "use another format, or --shard 1/1: the shards are a table together",
        )
    return out


def is_complete(out: Path, asked: Resuming, *, overwrite: bool) -> bool:
    """Whether there is nothing but what is new to do, for which there are no shards.

    Raises OutputError for an output that may not be touched.
    """
    if asked.shard is not None or not out.exists() or overwrite:
        return False
    if not asked.resume:
        raise OutputError(f"{out} exists", "--overwrite replaces it, --resume goes on with it")
    return not begun(out)


def begun(out: Path) -> list[Path]:
    """What shards of this output there are, whole or not, with all that belongs to them."""
    number = "[0-9]" * 5
    stem = f"{_literal(out.stem)}-{number}-of-{number}"
    return sorted(
        path for start in ("", ".") for path in out.parent.glob(f"{start}{stem}*") if path.is_file()
    )


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
