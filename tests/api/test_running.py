"""How calls run: rows one after the other, images that fail, progress."""

from __future__ import annotations

import gc
import itertools
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitcli
from tests.fixtures.photos import Corpus, photo
from vitcli.errors import ImageFailed, InputError, ModelNotFound, UsageError, VitError
from vitcli.records import Classified, Embedded, Failure

Models = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tiny_model: Models) -> Any:
    return vitcli.load(str(tiny_model("vit")))


@pytest.fixture
def mixed(photos: Corpus) -> list[Any]:
    """Good and bad images, in files and in memory; the second and the fourth fail."""
    return [photos.good[0], next(iter(photos.bad)), np.asarray(photo("x")), None, photo("y")]


def decoders() -> list[Any]:
    return [child for child in multiprocessing.active_children() if child.name == "vit-decode"]


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 2, "batch_size": 2}])
def test_the_rows_come_one_after_the_other_as_in_a_list(
    mixed: list[Any], model: Any, options: Any
) -> None:
    found = list(vitcli.classify_iter(mixed, model=model, top_k=2, **options))
    assert found == vitcli.classify(mixed, model=model, top_k=2, **options)
    assert [type(row) for row in found] == [Classified, Failure, Classified, Failure, Classified]
    vectors = list(vitcli.embed_iter(mixed, model=model, pool="mean", l2=True, **options))
    together = vitcli.embed(mixed, model=model, pool="mean", l2=True, **options)
    good = [row for row in vectors if isinstance(row, Embedded)]
    assert np.array_equal([row.embedding for row in good], together.embeddings)
    assert tuple(row.ref.path for row in good) == together.paths
    assert tuple(row for row in vectors if isinstance(row, Failure)) == together.failures


def test_an_image_is_taken_when_its_row_is_asked_for(model: Any) -> None:
    taken: list[int] = []

    def endless() -> Iterator[Image.Image]:
        for number in itertools.count():
            taken.append(number)
            yield photo(str(number % 3), 16, 16)

    rows = vitcli.classify_iter(endless(), model=model, batch_size=1, workers=0)
    assert taken == []
    for count in range(1, 6):
        assert next(rows).ref.path == f"image {count - 1}"
        assert len(taken) == count
    rows.close()
    assert len(taken) == 5


def test_what_is_read_ahead_has_a_limit(model: Any) -> None:
    source = iter(itertools.count())
    images = (photo(str(number % 3), 16, 16) for number in source)
    rows = vitcli.embed_iter(images, model=model, batch_size=3, workers=2)
    assert len(list(itertools.islice(rows, 7))) == 7
    rows.close()
    assert next(source) <= 9 + 2 * 3 + 2


def test_closing_the_generator_ends_the_workers(photos: Corpus, model: Any) -> None:
    rows = vitcli.classify_iter(itertools.cycle(photos.good[:3]), model=model, workers=2)
    next(rows)
    assert decoders()
    rows.close()
    assert not decoders()
    with pytest.raises(StopIteration):
        next(rows)
    [*_] = itertools.islice(vitcli.embed_iter(photos.good[:9], model=model, workers=1), 2)
    gc.collect()
    assert not decoders()


def test_a_failed_image_ends_the_workers(mixed: list[Any], model: Any) -> None:
    rows = vitcli.classify_iter(mixed, model=model, workers=1, batch_size=1, on_error="raise")
    assert next(rows).ref.path == str(mixed[0])
    with pytest.raises(ImageFailed) as raised:
        next(rows)
    assert not decoders()
    assert (raised.value.path, raised.value.type) == (str(mixed[1]), "DecodeError")


def test_mistakes_are_found_before_the_first_row(tmp_path: Path, model: Any) -> None:
    for iterate in (vitcli.classify_iter, vitcli.embed_iter):
        with pytest.raises(InputError, match="no images in"):
            iterate(tmp_path, model=model)
        with pytest.raises(UsageError, match="workers"):
            iterate([], model=model, workers=-1)
        rows = iterate(["a.jpg"], model=str(tmp_path / "none.safetensors"))
        with pytest.raises(ModelNotFound):
            next(rows)
    with pytest.raises(UsageError, match="--top-k 0"):
        vitcli.classify_iter([], model=model, top_k=0)


def test_images_that_fail_have_a_row_or_none(mixed: list[Any], model: Any) -> None:
    calls: list[Callable[..., list[Any]]] = [
        vitcli.classify,
        vitcli.attention,
        lambda *args, **options: list(vitcli.classify_iter(*args, **options)),
        lambda *args, **options: list(vitcli.embed_iter(*args, **options)),
    ]
    for call in calls:
        by_default = call(mixed, model=model, workers=0)
        kept = call(mixed, model=model, workers=0, on_error="row")
        assert [row.ref.path for row in kept] == [row.ref.path for row in by_default]
        skipped = call(mixed, model=model, workers=0, on_error="skip")
        assert [row.ref.index for row in skipped] == [0, 2, 4]
        assert not any(isinstance(row, Failure) for row in skipped)
        for wrong in ("ignore", None):
            with pytest.raises(UsageError, match=r"^on_error .* is not known\n  choose from row, "):
                call(mixed, model=model, workers=0, on_error=wrong)
    assert len(vitcli.embed(mixed, model=model, workers=0).failures) == 2
    found = vitcli.embed(mixed, model=model, workers=0, on_error="skip")
    assert (len(found.embeddings), len(found.paths), found.failures) == (3, 3, ())


def test_the_error_of_a_failed_image_names_it_and_the_reason(model: Any) -> None:
    calls: list[Callable[..., Any]] = [
        vitcli.classify,
        vitcli.embed,
        vitcli.attention,
        lambda *args, **options: list(vitcli.embed_iter(*args, **options)),
    ]
    for call in calls:
        with pytest.raises(ImageFailed) as raised:
            call([photo("x"), np.zeros((2, 2))], model=model, workers=0, on_error="raise")
        assert isinstance(raised.value, VitError)
        assert str(raised.value) == (
            "image 1: NotAnImage: array of float64, (2, 2): values are uint8, from 0 to 255\n"
            "  on_error='row' keeps its place, on_error='skip' leaves it out"
        )


def test_nothing_is_printed_without_a_terminal(
    mixed: list[Any], model: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    for progress in (False, True):
        vitcli.classify(mixed, model=model, workers=0, progress=progress)
        list(vitcli.embed_iter(mixed, model=model, workers=0, progress=progress))
    assert capfd.readouterr() == ("", "")


def test_the_bar_is_drawn_on_stderr_alone(
    mixed: list[Any],
    model: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    vitcli.classify(mixed, model=model, workers=0)
    assert capfd.readouterr() == ("", "")
    counts = []
    for call in (vitcli.classify, vitcli.embed, vitcli.attention, vitcli.classify_iter):
        found = call(mixed, model=model, workers=0, progress=True)
        [*_] = getattr(found, "paths", found)
        out, err = capfd.readouterr()
        assert out == ""
        counts.append("images" in err and "2 failed" in err)
    assert counts == [True] * 4


def test_notes_go_to_the_log(
    tmp_path: Path, tiny_model: Models, caplog: pytest.LogCaptureFixture
) -> None:
    photo("x").save(tmp_path / "a.png")
    (tmp_path / "b.svg").touch()
    with caplog.at_level(logging.INFO, "vitcli"):
        vitcli.classify(tmp_path, model=str(tiny_model("vit")), workers=0)
    [note] = [text for text in caplog.messages if "svg" in text]
    assert note.startswith("1 image")
