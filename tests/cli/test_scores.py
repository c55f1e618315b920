"""Scores are made as the head of the model wants it: a softmax, a sigmoid of each, or no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from PIL import Image

from tests.conftest import Vit
from tests.fixtures.extras import Lazy, needs
from tests.fixtures.heads import CONFIGS, LABELS, MULTI, NUMBER, ONE, Heads, edited

pq = Lazy("pyarrow.parquet", "parquet")
FUNCTIONS = {MULTI: "sigmoid", ONE: "sigmoid", NUMBER: "none"}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def predictions(vit: Vit, *args: str | Path) -> list[dict[str, Any]]:
    """The predictions of a picture, all of them."""
    ended = vit("classify", *args, "-j", "0", "-k", "9")
    assert ended.code == 0, ended.err
    found: list[dict[str, Any]] = json.loads(ended.out)["predictions"]
    return found


def told(vit: Vit, model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vit("info", model, "--json").out)
    return found


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_head_scores_as_in_transformers_pipeline(
    vit: Vit, heads: Heads, picture: Path, kind: str
) -> None:
    pipeline = transformers.pipeline("image-classification", model=str(heads(kind)))
    expected = pipeline(str(picture), top_k=9)
    found = predictions(vit, picture, "-m", heads(kind))
    assert [p["label"] for p in found] == [p["label"] for p in expected]
    assert [p["score"] for p in found] == pytest.approx([p["score"] for p in expected], abs=2e-6)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid", "logit"])
def test_a_function_that_the_user_wants_is_that_of_the_pipeline(
    vit: Vit, heads: Heads, picture: Path, scores: str
) -> None:
    wanted = {"logit": "none"}.get(scores, scores)
    for kind in (MULTI, ONE, NUMBER):
        pipeline = transformers.pipeline("image-classification", model=str(heads(kind)))
        expected = pipeline(str(picture), top_k=9, function_to_apply=wanted)
        found = predictions(vit, picture, "-m", heads(kind), "--scores", scores)
        assert [p["label"] for p in found] == [p["label"] for p in expected]
        assert [p["score"] for p in found] == pytest.approx(
            [p["score"] for p in expected], abs=2e-6
        )


def test_a_cosine_is_for_classes_in_words(vit: Vit, heads: Heads, picture: Path) -> None:
    ended = vit("classify", picture, "-m", heads(MULTI), "--scores", "cosine", "-j", "0")
    assert ended.code == 2
    assert "cosine is for classes in words, and this model has a trained" in ended.err


def test_one_function_averages_different_heads(
    vit: Vit, heads: Heads, picture: Path, tmp_path: Path
) -> None:
    """So do two regressions, whose numbers are averaged."""
    other = edited(heads(MULTI), tmp_path / "single", scale=0.5, problem_type=None)
    number = edited(heads(NUMBER), tmp_path / "number", scale=0.5)
    for first, second, scores in ((MULTI, other, "sigmoid"), (NUMBER, number, "prob")):
        models = (heads(first), second)
        alone = [
            {p["label"]: p["score"] for p in predictions(vit, picture, "-m", m, "--scores", scores)}
            for m in models
        ]
        both = predictions(vit, picture, "-m", models[0], "-m", models[1], "--scores", scores)
        for p in both:
            mean = sum(of[p["label"]] for of in alone) / 2
            assert p["score"] == pytest.approx(mean, abs=2e-6)
        assert alone[0] != alone[1]


@needs("parquet")
def test_a_threshold_takes_any_number_of_labels(
    vit: Vit, heads: Heads, picture: Path, tmp_path: Path
) -> None:
    """More than the five best, or none; a top-k limits them. A softmax keeps its five."""
    every = predictions(vit, picture, "-m", heads(MULTI))
    low, high = str(every[-1]["score"] - 0.01), str(every[0]["score"] + 0.01)

    def count(*args: str) -> int:
        ended = vit("classify", picture, "-m", heads(MULTI), "-j", "0", *args)
        assert ended.code == 0, ended.err
        return len(json.loads(ended.out)["predictions"])

    assert [count(), count("--threshold", low), count("--threshold", high)] == [5, 6, 0]
    assert count("--threshold", low, "-k", "2") == 2
    assert count("--threshold", "0.001", "--scores", "softmax") == 5
    for suffix in ("csv", "parquet"):
        args = ("-m", heads(MULTI), "-j", "0", "--threshold", high, "-o", f"t.{suffix}")
        assert vit("classify", picture, *args).code == 0
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == f"{picture},,,,,"
    [row] = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert row["predictions"] == []
    args = ("-m", heads(MULTI), "-j", "0", "--threshold", high, "--format", "table")
    assert "(below the threshold)" in vit("classify", picture, *args).out.decode()


def test_bars_are_for_shares_of_one(vit: Vit, heads: Heads, picture: Path, tmp_path: Path) -> None:
    """Neither the table nor the page draws a number as a share; a large number keeps its line."""
    large = edited(heads(NUMBER), tmp_path / "large", scale=1e7)
    for model, has_bars in ((heads(MULTI), True), (heads(NUMBER), False), (large, False)):
        args = ("classify", picture, "-m", model, "-j", "0")
        table = vit(*args, "--format", "table", env={"COLUMNS": "200"}).out.decode()
        assert ("█" in table or "▏" in table) == has_bars
        score = f"{predictions(vit, picture, '-m', model)[0]['score']:.4f}"
        assert score in table
        assert vit(*args, "--html", "p.html", "--overwrite").code == 0
        settings = (tmp_path / "p.html").read_text()
        assert f'"bars":{json.dumps(has_bars)}' in settings


def test_logits_are_logits_whatever_the_head(vit: Vit, heads: Heads, picture: Path) -> None:
    network = transformers.AutoModelForImageClassification.from_pretrained(heads(MULTI))
    processor = transformers.AutoImageProcessor.from_pretrained(heads(MULTI))
    logits = network(**processor(Image.open(picture), return_tensors="pt")).logits[0]
    found = predictions(vit, picture, "-m", heads(MULTI), "--scores", "logit")
    assert {p["index"]: p["score"] for p in found} == pytest.approx(
        dict(enumerate(logits.tolist())), abs=2e-5
    )


def test_info_tells_how_scores_are_made(vit: Vit, heads: Heads) -> None:
    for kind, function in FUNCTIONS.items():
        found = told(vit, heads(kind))
        assert (found["scores"], found["problem_type"]) == (
            function,
            CONFIGS[kind].get("problem_type"),
        )
    text = vit("info", heads(MULTI)).out.decode()
    assert "scores        sigmoid of each label alone, by config.json: problem_type" in text
    assert told(vit, Path("demo"))["scores"] == "softmax"


@pytest.mark.parametrize("to", ["hf", "timm"])
def test_a_converted_head_scores_as_before(
    vit: Vit, heads: Heads, picture: Path, tmp_path: Path, to: str
) -> None:
    for kind in FUNCTIONS:
        out = tmp_path / kind
        ended = vit("convert", heads(kind), out, "--to", to)
        assert ended.code == 0, ended.err
        assert ("does not know how this head makes scores" in ended.out.decode()) == (to == "timm")
        assert told(vit, out)["problem_type"] == CONFIGS[kind].get("problem_type")
        before, after = (predictions(vit, picture, "-m", m) for m in (heads(kind), out))
        assert [p["label"] for p in after] == [p["label"] for p in before]
        assert [p["score"] for p in after] == pytest.approx([p["score"] for p in before], abs=1e-4)


def test_a_problem_type_that_nobody_knows_is_refused(
    vit: Vit, heads: Heads, picture: Path, tmp_path: Path
) -> None:
    model = edited(heads(ONE), tmp_path / "odd", problem_type="multi_lable")
    ended = vit("classify", picture, "-m", model, "-j", "0")
    assert ended.code == 1
    assert "config.json: problem_type is 'multi_lable'" in ended.err


def test_models_whose_scores_differ_are_not_averaged(
    vit: Vit, heads: Heads, picture: Path, tmp_path: Path
) -> None:
    other = edited(heads(MULTI), tmp_path / "single", problem_type=None)
    for command in (("classify", picture), ("evaluate", classes(tmp_path, "cat", "dog"))):
        ended = vit(*command, "-m", heads(MULTI), "-m", other, "-j", "0")
        assert ended.code == 1
        assert "compute scores differently: softmax over the labels, and sigmoid" in ended.err


def test_a_page_and_a_panel_show_the_sigmoid(
    vit: Vit, heads: Heads, picture: Path, tmp_path: Path
) -> None:
    expected = {p["label"]: p["score"] for p in predictions(vit, picture, "-m", heads(MULTI))}
    args = ("attention", picture, "-m", heads(MULTI), "-j", "0", "--method", "grad")
    ended = vit(*args, "--class", "bird", "--html", "page.html", "--out", "maps")
    assert ended.code == 0, ended.err
    row = json.loads((tmp_path / "maps" / "attention.jsonl").read_text())
    assert row["class"]["score"] == pytest.approx(expected["bird"], abs=2e-6)
    assert {p["label"]: p["score"] for p in row["predictions"]} == pytest.approx(
        {p["label"]: expected[p["label"]] for p in row["predictions"]}, abs=2e-6
    )


def test_a_changed_problem_type_is_another_run(
    vit: Vit, heads: Heads, picture: Path, tmp_path: Path
) -> None:
    model = edited(heads(MULTI), tmp_path / "model")
    args = ("classify", picture, "-m", model, "-j", "0", "-o", "rows.jsonl")
    assert vit(*args).code == 0
    edited(heads(MULTI), model, problem_type=None)
    ended = vit(*args, "--resume")
    assert ended.code == 1
    assert "was made with" in ended.err


def test_evaluate_takes_the_best_label_of_a_multi_label_head(
    vit: Vit, heads: Heads, tmp_path: Path
) -> None:
    data = classes(tmp_path, "cat", "dog")
    ended = vit("evaluate", data, "-m", heads(MULTI), "-j", "0", "--json", "--out", "e")
    assert ended.code == 0, ended.err
    [found] = json.loads(ended.out)["models"]
    assert found["ece"] is None and found["reliability"] == []
    assert 0 <= found["top1"] <= 1
    assert "scores each label independently" in ended.err
    assert "Confidence and accuracy" not in (tmp_path / "e" / "report.html").read_text()


def test_evaluate_judges_a_single_output_at_one_half(
    vit: Vit, heads: Heads, tmp_path: Path
) -> None:
    data = classes(tmp_path, "Defect", "ok")
    score = predictions(vit, data / "ok" / "0.png", "-m", heads(ONE))[0]["score"]
    ended = vit("evaluate", data, "-m", heads(ONE), "-j", "0", "--json")
    assert ended.code == 0, ended.err
    [found] = json.loads(ended.out)["models"]
    assert found["confusion"]["labels"] == ["defect", "ok"]
    right = {c["label"]: c["recall"] for c in found["classes"]}
    assert right == {"defect": float(score >= 0.5), "ok": float(score < 0.5)}
    ended = vit("evaluate", classes(tmp_path / "3", "a", "b", "c"), "-m", heads(ONE), "-j", "0")
    assert ended.code == 1
    assert "tells defect from everything else" in ended.err
    ended = vit("evaluate", data, "-m", heads(NUMBER), "-j", "0")
    assert ended.code == 1
    assert "answers with a number (regression)" in ended.err


def test_predictions_that_are_no_probabilities_have_no_calibration(
    vit: Vit, heads: Heads, tmp_path: Path
) -> None:
    data = classes(tmp_path, "cat", "dog")
    assert vit("classify", data, "-m", heads(MULTI), "-j", "0", "-o", "p.jsonl").code == 0
    ended = vit("evaluate", data, "--preds", "p.jsonl", "--json")
    assert json.loads(ended.out)["models"][0]["ece"] is None
    row = {"path": "x", "predictions": [{"label": "cat", "index": 0, "score": float("nan")}]}
    (tmp_path / "nan.jsonl").write_text(json.dumps(row) + "\n")
    assert "is not a row of vit classify" in vit("evaluate", data, "--preds", "nan.jsonl").err


@pytest.mark.parametrize("names", [("cat", "dog"), LABELS])
def test_a_head_trained_on_classes_is_a_softmax(
    vit: Vit, heads: Heads, tmp_path: Path, names: tuple[str, ...]
) -> None:
    data = classes(tmp_path, *names)
    ended = vit(
        *("finetune", data, "-m", heads(MULTI), "--out", "run", "--epochs", "1", "-j", "0"),
        *("--train", "head", "-q"),
    )
    assert ended.code == 0, ended.err
    assert "problem_type" not in json.loads((tmp_path / "run" / "config.json").read_text())
    assert told(vit, tmp_path / "run")["scores"] == "softmax"


def classes(root: Path, *names: str) -> Path:
    """A folder for each class, of two pictures."""
    for number, name in enumerate(names):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        for place in range(2):
            Image.new("RGB", (64, 64), (40 * number, 90 * place, 60)).save(folder / f"{place}.png")
    return root / "data"
