"""How many images the network takes at once, where the run is to find that out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vitcli.pipeline import Forward
from vitcli.records import Batch, Row

FIRST, MOST = 16, 1024
GAIN = 1.05  # of images a second: less is not worth the memory


class GrowingBatch:
    """A batch size that doubles as long as more images a second come of it, then stays the best.

    Of each size the first batch warms up and the second is timed; the network alone counts, not
    the images that it waits for.
    """

    def __init__(self, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self.size = FIRST
        self._note = note
        self._clock = clock
        self._best = (0.0, FIRST)  # images a second, at which size
        self._is_warm = self._is_settled = False

    def __call__(self) -> int:
        """The size of the next batch."""
        return self.size

    def timed(self, forward: Forward) -> Forward:
        """The same function from a batch to its rows, from which the size learns."""

        def observed(batch: Batch) -> Sequence[Row]:
            before = self._clock()
            rows = forward(batch)
            self._observe(len(batch.refs), self._clock() - before)
            return rows

        return observed

    def _observe(self, images: int, seconds: float) -> None:
        if self._is_settled or images <= self.size // 2:  # of an earlier size, or most have failed
            return
        if not self._is_warm:
            self._is_warm = True
            return
        rate, (best, size) = images / max(seconds, 1e-9), self._best
        if rate >= GAIN * best:
            best, size = self._best = rate, self.size
            if self.size < MOST:
                self.size, self._is_warm = 2 * self.size, False
                return
        self.size, self._is_settled = size, True
        self._note(f"--batch-size auto: {size} images at a time")
