"""`vit evaluate` for several labels an image, and for numbers: scikit-learn's numbers, and words
for data that do not fit."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitcli
from tests.conftest import Vit
from tests.fixtures.extras import Lazy
from tests.fixtures.heads import LABELS, MULTI, NUMBER, ONE, Heads, edited

metrics = Lazy("sklearn.metrics", "scikit-learn")
COUNT = 24


@pytest.fixture
def evaluate(vit: Vit) -> Vit:
    """`vit evaluate` without workers."""
    return lambda *args: vit("evaluate", *args, "-j", "0")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of images in the working directory."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(3)
    names = [f"{number:02}.png" for number in range(COUNT)]
    for name in names:
        pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / name)
    return names


def scores_of(model: Path, images: list[str]) -> np.ndarray:
    """The scores (N, K) of a model."""
    rows = vitcli.classify(images, model=str(model), top_k=9, workers=0)
    return np.array(
        [[p.score for p in sorted(row.predictions, key=lambda p: p.index)] for row in rows]
    )


def truth_of(scores: np.ndarray) -> np.ndarray:
    """Labels (N, K) that follow the scores loosely: an image without any, no image of a newt."""
    noise = np.random.default_rng(5).normal(0, scores.std(axis=0), scores.shape)
    truth = scores + noise > np.median(scores, axis=0)
    truth[0] = False
    truth[:, -1] = False
    return truth


def written(form: str, images: list[str], truth: np.ndarray) -> str:
    """A table of the labels in a form that people write."""
    named = [
        [label for label, is_true in zip(LABELS, row, strict=True) if is_true] for row in truth
    ]
    rows: list[list[object]] = [["path", "labels"]]
    file = f"{form}.csv"
    match form:
        case "jsonl":
            lines = [{"path": p, "labels": n} for p, n in zip(images, named, strict=True)]
            Path("t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            return "t.jsonl"
        case "columns":
            rows = [["path", *LABELS]]
            rows += [[p, *map(int, row)] for p, row in zip(images, truth, strict=True)]
        case "brackets":
            rows += [[p, str(n)] for p, n in zip(images, named, strict=True)]
        case _:
            separator = {"semicolons": ";", "commas": ", ", "spaces": " "}[form]
            rows += [[p, separator.join(n).upper()] for p, n in zip(images, named, strict=True)]
    with Path(file).open("w", newline="") as table:
        csv.writer(table).writerows(rows)
    return file


def check_means(found: dict[str, Any], truth: np.ndarray, scores: np.ndarray, at: float) -> None:
    """Compare with scikit-learn, which counts a class without images as 0."""
    answers = scores >= at
    seen, used = truth.any(axis=0), truth.any(axis=0) | answers.any(axis=0)
    expected = {
        "map": metrics.average_precision_score(truth[:, seen], scores[:, seen], average="macro"),
        "map_micro": metrics.average_precision_score(truth, scores, average="micro"),
        "f1_macro": metrics.f1_score(
            truth[:, used], answers[:, used], average="macro", zero_division=0
        ),
        "f1_micro": metrics.f1_score(truth, answers, average="micro"),
        "exact_match": metrics.accuracy_score(truth, answers),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-6)
    for number, row in enumerate(found["classes"]):
        is_true = truth[:, number]
        if is_true.any():
            ap = metrics.average_precision_score(is_true, scores[:, number])
            assert row["ap"] == pytest.approx(ap, abs=2e-6)
        else:
            assert row["ap"] is None
        numbers = metrics.precision_recall_fscore_support(
            is_true, answers[:, number], average="binary", zero_division=0
        )
        ours = [row[name] for name in ("precision", "recall", "f1")]
        assert ours == pytest.approx(numbers[:3], abs=2e-6)


def test_several_labels_have_scikit_learns_numbers(
    evaluate: Vit, heads: Heads, images: list[str], tmp_path: Path
) -> None:
    scores = scores_of(heads(MULTI), images)
    truth, at = truth_of(scores), float(np.median(scores))
    table = written("columns", images, truth)
    done = evaluate(table, "-m", heads(MULTI), "--json", "--threshold", str(at), "-o", "out")
    assert done.code == 0, done.err
    [found] = json.loads(done.out)["models"]
    assert (found["problem"], found["threshold"]) == ("several labels", at)
    check_means(found, truth, scores, at)
    worst = found["most_confidently_wrong"][0]
    off = np.where(truth != (scores >= at), abs(scores - at), 0)
    place, number = np.unravel_index(off.argmax(), off.shape)
    assert (Path(worst["path"]).name, worst["predicted"]) == (images[place], LABELS[number])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Farthest on the wrong side of" in page and "Confusion" not in page
    rows = list(csv.DictReader((tmp_path / "out" / "classes.csv").open()))
    assert [row["label"] for row in rows] == list(LABELS)
    assert not (tmp_path / "out" / "confusion.csv").exists()
    shown = evaluate(table, "-m", heads(MULTI)).out.decode()
    assert shown.startswith("model") and "micro mAP" in shown
    assert "1 of 6 labels have no image: mAP leaves them out" in shown


@pytest.mark.parametrize("form", ["jsonl", "brackets", "semicolons", "commas", "spaces"])
def test_tables_of_several_labels(
    evaluate: Vit, heads: Heads, images: list[str], form: str
) -> None:
    scores = scores_of(heads(MULTI), images[:6])
    truth = truth_of(scores)
    done = evaluate(written(form, images[:6], truth), "-m", heads(MULTI), "--json")
    assert done.code == 0, done.err
    check_means(json.loads(done.out)["models"][0], truth, scores, 0.5)


def test_several_models_and_predictions_have_several_labels(
    vit: Vit, evaluate: Vit, heads: Heads, images: list[str], tmp_path: Path
) -> None:
    """Two models are averaged; a file needs the scores of all labels, and an odd one is named."""
    other = edited(heads(MULTI), tmp_path / "other", scale=0.3)
    both = [scores_of(model, images) for model in (heads(MULTI), other)]
    truth = truth_of(both[0])
    table = written("semicolons", images, truth)
    done = evaluate(table, "-m", heads(MULTI), "-m", other, "--json")
    models = json.loads(done.out)["models"]
    for found, scores in zip(models, [*both, sum(both) / 2], strict=True):
        check_means(found, truth, scores, 0.5)
    for count, code in (("6", 0), ("5", 1)):
        args = ("-m", other, "-j", "0", "-k", count, "-o", f"{count}.jsonl")
        assert vit("classify", *images, *args).code == 0
        done = evaluate(table, "--preds", f"{count}.jsonl", "--json")
        assert done.code == code, done.err
        if code == 0:
            check_means(json.loads(done.out)["models"][0], truth, both[1].round(6), 0.5)
        else:
            assert "5 of 6 labels for" in done.err and "vit classify -k 6" in done.err


def test_a_softmax_has_one_label_an_image(
    evaluate: Vit, heads: Heads, images: list[str], tmp_path: Path
) -> None:
    single = edited(heads(MULTI), tmp_path / "single", problem_type=None)
    Path("t.csv").write_text(f"path,labels\n{images[0]},cat\n{images[1]},\n")
    for more in ((), ("--knn", "1")):
        done = evaluate("t.csv", "-m", single, *more)
        assert done.code == 1 and "has 0 labels, and" in done.err
    done = evaluate("t.csv", "-m", single, "--scores", "sigmoid", "--json")
    assert json.loads(done.out)["models"][0]["problem"] == "several labels"
    Path("t.csv").write_text(f"path,labels\n{images[0]},cat\n{images[1]},newt\n")
    done = evaluate("t.csv", "-m", single, "--json")
    assert json.loads(done.out)["models"][0]["problem"] == "one label"
    done = evaluate("t.csv", "-m", single, "--threshold", "0.3")
    assert done.code == 2 and "here the best label is the answer" in done.err
    Path("t.csv").write_text(f"path,labels\n{images[0]},cat\n{images[0]},dog\n")
    done = evaluate("t.csv", "-m", heads(MULTI))
    assert done.code == 1 and "is dog, in line 2 it is cat" in done.err
    assert "name all labels in one line" in done.err
    Path("t.csv").write_text(f"path,labels\n{images[0]},cat;unicorn\n{images[1]},\n")
    done = evaluate("t.csv", "-m", heads(MULTI))
    assert done.code == 1 and "has no class unicorn" in done.err


def test_numbers_have_scikit_learns_errors(
    vit: Vit, evaluate: Vit, heads: Heads, images: list[str], tmp_path: Path
) -> None:
    """One output and two; predictions on disk have the same."""
    draw = np.random.default_rng(7)
    for kind, names in ((NUMBER, ("age",)), ("numbers", ("x", "y"))):
        answers = scores_of(heads(kind), images)
        truth = (answers + draw.normal(0, 0.5, answers.shape)).round(3)
        lines = [f"{p},{';'.join(map(str, t))}" for p, t in zip(images, truth, strict=True)]
        Path("t.csv").write_text(
            "\n".join([f"path,{'age' if kind == NUMBER else 'labels'}", *lines])
        )
        done = evaluate("t.csv", "-m", heads(kind), "--json", "-o", kind)
        assert done.code == 0, done.err
        [found] = json.loads(done.out)["models"]
        expected = {
            "mae": metrics.mean_absolute_error(truth, answers),
            "rmse": metrics.root_mean_squared_error(truth, answers),
            "r2": metrics.r2_score(truth, answers),
        }
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert [output["label"] for output in found["outputs"]] == list(names)
        farthest = images[int(abs(answers - truth).sum(axis=1).argmax())]
        assert Path(found["largest_errors"][0]["path"]).name == farthest
        assert "Largest errors" in (tmp_path / kind / "report.html").read_text()
        shown = evaluate("t.csv", "-m", heads(kind)).out.decode()
        assert "RMSE" in shown and "largest errors" in shown
        if kind == NUMBER:
            args = ("-m", heads(kind), "-j", "0", "-o", "p.jsonl")
            assert vit("classify", *images, *args).code == 0
            done = evaluate("t.csv", "--preds", "p.jsonl", "--json")
            [saved] = json.loads(done.out)["models"]
            assert saved["mae"] == pytest.approx(found["mae"], abs=2e-6)


def test_what_is_no_number_is_refused(evaluate: Vit, heads: Heads, images: list[str]) -> None:
    for label, told in (("old", "is old, and"), ("nan", "is nan, and")):
        Path("t.csv").write_text(f"path,label\n{images[0]},{label}\n{images[1]},3.5\n")
        done = evaluate("t.csv", "-m", heads(NUMBER))
        assert done.code == 1 and told in done.err and "a number as the label" in done.err
    Path("t.csv").write_text(f"path,label\n{images[0]},1\n{images[1]},3.5\n")
    done = evaluate("t.csv", "-m", heads("numbers"))
    assert done.code == 1 and "is 1, and" in done.err and "with 2 numbers" in done.err
    done = evaluate("t.csv", "-m", heads(NUMBER), "--threshold", "0.5")
    assert done.code == 2 and "--threshold is for labels" in done.err


def test_zero_and_one_are_the_classes_of_a_single_output(
    vit: Vit, evaluate: Vit, heads: Heads, images: list[str]
) -> None:
    """From the model, and from its predictions on disk, which hold the one label alone."""
    scores = scores_of(heads(ONE), images)[:, 0]
    truth = np.random.default_rng(1).random(COUNT) < 0.5
    lines = [f"{p},{int(t)}" for p, t in zip(images, truth, strict=True)]
    Path("t.csv").write_text("\n".join(["path,defect", *lines]))
    args = ("-m", heads(ONE), "-j", "0", "-o", "p.jsonl")
    assert vit("classify", *images, *args).code == 0
    for source in (("-m", heads(ONE)), ("--preds", "p.jsonl")):
        done = evaluate("t.csv", *source, "--json")
        assert done.code == 0, done.err
        [found] = json.loads(done.out)["models"]
        assert found["top1"] == pytest.approx(((scores >= 0.5) == truth).mean(), abs=1e-6)
        assert found["ece"] is not None
