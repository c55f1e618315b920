"""The part of the inputs that a run takes, and whether it resumes an earlier run."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitcli.errors import UsageError
from vitcli.processes import rank_of


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`, counted from 1. The part of a path depends on the path alone, so
    new files do not move others to another part."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count <= 99_999:
            raise UsageError(
                f"--shard {self} is not a shard", "give I/N with I from 1 to N, such as 1/4"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, path: str) -> bool:
        digest = hashlib.blake2b(os.fsencode(path), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1

    def named(self, out: Path) -> Path:
        """The file of this shard: `out-00001-of-00004.jsonl` for `out.jsonl`."""
        return out.with_name(f"{out.stem}-{self.number:05}-of-{self.count:05}{out.suffix}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resuming:
    """Whether and how to resume an earlier run, and which shard of the inputs to take."""

    resume: bool = False
    retry_failed: bool = False
    keep_missing: bool = False
    shard: Shard | None = None

    def __post_init__(self) -> None:
        for is_on, name in (
            (self.retry_failed, "--retry-failed"),
            (self.keep_missing, "--keep-missing"),
        ):
            if is_on and not self.resume:
                raise UsageError(f"{name} has no effect without --resume", "add --resume")


def check_start(*, overwrite: bool, resume: bool) -> None:
    """Raise UsageError for a run that would both start over and continue."""
    if overwrite and resume:
        raise UsageError(
            "--overwrite and --resume exclude each other: one starts over, the other continues",
            "leave out one of them; the variables VIT_OVERWRITE and VIT_RESUME count, too",
        )


def parse_shard(text: str) -> Shard:
    """Read a shard such as `1/4`. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text.strip())
    if match is None:
        raise UsageError(
            f"--shard {text} is not a shard", "give I/N with I from 1 to N, such as 1/4"
        )
    return Shard(int(match[1]), int(match[2]))


def shard_of_environment(env: Mapping[str, str]) -> Shard | None:
    """The shard of this process under torchrun; None if the process is alone."""
    place = rank_of(env)
    return Shard(place.rank + 1, place.size) if place.size > 1 else None
