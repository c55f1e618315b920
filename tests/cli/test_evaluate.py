"""`vit evaluate`: every number against scikit-learn's, and the words for data that are odd."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import vitcli
from tests.conftest import Vit
from tests.fixtures.digits import make_digits
from tests.fixtures.extras import Lazy
from vitcli.training.metrics import Answers, calibration_error, confusion, reliability

# scikit-learn comes with the extra map
metrics = Lazy("sklearn.metrics", "scikit-learn")
neighbors = Lazy("sklearn.neighbors", "scikit-learn")
DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("digits"), train=200, val=120)


@pytest.fixture
def evaluate(vit: Vit) -> Vit:
    """`vit evaluate` without workers."""
    return lambda *args: vit("evaluate", *args, "-j", "0")


def test_the_numbers_are_scikit_learns(vit: Vit, digits: Path, tmp_path: Path) -> None:
    done = vit("evaluate", digits, "-m", "demo", "--json", "-o", "out")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    rows = vitcli.classify([str(digits / "val")], model="demo", top_k=10, workers=0)
    truth = [int(Path(row.ref.path).parent.name) for row in rows]
    probs = np.array(
        [[p.score for p in sorted(r.predictions, key=lambda p: p.index)] for r in rows]
    )
    answers = probs.argmax(axis=1)
    [model] = found["models"]
    assert found["images"] == 120
    assert model["top1"] == pytest.approx((answers == truth).mean(), abs=1e-6)
    assert model["top5"] == pytest.approx(metrics.top_k_accuracy_score(truth, probs, k=5), abs=1e-6)
    assert model["mean_class_accuracy"] == pytest.approx(
        metrics.balanced_accuracy_score(truth, answers), abs=1e-6
    )
    assert model["confusion"]["counts"] == metrics.confusion_matrix(truth, answers).tolist()
    expected = np.array(metrics.precision_recall_fscore_support(truth, answers)).T
    ours = [[c[k] for k in ("precision", "recall", "f1", "images")] for c in model["classes"]]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert (
        (tmp_path / "out" / "confusion.csv")
        .read_text()
        .splitlines()[0]
        .endswith("0,1,2,3,4,5,6,7,8,9")
    )
    assert Image.open(tmp_path / "out" / "confusion.png").size[0] > 340
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page and "://" not in page
    assert "Slowest to read" in page and found["slowest"][0]["path"] in page
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert saved["models"] == found["models"]


def test_the_calibration_error_by_hand() -> None:
    """Four answers at 0.95, three right; two at 0.55, one right."""
    scores = np.array([[0.95]] * 4 + [[0.55]] * 2)
    answers = Answers(
        np.array([[0], [0], [0], [1], [1], [0]]), scores, np.array([0, 0, 0, 0, 1, 1])
    )
    expected = 4 / 6 * abs(0.95 - 0.75) + 2 / 6 * abs(0.55 - 0.5)
    assert calibration_error(reliability(answers, 10)) == pytest.approx(expected)
    assert confusion(answers, ("a", "b")).pairs(2) == [("a", "b", 1), ("b", "a", 1)]


def test_several_models_are_judged_alone_and_together(
    evaluate: Vit, digits: Path, tmp_path: Path
) -> None:
    """The ensemble is the mean of probabilities: of the demo, and of one that has lost a part."""
    demo = Path(vitcli.__file__).parent / "demo"
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "worse").mkdir(exist_ok=True)
        shutil.copy(demo / name, tmp_path / "worse" / name)
    tensors = load_file(demo / "model.safetensors")
    tensors["classifier.weight"][:, 20:] = 0
    save_file(tensors, tmp_path / "worse" / "model.safetensors")
    found = json.loads(evaluate(digits, "-m", "demo", "-m", "worse", "--json").out)
    models = ["demo", str(tmp_path / "worse")]
    files = [str(digits / "val")]
    rows = [vitcli.classify(files, model=model, top_k=10, workers=0) for model in models]
    probs = [
        np.array([[p.score for p in sorted(r.predictions, key=lambda p: p.index)] for r in of])
        for of in rows
    ]
    truth = [int(Path(row.ref.path).parent.name) for row in rows[0]]
    assert [m["model"] for m in found["models"]] == ["demo", "worse", "all, averaged"]
    for model, scores in zip(found["models"], [*probs, sum(probs) / 2], strict=True):
        answers = scores.argmax(axis=1)
        expected = metrics.confusion_matrix(truth, answers, labels=np.union1d(truth, answers))
        assert model["confusion"]["counts"] == expected.tolist()
        wrong = np.flatnonzero(answers != truth)
        surest = wrong[np.argsort(-scores[wrong].max(axis=1), kind="stable")][:24]
        told = model["most_confidently_wrong"]
        assert [t["path"] for t in told] == [rows[0][place].ref.path for place in surest]
        assert [t["score"] for t in told] == pytest.approx(scores[surest].max(axis=1), abs=2e-6)
        filled = [b for b in model["reliability"] if b["images"]]
        assert sum(b["images"] for b in filled) == 120
        share = sum(b["accuracy"] * b["images"] for b in filled) / 120
        assert share == pytest.approx(model["top1"], abs=1e-5)
    assert found["models"][0]["confusion"] != found["models"][1]["confusion"]
    slowest = [row["seconds"] for row in found["slowest"]]
    assert len(slowest) == 10 and slowest == sorted(slowest, reverse=True)


def test_a_backbone_is_judged_by_its_neighbours_alone(
    evaluate: Vit, digits: Path, tiny_model: Callable[[str], Path]
) -> None:
    backbone = tiny_model("dinov2")
    done = evaluate(digits, "-m", backbone)
    assert done.code == 1 and "is a backbone without a classifier" in done.err
    assert "--knn 20" in done.err
    assert evaluate(digits, "-m", backbone, "--knn", "3", "--json").code == 0
    done = evaluate(digits, "--preds", "no.jsonl", "--knn", "3")
    assert done.code == 2 and "--preds has no embeddings" in done.err
    done = evaluate(digits, "--preds", "no.jsonl")
    assert done.code == 1 and "no such file: no.jsonl (--preds)\n" in done.err


def test_predictions_on_disk_score_as_the_model_does(vit: Vit, evaluate: Vit, digits: Path) -> None:
    (digits / "val" / "3" / "broken.png").write_text("no image")
    try:
        vit("classify", digits / "val", "-m", "demo", "-o", "preds.jsonl", "-j", "0")
        done = evaluate(digits, "--preds", "preds.jsonl", "--json")
        direct = evaluate(digits, "-m", "demo", "--json")
    finally:
        (digits / "val" / "3" / "broken.png").unlink()
    assert (done.code, direct.code) == (3, 3)
    saved, run = json.loads(done.out), json.loads(direct.out)
    assert saved["failures"] == run["failures"]
    [saved_model], [model] = saved["models"], run["models"]
    for name in ("top1", "top5", "confusion", "classes"):
        assert saved_model[name] == model[name]


@pytest.mark.parametrize(
    "fields",
    [
        {"error": {"type": "strange", "message": "?"}},
        {"error": "?"},
        {"predictions": [{"label": "3", "score": 0.5}]},
        {"predictions": [{"label": "3", "index": -1, "score": 0.5}]},
        {"predictions": [{"label": "3", "index": 10**12, "score": 0.5}]},
        {"predictions": [{"label": "3", "index": 3, "score": 10**400}]},
        {"embedding": [0.5]},
    ],
)
def test_predictions_of_something_else_are_refused(
    evaluate: Vit, digits: Path, tmp_path: Path, fields: dict[str, object]
) -> None:
    good = {"path": "a", "predictions": [{"label": "3", "index": 3, "score": 0.5}]}
    lines = [json.dumps(row) for row in (good, {"path": "b"} | fields)]
    (tmp_path / "odd.jsonl").write_text("\n".join(lines))
    done = evaluate(digits, "--preds", "odd.jsonl")
    assert done.code == 1 and "odd.jsonl, line 2 is not a row of vit classify" in done.err
    (tmp_path / "odd.jsonl").write_text("[" * 100_000)
    done = evaluate(digits, "--preds", "odd.jsonl")
    assert done.code == 1 and "odd.jsonl, line 1 is not a row of vit classify" in done.err


def test_one_image_has_no_neighbours(evaluate: Vit, tmp_path: Path) -> None:
    (tmp_path / "one" / "a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "one" / "a" / "1.png")
    done = evaluate("one", "-m", "demo", "--knn", "3")
    assert done.code == 1 and "one image has no neighbours" in done.err


def test_neighbours_vote_as_scikit_learns(evaluate: Vit, digits: Path) -> None:
    found = json.loads(evaluate(digits, "-m", "demo", "--knn", "7", "--json").out)
    known = vitcli.embed([str(digits / "train")], model="demo", l2=True, workers=0)
    asked = vitcli.embed([str(digits / "val")], model="demo", l2=True, workers=0)
    judge = neighbors.KNeighborsClassifier(
        7, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / 0.07)
    )
    judge.fit(known.embeddings, [Path(p).parent.name for p in known.paths])
    truth = [Path(p).parent.name for p in asked.paths]
    answers = judge.predict(asked.embeddings)
    [model] = found["models"]
    assert (
        model["confusion"]["counts"]
        == metrics.confusion_matrix(truth, answers, labels=DIGITS).tolist()
    )


def test_without_train_each_image_asks_all_the_others(evaluate: Vit, digits: Path) -> None:
    found = json.loads(evaluate(digits / "val", "-m", "demo", "--knn", "1", "--json").out)
    vectors = vitcli.embed([str(digits / "val")], model="demo", l2=True, workers=0)
    truth = np.array([Path(p).parent.name for p in vectors.paths])
    near = vectors.embeddings @ vectors.embeddings.T
    np.fill_diagonal(near, -1)
    expected = (truth[near.argmax(axis=1)] == truth).mean()
    assert found["models"][0]["top1"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_table_of_paths_and_labels(
    evaluate: Vit, digits: Path, tmp_path: Path, suffix: str
) -> None:
    files = sorted((digits / "val").rglob("*.png"))[:12]
    rows = [(str(file.relative_to(digits)), file.parent.name) for file in files]
    between = {"csv": ",", "tsv": "\t"}.get(suffix, "")
    lines = [between.join(row) for row in [("path", "label"), *rows]]
    if suffix == "jsonl":
        lines = [json.dumps({"path": path, "label": label}) for path, label in rows]
    (digits / f"table.{suffix}").write_text("\n".join(lines) + "\n")
    done = evaluate(digits / f"table.{suffix}", "-m", "demo", "--json")
    assert json.loads(done.out)["images"] == 12, done.err


def test_an_archive_is_judged_as_its_folder(
    vit: Vit, evaluate: Vit, digits: Path, tmp_path: Path
) -> None:
    """A zip of class folders, and a tar whose labels lie beside the images, one of them broken;
    also by neighbours, and by predictions that were made of the archive."""
    files = sorted((digits / "val").rglob("*.png"))
    broken = digits / "val" / "3" / "broken.png"
    with (
        zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped,
        tarfile.open(tmp_path / "x.tar", "w") as tar,
    ):
        for number, file in enumerate([*files, broken]):
            data = b"no image" if file == broken else file.read_bytes()
            zipped.writestr(str(file.relative_to(digits)), data)
            label = file.parent.name.encode()
            for name, content in ((f"{number:04}.png", data), (f"{number:04}.cls", label)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    for more in ((), ("--knn", "5")):
        of_files = evaluate(digits / "val", "-m", "demo", "--json", *more)
        [expected] = json.loads(of_files.out)["models"]
        for archive in ("x.zip", "x.tar"):
            done = evaluate(archive, "-m", "demo", "--json", *more)
            assert done.code == 3, done.err
            [found] = json.loads(done.out)["models"]
            for name in ("top1", "top5", "confusion", "classes"):
                assert found[name] == expected[name]
    pages = [
        evaluate(data, "-m", "demo", "--out", str(number)).code
        for number, data in enumerate((digits / "val", "x.zip"))
    ]
    assert pages == [0, 3]
    shown = [(tmp_path / name / "report.html").read_text().count("data:image/") for name in "01"]
    assert shown[0] == shown[1] > 0  # its worst mistakes
    vit("classify", "x.tar", "-m", "demo", "-o", "preds.jsonl", "-j", "0")
    saved = evaluate("x.tar", "--preds", "preds.jsonl", "--json")
    assert (
        json.loads(saved.out)["models"][0]["top1"]
        == json.loads(evaluate("x.tar", "-m", "demo", "--json").out)["models"][0]["top1"]
    )


def test_classes_that_the_model_does_not_have_are_named(evaluate: Vit, tmp_path: Path) -> None:
    for name in ("0", "sevn"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "data" / name / "a.png")
    done = evaluate("data", "-m", "demo")
    assert done.code == 1 and "demo has no class sevn" in done.err
    done = evaluate("data/0", "-m", "demo")
    assert done.code == 1 and "no folders of classes" in done.err
    done = evaluate("nowhere", "-m", "demo")
    assert done.code == 1 and "no such folder" in done.err


def test_images_that_a_model_was_trained_on_are_told(
    vit: Vit, evaluate: Vit, tmp_path: Path
) -> None:
    """By their places, whatever way leads there; those that were held out are fair."""
    digits = make_digits(tmp_path / "digits", train=40, val=10)
    args = ("--train", "head", "--epochs", "1", "-j", "0")
    assert vit("finetune", digits, "-m", "demo", "--out", "run", *args).code == 0
    (tmp_path / "way").symlink_to(digits)
    for data in (digits / "train", "way/train"):
        done = evaluate(data, "-m", "run")
        assert done.code == 0, done.err
        count = len(list((digits / "train").rglob("*.png")))
        assert f"{count} of {count} images are among those that run was trained on" in done.err
    for data in (digits, digits / "val"):
        assert "trained on" not in evaluate(data, "-m", "run").err
    assert "trained on" not in evaluate(digits / "train", "-m", "demo").err


def test_names_and_labels_without_end_are_told(evaluate: Vit, digits: Path, tmp_path: Path) -> None:
    image = next(digits.rglob("*.png"))
    (tmp_path / "t.csv").write_text(f"{image.name},{'1' * 5000}\n")
    shutil.copy(image, tmp_path)
    long = evaluate(digits, "-m", "x" * 5000)
    assert long.code == 1 and len(long.err) < 4000
    odd = evaluate("t.csv", "-m", "demo")
    assert odd.code == 1 and "demo has no class 111" in odd.err and len(odd.err) < 4000
