"""The shards of a run on several workers: one loop for processes and for a Ray cluster.

A worker asks for the next shard when it has done one, so a slow worker holds up nobody. A shard
whose worker dies is resumed by another one, TRIES times at most. An error ends the run.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from vitcli.errors import Interrupted, OutputError
from vitcli.fleet.events import Advanced, Answer, Ended, Failed, Job, Lost, Note, Told
from vitcli.fleet.shards import CAN_RESUME, total
from vitcli.jobs.job import Reporter, Summary
from vitcli.jobs.tolerance import Tolerance
from vitcli.records import Progress, Row
from vitcli.runs.shard import Shard

TRIES = 3  # workers that one shard may lose
TICK = 0.1  # seconds


class Fleet(Protocol):
    """Where workers can be had: the devices of this machine, or a Ray cluster."""

    @property
    def option(self) -> str: ...

    @property
    def unit(self) -> str: ...

    def check(self, job: Job) -> None:
        """Raise VitError for a job that cannot be done there."""

    def staged_shards(self, job: Job) -> list[Shard]:
        """The shards that go to a store, where they are not joined."""

    def alone(self, job: Job) -> Job:
        """The job for this process alone."""

    def open(self, job: Job, stdin: Path | None) -> AbstractContextManager[Executor]:
        """Yield the workers, which end with the context. `stdin` has the list of paths."""


class Executor(Protocol):
    """Workers in numbered slots, each of which does one shard after another."""

    @property
    def slots(self) -> int: ...

    def count(self, earlier: Mapping[int, Path], outer: int) -> int:
        """How many shards to make of each of `outer`. `earlier` has a file of each division of an
        earlier run, by its number of shards."""

    def start(self, slot: int) -> None:
        """Start a worker. It answers Ready."""

    def do(self, slot: int, shard: Shard, attempt: int) -> None:
        """Have a worker do a shard. It answers Ended, Failed or Lost."""

    def release(self, slot: int) -> None:
        """Let a worker go: there is no shard for it."""

    def poll(self, seconds: float) -> tuple[list[Told], list[tuple[int, Answer]]]:
        """Wait at most so long; return what the workers told, and their answers by slot."""

    def flush(self) -> list[Told]:
        """The last that the workers told."""


@dataclass(slots=True)
class _Part:
    """What is known of a shard. `earlier` counts the images of an earlier run."""

    progress: Progress = field(default_factory=Progress)
    earlier: int | None = None
    ended: Ended | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a shared run has ended: in all, and shard by shard."""

    summary: Summary
    ended: Mapping[Shard, Ended]

    def rows(self) -> tuple[list[Row], Mapping[str, object]]:
        """The rows that no output has, in the order of the inputs, and what they are."""
        [*ended] = self.ended.values()
        rows = sorted((row for one in ended for row in one.rows), key=lambda row: row.ref.index)
        return rows, ended[0].meta


@dataclass(slots=True)
class Coordinator:
    """The shards of a run: those left, those that workers do, and what is known of each."""

    executor: Executor
    shards: Sequence[Shard]
    tolerance: Tolerance  # for all shards together
    reporter: Reporter
    _doing: dict[int, Shard | None] = field(default_factory=dict)  # by slot
    _left: deque[Shard] = field(default_factory=deque)
    _tries: Counter[Shard] = field(default_factory=Counter)
    _parts: dict[Shard, _Part] = field(default_factory=dict)
    _fallen: OutputError | None = None

    def run(self) -> Outcome:
        """Have all shards done. Raise VitError for what ends one of them."""
        started = time.monotonic()
        self._left.extend(self.shards)
        self._parts = {shard: _Part() for shard in self.shards}
        try:
            for slot in range(min(self.executor.slots, len(self.shards))):
                self._start(slot)
            while self._doing:
                told, answers = self.executor.poll(TICK)
                for slot, answer in answers:
                    self._take(slot, answer)
                self._tell(told)
            self._tell(self.executor.flush())
        except Interrupted as interrupted:
            interrupted.after = f"{self._progress().seen:,} images"
            interrupted.can_resume = True
            raise
        if self._fallen is not None:
            raise self._fallen
        progress = self._progress()
        self.tolerance.check(progress, is_last=True)
        ended = {shard: part.ended for shard, part in self._parts.items() if part.ended}
        summary = total([one.summary for one in ended.values()], time.monotonic() - started)
        return Outcome(replace(summary, earlier=progress.earlier), ended)

    def _start(self, slot: int) -> None:
        self._doing[slot] = None
        self.executor.start(slot)

    def _take(self, slot: int, answer: Answer) -> None:
        shard = self._doing.pop(slot)
        match answer:
            case Failed():
                raise answer.error
            case Lost():
                self._replace(slot, shard, answer.why)
                return
            case Ended() if shard is not None:
                part = self._parts[shard]
                part.ended, part.progress = answer, answer.progress
                if part.earlier is None:
                    part.earlier = answer.summary.earlier
        if self._left:
            following = self._left.popleft()
            self._tries[following] += 1
            self._doing[slot] = following
            self.executor.do(slot, following, self._tries[following])
        else:
            self.executor.release(slot)

    def _replace(self, slot: int, shard: Shard | None, why: str) -> None:
        if shard is not None and self._tries[shard] >= TRIES:
            self._fallen = OutputError(
                f"shard {shard} was lost {TRIES} times: {why}",
                f"is there enough memory? {CAN_RESUME}",
            )
            self._left.clear()  # the shards that others do are done to their end
        elif shard is not None:
            self.reporter.note(f"{why}; shard {shard} is resumed by another")
            self._left.appendleft(shard)
        if self._fallen is None:
            self._start(slot)

    def _tell(self, told: Sequence[Told]) -> None:
        for event in told:
            match event:
                case Note():
                    self.reporter.note(event.text)
                case Advanced():
                    part = self._parts[event.shard]
                    if part.earlier is None:
                        part.earlier = event.progress.earlier
                    if part.ended is None:
                        part.progress = event.progress
        progress = self._progress()
        self.reporter.progress(progress)
        self.tolerance.check(progress)

    def _progress(self) -> Progress:
        """The progress of all shards combined, with the first failure of each kind."""
        found = Progress()
        for part in self._parts.values():
            found.done += part.progress.done
            found.failed += part.progress.failed
            found.earlier += part.earlier or 0
            for times, example in part.progress.kinds.values():
                found.count(example, times)
        return found
