"""An expression becomes a function of a row, or an error that points at its place."""

from __future__ import annotations

import pickle

import pytest

from vitcli.errors import UsageError
from vitcli.records import Classified, Failure, ImageRef, Prediction, Progress, Row
from vitcli.sinks.memory import ListSink
from vitcli.sinks.select import SelectSink
from vitcli.tasks.classify.classify import _selected
from vitcli.tasks.classify.select import parse

ROW = Classified(
    ImageRef(0, "in/two words.jpg"),
    (Prediction("tabby, tabby cat", 281, 0.7), Prediction("Siamese cat", 284, 0.2)),
)
LABELS = ("tabby, tabby cat", "Siamese cat", "it's a \\ dog")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('label == "tabby, tabby cat"', True),
        ("label == 'Siamese cat'", False),
        ('label != "Siamese cat"', True),
        ('"tabby, tabby cat" == label', True),
        ("score >= 0.7", True),
        ("score > .7", False),
        ("score<7e-1 or index==281", True),
        ("index == 281 and score < 0.5", False),
        ("0.6 < score <= 0.7", True),
        ("0.7 < score <= 0.8", False),
        ("score > -1", True),
        ('label in ("tabby, tabby cat", "x")', True),
        ('label not in ("tabby, tabby cat", "x",)', False),
        ("index in (1, 281)", True),
        ('"cat" in label', True),
        ('"Cat" in label', False),
        ('"cat" not in label', False),
        ('label ~ "TABBY*"', True),
        ('label ~ "tabby"', False),
        ('path ~ "in/*words.JPG"', True),
        ('not label ~ "*cat"', False),
        ("not (score < 0.5) and not index == 1", True),
        ("score < 0.1 and score < 0.2 or index == 281", True),  # and binds tighter than or
        ("score < 0.1 and (score < 0.2 or index == 281)", False),
        ("not score < 0.1 and index == 281", True),  # and not tighter than both
        ('any(label == "Siamese cat")', True),
        ('any(label == "Siamese cat" and score > 0.5)', False),
        ('any(label == "Siamese cat" and rank <= 2)', True),
        ('any(label == "Siamese cat" and rank < 2)', False),
        ('any(label == "Siamese cat") and label ~ "tabby*"', True),
        ('any(rank == 2 and label ~ "*auk*") or any(label ~ "tabby*")', True),
        (r'label == "it\'s a \\ dog"', False),
    ],
)
def test_an_expression_is_true_or_false_of_a_row(text: str, expected: bool) -> None:
    assert parse(text).takes(ROW) is expected


def test_escapes_in_a_text() -> None:
    row = Classified(ImageRef(0, "x"), (Prediction(LABELS[2], 0, 1.0),))
    assert parse(r"label == 'it\'s a \\ dog'").takes(row)
    assert parse(r'''label == "it's a \\ dog"''').takes(row)


