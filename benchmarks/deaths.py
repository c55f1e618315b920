"""A run in 10,000 shards whose workers die at random: is anything lost, and what do retries cost?

    python benchmarks/deaths.py [--shards 10000] [--images 10000] [--workers 400] [--seed 0]

Time is simulated, the rules are those of the program: a worker takes the next shard when it has
done one; rows are written down batch by batch; a worker that dies loses the batch in its hands and
is started anew; whoever takes its shard up lists the inputs and goes on after the last batch. A row
is counted each time it is written and each time it is computed. For comparison, the same deaths
where a shard that was interrupted begins again, as it does without a journal.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import deque
from dataclasses import dataclass, field

BATCH = 16


@dataclass
class Work:
    """What the run is made of, in images, seconds and images a second."""

    shards: int
    images: int  # in a shard
    rate: float  # of a worker
    workers: int
    start: float  # a process and its model
    listing: float  # of all inputs, for each shard that is begun or taken up
    lifetime: float | None  # of a worker, in the mean
    keeps: bool  # what was done of a shard before its worker died
    seed: int


@dataclass
class Ended:
    """How it went."""

    seconds: float = 0.0
    busy: float = 0.0
    deaths: int = 0
    computed: int = 0
    taken_up: int = 0
    written: list[int] = field(default_factory=list)  # rows of each shard


def run(work: Work) -> Ended:
    """Every worker from one event to the next, in the order of time."""
    dice = random.Random(work.seed)
    ended = Ended(written=[0] * work.shards)
    left = deque(range(work.shards))

    def life(now: float) -> float:
        return now + dice.expovariate(1 / work.lifetime) if work.lifetime else float("inf")

    # (when it is free, which worker, when it dies)
    free = [(work.start, number, life(0.0)) for number in range(work.workers)]
    heapq.heapify(free)
    interrupted: list[tuple[float, int]] = []  # (when it is seen, shard)
    while left or interrupted:
        now, number, death = heapq.heappop(free)
        while interrupted and interrupted[0][0] <= now:
            left.appendleft(heapq.heappop(interrupted)[1])
        if not left:
            heapq.heappush(free, (interrupted[0][0], number, death))
            continue
        if death <= now:  # between two shards, or while it started
            ended.deaths += 1
            heapq.heappush(free, (now + work.start, number, life(now)))
            continue
        shard = left.popleft()
        todo = work.images - ended.written[shard]
        end = now + work.listing + todo / work.rate
        if end <= death:
            ended.written[shard] += todo
            ended.computed += todo
            ended.busy += end - now
            ended.seconds = max(ended.seconds, end)
            heapq.heappush(free, (end, number, death))
            continue
        ended.deaths += 1
        ended.taken_up += 1
        ended.busy += death - now + work.start
        begun = max(0, int((death - now - work.listing) * work.rate))
        whole = begun // BATCH * BATCH
        ended.computed += min(todo, whole + BATCH if begun else 0)
        ended.written[shard] += whole if work.keeps else 0
        heapq.heappush(interrupted, (death, shard))
        heapq.heappush(free, (death + work.start, number, life(death)))
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=10_000, help="in a shard")
    parser.add_argument("--rate", type=float, default=50.0, help="images a second of a worker")
    parser.add_argument("--workers", type=int, default=400)
    parser.add_argument("--start", type=float, default=3.5, help="seconds, model included")
    parser.add_argument("--listing", type=float, default=0.1, help="seconds for each shard")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    def simulated(lifetime: float | None, keeps: bool) -> Ended:
        return run(
            Work(
                shards=asked.shards,
                images=asked.images,
                rate=asked.rate,
                workers=asked.workers,
                start=asked.start,
                listing=asked.listing,
                lifetime=lifetime,
                keeps=keeps,
                seed=asked.seed,
            )
        )

    calm = simulated(None, keeps=True)
    heads = ("a worker lives", "deaths", "shards resumed", "rows lost", "computed twice", "time")
    print(f"| {' | '.join(heads)} | time, without resuming |\n|{'---|' * 7}")
    for name, hours in (
        ("for ever", None),
        ("24 h", 24.0),
        ("6 h", 6.0),
        ("1 h", 1.0),
        ("10 min", 1 / 6),
    ):
        lifetime = hours and hours * 3600
        ended, anew = simulated(lifetime, keeps=True), simulated(lifetime, keeps=False)
        rows = asked.shards * asked.images
        lost = rows - sum(ended.written)
        assert all(written == asked.images for written in ended.written + anew.written)
        print(
            f"| {name} | {ended.deaths:,} | {ended.taken_up:,} | {lost} "
            f"| {(ended.computed - rows) / rows:.4%} | {ended.seconds / calm.seconds - 1:+.2%} "
            f"| {anew.seconds / calm.seconds - 1:+.2%} |"
        )


if __name__ == "__main__":
    main()
