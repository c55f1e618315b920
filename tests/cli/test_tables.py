"""The tables on a terminal: paths are whole where they fit, and the width is used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len

from vitcli.cli.screen.columns import folded, shares
from vitcli.cli.screen.facts import lines_of
from vitcli.cli.screen.table import QueryTable, TableSink
from vitcli.cli.screen.twins import print_twins
from vitcli.records import Classified, ErrorType, Failure, ImageRef, Prediction, Row
from vitcli.tasks.evaluate.job import name_bytes

DEEP = "photos/2024 summer holidays/Corsica/day-03/"
WHALE = "grey whale, gray whale, devilfish, Eschrichtius gibbosus"


def row(path: str, *labels: str) -> Classified:
    predictions = (Prediction(label, i, 0.5 / (i + 1)) for i, label in enumerate(labels))
    return Classified(ImageRef(0, path), tuple(predictions))


def failure(path: str) -> Failure:
    return Failure(ImageRef(0, path), ErrorType.DECODE_ERROR, "truncated image (2 bytes are left)")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Set the width of the terminal, print rows, and return the lines without trailing spaces."""

    def lines(width: int, *batches: list[Row]) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        sink = TableSink()
        for batch in batches:
            sink.write(batch)
        found = capsys.readouterr().out.splitlines()
        assert max(map(cell_len, found)) <= width
        return [line.rstrip() for line in found]

    return lines


def test_short_rows_are_narrow_and_have_bars(printed: Any) -> None:
    expected = [
        "image                 score                label",
        "a.jpg                0.5000  ██████        cat",
        "                     0.2500  ███           dog",
        "a/much/longer/b.jpg  0.5000  ██████        cat",
    ]
    assert printed(80, [row("a.jpg", "cat", "dog"), row("a/much/longer/b.jpg", "cat")]) == expected
    assert printed(200, [row("a.jpg", "cat", "dog"), row("a/much/longer/b.jpg", "cat")]) == expected


def test_a_wide_terminal_shows_long_paths_and_labels_whole(printed: Any) -> None:
    assert printed(140, [row(f"{DEEP}a.jpg", WHALE, "dog")]) == [
        f"{'image':<48}   score                label",
        f"{DEEP}a.jpg  0.5000  ██████        {WHALE}",
        f"{'':<48}  0.2500  ███           dog",
    ]
    assert printed(120, [row(f"{DEEP}a.jpg", WHALE, "dog")]) == [
        f"{'image':<48}   score  label",  # without bars
        f"{DEEP}a.jpg  0.5000  {WHALE}",
        f"{'':<48}  0.2500  dog",
    ]


def test_a_narrow_terminal_folds_and_leaves_nothing_out(printed: Any) -> None:
    assert printed(80, [row(f"{DEEP}a.jpg", WHALE, "dog"), row("b.jpg", "cat")]) == [
        "image                                 score  label",
        "photos/2024 summer holidays/         0.5000  grey whale, gray whale, devilfish,",
        "Corsica/day-03/a.jpg                         Eschrichtius gibbosus",
        "                                     0.2500  dog",
        "b.jpg                                0.5000  cat",
    ]
    assert printed(50, [row(f"{DEEP}a.jpg", "cat", "dog")]) == [
        "image                                 score  label",
        "photos/2024 summer holidays/         0.5000  cat",
        "Corsica/day-03/a.jpg                 0.2500  dog",
    ]
    for line in printed(12, [row(f"{DEEP}a.jpg", WHALE)]):
        assert cell_len(line) <= 12


def test_later_batches_widen_the_columns(printed: Any) -> None:
    assert printed(80, [row("a.jpg", "cat")], [row("folder/b.jpg", "cat")], [row("c", "cat")]) == [
        "image   score                label",
        "a.jpg  0.5000  ██████        cat",
        "folder/b.jpg  0.5000  ██████        cat",
        "c             0.5000  ██████        cat",
    ]


def test_a_message_is_folded_and_labels_keep_their_room(printed: Any) -> None:
    assert printed(60, [failure("a.jpg"), row("b.jpg", "cat"), row("c.jpg")]) == [
        "image   score                label",
        "a.jpg                        DecodeError: truncated image",
        "                             (2 bytes are left)",
        "b.jpg  0.5000  ██████        cat",
        "c.jpg                        (below the threshold)",
    ]


def test_a_search_has_the_query_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    found = [{"path": f"{DEEP}{name}.jpg", "score": 0.5} for name in "ab"]
    begun: list[int] = []
    table = QueryTable(lambda: begun.append(1))
    table([{"query": "a red car", "results": found}, {"query": "x", "results": []}])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "query       score  found",
        "a red car  0.5000  photos/2024 summer holidays/Corsica/",
        "                   day-03/a.jpg",
        "           0.5000  photos/2024 summer holidays/Corsica/",
        "                   day-03/b.jpg",
        "x                  (nothing reaches the threshold)",
    ]
    assert begun == [1]


@pytest.mark.parametrize("width", [60, 100])
def test_twins_fold_their_paths(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    kept: Any = SimpleNamespace(group=1, path=f"{DEEP}a.jpg", keep=True, why="largest")
    other: Any = SimpleNamespace(path="b.jpg", keep=False, why="smaller", kind="near", score=0.98)
    print_twins([[kept, other]])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == (
        [
            "group  kind   score  image                     why",
            "    1                photos/2024 summer        kept: largest",
            "                     holidays/Corsica/day-03/",
            "                     a.jpg",
            "       near  0.9800  b.jpg                     smaller",
        ]
        if width == 60
        else [
            f"group  kind   score  {'image':<48}  why",
            f"    1                {DEEP}a.jpg  kept: largest",
            f"       near  0.9800  {'b.jpg':<48}  smaller",
        ]
    )


def test_texts_are_folded_after_separators() -> None:
    assert folded("a/bc/def.jpg", 20) == ["a/bc/def.jpg"]
    assert folded("photos/one_two_three.jpg", 14) == ["photos/one_", "two_three.jpg"]
    assert folded("photos/holiday/one_two.jpg", 16) == ["photos/holiday/", "one_two.jpg"]
    assert folded("x" * 10, 4) == ["xxxx", "xxxx", "xx"]
    assert folded("鳥鳥鳥.png", 4) == ["鳥鳥", "鳥.", "png"]  # each two wide
    assert "".join(folded(f"{DEEP}{WHALE}", 7)) == f"{DEEP}{WHALE}"


def test_a_width_is_divided_by_need() -> None:
    assert shares(60, 10, 20) == (10, 50)
    assert shares(60, 80, 20) == (40, 20)
    assert shares(60, 20, 80) == (20, 40)
    assert shares(60, 80, 80) == (30, 30)
    assert shares(2, 9, 9) == (4, 4)


def test_names_of_classes_get_what_a_terminal_leaves() -> None:
    assert [name_bytes(room, 37) for room in (None, 80, 140, 30)] == [60, 43, 103, 12]


def test_the_facts_of_a_model_use_the_width() -> None:
    text = "a, b and c " * 9
    assert [max(map(len, lines_of("note", text, width))) for width in (60, 80, 120)] == [
        60,
        79,
        112,
    ]
