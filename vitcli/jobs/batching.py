"""The batch size that a run finds by itself: `--batch-size auto`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vitcli.pipeline import Forward
from vitcli.records import Batch, Row

FIRST_SIZE, MAX_SIZE = 16, 1024
MIN_GAIN = 1.05  # in images a second: less is not worth the memory


class GrowingBatch:
    """A batch size that doubles as long as that is faster, and then stays at the fastest.

    The first batch of each size is a warm-up, and the second is timed. Only the time of the network
    counts, not the wait for images.
    """

    def __init__(self, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self.size = FIRST_SIZE
        self._note = note
        self._clock = clock
        self._best = (0.0, FIRST_SIZE)  # images a second, and the size
        self._is_warm = self._is_settled = False

    def __call__(self) -> int:
        """Return the size of the next batch."""
        return self.size

    @property
    def is_settled(self) -> bool:
        return self._is_settled

    def timed(self, forward: Forward) -> Forward:
        """Return a `forward` that measures its time, which decides the next size."""

        def observed(batch: Batch) -> Sequence[Row]:
            before = self._clock()
            rows = forward(batch)
            self._observe(len(batch.refs), self._clock() - before)
            return rows

        return observed

    def _observe(self, images: int, seconds: float) -> None:
        is_small = images <= self.size // 2  # it had an earlier size, or most images failed
        if self._is_settled or is_small:
            return
        if not self._is_warm:
            self._is_warm = True
            return
        rate, (best, size) = images / max(seconds, 1e-9), self._best
        if rate >= MIN_GAIN * best:
            best, size = self._best = rate, self.size
            if self.size < MAX_SIZE:
                self.size, self._is_warm = 2 * self.size, False
                return
        self.size, self._is_settled = size, True
        self._note(f"--batch-size auto: {size} images at a time")
