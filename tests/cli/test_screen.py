"""What a run says on stderr: its speed apart from its start-up, and its failures as they happen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Vit
from tests.fixtures.digits import make_digits
from vitcli.cli.screen.pace import Pace, Rate
from vitcli.cli.screen.screen import Screen
from vitcli.cli.screen.training import TrainingScreen, epoch_lines
from vitcli.errors import per_second
from vitcli.jobs.job import Summary
from vitcli.records import ErrorType, Failure, ImageRef, Progress
from vitcli.training.events import EpochDone


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def failures(*numbers: int, kind: ErrorType = ErrorType.DECODE_ERROR) -> list[Failure]:
    return [Failure(ImageRef(number, f"{number}.jpg"), kind, "cut off") for number in numbers]


def said(
    clock: Clock, capsys: pytest.CaptureFixture[str], *batches: tuple[float, int], **summary: int
) -> str:
    """The last line of a run that was ready to compute after 1.5 s, of which each batch ended at a
    time."""
    with Screen(clock=clock) as screen:
        progress = Progress()
        progress.add_earlier(summary.get("earlier", 0), 0)
        clock.now = 100.2
        screen.progress(progress)
        clock.now = 101.5
        screen.listing(lambda: None)
        for time, images in batches:
            clock.now = 100 + time
            progress.add(images)
            screen.progress(progress)
        clock.now += 0.5
        screen.summary(Summary(progress.done, 0, 0.0, **summary), None)
    return capsys.readouterr().err.removeprefix("vit: ").removesuffix("\n")


def test_the_speed_is_that_after_the_first_batch(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(clock, capsys, (4.0, 16), (5.0, 16), (8.0, 32))
    assert line == "64 images in 8.5 s (start-up 4.0 s), 12 images/s"  # 48 in 4 s


def test_a_short_run_counts_its_first_batch(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    one = said(clock, capsys, (2.0, 10))
    assert one == "10 images in 2.5 s (start-up 1.5 s), 20 images/s"
    clock.now = 100.0
    two = said(clock, capsys, (2.0, 4), (2.9, 3))  # less than a second behind the first
    assert two == "7 images in 3.4 s (start-up 1.5 s), 5.0 images/s"


def test_a_resumed_run_has_the_speed_of_its_own_images(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(clock, capsys, (3.0, 16), (7.0, 20), earlier=1000)
    assert line == ("1,036 images, 1,000 of them before, in 7.5 s (start-up 3.0 s), 5.0 images/s")
    clock.now = 100.0
    assert said(clock, capsys, earlier=5) == "5 images, 5 of them before, in 2.0 s"


def test_the_speed_is_that_of_what_a_run_counts() -> None:
    clock = Clock()
    pace = Pace(clock)
    clock.now = 103.0
    pace.advance("texts", 0)  # ready
    for now, done in ((104.0, 256), (108.0, 4256), (108.0, 4256)):
        clock.now = now
        pace.advance("texts", done)
    assert pace.rate("texts") == Rate(start_up=4.0, per_second=1000.0)
    assert pace.rate("images") is None
    clock.now = 110.0
    pace.begin("images")
    assert pace.rate("texts") is pace.rate("images") is None
    clock.now = 112.0
    pace.advance("images", 3)
    assert pace.rate("images") == Rate(start_up=10.0, per_second=1.5)
    pace.wait()
    assert pace.rate("images") is None


def test_a_run_whose_workers_start_after_the_listing_has_no_speed_by_one_report(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Screen(clock=clock) as screen:
        screen.listing(lambda: None)
        screen.doing("starting the workers")
        clock.now = 110.0
        progress = Progress()
        progress.add(30)
        screen.progress(progress)
        screen.summary(Summary(30, 0, 0.0), None)
    assert capsys.readouterr().err == "vit: 30 images in 10.0 s\n"


def test_rates_are_short() -> None:
    rates = [per_second(rate, "images") for rate in (0.04, 3.14, 9.94, 13.6, 1240.3)]
    assert rates == [
        "0.0 images/s",
        "3.1 images/s",
        "9.9 images/s",
        "14 images/s",
        "1,240 images/s",
    ]


def told(
    capsys: pytest.CaptureFixture[str], screen: Screen, *batches: list[Failure]
) -> list[list[str]]:
    """The lines after each batch, whose failures these are, and those of the end."""
    lines = []
    with screen:
        progress = Progress()
        for batch in batches:
            progress.add(1, batch)
            screen.progress(progress)
            lines.append(capsys.readouterr().err.splitlines())
        screen.summary(Summary(progress.done, progress.failed, 1.0), None)
    return [*lines, capsys.readouterr().err.splitlines()]


def test_failures_are_named_as_they_happen(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third, last = told(capsys, Screen(clock=clock), failures(1, 2), [], failures(7))
    assert first == ["vit: DecodeError: 1.jpg: cut off", "vit: DecodeError: 2.jpg: cut off"]
    assert (second, third) == ([], ["vit: DecodeError: 7.jpg: cut off"])
    assert last == ["vit: 3 of 6 images done, 3 failed in 0.0 s"]


def test_further_failures_are_counted_and_each_type_has_an_example(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = failures(10, 11, kind=ErrorType.NOT_FOUND)
    late = failures(20, kind=ErrorType.TIMEOUT)
    first, second, third, last = told(
        capsys, Screen(clock=clock), failures(1, 2, 3, 4), [*failures(5, 6), *gone], late
    )
    assert [line.split()[2] for line in first] == ["1.jpg:", "2.jpg:", "3.jpg:", "4.jpg:"]
    assert second == [
        "vit: DecodeError: 5.jpg: cut off",
        "vit: more images failed; they are counted at the end",
    ]
    assert third == []
    assert last == [
        "vit: DecodeError: 1 more",
        "vit: NotFound: 10.jpg: cut off (and 1 more)",
        "vit: Timeout: 20.jpg: cut off",
        "vit: 3 of 12 images done, 9 failed in 0.0 s",
    ]


def test_a_quiet_run_and_one_whose_rows_show_failures_name_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert told(capsys, Screen(quiet=True), failures(*range(9))) == [[], []]
    screen = Screen()
    screen.share_terminal()
    [first, last] = told(capsys, screen, failures(*range(9)))
    assert first == [] and [line.partition(" in ")[0] for line in last] == [
        "vit: 1 of 10 images done, 9 failed"
    ]


# Training


DONE = EpochDone(2, 80, 0.4123, 0.912, 0.3052, 0.9583, 1.0, 0.00125, 31.24, 123.4, True)


def test_epochs_have_named_columns_in_80_characters() -> None:
    names, line = epoch_lines(DONE, 20)
    assert names == "  epoch     loss  accuracy  val loss  val acc       lr  images/s     time"
    assert line == (
        "   2/20   0.4123     91.2%    0.3052   95.83%  1.3e-03      31.2    123 s  best"
    )
    assert len(line) <= 80
    without = replace(DONE, train_accuracy=None, val_loss=None, val_top1=None, seconds=4.2)
    assert epoch_lines(without, 5) == (
        "  epoch     loss       lr  images/s     time",
        "    2/5   0.4123  1.3e-03      31.2    4.2 s",
    )


def test_a_training_names_its_columns_once_and_what_it_leaves_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with TrainingScreen() as screen:
        progress = Progress()
        progress.add(1, failures(4))
        screen.progress(progress)
        screen.left_out(failures(4, 5, 6, 7, 8, 9, 10), Path("run/run.json"))
        for epoch in (1, 2):
            screen.trained(replace(DONE, epoch=epoch), 20)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:5] == [f"vit: DecodeError: {n}.jpg: cut off" for n in (4, 5, 6, 7, 8)]
    assert lines[5] == "vit: 7 images cannot be read and are left out; run/run.json lists them"
    assert [line.split()[0] for line in lines[6:]] == ["epoch", "1/20", "2/20"]


def test_a_training_logs_every_image_that_it_leaves_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with TrainingScreen(log_json=True) as screen:
        screen.left_out(failures(4, 5), Path("run/run.json"))
    logged = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert logged == ["left out: 4.jpg: cut off", "left out: 5.jpg: cut off"]


def test_the_reading_and_the_validation_of_a_training_are_counted(
    vit: Vit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    def steps(self: Screen, what: str, done: int, total: int) -> None:
        told.setdefault(what, []).append((done, total))

    monkeypatch.setattr(TrainingScreen, "steps", steps)
    make_digits(tmp_path / "digits", 20, 40)
    args = ("finetune", "digits", "-m", "demo", "-j", "0", "--epochs", "1", "-o", "run")
    assert vit(*args, "--train", "head").code == 0
    assert told["images hashed"] == [(n, 60) for n in range(1, 61)]
    assert told["validation images"] == [(40, 40)]
    assert vit(*args, "--train", "last-1", "--overwrite").code == 0
    assert told["validation images"][1:] == [(32, 40), (40, 40)]
