"""The number of images that may fail before a run stops."""

from __future__ import annotations

from dataclasses import dataclass

from vitcli.errors import TooManyErrors, UsageError, printable
from vitcli.records import Failure, Progress

MIN_FOR_SHARE = 100  # images


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The run stops when more than `count` images have failed, or more than `percent` of them.

    The percentage is checked from the hundredth image on, and at the end. `None` means no limit.
    """

    count: int | None = None
    percent: float | None = None

    @classmethod
    def parse(cls, text: str) -> Tolerance:
        """Read `20` or `2.5%`."""
        number = text.strip().removesuffix("%")
        is_share = number != text.strip()
        try:
            limit = cls(percent=float(number)) if is_share else cls(count=int(number))
        except ValueError:
            limit = cls(count=-1)
        if (limit.count or 0) < 0 or not 0 <= (limit.percent or 0) <= 100:
            raise UsageError(
                f"--max-errors {text} is not a number of images",
                "give a number, or a share: 20, 5%",
            )
        return limit

    def check(self, progress: Progress, *, is_last: bool = False) -> None:
        """Raise TooManyErrors if the limit is exceeded. Rows that are written stay."""
        failed, seen = progress.failed, progress.seen
        if self.count is not None and failed > self.count:
            limit = f"--max-errors {self.count:,}" if self.count else "and none is allowed"
        elif (
            self.percent is not None
            and (is_last or seen >= MIN_FOR_SHARE)
            and failed * 100 > self.percent * seen
        ):
            limit = f"--max-errors {self.percent:g}%"
        else:
            return
        raise TooManyErrors(
            f"stopped: {failed:,} of {seen:,} images failed, {limit} ({_example(progress)})",
            "see what is wrong with them, or allow more",
        )


def _example(progress: Progress) -> str:
    """The first failure of the most frequent kind."""
    most: tuple[int, Failure] = max(progress.kinds.values(), key=lambda kind: kind[0])
    return f"{most[1].type}: {printable(most[1].ref.path)}: {most[1].message}"
