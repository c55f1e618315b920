"""A run is stopped by the images that fail, and by no fewer."""

from __future__ import annotations

import pytest

from vitcli.errors import TooManyErrors, UsageError
from vitcli.jobs.tolerance import Tolerance
from vitcli.records import ErrorType, Failure, ImageRef, Progress


def progress(done: int, failed: int) -> Progress:
    found = Progress()
    found.add(done, [Failure(ImageRef(0, "a\nb.jpg"), ErrorType.TIMEOUT, "slow")] * failed)
    return found


@pytest.mark.parametrize(
    ("text", "done", "failed", "stops", "stops_at_the_end"),
    [
        ("0", 10, 0, False, False),
        ("0", 10, 1, True, True),
        ("3", 0, 3, False, False),
        ("3", 1000, 4, True, True),
        ("5%", 95, 5, False, False),
        ("5%", 94, 6, True, True),
        ("5%", 0, 99, False, True),  # too few to tell, until there are no more
        ("5%", 1, 99, True, True),
        ("2.5%", 975, 25, False, False),
        ("2.5%", 974, 26, True, True),
        ("0%", 99, 1, True, True),
        ("100%", 0, 1000, False, False),
    ],
)
def test_the_limit_is_the_last_number_that_is_borne(
    text: str, done: int, failed: int, stops: bool, stops_at_the_end: bool
) -> None:
    def raises(is_last: bool) -> bool:
        try:
            Tolerance.parse(text).check(progress(done, failed), is_last=is_last)
        except TooManyErrors:
            return True
        return False

    assert (raises(False), raises(True)) == (stops, stops_at_the_end)


def test_no_limit_bears_everything() -> None:
    Tolerance().check(progress(0, 10_000), is_last=True)


def test_the_message_has_the_numbers_and_an_example() -> None:
    with pytest.raises(TooManyErrors) as caught:
        Tolerance.parse("1").check(progress(1000, 234))
    expected = r"stopped: 234 of 1,234 images failed, --max-errors 1 (Timeout: a\nb.jpg: slow)"
    assert caught.value.message == expected


@pytest.mark.parametrize("text", ["", "-1", "x", "%", "-1%", "101%", "1.5", "nan%", "5 %%"])
def test_what_is_no_limit_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--max-errors"):
        Tolerance.parse(text)
