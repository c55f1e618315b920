"""Run the shards of a job on several workers, which are processes or actors of Ray.

A worker that has done a shard gets the next one, so a slow worker does not delay the others. If a
worker dies, another worker resumes the shard. If TRIES workers have died on the same shard, or a
worker reports an error, the run fails.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias

from vitcli.errors import Interrupted, OutputError
from vitcli.fleet.events import Advanced, Ended, Event, Failed, Lost, SharedJob
from vitcli.fleet.shards import CAN_RESUME, total
from vitcli.jobs.job import Note, Reporter, Summary
from vitcli.jobs.tolerance import Tolerance
from vitcli.records import Progress
from vitcli.runs.shard import Shard

TRIES = 3  # workers for one shard, if they die
TICK = 0.1  # seconds


class Executor(Protocol):
    """Workers in numbered slots, each of which does one shard after another."""

    @property
    def slots(self) -> int: ...

    def count(self, earlier: Mapping[int, Path], outer: int) -> int:
        """Return the number of shards into which each of `outer` shards is divided. `earlier` is
        what `shards.divisions` returns."""

    def start(self, slot: int) -> None:
        """Start a worker. Its first event is Ready."""

    def do(self, slot: int, shard: Shard, attempt: int) -> None:
        """Have a worker run a shard. Its last event is Ended, Failed or Lost."""

    def release(self, slot: int) -> None:
        """End a worker: no shard is left for it."""

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        """Return the new events and their slots; wait for the first of them."""


Opening: TypeAlias = Callable[[SharedJob, Path | None], AbstractContextManager[Executor]]
"""Opens the workers of a job, which end with the context. The file is their standard input."""


@dataclass(slots=True)
class _Part:
    """The state of a shard. `earlier` counts the images that an earlier run had done."""

    progress: Progress = field(default_factory=Progress)
    earlier: int | None = None
    ended: Ended | None = None


class Coordinator:
    """Gives the shards of a run to workers, and keeps the state of each shard.

    The tolerance applies to all shards together.
    """

    def __init__(
        self,
        executor: Executor,
        shards: Sequence[Shard],
        tolerance: Tolerance,
        reporter: Reporter,
    ) -> None:
        self._executor, self._tolerance, self._reporter = executor, tolerance, reporter
        self._left = deque(shards)
        self._doing: dict[int, Shard | None] = {}  # by slot
        self._tries: Counter[Shard] = Counter()
        self._parts = {shard: _Part() for shard in shards}
        self._lost: OutputError | None = None

    def run(self) -> tuple[Summary, dict[Shard, Ended]]:
        """Have workers run all shards. Raise the VitError that ends one of them."""
        started = time.monotonic()
        try:
            for slot in range(min(self._executor.slots, len(self._left))):
                self._start(slot)
            while self._doing:
                for slot, event in self._executor.poll(TICK):
                    self._take(slot, event)
                progress = self._progress()
                self._reporter.progress(progress)
                self._tolerance.check(progress)
        except Interrupted as interrupted:
            interrupted.after = f"{self._progress().seen:,} images"
            interrupted.can_resume = True
            raise
        if self._lost is not None:
            raise self._lost
        progress = self._progress()
        self._tolerance.check(progress, is_last=True)
        ended = {shard: part.ended for shard, part in self._parts.items() if part.ended}
        summaries = [event.summary for event in ended.values()]
        summary = total(summaries, time.monotonic() - started)
        return replace(summary, earlier=progress.earlier), ended

    def _start(self, slot: int) -> None:
        self._doing[slot] = None
        self._executor.start(slot)

    def _take(self, slot: int, event: Event) -> None:
        match event:
            case Note():
                self._reporter.note(event.text)
                return
            case Advanced():
                part = self._parts[event.shard]
                if part.earlier is None:
                    part.earlier = event.progress.earlier
                if part.ended is None:
                    part.progress = event.progress
                return
            case Failed():
                raise event.error
            case Lost():
                self._replace(slot, event.why)
                return
            case Ended() if shard := self._doing[slot]:
                part = self._parts[shard]
                part.ended, part.progress = event, event.progress
                if part.earlier is None:
                    part.earlier = event.summary.earlier
        if self._left:
            shard = self._doing[slot] = self._left.popleft()
            self._tries[shard] += 1
            self._executor.do(slot, shard, self._tries[shard])
        else:
            del self._doing[slot]
            self._executor.release(slot)

    def _replace(self, slot: int, why: str) -> None:
        """Replace a lost worker, unless its shard has lost too many."""
        shard = self._doing.pop(slot)
        if shard is not None and self._tries[shard] >= TRIES:
            self._lost = OutputError(
                f"shard {shard} was lost {TRIES} times: {why}",
                f"is there enough memory? {CAN_RESUME}",
            )
            self._left.clear()  # the other workers finish their shards
        elif shard is not None:
            self._reporter.note(f"{why}; shard {shard} is resumed by another worker")
            self._left.appendleft(shard)
        if self._lost is None:
            self._start(slot)

    def _progress(self) -> Progress:
        """The progress of all shards combined, with the first failures."""
        whole = Progress()
        for part in self._parts.values():
            whole.done += part.progress.done
            whole.failed += part.progress.failed
            whole.earlier += part.earlier or 0
            whole.first += part.progress.first
            for times, example in part.progress.kinds.values():
                whole.count(example, times)
        return whole
