"""The card of a trained and of a converted model: its metadata, its code, and whose file it is."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.conftest import Vit
from tests.fixtures.digits import make_digits
from tests.fixtures.two_towers import two_towers
from vitcli.checkpoints import catalogue
from vitcli.checkpoints.card import LICENCES, Metadata, Origin, origin_of
from vitcli.checkpoints.load import Model, load
from vitcli.jobs.cards.card import ConversionFacts, card, is_foreign
from vitcli.jobs.cards.code import with_transformers

HEAD = ("-m", "demo", "--train", "head", "--epochs", "2", "-j", "0")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("digits"), train=40, val=20)


def metadata(folder: Path) -> dict[str, Any]:
    """The YAML between the first two lines of dashes."""
    before, block, _ = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    assert before == ""
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def code(folder: Path) -> str:
    found = re.search(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.S | re.M)
    assert found is not None
    return found[1]


def run(folder: Path) -> str:
    """Run the code of a card next to its folder, and return what it prints."""
    printed = io.StringIO()
    with chdir(folder.parent), redirect_stdout(printed):
        Image.new("RGB", (70, 50), (100, 20, 30)).save("photo.jpg")
        exec(compile(code(folder), "<card>", "exec"), {})
    return printed.getvalue().strip()


def test_the_card_of_a_training(vit: Vit, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(digits)
    (tmp_path / "data" / "train" / "0" / "broken.png").write_text("no image")
    assert vit("finetune", "data", "--out", "a b/run", *HEAD).code == 3
    (tmp_path / "data" / "train" / "0" / "broken.png").unlink()
    folder = tmp_path / "a b" / "run"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = next(row for row in reversed(rows) if row["is_best"])
    values = {"library_name": "transformers", "pipeline_tag": "image-classification"}
    values["tags"] = ["vision", "vitcli"]
    metrics = [
        {"type": "accuracy", "name": "accuracy", "value": round(best["val_top1"], 6)},
        {"type": "accuracy", "name": "top-5 accuracy", "value": round(best["val_top5"], 6)},
        {"type": "loss", "name": "loss", "value": round(best["val_loss"], 6)},
    ]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": "data", "type": "imagefolder", "split": "val"},
        "metrics": metrics,
    }
    assert metadata(folder) == {**values, "model-index": [{"name": "run", "results": [result]}]}
    counts = [len(list((digits / split / "3").iterdir())) for split in ("train", "val")]
    text = (folder / "README.md").read_text()
    for line in (
        "# run",
        "A Vision Transformer with 175,050 parameters that classifies images with 10 labels. It was"
        " trained by `vit finetune`, and started from `demo`.",
        "Preprocessing: `exif_turn | rgb | resize(squash 32x32, bilinear) | "
        "normalize(mean=0.5, std=0.5)`",
        "vit classify photos -m run",
        "The labels, by their index in the outputs, and the number of images in train and val:",
        "| index | label | train | val |",
        f"| 3 | 3 | {counts[0]} | {counts[1]} |",
        "40 images of `data` trained the model. 20 images were held out. 1 image could not be read "
        "and did not take part.",
        f"| val | 20 | {best['val_loss']:.4f} | {best['val_top1']:.2%} | {best['val_top5']:.2%} |",
        f"The model is that of epoch {best['epoch']}, the best of 2. The held-out images chose this"
        " epoch, so new images may have slightly worse figures. The figures of train are means over"
        " the epoch, while the model changed.",
        "| trained | the head alone |",
        "| epochs | 2, with a warm-up of 0.1 |",
        "| learning rate | 0.001 |",
        "vit finetune --config run/run.json --out again",
    ):
        assert f"\n{line}\n" in text, line
    assert run(folder) in map(str, range(10))


def test_the_same_training_has_the_same_card(vit: Vit, digits: Path, tmp_path: Path) -> None:
    """Also one that is repeated by its command, and one that is resumed at its end."""
    for out in ("one/run", "two/run"):
        assert vit("finetune", digits, "--out", out, *HEAD).code == 0
    one, two = (tmp_path / name / "run" / "README.md" for name in ("one", "two"))
    first = one.read_bytes()
    assert two.read_bytes() == first
    (tmp_path / "run").symlink_to("one/run")
    again = re.search(r"^vit (finetune --config .*) --out again$", one.read_text(), re.M)
    assert again is not None
    assert vit(*again[1].split(), "--out", "three/run").code == 0
    assert (tmp_path / "three" / "run" / "README.md").read_bytes() == first
    one.unlink()
    assert vit("finetune", digits, "--out", "one/run", *HEAD, "--resume").code == 0
    assert one.read_bytes() == first


def test_a_training_without_held_out_images_or_without_classes(
    vit: Vit, digits: Path, tmp_path: Path
) -> None:
    assert vit("finetune", digits / "train", "-o", "all", *HEAD, "--val-split", "0").code == 0
    assert "model-index" not in metadata(tmp_path / "all")
    text = (tmp_path / "all" / "README.md").read_text()
    assert "No images were held out, so the figures do not show how well it does" in text
    words = ("--objective", "mim", "--epochs", "1", "-j", "0", "--batch-size", "8")
    assert vit("finetune", digits / "train", "-m", "demo", "-o", "mim", *words).code == 0
    found = metadata(tmp_path / "mim")
    assert found["pipeline_tag"] == "image-feature-extraction"
    [metric] = found["model-index"][0]["results"][0]["metrics"]
    assert metric["type"] == "loss"
    text = (tmp_path / "mim" / "README.md").read_text()
    assert "## Labels" not in text and "| split | images | loss |\n" in text
    assert "vit reconstruct photos -m mim -o drawn" in text
    assert "| objective | hidden patches |" in text and "| mask ratio | 0.6 |" in text
    assert run(tmp_path / "mim") == "torch.Size([1, 3, 32, 32])"


NAMES = [
    "a|b",
    "{{ config }}",
    "<b>*bold*</b>",
    "- yes: no #",
    "--- ",
    "’—é鳥",
    "`c`",
]


def test_odd_names_are_only_names(vit: Vit, digits: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "it's: {{x}} | #\n---", tmp_path / "o\"u't` {{y}}: |\n--- a"
    data.mkdir()
    for number, image in enumerate(sorted((digits / "train").glob("*/*"))[: 2 * len(NAMES)]):
        shutil.copy(image, data / f"{number}.png")
    rows = [
        {"path": f"{n}.png", "label": NAMES[n // 2], "split": ("train", "val")[n % 2]}
        for n in range(2 * len(NAMES))
    ]
    (data / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = vit("finetune", data / "labels.jsonl", "--out", out, *HEAD)
    assert done.code == 0, done.err
    found = metadata(out)
    assert found["model-index"][0]["name"] == "o\"u't` {{y}}: |\\n--- a"
    text = (out / "README.md").read_text("utf-8")
    assert "\n# o\"u't\\` \\{\\{y\\}\\}: &#124;\\\\n--- a\n" in text
    for row in (
        "| a&#124;b | 1 | 1 |",
        r"| \{\{ config \}\} | 1 | 1 |",
        r"| &#60;b&#62;\*bold\*&#60;/b&#62; | 1 | 1 |",
        r"| - yes: no \# | 1 | 1 |",
        "| ’—é鳥 | 1 | 1 |",
        r"| \`c\` | 1 | 1 |",
    ):
        assert row in text, row
    assert not is_foreign(out)
    model = load(str(out))
    assert set(model.labels) == {name.strip() for name in NAMES}
    assert run(out) in model.labels


def test_an_edited_card_is_kept_and_another_is_replaced(
    vit: Vit, digits: Path, tmp_path: Path
) -> None:
    words = ("finetune", digits, "--out", "run", *HEAD)
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "README.md"
    file.write_text("# Mine\n")
    done = vit(*words, "--overwrite")
    assert done.code == 0
    assert "run/README.md is kept: vit did not write it, or it was edited" in done.err
    assert file.read_text() == "# Mine\n"
    file.unlink()
    assert "is kept" not in vit(*words, "--overwrite").err
    first = file.read_text()
    done = vit(*words, "--overwrite", "--seed", "1")
    assert done.code == 0 and "is kept" not in done.err
    second = file.read_text()
    assert first != second and "| seed | 1 |" in second
    file.write_text(second.replace("# run", "# Digits"))
    assert "run/README.md is kept" in vit(*words, "--overwrite").err
    assert file.read_text() == second.replace("# run", "# Digits")


def test_the_card_of_a_conversion(vit: Vit, tmp_path: Path) -> None:
    words = ("convert", "demo", "out", "--to", "hf", "--dtype", "fp16")
    assert vit(*words, "--verify").code == 0
    folder = tmp_path / "out"
    assert metadata(folder) == {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["vision", "vitcli"],
    }
    text = (folder / "README.md").read_text()
    assert "It is `demo`, written for transformers in fp16 by `vit convert`.\n" in text
    assert re.search(r"^\| hidden states \| \d\.?\d*(e-\d\d)? \| 0\.01 \|$", text, re.M)
    assert re.search(r"^\| logits \| \d\.?\d*(e-\d\d)? \| 0\.01 \|$", text, re.M)
    assert "| index | label |\n| --- | --- |\n| 0 | 0 |\n" in text
    assert "It was trained" not in text and "## Results" not in text
    assert run(folder) in map(str, range(10))
    done = vit(*words, "--overwrite")
    assert done.code == 0 and "is kept" not in done.err
    assert "## Verification" not in (folder / "README.md").read_text()
    (folder / "README.md").write_text("mine")
    assert "out/README.md is kept" in vit(*words, "--overwrite").err
    assert (folder / "README.md").read_text() == "mine"


def test_a_model_for_timm_is_described_in_timms_words(vit: Vit, tmp_path: Path) -> None:
    assert vit("convert", "demo", "o'ut", "--to", "timm").code == 0
    folder = tmp_path / "o'ut"
    assert metadata(folder)["library_name"] == "timm"
    text = (folder / "README.md").read_text()
    assert "| class in timm | `vit_base_patch16_224` |" in text
    assert """model = timm.create_model("local-dir:o'ut", pretrained=True).eval()""" in text
    assert 'print(model.pretrained_cfg["label_names"][outputs.argmax().item()])' in text
    assert """vit classify photos -m 'o'"'"'ut'""" in text


def test_the_card_of_a_model_with_a_text_tower(vit: Vit, tmp_path: Path) -> None:
    two_towers("siglip2", tmp_path / "two")
    assert vit("convert", "two", "out", "--to", "hf").code == 0
    assert metadata(tmp_path / "out")["pipeline_tag"] == "zero-shot-image-classification"
    text = (tmp_path / "out" / "README.md").read_text()
    assert 'vit classify photos -m out --classes "cat, dog"\n' in text
    assert re.fullmatch(r"tensor\(\[\[.*, .*\]\]\)", run(tmp_path / "out"))


@pytest.mark.parametrize(
    ("kind", "printed"), [("multi", r"\{'.*': 0\.\d+, .*\}"), ("age", r"\[-?\d+\.\d+\]")]
)
def test_the_code_prints_scores_as_the_head_makes_them(
    vit: Vit,
    heads: Callable[[str], Path],
    tmp_path: Path,
    kind: str,
    printed: str,
) -> None:
    source = heads({"age": "number"}.get(kind, kind))
    assert vit("convert", source, "out", "--to", "hf").code == 0
    assert re.fullmatch(printed, run(tmp_path / "out"))


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_card_that_is_no_file_is_kept(vit: Vit, digits: Path, tmp_path: Path, kind: str) -> None:
    assert vit("convert", "demo", "out", "--to", "hf").code == 0
    place = tmp_path / "out" / "README.md"
    place.unlink()
    if kind == "link":
        place.symlink_to("nowhere")
    else:
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    for words in (
        ("convert", "demo", "out", "--to", "hf"),
        ("finetune", digits, "-o", "out", *HEAD),
    ):
        done = vit(*words, "--overwrite")
        assert done.code == 0 and "out/README.md is kept" in done.err, done.err
        assert place.is_symlink() if kind == "link" else (place / "mine.txt").read_text() == "mine"


@pytest.fixture
def demo() -> Model:
    return load("demo")


def test_a_model_of_the_hub_is_named_with_its_licence(demo: Model, tmp_path: Path) -> None:
    hub = replace(demo, spec="google/vit-base-patch16-224@main", revision="abc123")
    origin = origin_of(hub)
    assert (origin.repo, origin.revision) == ("google/vit-base-patch16-224", "abc123")
    assert origin.base_models == ("google/vit-base-patch16-224",)
    assert origin.licence == {"license": "apache-2.0"}
    gated = origin_of(replace(hub, spec="facebook/dinov3-vits16-pretrain-lvd1689m"))
    assert gated.licence == {"license": "other", "license_name": "dinov3"}
    unknown = origin_of(replace(hub, spec="org/name"))
    assert (unknown.base_models, unknown.licence) == (("org/name",), {})
    shutil.copy(Path(demo.files[0]).parent / "config.json", tmp_path)
    labels = ("two\nlines", *[f"n{number}" for number in range(1, 1234)])
    facts = ConversionFacts(dtype="fp32", notes=["a_note\n*"], deltas=[])
    (tmp_path / "README.md").write_bytes(card(replace(hub, labels=labels), tmp_path, "x", facts))
    assert metadata(tmp_path)["base_model"] == "google/vit-base-patch16-224"
    text = (tmp_path / "README.md").read_text()
    assert (
        "It is [google/vit-base-patch16-224](https://huggingface.co/google/vit-base-patch16-224)"
        " of revision `abc123`, written"
    ) in text
    assert "\nThe first 100 of 1,234 labels, by their index in the outputs:\n" in text
    assert "| 0 | two\\\\nlines |" in text and "| 99 | n99 |\n\n## Differences" in text
    assert "\n- a\\_note\\\\n\\*\n" in text


def test_a_model_that_is_trained_from_one_of_the_hub_says_so() -> None:
    origin = Origin("org/name", "org/name", "abc", ("org/name",), {"license": "mit"})
    written = Metadata(
        title="x",
        library="timm",
        pipeline="image-classification",
        origin=origin,
        relation="finetune",
    )
    assert yaml.safe_load(written.yaml()) == {
        "base_model": "org/name",
        "base_model_relation": "finetune",
        "library_name": "timm",
        "license": "mit",
        "pipeline_tag": "image-classification",
        "tags": ["vision", "vitcli"],
    }


def test_every_licence_of_the_catalogue_is_one_of_the_hub_or_has_a_name() -> None:
    names = {entry.licence.lower() for entry in catalogue.entries()}
    assert set(LICENCES) <= names
    assert names - set(LICENCES) == {"dinov3", "fair-noncommercial", "nvidia-open-model"}


def test_a_converted_model_keeps_what_the_card_of_its_source_says(vit: Vit, tmp_path: Path) -> None:
    shutil.copytree(Path(load("demo").files[0]).parent, tmp_path / "src")
    (tmp_path / "src" / "README.md").write_text(
        "---\nlicense: other\nlicense_name: ours\nbase_model: [org/one, org/two, /home/me]\n"
        "datasets: org/data\nlanguage: 3\n---\n# Text\n"
    )
    assert vit("convert", "src", "out", "--to", "hf").code == 0
    found = metadata(tmp_path / "out")
    assert (found["license"], found["license_name"]) == ("other", "ours")
    assert found["base_model"] == ["org/one", "org/two"]
    assert found["datasets"] == ["org/data"]
    assert "base_model_relation" not in found


@pytest.mark.parametrize(
    "text", ["", "---\n- a\n---\n", "---\na: [\n---\n", "---\nlicense: 3\n---\n", "\udcff"]
)
def test_a_card_that_cannot_be_read_says_nothing(demo: Model, tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text, errors="surrogateescape")
    copied = replace(demo, spec=str(tmp_path), files=(tmp_path / "model.safetensors",))
    origin = origin_of(copied)
    assert (origin.base_models, origin.licence, origin.datasets) == ((), {}, ())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"resizer": "floats"}, "# pip install torchvision: the image processor of this model n"),
        ({"resizer": "torch", "crop": "hf-fast"}, "# pip install torchvision: without it, trans"),
        ({}, "import torch\n"),
    ],
)
def test_the_code_names_torchvision_where_transformers_needs_it(
    how: dict[str, Any], said: str
) -> None:
    model = load("demo")
    model = replace(model, preprocess=replace(model.preprocess, **how))
    code = with_transformers(model, "ViTModel", "demo", has_text=False, has_tokenizer=False)
    assert code.startswith(said)