@pytest.mark.parametrize(
    ("text", "caret", "reason"),
    [
        ('label = "cat"', 6, "write =="),
        ('label == "a" && score > 1', 13, "write and"),
        ('label == "a" || score > 1', 13, "write or"),
        ("!(score > 1)", 0, "write not"),
        ('label == "cat', 9, "not closed"),
        ('name == "cat"', 0, "label, score, index, rank, path"),
        ("score > high", 8, 'a text is written in quotes, "high"'),
        ("labl == 'cat'", 0, "labl is not known: did you mean label?"),
        ("score >=", 8, "a value is expected here"),
        ("", 0, "a value is expected here"),
        ("label", 5, "a comparison is missing"),
        ("label == 3", 6, "a text cannot be compared"),
        ("score in 0.3", 6, "a list in brackets"),
        ('label in ("a", 3)', 16, "only texts or only numbers"),
        ("label ~ path", 6, "a pattern in quotes"),
        ("(score > 1", 10, ") is missing"),
        ("score > 1)", 9, "the end, and / or is expected"),
        ('score > 1 label == "a"', 10, "the end, and / or is expected"),
        ("rank <= 3", 0, "rank is known only inside any"),
        ("any score > 1", 4, "( is missing"),
        ("score > 1 @", 10, "not understood"),
        ("__import__('os')", 0, "__import__ is not one of label, score, index, rank, path: "),
        ("score.real > 1", 5, "not understood"),
        ("value == 3", 0, "value is not one of label, score, index, rank, path: "),
        ("(label) == 'x'", 6, "a comparison is missing"),
        ("(score > 1) == 3", 12, "the end, and / or is expected"),
        ("label in ('a', ('b'))", 15, "a value is expected here"),
        ("score == not index", 9, "a value is expected here"),
        ('label == "a", score > 1', 12, "the end, and / or is expected"),
        ("score > 1 \0", 10, "not understood"),
    ],
)
def test_a_mistake_is_pointed_at(text: str, caret: int, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert reason in caught.value.message
    assert (caught.value.hint, caught.value.caret) == (text, caret)


def test_it_goes_to_another_process() -> None:
    selection = pickle.loads(pickle.dumps(parse('label in ("Siamese cat") or 1e999 > score')))
    assert selection.takes(ROW)
    assert selection.labels[0][0] == "Siamese cat"


def test_no_expression_is_too_long_and_some_are_too_deep() -> None:
    assert parse(" or ".join(["index == 281"] * 10_000)).takes(ROW)
    with pytest.raises(UsageError, match="nested too deeply"):
        parse("(" * 10_000)


@pytest.mark.parametrize(
    "text",
    ['label == "cat"', 'label != "cat"', 'any(label in ("Siamese cat", "x"))', 'label ~ "*lion*"'],
)
def test_a_label_that_the_model_does_not_have_is_a_mistake(text: str) -> None:
    with pytest.raises(UsageError, match=r"--select: the model has no label '(cat|x|[*]lion[*])'"):
        parse(text).check_labels(LABELS)


def test_the_mistake_names_the_labels_that_are_close() -> None:
    with pytest.raises(UsageError) as caught:
        parse('label == "cat"').check_labels(LABELS)
    assert "'tabby, tabby cat', 'Siamese cat'" in str(caught.value.hint)
    parse('label ~ "*CAT*" and "dog" in label and path == "no label"').check_labels(LABELS)


def test_without_predictions_there_is_no_label_and_no_score() -> None:
    row = Classified(ImageRef(0, "x.jpg"), ())
    assert not parse("score >= 0").takes(row)
    assert not parse("any(score >= 0 or score < 0)").takes(row)
    assert parse('label == ""').takes(row)
    assert parse('path == "x.jpg"').takes(row)


def test_failures_pass_and_the_selected_are_counted() -> None:
    from vitcli.records import ErrorType

    failure = Failure(ImageRef(1, "bad.jpg"), ErrorType.DECODE_ERROR, "bad")
    other = Classified(ImageRef(2, "x.jpg"), (Prediction("Siamese cat", 284, 0.9),))
    rows: list[Row] = [ROW, failure, other]
    inner = ListSink()
    progress = Progress()
    sink = SelectSink(inner, _selected(parse("score > 0.8")), progress)
    sink.write(rows)
    assert (inner.rows, progress.selected) == ([failure, other], 1)


@pytest.mark.parametrize(
    ("text", "said", "place"),
    [
        ("any(" * 8 + "score > 2" + ")" * 8, "inside any", 4),
        ("any(not (any(rank > 2)))", "inside any", 9),
        ("(" * 90_000 + "score > 1", "nested too deeply", 100),
        ("not " * 20_000 + "score > 1", "nested too deeply", 400),
    ],
)
def test_an_expression_that_would_take_for_ever_is_refused(
    text: str, said: str, place: int
) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        parse(text)
    hint, caret = raised.value.hint, raised.value.caret
    assert hint is not None and caret is not None
    assert hint[caret : caret + 5] == text[place : place + 5]
