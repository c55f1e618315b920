"""Images labelled with classes in words: the numbers of transformers' zero-shot pipeline."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import pipeline

import vitcli
from tests.conftest import Vit
from tests.fixtures.cpu import needs_int8
from tests.fixtures.extras import needs
from tests.fixtures.two_towers import three_images, two_towers
from vitcli.checkpoints.text.vectors import class_vectors
from vitcli.records import Classified

PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("words.md", "embed.md")]
GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("cat", "dog", "red car")


@pytest.fixture(scope="session")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("towers")
    names = ("clip", "mt5", "siglip2")
    for name in names:
        two_towers(name, folder / name)
    return {name: folder / name for name in names}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(three_images()):
        image.save(folder / f"{number}.png")
    return folder


def rows_of(ended: object) -> list[dict[str, float]]:
    lines = ended.out.decode().splitlines()  # type: ignore[attr-defined]
    return [{p["label"]: p["score"] for p in json.loads(line)["predictions"]} for line in lines]


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_scores_are_those_of_the_zero_shot_pipeline(
    name: str, towers: dict[str, Path], images: Path, vit: Vit
) -> None:
    folder = towers[name]
    ended = vit(
        "classify", images, "-m", folder, "--classes", ", ".join(NAMES), "--text-clean", "hf"
    )
    assert ended.code == 0, ended.err
    assert ("softmax" if name == "clip" else "sigmoid") in ended.err
    asked = pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    for file, row in zip(sorted(images.iterdir()), rows_of(ended), strict=True):
        answers = asked(
            Image.open(file), candidate_labels=list(NAMES), hypothesis_template="a photo of a {}."
        )
        theirs = {a["label"]: a["score"] for a in answers}
        assert row == pytest.approx(theirs, abs=2e-5)


def test_siglip_with_sentencepiece_gives_the_numbers_of_transformers(
    images: Path, tmp_path: Path
) -> None:
    """The stored numbers are those of SiglipTokenizer, which needs the package sentencepiece."""
    two_towers("siglip", tmp_path / "siglip")
    known = json.loads((GOLDEN / "siglip.json").read_text("utf-8"))
    model = vitcli.load(str(tmp_path / "siglip"))
    rows = vitcli.classify(
        images, model=model, classes=known["classes"], text_clean="hf", workers=0
    )
    for row, expected in zip(rows, known["scores"], strict=True):
        assert isinstance(row, Classified)
        scores = {p.label: p.score for p in row.predictions}
        named = dict(zip(known["classes"], expected, strict=True))
        assert scores == pytest.approx({name: named[name] for name in scores}, abs=1e-5)
    found = vitcli.embed(texts=known["texts"], model=model, text_clean="hf").embeddings
    assert np.abs(found - known["vectors"]).max() < 1e-5 * np.abs(found).max()


def test_texts_of_a_class_are_averaged_as_unit_vectors(
    towers: dict[str, Path], images: Path, vit: Vit, tmp_path: Path
) -> None:
    folder = towers["clip"]
    listed = tmp_path / "things.txt"
    listed.write_text("cat: cat, tabby\ndog\n", "utf-8")
    args = ("classify", images, "-m", folder, "--classes-file", listed)
    ended = vit(*args, "--template", "a photo of a {}.", "--template", "my {}", "--scores", "logit")
    assert ended.code == 0, ended.err
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    classes = []
    with torch.inference_mode():
        for phrases in (("cat", "tabby"), ("dog",)):
            texts = [t.format(p) for p in phrases for t in ("a photo of a {}.", "my {}")]
            vectors = model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt"))
            vectors = getattr(vectors, "pooler_output", vectors)
            unit = torch.nn.functional.normalize(vectors, dim=-1).mean(dim=0)
            classes.append(unit / unit.norm())
        for file, row in zip(sorted(images.iterdir()), rows_of(ended), strict=True):
            pixels = processor(Image.open(file), return_tensors="pt")
            image = model.get_image_features(**pixels)
            image = torch.nn.functional.normalize(getattr(image, "pooler_output", image), dim=-1)
            logits = model.logit_scale.exp() * (image @ torch.stack(classes).T)[0]
            assert row == pytest.approx(
                {"cat": logits[0].item(), "dog": logits[1].item()}, abs=1e-4
            )


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(("--engine", "onnx"), marks=needs("onnx")),
        pytest.param(("--quantize", "int8"), marks=needs_int8),
        ("--dtype", "bf16"),
    ],
)
def test_engines_and_dtypes_have_the_same_head(
    extra: tuple[str, ...], towers: dict[str, Path], images: Path, vit: Vit
) -> None:
    args = ("classify", images, "-m", towers["clip"], "--classes", ", ".join(NAMES))
    plain, other = rows_of(vit(*args)), rows_of(vit(*args, *extra))
    for ours, theirs in zip(plain, other, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5 if "onnx" in extra else 0.1)


def test_the_second_run_reads_no_text_tower(
    towers: dict[str, Path], images: Path, vit: Vit, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("classify", images, "-m", towers["siglip2"], "--classes", "cat, dog")
    first = vit(*args)

    def refuse(*_: object) -> None:
        raise AssertionError("the text tower runs again")

    monkeypatch.setattr("vitcli.checkpoints.text.vectors.TextEncoder.__call__", refuse)
    monkeypatch.setattr("vitcli.checkpoints.text.tower.TextSource.read", refuse)
    second = vit(*args)
    assert (first.code, second.code, first.out) == (0, 0, second.out)


def test_a_run_that_was_done_before_needs_no_tokens_and_tells_the_same(
    towers: dict[str, Path], images: Path, vit: Vit, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("classify", images, "-m", towers["clip"], "--classes", f"heron, {'long ' * 40}")
    first = vit(*words)
    assert first.code == 0 and "1 text is cut" in first.err
    monkeypatch.setattr("vitcli.jobs.word_head.read_tokenizer_of", None)
    again = vit(*words)
    assert (again.code, again.out) == (0, first.out)
    assert "1 text is cut" in again.err
    monkeypatch.undo()
    assert vit(*words, "--text-clean", "none").code == 0


def test_python_takes_classes(towers: dict[str, Path], images: Path, vit: Vit) -> None:
    rows = vitcli.classify(images, model=str(towers["clip"]), classes=list(NAMES), workers=0)
    ended = vit("classify", images, "-m", towers["clip"], "--classes", ", ".join(NAMES))
    for row, expected in zip(rows, rows_of(ended), strict=True):
        assert isinstance(row, Classified)
        assert {p.label: p.score for p in row.predictions} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "args", "said"),
    [
        ("demo", ("--classes", "cat, dog"), "has a classifier of its own"),
        ("clip", ("--classes", "Cat, cat"), "are the same text for the model"),
        ("clip", ("--classes", "cat", "--tokenizer", "nowhere.json"), "--tokenizer"),
        ("clip", ("--classes", "cat", "--tokenizer", "~nobody-here/x.json"), "--tokenizer"),
    ],
)
def test_mistakes_are_told_in_words(
    model: str, args: tuple[str, ...], said: str, towers: dict[str, Path], images: Path, vit: Vit
) -> None:
    ended = vit("classify", images, "-m", towers.get(model, model), *args)
    assert ended.code != 0
    assert said in ended.err


def test_a_text_that_is_too_long_is_cut_and_told(
    towers: dict[str, Path], images: Path, vit: Vit
) -> None:
    ended = vit("classify", images, "-m", towers["clip"], "--classes", "cat, " + "dog " * 60)
    assert ended.code == 0, ended.err
    assert "1 text is cut to the 24 tokens" in ended.err


def test_the_commands_of_the_pages_label_a_folder(
    towers: dict[str, Path], images: Path, vit: Vit, tmp_path: Path
) -> None:
    (tmp_path / "things.txt").write_text("cat\ncar: red car, car\n", "utf-8")
    images.rename(tmp_path / "photos")
    (tmp_path / "queries.txt").write_text("a red car\na cat\n", "utf-8")
    pattern = r"^vit (classify .*--classes.*|embed .*(?:--pool joint|--texts).*)$"
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    lines = re.findall(pattern, text, re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        name = "siglip2" if "siglip2" in line else "clip"
        args = shlex.split(re.sub(r"-m \S+", f"-m {towers[name]}", line), comments=True)
        ended = vit(*args)
        assert ended.code == 0, ended.err
        for written in tmp_path.glob("feats.*"):
            written.unlink()


@pytest.mark.parametrize("name", ["clip", "mt5", "siglip2"])
def test_convert_keeps_both_towers_and_the_tokenizer(
    name: str, towers: dict[str, Path], images: Path, vit: Vit, tmp_path: Path
) -> None:
    done = vit("convert", towers[name], tmp_path / "out", "--to", "hf", "--verify")
    assert done.code == 0, done.err
    assert "texts: max" in done.out.decode()
    args = ("--classes", ", ".join(NAMES), "--scores", "logit")
    first, again = (
        vit("classify", images, "-m", m, *args) for m in (towers[name], tmp_path / "out")
    )
    assert (again.code, again.out) == (0, first.out)
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "out")
    before = transformers.AutoModel.from_pretrained(towers[name])
    assert type(theirs) is type(before)
    for key, tensor in before.state_dict().items():
        assert torch.equal(theirs.state_dict()[key], tensor), key


@needs("onnx")
def test_an_onnx_file_has_the_classes(towers: dict[str, Path], vit: Vit, tmp_path: Path) -> None:
    args = ("--to", "onnx", "--classes", ", ".join(NAMES), "--verify")
    done = vit("convert", towers["clip"], tmp_path / "cats.onnx", *args)
    assert done.code == 0, done.err
    assert "verified  logits" in done.out.decode()
    refused = vit("convert", towers["clip"], tmp_path / "out", "--to", "hf", "--classes", "cat")
    assert "has no place for classes in words" in refused.err


def test_cosines_lie_behind_the_scores(towers: dict[str, Path], images: Path, vit: Vit) -> None:
    args = ("classify", images, "-m", towers["siglip2"], "--classes", "cat, dog", "--scores")
    cosines, logits = (rows_of(vit(*args, scores)) for scores in ("cosine", "logit"))
    for cosine, logit in zip(cosines, logits, strict=True):
        for label, value in cosine.items():
            assert -1 <= value <= 1
            assert logit[label] == pytest.approx(math.exp(2.5) * value - 1.5, abs=1e-4)


@pytest.mark.parametrize("scores", ["prob", "cosine", "logit"])
def test_evaluate_takes_classes(
    scores: str, towers: dict[str, Path], images: Path, vit: Vit
) -> None:
    truth = ("cat", "dog", "dog")
    for name, file in zip(truth, sorted(images.iterdir()), strict=True):
        (images / name).mkdir(exist_ok=True)
        file.rename(images / name / file.name)
    args = (images, "-m", towers["clip"], "--classes", "cat, dog", "--scores", scores)
    rows = rows_of(vit("classify", *args))
    right = [max(row, key=row.__getitem__) == t for row, t in zip(rows, truth, strict=True)]
    done = vit("evaluate", *args, "--json")
    assert done.code == 0, done.err
    [model] = json.loads(done.out)["models"]
    assert model["top1"] == pytest.approx(sum(right) / 3, abs=1e-6)
    assert (model["ece"] is None) == (scores != "prob")


def test_scores_that_rank_classes_need_one_label_an_image(
    towers: dict[str, Path], images: Path, vit: Vit
) -> None:
    rows = [{"path": f"{n}.png", "labels": ["cat", "dog"][n:]} for n in range(3)]
    table = images / "table.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    args = ("evaluate", table, "-m", towers["siglip2"], "--classes", "cat, dog")
    assert vit(*args).code == 0
    assert "rank the classes of an image" in vit(*args, "--scores", "cosine").err
    twice = vit(*args, "-m", towers["clip"], "--scores", "cosine")
    assert "averaged as probabilities" in twice.err


def test_info_describes_the_text_tower(towers: dict[str, Path], vit: Vit) -> None:
    shown = vit("info", towers["siglip2"]).out.decode()
    assert "text tower    context: 64 tokens of" in shown
    assert "class scores: sigmoid of each label alone: 12.18 x cosine -1.5" in shown
    facts = json.loads(vit("info", towers["clip"], "--json").out)["text"]
    assert facts["tokenizer"].startswith("tokenizer.json of")
    assert facts["class scores"].startswith("softmax")


def test_the_same_weights_with_another_config_have_other_vectors(
    towers: dict[str, Path], images: Path, vit: Vit, tmp_path: Path
) -> None:
    shutil.copytree(towers["clip"], tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["text_config"]["hidden_act"] = "relu"
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    args = ("--classes", "cat, dog", "--scores", "logit")
    one, other = (vit("classify", images, "-m", m, *args) for m in (towers["clip"], "other"))
    assert (one.code, other.code) == (0, 0)
    assert one.out != other.out


@pytest.mark.parametrize("damage", ["none", "database", "blob", "zeros", "folder"])
def test_a_damaged_cache_is_computed_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    ids = [np.arange(8).reshape(2, 4), np.arange(4).reshape(1, 4)]
    calls: list[int] = []

    def encoder() -> Callable[[np.ndarray], torch.Tensor]:
        calls.append(1)
        return lambda some: torch.from_numpy(some[:, :3].astype(np.float32) + 1)

    first = class_vectors(ids, "tower", 3, encoder)  # type: ignore[arg-type]
    assert torch.allclose(first.norm(dim=-1), torch.ones(2))
    file = tmp_path / "cache" / "texts" / "vectors.sqlite"
    if damage in ("blob", "zeros"):
        with contextlib.closing(sqlite3.connect(file)) as base, base:
            base.execute(f"UPDATE vectors SET vector = zeroblob({37 if damage == 'blob' else 12})")
    elif damage != "none":
        file.unlink()
        if damage == "folder":
            file.mkdir()
        else:
            file.write_bytes(b"no database " * 300)
    again = class_vectors(ids, "tower", 3, encoder)  # type: ignore[arg-type]
    assert torch.equal(first, again)
    assert len(calls) == (1 if damage == "none" else 2)


def test_another_tokenizer_is_not_resumed(
    towers: dict[str, Path], images: Path, vit: Vit, tmp_path: Path
) -> None:
    shutil.copytree(towers["clip"], tmp_path / "model")
    args = ("classify", images, "-m", "model", "--classes", "cat, dog", "-o", "rows.jsonl")
    assert vit(*args).code == 0
    assert "already complete" in vit(*args, "--resume").err
    file = tmp_path / "model" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    assert "--tokenizer-files" in vit(*args, "--resume").err


def test_a_siglip_without_pooling_has_no_joint_space(
    towers: dict[str, Path], images: Path, vit: Vit, tmp_path: Path
) -> None:
    shutil.copytree(towers["siglip2"], tmp_path / "bare")
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    config["vision_config"]["vision_use_head"] = False
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    state = load_file(tmp_path / "bare" / "model.safetensors")
    kept = {name: t for name, t in state.items() if not name.startswith("vision_model.head.")}
    save_file(kept, tmp_path / "bare" / "model.safetensors")
    ended = vit("classify", images, "-m", "bare", "--classes", "cat, dog")
    assert "has no joint space" in ended.err
