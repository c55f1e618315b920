"""Scores are made as the head of the model wants it: a softmax, a sigmoid of each, or no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import Vit
from tests.fixtures.tiny import tiny_hf

MULTI, ONE, NUMBER = "multi", "one", "number"
LABELS = ("cat", "dog", "bird", "fish", "horse", "newt")
CONFIGS: dict[str, dict[str, Any]] = {
    MULTI: {"problem_type": "multi_label_classification", "id2label": dict(enumerate(LABELS))},
    ONE: {"id2label": {0: "defect"}},
    NUMBER: {"problem_type": "regression", "id2label": {0: "age"}},
    "numbers": {"problem_type": "regression", "id2label": {0: "x", 1: "y"}},
}
FUNCTIONS = {MULTI: "sigmoid", ONE: "sigmoid", NUMBER: "none"}

Heads = Callable[[str], Path]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Heads:
    """The folder of a tiny model with such a head."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("heads") / kind
            config = CONFIGS[kind]
            tiny_hf("vit", made[kind], num_hidden_layers=1, label2id=None, **config)
        return made[kind]

    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def predictions(vit: Vit, *args: str | Path) -> list[dict[str, Any]]:
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


def edited(model: Path, to: Path, **values: object) -> Path:
    """A copy of a model with other values in its config."""
    config = json.loads((model / "config.json").read_text()) | values
    to.mkdir(exist_ok=True)
    save_file(load_file(model / "model.safetensors"), to / "model.safetensors", {"format": "pt"})
    (to / "config.json").write_text(json.dumps(config))
    (to / "preprocessor_config.json").write_bytes((model / "preprocessor_config.json").read_bytes())
    return to


def classes(root: Path, *names: str) -> Path:
    """A folder for each class, of two pictures."""
    for number, name in enumerate(names):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        for place in range(2):
            Image.new("RGB", (64, 64), (40 * number, 90 * place, 60)).save(folder / f"{place}.png")
    return root / "data"
