"""How a call from Python runs: the options of the model, the progress, and images that fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, TypedDict, TypeVar, get_args

from vitcli.engines import DtypeName, EngineName, MergeTokens, Quantize
from vitcli.errors import ImageFailed, VitError, printable
from vitcli.jobs.choices import check_choice
from vitcli.jobs.job import NullReporter
from vitcli.records import Failure, Progress, Row
from vitcli.sinks.memory import ListSink

if TYPE_CHECKING:  # imports rich, which only progress=True needs
    from vitcli.bar import Bar

OnError: TypeAlias = Literal["row", "skip", "raise"]
"""What becomes of an image that fails: a row with the reason, nothing, or an ImageFailed."""
R = TypeVar("R")
LOG = logging.getLogger("vitcli")


class RunningOptions(TypedDict, total=False):
    """Options of running a model. By default one worker process for each processor decodes, at most
    8; with workers=0 this process does. merge_tokens=N merges the N most similar pairs of patches
    in each block, "auto" the number that leaves 65 % of the multiply-adds: less work, near results.
    `attention` runs on engine="torch" only, and merges none."""

    device: str  # "auto"
    dtype: DtypeName  # "fp32"
    engine: EngineName  # "torch"
    quantize: Quantize | None
    merge_tokens: MergeTokens  # 0
    compile: bool
    batch_size: int | Literal["auto"]  # 16
    workers: int | None


class Watch(NullReporter):
    """Shows the progress of a call as a bar on stderr, if that is wanted and stderr is a terminal
    or a notebook. Notes go to the logger `vitcli`, and are kept."""

    def __init__(self, *, progress: bool) -> None:
        self._wants_bar = progress
        self._bar: Bar | None = None
        self._count: Callable[[], int | None] | None = None
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes so far, each once."""
        return tuple(self._notes)

    def __enter__(self) -> Self:
        if self._wants_bar:
            from vitcli.bar import Bar, console

            out = console(stderr=True)
            if out.is_terminal or out.is_jupyter:
                self._bar = Bar("loading the model")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def note(self, text: str) -> None:
        if text not in self._notes:
            self._notes[text] = None
            LOG.info("%s", printable(text))

    def listing(self, count: Callable[[], int | None]) -> None:
        if self._bar is not None:
            self._count = count
            self._bar.tell("reading the first images")

    def progress(self, progress: Progress) -> None:
        if self._bar is not None:
            self._bar.show(progress)
        if self._count is not None:  # after the first batch, so that it does not wait
            threading.Thread(target=self._expect, args=(self._count,), daemon=True).start()
            self._count = None

    def doing(self, what: str) -> None:
        if self._bar is not None:
            self._bar.tell(what)

    def steps(self, what: str, done: int, total: int) -> None:
        if self._bar is not None and total:
            self._bar.count(what, done, total)

    def _expect(self, count: Callable[[], int | None]) -> None:
        with suppress(VitError):  # the run itself raises it
            images, bar = count(), self._bar
            if bar is not None:
                bar.expect(images)


def check_on_error(on_error: OnError) -> OnError:
    """Return the value, or raise UsageError for one that is not known."""
    check_choice("on_error", on_error, get_args(OnError))
    return on_error


def handled(rows: Iterable[R | Failure], on_error: OnError) -> Iterator[R | Failure]:
    """Yield rows, failures as `on_error` says. Raises ImageFailed."""
    for row in rows:
        if not isinstance(row, Failure) or on_error == "row":
            yield row
        elif on_error == "raise":
            raise ImageFailed(row.ref.path, row.type.value, row.message)


class RowSink(ListSink):
    """Keeps the rows of a call; failures as `on_error` says. Raises ImageFailed."""

    def __init__(self, on_error: OnError) -> None:
        super().__init__()
        self._on_error = check_on_error(on_error)

    def write(self, rows: Sequence[Row]) -> None:
        super().write(list(handled(rows, self._on_error)))


def streamed(
    rows: Generator[R | Failure, None, None], watch: Watch, on_error: OnError
) -> Generator[R | Failure, None, None]:
    """Yield rows while the bar of their progress is shown. Closing the generator ends the run."""
    with watch, closing(rows):
        yield from handled(rows, on_error)
